"""Plans of networks that lay themselves out for the data: from a patch and its spacing to a class's keywords.

A card names one as its `plan`, and it counts on a data set of one's own only; elsewhere a network is as its card says,
so that figures at another input are of the same network. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SMALLEST_MAP = 4  # side that a stage's map keeps, voxels
_APART = 2  # ratio of spacings from which a coarser axis waits with being halved, and with being convolved
_BASE, _MOST = 32, 320  # width of the first stage, and of any
_FEWEST_STAGES = 3  # that the class takes


def nnunet(patch: Sequence[int], spacing_mm: Sequence[float] = (1, 1, 1)) -> dict[str, Any]:
    """nnU-Net's stages: each axis is halved as long as four voxels are left, and the width doubled up to 320.

    An axis that is twice as coarse as the finest, or more, waits until the others have caught up.

    Args:
        patch: (D, H, W) voxels.
        spacing_mm: of a voxel, likewise.

    Returns:
        `filters` and `strides`, and `kernel_size` where it is not 3 everywhere; of 128x128x128 the six stages of its
        plan for BraTS, of 40x56x40 the four of its plan for the hippocampus.

    Source: Isensee et al. 2021, "nnU-Net", Nature Methods 18, supplementary note 2, and how its public code plans.
    """
    return _plain_unet(patch, spacing_mm, _BASE)


def nnunet_small(patch: Sequence[int], spacing_mm: Sequence[float] = (1, 1, 1)) -> dict[str, Any]:
    """As `nnunet`, with half of the channels."""
    return _plain_unet(patch, spacing_mm, _BASE // 2)


def _plain_unet(patch: Sequence[int], spacing_mm: Sequence[float], base: int) -> dict[str, Any]:
    sides, spacing = list(patch), list(spacing_mm)
    strides, kernels = [[1, 1, 1]], [_kernel(spacing, [1, 1, 1])]
    while axes := _halved(sides, spacing):
        for axis in axes:
            sides[axis], spacing[axis] = -(-sides[axis] // 2), 2 * spacing[axis]
        strides.append([2 if axis in axes else 1 for axis in range(3)])
        kernels.append(_kernel(spacing, kernels[-1]))
    while len(strides) < _FEWEST_STAGES:
        strides.append([2, 2, 2])
        kernels.append([3, 3, 3])
    found: dict[str, Any] = {
        "filters": [min(_MOST * base // _BASE, base * 2**i) for i in range(len(strides))],
        "strides": [_alike(one) for one in strides],
    }
    if any(kernel != [3, 3, 3] for kernel in kernels):
        found["kernel_size"] = kernels
    return found


def _halved(sides: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """The axes that the next stage halves; none: there is no next stage."""
    large = [axis for axis in range(3) if sides[axis] >= 2 * _SMALLEST_MAP]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    axes = [axis for axis in large if spacing[axis] / finest < _APART]
    return [] if len(axes) == 1 and sides[axes[0]] < 3 * _SMALLEST_MAP else axes


def _kernel(spacing: Sequence[float], before: Sequence[int]) -> list[int]:
    near = [one / min(spacing) < _APART for one in spacing]
    return [3 if close or k == 3 else 1 for close, k in zip(near, before, strict=True)]


def _alike(sides: Sequence[int]) -> int | list[int]:
    return sides[0] if len(set(sides)) == 1 else list(sides)
