"""Plans of networks that lay themselves out for the data: from a patch to a class's keywords.

A card names one as its `plan`, and it counts on a data set of one's own only; elsewhere a network is as its card says,
so that figures at another input are of the same network. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SMALLEST_MAP = 4  # side that a stage's map keeps, voxels
_BASE, _MOST = 32, 320  # width of the first stage, and of any
_MOST_STAGES = 6


def nnunet(patch: Sequence[int]) -> dict[str, Any]:
    """nnU-Net's stages: sides are halved as long as four voxels are left, and the width doubled up to 320.

    Args:
        patch: (D, H, W) voxels, of equal spacing.

    Returns:
        `filters` and `strides`; of 128x128x128 the six stages of its plan for BraTS, of 40x56x40 the four of its plan
        for the hippocampus.

    Source: Isensee et al. 2021, "nnU-Net", Nature Methods 18, supplementary note 2.
    """
    return _plain_unet(patch, _BASE)


def nnunet_small(patch: Sequence[int]) -> dict[str, Any]:
    """As `nnunet`, with half of the channels."""
    return _plain_unet(patch, _BASE // 2)


def _plain_unet(patch: Sequence[int], base: int) -> dict[str, Any]:
    stages = 1
    while stages < _MOST_STAGES and min(patch) >= _SMALLEST_MAP * 2**stages:
        stages += 1
    stages = max(stages, 3)
    return {
        "filters": [min(_MOST * base // _BASE, base * 2**i) for i in range(stages)],
        "strides": [1] + [2] * (stages - 1),
    }
