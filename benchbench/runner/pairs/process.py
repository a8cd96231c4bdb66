"""Process of one side from its parent's view: started, told to run forwards, and its failure explained."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import launch
from benchbench.core import records as rec
from benchbench.core.errors import UsageError
from benchbench.core.version import __version__
from benchbench.runner import child_process
from benchbench.runner.child_process import Child, WorkerFailure, lines
from benchbench.runner.job import Job
from benchbench.runner.pairs import fork_server
from benchbench.runner.pairs.fork_server import ForkServer
from benchbench.runner.pairs.order import Role
from benchbench.runner.pairs.worker import PROTOCOL

MODULE = "benchbench.runner.pairs.worker"
_ANSWER_S = 1200.0  # for one answer: a network may have to be prepared, or be very slow
_HELLO_S = 120.0


class SideFailed(Exception):
    """A process of one side ended, or said that it cannot go on."""

    def __init__(self, role: Role, status: rec.Status, error: str, traceback: str | None, *, lasting: bool) -> None:
        """Make it.

        Args:
            role: of the process.
            status: of a row with this end.
            error: one line.
            traceback: of the process.
            lasting: it would fail again in the same way.
        """
        super().__init__(error)
        self.role, self.status, self.error, self.traceback, self.lasting = role, status, error, traceback, lasting


class PairProcess:
    """One network in a process that waits for each order."""

    def __init__(self, role: Role, job: Job, python: str | None = None, server: ForkServer | None = None) -> None:
        """Start it; only a server that imports torch is waited for.

        Args:
            role: in its set.
            job: the network, its workload and cores.
            python: that runs it; None: this one.
            server: that forks it, of that Python and so many threads; None: it is started by itself.

        Raises:
            UsageError: the Python cannot be started.
            SideFailed: the server has ended.
        """
        self.role, self.job, self.forked = role, job, server is not None
        try:
            if server is None:
                self._child = Child(child_process.program(*_program(MODULE, job, python)))
            else:
                self._child = Child(server.start)
        except OSError as error:
            if server is not None:
                raise SideFailed(role, "failed", str(error), None, lasting=False) from error
            raise _not_started(python, error) from error
        self._pending = bytearray()  # that came behind the last answer
        self.measurements: list[rec.Measurement] = []
        self.warm_s = 0.0  # in forwards of the warm-up
        self.moves = False  # whether its weights get another place in memory after every forward
        self.ahead = False  # whether it goes before other programs
        self.realtime = False  # whether in each forward it has real-time priority

    def build(self, *, ahead: bool = False) -> None:
        """Tell it to build the network; `wait("built")` waits for that.

        Args:
            ahead: whether it goes before other programs from now on, where the system allows it.
        """
        self._child.send({"do": "build", "job": rec.to_json(self.job), "ahead": ahead})

    def warm(self, limit_s: float) -> float:
        """Warm up for so many seconds at most, or some forwards; seconds of a forward then."""
        self._child.send({"do": "warm", "limit_s": limit_s, "memory": not self.forked})
        event = self.wait("warm")
        self.warm_s, self.moves, self.ahead = float(event["spent_s"]), bool(event["moves"]), bool(event["ahead"])
        return float(event["forward_s"])

    def forward(self, *, move: bool = True) -> tuple[float, float | None]:
        """One forward now: wall seconds, and CPU seconds where the processor computes."""
        self.start_forward(0.0, move=move)
        return self.end_forward()

    def start_forward(self, at_s: float, *, move: bool = True) -> None:
        """Have a forward begin at a moment of the system's monotonic clock.

        Args:
            at_s: that moment.
            move: whether weights get other places in memory afterwards, where they can.
        """
        self._child.send({"do": "forward", "at_s": at_s, "move": move, "realtime": self.realtime})

    def end_forward(self) -> tuple[float, float | None]:
        """Its times."""
        event = self.wait("forward")
        return float(event["wall_s"]), event["cpu_s"]

    def bind(self, core: int) -> None:
        """Keep it to one core from now on."""
        self._child.send({"do": "core", "core": core})
        self.wait("bound")

    def environment(self) -> dict[str, Any]:
        """The conditions over there."""
        work = self.job.workload
        message = {"do": "environment", "backend": self.job.backend, "threads": work.threads, "gpu": self.job.gpu}
        self._child.send(message)
        return dict(self.wait("environment")["environment"])

    def finish(self, *, energy: bool, accuracy: bool) -> None:
        """Have it tell its memory, and measure energy and accuracy if they are wanted; `measurements` has them then.

        Not one that was forked: libraries that its server has read are not resident in it, so its memory is no measure.
        """
        self._child.send({"do": "finish", "energy": energy, "accuracy": accuracy})
        end = self.wait("finished")
        if end["status"] not in ("ok", "unstable"):
            raise SideFailed(self.role, end["status"], str(end["error"]), None, lasting=True)

    def wait(self, kind: str, limit_s: float = _ANSWER_S) -> Mapping[str, Any]:
        """The next event of a kind; measurements that come before it are kept.

        Raises:
            SideFailed: the process ended, refused, or did not answer in time.
        """
        for event in self._events(limit_s):
            if event["event"] == kind:
                return event
            if event["event"] == "measurement":
                self.measurements.append(rec.from_json(rec.Measurement, event["measurement"]))
            elif event["event"] == "refused":
                raise SideFailed(self.role, event["status"], event["error"], event["traceback"], lasting=True)
        raise AssertionError  # the events end by raising

    def _events(self, limit_s: float) -> Iterator[dict[str, Any]]:
        for line in lines(self._child.stdout, time.monotonic() + limit_s, self._pending):
            if line is None:
                why = f"it did not answer within {limit_s:.0f} s"
                raise SideFailed(self.role, "timeout", why, self._child.said() or None, lasting=False)
            yield json.loads(line)
        raise self._died(self._child.failure(done=False))

    def _died(self, failure: WorkerFailure | None) -> SideFailed:
        assert failure is not None
        return SideFailed(self.role, failure.status, failure.error, failure.stderr or None, lasting=False)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def fork_server_of(jobs: Sequence[Job], python: str | None, *, ahead: bool) -> ForkServer:
    """A server that forks processes of some jobs; nothing is waited for.

    Args:
        jobs: of equally many threads, on the same cores.
        python: that runs it; None: this one.
        ahead: whether it goes before other programs, where the system allows it.

    Raises:
        UsageError: the Python cannot be started.
    """
    command, variables = _program(fork_server.MODULE, jobs[0], python)
    priority = fork_server.AHEAD if ahead else fork_server.BESIDE
    words = [priority, ",".join(map(str, jobs[0].cores)), *(job.model.arch for job in jobs)]
    try:
        return ForkServer([*command, *words], variables)
    except OSError as error:
        raise _not_started(python, error) from error


def _not_started(python: str | None, error: OSError) -> UsageError:
    return UsageError(f"--python {python} cannot be started: {error.strerror or error}")


def _program(module: str, job: Job, python: str | None) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a process that runs a module."""
    threads = job.workload.threads
    if python is None:
        return launch.command(module), child_process.variables(threads)
    variables = child_process.variables(threads, launch.environment_of_another(Path(python)))
    return launch.installed_command(python, module), variables


def ask_environment(job: Job, python: str) -> dict[str, Any]:
    """The conditions of a job under another Python.

    Raises:
        UsageError: it cannot be started, has no benchbench, or one that this one does not understand.
    """
    process = PairProcess("b", job, python)
    try:
        hello = process.wait("hello", _HELLO_S)
        far, near = (hello["schema"], hello["protocol"]), (rec.SCHEMA, PROTOCOL)
        if far != near:
            raise UsageError(
                f"--python {python} has benchbench {hello['version']} with schema {far[0]}, messages {far[1]}, and "
                f"this one ({__version__}) has schema {near[0]}, messages {near[1]}: upgrade the older of them"
            )
        return process.environment()
    except SideFailed as failed:
        raise UsageError(f"--python {python}: {_no_worker(failed)}") from failed
    finally:
        process.close()


def _no_worker(failed: SideFailed) -> str:
    said = failed.traceback or ""
    if "No module named 'benchbench'" in said or "No module named benchbench" in said.partition(".runner")[0]:
        return "benchbench is not installed there: install it, with the torch that is to be compared"
    if "benchbench.runner.pairs" in said:
        return "its benchbench is older and cannot measure in pairs: upgrade it there"
    return failed.error
