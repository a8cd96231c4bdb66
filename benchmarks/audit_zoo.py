"""Seconds and peak memory of `bench audit --models all`: every counter on every network at its card's size.

    python benchmarks/audit_zoo.py [REPEATS]

No forward is computed and, where a constructor allows it, no weight is allocated. The time is that of
the whole command in a fresh process; the peak is that of its largest process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds, found = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchbench", "audit", "--models", "all", "--format", "json"],
            capture_output=True,
            text=True,
        )
        seconds.append(time.perf_counter() - start)
        found = json.loads(done.stdout)
    missing = [one["model"] for one in found if "counters" not in one or one["counters"][0]["macs"] is None]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{len(found)} networks x 5 counters in {statistics.median(seconds):.1f} s (median of {repeats})")
    print(f"peak of the largest process {peak / 1e9:.2f} GB; without a headline: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
