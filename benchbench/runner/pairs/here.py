"""Comparison measured on this machine, and its record: what was measured of each side, as a run would record it."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator, Mapping

from benchbench.core import records as rec
from benchbench.core.paired_result import PairedResult, Spent
from benchbench.core.paired_times import ProcessSet
from benchbench.measure.latency import timing
from benchbench.runner import aggregate
from benchbench.runner.pairs.fork_server import ForkServer
from benchbench.runner.pairs.measure import Keep, PairMeasurement, PairTimes, Progress, samples
from benchbench.runner.pairs.order import ROLES, Role
from benchbench.runner.pairs.plan import PairPlan, PairSide
from benchbench.runner.pairs.priority import Priority
from benchbench.runner.pairs.process import PairProcess, fork_server_of

_LOCK = "\0benchbench.ahead"
_ALONE = 3  # first sets, whose processes start by themselves: their memory counts, and its test needs three of a side
_OF_SIDES: tuple[tuple[Role, ...], ...] = (("a", "control"), ("b",))


def measure_pair(plan: PairPlan, *, progress: Progress | None = None, keep: Keep | None = None) -> PairedResult:
    """Measure one comparison on this machine; a side that fails is in the result."""
    started_at = rec.utc_now()
    a, b = plan.sides

    wanted = plan.settings.ahead and all(side.cell.target.backend == "cpu" for side in plan.sides)
    with _alone_ahead(wanted=wanted) as ahead, contextlib.closing(_Forks(plan, ahead=ahead)) as forks:

        def start(role: Role, number: int) -> PairProcess:
            side = b if role == "b" else a
            job = dataclasses.replace(side.cell.job, first=not number and role != "control")
            return PairProcess(role, job, side.python, None if number < _ALONE else forks.server())

        settings = dataclasses.replace(plan.settings, ahead=ahead)
        times = PairMeasurement(settings, start, tell=progress, keep=keep).run()
    return result_of(plan, times, started_at)


class _Forks:
    """What forks the processes of a comparison; both sides have the same Python and as many threads."""

    def __init__(self, plan: PairPlan, *, ahead: bool) -> None:
        """Nothing is started yet."""
        self._plan, self._ahead = plan, ahead
        self._server: ForkServer | None = None

    def server(self) -> ForkServer | None:
        """That runs; None where processes start by themselves."""
        if not self._plan.settings.forked:
            return None
        if self._server is not None and self._server.ended:
            self.close()
        if self._server is None:
            jobs = [side.cell.job for side in self._plan.sides]
            self._server = fork_server_of(jobs, self._plan.sides[0].python, ahead=self._ahead)
        return self._server

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
            self._server = None


@contextlib.contextmanager
def _alone_ahead(*, wanted: bool) -> Iterator[bool]:
    """Whether this comparison may go before other programs: two that did would keep each other from the cores.

    This process does so, too, meanwhile: forwards wait for its word.
    """
    own = Priority(lambda: [0], session=False)
    with contextlib.ExitStack() as stack:
        stack.callback(own.lower)
        ahead = wanted and own.raise_it()
        if ahead and not _is_first(stack):
            own.lower()
            ahead = False
        yield ahead


def _is_first(stack: contextlib.ExitStack) -> bool:
    try:
        lock = stack.enter_context(socket.socket(socket.AF_UNIX))
        lock.bind(_LOCK)  # of Linux, which frees the name when the process ends, however that ends
    except OSError:
        return False
    return True


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


class SetsSoFar:
    """Sets of a comparison that goes on, as a result: what is left if it does not come to its end."""

    def __init__(self, plan: PairPlan) -> None:
        """Nothing has come yet."""
        self.plan, self.started_at, self.times = plan, rec.utc_now(), PairTimes()

    def add(self, one: ProcessSet, measurements: Mapping[Role, list[rec.Measurement]], spent: Spent) -> None:
        """A set has ended.

        Args:
            one: its blocks.
            measurements: what its processes measured besides.
            spent: so far, in all.
        """
        self.times.sets.append(one)
        for role in ROLES:
            self.times.measurements[role].append(measurements[role])
        self.times.total_s, self.times.forward_s, self.times.start_s = spent.total_s, spent.forward_s, spent.start_s

    def result(self, *, lost: str | None = None, interrupted: bool = False) -> PairedResult:
        """What the sets say, and why there are no more."""
        times = dataclasses.replace(self.times, interrupted=interrupted)
        return result_of(self.plan, times, self.started_at, lost=lost)


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
