"""`bench data`: data sets are listed, downloaded, checked, prepared and split, and their cache is shown."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from benchbench import data
from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.output import Row, render_facts
from benchbench.cli.parser import actions, add_shared
from benchbench.core import cache
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, DataError, os_error_as
from benchbench.core.units import format_value
from benchbench.data import preprocessing, splits
from benchbench.data.download import fetch, list_known
from benchbench.data.folder import plan_folder, prepared_folder
from benchbench.data.layouts import open_source
from benchbench.data.plan import ALL
from benchbench.data.validate import check_folder
from benchbench.report import writers


def add(sub: argparse.ArgumentParser) -> None:
    """The actions and their flags."""
    action = actions(sub)
    sub = action("list", "list the data sets that come with benchbench, those in a folder, and how to get others")
    sub.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder to look for data sets in, too")
    add_shared(sub, "--format")

    sub = action("fetch", "download a data set of the Medical Segmentation Decathlon, and verify its checksum")
    sub.add_argument("name", metavar="NAME", help="name in 'bench data list', such as msd:Task04")
    sub.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="folder to put it in (default: data)")

    sub = action(
        "check",
        "read every case and look for faults: geometry, labels, missing and damaged files, duplicates; exit 3 if any",
    )
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add_shared(sub, "--format", choices=("table", "json"))
    add_shared(sub, "--progress")

    sub = action("prepare", "preprocess every case and keep it in the cache; training does so by itself")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add_shared(sub, "--progress")

    sub = action("split", "write the five folds to a splits_final.json, as nnU-Net reads them")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the data set")
    add_shared(
        sub,
        "--out",
        default=Path(splits.SPLITS_FILE),
        metavar="FILE",
        help="file to write (default: splits_final.json)",
    )
    add_shared(sub, "--force", help="replace the file at --out even if its content differs")

    sub = action("cache", "show where the prepared cases are and how large they are")
    sub.add_argument("--clear", action="store_true", help="remove the prepared cases")
    add_shared(sub, "--format")


def run(options: argparse.Namespace) -> int:
    """Carry out an action."""
    if options.action in (None, "list"):
        below, fmt = getattr(options, "folder", None), getattr(options, "format", "table")
        print(writers.write(rows(below), fmt))
        if fmt == "table" and below is None:
            print(f"\n{next_line('for those in a folder of yours', 'data', 'list', 'DIR')}")
    elif options.action == "fetch":
        folder = fetch(options.name, options.to)
        print(f"data set: {folder}\n{next_line('to look for faults in it', 'data', 'check', folder)}")
    elif options.action == "split":
        print(splits.write_list(open_source(options.folder), options.out, force=options.force))
    elif options.action == "prepare":
        return _prepare(options)
    elif options.action == "check":
        return _check(options)
    elif options.clear:
        print(f"{format_value(sum(map(cache.clear, _cached_data_sets())), 'B')} removed")
    else:
        print(writers.write(cache_rows(), options.format))
    return EXIT_OK


def _prepare(options: argparse.Namespace) -> int:
    plan = plan_folder(options.folder, fold=ALL)
    with progress_of.of_steps(options) as progress:
        bad = preprocessing.prepare_all(plan, progress=progress.case)
    for text in bad.values():
        print(f"left out: {text}")
    size = cache.size_bytes(prepared_folder(plan))
    print(f"{sum(plan.splits.values()) - len(bad)} cases prepared: {format_value(size, 'B')}")
    print(f"cache: {prepared_folder(plan)}")
    print(_to_train(options))
    return EXIT_INCOMPLETE if bad else EXIT_OK


def _to_train(options: argparse.Namespace) -> str:
    words = ("train", "slim_unetr_s2", "--data", options.folder, "--budget", "20min")
    return next_line("to train on it", *words)


def _check(options: argparse.Namespace) -> int:
    with progress_of.of_steps(options) as progress:
        checked = check_folder(options.folder, progress=progress.case)
    if options.format == "json":
        plain = {
            "data": checked.summary(),
            "faults": [dataclasses.asdict(fault) for fault in checked.faults],
            "cases": [dataclasses.asdict(fact) for fact in checked.facts],
            "ok": checked.ok,
        }
        print(writers.to_json(plain))
    else:
        print(render_facts(checked.summary(), "table"))
        print("\n".join(checked.fault_lines or ["no fault", _to_train(options)]))
    return EXIT_OK if checked.ok else EXIT_INCOMPLETE


def rows(below: Path | None = None) -> list[Row]:
    """The data sets that come with benchbench, those in the folder `below`, and those that are publicly known.

    Raises:
        DataError: it is no folder.
    """
    data_sets = [
        _row(plan.name, plan.title, sum(plan.splits.values()), "comes with benchbench", plan.licence)
        for plan in data.list_datasets()
    ]
    if below is not None:
        if not below.is_dir():
            raise DataError(f"{below} is no folder")
        with os_error_as(DataError, f"cannot read {below}"):
            data_sets += _rows_below(below)
    for public in list_known():
        size = f" ({public.gigabytes:g} GB)" if public.gigabytes else ""
        data_sets.append(_row(public.name, public.title, "-", public.how + size, public.licence))
    return data_sets


def _rows_below(below: Path) -> Iterator[Row]:
    for folder in sorted(path for path in below.iterdir() if path.is_dir()):
        try:
            source = open_source(folder)
        except DataError as error:
            if os.path.lexists(folder / "dataset.json"):  # else it is some other folder
                yield _row(folder.name, f"cannot be used: {error}", "-", str(folder), "-")
            continue
        yield _row(source.name, source.title, len(source.cases), str(source.folder), source.licence)


def _row(name: str, what: str, cases: int | str, where: str, licence: str) -> Row:
    return {"name": name, "what": what, "cases": cases, "where": where, "licence": licence}


def cache_rows() -> list[Row]:
    """What the cache of data sets holds."""
    return [
        {"what": path.name, "size": format_value(cache.size_bytes(path), "B"), "folder": str(path)}
        for path in _cached_data_sets()
    ]


def _cached_data_sets() -> list[Path]:
    base = cache.cache_base()
    folders = [*sorted(base.glob("phantom-*")), *sorted((base / cache.PREPARED).glob("*"))]
    return [path for path in folders if path.is_dir()]
