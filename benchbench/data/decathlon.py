"""The layout of the Medical Segmentation Decathlon: `dataset.json`, `imagesTr/`, `labelsTr/`.

A case of several contrasts is one 4-D file whose last axis they are.

Source: Antonelli et al. 2022, "The Medical Segmentation Decathlon", Nature Communications 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.data.source import CaseFiles, ImageFile, Source, inside, make_source, read_json, stem, subject_of
from benchbench.errors import DataError


def is_decathlon(description: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` is of this layout."""
    return "modality" in description and "training" in description


def open_decathlon(folder: Path) -> Source:
    """Its labelled cases; the unlabelled test images are left alone.

    Raises:
        DataError: the description cannot be read, or lacks what is needed.
    """
    description = read_json(folder / "dataset.json")
    try:
        channels = tuple(str(name) for _, name in _by_number(description["modality"]))
        labels = {value: str(name) for value, name in _by_number(description["labels"])}
        cases = tuple(_case(folder, item, len(channels)) for item in description["training"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / 'dataset.json'} is no Decathlon description: {error!r}") from error
    return make_source(
        folder,
        title=str(description.get("description") or description.get("name") or folder.name),
        layout="decathlon",
        channels=channels,
        labels=labels,
        cases=cases,
        licence=str(description.get("licence") or description.get("license") or "not stated"),
    )


def _by_number(names: Mapping[str, Any]) -> list[tuple[int, Any]]:
    return sorted((int(key), value) for key, value in names.items())


def _case(folder: Path, item: Mapping[str, str], channels: int) -> CaseFiles:
    image = inside(folder, item["image"])
    name = stem(image.name)
    if name is None:
        raise DataError(f"{folder / 'dataset.json'} lists {item['image']!r}, which is no .nii or .nii.gz")
    volumes = [None] if channels == 1 else list(range(channels))
    return CaseFiles(
        id=name,
        subject=subject_of(name),
        images=tuple(ImageFile(path=image, volume=volume) for volume in volumes),
        label=inside(folder, item["label"]),
    )
