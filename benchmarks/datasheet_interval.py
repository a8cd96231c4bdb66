"""How far above its roof a 3D network really is: the factor of the data-sheet forecast's interval.

    python benchmarks/datasheet_interval.py

Traces the network of each row of benchbench/devices/published_latency.csv (nothing is computed) and
divides the published latency by the roof.
"""

from __future__ import annotations

import csv
from pathlib import Path

import benchbench
from benchbench.devices.forecast import INTERVAL_FACTOR, roof_seconds
from benchbench.measure.flops.graph import measure_cost

TABLE = Path(benchbench.__file__).parent / "devices" / "published_latency.csv"


def ratios() -> list[tuple[str, float, float]]:
    """(row, roof in ms, published latency over roof)."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = []
    for row in csv.DictReader(lines):
        spatial = tuple(int(side) for side in row["spatial"].split("x"))
        batch = int(row["batch"])
        model = benchbench.build_model(row["card"], in_channels=int(row["channels"]), spatial=spatial)
        cost = measure_cost(model, (batch, int(row["channels"]), *spatial), row["precision"])
        roof = roof_seconds(cost.operators, float(row["peak_flops"]), float(row["bandwidth_bytes_per_s"])) * 1e3
        found.append((f"{row['net']} {row['device']} batch {batch}", roof, float(row["latency_ms"]) / roof))
    return found


if __name__ == "__main__":
    table = ratios()
    for name, roof, ratio in table:
        print(f"{name:24} roof {roof:6.2f} ms   published / roof {ratio:5.2f}")
    print(f"worst {max(ratio for _, _, ratio in table):.2f}; the forecast uses {INTERVAL_FACTOR:g}")
