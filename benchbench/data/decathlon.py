"""Layout of the Medical Segmentation Decathlon: `dataset.json`, `imagesTr/`, `labelsTr/`.

A case of several contrasts is one 4-D file whose last axis they are. In nnU-Net v1 `dataset.json` is the same and
lists `case.nii.gz`, while its files are `case_0000.nii.gz` and so on, one a contrast. A list of files in the place of
the image, as MONAI reads it, is one a contrast, too.

Source: Antonelli et al. 2022, "The Medical Segmentation Decathlon", Nature Communications 13; nnU-Net v1,
documentation/dataset_conversion.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.errors import DataError
from benchbench.data.layout import (
    CaseFiles,
    Fault,
    ImageFile,
    Source,
    any_ending,
    by_number,
    count_faults,
    ending_faults,
    inside,
    make_source,
    read_json,
    shared_start,
    stem,
    subject_of,
    with_ending,
)


def is_decathlon(description: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` is of this layout."""
    return "modality" in description and "training" in description


def open_decathlon(folder: Path) -> Source:
    """Its labelled cases; the unlabelled test images are left alone.

    Raises:
        DataError: the description cannot be read, or lacks what is needed.
    """
    path = folder / "dataset.json"
    description = read_json(path)
    try:
        channels = tuple(str(name) for _, name in by_number(description["modality"]))
        labels = {value: str(name) for value, name in by_number(description["labels"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no Decathlon description: {error!r}") from error
    listed = description["training"]
    if not isinstance(listed, list) or not channels:
        raise DataError(f"{path} is no Decathlon description: 'training' is no list, or 'modality' names no contrast")
    cases, faults, numbered = [], [], False
    pairs: list[tuple[Path, Path]] = []
    for number, item in enumerate(listed):
        try:
            entry = _case(folder, item, len(channels))
        except DataError as error:
            faults.append(Fault(level="fail", case=_name_of(item, number), text=str(error)))
            continue
        cases.append(entry.case)
        numbered = numbered or entry.numbered
        pairs += entry.pairs
    faults += [*ending_faults(pairs), *count_faults(description, len(listed))]
    return make_source(
        folder,
        title=str(description.get("description") or description.get("name") or folder.name),
        layout="nnunet-v1" if numbered else "decathlon",
        channels=channels,
        labels=labels,
        cases=tuple(cases),
        licence=str(description.get("licence") or description.get("license") or "not stated"),
        faults=faults,
    )


def _name_of(item: Any, number: int) -> str:
    """What a case that cannot be is called by."""
    image = item.get("image") if isinstance(item, Mapping) else None
    name = stem(Path(image.replace("\\", "/")).name) if isinstance(image, str) else None
    return name or f"training[{number}]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    case: CaseFiles
    numbered: bool  # its files are those of nnU-Net v1
    pairs: list[tuple[Path, Path]]  # a file by the description, and as it is called


def _case(folder: Path, item: Any, channels: int) -> _Found:
    if not isinstance(item, Mapping) or not {"image", "label"} <= set(item):
        raise DataError(f"{folder / 'dataset.json'} lists {_short(item)}, which has no 'image' and 'label'")
    named = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if len(named) not in (1, channels):
        raise DataError(
            f"{folder / 'dataset.json'} lists {len(named)} images for a case, and 'modality' names {channels} contrasts"
        )
    asked = [inside(folder, relative) for relative in (*named, item["label"])]
    for path, relative in zip(asked, (*named, item["label"]), strict=True):
        if stem(path.name) is None:
            raise DataError(f"{folder / 'dataset.json'} lists {relative!r}, which is no .nii or .nii.gz")
    paths = [any_ending(path) for path in asked]
    *images, label = paths
    name = _common_name(images)
    first = images[0]
    if len(images) == channels > 1:
        files, numbered = tuple(ImageFile(path=path) for path in images), False
    elif numbers := _numbered(first, channels):
        name = name.removesuffix("_0000") if channels > 1 else name
        files, numbered = tuple(ImageFile(path=path) for path in numbers), True
        asked, paths = asked[-1:], paths[-1:]
    else:
        volumes = [None] if channels == 1 else list(range(channels))
        files, numbered = tuple(ImageFile(path=first, volume=volume) for volume in volumes), False
    case = CaseFiles(id=name, subject=subject_of(name), images=files, label=label)
    return _Found(case=case, numbered=numbered, pairs=list(zip(asked, paths, strict=True)))


def _numbered(image: Path, channels: int) -> list[Path]:
    """The files of nnU-Net v1 that a listed image means: `_0000` and so on; empty where it means itself."""
    name = stem(image.name) or ""
    if image.exists():
        if channels == 1 or not name.endswith("_0000"):
            return []
        name = name.removesuffix("_0000")
    start = [with_ending(image.with_name(f"{name}_{i:04d}")) for i in range(channels)]
    return start if any(path.exists() for path in start) else []


def _common_name(images: list[Path]) -> str:
    """What the files of a case have in common: their name up to a separator, else their folder's."""
    names = [stem(path.name) or path.name for path in images]
    if len(names) == 1:
        return names[0]
    shared = re.match(r"(.*)[-_. ]", names[0][: shared_start(names)])
    return shared[1].rstrip("-_. ") if shared and shared[1].strip("-_. ") else images[0].parent.name


def _short(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 60 else f"{text[:57]}..."
