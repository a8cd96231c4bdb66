"""Preparation of nnU-Net in transforms of MONAI, for a bundle: as far as these give the same images.

MONAI has no counterpart for some of it. nnU-Net resamples by splines onto a grid that is laid over the whole image, so
that a voxel has not exactly the planned spacing, and brings logits back linearly; `Spacingd` keeps the spacing, so its
grid is up to half a voxel off, and goes back as it came. And nnU-Net's z-score over what is not 0 counts holes, which
`NormalizeIntensityd` leaves out. Windows lie alike as long as an axis has at most two; more of them nnU-Net spreads
evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_shape
from benchbench.data.plan import ChannelScheme, MonaiStep, NnunetPreparation

_SIGMA = 1 / 8  # of a window's weights, as a share of its side
_HIGHEST = 10  # of them
_FILE_AXIS = (2, 1, 0)  # of each of nnU-Net's axes, which run last first


def steps(how: NnunetPreparation, patch: Sequence[int], weights: Path) -> list[MonaiStep]:
    """What is done to an image, in order.

    Args:
        patch: (D, H, W) of the windows, voxels.
        weights: for messages.

    Raises:
        UnsupportedError: no transforms of MONAI do the same.
    """
    refused = f"{weights} prepares images as nnU-Net does, which cannot be a bundle:"
    if how.within is None:
        spacing = "x".join(f"{side:g}" for side in how.spacing_mm)
        raise UnsupportedError(
            f"{refused} it resamples to {spacing} mm by splines on a grid over the whole image, and Spacingd of MONAI "
            "on one that keeps the spacing, up to half a voxel off; only a network all of whose training cases have "
            "that spacing can be (dataset_fingerprint.json beside its plans.json says it)"
        )
    if any(side > of_patch + of_patch // 2 for side, of_patch in zip(how.within, patch, strict=True)):
        raise UnsupportedError(
            f"{refused} its training cases have up to {format_shape(how.within)} voxels, more than two windows "
            f"of {format_shape(tuple(patch))} along an axis, which nnU-Net spreads evenly and MONAI lays at fixed "
            "distances"
        )
    if any(scheme.masked for scheme in how.channels):
        raise UnsupportedError(
            f"{refused} its z-score is over what is not 0 with the holes filled, and NormalizeIntensityd of MONAI "
            "leaves the holes out"
        )
    first, *others = how.channels
    if any(scheme != first for scheme in others):
        raise UnsupportedError(
            f"{refused} its channels are normalised in different ways "
            f"({', '.join(scheme.name for scheme in how.channels)}), and a transform of MONAI does the same to all"
        )
    axes = [_FILE_AXIS[axis] for axis in how.transpose]
    found = [MonaiStep(name="Orientationd", options={"axcodes": "RAS"})] if how.reorient else []
    found.append(MonaiStep(name="CropForegroundd", options={"select_fn": "not zero", "allow_smaller": False}))
    found += _intensities(first)
    found.append(
        MonaiStep(name="Spacingd", options={"pixdim": file_spacing(how), "mode": "bilinear"})
    )  # of other images alone
    if axes != [0, 1, 2]:
        found.append(MonaiStep(name="Transposed", options={"indices": [0, *(axis + 1 for axis in axes)]}))
    return found


def file_spacing(how: NnunetPreparation) -> list[float]:
    """The spacing of the network along the axes of the file, or of RAS where files are turned into it."""
    return [how.spacing_mm[how.transpose.index(axis)] for axis in _FILE_AXIS]


def weight_map(patch: Sequence[int]) -> str:
    """The expression by which MONAI's inferer gets nnU-Net's weights of a window (D, H, W).

    MONAI's own are around the middle of the window, nnU-Net's around a voxel, in half precision and nowhere 0. They are
    multiplied so that the least is 1, since MONAI raises those below 0.001.
    """
    d, h, w = (f"torch.exp(-0.5 * ((torch.arange({side}) - {side // 2}) / {side * _SIGMA:g}) ** 2)" for side in patch)
    each = f"({d}[:, None, None] * {h}[:, None] * {w} * {_HIGHEST:g}).half().float().clamp(min=2**-24)"
    return f"$setattr(@inferer, 'roi_weight_map', ({each} * 2**24)[None, None])"


def _intensities(scheme: ChannelScheme) -> list[MonaiStep]:
    """The scheme of all channels."""
    options: dict[str, Any]
    if scheme.name == "z-score":
        return [MonaiStep(name="NormalizeIntensityd", options={"nonzero": False, "channel_wise": True})]
    if scheme.name == "ct":
        assert scheme.clip is not None
        low, high, mean, deviation = scheme.clip
        options = {"b_min": (low - mean) / deviation, "b_max": (high - mean) / deviation, "clip": True}
        return [MonaiStep(name="ScaleIntensityRanged", options={"a_min": low, "a_max": high, **options})]
    if scheme.name == "to 0-1":
        return [MonaiStep(name="ScaleIntensityd", options={"minv": 0.0, "maxv": 1.0, "channel_wise": True})]
    if scheme.name == "rgb to 0-1":
        options = {"a_min": 0.0, "a_max": 255.0, "b_min": 0.0, "b_max": 1.0, "clip": False}
        return [MonaiStep(name="ScaleIntensityRanged", options=options)]
    return []
