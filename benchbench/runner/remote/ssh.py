"""Connection to another host: OpenSSH as a child process that runs `bench` there, with JSON events on its stdout.

ssh is the person's own, with their configuration, keys and jump hosts. It asks nothing (there is nobody to answer)
and never takes an unknown host key. What the far side prints beside its events (a login banner, a library's chatter)
is passed over. ssh joins the words after the address and gives them to a shell over there, so each is quoted for that
shell. A run over there ends when its stdin closes; so closing our end is all that Ctrl-C has to do.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from benchbench.core import records as rec
from benchbench.core.version import __version__
from benchbench.devices.hosts import Host, far_path
from benchbench.runner.child_process import lines, tail

#: How each event begins. What stands before it on its line, such as a banner without an end, does no harm.
_EVENT = b'{"event": "'
_LAST = ("end", "hello")  # events after which nothing comes
#: Of commands and events; it changes when an older far side could not follow.
PROTOCOL = 5
_CONNECT_S = 15
_GARBAGE_BYTES = 8_000_000
_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    f"ConnectTimeout={_CONNECT_S}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
)


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The far side ended before its work did."""

    error: str  # one line: what happened, and what to do
    stderr: str = ""


def command(host: Host, words: Sequence[str]) -> list[str]:
    """The argument vector that runs `bench` with these words on a host."""
    ssh = ["ssh", "-T", "-a", "-x"]
    for option in _OPTIONS:
        ssh += ["-o", option]
    if host.port:
        ssh += ["-p", str(host.port)]
    if host.user:
        ssh += ["-l", host.user]
    start = f"exec {far_path(host.python)} -m benchbench {shlex.join(words)}"
    return [*ssh, "--", host.address, f"cd {far_path(host.folder)} && {start}" if host.folder else start]


class Connection:
    """A command that was started on a host; closing it ends it."""

    def __init__(self, host: Host, words: Sequence[str]) -> None:
        """Start ssh; nothing is waited for.

        Args:
            host: where.
            words: of the command, behind `bench`.
        """
        self.host = host
        self.sent_bytes = 0
        self.answered_s: float | None = None  # from starting ssh to the far side's first word
        self._started = time.monotonic()
        self.noise = b""  # the first line that was no event, such as a login banner
        self._pending = bytearray()  # that came behind the last event, for a later call of `events`
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        self._ssh: subprocess.Popen[bytes] | None = None
        if shutil.which("ssh"):
            # Of its own session: no terminal to ask on, and Ctrl-C reaches us alone.
            self._ssh = subprocess.Popen(
                command(host, words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=dict(os.environ) | {"SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,
            )

    def send(self, message: Mapping[str, Any]) -> None:
        """One JSON line to the far side; whether it is still there is told by `events`."""
        if self._ssh is None or self._ssh.stdin is None:
            return
        line = json.dumps(message).encode() + b"\n"
        self.sent_bytes += len(line)
        with contextlib.suppress(OSError, ValueError):
            self._ssh.stdin.write(line)
            self._ssh.stdin.flush()

    def events(self, limit_s: float = math.inf) -> Iterator[dict[str, Any] | ConnectionLost]:
        """What the far side says, up to and with its last event; or a ConnectionLost, as the last.

        Args:
            limit_s: seconds from now within which all of it must be said.
        """
        if self._ssh is None or self._ssh.stdout is None:
            yield ConnectionLost("there is no ssh on this machine: install OpenSSH's client")
            return
        garbage = 0
        for line in lines(self._ssh.stdout.fileno(), time.monotonic() + limit_s, self._pending):
            if line is None:
                yield ConnectionLost(f"{self.host.url} did not answer within {limit_s:.0f} s", self._errors())
                return
            event = _event(line)
            if event is None:
                garbage += len(line)
                self.noise = self.noise or line.strip()[:80]
                if garbage > _GARBAGE_BYTES:
                    yield ConnectionLost(_no_sense(self.host, self.noise), self._errors())
                    return
                continue
            if self.answered_s is None:
                self.answered_s = time.monotonic() - self._started
            if event["event"] == "error":
                yield ConnectionLost(printable(str(event.get("error"))), str(event.get("traceback") or ""))
                return
            yield event
            if event["event"] in _LAST:
                return
        code = self._ssh.wait()
        stderr = self._errors()
        yield ConnectionLost(printable(_explain(self.host, code, stderr, self.noise)), stderr)

    def _errors(self) -> str:
        return tail(self._stderr)

    def end_input(self) -> None:
        """Say no more: a far side that measures ends as by Ctrl-C, and what it says until then is still heard."""
        if self._ssh is not None and self._ssh.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._ssh.stdin.close()

    def hang_up(self) -> None:
        """End the far side; `events`, in whatever thread, then ends with a ConnectionLost."""
        if self._ssh is None:
            return
        self.end_input()
        try:
            self._ssh.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()

    def close(self) -> None:
        """End the far side, and wait until ssh is gone."""
        self.hang_up()
        if self._ssh is not None and self._ssh.stdout is not None:
            self._ssh.stdout.close()
        self._stderr.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def printable(text: str) -> str:
    """Text of another machine as one line that a terminal shows and does not obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def ask(host: Host, words: Sequence[str], *, limit_s: float) -> Iterator[dict[str, Any] | ConnectionLost]:
    """Run a command on a host that needs no input, and yield its events; a ConnectionLost ends them early.

    Args:
        host: where.
        words: of the command, behind `bench`.
        limit_s: seconds for all of it.
    """
    with Connection(host, words) as connection:
        yield from connection.events(limit_s)


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of a line, None where there is none."""
    start = line.find(_EVENT)
    try:
        return dict(json.loads(line[start:])) if start >= 0 else None
    except ValueError:
        return None


def disagreement(host: Host, hello: Mapping[str, Any]) -> str | None:
    """Why the package over there cannot work with this one, None if it can."""
    far, near = (hello.get("schema"), hello.get("protocol")), (rec.SCHEMA, PROTOCOL)
    if far == near:
        return None
    try:
        older = tuple(map(int, far)) < near  # type: ignore[arg-type]
    except (TypeError, ValueError):
        older = True
    there = f"benchbench {hello.get('version', 'of an unknown version')} on {host.name} (schema {far[0]})"
    here = f"benchbench {__version__} here (schema {near[0]})"
    which = f"on {host.name}" if older else "here"
    return f"{there} is {'older' if older else 'newer'} than {here}: upgrade the one {which}, so that both are equal"


def _no_sense(host: Host, garbage: bytes) -> str:
    said = f": it said {garbage.decode(errors='replace')!r}" if garbage else ""
    return f"{host.url} answers, but not as benchbench does{said}; does its shell's start-up file run something?"


def _explain(host: Host, code: int, stderr: str, garbage: bytes) -> str:
    """The line for a person, from what ssh and the far shell left behind."""
    last = (stderr.strip().splitlines() or [""])[-1].strip()
    by_hand = f"ssh {f'-p {host.port} ' if host.port else ''}{f'{host.user}@' if host.user else ''}{host.address}"
    if code == 255 or code < 0:
        if "IDENTIFICATION HAS CHANGED" in stderr:
            return (
                f"{host.url} shows another host key than the one that is known: it was set up anew, or somebody is in "
                f"between; make sure, then 'ssh-keygen -R' its old key and '{by_hand}' once"
            )
        if "Host key verification failed" in stderr or "host key is known" in stderr:
            return f"the host key of {host.url} is not known: '{by_hand}' once, and compare the fingerprint it shows"
        if "Permission denied" in stderr:
            return f"{host.url} refuses our key: try '{by_hand}'; 'ssh-copy-id' puts a key there"
        for sign in ("Could not resolve", "Connection refused", "timed out", "No route", "unreachable"):
            if sign in stderr:
                return f"{host.url} cannot be reached: {last}"
        return f"the connection to {host.url} was lost: {last or 'ssh said nothing'}"
    if re.search(r"No module named '?benchbench'?\b(?!\.)", stderr):
        return (
            f"benchbench is not installed for {host.python} on {host.name}: install it there, "
            f"or name the right Python with 'bench devices add {host.name} {host.url} --python PATH'"
        )
    if code == 2 and ("invalid choice" in stderr or "unknown" in last or "No module named benchbench." in stderr):
        return f"benchbench on {host.name} is older than this one ({__version__}): upgrade it there"
    if code == 127 or (code == 126 and "benchbench" not in last):
        return f"{host.python!r} cannot be run on {host.name}: {last or 'no such program'}"
    if code == 137:
        return f"benchbench on {host.name} was killed (exit code 137), most likely for want of memory"
    if garbage and code == 0:
        return _no_sense(host, garbage)
    return f"benchbench on {host.name} ended with exit code {code}: {last or 'nothing on stderr'}"
