"""Agent on another host, started by ssh as `python -m benchbench.runner.remote.agent`.

Requests come in on stdin, one after the other, and events go out on stdout, each on a line with a mark. It
ends when stdin closes, and its child with it, so a run that is interrupted or loses its connection leaves nothing
running on the board. A lock lets one run measure at a time; another waits and is told so.

What is asked is done by the same functions that measure at home (`benchbench.runner.run`), each network in
a process of its own. Nothing is written here but weights, by their hash, into the cache folder.
"""

from __future__ import annotations

from benchbench.core import launch

if __name__ == "__main__":
    launch.current_folder_last()  # before anything else is imported

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import EXIT_INTERRUPTED, BenchError, CheckpointError, DeviceError
from benchbench.core.version import __version__
from benchbench.runner.remote.ssh import MARK, PROTOCOL
from benchbench.zoo import classes

if TYPE_CHECKING:
    from benchbench.devices.resolve import Target
    from benchbench.runner.job import Cell
    from benchbench.runner.schedule import ProcessResult

Emit = Callable[[dict[str, Any]], None]
Take = Callable[[], dict[str, Any]]

_END_S = 60.0  # for putting things back
_PHASE_EVERY_S = 1.0  # what is told more often takes time from what is measured


def main() -> int:
    """Answer requests until one cannot be, or nobody is there any more."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    emit = _private_stdout()
    inbox: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=8)
    threading.Thread(target=_read, args=(sys.stdin.buffer, inbox), daemon=True).start()
    tasks = {"hello": hello, "doctor": doctor, "run": run}
    try:
        while True:
            request = inbox.get()
            emit({"event": "started"})
            if request.get("task") not in tasks:
                raise DeviceError(f"benchbench {__version__} over there cannot do {request.get('task')!r}: upgrade it")
            tasks[request["task"]](request, emit, inbox.get)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (BenchError, OSError) as error:
        with contextlib.suppress(OSError):
            emit({"event": "lost", "error": str(error), "traceback": traceback.format_exc()})
    return 0


def _private_stdout() -> Emit:
    """Our lines go where stdout was; whatever else is printed goes to stderr."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            channel.write(b"\n" + MARK + json.dumps(event).encode() + b"\n")
            channel.flush()

    return emit


def _read(stdin: Any, inbox: queue.Queue[dict[str, Any]]) -> None:
    """Pass on what comes in; when nobody is there any more, end as by Ctrl-C: child killed, clocks put back."""
    with contextlib.suppress(ValueError):
        for line in stdin:
            inbox.put(json.loads(line))
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # a real one, which wakes select
    time.sleep(_END_S)
    os._exit(EXIT_INTERRUPTED)


def hello(request: Mapping[str, Any], emit: Emit, take: Take) -> None:
    """Say what this machine is: event `hello`."""
    from benchbench.devices.environment import environment
    from benchbench.runner.run import clocks

    del take
    problem = None
    target: Target | None = None
    conditions: dict[str, Any] = {}
    if importlib.util.find_spec("torch") is None:
        problem = f"torch is not installed for {sys.executable} over there: 'bench devices doctor' says how to get it"
    else:
        try:
            with clocks(bool(request.get("set_clocks"))):
                target = _here("")
                conditions = environment(target.backend, _threads(target, request))
        except DeviceError as error:
            problem = f"over there: {error}"
    device = target.device if target else rec.Device(kind="none", name="unknown", basis="probed", asked="")
    emit(
        {
            "event": "hello",
            "protocol": PROTOCOL,
            "schema": rec.SCHEMA,
            "version": __version__,
            "device": {"kind": device.kind, "name": device.name},
            "backend": (target.backend if target else None) or "cpu",
            "environment": conditions,
            "problem": problem,
            "clock_s": time.time(),
        }
    )
    emit({"event": "end"})


def _here(asked: str) -> Target:
    """The best that this machine has: a Jetson's GPU, another GPU, or its processor.

    A Jetson whose GPU cannot be used raises: its processor's figures would not be what was asked for.
    """
    from benchbench.devices import cpu, cuda, jetson
    from benchbench.devices.resolve import Target, resolve

    if jetson.detect():
        found = resolve("jetson")
        return dataclasses.replace(found, device=dataclasses.replace(found.device, asked=asked))
    try:
        return Target(device=cuda.probe(0, asked=asked or None), backend="cuda")
    except DeviceError:
        return Target(device=cpu.probe(asked=asked), backend="cpu")


def _threads(target: Target, request: Mapping[str, Any]) -> int | None:
    from benchbench.devices import cpu

    return None if target.backend != "cpu" else request.get("threads") or cpu.usable_cores()


def doctor(request: Mapping[str, Any], emit: Emit, take: Take) -> None:
    """Examine this machine: events `finding` {name, status, text, advice}."""
    from benchbench.runner.doctor import examine

    del request, take
    for finding in examine():
        emit({"event": "finding"} | dataclasses.asdict(finding))
    emit({"event": "end"})


def run(request: Mapping[str, Any], emit: Emit, take: Take) -> None:
    """Measure cells, the cheapest first.

    Events: `waiting`, `locked` {waited}, `need` {sha256}, `files`, `plan` {cells: known measurements}, then for
    each process `begin` {label, remaining_s}, `phase` {text}, and where a cell has several `turn` {cell, turn,
    artifacts}; for each cell `record` {record, artifacts}; at last `end` {measured_s}.
    """
    from benchbench.devices.environment import environment
    from benchbench.runner import run as runner_run
    from benchbench.runner.estimate import CellCost, TimeBreakdown, count, estimate_s
    from benchbench.runner.local import LocalRunner
    from benchbench.runner.schedule import ProcessResult

    lock = _lock(emit)
    try:
        with runner_run.clocks(request["set_clocks"]):
            target = _here(request["asked"])
            asked, refused = _cells(request, target, emit, take)
            cells = list(asked)
            spent = TimeBreakdown()
            costs = count([c for c in cells if c.id not in refused], spent)
            costs |= {key: CellCost(refused=("away", why, None)) for key, why in refused.items()}
            costs = {key: _own_class(cost) for key, cost in costs.items()}
            emit({"event": "plan", "cells": {key: rec.to_json(c.measurements) for key, c in costs.items()}})
            cells.sort(key=lambda c: costs[c.id].value("macs"))
            estimates = {c.id: estimate_s(c, costs[c.id], c.workload.protocol) for c in cells}
            conditions = {n: environment(target.backend, n) for n in {c.workload.threads for c in cells}}
            earlier = {
                cell.id: [rec.from_json(ProcessResult, result) for result in item.get("turns", ())]
                for cell, item in zip(asked, request["cells"], strict=True)
            }
            recorder = _WireRecorder(emit, conditions, earlier)
            LocalRunner(costs, estimates, request["time_limit_s"], recorder, spent, noise=request["noise"]).run(cells)
            emit({"event": "end", "measured_s": spent.start_s + spent.forward_s + spent.accuracy_s})
    finally:
        os.close(lock)


def _own_class(cost: Any) -> Any:
    """A class that is not here is not a fault of the network: the row is not run, and says what is missing."""
    if cost.refused is None or cost.refused[0] != "usage":
        return cost
    why = f"over there: {cost.refused[1]}; a class of one's own has to be installed on the host, or lie in its --folder"
    return dataclasses.replace(cost, refused=("away", why, None))


def _lock(emit: Emit) -> int:
    """Hold the board for this process, whoever's runs there are; the system lets go when it ends."""
    import fcntl

    path = Path(tempfile.gettempdir()) / "benchbench.lock"
    try:
        # Not O_CREAT: with it Linux refuses another user's file in /tmp. Reading is enough for a lock.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT, 0o644)
    waited = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waited = True
        emit({"event": "waiting"})
        fcntl.flock(handle, fcntl.LOCK_EX)
    emit({"event": "locked", "waited": waited})
    return handle


def _cells(request: Mapping[str, Any], target: Target, emit: Emit, take: Take) -> tuple[list[Cell], dict[str, str]]:
    """The cells, their weights at hand; and cell -> why its weights could not be had."""
    from benchbench import data
    from benchbench.runner.job import make_cell
    from benchbench.zoo import cards as zoo_cards

    asked = [
        (
            rec.from_json(zoo_cards.Card, item["card"]),
            rec.from_json(rec.ModelSpec, item["model"]),
            rec.from_json(rec.Workload, item["workload"]),
        )
        for item in request["cells"]
    ]
    for item in request["cells"]:
        if item.get("trusted"):  # the one who asks has named its class
            classes.vouch(item["model"]["arch"])
    digests = list(dict.fromkeys(model.checkpoint for _, model, _ in asked if model.checkpoint))
    have = {digest: path for digest in digests if (path := _find_weights(digest))}
    missing = [digest for digest in digests if digest not in have]
    emit({"event": "need", "sha256": missing})
    why: dict[str, str] = {}
    for digest in missing:
        try:
            have[digest] = _receive(digest, take)
        except CheckpointError as error:
            why[digest] = str(error)
    emit({"event": "files"})
    cells, refused = [], {}
    for card, model, work in asked:
        here = work.data if data.is_bundled(work.data) else None  # a data set of the other side's own is not over here
        weights = have.get(model.checkpoint or "")
        cell = make_cell(card, model, work, target, checkpoint_path=weights, data_where=here)
        cells.append(cell)
        if model.checkpoint in why:
            refused[cell.id] = why[model.checkpoint]
    return cells, refused


def _weights_folder() -> Path:
    from benchbench.core.cache import cache_base

    return cache_base() / "checkpoints"


def _find_weights(digest: str) -> Path | None:
    """A file of that sha256, if it is here and whole."""
    from benchbench.zoo import checkpoint

    path = _weights_folder() / f"{digest}.safetensors"
    try:
        return path if checkpoint.sha256_of(path) == digest else None
    except CheckpointError:
        return None


def _receive(digest: str, take: Take) -> Path:
    """Weights that the other side sends, checked by their hash.

    Raises:
        CheckpointError: they cannot be kept here, or are not the ones that were announced.
    """
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise CheckpointError(f"{digest!r} is no sha256")
    from benchbench.core.results import remove_torn
    from benchbench.zoo import checkpoint

    path = _weights_folder() / f"{digest}.safetensors"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    why = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn(path.parent)
        file = open(partial, "wb")  # noqa: SIM115 - what follows has to be read off the line even if this fails
    except OSError as error:
        file, why = None, error.strerror or str(error)
    while (message := take()).get("content") is not None:
        try:
            if file and not why:
                file.write(base64.b64decode(message["content"]))
        except OSError as error:
            why = error.strerror or str(error)
    try:
        if file:
            file.close()
        if not why and checkpoint.sha256_of(partial) == digest:
            os.replace(partial, path)
            return path
    except OSError as error:
        why = error.strerror or str(error)
    finally:
        partial.unlink(missing_ok=True)
    if why:
        raise CheckpointError(f"the weights cannot be kept over there in {path.parent}: {why}; make room there")
    raise CheckpointError(message.get("error") or "the weights' file is not the one that its .json describes")


class _WireRecorder:
    """`Recorder` whose results go to the asking side: files with the first event after them, phases once a second."""

    def __init__(
        self,
        emit: Emit,
        environments: Mapping[int | None, Mapping[str, Any]],
        earlier: Mapping[str, Sequence[ProcessResult]],
    ) -> None:
        self._emit, self._environments, self._earlier = emit, environments, earlier
        self._last_phase = 0.0
        self._files: list[dict[str, str]] = []

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        self._emit({"event": "begin", "label": label, "remaining_s": remaining_s})

    def phase(self, text: str, host: str = "") -> None:
        now = time.monotonic()
        if now - self._last_phase >= _PHASE_EVERY_S:
            self._last_phase = now
            self._emit({"event": "phase", "text": text})

    def environment(self, cell: Cell) -> Mapping[str, Any]:
        return self._environments[cell.workload.threads]

    def earlier(self, cell: Cell, *, repeat: bool = False) -> Sequence[ProcessResult]:
        return () if repeat else self._earlier.get(cell.id, ())

    def keep(self, cell: Cell, result: ProcessResult, *, repeat: bool = False) -> None:
        if not repeat:  # which the asking side keeps nothing of
            plain = rec.to_json(dataclasses.replace(result, artifacts=()))
            self._emit({"event": "turn", "cell": cell.id, "turn": plain, "artifacts": self._take_files()})

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        digest = hashlib.sha256(content).hexdigest()
        text = base64.b64encode(content).decode()
        self._files.append({"kind": kind, "name": name, "title": title, "sha256": digest, "content": text})
        return rec.Artifact(kind=kind, path=name, sha256=digest, title=title)

    def finish(self, cell: Cell, record: rec.Record) -> None:
        self._emit({"event": "record", "record": rec.record_to_json(record), "artifacts": self._take_files()})

    def _take_files(self) -> list[dict[str, str]]:
        files, self._files = self._files, []
        return files


if __name__ == "__main__":
    os._exit(main())  # the reading thread sits in stdin and would disturb an orderly end
