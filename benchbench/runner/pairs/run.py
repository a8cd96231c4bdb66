"""`bench compare --measure`: two sides to the record of a paired comparison, on disk whatever ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.paired_result import PairedResult, Spent, write_pairs
from benchbench.measure.latency import timing
from benchbench.runner import aggregate
from benchbench.runner.pairs.measure import PairMeasurement, PairTimes, Progress, samples
from benchbench.runner.pairs.order import Role
from benchbench.runner.pairs.plan import PairPlan, PairSide
from benchbench.runner.pairs.process import PairProcess

_OF_SIDES: tuple[tuple[Role, ...], ...] = (("a", "control"), ("b",))


def measure_pairs(plans: Sequence[PairPlan], file: Path, *, progress: Progress | None = None) -> list[PairedResult]:
    """Measure comparisons one after the other.

    Each is on disk before the next begins. Ctrl-C ends the one that runs with what there is, and leaves the others out:
    the last result is `interrupted` then.

    Args:
        plans: of the comparisons.
        file: record to write.
        progress: hears how far they are.

    Raises:
        StoreError: the file cannot be written.
    """
    results: list[PairedResult] = []
    for number, plan in enumerate(plans):
        tell = progress and _share(progress, number, len(plans))
        result = measure_pair(plan, progress=tell)
        results.append(result)
        keep(file, results)
        if result.interrupted:
            break
    return results


def keep(file: Path, results: Sequence[PairedResult]) -> None:
    """Write the record.

    Raises:
        StoreError: it cannot be written.
    """
    with os_error_as(StoreError, f"cannot write {file}", "choose another --out"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_pairs(file, results)


def _share(progress: Progress, number: int, count: int) -> Progress:
    def tell(used: float, text: str) -> None:
        progress((number + used) / count, text)

    return tell


def measure_pair(plan: PairPlan, *, progress: Progress | None = None) -> PairedResult:
    """Measure one comparison on this machine; a side that fails is in the result."""
    started_at = rec.utc_now()
    a, b = plan.sides

    def start(role: Role, first: bool) -> PairProcess:
        side = b if role == "b" else a
        job = dataclasses.replace(side.cell.job, first=first and role != "control")
        return PairProcess(role, job, side.python)

    times = PairMeasurement(plan.settings, start, tell=progress).run()
    return PairedResult(
        labels=plan.labels,
        a=_record(a, 0, times, started_at),
        b=_record(b, 1, times, started_at),
        mode=plan.settings.mode,
        margin=plan.settings.margin,
        time_limit_s=plan.settings.time_limit_s,
        sets=tuple(times.sets),
        asked_differences=plan.asked,
        condition_differences=plan.conditions,
        repeated=tuple(times.repeated),
        error=times.error,
        interrupted=times.interrupted,
        spent=Spent(
            total_s=round(times.total_s, 3), forward_s=round(times.forward_s, 3), start_s=round(times.start_s, 3)
        ),
        cell=plan.cell,
    )


def _record(side: PairSide, place: int, times: PairTimes, started_at: str) -> rec.Record:
    """What was measured of a side, as a run would record it; every process of A is one of A's."""
    cell, roles = side.cell, _OF_SIDES[place]
    processes: list[list[rec.Measurement]] = []
    for role in roles:
        beside = times.measurements[role]
        for number, run in enumerate(samples(times, role)):
            found = beside[number] if number < len(beside) else []
            processes.append([*timing([run], batch=cell.workload.batch), *found])
    failure = times.failure if times.failure and times.failure.role in roles else None
    return rec.Record(
        model=cell.model,
        workload=cell.workload,
        device=cell.target.device,
        environment=side.environment,
        status=failure.status if failure else "ok" if processes else "not_run",
        error=failure.error if failure else None if processes else "the other side failed before it was measured",
        traceback=failure.traceback if failure else None,
        started_at=started_at,
        duration_s=round(times.total_s, 3),
        measurements=tuple(aggregate.merge(processes, batch=cell.workload.batch)) if processes else (),
        recipe=cell.card.compression,
    )
