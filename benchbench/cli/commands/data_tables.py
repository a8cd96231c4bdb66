"""Tables of `bench data`: data sets, their cases, faults, splits and cache.

Rows and lines for a person; `cli/main.py` prints them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import cache
from benchbench.core.errors import DataError, StoreError
from benchbench.core.overwrite import check_output, files_below
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape, format_value
from benchbench.data import splits
from benchbench.data import validate as data_validate
from benchbench.data.download import list_known
from benchbench.data.folder import open_source, plan_folder, prepared_folder
from benchbench.data.layout import Source
from benchbench.data.volumes import format_spacing

Row = dict[str, Any]


def rows(below: Path | None = None) -> list[Row]:
    """The data sets that come with benchbench, those in a folder, and those that are publicly known.

    Args:
        below: a folder whose own folders are looked at; None: none is.

    Raises:
        DataError: it is no folder.
    """
    found = [
        {
            "name": plan.name,
            "what": plan.title,
            "cases": sum(plan.splits.values()),
            "where": "comes with benchbench",
            "licence": plan.licence,
        }
        for plan in data.list_datasets()
    ]
    if below is not None:
        if not below.is_dir():
            raise DataError(f"{below} is no folder")
        try:
            found += _rows_below(below)
        except OSError as error:
            raise DataError(f"cannot read {below}: {error.strerror or error}") from error
    for known in list_known():
        size = f" ({known.gigabytes:g} GB)" if known.gigabytes else ""
        found.append(
            {"name": known.name, "what": known.title, "cases": "-", "where": known.how + size, "licence": known.licence}
        )
    return found


def _rows_below(below: Path) -> Iterator[Row]:
    for folder in sorted(path for path in below.iterdir() if path.is_dir()):
        try:
            source = open_source(folder)
        except DataError as error:
            if os.path.lexists(folder / "dataset.json"):  # else it is some other folder
                yield {
                    "name": folder.name,
                    "what": f"cannot be used: {error}",
                    "cases": "-",
                    "where": str(folder),
                    "licence": "-",
                }
            continue
        yield {
            "name": source.name,
            "what": source.title,
            "cases": len(source.cases),
            "where": str(source.folder),
            "licence": source.licence,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedData:
    """What `bench data check` found."""

    source: Source
    facts: tuple[data_validate.CaseFacts, ...]
    faults: tuple[data_validate.Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether every case can be used."""
        return not any(fault.level == "fail" for fault in self.faults)


def check_folder(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> CheckedData:
    """Read every case of a data set.

    Args:
        folder: of the data set.
        progress: told after each case.

    Raises:
        DataError: there is no data set, or its description cannot be used.
    """
    source = open_source(folder)
    facts, faults = [], list(source.faults)
    for done, case in enumerate(source.cases, 1):
        fact, found = data_validate.examine(case, source)
        facts += [fact] if fact else []
        faults += found
        if progress:
            progress(done, len(source.cases))
    faults += data_validate.of_the_whole(source, facts)
    try:
        listed = splits.read_list(folder)
    except DataError as error:
        listed = None
        faults.append(data_validate.Fault(level="fail", case="", text=str(error)))
    if listed is not None:
        try:
            folds = len(listed) if isinstance(listed, list) else 0
            for fold in range(max(folds, 1)):  # of what is no list, the first one says so
                parts = splits.split(source.cases, fold, listed=listed)
                if out := sorted({case.id for case in source.cases}.difference(*parts.values())):
                    text = f"fold {fold} of {splits.SPLITS_FILE} leaves out {len(out)} cases, such as {out[0]}"
                    faults.append(data_validate.Fault(level="warn", case="", text=text))
        except DataError as error:
            faults.append(data_validate.Fault(level="fail", case="", text=str(error)))
    return CheckedData(source=source, facts=tuple(facts), faults=tuple(faults))


def facts_of(found: CheckedData) -> list[tuple[str, str]]:
    """Name and text of what the whole data set is."""
    source = found.source
    shapes = sorted({one.shape for one in found.facts})
    spacings = sorted({tuple(round(s, 3) for s in one.spacing_mm) for one in found.facts})
    labels = []
    for value, name in source.labels.items():
        if value:
            having = sum(one.voxels.get(value, 0) > 0 for one in found.facts)
            labels.append(f"{value} {name} (in {having} of {len(found.facts)})")
    patients = len({case.subject for case in source.cases})
    pairs = [
        ("data set", f"{source.name}: {source.title}"),
        ("layout", source.layout),
        ("cases", f"{len(source.cases)} of {patients} patients, {len(found.facts)} can be read"),
        ("channels", ", ".join(source.channels)),
        ("labels", ", ".join(labels)),
        ("regions", ", ".join(f"{name} = {'+'.join(map(str, v))}" for name, v in source.regions.items())),
    ]
    if shapes:
        smallest, largest = (tuple(pick(s[i] for s in shapes) for i in range(3)) for pick in (min, max))
        pairs.append(("shape", f"{format_shape(smallest)} to {format_shape(largest)} voxels"))
        finest, coarsest = (tuple(pick(s[i] for s in spacings) for i in range(3)) for pick in (min, max))
        to = f" to {format_spacing(coarsest)}" if coarsest != finest else ""
        pairs.append(("spacing", f"{format_spacing(finest)}{to}"))
    try:
        plan = plan_folder(source.folder)
        pairs.append(("split", ", ".join(f"{n} {name}" for name, n in plan.splits.items())))
        pairs.append(("patch", f"{format_shape(plan.patch)} voxels of {format_spacing(plan.spacing_mm)}"))
        kept = cache.size_bytes(prepared_folder(plan))
        pairs.append(("prepared", f"{format_value(kept, 'B')} in {prepared_folder(plan)}" if kept else "not yet"))
    except DataError as error:
        pairs.append(("split", str(error)))
    return pairs


def fault_lines(found: CheckedData) -> list[str]:
    """One line a fault, the fatal ones first."""
    ordered = sorted(found.faults, key=lambda fault: fault.level)
    return [f"{fault.level}: {fault.case + ': ' if fault.case else ''}{fault.text}" for fault in ordered]


def to_json(found: CheckedData) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "data": dict(facts_of(found)),
        "faults": [dataclasses.asdict(fault) for fault in found.faults],
        "cases": [dataclasses.asdict(one) for one in found.facts],
        "ok": found.ok,
    }


def write_splits(folder: Path, out: Path, *, force: bool = False) -> Path:
    """Write the five folds as nnU-Net reads them.

    Args:
        folder: of the data set; none of its files is replaced, but for an older list of folds.
        out: the file, or the folder of it.
        force: replace a file that says something else.

    Raises:
        DataError: there is no data set.
        StoreError: the file cannot be written, or must not be replaced.
    """
    source = open_source(folder)
    text = splits.to_nnunet(source.cases)
    try:
        path = out / splits.SPLITS_FILE if out.is_dir() else out
        if path.name == "dataset.json" and path.parent.resolve() == source.folder.resolve():
            raise StoreError(f"{path} would be read as the description of the data set: choose another --out")
        check_output(path, inputs=_files_of(source), is_ours=lambda _: path.read_bytes() == text.encode(), force=force)
        write_whole(path, text.encode())
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    return path


def _files_of(source: Source) -> Iterator[Path]:
    """Every file of a data set but the list of its folds, which is made from the others."""
    kept = source.folder / splits.SPLITS_FILE
    yield from (path for path in files_below(source.folder) if path != kept)
    for case in source.cases:  # these may lie elsewhere
        yield from (image.path for image in case.images)
        yield from [case.label] if case.label else []


def cache_rows() -> list[Row]:
    """What the cache of data sets holds."""
    base = cache.cache_base()
    folders = [*sorted(base.glob("phantom-*")), *sorted((base / cache.PREPARED).glob("*"))]
    return [
        {"what": path.name, "size": format_value(cache.size_bytes(path), "B"), "folder": str(path)}
        for path in folders
        if path.is_dir()
    ]


def clear_cache() -> int:
    """Remove every prepared case; returns the bytes."""
    base = cache.cache_base()
    return sum(cache.clear(path) for path in [*base.glob("phantom-*"), base / cache.PREPARED] if path.is_dir())
