"""Queues of other hosts in a run: one for each host while the run goes on.

A host is asked what it is before the cells are planned, since the threads of a cell and what may be
reused follow from that. Then one thread a host hands all of its cells over in the same conversation, so
that Python and torch start over there once, and passes on each record as it comes. The thread sleeps in
`select`, so what is timed here meanwhile keeps its processor. A conversation that breaks leaves the
finished rows and makes the others `not_run`, with the reason.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import DeviceError
from benchbench.devices.hosts import Host
from benchbench.devices.resolve import Target
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell
from benchbench.runner.listener import Recorder
from benchbench.runner.record import make_record
from benchbench.runner.remote.ssh import Connection, ConnectionLost, disagreement
from benchbench.runner.schedule import CellProgress, ProcessResult
from benchbench.zoo import classes

log = logging.getLogger(__name__)

HELLO_LIMIT_S = 120.0  # a board imports torch in some 10 s, and a sleepy one in more
CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(slots=True, kw_only=True)
class HostTiming:
    """Where the time with one host went, in seconds; no latency contains any of it."""

    name: str
    connect_s: float = 0.0  # from starting ssh to the far side's first word
    waited_s: float = 0.0  # for another run to leave the board
    transfer_s: float = 0.0  # weights
    sent_bytes: int = 0
    received_bytes: int = 0
    measured_s: float = 0.0  # over there: children's start-up, forwards, Dice
    total_s: float = 0.0  # from starting ssh to the last row, without what was done here in between


class ConnectionPool:
    """The conversations with hosts, open from the greeting until `with` ends."""

    def __init__(self) -> None:
        """None is open yet."""
        self._open: dict[str, Connection] = {}
        self._closed = False
        self._lock = threading.Lock()  # hosts are greeted at the same time

    def get(self, host: Host, *, fresh: bool = False) -> Connection:
        """The open conversation with a host, or a new one.

        Args:
            host: whom to speak with.
            fresh: a new one in any case; the old one is ended.
        """
        with self._lock:
            old = self._open.get(host.name)
            if old and not fresh:
                return old
            if old:
                old.close()
            connection = self._open[host.name] = Connection(host)
            if self._closed:
                connection.hang_up()
            return connection

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            self._closed = True
            for connection in self._open.values():
                # After an error or Ctrl-C another thread may still read from it, and sees its end.
                connection.hang_up() if kind else connection.close()


def meet(
    targets: Sequence[Target], threads: int | None, *, lines: ConnectionPool, set_clocks: bool = False
) -> list[Target]:
    """The targets, with what the hosts among them turned out to be; they are asked at the same time.

    Args:
        targets: as `forecast.target.resolve` names them.
        threads: asked for on the command line.
        lines: where the conversations stay open.
        set_clocks: the hosts are to be as they will be when measured.

    Raises:
        DeviceError: no host can be used, and nothing else was asked for.
    """
    met = list(targets)

    def one(index: int, host: Host) -> None:
        request = {"task": "hello", "threads": threads, "set_clocks": set_clocks}
        met[index] = _greet(targets[index], lines.get(host), request)

    # Daemons: Ctrl-C does not wait for a board that does not answer.
    greeters = [threading.Thread(target=one, args=(i, t.host), daemon=True) for i, t in enumerate(targets) if t.host]
    for greeter in greeters:
        greeter.start()
    for greeter in greeters:
        greeter.join()
    if met and all(t.lost for t in met):
        raise DeviceError("; ".join(dict.fromkeys(str(t.lost) for t in met)))
    return met


def _greet(target: Target, connection: Connection, request: Mapping[str, Any]) -> Target:
    asked, host = target.device.asked, connection.host
    hello: dict[str, Any] | None = None
    connection.send(request)
    for event in connection.events(HELLO_LIMIT_S):
        if isinstance(event, ConnectionLost):
            return dataclasses.replace(target, environment={"host": host.place}, lost=event.error)
        if event["event"] == "hello":
            hello = event
    why = disagreement(host, hello or {})
    if hello is None or why:
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

    def __init__(
        self,
        host: Host,
        cells: Sequence[Cell],
        *,
        time_limit_s: float,
        set_clocks: bool,
        noise: bool,
        recorder: Recorder,
        lines: ConnectionPool,
    ) -> None:
        """Make it; `start` hands the cells over.

        Args:
            host: where.
            cells: all of that host; at least one.
            time_limit_s: of one cell, over there.
            set_clocks: at a Jetson's highest clocks.
            noise: measure one network twice.
            recorder: gets the results; called from this thread.
            lines: has the conversation that began with the greeting.
        """
        super().__init__(daemon=True, name=f"lane-{host.name}")
        self.host, self.cells, self.time_limit_s, self.recorder = host, cells, time_limit_s, recorder
        self.set_clocks, self.noise, self.lines = set_clocks, noise, lines
        self.visit = HostTiming(name=cells[0].target.device.asked)
        self.error: Exception | None = None
        self._open = {cell.id: cell for cell in cells}
        self._known: dict[str, list[rec.Measurement]] = {}
        self._artifacts: dict[str, list[rec.Artifact]] = {}  # of each cell, so far
        self._stopped = False
        self._greeting_s = 0.0  # of the conversation, before this thread began

    def run(self) -> None:
        """The thread's body; an error of this side is kept for the run's own thread."""
        start = time.monotonic()
        try:
            why = self._talk()
            if not self._stopped:
                for cell in list(self._open.values()):
                    _finish_absent(cell, why, self._known.get(cell.id, ()), self.recorder)
        except Exception as error:  # raised again by Fleet.join, where somebody hears it
            self.error = error
        self.visit.total_s = time.monotonic() - start + self._greeting_s

    def stop(self) -> None:
        """End the far side; rows that are not finished are left for another run."""
        self._stopped = True
        self.lines.get(self.host).hang_up()

    def _conversation(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any] | ConnectionLost]:
        """What the far side says to the request; a line that went dead since the greeting is opened once more."""
        for fresh in (False, True):
            connection = self.lines.get(self.host, fresh=fresh)
            sent, received = (0, 0) if fresh else (connection.sent_bytes, connection.received_bytes)
            self._greeting_s = 0.0 if fresh else connection.answered_s or 0.0
            connection.send(request)
            silent = True
            for event in connection.events():
                if isinstance(event, ConnectionLost) and silent and not (fresh or self._stopped):
                    log.debug("%s: %s; calling again", self.host.url, event.error)
                    break
                silent = False
                self.visit.connect_s = connection.answered_s or 0.0
                self.visit.sent_bytes = connection.sent_bytes - sent
                self.visit.received_bytes = connection.received_bytes - received
                yield event
            else:
                return

    def _talk(self) -> str:
        """Returns why the rows that are still open have not come."""
        visit, first = self.visit, self.cells[0]
        request = {
            "task": "run",
            "asked": first.target.device.asked,
            "time_limit_s": self.time_limit_s,
            "set_clocks": self.set_clocks,
            "noise": self.noise,
            "cells": [cell_to_json(cell) | {"turns": self._earlier(cell)} for cell in self.cells],
        }
        files = {c.model.checkpoint: Path(c.job.checkpoint_path) for c in self.cells if c.job.checkpoint_path}
        mark = time.monotonic()
        again = "; the same command with the same --out measures the rest"
        for event in self._conversation(request):
            if isinstance(event, ConnectionLost):
                return event.error + again
            kind, now = event["event"], time.monotonic()
            try:
                if kind == "waiting":
                    self.recorder.phase("another run has this board: waiting for its end", visit.name)
                    mark = now
                elif kind == "locked":
                    visit.waited_s = now - mark if event["waited"] else 0.0
                elif kind == "need":
                    mark = now
                    for digest in event["sha256"]:
                        _send_file(self.lines.get(self.host), digest, files[digest])
                elif kind == "files":
                    visit.transfer_s = now - mark
                elif kind == "plan":
                    self._learn(event["cells"])
                elif kind == "begin":
                    self.recorder.begin(str(event["label"]), float(event["remaining_s"]), visit.name)
                elif kind == "phase":
                    self.recorder.phase(str(event["text"]), visit.name)
                elif kind == "turn":
                    self._keep(event)
                elif kind == "record":
                    self._receive(event)
                elif kind == "end":
                    visit.measured_s = float(event["measured_s"])
            except (KeyError, TypeError, ValueError, binascii.Error) as error:
                log.debug("from %s: %r", self.host.url, event)
                return f"{self.host.url} sent what this benchbench cannot read ({kind}: {error}){again}"
        return f"{self.host.name} ended without a word on this network{again}"

    def _earlier(self, cell: Cell) -> list[Any]:
        return [rec.to_json(result) | {"artifacts": []} for result in self.recorder.earlier(cell)]

    def _keep(self, event: Mapping[str, Any]) -> None:
        cell = self._open.get(str(event["cell"]))
        if cell is None:
            raise ValueError("a process of a cell that was not asked for")
        result = rec.from_json(ProcessResult, event["turn"])
        artifacts = self._receive_files(cell, event)
        self.recorder.keep(cell, dataclasses.replace(result, artifacts=artifacts))

    def _receive_files(self, cell: Cell, event: Mapping[str, Any]) -> tuple[rec.Artifact, ...]:
        """Keep the files of an event, which the far side sends once, with the first that has them."""
        contents = [(item, _content(item)) for item in event["artifacts"]]
        artifacts = [
            self.recorder.add_artifact(str(item["kind"]), str(item["name"]), content, title=str(item["title"]))
            for item, content in contents
        ]
        self._artifacts.setdefault(cell.id, []).extend(artifacts)
        return tuple(artifacts)

    def _learn(self, cells: Mapping[str, Any]) -> None:
        for cell, measurements in cells.items():
            self._known[cell] = [rec.from_json(rec.Measurement, m) for m in measurements]

    def _receive(self, event: Mapping[str, Any]) -> None:
        record = rec.record_from_json(event["record"])
        cell = self._open.get(record.cell)
        if cell is None:
            raise ValueError("a record that was not asked for")
        earlier = [artifact for result in self.recorder.earlier(cell) for artifact in result.artifacts]
        artifacts = [*self._receive_files(cell, event), *earlier, *self._artifacts[cell.id]]
        unique = {artifact.path: artifact for artifact in artifacts}
        environment = {**record.environment, "host": self.host.place}
        record = dataclasses.replace(record, environment=environment, artifacts=tuple(unique.values()))
        self.recorder.finish(cell, record)
        del self._open[record.cell]
        self.visit.measured_s += record.duration_s  # until the end tells it without the counting


def _content(item: Mapping[str, Any]) -> bytes:
    content = base64.b64decode(item["content"], validate=True)
    if hashlib.sha256(content).hexdigest() != item["sha256"]:
        raise ValueError("a file whose hash is not the one it came with")
    name = str(item["name"])
    if not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise ValueError(f"a file called {name!r}")
    return content


def _send_file(connection: Connection, digest: str, path: Path) -> None:
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                connection.send({"file": digest, "content": base64.b64encode(chunk).decode()})
    except OSError as error:
        connection.send({"file": digest, "error": f"cannot read {path}: {error.strerror or error}"})
        return
    connection.send({"file": digest, "content": None})


def _finish_absent(cell: Cell, why: str, known: Sequence[rec.Measurement], recorder: Recorder) -> None:
    """The record of a cell whose host is not there, with what was known of it."""
    cost = CellCost(measurements=tuple(known), refused=("away", why, None))
    recorder.finish(cell, make_record(CellProgress(cell, started_at=rec.utc_now()), cost, recorder))


class HostQueues:
    """The queues of all hosts of a run, from `with` to its end."""

    def __init__(
        self,
        cells: Iterable[Cell],
        time_limit_s: float,
        *,
        set_clocks: bool = False,
        noise: bool = True,
        recorder: Recorder,
        lines: ConnectionPool,
    ) -> None:
        """Make a queue for each host that can be used, and say of the others' cells why they are absent."""
        by_device: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.target.lost:
                _finish_absent(cell, cell.target.lost, (), recorder)
            else:
                by_device.setdefault(cell.target.device.asked, []).append(cell)
        self.lanes = [
            HostQueue(
                group[0].target.host,
                group,
                time_limit_s=time_limit_s,
                set_clocks=set_clocks,
                noise=noise,
                recorder=recorder,
                lines=lines,
            )
            for group in by_device.values()
            if group[0].target.host
        ]

    def __enter__(self) -> HostQueues:
        for lane in self.lanes:
            lane.start()
        return self

    def join(self) -> None:
        """Wait for every queue.

        Raises:
            BenchError: what a queue met on this side, such as a full disk.
        """
        for lane in self.lanes:
            while lane.is_alive():
                lane.join(0.5)  # in pieces, so that Ctrl-C is heard
        for lane in self.lanes:
            if lane.error:
                raise lane.error

    def __exit__(self, *_: object) -> None:
        for lane in self.lanes:
            lane.stop()
        for lane in self.lanes:
            lane.join(5.0)
