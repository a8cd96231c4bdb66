"""Standard output and error when closed, on a full disk, without a reader, or in ASCII.

What cannot be told on stderr never changes how a command ends. What cannot be written to stdout ends it with one line,
or, where its reader has gone, without one.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
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


class _Guarded:
    """A stream that leads nowhere once writing to it has failed, which is then handed to `on_fault`."""

    def __init__(self, stream: TextIO, on_fault: Callable[[Exception], None]) -> None:
        self._stream, self._on_fault = stream, on_fault

    def write(self, text: str) -> int:
        with self._checked():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            _to_nowhere(self._stream)
            self._on_fault(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end(error: Exception) -> None:
    """What a fault of stdout means for the command, apart from those of files."""
    if isinstance(error, BrokenPipeError):
        raise ReaderGone from error
    raise StoreError(f"cannot write to stdout: {getattr(error, 'strerror', None) or error}") from error


def _ignore(error: Exception) -> None:
    """A fault of stderr changes nothing."""


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
    sys.stdout, sys.stderr = _Guarded(out, _end), _Guarded(messages, _ignore)
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
