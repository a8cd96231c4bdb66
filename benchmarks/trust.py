"""Whether the numbers can be trusted: what the harness costs, A against A, and a slowdown of 5 %.

    python benchmarks/trust.py harness              the four named networks at 128^3 by `standard`
    python benchmarks/trust.py pairs [N] [FOLDER]   N runs of one network by `standard`, each compared with the next

`harness` divides the wall time of a run by its forwards and its processes' start-ups; the bound is 1.3.
`pairs` compares each run with the next one of the same network: 95 % of the verdicts should be `same` and the
median difference at most 2 %. Then every second side is slowed down by 5 % (its samples are multiplied by
1.05) and compared again: 80 % of these should be called `slower`. A folder keeps the runs, so that the same
command goes on where it was ended. The exit code is 1 where a bound is missed.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench.cli.progress import TerminalProgress  # noqa: E402
from benchbench.core import records as rec  # noqa: E402
from benchbench.core.units import format_duration  # noqa: E402
from benchbench.report.compare.compare import compare  # noqa: E402
from benchbench.report.compare.verdicts import ComparedRow, get_metric  # noqa: E402
from benchbench.runner import run as runner_run  # noqa: E402
from benchbench.runner.request import RunRequest  # noqa: E402
from benchbench.runner.result import RunResult  # noqa: E402

FOUR = "slim_unetr,unetr,swin_unetr,nnunet"
NETWORK = "slim_unetr"  # its forward takes 0.2 s at 128^3 on two cores
SLOWER = 1.05
HARNESS_BOUND, SAME_BOUND, DIFFERENCE_BOUND, POWER_BOUND = 1.3, 0.95, 0.02, 0.80


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


def slowed(record: rec.Record, factor: float) -> rec.Record:
    """The record with every sample of its latency multiplied."""

    def scale(m: rec.Measurement) -> rec.Measurement:
        if m.metric != "latency_s" or m.value is None:
            return m
        interval = None if m.ci95 is None else (m.ci95[0] * factor, m.ci95[1] * factor)
        return dataclasses.replace(m, value=m.value * factor, values=tuple(v * factor for v in m.values), ci95=interval)

    return dataclasses.replace(record, measurements=tuple(map(scale, record.measurements)))


def judge(before: rec.Record, after: rec.Record) -> ComparedRow:
    (row,) = compare([before], [after], metrics=[get_metric("latency")]).rows
    return row


def tell(title: str, rows: Sequence[ComparedRow]) -> None:
    counts = Counter(row.verdict for row in rows)
    print(f"  {title}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))


def pairs(count: int, folder: Path) -> int:
    records = []
    for number in range(count + 1):
        (record,) = measure(NETWORK, folder / f"{number:03d}", noise=False).records
        value = record.value("latency_s")
        print(f"  {number:3d} {record.status} {value}", file=sys.stderr, flush=True)
        if record.get("latency_s") and value:
            records.append(record)
    neighbours = list(itertools.pairwise(records))
    same = [judge(a, b) for a, b in neighbours]
    slow = [judge(a, slowed(b, SLOWER)) for a, b in neighbours]
    differences = [abs(row.evidence.effect - 1) for row in same]
    medians = [record.value("latency_s") or 0.0 for record in records]
    share_same = sum(row.verdict == "same" for row in same) / len(same)
    share_slower = sum(row.verdict == "slower" for row in slow) / len(slow)
    difference = statistics.median(differences)
    print(f"{NETWORK} at 128^3, standard, {len(records)} runs, {len(same)} pairs of neighbours")
    print(f"  medians of the runs: {min(medians) * 1e3:.0f} to {max(medians) * 1e3:.0f} ms")
    tell("A against A", same)
    print(f"  {share_same:.0%} same (bound {SAME_BOUND:.0%}); median difference {difference:.2%}", end=" ")
    print(f"(bound {DIFFERENCE_BOUND:.0%}), largest {max(differences):.1%}")
    tell(f"slowed by {SLOWER - 1:.0%}", slow)
    print(f"  {share_slower:.0%} called slower (bound {POWER_BOUND:.0%})")
    return 0 if share_same >= SAME_BOUND and difference <= DIFFERENCE_BOUND and share_slower >= POWER_BOUND else 1


def main() -> int:
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "harness":
        return harness()
    if what == "pairs":
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 40
        if len(sys.argv) > 3:
            return pairs(count, Path(sys.argv[3]))
        with tempfile.TemporaryDirectory() as name:
            return pairs(count, Path(name))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
