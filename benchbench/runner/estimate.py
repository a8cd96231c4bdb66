"""Estimate of each cell's cost from the graph alone, before anything is measured.

One child counts every network that was not counted before, with no forward computed; that gives the order, the
estimate, and the memory below which a network is not even started. Counts are kept on disk: a count depends on the
job, on our own code and on torch and MONAI, so all of these are its key; of a network whose class is not the zoo's own
nothing is kept, since nobody knows what its code depends on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.cache import cache_base
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.protocol import get_protocol
from benchbench.core.results import write_whole
from benchbench.core.version import installed
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Cell, Job
from benchbench.runner.result import TimeBreakdown

#: For the first estimate only; corrected by the networks that have run. Eager fp32 on one AVX-512 core
#: reaches 8 to 28 GMAC/s over the zoo, an H100 some thousands.
_MACS_PER_S = {"cpu": 14e9, "cuda": 2e12}
_START_S = 4.0
_COUNT_LIMIT_S = 600.0
_OURS = "benchbench."
_ADD_UP = ("macs", "flops", "moved_bytes")  # over the forwards for one answer
_MOST = 400  # files of counts; some 100 kB each
#: Whose code decides a count.
_COUNTING = ("core", "models", "models/cards", "zoo", "measure", "measure/flops", "training", "runner")

log = logging.getLogger(__name__)


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


def count(cells: Sequence[Cell], spent: TimeBreakdown) -> dict[str, CellCost]:
    """Parameters, MACs, layers and operators of every cell, from one child or from disk; nothing is computed.

    A network that kills the child is passed over, and counting goes on behind it in a new child.
    """
    start = time.monotonic()
    by_job: dict[str, list[Cell]] = {}
    for cell in cells:
        by_job.setdefault(rec.canonical_json(rec.to_json(counted_job(cell))), []).append(cell)
    jobs = {text: json.loads(text) for text in by_job}
    paths = {text: count_path(job) for text, job in jobs.items()}
    costs = {text: _cost(stored) for text, path in paths.items() if (stored := read_count(path))}
    while left := [text for text in jobs if text not in costs]:
        counts = _count_some([jobs[text] for text in left], [paths[text] for text in left])
        costs |= dict(zip(left, counts, strict=False))  # fewer, where a network killed the child
    spent.counting_s += time.monotonic() - start
    return {cell.id: _of_all_forwards(costs[text], cell) for text, group in by_job.items() for cell in group}


def _of_all_forwards(cost: CellCost, cell: Cell) -> CellCost:
    """The count of one forward as that of a cell's, of which there is one for each mirror image."""
    forwards = cell.workload.forwards
    if forwards == 1:
        return cost
    measurements = tuple(
        dataclasses.replace(m, value=m.value * forwards, method=f"{m.method}; {forwards} forwards, of mirror images")
        if m.metric in _ADD_UP and m.value is not None
        else m
        for m in cost.measurements
    )
    return dataclasses.replace(cost, measurements=measurements)


def counted_job(cell: Cell) -> Job:
    """A cell's job with what decides its count alone, so that cells which count alike are counted once."""
    w, job = cell.workload, cell.job
    dtype = "fp32" if w.dtype == "int8" else w.dtype  # the graph is that of the network, whatever runs it
    work = rec.Workload(phase=w.phase, batch=w.batch, spatial=w.spatial, dtype=dtype)
    return Job(model=job.model, workload=work, folder=job.folder, trusted=job.trusted)


def _count_some(jobs: Sequence[Any], paths: Sequence[Path | None]) -> list[CellCost]:
    costs: list[CellCost] = []
    for event in run_worker({"task": "count", "jobs": jobs}, limit_s=_COUNT_LIMIT_S):
        if isinstance(event, WorkerFailure):
            costs.append(CellCost(refused=("failed", f"while it was counted, {event.error}", event.stderr)))
        elif event["event"] == "refused":
            costs.append(CellCost(refused=(event["kind"], event["error"], event.get("traceback"))))
        elif event["event"] == "cost":
            keep_count(paths[len(costs)], {key: event[key] for key in ("measurements", "layers", "operators")})
            costs.append(_cost(event))
    return costs or [CellCost(refused=("failed", "its process ended without a word while it was counted", None))]


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


def count_path(job: Mapping[str, Any], what: str = "cost") -> Path | None:
    """Where the count of a job is, or would be; None for a network that is not the zoo's own.

    Args:
        job: as JSON values.
        what: is asked of it.
    """
    if job["folder"] is not None or not str(job["model"]["arch"]).startswith(_OURS):
        return None
    return _folder() / f"{rec.content_hash([what, job, _code()])}.json"


def read_count(path: Path | None) -> dict[str, Any] | None:
    """What was kept; None for nothing."""
    try:
        count = read_json(path, "the count", StoreError) if path else None
    except StoreError:
        return None
    return count if isinstance(count, dict) else None


def keep_count(path: Path | None, count: Mapping[str, Any]) -> None:
    """Keep a count; a folder that cannot be written costs time alone."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(count, separators=(",", ":")).encode())
        files = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in files[: max(0, len(files) - _MOST)]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.info("counts are not kept: %s", error)


def _folder() -> Path:
    return cache_base() / "counts"


@functools.cache
def _code(root: Path = Path(__file__).parents[1]) -> str:
    """Of all code that decides a count: our files as they lie there, and the versions of torch and MONAI."""
    files = []
    for folder in (root / name for name in _COUNTING):
        for path in folder.iterdir():
            if path.suffix in {".py", ".toml", ".json", ".yaml"}:
                stat = path.stat()
                files.append([str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns])
    return rec.content_hash([sorted(files), *map(installed, ("torch", "monai"))])
