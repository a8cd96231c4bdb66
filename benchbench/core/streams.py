"""Standard output and error when closed, on a full disk, without a reader, or in ASCII.

What cannot be told on stderr never changes how a command ends. What cannot be written to stdout ends it with one line,
or, where its reader has gone, without one.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from benchbench.core.errors import StoreError

#: What stands for a character that the terminal does not know, beside `?` for all others.
_PLAIN = {
    "×": "x", "·": "*", "–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "µ": "u", "μ": "u",
    "±": "+-", "²": "^2", "³": "^3", "→": "->", "≤": "<=", "≥": ">=", "…": "...", "█": "#", "\xa0": " ", "\u202f": " ",
}  # fmt: skip
_HANDLER = "benchbench.plain"  # of what a stream's encoding lacks


class ReaderGone(Exception):
    """Nobody reads stdout any more, as behind `| head`."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: characters that look alike."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _plain)


class _Output:
    """Stdout, whose faults are told apart from those of files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._checked():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        with self._checked():
            self._stream.writelines(lines)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            _to_nowhere(self._stream)
            raise ReaderGone from error
        except OSError as error:
            _to_nowhere(self._stream)
            raise StoreError(f"cannot write to stdout: {error.strerror or error}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Messages:
    """Stderr, onto which writing never fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Streams that can be written to, for as long as a command runs; a closed one leads nowhere."""
    before = sys.stdout, sys.stderr
    if None in (sys.stdin, *before):
        _open_the_closed()
    out, messages = (stream or open(os.devnull, "w", encoding="utf-8") for stream in before)  # noqa: SIM115
    handlers = [getattr(stream, "errors", None) for stream in (out, messages)]
    for stream in (out, messages):
        _set_handler(stream, _HANDLER)
    sys.stdout, sys.stderr = _Output(out), _Messages(messages)
    try:
        yield
    finally:
        sys.stderr.flush()
        with contextlib.suppress(StoreError, ReaderGone):  # of a command that has ended with another fault
            sys.stdout.flush()
        for stream, handler in zip((out, messages), handlers, strict=True):
            if handler is not None and not stream.closed:
                _set_handler(stream, handler)
        sys.stdout, sys.stderr = before


def _open_the_closed() -> None:
    """Give the free ones of the numbers 0 to 2 to nowhere, or the next file that is opened gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(handle, True)


def _set_handler(stream: TextIO, handler: str) -> None:
    change = getattr(stream, "reconfigure", None)
    if change is not None:
        with contextlib.suppress(OSError, ValueError):
            change(errors=handler)


def _to_nowhere(stream: TextIO) -> None:
    """What is left in a stream goes nowhere, so that Python's own flush at the end does not fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, stream.fileno())
        os.close(handle)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
