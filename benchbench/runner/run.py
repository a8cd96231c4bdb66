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
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import CardError, ShapeError
from benchbench.core.results import Store
from benchbench.devices import jetson
from benchbench.devices.environment import environment
from benchbench.runner.estimate import CellCost, TimeBreakdown, count, estimate_s
from benchbench.runner.job import Cell
from benchbench.runner.listener import RunListener
from benchbench.runner.local import LocalRunner
from benchbench.runner.plan import RunRequest, plan_cells
from benchbench.runner.remote import queue as remote_queue
from benchbench.runner.schedule import ProcessResult, RunJournal

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


def run(request: RunRequest, out: Path, *, fresh: bool = False, progress: RunListener) -> RunResult:
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
    request: RunRequest, out: Path, lines: remote_queue.ConnectionPool, *, fresh: bool, progress: RunListener
) -> RunResult:
    began = time.monotonic()
    spent = TimeBreakdown()
    cells = plan_cells(request, lines)
    with clocks(request.set_clocks and any(not c.target.host for c in cells)), Store(out, fresh=fresh) as store:
        environments = {_setting(c): _environment(c) for c in cells}
        _warn(environments)
        costs = count([c for c in cells if c.target.host is None], spent)
        _refuse(list(costs.values()))
        journal = RunJournal(out, fresh=fresh)
        recorder = _RunRecorder(store, journal, progress, environments)
        done = recorder.done
        for cell in cells:
            if earlier := store.finished(cell.id, recorder.environment(cell)):
                done[cell.id] = earlier
        reused = len(done)
        left = [c for c in cells if c.id not in done]
        todo = sorted((c for c in left if not c.target.host), key=lambda c: costs[c.id].value("macs"))
        away = [c for c in left if c.target.host]
        estimates = {c.id: estimate_s(c, costs[c.id], request.protocol) for c in todo}
        progress.plan([(c.label, estimates.get(c.id, 0.0)) for c in [*todo, *away]], out, reused)
        others = remote_queue.HostQueues(
            away,
            request.time_limit_s,
            set_clocks=request.set_clocks,
            noise=request.noise,
            recorder=recorder,
            lines=lines,
        )
        with others:
            runner = LocalRunner(costs, estimates, request.time_limit_s, recorder, spent, noise=request.noise)
            runner.run(todo, settled=list(done.values()))
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


_Setting = tuple[str, int | None]  # the device that was asked for, threads


def _setting(cell: Cell) -> _Setting:
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


class _RunRecorder:
    """The rows of this machine and of every host's thread, into one folder and one at a time."""

    def __init__(
        self, store: Store, journal: RunJournal, listener: RunListener, environments: Mapping[_Setting, dict[str, Any]]
    ) -> None:
        self.store, self.journal, self.listener, self.environments = store, journal, listener, environments
        self.done: dict[str, rec.Record] = {}
        self._lock = threading.RLock()

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        with self._lock:
            self.listener.begin(label, remaining_s, host)

    def phase(self, text: str, host: str = "") -> None:
        with self._lock:
            self.listener.phase(text, host)

    def environment(self, cell: Cell) -> dict[str, Any]:
        return self.environments[_setting(cell)]

    def earlier(self, cell: Cell, *, repeat: bool = False) -> list[ProcessResult]:
        return self.journal.results(cell.id, self.environment(cell), repeat=repeat)

    def keep(self, cell: Cell, result: ProcessResult, *, repeat: bool = False) -> None:
        with self._lock:
            self.journal.keep(cell.id, self.environment(cell), result, repeat=repeat)

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        with self._lock:
            return self.store.add_artifact(kind, name, content, title=title)

    def finish(self, cell: Cell, record: rec.Record) -> None:
        with self._lock:
            self.store.append(record)
            self.done[cell.id] = record
            self.listener.end(record)


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
