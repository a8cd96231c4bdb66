"""`bench data`: data sets are listed, downloaded, checked, prepared and split, and their cache is shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.cli.output import Row, render_facts
from benchbench.cli.parser import actions, add_shared
from benchbench.cli.progress import TrainingProgress, is_shown
from benchbench.core import cache
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, DataError, StoreError
from benchbench.core.overwrite import check_output, files_below
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape, format_value
from benchbench.data import preprocessing, splits
from benchbench.data import validate as data_validate
from benchbench.data.download import fetch, list_known
from benchbench.data.folder import open_source, plan_folder, prepared_folder
from benchbench.data.layout import Source
from benchbench.data.plan import ALL
from benchbench.data.volumes import format_spacing
from benchbench.report import writers


def add(sub: argparse.ArgumentParser) -> None:
    """The actions and their flags."""
    action = actions(sub)
    sub = action("list", "those that come with benchbench, those in a folder, and how to get others")
    sub.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder whose data sets are listed, too")
    add_shared(sub, "--format")

    sub = action("fetch", "download a data set of the Medical Segmentation Decathlon, and check it")
    sub.add_argument("name", metavar="NAME", help="name of 'bench data list', such as msd:Task04")
    sub.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="folder to put it in (default: data)")

    sub = action("check", "read every case: geometry, labels, missing and damaged files, duplicates; exit 3 on a fault")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add_shared(sub, "--format", choices=("table", "json"))

    sub = action("prepare", "preprocess every case into the cache, which training does by itself")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")

    sub = action("split", "write the five folds as nnU-Net's splits_final.json")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add_shared(
        sub,
        "--out",
        default=Path(splits.SPLITS_FILE),
        metavar="FILE",
        help="file to write (default: splits_final.json)",
    )
    add_shared(sub, "--force", help="replace an --out that says something else")

    sub = action("cache", "what prepared cases take, and where")
    sub.add_argument("--clear", action="store_true", help="remove the prepared cases")
    add_shared(sub, "--format")


def run(options: argparse.Namespace) -> int:
    """Carry out an action."""
    if options.action in (None, "list"):
        print(writers.write(rows(getattr(options, "folder", None)), getattr(options, "format", "table")))
    elif options.action == "fetch":
        print(f"data set: {fetch(options.name, options.to)}")
    elif options.action == "split":
        print(write_splits(options.folder, options.out, force=options.force))
    elif options.action == "prepare":
        return _prepare(options)
    elif options.action == "check":
        return _check(options)
    elif options.clear:
        print(f"{format_value(clear_cache(), 'B')} removed")
    else:
        print(writers.write(cache_rows(), options.format))
    return EXIT_OK


def _prepare(options: argparse.Namespace) -> int:
    plan = plan_folder(options.folder, fold=ALL)
    with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
        bad = preprocessing.prepare_all(plan, progress=progress.case)
    for text in bad.values():
        print(f"left out: {text}")
    size = cache.size_bytes(prepared_folder(plan))
    print(f"{sum(plan.splits.values()) - len(bad)} cases prepared: {format_value(size, 'B')}")
    print(f"cache: {prepared_folder(plan)}")
    return EXIT_INCOMPLETE if bad else EXIT_OK


def _check(options: argparse.Namespace) -> int:
    with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
        checked = check_folder(options.folder, progress=progress.case)
    if options.format == "json":
        print(json.dumps(to_json(checked), indent=2))
    else:
        print(render_facts(dict(facts_of(checked)), "table"))
        print("\n".join(fault_lines(checked) or ["no fault"]))
    return EXIT_OK if checked.ok else EXIT_INCOMPLETE


def rows(below: Path | None = None) -> list[Row]:
    """The data sets that come with benchbench, those in the folder `below`, and those that are publicly known.

    Raises:
        DataError: it is no folder.
    """
    data_sets: list[Row] = [
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
            data_sets += _rows_below(below)
        except OSError as error:
            raise DataError(f"cannot read {below}: {error.strerror or error}") from error
    for known in list_known():
        size = f" ({known.gigabytes:g} GB)" if known.gigabytes else ""
        data_sets.append(
            {"name": known.name, "what": known.title, "cases": "-", "where": known.how + size, "licence": known.licence}
        )
    return data_sets


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
        fact, faults_of_case = data_validate.examine(case, source)
        facts += [fact] if fact else []
        faults += faults_of_case
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


def facts_of(checked: CheckedData) -> list[tuple[str, str]]:
    """Name and text of what the whole data set is."""
    source = checked.source
    shapes = sorted({fact.shape for fact in checked.facts})
    spacings = sorted({tuple(round(s, 3) for s in fact.spacing_mm) for fact in checked.facts})
    labels = []
    for value, name in source.labels.items():
        if value:
            having = sum(fact.voxels.get(value, 0) > 0 for fact in checked.facts)
            labels.append(f"{value} {name} (in {having} of {len(checked.facts)})")
    patients = len({case.subject for case in source.cases})
    pairs = [
        ("data set", f"{source.name}: {source.title}"),
        ("layout", source.layout),
        ("cases", f"{len(source.cases)} of {patients} patients, {len(checked.facts)} can be read"),
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


def fault_lines(checked: CheckedData) -> list[str]:
    """One line a fault, the fatal ones first."""
    ordered = sorted(checked.faults, key=lambda fault: fault.level)
    return [f"{fault.level}: {fault.case + ': ' if fault.case else ''}{fault.text}" for fault in ordered]


def to_json(checked: CheckedData) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "data": dict(facts_of(checked)),
        "faults": [dataclasses.asdict(fault) for fault in checked.faults],
        "cases": [dataclasses.asdict(fact) for fact in checked.facts],
        "ok": checked.ok,
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
