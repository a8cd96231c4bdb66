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

from benchbench.core.errors import BenchError, os_error_as, told, unknown

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
        with os_error_as(kind, f"cannot read {what} {path}"):
            if may_be_missing and not path.exists():
                return {}
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        _check(content, _DEPTH)
        return content
    except kind:
        raise
    except ValueError as error:  # also what is no UTF-8, and a number of too many digits
        raise kind(f"{what} {path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise kind(f"{what} {path} is not valid TOML: lists or tables are nested too deeply") from error


def read_json(path: Path, what: str, kind: type[BenchError]) -> Any:
    """The content of a JSON file; see `parse_json`.

    Raises:
        BenchError: of that kind; no such file, or one that is not strict JSON.
    """
    with os_error_as(kind, f"cannot read {what} {path}"):
        return parse_json(path.read_bytes(), f"{what} {path}", kind)


def parse_json(content: bytes | str, where: str, kind: type[BenchError]) -> Any:
    """Strict JSON: UTF-8, finite numbers, whole numbers of 64 bits, text without lone surrogates, at most 100 levels.

    A key that stands twice in a table, with two values, is refused: one of them would be lost.

    Args:
        where: it stands, such as `records.jsonl line 3`.

    Raises:
        BenchError: of that kind.
    """
    try:
        value = json.loads(content, parse_int=_integer, object_pairs_hook=_table)
        _check(value, _DEPTH)
    except RecursionError as error:
        raise kind(f"{where} is not valid JSON: lists or tables are nested too deeply") from error
    except ValueError as error:  # also what is no UTF-8
        raise kind(f"{where} is not valid JSON: {error}") from error
    return value


def _integer(text: str) -> int:
    return int(text) if len(text) <= 20 else _LARGEST_INTEGER  # which is refused, and Python may not read the others


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        for key, value in pairs:
            if table[key] != value:
                raise ValueError(f"the key {key[:60]!r} appears twice in one table, with different values")
    return table


def _check(content: Any, depth: int) -> None:
    """Refuse what is nested too deeply, what no JSON could say, and text that cannot be written as UTF-8."""
    if depth < 0:
        raise ValueError("lists or tables are nested too deeply")
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
        raise kind(f"{where} must be {_NAMES[types[-1]]}, not {told(value)}")
