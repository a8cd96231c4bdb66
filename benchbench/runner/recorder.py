"""Recorder of a run: rows of this machine and of every host, into one results folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.results import Store
from benchbench.devices.environment import environment
from benchbench.runner.job import Cell
from benchbench.runner.listener import RunListener
from benchbench.runner.schedule import ProcessResult, RunJournal

log = logging.getLogger(__name__)


class Recorder:
    """Where the results of a run go, one at a time; its listener hears of them."""

    def __init__(self, store: Store, journal: RunJournal, listener: RunListener, cells: Sequence[Cell]) -> None:
        """Look at the conditions of every cell.

        Args:
            store: of the records.
            journal: of processes whose cell has no record yet.
            listener: hears what happens.
            cells: of the run.
        """
        self.store, self.journal, self.listener = store, journal, listener
        self.done: dict[str, rec.Record] = {}
        self._environments = {_setting(cell): _environment(cell) for cell in cells}
        self._lock = threading.RLock()
        for asked, conditions in {key[0]: found for key, found in self._environments.items()}.items():
            if others := conditions.get("gpu_processes"):
                log.warning(
                    "%s: %d other program(s) compute on this GPU; the figures are of a shared one", asked, others
                )

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """For the listener."""
        with self._lock:
            self.listener.begin(label, remaining_s, host)

    def phase(self, text: str, host: str = "") -> None:
        """For the listener."""
        with self._lock:
            self.listener.phase(text, host)

    def environment(self, cell: Cell) -> dict[str, Any]:
        """The conditions of a cell."""
        return self._environments[_setting(cell)]

    def earlier(self, cell: Cell, *, repeat: bool = False) -> list[ProcessResult]:
        """Processes of a cell, or of its repeat run, that ended before this run."""
        return self.journal.results(cell.id, self.environment(cell), repeat=repeat)

    def keep(self, cell: Cell, result: ProcessResult, *, repeat: bool = False) -> None:
        """A process of a cell that has several has ended."""
        with self._lock:
            self.journal.keep(cell.id, self.environment(cell), result, repeat=repeat)

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        """Keep a file beside the records."""
        with self._lock:
            return self.store.add_artifact(kind, name, content, title=title)

    def finish(self, cell: Cell, record: rec.Record) -> None:
        """A cell has its record."""
        with self._lock:
            self.store.append(record)
            self.done[cell.id] = record
            self.listener.end(record)


def _setting(cell: Cell) -> tuple[str, int | None]:
    """What an environment depends on: the device that was asked for, and threads."""
    return cell.target.device.asked, cell.workload.threads


def _environment(cell: Cell) -> dict[str, Any]:
    """Of this machine, or as a host told it."""
    target = cell.target
    if target.environment is not None:
        threads = {"threads": cell.workload.threads} if "threads" in target.environment else {}
        return {**target.environment, **threads}
    conditions = environment(target.backend, cell.workload.threads, cuda_index=target.index)
    if profile := target.profile:
        conditions["profile"] = rec.content_hash(rec.to_json(profile))  # another one forecasts anew
        if profile.calibration:
            conditions["calibrated"] = f"{profile.calibration.when}, {profile.calibration.calls} calls"
        elif profile.like and profile.timed:
            conditions["scaled"] = f"{profile.like.title}; {profile.timed.when}, {profile.timed.calls} calls"
    return conditions
