"""Configuration of a MONAI bundle, read as data: tables with references to each other, and expressions.

MONAI runs what begins with `$`, and imports what `_target_` names. Here nothing is run and nothing imported: an
expression counts only if it is a literal, or lists and tables of literals and references; any other is refused by the
key that has it, as soon as it is needed, and `--set KEY=VALUE` gives its value. So a bundle may hold any expression in
what is not read, such as its list of files.

Source: MONAI 1.6, `bundle/config_parser.py` and `bundle/reference_resolver.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core.config import parse_json, read_json
from benchbench.core.errors import CheckpointError, os_error_as, told, unknown

#: Names of the files in `configs`, the first that is there.
INFERENCE = ("inference.json", "inference.yaml", "inference.yml")
METADATA = ("metadata.json", "metadata.yaml", "metadata.yml")
META = "_meta_"  # key under which the metadata stand, as in MONAI

_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)", re.ASCII)
_LONGEST = 4000  # letters of an expression that is looked at
_DEEPEST = 60  # references and tables in each other
_MOST = 200_000  # values in all: lists of references to lists of references grow without end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleConfig:
    """The tables of a bundle, with what `--set` changed."""

    where: Path  # of `inference.json`, for messages
    tables: Mapping[str, Any]
    left: list[int] = dataclasses.field(default_factory=lambda: [_MOST])  # values that may still be looked at

    def has(self, key: str) -> bool:
        """Whether there is something under a key such as `inferer::roi_size`."""
        try:
            self.raw(key)
        except CheckpointError:
            return False
        return True

    def raw(self, key: str, depth: int = _DEEPEST) -> Any:
        """What stands under a key, with its references and expressions.

        Raises:
            CheckpointError: nothing; the keys that are there are told.
        """
        if depth <= 0:
            raise CheckpointError(f"{self.where}: {key!r} refers to itself")
        at: Any = self.tables
        for part in _parts(key):
            if isinstance(at, str) and (found := _REFERENCE.fullmatch(at.removeprefix("$"))):
                at = self.raw(found[1], depth - 1)
            if isinstance(at, Mapping) and part in at:
                at = at[part]
            elif isinstance(at, list) and part.isdecimal() and int(part) < len(at):
                at = at[int(part)]
            else:
                keys = [name for name in at if name != META] if isinstance(at, Mapping) else []
                raise CheckpointError(f"{self.where}: {unknown('key', key, keys)}")
        return at

    def followed(self, key: str) -> tuple[Any, str]:
        """What stands under a key, or under the one that it refers to; and the key that it stands under.

        Raises:
            CheckpointError: nothing, or it refers to itself.
        """
        value = self.raw(key)
        for _ in range(_DEEPEST):
            found = _REFERENCE.fullmatch(value.removeprefix("$")) if isinstance(value, str) else None
            if found is None:
                return value, key
            key = found[1]
            value = self.raw(key)
        raise CheckpointError(f"{self.where}: {key!r} refers to itself")

    def value(self, key: str, depth: int = _DEEPEST) -> Any:
        """What stands under a key, with everything in it as plain values.

        Raises:
            CheckpointError: it is missing, needs an expression to be run, or refers to itself.
        """
        return self.resolved(self.raw(key), key, depth)

    def resolved(self, value: Any, key: str, depth: int = _DEEPEST) -> Any:
        """A value with its references and expressions as plain values; see `value`.

        Args:
            key: under which it stands.
        """
        self.left[0] -= 1
        if depth <= 0 or self.left[0] < 0:
            raise CheckpointError(f"{self.where}: {key!r} refers to itself, or is nested too deeply")
        if isinstance(value, Mapping):
            return {name: self.resolved(each, f"{key}::{name}", depth - 1) for name, each in value.items()}
        if isinstance(value, list):
            return [self.resolved(each, f"{key}::{i}", depth - 1) for i, each in enumerate(value)]
        if not isinstance(value, str):
            return value
        if found := _REFERENCE.fullmatch(value):
            return self.value(found[1], depth - 1)
        if value.startswith("$"):
            return self._of_expression(value, key, depth)
        if value.startswith("%"):
            raise self.unresolved(key, value, "takes text from elsewhere, which is not read")
        return value

    def _of_expression(self, text: str, key: str, depth: int) -> Any:
        """The value of an expression that is a literal, or is made of literals and references."""
        names: dict[str, str] = {}  # a reference has no place in Python's grammar, so a name stands for it

        def name_of(found: re.Match[str]) -> str:
            name = f"_reference_{len(names)}"
            names[name] = found[1]
            return name

        def value_of(node: ast.expr) -> Any:
            if isinstance(node, ast.Name) and node.id in names:
                return self.value(names[node.id], depth - 1)
            if isinstance(node, (ast.List, ast.Tuple)):
                return [value_of(each) for each in node.elts]
            if isinstance(node, ast.Dict) and all(each is not None for each in node.keys):
                pairs = zip(node.keys, node.values, strict=True)
                return {str(ast.literal_eval(name)): value_of(each) for name, each in pairs if name is not None}
            plain = ast.literal_eval(node)
            if plain is not None and not isinstance(plain, (bool, int, float, str)):
                raise ValueError(f"{type(plain).__name__} is no plain value")
            if isinstance(plain, str) and any(name in plain for name in names):
                raise ValueError("a reference stands in a text")
            return plain

        body = text.removeprefix("$").strip()
        try:
            if len(body) > _LONGEST:
                raise ValueError("it is too long")
            return value_of(ast.parse(_REFERENCE.sub(name_of, body), mode="eval").body)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise self.unresolved(key, text, "is an expression, which is not run") from error

    def unresolved(self, key: str, value: Any, why: str) -> CheckpointError:
        """The error for a value that cannot be used as it is, with the flag that gives another."""
        return CheckpointError(f"{self.where}: {key} = {told(value)} {why}: give its value with --set '{key}=VALUE'")


def _parts(key: str) -> list[str]:
    """`a::b#0` -> `a`, `b`, `0`."""
    return key.replace("#", "::").split("::")


def read(folder: Path, settings: Sequence[str] = ()) -> BundleConfig:
    """The configuration of a bundle.

    Args:
        folder: of the bundle, with `configs` in it.
        settings: `KEY=VALUE`, of `--set`.

    Raises:
        CheckpointError: a file is missing, and what is there is listed; or one cannot be read.
    """
    inference, metadata = (_file(folder, names) for names in (INFERENCE, METADATA))
    tables = {**_table(inference, "the configuration"), META: _table(metadata, "the metadata")}
    for setting in settings:
        _set(tables, setting, inference)
    return BundleConfig(where=inference, tables=tables)


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the `configs` of a MONAI bundle."""
    return any((folder / "configs" / name).exists() for name in (*INFERENCE, *METADATA))


def _file(folder: Path, names: Sequence[str]) -> Path:
    place = folder / "configs"
    with os_error_as(CheckpointError, f"cannot read {place}"):
        found = next((place / name for name in names if (place / name).is_file()), None)
        if found is None:
            have = ", ".join(sorted(path.name for path in place.iterdir())[:8]) or "nothing"
            raise CheckpointError(f"{place} has no {names[0]} or {names[1]}; it has {have}")
    return found


def _table(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path, what, CheckpointError) if path.suffix == ".json" else _yaml(path, what)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a list or a value, not a table")
    return content


def _yaml(path: Path, what: str) -> Any:
    """The content of a YAML file, which must be what JSON can say; aliases, which may repeat without end, are not."""
    import yaml

    with os_error_as(CheckpointError, f"cannot read {what} {path}"):
        content = path.read_bytes()
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            raise CheckpointError(f"{what} {path} has an alias (*name): write out what it stands for")
        text = json.dumps(yaml.safe_load(content), allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{what} {path} is not valid YAML of plain values: {line}") from error
    return parse_json(text, f"{what} {path}", CheckpointError)


def _set(tables: dict[str, Any], setting: str, where: Path) -> None:
    """Put the value of `KEY=VALUE` in the place of what stands there."""
    key, sign, text = setting.partition("=")
    *above, last = _parts(key.strip().lstrip("@"))
    if not sign or not last:
        raise CheckpointError(f"--set {setting!r} is not like inferer::roi_size=[96,96,96]")
    at: Any = tables
    for part in above:
        inside = at.get(part) if isinstance(at, dict) else _item(at, part)
        if not isinstance(inside, (dict, list)):
            raise CheckpointError(f"--set {key}: {where} has no table or list {part!r} there")
        at = inside
    value = _plain(text)
    if isinstance(at, dict):
        at[last] = value
    elif _item(at, last) is not None:
        at[int(last)] = value
    else:
        raise CheckpointError(f"--set {key}: {where} has no {last!r} there")


def _item(values: Any, index: str) -> Any:
    return values[int(index)] if isinstance(values, list) and index.isdecimal() and int(index) < len(values) else None


def _plain(text: str) -> Any:
    """The value of a flag: JSON, or Python's names of it, or else the text itself."""
    try:
        return parse_json(text, "--set", CheckpointError)
    except CheckpointError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def refuse_code(target: str, what: str, key: str, config: BundleConfig) -> None:
    """Refuse a name that leads into the bundle's own Python files, or anywhere but to MONAI.

    Raises:
        CheckpointError: always, with what is known about the name.
    """
    bundle = config.where.parent.parent
    top = target.partition(".")[0]
    own = top == "scripts" or (bundle / top).is_dir() or (bundle / f"{top}.py").is_file()
    if "." in target and own:
        raise CheckpointError(
            f"{config.where}: {key} is {target!r}, code of the bundle, which is not run: "
            f"a {what} has to be one of MONAI's own"
        )
