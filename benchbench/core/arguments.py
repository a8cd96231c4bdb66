"""Flags as fields of a request, and the values of flags from their text: `20min`, `2GB`, `fp32,bf16`.

Each parser is an argparse `type`; its error is a `UsageError`, beside which the command line names the flag.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

from benchbench.core import units
from benchbench.core.errors import UsageError, unknown
from benchbench.core.protocol import get_protocol

REQUIRED: Any = dataclasses.MISSING  # in the place of a default
DTYPES = ("fp32", "bf16", "fp16")  # of PyTorch
_Number = TypeVar("_Number", int, float)


def flag(name: str, default: Any = None, /, **settings: Any) -> Any:
    """A field of a request that is also a flag of its command; a flag that is not given leaves the field's default.

    Args:
        name: such as `--batch-size`, or a bare word for a positional argument.
        settings: for argparse's `add_argument`, where they do not follow from the field's type and are not those that
            every command has for this flag.
    """
    return dataclasses.field(default=default, metadata={"flag": name, **settings})


def natural(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0, "is not a whole number from 0")


def positive(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1, "is not a positive whole number")


def fold(text: str) -> int:
    """The number of a fold, from 0."""
    return _whole(text, 0, "is no fold: write a whole number from 0")


def _whole(text: str, least: int, otherwise: str) -> int:
    if not re.fullmatch(r"\d+", text.strip(), re.ASCII) or int(text) < least:
        raise UsageError(f"{text!r} {otherwise}")
    return int(text)


def one_of(**values: Any) -> Callable[[str], Any]:
    """A parser of words that stand for values."""

    def parse(text: str) -> Any:
        if text not in values:
            raise UsageError(unknown("value", text, values))
        return values[text]

    return parse


def positives(text: str) -> tuple[int, ...]:
    """`1,2,4`, each once."""
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def names(text: str) -> tuple[str, ...]:
    """`cpu,jetson`."""
    return tuple(name for name in text.split(",") if name)


def dtypes(text: str) -> tuple[str, ...]:
    """`fp32,bf16`, each once; `int8` as well, which no runtime of PyTorch has."""
    chosen = tuple(dict.fromkeys(text.split(",")))
    for name in chosen:
        if name not in (*DTYPES, "int8"):
            raise UsageError(unknown("dtype", name, (*DTYPES, "int8")))
    return chosen


def share(text: str) -> float:
    """From 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"{text!r} is not a number from 0 to below 1, such as 0.02")
    return value


def protocol(text: str) -> str:
    """A name or numbers of a protocol, as its full name."""
    return get_protocol(text).name


def _above_0(value: _Number, text: str, what: str) -> _Number:
    if value <= 0:
        raise UsageError(f"{text!r} is not {what} above 0")
    return value


def memory(text: str) -> int:
    """`2GB`, as bytes."""
    return _above_0(units.parse_bytes(text), text, "a size")


def seconds(text: str) -> float:
    """`5min`, as seconds."""
    return _above_0(units.parse_seconds(text), text, "a time")


def joules(text: str) -> float:
    """`5J`, as joules."""
    return _above_0(units.parse_joules(text), text, "an energy")


def least_dice(text: str) -> float:
    """Above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UsageError(f"{text!r} is no Dice: write a number above 0 and up to 1, such as 0.85")
    return value
