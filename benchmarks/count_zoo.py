"""Seconds in which a fresh process counts parameters and MACs of the whole zoo at 1x4x128^3.

    python benchmarks/count_zoo.py [REPEATS]

No forward is computed, no activation allocated, and no weight where a constructor allows it: the peak
of resident memory is printed too. Start-up (importing PyTorch and MONAI) is in the total.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

SCRIPT = """
import json, time
start = time.perf_counter()
import benchbench
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.memory import peak_bytes
from benchbench.measure.flops.meta_device import build_without_memory
found = {}
for name in benchbench.list_models():
    began = time.perf_counter()
    module, _ = build_without_memory(lambda: benchbench.build_model(name))
    cost = measure_cost(module, (1, 4, 128, 128, 128))
    found[name] = (cost.params, cost.macs, time.perf_counter() - began)
print(json.dumps([time.perf_counter() - start, peak_bytes(), found]))
"""


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    runs = []
    for _ in range(repeats):
        out = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
        runs.append(json.loads(out))
    for name, (params, macs, _) in runs[0][2].items():
        seconds = statistics.median(run[2][name][2] for run in runs)
        print(f"{name:16} {params:>12,} parameters {macs:>18,} MACs  {seconds:5.2f} s with building")
    total = statistics.median(run[0] for run in runs)
    peak = max(run[1] for run in runs)
    print(f"the whole zoo in {total:.1f} s (median of {repeats}), peak {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
