"""Validation of a data set: geometry, labels, missing files, duplicates; one finding a case and fault.

Nothing is written. A case with a fault is named and the rest goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchbench.core.errors import DataError
from benchbench.data.layout import CaseFiles, Fault, Source, stem
from benchbench.data.plan import alike
from benchbench.data.volumes import load_volumes, read_header

__all__ = ["CaseFacts", "Fault", "examine", "of_the_whole"]

_NAMED = 5  # so many files that nobody lists are named


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """What a whole case showed."""

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxels: dict[int, int]  # label -> how many voxels
    digest: str  # of the image's voxels
    oddities: tuple[str, ...] = ()  # of its geometry


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
        oddities=header.oddities,
    )
    return facts, faults


def of_the_whole(source: Source, facts: list[CaseFacts]) -> Iterator[Fault]:
    """Faults that show only between cases: duplicates, a label that nobody has, files that nobody listed."""
    seen: dict[str, str] = {}
    for fact in facts:
        if fact.digest in seen:
            text = f"has the same voxels as {seen[fact.digest]}: on both sides of a split it would be learnt by heart"
            yield Fault(level="fail", case=fact.id, text=text)
        seen.setdefault(fact.digest, fact.id)
    by_text: dict[str, list[str]] = {}
    for fact in facts:
        for oddity in fact.oddities:
            by_text.setdefault(oddity, []).append(fact.id)
    for oddity, ids in by_text.items():
        text = f"{oddity} ({len(ids)} cases)" if len(ids) > 1 else oddity
        yield Fault(level="warn", case=ids[0], text=text)
    present = {value for fact in facts for value, n in fact.voxels.items() if n}
    for value, name in source.labels.items():
        if facts and value and value not in present:
            yield Fault(level="warn", case="", text=f"no case has the label {value} ({name})")
    for names in alike(source.regions):
        text = f"its regions {' and '.join(names)} differ in signs or capitals alone, which no metric's name has"
        yield Fault(level="warn", case="", text=text)
    used = {path.absolute() for case in source.cases for path in (*(f.path for f in case.images), case.label) if path}
    known = {fault.case for fault in source.faults}
    for part in ("imagesTr", "labelsTr"):
        unused = {p.name: stem(p.name) for p in _files(source.folder / part) if p.absolute() not in used}
        extra = sorted(name for name, case in unused.items() if case and case not in known)
        if extra:
            more = f" and {len(extra) - _NAMED} more" if len(extra) > _NAMED else ""
            yield Fault(level="warn", case="", text=f"{part} has {', '.join(extra[:_NAMED])}{more}, which no case uses")


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.is_dir()]
    except OSError:  # such as of a layout without that folder
        return []
