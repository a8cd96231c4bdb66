"""Child process from its parent's side: started, listened to, ended, and its failure explained.

The parent waits in `select` and computes nothing, so it takes nothing from what is being timed. A
child that is silent past its time limit is killed; one that dies is told apart by how: the kernel's
out-of-memory killer counts its victims in /proc/vmstat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from benchbench.core import launch

_VMSTAT = Path("/proc/vmstat")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailure:
    """A child that ended without saying so."""

    status: Literal["oom", "timeout", "failed"]
    error: str
    stderr: str


def run_worker(
    request: Mapping[str, Any],
    *,
    limit_s: float,
    threads: int | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any] | WorkerFailure]:
    """Start a worker, yield its events as they come, and a WorkerFailure if it ends before its work does.

    Args:
        request: for `benchbench.runner.worker`.
        limit_s: seconds after which the child is killed.
        threads: of OpenMP and MKL in the child.
        on_start: called with the child's process id.
    """
    deadline = time.monotonic() + limit_s
    child = Child(program(launch.command("benchbench.runner.worker"), variables(threads)))
    try:
        if on_start:
            on_start(child.pid)
        child.send(request)
        done = False
        for line in lines(child.stdout, deadline):
            if line is None:
                yield WorkerFailure(
                    status="timeout",
                    error=f"stopped after its time limit of {limit_s:.0f} s; a longer one: --time-limit",
                    stderr=child.said(),
                )
                return
            event = json.loads(line)
            done = event.get("event") == "done"  # the worker's last word
            if not done:
                yield event
        if failure := child.failure(done=done):
            yield failure
    finally:
        child.close()


class Process(Protocol):
    """What is needed of `subprocess.Popen`."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None as long as it may still run."""

    def wait(self) -> int:
        """Its exit code, once it has ended."""


#: Starts a process that writes its stderr to this file and leads a session of its own: Ctrl-C reaches the parent alone,
#: which then ends the child.
Start = Callable[[IO[bytes]], Process]


def program(command: Sequence[str], environment: Mapping[str, str]) -> Start:
    """What starts a program.

    Args:
        command: its argument vector.
        environment: its variables.
    """

    def start(stderr: IO[bytes]) -> Process:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(environment),
            start_new_session=True,
        )

    return start


def variables(threads: int | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a child.

    Args:
        threads: of OpenMP and MKL in it; None: as many as they choose.
        environment: of the program; None: this process's.
    """
    chosen = launch.environment({"PYTHONUNBUFFERED": "1"}) if environment is None else dict(environment)
    if threads:
        chosen |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return chosen


class Child:
    """A child process that takes lines of JSON on stdin and answers on stdout."""

    def __init__(self, start: Start) -> None:
        """Start it.

        Args:
            start: `program`, or what else does.
        """
        self._victims = _oom_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        try:
            self._child = start(self._stderr)
        except BaseException:
            self._stderr.close()
            raise
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin, self._stdout = self._child.stdin, self._child.stdout
        self.pid, self.stdout = self._child.pid, self._stdout.fileno()
        _first_to_go(self.pid)

    def send(self, message: Mapping[str, Any]) -> None:
        """One line of JSON; whether the child is still there is told by what it answers."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def said(self) -> str:
        """The end of its stderr."""
        return tail(self._stderr)

    def failure(self, *, done: bool) -> WorkerFailure | None:
        """Why it ended, once its stdout has; None where it was done and all is well."""
        code = self._child.wait()
        if not code and done:  # a network may end its process with any code, 0 too
            return None
        return _death(code, _oom_kills() > self._victims, self.said())

    def close(self) -> None:
        """End it, if it still runs."""
        if self._child.poll() is None:
            for kill in (os.killpg, os.kill):  # it may have no session yet
                with contextlib.suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._child.wait()
        self._stderr.close()


def lines(handle: int, deadline: float, pending: bytearray | None = None) -> Iterator[bytes | None]:
    """Whole lines from a pipe as they come; None once the deadline has passed; ends with the pipe.

    Args:
        handle: of the pipe.
        deadline: by `time.monotonic`; infinite for none.
        pending: what was read and not yet given, where a later call goes on from it.
    """
    pending = bytearray() if pending is None else pending
    with selectors.PollSelector() as selector:  # which takes a file or /dev/null, too
        selector.register(handle, selectors.EVENT_READ)
        while True:
            while (end := pending.find(b"\n")) >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                yield line
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            if not selector.select(left):
                yield None
                return
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                return
            pending += chunk


def _first_to_go(pid: int) -> None:
    """Let the kernel, out of memory, kill the child and not the user's desktop."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _oom_kills() -> int:
    try:
        rows = _VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.startswith("oom_kill ")), 0)


def _death(code: int, out_of_memory: bool, stderr: str) -> WorkerFailure:
    if code == -signal.SIGKILL and out_of_memory:
        return WorkerFailure(status="oom", error="killed by the kernel: out of memory", stderr=stderr)
    if code < 0:
        name = signal.Signals(-code).name
        more = ", most likely for want of memory" if code == -signal.SIGKILL else ""
        return WorkerFailure(status="failed", error=f"its process was killed by {name}{more}", stderr=stderr)
    if not code:
        error = "its process ended with exit code 0 before its work was done: something that it ran calls sys.exit"
        return WorkerFailure(status="failed", error=f"{error} or os._exit", stderr=stderr)
    last = stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
    return WorkerFailure(status="failed", error=f"its process ended with exit code {code}: {last[0]}", stderr=stderr)


def tail(file: Any, size: int = 4000) -> str:
    """The last characters of a file that a child writes its stderr to."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - size))
    return str(file.read().decode(errors="replace"))
