"""Process that has imported torch and forks a worker whenever one is asked for: the child's side and the parent's.

Python and torch take longer to start than a set of short forwards lasts. A forked worker has fresh memory for weights,
input and activations, and compiles its kernels itself; what it shares with its sisters is where libraries lie.
On Linux alone: elsewhere libraries do not bear a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import IO

from benchbench.core.process import exit_with_parent
from benchbench.runner.child_process import tail

MODULE = "benchbench.runner.pairs.fork_server"
AHEAD, BESIDE = "ahead", "beside"  # words for a server that goes before other programs, and for one that does not
_MESSAGE_BYTES = 64
_ANSWER_S = 1200.0  # for one answer: the first comes after its imports


def main() -> int:
    """Fork a worker for each message with three files; for each without, say how the worker of that number ended.

    Arguments: `AHEAD` or `BESIDE`, the cores with commas, and the classes of the networks.
    """
    exit_with_parent()
    channel, own = socket.socket(fileno=os.dup(0)), os.getpid()
    priority, cores, *networks = sys.argv[1:]
    _prepare(networks, [int(core) for core in cores.split(",") if core], ahead=priority == AHEAD)
    while True:
        message, files, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 3)
        if not message:
            return 0
        if not files:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(message), 0)[1])
        elif answer := _fork():
            for file in files:
                os.close(file)
        else:
            channel.close()
            return _work(files, own)
        channel.send(str(answer).encode())


def _prepare(networks: Sequence[str], cores: Sequence[int], *, ahead: bool) -> None:
    """Import what each worker needs; of networks only benchbench's own, since a user's may start threads."""
    from benchbench.devices import cpu
    from benchbench.runner.pairs.priority import Priority

    cpu.set_affinity(cores)
    if ahead:
        Priority(lambda: [0]).raise_it()
    from benchbench.measure import latency, memory, output_check, placement  # noqa: F401
    from benchbench.runner import model_run  # noqa: F401
    from benchbench.runner.pairs import worker  # noqa: F401
    from benchbench.zoo import classes

    for network in filter(classes.may_import, networks):
        importlib.import_module(network.partition(":")[0])
    gc.freeze()  # no worker's garbage collection writes to what is shared


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads that libraries have here start anew in a child
        return os.fork()


def _work(files: Sequence[int], server: int) -> int:
    from benchbench.runner.pairs import worker

    exit_with_parent(server)
    os.setsid()
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    return worker.main()


class ForkServer:
    """Such a process from its parent's view."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; nothing is waited for.

        Args:
            command: that runs this module.
            environment: its variables, and its workers'.

        Raises:
            OSError: the program cannot be started.
        """
        with contextlib.ExitStack() as opened:
            self._channel, theirs = map(opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            self._channel.settimeout(_ANSWER_S)
            self._stderr = opened.enter_context(tempfile.TemporaryFile())
            self._server = subprocess.Popen(
                list(command),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=dict(environment),
                start_new_session=True,
            )
            theirs.close()
            self._opened = opened.pop_all()

    @property
    def ended(self) -> bool:
        """Whether it can fork no more; its workers have ended with it."""
        return self._server.poll() is not None

    def start(self, stderr: IO[bytes]) -> ForkedProcess:
        """A worker that leads a session of its own, once the server is ready; `child_process.Start`.

        Args:
            stderr: of the worker.

        Raises:
            OSError: the server has ended.
        """
        stdin, ours = os.pipe()
        mine, stdout = os.pipe()
        try:
            pid = self._ask(b"fork", [stdin, stdout, stderr.fileno()])
        except BaseException:  # Ctrl-C, too, while it imports torch
            os.close(ours)
            os.close(mine)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        return ForkedProcess(self, pid, os.fdopen(ours, "wb"), os.fdopen(mine, "rb"))

    def exit_code(self, pid: int) -> int:
        """How a worker ended, once it has."""
        try:
            return self._ask(str(pid).encode())
        except OSError:
            return -signal.SIGKILL  # the system ends it with its server

    def _ask(self, message: bytes, files: Sequence[int] = ()) -> int:
        """What it answers.

        Raises:
            OSError: it has ended.
        """
        try:
            socket.send_fds(self._channel, [message], files)
            answer = self._channel.recv(_MESSAGE_BYTES)
        except TimeoutError as error:
            self._server.kill()
            raise OSError(f"the process that forks its workers did not answer within {_ANSWER_S:.0f} s") from error
        except OSError:
            answer = b""
        if answer:
            return int(answer)
        self._server.wait()
        last = tail(self._stderr).strip().splitlines()[-1:] or ["nothing on stderr"]
        raise OSError(f"the process that forks its workers ended: {last[0]}")

    def close(self) -> None:
        """End it."""
        self._server.kill()
        self._server.wait()
        self._opened.close()


class ForkedProcess:
    """A worker of a server, as `child_process.Process`."""

    def __init__(self, server: ForkServer, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        """It runs."""
        self._server, self.pid = server, pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if that is known."""
        if self._code is None and self._server.ended:
            self._code = -signal.SIGKILL
        return self._code

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self.poll() is None:
            self._code = self._server.exit_code(self.pid)
        assert self._code is not None
        return self._code


if __name__ == "__main__":
    sys.exit(main())
