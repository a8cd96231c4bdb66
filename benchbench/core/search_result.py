"""Record of a search, `search.json`: its reader, and the order of its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.results import SEARCH
from benchbench.core.units import counted, format_duration, format_value

#: 2: `baseline` and `comparisons` instead of a retrained published network among the points; `parent` may be null.
SCHEMA = 2
#: Runtime of a record that names none.
EAGER: Mapping[str, Any] = {"name": "eager", "title": "PyTorch, eager", "versions": {}}


PUBLISHED = "the published network"  # what the network to beat is called in a record that does not say
#: What a point of the front is compared with: kind of a row of `comparisons` -> words; {} is the network to beat.
COMPARED = {
    "published weights": "{}",
    "scratch": "the same architecture from scratch, with as much computing",
    "published": "{}, trained for the whole time",
    "scaled": "nnU-Net of the same latency, trained for the whole time",
    "random": "the best of a search with random proposals",
}
#: Of a point's files, the keys whose values are places.
FILES = ("weights", "onnx", "runtime_file")


def read_search(folder: Path) -> dict[str, Any]:
    """The record of a search.

    Raises:
        StoreError: it is not there, not one, or a newer one.
    """
    path = folder / SEARCH
    result = read_json(path, "the record of a search", StoreError)
    schema = result.get("schema") if isinstance(result, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or not isinstance(result, dict):
        raise StoreError(f"{path} is not the record of a search")
    if schema > SCHEMA:
        raise StoreError(f"{path} has schema {schema}, and this benchbench reads up to {SCHEMA}: upgrade it")
    return result


def runtime_of(search: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the times and the memory in a record are of: `name`, `title`, and `versions` of what runs a network."""
    runtime: Mapping[str, Any] = search.get("runtime") or EAGER
    return runtime


def family_of(search: Mapping[str, Any]) -> Mapping[str, str]:
    """`title`: what its networks are; `one`: what one of them is; `baseline`: what the network to beat is called."""
    family: Mapping[str, str] = search.get("family") or {
        "title": "Slim UNETR",
        "one": "Slim UNETR",
        "baseline": PUBLISHED,
    }
    return family


def is_of_parent(search: Mapping[str, Any]) -> bool:
    """Whether smaller versions of a parent were searched, and not Slim UNETRs."""
    return family_of(search)["baseline"] != PUBLISHED


def baseline_word(baseline: str) -> str:
    """`published` of `the published network`, `parent` of `the parent`."""
    return baseline.removeprefix("the ").removesuffix(" network")


def compared(kind: str, baseline: str) -> str:
    """What a comparison is with, in words.

    Args:
        baseline: what the network to beat is called.
    """
    return COMPARED[kind].format(baseline)


def trained_text(origin: str, train_s: float | None) -> str:
    """`weights that come with benchbench, 20 min of training`; None: another program trained them."""
    return f"{origin}, " + ("trained elsewhere" if train_s is None else f"{format_duration(train_s)} of training")


def ordered(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Finalists, those of the front first, the cheapest before the others."""
    return sorted(points, key=lambda p: (not p["front"], p["objective"] or 0.0))


def verdict(row: Mapping[str, Any], baseline: str = PUBLISHED) -> str:
    """What a comparison says, as a line; `baseline` is what the network to beat is called."""
    low, high = row["ci95"]
    text = (
        f"{row['point']} against {compared(row['kind'], baseline)} ({row['name']}): {row['verdict']}, Dice on test "
        f"{row['dice']:.3f} against {row['other_dice']:.3f} ({row['gain']:+.3f}, {low:+.3f} to {high:+.3f}, "
        f"{row['cases']} cases, {counted(row['seeds'], 'training')})"
    )
    own_s, other_s = row.get("own_latency_s"), row.get("latency_s")
    if own_s and other_s:
        times = f"{format_value(own_s, 's')} against {format_value(other_s, 's')}"
        ratio = other_s / own_s
        speed = f"{ratio:.2f} times as fast" if ratio >= 1 else f"{1 / ratio:.2f} times as slow"
        text += f"; {row['latency_of']} {times}, {speed}"
    return text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """What came out."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def front(self) -> list[Mapping[str, Any]]:
        """The points of the front, the cheapest first."""
        return [point for point in ordered(self.summary["points"]) if point["front"]]
