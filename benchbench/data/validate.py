"""Validation of a data set: geometry, labels, missing files, duplicates; one finding a case and fault.

Nothing is written. A case with a fault is named and the rest goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchbench.core import cache
from benchbench.core.errors import DataError
from benchbench.core.units import format_shape, format_value
from benchbench.data import splits
from benchbench.data.folder import plan_folder, prepared_folder
from benchbench.data.layouts import open_source
from benchbench.data.plan import alike
from benchbench.data.source import CaseFiles, Fault, Source, stem
from benchbench.data.volumes import format_spacing, load_volumes, read_header

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedData:
    """What a check of a data set showed."""

    source: Source
    facts: tuple[CaseFacts, ...]
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether every case can be used."""
        return not any(fault.level == "fail" for fault in self.faults)

    @property
    def fault_lines(self) -> list[str]:
        """One line a fault, the fatal ones first."""
        ordered = sorted(self.faults, key=lambda fault: fault.level)
        return [f"{fault.level}: {fault.case + ': ' if fault.case else ''}{fault.text}" for fault in ordered]

    def summary(self) -> dict[str, str]:
        """What the whole data set is, for a person."""
        source, facts = self.source, self.facts
        labels = [
            f"{value} {name} (in {sum(fact.voxels.get(value, 0) > 0 for fact in facts)} of {len(facts)})"
            for value, name in source.labels.items()
            if value
        ]
        patients = len({case.subject for case in source.cases})
        lines = {
            "data set": f"{source.name}: {source.title}",
            "layout": source.layout,
            "cases": f"{len(source.cases)} of {patients} patients, {len(facts)} can be read",
            "channels": ", ".join(source.channels),
            "labels": ", ".join(labels),
            "regions": ", ".join(f"{name} = {'+'.join(map(str, v))}" for name, v in source.regions.items()),
        }
        if facts:
            shapes = np.array([fact.shape for fact in facts])
            lines["shape"] = f"{format_shape(tuple(shapes.min(0)))} to {format_shape(tuple(shapes.max(0)))} voxels"
            spacings = np.round([fact.spacing_mm for fact in facts], 3)
            finest, coarsest = format_spacing(spacings.min(0)), format_spacing(spacings.max(0))
            lines["spacing"] = finest if finest == coarsest else f"{finest} to {coarsest}"
        try:
            plan = plan_folder(source.folder)
        except DataError as error:
            return lines | {"split": str(error)}
        size, folder = cache.size_bytes(prepared_folder(plan)), prepared_folder(plan)
        return lines | {
            "split": ", ".join(f"{n} {name}" for name, n in plan.splits.items()),
            "patch": f"{format_shape(plan.patch)} voxels of {format_spacing(plan.spacing_mm)}",
            "prepared": f"{format_value(size, 'B')} in {folder}" if size else "not yet",
        }


def check_folder(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> CheckedData:
    """Read every case of a data set.

    Args:
        progress: told after each case, how many are done and of how many.

    Raises:
        DataError: there is no data set, or its description cannot be used.
    """
    source = open_source(folder)
    facts: list[CaseFacts] = []
    faults = list(source.faults)
    for done, case in enumerate(source.cases, 1):
        try:
            facts_of_case, faults_of_case = _examine(case, source)
        except DataError as error:
            faults.append(Fault(level="fail", case=case.id, text=str(error)))
        else:
            facts.append(facts_of_case)
            faults += faults_of_case
        if progress:
            progress(done, len(source.cases))
    faults += [*_faults_between_cases(source, facts), *_unused_files(source), *_split_faults(source)]
    return CheckedData(source=source, facts=tuple(facts), faults=tuple(faults))


def _examine(case: CaseFiles, source: Source) -> tuple[CaseFacts, list[Fault]]:
    """What one case shows, read whole."""
    header = read_header(case)
    volumes = load_volumes(case, source.labels)
    counts: dict[int, int] = {}
    if volumes.label is not None:
        values, numbers = np.unique(volumes.label, return_counts=True)
        counts = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    texts = [] if any(n for value, n in counts.items() if value) else ["its label map is all background"]
    for name, channel in zip(source.channels, volumes.image, strict=True):
        if channel.min() == channel.max():
            texts.append(f"its channel {name} is {channel.min():g} everywhere")
    facts = CaseFacts(
        id=case.id,
        shape=header.shape,
        spacing_mm=header.spacing_mm,
        voxels=counts,
        digest=hashlib.sha256(volumes.image.tobytes()).hexdigest(),
        oddities=header.oddities,
    )
    return facts, [Fault(level="warn", case=case.id, text=text) for text in texts]


def _faults_between_cases(source: Source, facts: list[CaseFacts]) -> Iterator[Fault]:
    """Duplicates, odd geometry that several share, a label that nobody has, regions of nearly one name."""
    first_of: dict[str, str] = {}
    by_oddity: dict[str, list[str]] = {}
    for fact in facts:
        if (first := first_of.setdefault(fact.digest, fact.id)) != fact.id:
            text = f"has the same voxels as {first}: a case in both training and test makes Dice meaningless"
            yield Fault(level="fail", case=fact.id, text=text)
        for oddity in fact.oddities:
            by_oddity.setdefault(oddity, []).append(fact.id)
    for oddity, ids in by_oddity.items():
        yield Fault(level="warn", case=ids[0], text=f"{oddity} ({len(ids)} cases)" if len(ids) > 1 else oddity)
    present = {value for fact in facts for value, n in fact.voxels.items() if n}
    for value, name in source.labels.items():
        if facts and value and value not in present:
            yield Fault(level="warn", text=f"no case has the label {value} ({name})")
    for names in alike(source.regions):
        text = f"its regions {' and '.join(names)} differ only in signs or capitals, which names of metrics do not keep"
        yield Fault(level="warn", text=text)


def _unused_files(source: Source) -> Iterator[Fault]:
    """Images and labels that no case uses."""
    used = {path.absolute() for case in source.cases for path in case.files}
    named = {fault.case for fault in source.faults}
    for part in ("imagesTr", "labelsTr"):
        paths = [path for path in (source.folder / part).glob("*") if not path.is_dir() and path.absolute() not in used]
        extra = sorted(path.name for path in paths if stem(path.name) and stem(path.name) not in named)
        if extra:
            more = f" and {len(extra) - _NAMED} more" if len(extra) > _NAMED else ""
            yield Fault(level="warn", text=f"{part} has {', '.join(extra[:_NAMED])}{more}, which no case uses")


def _split_faults(source: Source) -> Iterator[Fault]:
    """What is wrong with the data set's own list of folds."""
    try:
        listed = splits.read_list(source.folder)
        folds = len(listed) if isinstance(listed, list) else 0
        for fold in range(max(folds, 1)) if listed is not None else ():  # of what is no list, the first one says so
            parts = splits.split(source.cases, fold, listed=listed)
            if out := sorted({case.id for case in source.cases}.difference(*parts.values())):
                text = f"fold {fold} of {splits.SPLITS_FILE} leaves out {len(out)} cases, such as {out[0]}"
                yield Fault(level="warn", text=text)
    except DataError as error:
        yield Fault(level="fail", text=str(error))
