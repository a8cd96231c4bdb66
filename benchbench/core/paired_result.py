"""Record of paired comparisons, `pairs.json`: what was measured of both sides, and its reader.

The verdict in the file is for other programs; who reads it with `read_pairs` judges the times again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.paired_times import Judgement, Mode, ProcessSet, judge
from benchbench.core.records import Above, AtLeast, Count, Record, from_json, record_to_json, to_json
from benchbench.core.results import PAIRS, write_whole

SCHEMA = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Where the time of a comparison went."""

    total_s: Annotated[float, AtLeast(0)] = 0.0
    forward_s: Annotated[float, AtLeast(0)] = 0.0
    start_s: Annotated[float, AtLeast(0)] = 0.0  # until all processes of a set were built


@dataclasses.dataclass(frozen=True, kw_only=True)  # without slots, which leave no room for a cached property
class PairedResult:
    """Two sides that were measured in alternation."""

    labels: tuple[str, str]  # of A and B, with what differs
    a: Record
    b: Record
    mode: Mode
    margin: Annotated[float, Above(0)]
    time_limit_s: Annotated[float, Above(0)]
    sets: tuple[ProcessSet, ...]
    asked_differences: tuple[str, ...] = ()  # what A and B were asked to differ in
    condition_differences: tuple[str, ...] = ()  # in what their environments differ
    repeated: tuple[str, ...] = ()  # why sets of processes were begun again
    error: str | None = None  # why a side could not be measured
    interrupted: bool = False
    lost: str | None = None  # how the connection to the machine that measured ended before the comparison did
    spent: Spent = Spent()
    cell: str = ""  # of the row of finished runs that this measures again

    @functools.cached_property
    def judgement(self) -> Judgement | None:
        """What the times say; None where there are none."""
        return judge(self.sets, self.mode, self.margin) if self.sets else None

    @property
    def verdict(self) -> str:
        """`same`, `faster`, `slower`, `ambiguous`; or `failed`."""
        if self.error or self.judgement is None:
            return "failed"
        return self.judgement.verdict

    @property
    def blocks(self) -> Count:
        """In all sets."""
        return sum(len(one.blocks) for one in self.sets)

    @property
    def needed_s(self) -> float | None:
        """Where ambiguous: seconds after which it would probably be decided; None where no time would do."""
        needed = self.judgement.needed_sets if self.judgement else None
        if needed is None or self.error:
            return None
        return self.spent.total_s * needed / len(self.sets)


def pairs_to_json(results: Sequence[PairedResult]) -> dict[str, Any]:
    """The content of the file."""
    return {"schema": SCHEMA, "comparisons": [_to_json(result) for result in results]}


def _to_json(result: PairedResult) -> dict[str, Any]:
    judged = {"verdict": result.verdict, "judgement": to_json(result.judgement)}
    return {**judged, **to_json(result), "a": record_to_json(result.a), "b": record_to_json(result.b)}


def write_pairs(path: Path, results: Sequence[PairedResult]) -> None:
    """Write the file whole.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, (json.dumps(pairs_to_json(results), separators=(",", ":")) + "\n").encode())


def holds_pairs(place: Path) -> bool:
    """Whether a place is the record of paired comparisons, or a folder with one and without records of a run."""
    if place.is_dir():
        return (place / PAIRS).exists() and not any(place.glob("*.jsonl"))
    return place.name == PAIRS or place.name.endswith(f".{PAIRS}")


def read_pairs(path: Path) -> tuple[PairedResult, ...]:
    """The comparisons of a file, or of the one in a folder.

    Raises:
        StoreError: it is not there, not one, or a newer one.
    """
    file = path / PAIRS if path.is_dir() else path
    content = read_json(file, "the record of a paired comparison", StoreError)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or not isinstance(content.get("comparisons"), list):
        raise StoreError(f"{file} is not the record of a paired comparison")
    if not content["comparisons"]:
        raise StoreError(f"{file} holds no comparison: none was finished")
    if schema > SCHEMA:
        raise StoreError(f"{file} has schema {schema}, and this benchbench reads up to {SCHEMA}: upgrade it")
    try:
        return tuple(
            from_json(PairedResult, item, f"comparisons[{i}]") for i, item in enumerate(content["comparisons"])
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file} is not the record of a paired comparison: {error.args[0]}") from error
