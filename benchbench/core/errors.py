"""Errors that a user meets, one line each: what is wrong, why, and what to do.

Everything else that is raised is a defect of benchbench. `cli/main.py` turns these into a line on
stderr and the exit code that the class carries; nothing below it prints or exits.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator

PLACE = "path/to/"  # in a printed command, before the name of a folder that records do not tell

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_SOFTWARE = 70  # of sysexits.h: a defect of benchbench, never to be taken for a regression
EXIT_INTERRUPTED = 130


class BenchError(Exception):
    """Something that the person at the keyboard can put right; the message is one line."""

    exit_code = EXIT_USAGE


class UsageError(BenchError, ValueError):
    """A name, option or value that cannot be used."""


class ShapeError(UsageError):
    """An input size that the network cannot take; the message states the rule and the sizes near it."""


class CardError(UsageError):
    """A model card that cannot be read: a missing or unknown key, broken TOML, a wrong type."""


class DeviceError(UsageError):
    """A device that is asked for and is not there."""


class DataError(UsageError):
    """A data set that is not known or cannot be read."""


class StoreError(UsageError):
    """A results folder that is not ours, from a newer version, in use, or cannot be written."""


class CheckpointError(UsageError):
    """A checkpoint that cannot be read, or that belongs to another network."""


class UnsupportedError(BenchError):
    """The device or library cannot run this network or setting: a row `unsupported`."""

    exit_code = EXIT_INCOMPLETE


class NotMeasuredError(BenchError):
    """`--require-measured`, and only a prediction can be had."""

    exit_code = EXIT_INCOMPLETE


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def named_line(error: BaseException) -> str:
    """`ValueError: the first line of its text`; its kind alone where it has none."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def told(value: object, longest: int = 80) -> str:
    """A value in a message, cut where it is too long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


@contextlib.contextmanager
def os_error_as(kind: type[BenchError], what: str, advice: str = "") -> Iterator[None]:
    """Raise an `OSError` of the block as one line: `cannot write out.csv: No space left on device; make room`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}{advice and f'; {advice}'}") from error


_FEW = 6  # so many names are listed in the message itself
_SAME_START = 3  # letters from which a name is one cut short


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; None where none is near enough for that.

    Near is what a slip of the hand makes: at most two letters and a third of the name missing, added, wrong or
    swapped; or a name cut short by less than half. Upper case, dashes, underscores and spaces do not count.
    """
    given = _bare(name)
    near: list[tuple[int, str]] = []
    for choice in sorted(known):
        plain = _bare(choice)
        slips = _slips(given, plain)
        slip = slips <= min(2, max(len(given), len(plain)) // 3)
        cut = len(given) >= _SAME_START and plain.startswith(given) and len(given) > len(plain) / 2
        if given and plain and (slip or cut):
            near.append((slips, choice))
    return min(near)[1] if near else None


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _slips(a: str, b: str) -> int:
    """Letters to add, drop, change or swap with their neighbour to make one of the other."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        above, before = before, row
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]


def unknown(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> str:
    """The text for a name that is not known, with the nearest one that is.

    Args:
        kind: what the name should have named, such as "model".
        hint: what to do to see them all, such as "'bench list models' shows all".
    """
    choices = sorted(known)
    near = nearest(name, choices)
    text = f"unknown {kind} {name!r}"
    if near is not None:
        text += f": did you mean {near!r}?"
    elif choices and (not hint or len(choices) <= _FEW):
        text += f"; known: {', '.join(choices)}"
    if hint:
        text += f" {hint}" if text.endswith("?") else f"; {hint}"
    return text


def command(*words: object) -> str:
    """A command of bench as a person can paste it into a shell: `bench run --out 'my results'`.

    Args:
        words: of the command line behind `bench`; paths are quoted where a shell would read them otherwise.
    """
    return shlex.join(["bench", *map(str, words)])


def data_flags(key: str) -> list[str]:
    """The flags that name the data set of a record again, whose key has no folder: a place is left for that.

    Args:
        key: such as `phantom`, or `Task04_Hippocampus:0123abcd:list4567cdef:fold2:brats`.

    Returns:
        Such as `--data path/to/Task04_Hippocampus --fold 2 --empty-rule brats`, in words.
    """
    name, _, rest = key.partition(":")  # a folder has a hash, which no command takes
    words = ["--data", f"{PLACE}{name}" if rest else name]
    for part in rest.split(":"):
        words += ["--fold", part.removeprefix("fold")] if part == "all" or part.startswith("fold") else []
        words += ["--empty-rule", part] if part in ("brats", "exclude") else []
    return words


def training_flags(key: str) -> list[str]:
    """`data_flags` of a training, to which it is nothing how empty regions are judged."""
    words = data_flags(key)
    return words[: words.index("--empty-rule")] if "--empty-rule" in words else words


#: What the errors of an allocation that failed have in them.
_OOM_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # a Jetson: the allocator fails while it asks NVML what is free
)
#: What they may have where a limit is in force; oneDNN does not say why it failed.
_OOM_SIGNS_UNDER_LIMIT = (
    "could not create a",
    "could not execute a primitive",
    "failed to map segment",
    "can't start new",
)


def is_out_of_memory(error: BaseException, *, limited: bool = False) -> bool:
    """Whether an error is an allocation that failed; `limited` where a memory limit is in force."""
    signs = (*_OOM_SIGNS, *_OOM_SIGNS_UNDER_LIMIT) if limited else _OOM_SIGNS
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
