"""Whether the numbers can be trusted: what the harness costs, and how often paired comparisons are right.

    python benchmarks/trust.py harness                      the four named networks at 128^3 by `standard`
    python benchmarks/trust.py pairs FOLDER [--small N]     paired comparisons of Slim UNETR with itself, and slowed
    python benchmarks/trust.py pairs FOLDER --load          the same beside one busy process on each core
    python benchmarks/trust.py pairs FOLDER --kind K        one of these kinds, such as slower-5
    python benchmarks/trust.py pairs FOLDER --priority P    normal: the processes share the cores with other programs
    python benchmarks/trust.py placement [--sets N]         how much two processes of one network differ

`harness` divides the wall time of a run by its forwards and its processes' start-ups; the bound is 1.3.

`pairs` makes 40 comparisons of Slim UNETR with itself at 64^3 (60 s each) and 20 at 128^3 (120 s), 40 at 64^3 with a B
that is slowed by 5 % and 20 by 3 %; with `--load` only the first 40. B is slowed by multiplying its times, wall and
CPU, as they come from its processes, so that when to stop is decided by them. Each comparison has a file in the folder,
and the same command goes on where it was ended; what is there is counted at the end. `--small N` makes N of each kind
at 32^3 to see that it works. The exit code is 1 where a bound is missed.

`placement` runs fresh pairs of processes of Slim UNETR at 64^3 by turns, with weights that stay where they are in
memory and with weights that are moved after every forward: by how much the median ratio of a pair of processes differs
from pair to pair, beside what the noise of their forwards explains.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench.cli.progress import TerminalProgress  # noqa: E402
from benchbench.core.paired_intervals import median_error  # noqa: E402
from benchbench.core.paired_result import PairedResult, read_pairs  # noqa: E402
from benchbench.core.units import format_duration  # noqa: E402
from benchbench.runner import run as runner_run  # noqa: E402
from benchbench.runner.pairs.here import measure_pair  # noqa: E402
from benchbench.runner.pairs.plan import plan_pair  # noqa: E402
from benchbench.runner.pairs.process import PairProcess  # noqa: E402
from benchbench.runner.pairs.request import PairRequest  # noqa: E402
from benchbench.runner.pairs.run import keep  # noqa: E402
from benchbench.runner.request import RunRequest  # noqa: E402
from benchbench.runner.result import RunResult  # noqa: E402

FOUR = "slim_unetr,unetr,swin_unetr,nnunet"
NETWORK = "slim_unetr"
HARNESS_BOUND = 1.3
Priority = Literal["high", "normal"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Comparisons of one kind, and what is promised of them."""

    name: str
    count: int
    side: int  # voxels
    time_limit_s: float
    slower: float = 1.0  # of B
    verdict: str = "same"
    share: float = 0.95  # of the comparisons at least that are to be called so
    wrong: tuple[str, ...] = ("faster", "slower")


KINDS = (
    Kind(name="itself-64", count=40, side=64, time_limit_s=60.0),
    Kind(name="itself-128", count=20, side=128, time_limit_s=120.0),
    Kind(
        name="slower-5",
        count=40,
        side=64,
        time_limit_s=60.0,
        slower=1.05,
        verdict="slower",
        share=0.9,
        wrong=("faster",),
    ),
    Kind(
        name="slower-3",
        count=20,
        side=64,
        time_limit_s=60.0,
        slower=1.03,
        verdict="slower",
        share=0.6,
        wrong=("faster",),
    ),
)
LOADED = (Kind(name="itself-64-loaded", count=40, side=64, time_limit_s=60.0, share=0.9),)


def measure(models: str, folder: Path, *, noise: bool) -> RunResult:
    request = RunRequest(models=models, protocol="standard", data="none", noise=noise)
    with TerminalProgress(sys.stderr, shown=False) as progress:
        return runner_run.run(request, folder, progress=progress)


def harness() -> int:
    with tempfile.TemporaryDirectory() as name:
        spent = measure(FOUR, Path(name) / "run", noise=True).spent
    work = spent.forward_s + spent.start_s
    factor = spent.total_s / work
    print(f"{FOUR}, standard: {format_duration(spent.total_s)} in all,")
    print(f"  {format_duration(spent.forward_s)} forwards, {format_duration(spent.start_s)} start-ups of processes")
    print(f"  wall time / (forwards + start-ups): {factor:.2f} (bound {HARNESS_BOUND})")
    return 0 if factor <= HARNESS_BOUND else 1


class Slowed:
    """A process of B whose times are multiplied before anything judges them."""

    def __init__(self, factor: float) -> None:
        self.factor, self._end_forward = factor, PairProcess.end_forward

    def __enter__(self) -> None:
        factor, original = self.factor, self._end_forward

        def end_forward(process: PairProcess) -> tuple[float, float | None]:
            wall_s, cpu_s = original(process)
            times = factor if process.role == "b" else 1.0
            return wall_s * times, cpu_s and cpu_s * times

        PairProcess.end_forward = end_forward

    def __exit__(self, *_: object) -> None:
        PairProcess.end_forward = self._end_forward


def _busy(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


@contextlib.contextmanager
def load(*, wanted: bool) -> Iterator[None]:
    """One busy process on each core that may be used, if it is wanted."""
    cores = os.sched_getaffinity(0) if wanted else set()
    foreign = [multiprocessing.Process(target=_busy, args=(core,), daemon=True) for core in cores]
    for process in foreign:
        process.start()
    try:
        yield
    finally:
        for process in foreign:
            process.kill()


def compared(kind: Kind, number: int, folder: Path, priority: Priority) -> PairedResult:
    """One comparison, or the one that was made before."""
    name = kind.name if priority == "high" else f"{kind.name}-{priority}"
    file = folder / f"{name}-{number:02d}.json"
    if file.exists():
        return read_pairs(file)[0]
    request = PairRequest(spatial=(kind.side,) * 3, time_limit_s=kind.time_limit_s, priority=priority)
    plan = plan_pair((NETWORK, NETWORK), request)
    with Slowed(kind.slower):
        result = measure_pair(plan)
    if result.interrupted:
        raise KeyboardInterrupt
    keep(file, [result])
    found = result.judgement
    if found:
        print(
            f"  {kind.name} {number:2d}: {result.verdict:9} {found.wall.ratio - 1:+.2%} ({found.wall.low - 1:+.2%} to "
            f"{found.wall.high - 1:+.2%}), A / A {found.control.ratio - 1:+.2%}, {len(result.sets)} sets, "
            f"{result.spent.total_s:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return result


def told(kind: Kind, results: list[PairedResult]) -> bool:
    """Print what came of a kind; whether it is as promised."""
    counts = Counter(result.verdict for result in results)
    share = counts[kind.verdict] / len(results)
    wrong = sum(counts[word] for word in kind.wrong)
    ratios = [abs(r.judgement.wall.ratio / kind.slower - 1) for r in results if r.judgement]
    spent = [result.spent for result in results]
    cost = sum(s.total_s for s in spent) / sum(s.forward_s + s.start_s for s in spent)
    print(f"{kind.name}: {len(results)} comparisons of {NETWORK} at {kind.side}^3, B {kind.slower:g} times as slow")
    print("  " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    print(f"  {share:.0%} called {kind.verdict} (bound {kind.share:.0%}), {wrong} wrong (bound 0)")
    off = sorted(ratios)
    print(f"  ratio off by {off[len(off) // 2]:.2%} at the median, {off[-1]:.2%} at most") if off else None
    longest = max(s.total_s for s in spent)
    print(f"  longest {format_duration(longest)}; time / (forwards + starts): {cost:.2f} (bound {HARNESS_BOUND})")
    return share >= kind.share and not wrong and cost <= HARNESS_BOUND


def pairs(folder: Path, *, small: int | None, loaded: bool, only: str | None, priority: Priority) -> int:
    kinds = tuple(kind for kind in (LOADED if loaded else KINDS) if only in (None, kind.name))
    if not kinds:
        raise SystemExit(f"no kind is called {only}: " + ", ".join(kind.name for kind in (LOADED if loaded else KINDS)))
    if small:
        kinds = tuple(
            dataclasses.replace(kind, name=f"small-{kind.name}", count=small, side=32, time_limit_s=60.0)
            for kind in kinds
        )
    folder.mkdir(parents=True, exist_ok=True)
    good = []
    with load(wanted=loaded):
        for kind in kinds:
            good.append(told(kind, [compared(kind, number, folder, priority) for number in range(kind.count)]))
    return 0 if all(good) else 1


def placement(sets: int) -> int:
    job = plan_pair((NETWORK, NETWORK), PairRequest(spatial=(64, 64, 64))).sides[0].cell.job
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(2 * sets):
        move = number % 2 == 1
        with contextlib.ExitStack() as stack:
            one, other = (PairProcess(role, job) for role in ("a", "b"))
            for process in (one, other):
                stack.callback(process.close)
                process.build()
            for process in (one, other):
                process.wait("built")
                process.warm(0.5)
            logs = []
            for block in range(40):
                order = (one, other, other, one) if block % 2 else (other, one, one, other)
                took = [process.forward(move=move)[0] for process in order]
                sign = 1 if block % 2 else -1
                logs += [sign * math.log(took[1] / took[0]), sign * math.log(took[2] / took[3])]
        found[move].append((statistics.median(logs), median_error(logs, len(logs))))
    for move, seen in found.items():
        spread, noise = statistics.stdev(m for m, _ in seen), math.sqrt(statistics.fmean(e**2 for _, e in seen))
        most = max(abs(m) for m, _ in seen)
        where = "weights moved after every forward" if move else "weights that stay where they are"
        print(f"{where}: ratios of {len(seen)} pairs of processes differ by {spread:.1%} (standard deviation),")
        print(f"  {most:.1%} at most; noise of their forwards explains {noise:.1%}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("harness")
    sub = what.add_parser("pairs")
    sub.add_argument("folder", type=Path, metavar="FOLDER")
    sub.add_argument("--small", type=int, metavar="N")
    sub.add_argument("--load", action="store_true")
    sub.add_argument("--kind", metavar="K")
    sub.add_argument("--priority", choices=("high", "normal"), default="high")
    sub = what.add_parser("placement")
    sub.add_argument("--sets", type=int, default=20, metavar="N")
    options = parser.parse_args()
    if options.what == "harness":
        return harness()
    if options.what == "placement":
        return placement(options.sets)
    return pairs(options.folder, small=options.small, loaded=options.load, only=options.kind, priority=options.priority)


if __name__ == "__main__":
    sys.exit(main())
