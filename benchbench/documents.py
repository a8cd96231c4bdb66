"""TOML that people write: cards, device profiles, hosts, configurations. Its faults are told in one line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.errors import BenchError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Types = Mapping[str, tuple[type, ...]]
_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def read_toml(path: Path, what: str, kind: type[BenchError], *, may_be_missing: bool = False) -> dict[str, Any]:
    """A file's tables.

    Args:
        path: of it.
        what: it is, such as `the card`.
        kind: of the error where it cannot be read.
        may_be_missing: then it is empty.

    Raises:
        BenchError: of that kind; no such file, or broken TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return {}
        raise kind(f"cannot read {what} {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise kind(f"{what} {path} is not valid TOML: {error}") from error


def check_keys(found: Mapping[str, Any], required: Types, optional: Types, where: str, kind: type[BenchError]) -> None:
    """Refuse a table that lacks a key, or has one that means nothing or is of the wrong type.

    Args:
        found: the table.
        required: key -> its types.
        optional: likewise.
        where: it stands, such as `me.toml`.
        kind: of the error.

    Raises:
        BenchError: of that kind.
    """
    allowed = {**required, **optional}
    for key in found:
        if key not in allowed:
            raise kind(f"{where}: {unknown('key', key, allowed)}")
    for key in required:
        if key not in found:
            raise kind(f"{where}: the key {key!r} is missing; needed are {', '.join(required)}")
    for key, value in found.items():
        check_type(value, allowed[key], f"{where}: {key}", kind)


def check_type(value: Any, types: tuple[type, ...], where: str, kind: type[BenchError]) -> None:
    """Refuse a value of another type; a truth value is no number.

    Raises:
        BenchError: of that kind.
    """
    if not isinstance(value, types) or isinstance(value, bool):
        raise kind(f"{where} must be {_NAMES[types[-1]]}, not {value!r}")
