"""Raw layout of nnU-Net v2: `imagesTr/<case>_0000.nii.gz`, one file a channel, and regions in `dataset.json`.

`regions_class_order`: regions overlap, so a prediction is painted into one map region by region, and this list has
the value that each region gets.

Source: nnU-Net, documentation/dataset_format.md and region_based_training.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.errors import DataError
from benchbench.data.source import (
    ENDINGS,
    CaseFiles,
    Fault,
    ImageFile,
    Source,
    by_number,
    described,
    files_named,
    make_source,
    read_json,
    stem,
    subject_of,
    whole,
    with_ending,
)


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
    ending = "." + str(description.get("file_ending", ".nii.gz")).lower().lstrip(".")
    if ending not in ENDINGS:
        raise DataError(f"{path}: files end in {ending!r}; .nii.gz and .nii are read, so convert them")
    try:
        names = tuple(str(name) for _, name in by_number(description["channel_names"]))
        labels, regions = described_regions(description["labels"])
        order = tuple(whole(value) for value in description.get("regions_class_order") or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no nnU-Net description: {error!r}") from error
    if not names:
        raise DataError(f"{path}: its channel_names name no channel")
    if "ignore" in description["labels"]:
        raise DataError(f"{path}: the label 'ignore' is not supported: remove it, or the cases that have it")
    if order and len(order) != len(regions):
        raise DataError(f"{path}: regions_class_order has {len(order)} values for {len(regions)} regions")
    listed = description.get("dataset")
    renamed: list[str] = []
    if isinstance(listed, Mapping):
        cases, faults = _listed(folder, listed, len(names), renamed)
        expected = len(listed)
    else:
        cases, faults = _found(folder, ending, len(names), renamed)
        expected = len(cases)
    about = described(folder, description, expected, renamed)
    faults += about.pop("faults")
    return make_source(
        folder,
        layout="nnunet",
        channels=names,
        labels=labels,
        regions=regions,
        paint=order or None,
        cases=tuple(cases),
        faults=faults,
        **about,
    )


def described_regions(described: Mapping[str, Any]) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Labels by value, and regions in the order of the description."""
    regions: dict[str, tuple[int, ...]] = {}
    labels = {0: "background"}
    names: dict[int, str] = {}  # of the regions of one label
    for name, value in described.items():
        values = tuple(whole(v) for v in value) if isinstance(value, list) else (whole(value),)
        if values == (0,) or name == "ignore":
            continue
        regions[str(name)] = values
        for number in values:
            labels.setdefault(number, f"label {number}")
        if len(values) == 1:
            if (other := names.setdefault(values[0], str(name))) != name:
                raise ValueError(f"the label {values[0]} is called {other!r} and {name!r}")
            labels[values[0]] = str(name)
    return labels, regions


_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})", re.DOTALL)


def _found(folder: Path, ending: str, channels: int, renamed: list[str]) -> tuple[list[CaseFiles], list[Fault]]:
    """Cases by the files of their first channel, and those that lack that file or their image."""
    images, labels = folder / "imagesTr", folder / "labelsTr"
    if not images.is_dir():
        raise DataError(f"{folder}: no imagesTr in it")
    numbered = [_CHANNEL.fullmatch(stem(path.name) or "") for path in images.iterdir()]
    channel_files = {(match["case"], int(match["number"])) for match in numbered if match}
    names = {case for case, number in channel_files if number == 0}
    cases = []
    for case in sorted(names):
        files = [with_ending(images / f"{case}_{i:04d}", ending) for i in range(channels)]
        label = with_ending(labels / case, ending)
        usual = ((path, f"{stem(path.name)}{ending}") for path in (*files, label))
        renamed += [f"{path.name} for {name}" for path, name in usual if path.name != name]
        cases.append(_case(case, files, label))
    faults = []
    for case in sorted({case for case, _ in channel_files} - names):
        text = f"imagesTr has {case}_{min(n for c, n in channel_files if c == case):04d}, but no {case}_0000{ending}"
        faults.append(Fault(level="fail", case=case, text=text))
    labelled = {stem(path.name) for path in labels.iterdir()} - {None} if labels.is_dir() else set()
    for name in sorted(str(name) for name in labelled - {case for case, _ in channel_files}):
        text = f"labelsTr has its label, but imagesTr has no {name}_0000{ending}"
        faults.append(Fault(level="fail", case=name, text=text))
    return cases, faults


def _listed(
    folder: Path, listed: Mapping[str, Any], channels: int, renamed: list[str]
) -> tuple[list[CaseFiles], list[Fault]]:
    """Cases as the description lists them, and those that it does not list as they should be."""
    cases, faults = [], []
    for name, item in listed.items():
        try:
            *images, label = files_named(folder, _names(folder / "dataset.json", name, item, channels), renamed)
            cases.append(_case(name, images, label))
        except DataError as error:
            faults.append(Fault(level="fail", case=name, text=str(error)))
    return cases, faults


def _names(description: Path, case: str, item: Any, channels: int) -> list[Any]:
    """The images of an entry of the description, and its label."""
    if not isinstance(item, Mapping):
        raise DataError(f"{description}: it has no 'images' and 'label'")
    for key in ("images", "label"):
        if key not in item:
            raise DataError(f"{description}: its case {case!r} lacks {key!r}")
    images = item["images"] if isinstance(item["images"], list) else [item["images"]]
    if len(images) != channels:
        raise DataError(f"{description}: it has {len(images)} images, and channel_names names {channels}")
    return [*images, item["label"]]


def _case(name: str, images: list[Path], label: Path) -> CaseFiles:
    files = tuple(ImageFile(path=path) for path in images)
    return CaseFiles(id=name, subject=subject_of(name), images=files, label=label)
