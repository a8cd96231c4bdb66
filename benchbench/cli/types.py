"""Argument types: `20min`, `2GB`, `fp32,bf16` and the like, each with an error that says what is expected.

Each function is an argparse `type`. What it needs of benchbench is imported when it is used, so `--help` stays fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from benchbench.core.errors import UsageError, unknown

T = TypeVar("T")

FORMATS = ("table", "json", "csv", "markdown")


def patch_schedule(text: str) -> tuple[tuple[tuple[int, ...], float], ...]:
    """`64x64x64:0.9,128x128x128:0.1`."""
    try:
        parts = [part.split(":") for part in text.split(",")]
        schedule = tuple((tuple(int(side) for side in patch.split("x")), float(share)) for patch, share in parts)
        if all(len(patch) == 3 for patch, _ in schedule):
            return schedule
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not like 64x64x64:0.9,128x128x128:0.1")


def fold(text: str) -> int:
    """A whole number from 0."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no fold: write a whole number from 0")
    return number


def fold_or_all(text: str) -> int:
    """A whole number from 0, or `all`."""
    from benchbench.data.plan import ALL

    return ALL if text == "all" else fold(text)


def budget(text: str) -> Any:
    """`20min`, `1000steps`, `300epochs`."""
    from benchbench.training.recipe import parse_budget

    return _understood(parse_budget, text)


def natural(text: str) -> int:
    """A whole number from 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return value


def positive(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return value


def positives(text: str) -> tuple[int, ...]:
    """`1,2,4`, each once."""
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def dtypes(text: str) -> tuple[str, ...]:
    """`fp32,bf16`, each once."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in ("fp32", "bf16", "fp16"):
            raise argparse.ArgumentTypeError(unknown("dtype", name, ("fp32", "bf16", "fp16")))
    return names


def _understood(parse: Callable[[str], T], text: str) -> T:
    """What a parser of ours makes of a flag's value; argparse then names the flag beside its error."""
    try:
        return parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def protocol(text: str) -> str:
    """A name or numbers of a protocol, as its full name."""
    from benchbench.core.protocol import get_protocol

    return _understood(get_protocol, text).name


def share(text: str, *, example: str = "") -> float:
    """From 0 to below 1; `example` ends the error."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to below 1{example}")
    return value


def limits(text: str) -> dict[str, float]:
    """`latency:1.10,peak_memory:1.05`."""
    from benchbench.report.compare.compare import parse_limits

    return _understood(parse_limits, text)


def metrics(text: str) -> tuple[Any, ...]:
    """`latency,dice`, each once."""
    from benchbench.report.compare.verdicts import get_metric

    return tuple(dict.fromkeys(_understood(get_metric, name.strip()) for name in text.split(",")))


def min_effect(text: str) -> float:
    """`0.02`."""
    return share(text, example=", such as 0.02")


def memory(text: str) -> int:
    """`2GB`, as bytes."""
    from benchbench.core.units import parse_bytes

    value = _understood(parse_bytes, text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory to run in")
    return value


def seconds(text: str) -> float:
    """`5min`, as seconds."""
    from benchbench.core.units import parse_seconds

    value = _understood(parse_seconds, text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time to wait")
    return value
