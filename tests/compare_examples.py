"""Two sides to compare: records whose samples have a distribution that the test chooses."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from tests import report_examples as examples

WORKLOAD = rec.Workload(threads=2, protocol="standard")
CASES = tuple(0.70 + 0.01 * (i % 7) for i in range(16))


def runs(
    centre: float, *, seed: int = 0, processes: int = 5, samples: int = 10, between: float = 0.01, within: float = 0.01
) -> list[list[float]]:
    """Samples of several processes: each process has a centre of its own, and noise around it."""
    draw = random.Random(seed)
    centres = [centre * (1 + draw.gauss(0, between)) for _ in range(processes)]
    return [[one * (1 + abs(draw.gauss(0, within))) for _ in range(samples)] for one in centres]


def timed(metric: str, apart: Sequence[Sequence[float]], **more: Any) -> rec.Measurement:
    """A measurement of several processes' samples."""
    values = tuple(v for run in apart for v in run)
    ordered = sorted(values)
    sizes = tuple(map(len, apart)) if len(apart) > 1 else ()
    return examples.number(metric, ordered[len(ordered) // 2], values=values, runs=sizes, **more)


def latency(*medians: float) -> rec.Measurement:
    """One process a number, each with three samples around it."""
    return timed("latency_s", [[m * 0.999, m, m * 1.001] for m in medians])


def dice(cases: Sequence[float] = CASES) -> rec.Measurement:
    return examples.number("dice", sum(cases) / len(cases), values=tuple(cases))


def cell(*found: rec.Measurement, name: str = "slim_unetr", **changes: Any) -> rec.Record:
    """One record; `environment` is laid over the usual one, `workload` replaces single fields."""
    environment = examples.ENVIRONMENT | changes.pop("environment", {})
    workload = dataclasses.replace(WORKLOAD, **changes.pop("workload", {}))
    return examples.record(name, measurements=found, environment=environment, workload=workload, **changes)


def failed(name: str = "slim_unetr", status: rec.Status = "oom", **changes: Any) -> rec.Record:
    return cell(name=name, status=status, error="killed by the system at 15.2 GB of 16 GB", **changes)


def run(seed: int, *, factor: float = 1.0, worse: float = 0.0) -> list[rec.Record]:
    """A folder as `standard` leaves it: four networks, one slower by `factor`, its Dice lower by `worse`."""
    draw = random.Random(seed)
    centres = {"slim_unetr": 0.171, "unet": 0.62, "segresnet": 1.9, "unetr": 4.61}
    records = []
    for i, (name, centre) in enumerate(centres.items()):
        slowed = centre * (factor if name == "slim_unetr" else 1.0)
        found = [timed("latency_s", runs(slowed, seed=seed * 100 + i))]
        peaks = tuple(round(centre * 5e8 * (1 + draw.gauss(0, 0.002))) for _ in range(5))
        found.append(examples.number("peak_memory_bytes", sorted(peaks)[2], values=peaks))
        if name == "slim_unetr":
            found.append(dice([c - worse + draw.gauss(0, 0.002) for c in CASES]))
            found.append(examples.number("noise_ratio", 1.008))
        records.append(cell(*found, name=name, started_at=f"2026-11-2{seed % 9}T04:00:00Z"))
    return records


def folders(root: Path, before: Sequence[rec.Record], after: Sequence[rec.Record]) -> tuple[Path, Path]:
    return examples.write(root / "a", list(before)), examples.write(root / "b", list(after))
