"""The errors a person meets: one line each, saying what, why and what to do.

Everything else that is raised is a defect of benchbench. `cli.py` turns these into a line on
stderr and the exit code that the class carries; nothing below it prints or exits.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable

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


_NEAR = 0.66  # of difflib's ratio: one of three letters changed, or two that changed places
_FEW = 6  # so many names are listed in the message itself


def unknown(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> str:
    """The text for a name that is not known, with the nearest one that is.

    Args:
        kind: what the name should have named, such as "model".
        name: what was given.
        known: every name that would have done.
        hint: what to do to see them all, such as "'bench list models' shows all".
    """
    choices = sorted(known)
    near = _nearest(name, choices)
    text = f"unknown {kind} {name!r}"
    if near:
        text += f": did you mean {near!r}?"
    elif choices and (not hint or len(choices) <= _FEW):
        text += f"; known: {', '.join(choices)}"
    if hint:
        text += f" {hint}" if text.endswith("?") else f"; {hint}"
    return text


def _nearest(name: str, choices: list[str]) -> str | None:
    """The choice that a person may have meant, by its letters; None where none is near."""
    plain = {choice.lstrip("-").lower(): choice for choice in reversed(choices)}  # `--` is no likeness
    wanted = name.lstrip("-").lower()
    near = difflib.get_close_matches(wanted, list(plain), n=1, cutoff=_NEAR)
    begun = [one for one in plain if len(wanted) > 2 and one.startswith(wanted)]
    return plain[near[0]] if near else plain[min(begun, key=len)] if begun else None


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
