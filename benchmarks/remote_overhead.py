"""What measuring over ssh costs: the same network here and over a loopback sshd, round by round.

`python benchmarks/remote_overhead.py [ROUNDS]` starts an sshd of its own (Debian: openssh-server). The ratio of
the median latencies says whether the connection disturbs what is timed: bound 2 %, and this machine's own
spread between the two halves of the local rounds stands beside it. The seconds that a whole run takes longer,
transfers apart, have the bound 3. The exit code is 1 above either.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench.cli.progress import TerminalProgress  # noqa: E402
from benchbench.devices.hosts import add_host  # noqa: E402
from benchbench.runner import run as runner_run  # noqa: E402
from benchbench.runner.request import RunRequest  # noqa: E402
from tests.loopback import Loopback  # noqa: E402

RATIO_BOUND, SECONDS_BOUND = 0.02, 3.0
MODEL, SIDES = "unet_small", (48, 48, 48)


def once(device: str, folder: Path) -> tuple[float, float]:
    """(median latency, seconds of the whole run without transfers and without its measuring processes).

    How many forwards a process times depends on how they scatter, so its seconds are not the connection's.
    """
    request = RunRequest(models=MODEL, devices=(device,), spatial=SIDES, threads=(1,), data="none", noise=False)
    start = time.perf_counter()
    outcome = runner_run.run(request, folder, progress=TerminalProgress(sys.stderr, shown=False))
    wall = time.perf_counter() - start
    (record,) = outcome.records
    latency = record.value("latency_s")
    if latency is None:
        raise SystemExit(f"{device}: {record.status}: {record.error}")
    measured = sum(spent.transfer_s + spent.measured_s for spent in outcome.hosts or [outcome.spent])
    return latency, wall - measured


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(a) / statistics.median(b) - 1


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    found: dict[str, list[tuple[float, float]]] = {"cpu": [], "board": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sshd").mkdir()
        server = Loopback(folder / "sshd")
        os.environ |= {"PATH": f"{server.bin}:{os.environ['PATH']}", "BENCHBENCH_CONFIG": str(folder / "hosts.toml")}
        add_host(server.host("board"))
        try:
            for number in range(rounds):
                for device in ("cpu", "board") if number % 2 else ("board", "cpu"):
                    found[device].append(once(device, folder / f"{device}-{number}"))
        finally:
            server.close()
    near, far = ([latency for latency, _ in found[device]] for device in ("cpu", "board"))
    extra = [there - here for (_, here), (_, there) in zip(found["cpu"], found["board"], strict=True)]
    off, floor = ratio(far, near), ratio(near[::2], near[1::2]) if rounds > 1 else 0.0
    print(f"{MODEL} {'x'.join(map(str, SIDES))}, one thread, {rounds} rounds, order alternating")
    print(f"latency here  {statistics.median(near) * 1e3:.1f} ms ({min(near) * 1e3:.1f} to {max(near) * 1e3:.1f})")
    print(f"latency there {statistics.median(far) * 1e3:.1f} ms ({min(far) * 1e3:.1f} to {max(far) * 1e3:.1f})")
    print(f"there / here - 1: {off:+.2%}, bound {RATIO_BOUND:.0%} (here against here: {floor:+.2%})")
    seconds = statistics.median(extra)
    print(f"a run takes {seconds:+.2f} s longer ({min(extra):+.2f} to {max(extra):+.2f}), bound {SECONDS_BOUND:g} s")
    return 0 if abs(off) <= RATIO_BOUND and seconds <= SECONDS_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
