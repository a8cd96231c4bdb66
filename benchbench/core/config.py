"""Strict readers of TOML and JSON files: cards, profiles, hosts, records, sidecars, plans, states of a run.

Whatever stands in a file, reading it ends with its content or with one line that says what is wrong with it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.errors import BenchError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Types = Mapping[str, tuple[type, ...]]
_DEPTH = 100  # of lists and tables in each other; no file of ours comes near it
_LARGEST_INTEGER = 2**63  # beyond it neither pandas nor torch can hold the number
_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def read_toml(path: Path, what: str, kind: type[BenchError], *, may_be_missing: bool = False) -> dict[str, Any]:
    """A file's tables: finite numbers, whole numbers of 64 bits, no dates, at most 100 levels.

    Args:
        what: it is, such as `the card`.
        may_be_missing: then it is empty.

    Raises:
        BenchError: of that kind; no such file, or broken TOML.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        _check(content, _DEPTH)
        return content
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return {}
        raise kind(f"cannot read {what} {path}: {error.strerror or error}") from error
    except ValueError as error:  # also what is no UTF-8, and a number of too many digits
        raise kind(f"{what} {path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise kind(f"{what} {path} is not valid TOML: too many lists or tables in each other") from error


def read_json(path: Path, what: str, kind: type[BenchError]) -> Any:
    """The content of a JSON file; see `parse_json`.

    Args:
        what: it is, such as `the plan`.

    Raises:
        BenchError: of that kind; no such file, or one that is not strict JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise kind(f"cannot read {what} {path}: {error.strerror or error}") from error
    return parse_json(content, f"{what} {path}", kind)


def parse_json(content: bytes | str, where: str, kind: type[BenchError]) -> Any:
    """Strict JSON: UTF-8, finite numbers, whole numbers of 64 bits, text without lone surrogates, at most 100 levels.

    A key that stands twice in a table, with two values, is refused: one of them would be lost.

    Args:
        where: it stands, such as `records.jsonl line 3`.

    Raises:
        BenchError: of that kind.
    """
    try:
        value = json.loads(
            content,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
            object_pairs_hook=_table,
        )
        _check(value, _DEPTH)
    except RecursionError as error:
        raise kind(f"{where} is not valid JSON: too many lists or tables in each other") from error
    except ValueError as error:  # also what is no UTF-8
        raise kind(f"{where} is not valid JSON: {error}") from error
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or not -_LARGEST_INTEGER <= int(text) < _LARGEST_INTEGER:
        raise ValueError(f"{text[:20]}{'...' if len(text) > 20 else ''} has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is larger than any number")
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        for key, value in pairs:
            if table[key] != value:
                raise ValueError(f"the key {key[:60]!r} stands twice in one table, with two values")
    return table


def _check(content: Any, depth: int) -> None:
    """Refuse what is nested too deeply, what no JSON could say, and text that cannot be written as UTF-8."""
    if depth < 0:
        raise ValueError("too many lists or tables in each other")
    if isinstance(content, str) and not content.isascii():
        content.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    elif isinstance(content, dict):
        for key, value in content.items():
            _check(key, depth)
            _check(value, depth - 1)
    elif isinstance(content, list):
        for value in content:
            _check(value, depth - 1)
    elif isinstance(content, int) and not -_LARGEST_INTEGER <= content < _LARGEST_INTEGER:
        raise ValueError("a whole number has more than 64 bits")
    elif isinstance(content, float) and not math.isfinite(content):
        raise ValueError(f"{content} is no finite number")
    elif not isinstance(content, (str, int, float, type(None))):
        raise ValueError(f"{content} is a date or a time: write it as text, in quotes")


def check_keys(table: Mapping[str, Any], required: Types, optional: Types, where: str, kind: type[BenchError]) -> None:
    """Refuse a table that lacks a key, or has one that means nothing or is of the wrong type.

    Args:
        required: key -> its types.
        where: it stands, such as `me.toml`.

    Raises:
        BenchError: of that kind.
    """
    allowed = {**required, **optional}
    for key in table:
        if key not in allowed:
            raise kind(f"{where}: {unknown('key', key, allowed)}")
    for key in required:
        if key not in table:
            raise kind(f"{where}: the key {key!r} is missing; needed are {', '.join(required)}")
    for key, value in table.items():
        check_type(value, allowed[key], f"{where}: {key}", kind)


def check_type(value: Any, types: tuple[type, ...], where: str, kind: type[BenchError]) -> None:
    """Refuse a value of another type; a truth value is no number.

    Raises:
        BenchError: of that kind.
    """
    if not isinstance(value, types) or isinstance(value, bool):
        raise kind(f"{where} must be {_NAMES[types[-1]]}, not {_told(value)}")


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
