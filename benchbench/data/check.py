"""Is this data set what it should be? Geometry, labels, missing files, duplicates: one finding a case and fault.

Nothing is written. A case with a fault is named and the rest goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np

from benchbench.data.source import CaseFiles, Source, stem
from benchbench.data.volumes import load_volumes, read_header
from benchbench.errors import DataError

Level = Literal["fail", "warn"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong, or odd, with one case or with the whole."""

    level: Level  # `fail`: the case is left out; `warn`: worth a look
    case: str  # empty: of the whole data set
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What a whole case showed."""

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxels: dict[int, int]  # label -> how many voxels
    digest: str  # of the image's voxels


def examine(case: CaseFiles, source: Source) -> tuple[CaseFacts | None, list[Fault]]:
    """Read one case, whole."""
    try:
        header = read_header(case)
        volumes = load_volumes(case, source.labels)
    except DataError as error:
        return None, [Fault(level="fail", case=case.id, text=str(error))]
    faults = []
    counts: dict[int, int] = {}
    if volumes.label is not None:
        values, numbers = np.unique(volumes.label, return_counts=True)
        counts = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    if not any(n for value, n in counts.items() if value):
        faults.append(Fault(level="warn", case=case.id, text="its label map is all background"))
    for name, channel in zip(source.channels, volumes.image, strict=True):
        if channel.min() == channel.max():
            text = f"its channel {name} is {channel.min():g} everywhere"
            faults.append(Fault(level="warn", case=case.id, text=text))
    facts = CaseFacts(
        id=case.id,
        shape=header.shape,
        spacing_mm=header.spacing_mm,
        voxels=counts,
        digest=hashlib.sha256(volumes.image.tobytes()).hexdigest(),
    )
    return facts, faults


def of_the_whole(source: Source, facts: list[CaseFacts]) -> Iterator[Fault]:
    """Faults that show only between cases: duplicates, a label that nobody has, files that nobody listed."""
    seen: dict[str, str] = {}
    for one in facts:
        if one.digest in seen:
            text = f"has the same voxels as {seen[one.digest]}: on both sides of a split it would be learnt by heart"
            yield Fault(level="fail", case=one.id, text=text)
        seen.setdefault(one.digest, one.id)
    for name, n in Counter(case.id for case in source.cases).items():
        if n > 1:
            yield Fault(level="fail", case=name, text=f"is listed {n} times")
    present = {value for one in facts for value, n in one.voxels.items() if n}
    for value, name in source.labels.items():
        if facts and value and value not in present:
            yield Fault(level="warn", case="", text=f"no case has the label {value} ({name})")
    listed = {file.path.name for case in source.cases for file in case.images}
    folder = source.folder / "imagesTr"
    if folder.is_dir():
        extra = sorted(p.name for p in folder.iterdir() if stem(p.name) and p.name not in listed)
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            yield Fault(level="warn", case="", text=f"imagesTr has {extra[0]}{more}, which no case uses")
