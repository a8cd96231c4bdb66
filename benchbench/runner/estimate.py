"""Estimate of each cell's cost from the graph alone, before anything is measured.

One child counts every network that was not counted before, with no forward computed; that gives the order, the
estimate, and the memory below which a network is not even started.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.protocol import get_protocol
from benchbench.runner import cell_cost
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Cell, Job

#: For the first estimate only; corrected by the networks that have run. Eager fp32 on one AVX-512 core
#: reaches 8 to 28 GMAC/s over the zoo, an H100 some thousands.
_MACS_PER_S = {"cpu": 14e9, "cuda": 2e12}
_START_S = 4.0
_PLAN_LIMIT_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellCost:
    """What the counting child found of one cell."""

    measurements: tuple[rec.Measurement, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    operators: tuple[rec.OperatorCost, ...] = ()
    refused: tuple[str, str, str | None] | None = None  # kind, error, traceback

    def value(self, metric: str) -> float:
        """The value of an analytic metric, 0 where there is none."""
        return next((m.value for m in self.measurements if m.metric == metric and m.value is not None), 0)


@dataclasses.dataclass(slots=True, kw_only=True)
class TimeBreakdown:
    """Where a run's time went, in seconds."""

    total_s: float = 0.0
    counting_s: float = 0.0
    start_s: float = 0.0  # children's start-up: imports, building, loading
    forward_s: float = 0.0  # warm-up and timed
    accuracy_s: float = 0.0

    @property
    def share(self) -> float:
        """The part of the run that was inside forwards, Dice, or the networks' own start-up."""
        return (self.start_s + self.forward_s + self.accuracy_s) / self.total_s if self.total_s else 0.0


def count(cells: Sequence[Cell], spent: TimeBreakdown) -> dict[str, CellCost]:
    """Parameters, MACs, layers and operators of every cell, from one child or from disk; nothing is computed.

    A network that kills the child is passed over, and counting goes on behind it in a new child.
    """
    start = time.monotonic()
    by_job: dict[str, list[Cell]] = {}
    for cell in cells:
        by_job.setdefault(rec.canonical_json(rec.to_json(counted_job(cell))), []).append(cell)
    jobs = {text: json.loads(text) for text in by_job}
    paths = {text: cell_cost.path_of(job) for text, job in jobs.items()}
    found = {text: _cost(kept) for text, path in paths.items() if (kept := cell_cost.get(path))}
    while left := [text for text in jobs if text not in found]:
        counts = _count_some([jobs[text] for text in left], [paths[text] for text in left])
        found |= dict(zip(left, counts, strict=False))  # fewer, where a network killed the child
    spent.counting_s += time.monotonic() - start
    return {cell.id: found[text] for text, group in by_job.items() for cell in group}


def counted_job(cell: Cell) -> Job:
    """A cell's job with what decides its count alone, so that cells which count alike are counted once."""
    w, job = cell.workload, cell.job
    work = rec.Workload(phase=w.phase, batch=w.batch, spatial=w.spatial, dtype=w.dtype)
    return Job(model=job.model, workload=work, folder=job.folder, trusted=job.trusted)


def _count_some(jobs: Sequence[Any], paths: Sequence[Path | None]) -> list[CellCost]:
    found: list[CellCost] = []
    for event in run_worker({"task": "plan", "jobs": jobs}, limit_s=_PLAN_LIMIT_S):
        if isinstance(event, WorkerFailure):
            found.append(CellCost(refused=("failed", f"while it was counted, {event.error}", event.stderr)))
        elif event["event"] == "refused":
            found.append(CellCost(refused=(event["kind"], event["error"], event.get("traceback"))))
        elif event["event"] == "cost":
            cell_cost.keep(paths[len(found)], {key: event[key] for key in ("measurements", "layers", "operators")})
            found.append(_cost(event))
    return found or [CellCost(refused=("failed", "its process ended without a word while it was counted", None))]


def _cost(event: Mapping[str, Any]) -> CellCost:
    return CellCost(
        measurements=tuple(rec.from_json(rec.Measurement, m) for m in event["measurements"]),
        layers=tuple(event["layers"]),
        operators=tuple(rec.from_json(rec.OperatorCost, o) for o in event["operators"]),
    )


def forward_guess_s(cell: Cell, cost: CellCost) -> float:
    """A first guess of the seconds of one forward, from its MACs alone."""
    if cell.target.backend is None:
        return 0.0
    rate = _MACS_PER_S[cell.target.backend] * (cell.workload.threads or 1)
    steps = 3.0 if cell.workload.phase == "train" else 1.0  # a backward is about two forwards
    return max(steps * cost.value("macs") / rate, 1e-3)


def estimate_s(cell: Cell, cost: CellCost, protocol: str) -> float:
    """A first guess of the seconds that a cell will take."""
    if cell.target.backend is None:
        return 0.1
    forward = forward_guess_s(cell, cost)
    p = get_protocol(protocol)
    slow = p.is_slow(forward)
    forwards = max(p.warmup_s if slow else 6 * forward, forward)
    forwards += p.samples_of_slow(forward) * forward if slow else max(p.min_samples * forward, p.timed_s / 2)
    cases = 0
    if cell.job.checkpoint_path and cell.job.data_where:
        cases = data.get_plan(cell.job.data_where).splits[cell.workload.split or "test"]
    return p.processes * (_START_S + forwards) + cases * (forward + 1.0)
