"""`bench run`: networks x devices to records.

The cells are counted first (`estimate`), then this machine's are measured in rounds (`local`), each
process of a network a fresh child. Each record, and until then each process's samples, is on disk before
the next child starts, so whatever stops a run, running the same command again with the same `--out`
measures only what is missing. Another host does the same with its cells over there (`benchbench.runner.remote.agent`),
at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchbench.core import records as rec
from benchbench.core.errors import CardError, ShapeError
from benchbench.core.results import Store
from benchbench.devices import jetson
from benchbench.devices.environment import environment
from benchbench.runner.estimate import CellCost, TimeBreakdown, count, estimate_s
from benchbench.runner.local import LocalRunner, make_record
from benchbench.runner.plan import Cell, RunRequest, label, plan_cells
from benchbench.runner.remote import queue as remote_queue
from benchbench.runner.schedule import CellProgress, ProcessResult, RunJournal

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    records: tuple[rec.Record, ...]  # one a cell, in the order asked
    reused: int
    spent: TimeBreakdown
    banners: tuple[str, ...]
    visits: tuple[remote_queue.HostTiming, ...] = ()  # one a host


class Progress(Protocol):
    """How a run tells what it does; every method may be ignored.

    A lane is another host's name; several run at the same time as this machine's cells, which have none.
    """

    def plan(self, cells: Sequence[tuple[str, float]], folder: Path, reused: int) -> None:
        """(label, estimated seconds) of each cell to come."""

    def begin(self, label: str, remaining_s: float, lane: str = "") -> None:
        """A cell starts; so much is left of the whole run, or of the lane."""

    def phase(self, text: str, lane: str = "") -> None:
        """What the running cell does now."""

    def end(self, record: rec.Record) -> None:
        """A cell is done and on disk."""


def run(request: RunRequest, out: Path, *, fresh: bool = False, progress: Progress) -> RunResult:
    """Measure, or predict, every network on every device.

    Args:
        request: what was asked.
        out: results folder, made if need be.
        fresh: start over there.
        progress: told what happens.

    Raises:
        UsageError: an unknown name, a class that cannot be imported, a size that no network can take.
        NotMeasuredError: only a prediction can be had, and `require_measured`.
        StoreError: the folder cannot be written, or is not ours.
    """
    with remote_queue.ConnectionPool() as lines:
        return _run(request, out, lines, fresh=fresh, progress=progress)


def _run(
    request: RunRequest, out: Path, lines: remote_queue.ConnectionPool, *, fresh: bool, progress: Progress
) -> RunResult:
    began = time.monotonic()
    spent = TimeBreakdown()
    cells = plan_cells(request, lines)
    with clocks(request.set_clocks and any(not c.target.host for c in cells)), Store(out, fresh=fresh) as store:
        environments = {_setting(c): _environment(c) for c in cells}
        _warn(environments)
        costs = count([c for c in cells if c.target.host is None], spent)
        _refuse(list(costs.values()))
        done: dict[str, rec.Record] = {}
        for cell in cells:
            earlier = store.finished(cell.id, environments[_setting(cell)])
            if earlier:
                done[cell.id] = earlier
        reused = len(done)
        left = [c for c in cells if c.id not in done]
        todo = sorted((c for c in left if not c.target.host), key=lambda c: costs[c.id].value("macs"))
        away = [c for c in left if c.target.host]
        estimates = {c.id: estimate_s(c, costs[c.id], request.protocol) for c in todo}
        progress.plan([(label(c), estimates.get(c.id, 0.0)) for c in [*todo, *away]], out, reused)
        journal = RunJournal(out, fresh=fresh)
        desk = _Desk(store, progress, done, journal)
        others = remote_queue.HostQueues(
            away, request.time_limit_s, set_clocks=request.set_clocks, noise=request.noise, listener=desk, lines=lines
        )
        with others:
            bench = LocalRunner(costs, estimates, request.time_limit_s, desk, spent, noise=request.noise)
            bench.run(todo, lambda c: environments[_setting(c)], store, journal, settled=list(done.values()))
            spent.total_s = time.monotonic() - began  # of this machine's own part
            others.join()
        if not failed(done.values()):  # else what is kept of a board that was lost is of use to the next run
            journal.close()
    banners = dict.fromkeys(c.target.banner for c in cells if c.target.banner)
    return RunResult(
        folder=out,
        records=tuple(done[c.id] for c in cells),
        reused=reused,
        spent=spent,
        banners=tuple(banners),
        visits=tuple(lane.visit for lane in others.lanes),
    )


def _setting(cell: Cell) -> tuple[str, int | None]:
    """What an environment depends on."""
    return cell.target.device.asked, cell.workload.threads


def _environment(cell: Cell) -> dict[str, Any]:
    """Of this machine, or as a host told it."""
    target = cell.target
    if target.environment is not None:
        threads = {"threads": cell.workload.threads} if "threads" in target.environment else {}
        return {**target.environment, **threads}
    found = environment(target.backend, cell.workload.threads, cuda_index=target.index)
    if profile := target.profile:
        found["profile"] = rec.content_hash(rec.to_json(profile))  # another one forecasts anew
        if profile.calibration:
            found["calibrated"] = f"{profile.calibration.when}, {profile.calibration.calls} calls"
        elif profile.like and profile.timed:
            found["scaled"] = f"{profile.like.title}; {profile.timed.when}, {profile.timed.calls} calls"
    return found


class _Desk:
    """Where the rows of this machine and of every host's thread come together, one at a time."""

    def __init__(self, store: Store, progress: Progress, done: dict[str, rec.Record], journal: RunJournal) -> None:
        self.store, self.progress, self.done, self.journal = store, progress, done, journal
        self._lock = threading.Lock()

    def plan(self, cells: Sequence[tuple[str, float]], folder: Path, reused: int) -> None:
        with self._lock:
            self.progress.plan(cells, folder, reused)

    def begin(self, label: str, remaining_s: float, lane: str = "") -> None:
        with self._lock:
            self.progress.begin(label, remaining_s, *([lane] if lane else []))

    def phase(self, text: str, lane: str = "") -> None:
        with self._lock:
            self.progress.phase(text, *([lane] if lane else []))

    def end(self, record: rec.Record) -> None:
        with self._lock:
            self.progress.end(record)

    def send_turn(self, cell: Cell, turn: ProcessResult) -> None:
        """Nothing: this machine's own turns are in the journal."""

    def finish(self, cell: Cell, record: rec.Record) -> None:
        with self._lock:
            self.store.append(record)
            self.done[cell.id] = record
            self.progress.end(record)

    def turns(self, cell: Cell) -> list[ProcessResult]:
        """What an earlier run kept of another host's cell."""
        return self.journal.turns(cell.id, _environment(cell))

    def turn(self, cell: Cell, turn: Mapping[str, Any], contents: Sequence[remote_queue.Content]) -> None:
        with self._lock:
            kept = [self.store.add_artifact(c.kind, c.name, c.content, title=c.title) for c in contents]
            whole = dataclasses.replace(rec.from_json(ProcessResult, turn), artifacts=tuple(kept))
            self.journal.keep(cell.id, _environment(cell), whole)

    def deliver(self, cell: Cell, record: rec.Record, contents: Sequence[remote_queue.Content]) -> None:
        with self._lock:
            kept = [self.store.add_artifact(c.kind, c.name, c.content, title=c.title) for c in contents]
            earlier = [a for turn in [*self.turns(cell), *self.journal.came(cell.id)] for a in turn.artifacts]
            together = {artifact.path: artifact for artifact in [*kept, *earlier]}
        self.finish(cell, dataclasses.replace(record, artifacts=tuple(together.values())))

    def absent(self, cell: Cell, why: str, known: Sequence[rec.Measurement]) -> None:
        cost = CellCost(measurements=tuple(known), refused=("away", why, None))
        self.finish(
            cell, make_record(CellProgress(cell, started_at=rec.utc_now()), cost, _environment(cell), self.store)
        )


def clocks(wanted: bool) -> contextlib.AbstractContextManager[None]:
    """A Jetson's highest clocks while it lasts, if they are wanted."""
    return jetson.clocks_set() if wanted else contextlib.nullcontext()


def _warn(environments: Mapping[tuple[str, int | None], Mapping[str, Any]]) -> None:
    for asked, env in {key[0]: env for key, env in environments.items()}.items():
        if others := env.get("gpu_processes"):
            log.warning("%s: %d other program(s) compute on this GPU; the figures are of a shared one", asked, others)


def _refuse(found: Sequence[CellCost]) -> None:
    """End a run in which something asked for cannot be had.

    Raises:
        CardError: the class of a network cannot be imported or built as asked.
        ShapeError: no network can take the size.
    """
    refusals = [cost.refused for cost in found if cost.refused]
    for kind, error, _ in refusals:
        if kind == "usage":
            raise CardError(error)
    if refusals and len(refusals) == len(found) and all(kind == "shape" for kind, _, _ in refusals):
        raise ShapeError("; ".join(dict.fromkeys(error for _, error, _ in refusals)))


def failed(records: Iterable[rec.Record]) -> list[rec.Record]:
    """Those that have no result."""
    return [r for r in records if not r.ok]
