"""Queues of other hosts in a run: one for each host while the run goes on.

A host is asked what it is before the cells are planned, since the threads of a cell and what may be reused follow from
that. Then one thread a host starts `bench run` there with all of its cells and passes on each record as it comes. The
thread sleeps in `select`, so what is timed here meanwhile keeps its processor. A connection that breaks leaves the
finished rows and makes the others `not_run`, with the reason; the next run starts those again.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import DeviceError
from benchbench.devices.resolve import Target
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell
from benchbench.runner.record import make_record
from benchbench.runner.recorder import Recorder
from benchbench.runner.remote import weights
from benchbench.runner.remote.ssh import Connection, ConnectionLost, ask, disagreement
from benchbench.runner.result import TimeBreakdown
from benchbench.runner.schedule import CellProgress
from benchbench.zoo import classes

if TYPE_CHECKING:
    from benchbench.runner.request import RunRequest

log = logging.getLogger(__name__)

HELLO_LIMIT_S = 120.0  # a board imports torch in some 10 s, and a sleepy one in more
_AGAIN = "; the same command with the same --out measures the rest"


def meet(targets: Sequence[Target], threads: int | None, *, set_clocks: bool = False) -> list[Target]:
    """The targets, with what the hosts among them turned out to be; they are asked at the same time.

    Args:
        targets: as `devices.resolve.resolve` names them.
        threads: asked for on the command line.
        set_clocks: the hosts are to be as they will be when measured.

    Raises:
        DeviceError: no host can be used, and nothing else was asked for.
    """
    met = list(targets)

    def greet(index: int) -> None:
        met[index] = _greet(targets[index], threads, set_clocks)

    # Daemons: Ctrl-C does not wait for a board that does not answer.
    greeters = [threading.Thread(target=greet, args=(i,), daemon=True) for i, t in enumerate(targets) if t.host]
    for greeter in greeters:
        greeter.start()
    for greeter in greeters:
        greeter.join()
    if met and all(t.lost for t in met):
        raise DeviceError("; ".join(dict.fromkeys(str(t.lost) for t in met)))
    return met


def _greet(target: Target, threads: int | None, set_clocks: bool) -> Target:
    asked, host = target.device.asked, target.host
    assert host is not None
    words = ["devices", "probe", *(["--threads", str(threads)] if threads else [])]
    hello: dict[str, Any] = {}
    for event in ask(host, [*words, *(["--set-clocks"] if set_clocks else [])], limit_s=HELLO_LIMIT_S):
        if isinstance(event, ConnectionLost):
            return dataclasses.replace(target, environment={"host": host.place}, lost=event.error)
        hello = event
    if why := disagreement(host, hello):
        return dataclasses.replace(target, environment={"host": host.place}, lost=why)
    try:
        device = rec.from_json(rec.Device, {**hello["device"], "basis": "probed", "asked": asked})
        backend = {"cpu": "cpu", "cuda": "cuda"}[hello["backend"]]
        environment = {**hello["environment"], "host": host.place}
    except (KeyError, TypeError) as error:
        why = f"benchbench on {host.name} does not say what it runs on ({error}): upgrade it there"
        return dataclasses.replace(target, environment={"host": host.place}, lost=why)
    why = hello.get("problem")
    if not why and asked == "jetson" and device.kind != "jetson":
        why = (
            f"the host configured as 'jetson' ({host.url}) is no Jetson but {device.name}: "
            "give it another name with 'bench devices add'"
        )
    return dataclasses.replace(target, device=device, backend=backend, environment=environment, lost=why)  # type: ignore[arg-type]


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """A cell as the far side gets it: nothing of this machine's file system is in it."""
    card = dataclasses.replace(cell.card, folder=None, checkpoint=None)
    return {
        "card": rec.to_json(card),
        "model": rec.to_json(cell.model),
        "workload": rec.to_json(cell.workload),
        "trusted": classes.may_import(cell.model.arch),
    }


class HostQueue(threading.Thread):
    """All cells of one host, one after the other."""

    def __init__(self, cells: Sequence[Cell], request: RunRequest, recorder: Recorder) -> None:
        """Make it; `start` hands the cells over.

        Args:
            cells: all of that host; at least one.
            request: for the time limit, the clocks and the noise floor.
            recorder: gets the results; called from this thread.
        """
        host = cells[0].target.host
        assert host is not None
        super().__init__(daemon=True, name=f"host-{host.name}")
        self.host, self.cells, self.request, self.recorder = host, cells, request, recorder
        self.spent = TimeBreakdown(host=cells[0].target.device.asked)
        self.error: Exception | None = None
        self._open = {cell.id: cell for cell in cells}
        self._counts: dict[str, list[rec.Measurement]] = {}
        self._connection: Connection | None = None
        self._stopped = False
        self._mark = 0.0  # when the lock or the weights began to be waited for

    def run(self) -> None:
        """The thread's body; an error of this side is kept for the run's own thread."""
        start = time.monotonic()
        try:
            why = self._measure()
            if not self._stopped:
                for cell in list(self._open.values()):
                    _finish_absent(cell, why, self._counts.get(cell.id, ()), self.recorder)
        except Exception as error:  # raised again by HostQueues.join, where somebody hears it
            self.error = error
        self.spent.total_s = time.monotonic() - start

    def stop(self) -> None:
        """End the far side; rows that are not finished are left for another run."""
        self._stopped = True
        if self._connection:
            self._connection.hang_up()

    def _words(self) -> list[str]:
        words = ["run", "--from-stdin", "--events", "json", "--time-limit", f"{self.request.time_limit_s}s"]
        words += ["--set-clocks"] if self.request.set_clocks else []
        return words if self.request.noise else [*words, "--no-noise"]

    def _measure(self) -> str:
        """Returns why the rows that are still open have not come."""
        message = {"asked": self.spent.host, "cells": [cell_to_json(cell) for cell in self.cells]}
        with Connection(self.host, self._words()) as connection:
            self._connection = connection
            if self._stopped:
                return ""
            connection.send(message)
            for event in connection.events():
                self.spent.connect_s = connection.answered_s or 0.0
                self.spent.sent_bytes = connection.sent_bytes
                if isinstance(event, ConnectionLost):
                    return event.error + _AGAIN
                try:
                    self._hear(event, connection)
                except (KeyError, TypeError, ValueError, binascii.Error) as error:
                    log.debug("from %s: %r", self.host.url, event)
                    what = f"{event['event']}: {error}"
                    return f"{self.host.url} sent what this benchbench cannot read ({what}){_AGAIN}"
        return f"{self.host.name} ended without a word on this network{_AGAIN}"

    def _hear(self, event: Mapping[str, Any], connection: Connection) -> None:
        spent, kind, now = self.spent, event["event"], time.monotonic()
        if kind == "waiting":
            self.recorder.phase("another run has this board: waiting for its end", spent.host)
            self._mark = now
        elif kind == "locked":
            spent.waited_s = now - self._mark if self._mark else 0.0
        elif kind == "need":
            self._mark = now
            paths = {c.model.checkpoint: Path(c.job.checkpoint_path) for c in self.cells if c.job.checkpoint_path}
            for digest in event["sha256"]:
                for message in weights.messages(paths[digest]):
                    connection.send(message)
        elif kind == "files":
            spent.transfer_s = now - self._mark
        elif kind == "plan":
            for cell in event["cells"]:
                self._counts[cell["cell"]] = [rec.from_json(rec.Measurement, m) for m in cell["counts"]]
        elif kind == "begin":
            self.recorder.begin(str(event["label"]), float(event["remaining_s"]), spent.host)
        elif kind == "phase":
            self.recorder.phase(str(event["text"]), spent.host)
        elif kind == "record":
            self._receive(event)
        elif kind == "end":
            there = rec.from_json(TimeBreakdown, event["spent"])
            spent.start_s, spent.forward_s, spent.accuracy_s = there.start_s, there.forward_s, there.accuracy_s

    def _receive(self, event: Mapping[str, Any]) -> None:
        record = rec.record_from_json(event["record"])
        cell = self._open.get(record.cell)
        if cell is None:
            raise ValueError("a record that was not asked for")
        files = [(item, _content(item)) for item in event["files"]]
        artifacts = [
            self.recorder.add_artifact(str(item["kind"]), str(item["name"]), content, title=str(item["title"]))
            for item, content in files
        ]
        environment = {**record.environment, "host": self.host.place}
        self.recorder.finish(cell, dataclasses.replace(record, environment=environment, artifacts=tuple(artifacts)))
        del self._open[record.cell]
        self.spent.forward_s += record.duration_s  # until the end tells it without the counting


def _content(item: Mapping[str, Any]) -> bytes:
    content = base64.b64decode(item["content"], validate=True)
    if hashlib.sha256(content).hexdigest() != item["sha256"]:
        raise ValueError("a file whose hash is not the one it came with")
    name = str(item["name"])
    if not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise ValueError(f"a file called {name!r}")
    return content


def _finish_absent(cell: Cell, why: str, counts: Sequence[rec.Measurement], recorder: Recorder) -> None:
    """The record of a cell whose host is not there, with what was counted of it."""
    cost = CellCost(measurements=tuple(counts), refused=("not_run", why, None))
    recorder.finish(cell, make_record(CellProgress(cell, started_at=rec.utc_now()), cost, recorder))


class HostQueues:
    """The queues of all hosts of a run, from `with` to its end."""

    def __init__(self, cells: Sequence[Cell], request: RunRequest, recorder: Recorder) -> None:
        """Make a queue for each host that can be used, and say of the others' cells why they are absent."""
        by_device: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.target.lost:
                _finish_absent(cell, cell.target.lost, (), recorder)
            else:
                by_device.setdefault(cell.target.device.asked, []).append(cell)
        self.queues = [HostQueue(group, request, recorder) for group in by_device.values()]

    def __enter__(self) -> HostQueues:
        for queue in self.queues:
            queue.start()
        return self

    def join(self) -> None:
        """Wait for every queue.

        Raises:
            BenchError: what a queue met on this side, such as a full disk.
        """
        for queue in self.queues:
            while queue.is_alive():
                queue.join(0.5)  # in pieces, so that Ctrl-C is heard
        for queue in self.queues:
            if queue.error:
                raise queue.error

    def __exit__(self, *_: object) -> None:
        for queue in self.queues:
            queue.stop()
        for queue in self.queues:
            queue.join(5.0)
