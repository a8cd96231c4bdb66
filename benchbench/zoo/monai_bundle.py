"""MONAI bundles, read as data: the network, the preparation of images, the windows, and the labels that come out.

Classes and transforms are told by their names, which are compared with those that are known here; none is imported by
a name that stands in the file, and Python files of the bundle are left alone. Whatever cannot be expressed exactly is
refused by name and key, since a network that sees other images than it was trained on is another network.

Source: MONAI 1.6, `bundle/`; bundles of the MONAI model zoo for how they are usually written.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, os_error_as, told
from benchbench.data.plan import DataPlan, MonaiPreparation, Preparation
from benchbench.data.source import by_number
from benchbench.zoo import bundle_transforms, classes
from benchbench.zoo.build import PRUNED_SHAPES
from benchbench.zoo.bundle_config import META, BundleConfig, refuse_code

ARCH = "benchbench.models.monai_nets:"
NETWORKS = (
    *("UNet", "DynUNet", "SegResNet", "SegResNetDS", "VNet", "UNETR", "SwinUNETR", "BasicUNet", "AttentionUnet"),
    "MedNeXt",
)
_PLACE = re.compile(r"(monai\.networks\.nets(\.\w+)?\.)?(?P<name>\w+)", re.ASCII)
_OURS = re.compile(r"(?P<module>benchbench\.models(\.\w+)+)\.(?P<name>\w+)", re.ASCII)
#: What `bench export` writes around a pruned network.
RESIZED = "benchbench.zoo.pruned.resized"

WEIGHTS = "model.pt"
_FEW = 8  # names in a message
_MOST_CHANNELS = 10_000
_CONTROL = ("_target_", "_requires_", "_desc_", "_disabled_", "_mode_")  # keys that are no keywords of a class


def network_of(config: BundleConfig, name: str) -> tuple[rec.ModelSpec, list[str]]:
    """The network of a bundle, and notes on what of it is left out.

    Raises:
        CheckpointError: its class is not one that is known here, is for slices, or a keyword needs code to be run.
    """
    key = "network_def"
    if not config.has(key):
        there = ", ".join(sorted(config.tables)[:_FEW])
        raise CheckpointError(
            f"{config.where} has no network_def (it has {there}): name the key that has it with --set network_def=@KEY"
        )
    table, key = config.followed(key)
    shapes = None
    if isinstance(table, Mapping) and table.get("_target_") == RESIZED:
        shapes = config.value(f"{key}::shapes")
        key, table = f"{key}::module", table.get("module")
    if not isinstance(table, Mapping) or not isinstance(table.get("_target_"), str):
        raise CheckpointError(
            f"{config.where}: {key} must be a table with the _target_ of a network, not {told(table)}"
        )
    arch = _arch(table["_target_"], key, config)
    if str(table.get("_mode_", "default")) != "default":
        raise CheckpointError(f"{config.where}: {key} has the _mode_ {told(table['_mode_'])}, and builds no network")
    keywords = {k: config.resolved(v, f"{key}::{k}") for k, v in table.items() if k not in _CONTROL}
    notes = []
    if arch == f"{ARCH}SwinUNETR" and keywords.pop("img_size", None) is not None:
        notes.append(
            "img_size of SwinUNETR is left out, which MONAI has not taken since 1.5 and its weights do not need"
        )
    if keywords.get("spatial_dims", 3) != 3:
        raise CheckpointError(
            f"{config.where}: its network has spatial_dims = {told(keywords['spatial_dims'])}, and only networks of "
            "volumes are taken"
        )
    defaults = inspect.signature(classes.find(arch, "class")).parameters
    channels: list[int] = []
    for side in ("in_channels", "out_channels"):
        value = keywords.pop(side, defaults[side].default if side in defaults else None)
        if type(value) is not int or not 1 <= value <= _MOST_CHANNELS:
            raise CheckpointError(f"{config.where}: {key}::{side} must be a whole number above 0, not {told(value)}")
        channels.append(value)
    if not arch.startswith(ARCH):
        keywords.pop("spatial", None)  # of a network of benchbench: the patch
    if shapes is not None:
        keywords[PRUNED_SHAPES] = shapes
    into, out = channels
    return rec.ModelSpec(name=name, arch=arch, kwargs=keywords, in_channels=into, out_channels=out), notes


def _arch(target: str, key: str, config: BundleConfig) -> str:
    """The class of a network that is built here."""
    found = _PLACE.fullmatch(target)
    if found:
        known = {network.lower(): network for network in NETWORKS}.get(found["name"].lower())
        if known:
            return f"{ARCH}{known}"
    if ours := _OURS.fullmatch(target):
        return f"{ours['module']}:{ours['name']}"
    refuse_code(target, "network", f"{key}::_target_", config)
    raise CheckpointError(
        f"{config.where}: its network is of the class {told(target)}, and known are {', '.join(NETWORKS)} of MONAI: "
        "take its weights in with --arch"
    )


def data_plan_of(config: BundleConfig, spec: rec.ModelSpec, name: str) -> tuple[DataPlan, list[str]]:
    """What images, labels and patches of a bundle's network are, and notes.

    Raises:
        CheckpointError: images are prepared, or logits decided on, in a way that is not known here.
    """
    patch, windows = bundle_transforms.windows_of(config)
    key, steps = bundle_transforms.steps_of(config)
    after = bundle_transforms.decision_of(config, key, steps)
    exclusive = after.decided == "argmax"
    inputs, of_inputs = _names(config, "inputs", "image", spec.in_channels, "channel")
    outputs, of_outputs = _names(config, "outputs", "pred", spec.out_channels, "label")
    notes = [*of_inputs, *of_outputs]
    if exclusive and spec.out_channels < 2:
        raise CheckpointError(f"{config.where}: its network has one channel, of which argmax makes nothing")
    if not exclusive and outputs[0].lower() == "background":
        raise CheckpointError(
            f"{config.where}: its channels are thresholded one by one, and the first is the background, which no "
            "label map can have: decide on them by AsDiscreted with argmax"
        )
    regions, paint = _regions(outputs, exclusive, after.values, config)
    spacing: Any = next((step.options["pixdim"] for step in steps if step.name == "Spacingd"), 1.0)
    sides = tuple(
        float(side) if side > 0 else 1.0 for side in (spacing if isinstance(spacing, list) else [spacing] * 3)
    )
    try:
        return DataPlan(
            name=name,
            title=f"trained with MONAI: {_text(config, 'task') or _text(config, 'description') or 'a bundle'}",
            channels=tuple(inputs),
            regions=regions,
            labels={0: "background", **dict(zip(paint, regions, strict=True))},
            patch=patch,
            spacing_mm=(sides[0], sides[1], sides[2]),
            splits={},
            semi_synthetic=False,
            licence=_text(config, "copyright") or "not stated",
            exclusive=exclusive,
            paint=paint,
            preparation=Preparation(
                spacing_mm=(sides[0], sides[1], sides[2]),
                resample=True,
                foreground=False,
                clip=None,
                monai=MonaiPreparation(
                    steps=tuple(steps),
                    windows=windows,
                    activation=after.activation,
                    decided=after.decided,
                    threshold=after.threshold,
                    inverted=after.inverted,
                    nearest=after.nearest,
                ),
            ),
        ), notes
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config.where} cannot be read: {error}") from error


def _regions(
    names: list[str], exclusive: bool, values: Mapping[int, int] | None, config: BundleConfig
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Region of each channel -> its labels; and the label that each has in a prediction.

    Args:
        values: channel -> label, in the order in which they are painted over each other; of labels that exclude each
            other, and of regions. None: 1, 2 and so on.
    """
    channels = range(1, len(names)) if exclusive else range(len(names))
    of_channel = {i: i if exclusive else i + 1 for i in channels} if values is None else dict(values)
    missing = [names[i] for i in channels if i not in of_channel]
    if missing or len(set(of_channel.values())) != len(of_channel) or 0 in of_channel.values():
        raise CheckpointError(f"{config.where}: its postprocessing gives no label of its own to {missing or names}")
    painted = list(of_channel)
    nested = values is not None and not exclusive  # what is painted over a region lies in it
    above = {i: painted[painted.index(i) :] if nested else [i] for i in painted}
    regions = {names[i]: tuple(sorted(of_channel[other] for other in above[i])) for i in channels}
    return regions, tuple(of_channel[i] for i in channels)


def _names(config: BundleConfig, side: str, usual: str, count: int, what: str) -> tuple[list[str], list[str]]:
    """Names of the channels of an input or output, by the metadata; and a note where they do not say them."""
    numbered = [f"{what} {i}" for i in range(count)]
    formats = config.tables[META].get("network_data_format")
    each = formats.get(side) if isinstance(formats, Mapping) else None
    table = next((each[key] for key in (usual, *each) if key in each), None) if isinstance(each, Mapping) else None
    described = table.get("channel_def") if isinstance(table, Mapping) else None
    try:
        pairs = by_number(described) if isinstance(described, Mapping) else []
        names = [str(name)[:100] for _, name in pairs]
    except (TypeError, ValueError):
        names = []
    if len(names) != count or len(set(names)) != count:
        told_of = f"names {len(names)}" if names else "names none"
        return numbered, [
            f"the network has {count} {side.removesuffix('s')} channels and metadata.json {told_of} of them"
        ]
    return names, []


def _text(config: BundleConfig, key: str) -> str:
    """A text of the metadata, cut where it is long; empty where there is none."""
    value = config.tables[META].get(key)
    return " ".join(value.split())[:120] if isinstance(value, str) else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleWeights:
    """The file of weights, and what is to be known of the bundle's other files."""

    path: Path
    notes: tuple[str, ...]


def weights_of(folder: Path, asked: str | None = None) -> BundleWeights:
    """The weights of a bundle.

    Args:
        asked: name of the file in `models`; None: `model.pt`.

    Raises:
        CheckpointError: it is not there, and what is there is listed; or it would be TorchScript.
    """
    place = folder / "models"
    with os_error_as(CheckpointError, f"cannot read {place}"):
        there = sorted(path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else []
        code = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    wanted = asked or WEIGHTS
    if wanted not in there:
        if wanted == WEIGHTS and any(name.endswith(".ts") for name in there):
            raise CheckpointError(
                f"{place} has its weights as TorchScript alone ({', '.join(there[:_FEW])}), which is a program and not "
                f"read: save the state_dict of its network as {WEIGHTS}"
            )
        have = f"it has {', '.join(there[:_FEW])}: name one of them with --checkpoint" if there else "it has none"
        raise CheckpointError(f"{place} has no {wanted}; {have}")
    notes = []
    if code:
        more = f" and {len(code) - 3} more" if len(code) > 3 else ""
        notes.append(f"Python files of the bundle are neither imported nor run: {', '.join(code[:3])}{more}")
    return BundleWeights(path=place / wanted, notes=tuple(notes))
