"""Label maps that any tool wrote: which file is of which case, and whether it can be compared with the case's label.

Files are matched by name: that of the case, the same with nnU-Net's `_0000`, or that of the case's own label file.
Every fault that headers show (a missing case, another geometry) is told before any voxel is read.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchbench.core.errors import DataError, os_error_as
from benchbench.core.units import counted, first_few
from benchbench.data import folder as folders
from benchbench.data import preprocessing
from benchbench.data.plan import Case, DataPlan
from benchbench.data.source import CaseFiles, Source
from benchbench.data.volumes import check_label_header, load_label, load_volumes, read_header

if TYPE_CHECKING:
    from benchbench.data.plan import LabelMap

log = logging.getLogger(__name__)

_CHANNEL = "_0000"  # that nnU-Net puts behind the name of a case's first image
_NAMED = 3  # so many cases or files are named in a message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelMaps:
    """The label maps of one folder, for one part of a data set."""

    folder: Path
    files: Mapping[str, Path]  # case -> its file, in the order of the cases
    missing: tuple[str, ...]  # cases without one
    extra: tuple[str, ...]  # files of no case of the data set
    elsewhere: tuple[str, ...]  # cases of another part of the data set, which are not asked for


@functools.cache
def endings() -> tuple[str, ...]:
    """Of files that nibabel reads, packed ones included, the longest first."""
    import nibabel as nib

    plain = {end.lower() for kind in nib.imageclasses.all_image_classes for end in kind.valid_exts}
    packed = {plain_end + pack for plain_end in plain for pack in (".gz", ".bz2", ".zst")}
    return tuple(sorted(plain | packed, key=lambda end: (-len(end), end)))


def find_label_maps(folder: Path, plan: DataPlan, split: str, *, allow_missing: bool = False) -> LabelMaps:
    """The label map of each case of a split.

    Args:
        allow_missing: go on without the cases that have none.

    Raises:
        DataError: no such folder; two files for one case; a case without one; none for any; one of another geometry
            than its case.
    """
    if plan.folder is None:
        raise DataError(f"{plan.name} has no files that label maps could be matched with: give a folder with --data")
    source = folders.source_of(plan)
    asked = plan.ids[split]
    found, extra = _match(folder, source)
    maps = LabelMaps(
        folder=folder,
        files={case: found[case] for case in asked if case in found},
        missing=tuple(case for case in asked if case not in found),
        extra=tuple(sorted(extra)),
        elsewhere=tuple(sorted(set(found) - set(asked))),
    )
    _check_complete(maps, plan, split, allow_missing=allow_missing)
    cases = {case.id: case for case in source.cases}
    faults = list(_geometry_faults(maps, cases))
    if faults:
        more = f" ({len(faults)} of its {len(maps.files)} label maps have such a fault)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}")
    return maps


def _check_complete(maps: LabelMaps, plan: DataPlan, split: str, *, allow_missing: bool) -> None:
    """Refuse a folder without every case, and name what is passed over."""
    asked = plan.ids[split]
    if not maps.files:
        names = f": its files are called {first_few(maps.extra, _NAMED)}" if maps.extra else ""
        raise DataError(
            f"{maps.folder} has no label map of the {counted(len(asked), f'{split} case')} of {plan.name}{names}; "
            f"cases are called {first_few(asked, _NAMED)}"
        )
    lacking = f"{maps.folder} has no label map of {len(maps.missing)} of the {len(asked)} {split} cases of {plan.name}"
    if maps.missing and not allow_missing:
        raise DataError(
            f"{lacking}: {first_few(maps.missing, _NAMED)}; add them, or --allow-missing for a Dice of the "
            f"{len(maps.files)} that are there"
        )
    if maps.missing:
        log.warning("%s: %s; metrics are of %d", lacking, first_few(maps.missing, _NAMED), len(maps.files))
    if maps.extra:
        files = first_few(maps.extra, _NAMED)
        log.warning("%s: %s of no case of %s: %s", maps.folder, counted(len(maps.extra), "file"), plan.name, files)
    if maps.elsewhere:
        cases = first_few(maps.elsewhere, _NAMED)
        log.warning(
            "%s: passed over, since they are not of the split %r: %s (%s)",
            *(maps.folder, split, counted(len(maps.elsewhere), "label map"), cases),
        )


def _match(folder: Path, source: Source) -> tuple[dict[str, Path], list[str]]:
    """Case -> its file, of the whole data set; and the names of label maps that belong to none."""
    names = _names(source)
    found: dict[str, Path] = {}
    extra: list[str] = []
    for path, name in _files(folder, {Path(case.id).parent for case in source.cases}):
        case = names.get(name)
        if case is None:
            extra.append(path.name)
        elif case not in found:
            found[case] = path
        elif _is_pair(found[case], path):
            found[case] = path  # `.img`, which comes after its `.hdr` and has the voxels
        else:
            raise DataError(f"{folder} has two label maps of {case}: {found[case].name} and {path.name}; remove one")
    return found, extra


def _is_pair(header: Path, voxels: Path) -> bool:
    """Whether two files are one image, as Analyze and some NIfTI have it."""
    return voxels.name.lower() == re.sub(r"\.hdr(?=$|\.)", ".img", header.name.lower())


def _names(source: Source) -> dict[str, str]:
    """What a file may be called -> the case: its own name first, which no other case takes from it."""
    labels = Counter(_stem(case.label.name) for case in source.cases if case.label)
    names = {f"{case.id}{_CHANNEL}": case.id for case in source.cases}
    for case in source.cases:
        own = _stem(case.label.name) if case.label else None
        if own and labels[own] == 1:
            names.setdefault(own, case.id)
    return names | {case.id: case.id for case in source.cases}


def _files(folder: Path, places: Iterable[Path]) -> list[tuple[Path, str]]:
    """Files that nibabel reads, and their names without ending, below a folder as cases have them."""
    if not folder.is_dir():
        what = "a file: give the folder that it lies in" if folder.exists() else "no such folder"
        raise DataError(f"no label maps at {folder}: {what}")
    files = []
    with os_error_as(DataError, f"cannot read {folder}"):
        for place in sorted(places):
            inside = sorted((folder / place).iterdir()) if (folder / place).is_dir() else []
            for path in inside:
                name = _stem(path.name)
                if name is not None and path.is_file():
                    files.append((path, (place / name).as_posix()))
    return files


def _stem(name: str) -> str | None:
    """A file's name without its ending; None where it is of no format, or hidden."""
    if name.startswith("."):
        return None
    return next((name[: -len(end)] for end in endings() if name.lower().endswith(end)), None)


def _geometry_faults(maps: LabelMaps, cases: Mapping[str, CaseFiles]) -> Iterable[str]:
    for case, path in maps.files.items():
        try:
            read_header(cases[case])
        except DataError:
            continue  # of the data set, whoever's label map it is
        try:
            check_label_header(path, cases[case])
        except DataError as error:
            yield str(error)


def load_pair(plan: DataPlan, split: str, index: int) -> tuple[Source, CaseFiles, Case]:
    """A case whose image is not read: it is empty, and the affine is the image's.

    Raises:
        DataError: its files cannot be read, or disagree.
    """
    source, files = folders.case_files(plan, split, index)
    if files.label is None:
        raise DataError(f"{files.id} has no label map")
    header = read_header(files)
    label = load_label(files.label, files, source.labels)
    image = np.empty((len(files.images), 0, 0, 0), np.float32)
    return source, files, Case(id=files.id, image=image, label=label, affine=header.affine)


def prepared_pair(plan: DataPlan, split: str, index: int, predicted: LabelMap) -> tuple[Case, LabelMap]:
    """A case as networks get it, for a picture, and a label map of it brought there likewise.

    Args:
        predicted: (D, H, W) label values, in the voxels of the case's files.

    Raises:
        DataError: its files cannot be read, or disagree.
    """
    assert plan.preparation is not None
    source, files = folders.case_files(plan, split, index)
    volumes = load_volumes(files, source.labels)
    own, others = (
        preprocessing.prepare(dataclasses.replace(volumes, label=label), plan.preparation)
        for label in (volumes.label, predicted)
    )
    assert own.label is not None
    assert others.label is not None
    affine = np.asarray(own.image.affine, np.float64)  # type: ignore[attr-defined]
    return Case(id=files.id, image=own.image.numpy(), label=own.label, affine=affine), others.label


def describe_missing(missing: Sequence[str], asked: int) -> str:
    """`4 of 44 cases have no label map: a, b, c and 1 more`; empty where none is missing."""
    if not missing:
        return ""
    return f"{len(missing)} of {asked} cases have no label map: {first_few(missing, _NAMED)}"
