"""Foreground of an image whose background is exactly 0: the box that holds it, and how much there is beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_ZERO = 0.05  # share of voxels that are 0 in every channel, below which a background is not 0

Box = tuple[slice, slice, slice]


def zero_share(image: npt.NDArray[Any]) -> float:
    """The share of voxels of an image (C, D, H, W) that are exactly 0 in every channel."""
    return 1 - float(_lit(image).mean())


def foreground_box(image: npt.NDArray[Any]) -> Box | None:
    """The smallest box of an image (C, D, H, W) outside of which all is exactly 0; None where all of it is."""
    lit = _lit(image)
    plane = np.any(lit, axis=0)  # (H, W)
    sides = (np.any(lit, axis=(1, 2)), np.any(plane, axis=1), np.any(plane, axis=0))
    if not plane.any():
        return None
    d, h, w = (np.flatnonzero(side)[[0, -1]].tolist() for side in sides)
    return slice(d[0], d[1] + 1), slice(h[0], h[1] + 1), slice(w[0], w[1] + 1)


def _lit(image: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(D, H, W): where any channel is not 0."""
    lit: npt.NDArray[np.bool_] = image[0] != 0
    for channel in image[1:]:
        lit |= channel != 0
    return lit
