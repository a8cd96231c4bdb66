"""Splits into training, validation and test cases, by a hash of the patient, so that none ever moves.

A patient's fold (of five) follows from the patient's name alone. Adding cases moves nobody, another machine
finds the same, and a part of a data set splits as the whole does: weights trained on the one never saw a
reported case of the other. The price is that folds are not of exactly one size.

Three parts of one fold: `test` is the fold, reported and never tuned on; of the others a tenth is `val`,
watched while a network trains; the rest is `train`. nnU-Net calls our `test` its `val`; its
`splits_final.json` beside a data set counts instead of the hash, and can be written from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import config as core_config
from benchbench.core.errors import DataError, StoreError, os_error_as
from benchbench.core.overwrite import check_output, files_below
from benchbench.core.results import write_whole
from benchbench.data.plan import ALL
from benchbench.data.source import CaseFiles, Source

FOLDS = 5
SPLITS_FILE = "splits_final.json"
_WATCHED = 0.1  # share of a fold's other cases that is `val`


def _share(subject: str, salt: str) -> float:
    """A number in [0, 1) that belongs to a patient."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{subject}".encode()).digest()[:8], "big") / 2**64


def fold_of(subject: str) -> int:
    """A patient's fold, from 0."""
    return int(FOLDS * _share(subject, "fold"))


def split(cases: Sequence[CaseFiles], fold: int = 0, *, listed: Any = None) -> dict[str, tuple[str, ...]]:
    """The cases of `train`, `val` and `test`, by their ids, sorted.

    Args:
        fold: whose cases are `test`; `ALL`: every case is.
        listed: the content of a `splits_final.json`, which then says what `test` is.

    Raises:
        DataError: no such fold; a list that is not of this data set, or that parts a patient's scans.
    """
    if fold == ALL:
        return {"train": (), "val": (), "test": tuple(sorted(case.id for case in cases))}
    if listed is not None:
        chosen = _listed(cases, fold, listed)
    else:
        if not 0 <= fold < FOLDS:
            raise DataError(f"folds are 0 to {FOLDS - 1}, not {fold}")
        chosen = {case.id: fold_of(case.subject) == fold for case in cases}
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for case in sorted(cases, key=lambda c: c.id):
        if case.id not in chosen:
            continue  # a list may leave cases out
        watched = _share(case.subject, "val") < _WATCHED
        parts["test" if chosen[case.id] else "val" if watched else "train"].append(case.id)
    subject = {case.id: case.subject for case in cases}
    trained = {subject[c] for c in parts["train"]}
    if not parts["val"] and len(trained) > 1:  # few cases: one patient is watched
        least = min(trained, key=lambda s: _share(s, "val"))
        parts["val"] = [c for c in parts["train"] if subject[c] == least]
        parts["train"] = [c for c in parts["train"] if c not in parts["val"]]
    return {name: tuple(ids) for name, ids in parts.items()}


def _listed(cases: Sequence[CaseFiles], fold: int, listed: Any) -> dict[str, bool]:
    """Case -> whether it is in the fold, as a `splits_final.json` has it."""
    if not isinstance(listed, list) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("train"), list) and isinstance(entry.get("val"), list)
        for entry in listed
    ):
        raise DataError(f"{SPLITS_FILE} must be a list of folds, each with 'train' and 'val'")
    if not 0 <= fold < len(listed):
        raise DataError(f"{SPLITS_FILE} has folds 0 to {len(listed) - 1}, not {fold}")
    train, test = (set(map(str, listed[fold][part])) for part in ("train", "val"))
    subjects = {case.id: case.subject for case in cases}
    if strange := sorted((train | test) - set(subjects)):
        raise DataError(f"{SPLITS_FILE} names {strange[0]!r}, which the data set does not have ({len(strange)} such)")
    if both := sorted(train & test):
        raise DataError(f"{SPLITS_FILE} has {both[0]!r} in 'train' and in 'val' of fold {fold}")
    if parted := sorted({subjects[c] for c in train} & {subjects[c] for c in test}):
        raise DataError(f"{SPLITS_FILE} parts the scans of one patient, {parted[0]!r}, in fold {fold}")
    return {case: case in test for case in train | test}


def read_list(folder: Path) -> Any:
    """The content of a data set's own `splits_final.json`; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / SPLITS_FILE
    with os_error_as(DataError, f"cannot read {path}"):
        return core_config.read_json(path, "the list of splits", DataError) if path.exists() else None


def write_list(source: Source, out: Path, *, force: bool = False) -> Path:
    """Write the five folds as nnU-Net reads them: its `val` is our `test`.

    Args:
        source: none of its files is replaced, but for an older list of folds.
        out: the file, or the folder of it.
        force: replace a file that says something else.

    Raises:
        StoreError: the file cannot be written, or must not be replaced.
    """
    parts = [split(source.cases, fold) for fold in range(FOLDS)]
    folds = [{"train": sorted([*part["train"], *part["val"]]), "val": list(part["test"])} for part in parts]
    content = (json.dumps(folds, indent=2) + "\n").encode()
    with os_error_as(StoreError, f"cannot write {out}", "choose another --out"):
        path = out / SPLITS_FILE if out.is_dir() else out
        if path.name == "dataset.json" and path.parent.resolve() == source.folder.resolve():
            raise StoreError(f"{path} would be read as the description of the data set: choose another --out")
        check_output(path, inputs=_files_of(source), is_ours=lambda _: path.read_bytes() == content, force=force)
        write_whole(path, content)
    return path


def _files_of(source: Source) -> Iterator[Path]:
    """Every file of a data set but the list of its folds, which is made from the others."""
    yield from (path for path in files_below(source.folder) if path != source.folder / SPLITS_FILE)
    for case in source.cases:  # these may lie elsewhere
        yield from case.files
