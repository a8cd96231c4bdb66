"""Comparison measured on this machine, and its record: what was measured of each side, as a run would record it."""

from __future__ import annotations

import dataclasses

from benchbench.core import records as rec
from benchbench.core.paired_result import PairedResult
from benchbench.measure.latency import timing
from benchbench.runner import aggregate
from benchbench.runner.pairs.measure import Keep, PairMeasurement, PairTimes, Progress, samples
from benchbench.runner.pairs.order import Role
from benchbench.runner.pairs.plan import PairPlan, PairSide
from benchbench.runner.pairs.process import PairProcess

_OF_SIDES: tuple[tuple[Role, ...], ...] = (("a", "control"), ("b",))


def measure_pair(plan: PairPlan, *, progress: Progress | None = None, keep: Keep | None = None) -> PairedResult:
    """Measure one comparison on this machine; a side that fails is in the result."""
    started_at = rec.utc_now()
    a, b = plan.sides

    def start(role: Role, first: bool) -> PairProcess:
        side = b if role == "b" else a
        job = dataclasses.replace(side.cell.job, first=first and role != "control")
        return PairProcess(role, job, side.python)

    times = PairMeasurement(plan.settings, start, tell=progress, keep=keep).run()
    return result_of(plan, times, started_at)


def result_of(plan: PairPlan, times: PairTimes, started_at: str, *, lost: str | None = None) -> PairedResult:
    """The record of what was measured.

    Args:
        plan: of the comparison.
        times: that were found.
        started_at: ISO 8601, UTC.
        lost: how the connection to the machine that measured ended too early.
    """
    a, b = plan.sides
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
        lost=lost,
        spent=times.spent,
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
