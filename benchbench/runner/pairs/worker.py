"""Persistent worker of a paired measurement: one network, a forward at a time, each when the parent says so.

Messages are lines of JSON, `{"do": ...}`, and each is answered. What a network prints goes to stderr. The process ends
when stdin does, and with its parent.

After a forward the threads of OpenMP and others spin for a while, which would slow the other side's next forward; so
the answer waits until they sleep, unless that one takes all cores before them. Meanwhile weights and input get other
places in memory (`placement`), so that a process is not as fast as one layout of it happens to be.

Where the system lets it, its threads go before other programs (`priority`), so that no forward waits for one of these.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.core.process import exit_with_parent
from benchbench.core.version import __version__
from benchbench.devices import cpu
from benchbench.devices.environment import environment
from benchbench.runner.job import Job
from benchbench.runner.pairs.priority import Priority
from benchbench.runner.worker import Emit, private_stdout, refusal, run_of
from benchbench.zoo import classes

if TYPE_CHECKING:
    from benchbench.measure.memory import PeakMemory
    from benchbench.measure.output_check import OutputCheck
    from benchbench.measure.placement import Places
    from benchbench.runner.model_run import ModelRun

#: Of the messages; a worker of another number is refused.
PROTOCOL = 4
_WINDOW, _STEADY = 2, 0.05  # warm when the medians of two windows of so many forwards agree within this share
_SETTLING = 2  # forwards, each at other places, until the allocator has all the memory that they take
_SPIN_S = 0.0005  # before a forward that is to begin at a moment
_ENERGY_S = 2.0  # over which energy is read
_SETTLE_S = 0.3  # longest wait for threads that spin; Intel's OpenMP does so for 0.2 s


def main() -> int:
    """Answer messages until stdin ends."""
    exit_with_parent()
    emit = private_stdout()
    emit({"event": "hello", "protocol": PROTOCOL, "schema": rec.SCHEMA, "version": __version__})
    worker = _Worker(emit)
    for line in sys.stdin:
        try:
            worker.do(json.loads(line))
        except Exception as error:  # a network may raise anything; it becomes the row's reason
            emit({"event": "refused", **refusal(error, worker.run)})
            return 0
    return 0


class _Worker:
    run: ModelRun | None = None
    forward: Callable[[], object]
    timer: Callable[[Callable[[], object]], float]
    peak: PeakMemory
    check: OutputCheck
    memory: Sequence[rec.Measurement]
    places: Places | None = None

    def __init__(self, emit: Emit) -> None:
        self.emit, self.priority = emit, Priority(_threads)
        self.forward_s = math.inf  # of the last forward

    def do(self, message: Mapping[str, Any]) -> None:
        """Carry out one message."""
        getattr(self, f"_{message['do']}")(message)

    def _environment(self, message: Mapping[str, Any]) -> None:
        conditions = environment(message["backend"], message["threads"], cuda_index=message["gpu"])
        self.emit({"event": "environment", "environment": conditions})

    def _build(self, message: Mapping[str, Any]) -> None:
        job = rec.from_json(Job, message["job"])
        cpu.set_affinity(job.cores)
        if job.trusted:
            classes.allow_import(job.model.arch, job.folder)
        if message["ahead"] and job.backend == "cpu":
            self.priority.raise_it()
        self.job, self.run = job, run_of(job, self.emit)
        self.forward = self.run.built()
        from benchbench.measure.latency import cuda_timer, wall_timer
        from benchbench.measure.memory import PeakMemory
        from benchbench.measure.output_check import OutputCheck

        self.timer = cuda_timer() if job.backend == "cuda" else wall_timer
        self.check = OutputCheck(job.workload.dtype)
        self.peak = PeakMemory(job.backend, gpu=job.gpu, available_before=self.run.available)
        self.emit({"event": "built"})

    def _warm(self, message: Mapping[str, Any]) -> None:
        """Forwards until they are steady, or for so many seconds; at least one, and `_SETTLING` at other places.

        Where memory is measured, that is before anything is moved.
        """
        assert self.run is not None
        seconds: list[float] = []
        self.memory = []
        if message["memory"]:
            self._steady(seconds, message["limit_s"])
            self.memory = self.peak.measurements(self.run.base_bytes)
            self.places = self._places()
            for _ in range(_SETTLING if self.places else 0):
                self._one(seconds)
        else:
            self._one(seconds)
            self.places = self._places()
            self._steady(seconds, message["limit_s"], fewest=1 + _SETTLING)
        _settle()
        self.forward_s = statistics.median(seconds[-_WINDOW:])
        self.emit(
            {
                "event": "warm",
                "forward_s": self.forward_s,
                "spent_s": sum(seconds),
                "moves": self.places is not None,
                "ahead": self.priority.raised,
            }
        )

    def _steady(self, seconds: list[float], limit_s: float, *, fewest: int = 1) -> None:
        """Forwards of the warm-up, added to those there are.

        Args:
            seconds: of those.
            limit_s: for all of them.
            fewest: of them, whatever time they take.
        """
        from benchbench.measure.latency import is_warm

        while len(seconds) < fewest or (sum(seconds) < limit_s and not is_warm(seconds, _WINDOW, _STEADY)):
            self._one(seconds)

    def _one(self, seconds: list[float]) -> None:
        """A forward of the warm-up, weights at other places where they move."""
        if self.places:
            self.places.move()
        with self.priority.in_forward(self.forward_s):
            self.forward_s = self.timer(self._looked_at)
        self.priority.rest()
        seconds.append(self.forward_s)

    def _places(self) -> Places | None:
        """Of weights and input; None where they stay.

        Another runtime keeps weights of its own, and torch.compile would compile again.
        """
        if self.run is None or self.job.backend != "cpu" or self.job.workload.runtime != "eager":
            return None
        from benchbench.measure import placement

        if not placement.keep_freed_memory():
            return None
        module = self.run.module
        return placement.Places([*module.parameters(), *module.buffers(), self.run.x], random.Random())

    def _looked_at(self) -> None:
        out = self.forward()
        self.check.look(out)
        if self.check.bad_share:
            raise UnsupportedError(f"{self.check.bad_share:.2%} of its output is NaN or infinite: no time of it counts")

    def _forward(self, message: Mapping[str, Any]) -> None:
        """One forward, at once or at a moment of the system's clock that both of a duet wait for.

        Afterwards weights are moved, unless the message says that they stay.
        """
        until_s = message.get("at_s", 0.0)
        time.sleep(max(0.0, until_s - time.monotonic() - _SPIN_S))
        while time.monotonic() < until_s:
            pass
        with self.priority.in_forward(self.forward_s if message["realtime"] else math.inf):
            cpu_s = time.process_time()
            wall_s = self.timer(self.forward)
            cpu_s = time.process_time() - cpu_s
        if self.places and message.get("move", True):
            self.places.move()
        if not (message["realtime"] and self._fills_cores()):
            _settle()
        self.priority.rest()
        self.emit({"event": "forward", "wall_s": wall_s, "cpu_s": cpu_s if self.job.backend == "cpu" else None})

    def _fills_cores(self) -> bool:
        """Whether a forward takes every core, so that with real-time priority threads that spin have none meanwhile."""
        threads = self.job.workload.threads
        return threads is not None and threads >= len(cpu.allowed_cores())

    def _core(self, message: Mapping[str, Any]) -> None:
        """Bind every thread of this process to one core."""
        for thread in _threads():
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, {message["core"]})
        self.emit({"event": "bound"})

    def _finish(self, message: Mapping[str, Any]) -> None:
        """Memory as it was once warm, and what else is asked for when nothing is timed any more.

        Events `measurement`, then `finished`.
        """
        assert self.run is not None
        self.priority.lower()  # accuracy takes minutes, which nobody is to wait for
        self._send(*self.memory)
        if message["energy"]:
            self._energy()
        end: Mapping[str, Any] = {"status": "ok", "error": None}
        if message["accuracy"]:
            end = self.run.judged({**end})
        self.emit({"event": "finished", **end})

    def _energy(self) -> None:
        from benchbench.measure.monitor import Watch

        watch = Watch(self.job.backend, self.job.gpu)
        try:
            if watch.meter is None:
                return
            watch.begin()
            forwards, began = 0, time.monotonic()
            while not forwards or time.monotonic() - began < _ENERGY_S:
                self.forward()
                watch.between()
                forwards += 1
            watch.end()
            self._send(*(m for m in watch.measurements(forwards) if m.metric == "energy_j"))
        finally:
            watch.close()

    def _send(self, *measurements: rec.Measurement) -> None:
        for m in measurements:
            self.emit({"event": "measurement", "measurement": rec.to_json(m)})


def _settle() -> None:
    """Wait until all other threads of this process sleep."""
    own, deadline = threading.get_native_id(), time.monotonic() + _SETTLE_S
    while any(_is_running(thread) for thread in _threads() if thread != own) and time.monotonic() < deadline:
        time.sleep(0.0005)


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:  # no Linux
        return []


def _is_running(thread: int) -> bool:
    try:
        state = Path(f"/proc/self/task/{thread}/stat").read_bytes()
    except OSError:  # it has ended
        return False
    return state.rpartition(b")")[2].split()[0] == b"R"


if __name__ == "__main__":
    sys.exit(main())
