"""A data set as it lies on disk, whoever laid it out: its cases' files, channels, labels and regions.

Four layouts are known: the Medical Segmentation Decathlon, nnU-Net v2 raw, and the folders of BraTS 2020/21
and of 2023/24. A file's name says the case, and the case says the patient: two scans of one patient share
a `subject`, so that no split ever parts them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.errors import DataError

#: Endings that are read, the longest first.
ENDINGS = (".nii.gz", ".nii")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One channel of a case."""

    path: Path
    volume: int | None = None  # of a 4-D file, which one along the last axis; None: a 3-D file


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseFiles:
    """The files of one case."""

    id: str
    subject: str  # the patient; equal for several scans of one
    images: tuple[ImageFile, ...]  # one a channel, in order
    label: Path | None  # None: there is nothing to compare with


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set on disk."""

    name: str  # the folder's
    title: str
    folder: Path
    layout: str  # `decathlon`, `nnunet`, `brats2021`, `brats2023`, `brats2024`
    channels: tuple[str, ...]
    labels: Mapping[int, str]  # value in a label map -> what it is, background included
    regions: Mapping[str, tuple[int, ...]]  # what is segmented -> the labels it covers, in order
    paint: tuple[int, ...]  # label that each region gets in a prediction's map, painted in this order
    exclusive: bool  # whether no voxel is in two regions
    cases: tuple[CaseFiles, ...]
    licence: str

    @property
    def is_ct(self) -> bool:
        """Whether its only channel is in Hounsfield units."""
        return tuple(name.upper() for name in self.channels) == ("CT",)


def make_source(
    folder: Path,
    *,
    title: str,
    layout: str,
    channels: tuple[str, ...],
    labels: Mapping[int, str],
    regions: Mapping[str, tuple[int, ...]] | None = None,
    paint: tuple[int, ...] | None = None,
    cases: tuple[CaseFiles, ...],
    licence: str,
) -> Source:
    """A source, with regions from the labels where none are given.

    Raises:
        DataError: nothing but background, a region of no or of an unknown label, or no case.
    """
    if regions is None:
        regions = {name: (value,) for value, name in sorted(labels.items()) if value}
        paint = tuple(value for value in sorted(labels) if value)
    covered = [value for values in regions.values() for value in values]
    if not regions:
        raise DataError(f"{folder}: its labels name nothing but background, so there is nothing to segment")
    if strange := sorted(set(covered) - set(labels)):
        raise DataError(f"{folder}: a region covers the label {strange[0]}, which its labels do not have")
    if not cases:
        raise DataError(f"{folder}: no case in it")
    return Source(
        name=folder.resolve().name,
        title=title,
        folder=folder,
        layout=layout,
        channels=channels,
        labels=dict(sorted(labels.items())),
        regions=regions,
        paint=paint or tuple(values[0] for values in regions.values()),
        exclusive=len(set(covered)) == len(covered),
        cases=tuple(sorted(cases, key=lambda case: case.id)),
        licence=licence,
    )


_SCAN_OF_BRATS = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}")


def subject_of(case: str) -> str:
    """The patient of a case, by its name: of BraTS since 2023 without the scan's number, else the case itself."""
    found = _SCAN_OF_BRATS.match(case)
    return found[1] if found else case


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a list or a value, not an object with the data set's description")
    return found


def stem(name: str) -> str | None:
    """A file's name without its ending; None for a file that is no image, or hidden."""
    if name.startswith("."):  # such as macOS leaves in archives
        return None
    return next((name[: -len(end)] for end in ENDINGS if name.endswith(end)), None)


def inside(folder: Path, relative: str) -> Path:
    """A path that a description names, which must not lead out of the data set.

    Raises:
        DataError: it does.
    """
    path = folder / relative
    if relative.startswith("/") or ".." in Path(relative).parts:
        raise DataError(f"{folder}: its description names {relative!r}, which lies outside of the data set")
    return path
