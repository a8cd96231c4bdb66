"""Sliding windows as nnU-Net places and weighs them, for networks of its own.

They are spread evenly over each axis, the first and the last at its ends, where MONAI's keep their distance and the
last one is moved back. Sums are in half precision, as there: near the rim of an image, where weights are smallest, that
decides some voxels.

Source: nnunetv2 2.8.1, `inference/sliding_window_prediction.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_SIGMA = 1 / 8  # of the weight, as a share of the patch
_HIGHEST = 10.0  # weight, so that small ones are not 0 in half precision


def starts(side: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis of at least the patch's size."""
    count = math.ceil((side - patch) / (patch * (1 - overlap))) + 1
    step = (side - patch) / (count - 1) if count > 1 else 0.0
    return [int(np.round(step * i)) for i in range(count)]


def importance(patch: Sequence[int]) -> Tensor:
    """(D, H, W) half, weight of each voxel of a window: a Gaussian in its middle, nowhere 0."""
    from scipy.ndimage import gaussian_filter

    weight = np.zeros(tuple(patch))
    weight[tuple(side // 2 for side in patch)] = 1
    weight = gaussian_filter(weight, [side * _SIGMA for side in patch], mode="constant")
    rounded = torch.from_numpy(weight / (weight.max() / _HIGHEST)).half()
    rounded[rounded == 0] = rounded[rounded > 0].min()
    return rounded


def _places(sides: Sequence[int], patch: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    by_axis = [starts(side, of_patch, overlap) for side, of_patch in zip(sides, patch, strict=True)]
    for corner in itertools.product(*by_axis):
        yield tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))


def slide(x: Tensor, patch: Sequence[int], answer: Callable[[Tensor], Tensor], overlap: float) -> Tensor:
    """The weighted mean of the answers to all windows.

    Args:
        x: (1, C, D, H, W), at least the patch's size.
        answer: (1, C, *patch) -> (1, K, *patch).

    Returns:
        (1, K, D, H, W) half.
    """
    weight = importance(patch).to(x.device)
    total: Tensor | None = None
    weights = torch.zeros(x.shape[2:], dtype=torch.half, device=x.device)
    for place in _places(x.shape[2:], patch, overlap):
        at = (slice(None), slice(None), *place)
        logits = answer(x[at].contiguous()).float()
        if total is None:
            total = torch.zeros((1, logits.shape[1], *x.shape[2:]), dtype=torch.half, device=x.device)
        total[at] += logits * weight
        weights[place] += weight
    assert total is not None
    return total / weights
