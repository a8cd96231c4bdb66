"""Layout of the Medical Segmentation Decathlon: `dataset.json`, `imagesTr/`, `labelsTr/`.

A case of several contrasts is one 4-D file whose last axis they are. In nnU-Net v1 `dataset.json` is the same and
lists `case.nii.gz`, while its files are `case_0000.nii.gz` and so on, one a contrast. A list of files in the place of
the image, as MONAI reads it, is one a contrast, too.

Source: Antonelli et al. 2022, "The Medical Segmentation Decathlon", Nature Communications 13; nnU-Net v1,
documentation/dataset_conversion.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.errors import DataError, told
from benchbench.data.source import (
    CaseFiles,
    Fault,
    ImageFile,
    Source,
    by_number,
    described,
    files_named,
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
    cases: list[CaseFiles] = []
    faults: list[Fault] = []
    renamed: list[str] = []
    layout = "decathlon"
    for number, item in enumerate(listed):
        try:
            paths = files_named(folder, _names(folder, item, len(channels)), renamed)
        except DataError as error:
            faults.append(Fault(level="fail", case=_name_of(item, number), text=str(error)))
            continue
        *images, label = paths
        name = _common_name(images)
        if len(images) == len(channels) > 1:
            files = [ImageFile(path=path) for path in images]
        elif numbered := _numbered(images[0], len(channels)):
            layout = "nnunet-v1"
            name = name.removesuffix("_0000") if len(channels) > 1 else name
            files = [ImageFile(path=path) for path in numbered]
        elif len(channels) > 1:
            files = [ImageFile(path=images[0], volume=volume) for volume in range(len(channels))]
        else:
            files = [ImageFile(path=images[0])]
        cases.append(CaseFiles(id=name, subject=subject_of(name), images=tuple(files), label=label))
    about = described(folder, description, len(listed), renamed)
    faults += about.pop("faults")
    return make_source(
        folder, layout=layout, channels=channels, labels=labels, cases=tuple(cases), faults=faults, **about
    )


def _name_of(item: Any, number: int) -> str:
    """What a case that cannot be is called by."""
    image = item.get("image") if isinstance(item, Mapping) else None
    name = stem(Path(image.replace("\\", "/")).name) if isinstance(image, str) else None
    return name or f"training[{number}]"


def _names(folder: Path, item: Any, channels: int) -> list[Any]:
    """The images of an entry of the description, and its label."""
    if not isinstance(item, Mapping) or not {"image", "label"} <= set(item):
        raise DataError(f"{folder / 'dataset.json'} lists {told(item, 60)}, which has no 'image' and 'label'")
    images = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if len(images) not in (1, channels):
        raise DataError(
            f"{folder / 'dataset.json'} lists {len(images)} images for a case, and 'modality' names {channels} "
            "contrasts"
        )
    return [*images, item["label"]]


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
