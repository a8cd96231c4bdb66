"""Preparation of images as a MONAI bundle does it, so that its network sees what it was trained on.

The bundle's transforms are MONAI's own, made from a list of names; keywords are numbers, texts and lists. Reading the
files and their channels is done as for every other case, so the transforms for that are not in the list. Predictions go
back into the voxels of the file at the place in the bundle's postprocessing where it does so: interpolated logits,
probabilities and label maps are three different things.

Source: MONAI 1.6, `transforms/` and `bundle/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core.errors import DataError, first_line, told
from benchbench.data.plan import MonaiPreparation, MonaiStep
from benchbench.data.volumes import Volumes

if TYPE_CHECKING:
    from torch import Tensor

Rule = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
    return _number(value) or (isinstance(value, (list, tuple)) and all(map(_number, value)))


def _whole(value: Any) -> bool:
    """A whole number, or one for each axis; at most 4096, so that nothing is padded without end."""
    each = value if isinstance(value, (list, tuple)) else [value]
    return all(type(side) is int and 0 <= side <= 4096 for side in each)


def _sides(value: Any) -> bool:
    """Millimetres of a voxel; 0 and below leave an axis as it is."""
    return _numbers(value) and (_number(value) or len(value) == 3)


def _turns(value: Sequence[Any]) -> bool:
    """Whether axes are the channel's, 0, and those of space in any order."""
    return value[:1] in ([0], (0,)) and sorted(map(str, value)) == ["0", "1", "2", "3"]


def _maybe(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _one_of(*known: Any) -> Rule:
    return lambda value: value in known


_FLAG: Rule = lambda value: isinstance(value, bool)  # noqa: E731

#: What decides which voxels are the foreground -> how a bundle writes it.
SELECTIONS = {"positive": "$lambda x: x > 0", "not zero": "$lambda x: x != 0"}

#: What benchbench does to an image with a background of one value -> how a bundle writes it: the background becomes 0,
#: and what is 0 in the patient almost 0.
BACKGROUND = "$lambda x: torch.where((x == x[:, :1, :1, :1]).all(0, keepdim=True), 0.0, torch.where(x == 0, 1e-6, x))"

#: Transform -> its keywords that decide on the result, with what they may be.
STEPS: Mapping[str, Mapping[str, Rule]] = {
    "Orientationd": {
        "axcodes": lambda value: isinstance(value, str) and len(value) == 3 and set(value) <= set("LRPAIS"),
        "as_closest_canonical": _FLAG,
    },
    "Spacingd": {
        "pixdim": _sides,
        "diagonal": _FLAG,
        "mode": _one_of("bilinear", "nearest", 0, 1, 2, 3, 4, 5),
        "padding_mode": _one_of("border", "zeros", "reflection", "constant", "nearest", "reflect", "mirror", "wrap"),
        "align_corners": _FLAG,
        "dtype": _one_of("float32", "float64"),
        "scale_extent": _FLAG,
        "recompute_affine": _FLAG,
        "min_pixdim": _maybe(_sides),
        "max_pixdim": _maybe(_sides),
    },
    "CropForegroundd": {
        "select_fn": _one_of(*SELECTIONS),
        "margin": _whole,
        "allow_smaller": _FLAG,
        "k_divisible": _whole,
        "mode": _one_of("constant", "edge", "minimum"),
    },
    "ScaleIntensityRanged": {
        "a_min": _number,
        "a_max": _number,
        "b_min": _maybe(_number),
        "b_max": _maybe(_number),
        "clip": _FLAG,
    },
    "ScaleIntensityRangePercentilesd": {
        "lower": lambda value: _number(value) and 0 <= value <= 100,
        "upper": lambda value: _number(value) and 0 <= value <= 100,
        "b_min": _maybe(_number),
        "b_max": _maybe(_number),
        "clip": _FLAG,
        "relative": _FLAG,
        "channel_wise": _FLAG,
    },
    "ScaleIntensityd": {
        "minv": _maybe(_number),
        "maxv": _maybe(_number),
        "factor": _maybe(_number),
        "channel_wise": _FLAG,
    },
    "NormalizeIntensityd": {
        "subtrahend": _maybe(_numbers),
        "divisor": _maybe(_numbers),
        "nonzero": _FLAG,
        "channel_wise": _FLAG,
    },
    "Transposed": {"indices": lambda value: isinstance(value, (list, tuple)) and _turns(value)},
    "Lambdad": {"func": _one_of(BACKGROUND)},
}

#: Those that move voxels, which a label map is put through, too.
SPATIAL = ("Orientationd", "Spacingd", "CropForegroundd", "Transposed")

_IMAGE, _LABEL = "image", "label"


def check_step(step: MonaiStep) -> None:
    """Refuse a transform that is not known, or a value that its keyword does not take.

    Raises:
        ValueError: the message names it.
    """
    if step.name not in STEPS:
        raise ValueError(f"the transform {step.name!r} is not known here; known are {', '.join(STEPS)}")
    rules = STEPS[step.name]
    for key, value in step.options.items():
        if key not in rules:
            raise ValueError(f"{step.name} has the keyword {key!r}, which is not known here")
        if not rules[key](value):
            raise ValueError(f"{step.name} with {key} = {told(value)} is not known here")


def check(how: MonaiPreparation) -> None:
    """Refuse a preparation that is not made of what is known here.

    Raises:
        ValueError: the message names what is wrong.
    """
    for step in how.steps:
        check_step(step)
    if not how.windows.overlap < 1:
        raise ValueError(f"the overlap of windows must be below 1, not {how.windows.overlap}")
    if how.inverted == "labels" and not how.nearest and any(step.name == "Spacingd" for step in how.steps):
        raise ValueError("a label map that is interpolated has values between its labels: nearest is needed")


def _transform(step: MonaiStep, keys: tuple[str, ...]) -> Any:
    """MONAI's transform for the image, and the label map if it moves voxels."""
    import torch
    from monai import transforms

    moved = keys if step.name in SPATIAL else (_IMAGE,)
    options = dict(step.options)
    if step.name == "Lambdad":
        return transforms.Lambdad(moved, func=_without_background)
    if step.name == "Orientationd":
        options["labels"] = None  # as by default, and MONAI warns of its own default
    if step.name == "CropForegroundd":
        options["source_key"] = _IMAGE
        select = options.pop("select_fn", "positive")
        options["select_fn"] = _positive if select == "positive" else _not_zero
        options.setdefault("allow_smaller", False)
    if step.name == "Spacingd":
        options["dtype"] = getattr(torch, options.get("dtype", "float64"))
        if len(moved) > 1:
            options["mode"] = [options.get("mode", "bilinear"), "nearest"]
            options["ensure_same_shape"] = True
    return getattr(transforms, step.name)(moved, **options)


def _positive(image: Tensor) -> Tensor:
    return image > 0


def _not_zero(image: Tensor) -> Tensor:
    return image != 0


def _without_background(image: Tensor) -> Tensor:
    """`BACKGROUND`."""
    import torch

    background = (image == image[:, :1, :1, :1]).all(0, keepdim=True)
    return torch.where(background, 0.0, torch.where(image == 0, 1e-6, image))


def prepared(volumes: Volumes, how: MonaiPreparation) -> tuple[Any, Any, Any]:
    """A case as the bundle's network sees it.

    Returns:
        Image (C, D, H, W) as MONAI's MetaTensor; label map (1, D, H, W) or None; the transforms that made them, for
        `to_native`.

    Raises:
        DataError: a transform cannot be applied to it.
    """
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Compose

    affine = torch.from_numpy(volumes.affine)
    item: dict[str, Any] = {_IMAGE: MetaTensor(torch.from_numpy(volumes.image), affine=affine)}
    if volumes.label is not None:
        item[_LABEL] = MetaTensor(torch.from_numpy(volumes.label)[None].float(), affine=affine)
    steps = Compose([_transform(step, tuple(item)) for step in how.steps])
    try:
        moved = steps(item)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{volumes.id} cannot be prepared as the bundle does: {first_line(error)}") from error
    return moved[_IMAGE].float(), moved.get(_LABEL), steps


def to_native(logits: Tensor, image: Any, steps: Any, how: MonaiPreparation) -> Tensor:
    """What the bundle decides on, in the voxels of the file.

    Args:
        logits: (K, D, H, W) of the prepared voxels.
        image: that they are of, and `steps`, as `prepared` gave them.

    Returns:
        (K, D, H, W) float, from which `regions_of` gets the bundle's regions: of labels that exclude each other the
        largest is at the label; else what is in a region is above 0.
    """
    import torch

    moved = any(step.name in SPATIAL for step in how.steps)

    def back(values: Tensor, at: str) -> Tensor:
        return inverted(values, image, steps, nearest=how.nearest) if moved and how.inverted == at else values

    values = back(logits.float().cpu(), "logits")
    if how.activation != "none":
        values = values.softmax(0) if how.activation == "softmax" else values.sigmoid()
    values = back(values, "activated")
    if how.decided == "threshold":
        inside = back((values >= how.threshold).float(), "labels")
        return inside.round() * 2 - 1
    if how.inverted != "labels":
        return values
    label = back(values.argmax(0, keepdim=True).float(), "labels")[0].round().long()
    return torch.nn.functional.one_hot(label, len(values)).movedim(-1, 0).float()


def inverted(logits: Tensor, image: Any, steps: Any, *, nearest: bool = False) -> Tensor:
    """Logits (K, D, H, W) with MONAI's steps undone that were applied to an image."""
    from monai.data import MetaTensor
    from monai.transforms import Invertd

    pred = MetaTensor(logits.float().cpu(), affine=image.affine)
    undo = Invertd("pred", transform=steps, orig_keys=_IMAGE, nearest_interp=nearest, to_tensor=True)
    moved: Tensor = undo({"pred": pred, _IMAGE: image})["pred"]
    return moved.as_tensor() if isinstance(moved, MetaTensor) else moved
