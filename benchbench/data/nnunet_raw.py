"""The raw layout of nnU-Net v2: `imagesTr/<case>_0000.nii.gz`, one file a channel, and regions in `dataset.json`.

The surprise is `regions_class_order`: regions overlap, so a prediction is painted into one map region by region,
and this list has the value that each region gets.

Source: nnU-Net, documentation/dataset_format.md and region_based_training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.data.source import CaseFiles, ImageFile, Source, inside, make_source, read_json, subject_of
from benchbench.errors import DataError


def is_nnunet(description: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` is of this layout."""
    return "channel_names" in description and "labels" in description


def open_nnunet(folder: Path) -> Source:
    """Its training cases.

    Raises:
        DataError: the description cannot be read or lacks what is needed, or it asks for what is not supported.
    """
    path = folder / "dataset.json"
    description = read_json(path)
    ending = str(description.get("file_ending", ".nii.gz"))
    if ending not in (".nii.gz", ".nii"):
        raise DataError(f"{path}: files end in {ending!r}; .nii.gz and .nii are read, so convert them")
    try:
        names = sorted((int(key), str(name)) for key, name in description["channel_names"].items())
        labels, regions = _regions(description["labels"])
        order = tuple(int(value) for value in description.get("regions_class_order", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no nnU-Net description: {error!r}") from error
    if "ignore" in description["labels"]:
        raise DataError(f"{path}: the label 'ignore' is not supported: remove it, or the cases that have it")
    if order and len(order) != len(regions):
        raise DataError(f"{path}: regions_class_order has {len(order)} values for {len(regions)} regions")
    listed = description.get("dataset")
    cases = (
        tuple(_listed(folder, str(case), item) for case, item in listed.items())
        if isinstance(listed, Mapping)
        else _found(folder, ending, len(names))
    )
    return make_source(
        folder,
        title=str(description.get("description") or description.get("name") or folder.name),
        layout="nnunet",
        channels=tuple(name for _, name in names),
        labels=labels,
        regions=regions,
        paint=order or None,
        cases=cases,
        licence=str(description.get("licence") or description.get("license") or "not stated"),
    )


def _regions(described: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Labels by value, and regions in the order of the description."""
    regions: dict[str, tuple[int, ...]] = {}
    labels = {0: "background"}
    for name, value in described.items():
        values = tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)
        if values == (0,) or name == "ignore":
            continue
        regions[str(name)] = values
        for one in values:
            labels.setdefault(one, f"label {one}")
        if len(values) == 1:
            labels[values[0]] = str(name)
    return labels, regions


def _found(folder: Path, ending: str, channels: int) -> tuple[CaseFiles, ...]:
    first = f"_0000{ending}"
    images = folder / "imagesTr"
    if not images.is_dir():
        raise DataError(f"{folder}: no imagesTr in it")
    cases = []
    for path in images.iterdir():
        if not path.name.endswith(first) or path.name.startswith("."):
            continue
        case = path.name[: -len(first)]
        files = tuple(ImageFile(path=images / f"{case}_{i:04d}{ending}") for i in range(channels))
        cases.append(
            CaseFiles(id=case, subject=subject_of(case), images=files, label=folder / "labelsTr" / f"{case}{ending}")
        )
    return tuple(cases)


def _listed(folder: Path, case: str, item: Any) -> CaseFiles:
    try:
        images = tuple(ImageFile(path=inside(folder, str(one))) for one in item["images"])
        return CaseFiles(id=case, subject=subject_of(case), images=images, label=inside(folder, str(item["label"])))
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'dataset.json'}: its case {case!r} lacks {error}") from error
