"""Standard output and error as a command finds them: closed, on a full disk, hung up, or in ASCII.

What cannot be told on stderr never changes how a command ends; a result that cannot be written to stdout ends it with
one line. A closed stream's number is given to nowhere: the next file that is opened would get it, and all that is
printed.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from benchbench.errors import BenchError

#: What stands for a character that the terminal does not know, beside `?` for all others.
_PLAIN = {
    "×": "x", "·": "*", "–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "µ": "u", "μ": "u",
    "±": "+-", "²": "^2", "³": "^3", "→": "->", "≤": "<=", "≥": ">=", "…": "...", "█": "#", "°": " deg", "\xa0": " ",
    "\u202f": " ",
}  # fmt: skip
_HANDLER, _JSON_HANDLER = "benchbench.plain", "benchbench.json"


class OutputError(BenchError, ValueError):
    """A result that cannot be written to stdout; a `ValueError`, too, which `logging` lets pass when Python ends."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: what looks alike, and the very bytes of a file's name that is no text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _PLAIN.get(character, "?"), error.start + 1


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the escapes of JSON, in which only texts can hold more than ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_HANDLER, _plain)
codecs.register_error(_JSON_HANDLER, _escaped)


class _Stream:
    """A stream that may be closed (None), with the rest of its methods."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._replace(_HANDLER)

    def _replace(self, handler: str) -> None:
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors=handler)

    def write(self, text: str) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.write(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def discard(self) -> None:
        """What is left in it goes nowhere, so that Python's own flush at the end does not fail."""
        if self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            handle = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(handle, self._stream.fileno())
            finally:
                os.close(handle)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Results(_Stream):
    """stdout: what cannot be written is an `OutputError`; `BrokenPipeError` where the reader has gone."""

    def hold_json(self) -> None:
        """What is not known to the terminal is escaped from here on, so that nothing is lost."""
        self._replace(_JSON_HANDLER)

    def write(self, text: str) -> int:  # noqa: D102 - as of any text stream
        with _told():
            return super().write(text)

    def flush(self) -> None:  # noqa: D102 - as of any text stream
        with _told():
            super().flush()


class Messages(_Stream):
    """stderr: writing to it never fails."""

    failed = False

    def write(self, text: str) -> int:  # noqa: D102 - as of any text stream
        try:
            super().write(text)
        except (OSError, ValueError):
            self.failed = True
        return len(text)

    def flush(self) -> None:  # noqa: D102 - as of any text stream
        try:
            super().flush()
        except (OSError, ValueError):
            self.failed = True


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputError(f"cannot write to stdout: {reason or error}") from error


@contextlib.contextmanager
def usable() -> Iterator[Results]:
    """Streams that can be written to, for as long as a command runs; stdout is what it yields."""
    before = sys.stdout, sys.stderr
    if None in (sys.stdin, *before):
        _open_the_closed()
    results, messages = Results(before[0]), Messages(before[1])
    sys.stdout, sys.stderr = results, messages
    try:
        yield results
    finally:
        messages.flush()
        if messages.failed:
            messages.discard()
        sys.stdout, sys.stderr = before


def _open_the_closed() -> None:
    """Give the numbers 0 to 2 that are free to nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
