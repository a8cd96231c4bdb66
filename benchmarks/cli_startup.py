"""What `bench --help` costs, as a multiple of an empty interpreter: `python benchmarks/cli_startup.py`.

Rounds are interleaved, so that a busy moment strikes both. The bound is 6; the exit code is 1 above it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

BOUND = 6.0
ROUNDS = 30


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    script = Path(sysconfig.get_path("scripts")) / "bench"
    bench = [str(script), "--help"] if script.exists() else [sys.executable, "-m", "benchbench", "--help"]
    empty = [sys.executable, "-c", "pass"]
    seconds(bench), seconds(empty)  # fill the file cache
    pairs = [(seconds(empty), seconds(bench)) for _ in range(ROUNDS)]
    base, help_ = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = help_ / base
    print(f"{' '.join(empty[1:])}: {base * 1e3:.1f} ms   bench --help: {help_ * 1e3:.1f} ms   (medians of {ROUNDS})")
    print(f"ratio {ratio:.1f}, bound {BOUND:g}")
    return 0 if ratio <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
