"""Far side of `--device HOST`: what ssh starts on the host, each an ordinary command of `bench`.

`bench devices probe` says what the host is, `bench run --from-stdin --events json` measures the cells that come in on
stdin, and `bench devices pairs` (`far_pairs`) compares two of them. A run ends when stdin closes, and its child,
so one that is interrupted or loses its connection leaves nothing running on the host. A lock lets one run measure at a
time; another waits and is told so. Nothing is written here but weights, by their hash, into the cache folder; the
records go back and their folder is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import EXIT_INTERRUPTED, CheckpointError, DeviceError, UsageError
from benchbench.core.version import __version__
from benchbench.devices import cpu, cuda, jetson
from benchbench.devices.environment import environment
from benchbench.devices.resolve import Target, resolve
from benchbench.runner.child_process import lines
from benchbench.runner.job import Cell, make_cell
from benchbench.runner.listener import EventWriter
from benchbench.runner.remote import weights
from benchbench.runner.remote.ssh import PROTOCOL
from benchbench.runner.request import RunRequest
from benchbench.runner.run import clocks, run_cells
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import classes

Emit = Callable[[dict[str, Any]], None]
Take = Callable[[], dict[str, Any]]

_END_S = 60.0  # for putting things back


def probe(*, threads: int | None = None, set_clocks: bool = False) -> dict[str, Any]:
    """What this machine is: the event `hello`.

    Args:
        threads: of a run on its processor; None: all usable cores.
        set_clocks: look at it as it is at a Jetson's highest clocks.
    """
    problem: str | None = None
    target: Target | None = None
    conditions: dict[str, Any] = {}
    if importlib.util.find_spec("torch") is None:
        problem = f"torch is not installed for {sys.executable} over there: 'bench devices doctor' says how to get it"
    else:
        try:
            with clocks(set_clocks):
                target = _this_machine("")
                on_cpu = target.backend == "cpu"
                conditions = environment(target.backend, threads or cpu.usable_cores() if on_cpu else None)
        except DeviceError as error:
            problem = f"over there: {error}"
    device = target.device if target else rec.Device(kind="none", name="unknown", basis="probed", asked="")
    return {
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


def _this_machine(asked: str) -> Target:
    """The best that this machine has: a Jetson's GPU, another GPU, or its processor.

    A Jetson whose GPU cannot be used raises: its processor's figures would not be what was asked for.
    """
    if jetson.detect():
        target = resolve("jetson")
        return dataclasses.replace(target, device=dataclasses.replace(target.device, asked=asked))
    try:
        return Target(device=cuda.probe(0, asked=asked or None), backend="cuda")
    except DeviceError:
        return Target(device=cpu.probe(asked=asked), backend="cpu")


def run(request: RunRequest, emit: Emit) -> None:
    """Measure the cells that come in on stdin, the cheapest first.

    Events: `waiting`, `locked`, `need` {sha256} and `files` around the weights that come in, those of
    `EventWriter`, and `end` {spent}.

    Args:
        request: for the time limit, the clocks and the noise floor.
        emit: writes an event.

    Raises:
        UsageError: what comes in is no list of cells.
    """
    with machine(emit) as take, tempfile.TemporaryDirectory(prefix="benchbench-") as folder:
        cells, without_weights = take_cells(take(), emit, take)
        listener = EventWriter(emit, files_of=Path(folder))
        result = run_cells(cells, request, Path(folder), progress=listener, without_weights=without_weights)
    emit({"event": "end", "spent": rec.to_json(result.spent)})


@contextlib.contextmanager
def machine(emit: Emit) -> Iterator[Take]:
    """This machine for a job of another one, which no other job has meanwhile; gives what comes in on stdin.

    When nobody is there any more, the job ends as by Ctrl-C.

    Args:
        emit: writes `waiting` and `locked`.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    inbox: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=8)
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    lock = _lock(emit)
    try:
        yield inbox.get
    finally:
        os.close(lock)


def _read(inbox: queue.Queue[dict[str, Any]]) -> None:
    """Pass on what comes in; when nobody is there any more, end as by Ctrl-C: child killed, clocks put back."""
    nothing = True
    for line in lines(sys.stdin.fileno(), math.inf):
        nothing = False
        try:
            message = json.loads(line or b"")
        except ValueError:
            message = {}
        inbox.put(message if isinstance(message, dict) else {})
    if nothing:
        inbox.put({})  # which is refused as no cells
        return
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # a real one, which wakes select
    time.sleep(_END_S)
    os._exit(EXIT_INTERRUPTED)


def _lock(emit: Emit) -> int:
    """Hold the board for this process, whoever's runs there are; the system lets go when it ends."""
    import fcntl

    path = Path(tempfile.gettempdir()) / "benchbench.lock"
    try:
        # Not O_CREAT: with it Linux refuses another user's file in /tmp. Reading is enough for a lock.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        emit({"event": "waiting"})
        fcntl.flock(handle, fcntl.LOCK_EX)
    emit({"event": "locked"})
    return handle


def take_cells(message: Mapping[str, Any], emit: Emit, take: Take) -> tuple[list[Cell], dict[str, str]]:
    """The cells that come in, their weights at hand; and cell -> why its weights could not be had.

    Args:
        message: with `asked`, and of each of `cells` its card, model, workload and whether its class may be imported.
        emit: writes `need` and `files`.
        take: returns the next message.

    Raises:
        UsageError: it is no list of cells.
    """
    try:
        target = _this_machine(str(message["asked"]))
        wanted = [
            (
                rec.from_json(zoo_cards.Card, item["card"]),
                rec.from_json(rec.ModelSpec, item["model"]),
                rec.from_json(rec.Workload, item["workload"]),
                bool(item["trusted"]),  # whoever asks has named its class
            )
            for item in message["cells"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"no cells come in on stdin ({error!r}): --from-stdin is what --device HOST starts") from error
    for _, model, _, is_trusted in wanted:
        if is_trusted:
            classes.allow_import(model.arch)
    digests = dict.fromkeys(model.checkpoint for _, model, _, _ in wanted if model.checkpoint)
    paths = {digest: path for digest in digests if (path := weights.find(digest))}
    missing = [digest for digest in digests if digest not in paths]
    emit({"event": "need", "sha256": missing})
    reasons: dict[str, str] = {}
    for digest in missing:
        try:
            paths[digest] = weights.receive(digest, take)
        except CheckpointError as error:
            reasons[digest] = str(error)
    emit({"event": "files"})
    cells, without_weights = [], {}
    for card, model, work, _ in wanted:
        here = work.data if data.is_bundled(work.data) else None  # a data set of the other side's own is not over here
        cell = make_cell(card, model, work, target, checkpoint_path=paths.get(model.checkpoint or ""), data_where=here)
        cells.append(cell)
        if model.checkpoint in reasons:
            without_weights[cell.id] = reasons[model.checkpoint]
    return cells, without_weights
