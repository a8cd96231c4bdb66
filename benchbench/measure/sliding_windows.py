"""Sliding windows in numpy: from a volume to its label map by any forward, without PyTorch or MONAI in the process.

A label is the sign or the largest of blended logits, and the blend divides both by the same positive sum of weights,
so no sum of weights is kept and nothing is divided. That leaves one buffer of the volume's size.

Source: MONAI's sliding_window_inference, whose windows, weights (Gaussian, sigma an eighth of the side, at least 1e-3)
and zero padding these are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_shape

Array = npt.NDArray[np.float32]
#: (B, C, D, H, W) -> logits (B, K, D, H, W), float32; the window is read alone, and another comes into its place.
Forward = Callable[[Array], Array]

_SIGMA = 0.125  # of the Gaussian, as a share of the patch's side
_LEAST_WEIGHT = 1e-3
_SLAB = 1 << 16  # voxels that are weighted and added at once, few enough for a core's cache


def starts(side: int, patch: int, overlap: float) -> list[int]:
    """Where the windows along one side begin; the last ends with the side, which is at least the patch's."""
    step = patch if side == patch else max(1, int(patch * (1 - overlap)))
    count = 1 + max(0, math.ceil((side - patch) / step))
    return [min(i * step, side - patch) for i in range(count)]


def gaussian_weights(patch: Sequence[int]) -> Array:
    """(D, H, W) of a window's logits, all above 0."""
    weights = np.ones((), np.float32)
    for side in patch:
        at = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        weights = weights[..., None] * np.exp(at**2 / np.float32(-2 * (side * _SIGMA) ** 2))
    return np.maximum(weights, np.float32(max(float(weights.min()), _LEAST_WEIGHT)))


class SlidingWindows:
    """Windows of one size, over volumes of any."""

    def __init__(
        self,
        patch: Sequence[int],
        *,
        overlap: float = 0.5,
        batch: int = 1,
        whole_batches: bool = False,
        exclusive: bool = False,
    ) -> None:
        """Compute the weights.

        Args:
            patch: (D, H, W) of a window, voxels.
            overlap: of neighbouring windows, as a share of the patch.
            batch: windows in one forward.
            whole_batches: the forward takes no fewer; what fills up the last batch is computed and dropped.
            exclusive: a voxel has one label, the largest logit; else one of each region, by its sign.
        """
        self.patch, self.overlap, self.batch = tuple(patch), overlap, batch
        self.whole_batches, self.exclusive = whole_batches, exclusive
        self.weights = gaussian_weights(self.patch)

    def label(self, forward: Forward, image: Array) -> npt.NDArray[np.bool_] | npt.NDArray[np.uint16]:
        """The label map of a volume.

        Args:
            forward: the network.
            image: (C, D, H, W).

        Returns:
            (K, D, H, W) bool, which voxels belong to each region; of exclusive labels (D, H, W), the number of each
            voxel's largest logit.

        Raises:
            UnsupportedError: the forward gives no dense output, or none of the patch's size.
        """
        sides = image.shape[1:]
        missing = [max(0, wanted - side) for wanted, side in zip(self.patch, sides, strict=True)]
        if any(missing):
            image = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
        total = self._stitched(forward, image)
        inside = tuple(slice(m // 2, m // 2 + side) for m, side in zip(missing, sides, strict=True))
        inner = total[(slice(None), *inside)]
        return _largest(inner) if self.exclusive else np.greater(inner, 0)  # sigmoid > 0.5

    def _stitched(self, forward: Forward, image: Array) -> Array:
        """(K, D, H, W): the weighted sum of the windows' logits."""
        sides = image.shape[1:]
        corners = list(itertools.product(*(starts(s, p, self.overlap) for s, p in zip(sides, self.patch, strict=True))))
        places = [tuple(slice(c, c + p) for c, p in zip(corner, self.patch, strict=True)) for corner in corners]
        # One window that is the volume needs no copy of it.
        whole = self.batch == 1 and len(places) == 1 and image.flags.c_contiguous
        windows = image[None] if whole else np.zeros((self.batch, len(image), *self.patch), np.float32)
        total: Array | None = None
        scratch = np.empty((max(1, _SLAB // math.prod(self.patch[1:])), *self.patch[1:]), np.float32)
        for first in range(0, len(places), self.batch):
            some = places[first : first + self.batch]
            if not whole:
                for window, place in zip(windows, some, strict=False):
                    window[...] = image[(slice(None), *place)]
            answers = forward(windows if self.whole_batches else windows[: len(some)])
            self._check(answers)
            if total is None:
                total = np.zeros((answers.shape[1], *sides), np.float32)
            for answer, place in zip(answers, some, strict=False):
                self._add(total[(slice(None), *place)], answer, scratch)
        assert total is not None
        return total

    def _add(self, target: Array, answer: Array, scratch: Array) -> None:
        """Add a window's weighted logits (K, D, H, W) to its place, in slabs that stay in a core's cache."""
        for logits, sums in zip(answer, target, strict=True):
            for first in range(0, len(logits), len(scratch)):
                slab = slice(first, first + len(scratch))
                weighted = scratch[: len(logits[slab])]
                np.multiply(logits[slab], self.weights[slab], out=weighted)
                sums[slab] += weighted

    def _check(self, answers: Array) -> None:
        if answers.ndim != len(self.patch) + 2:
            shape = format_shape(tuple(answers.shape)) or "a number"
            raise UnsupportedError(
                f"no segmentation of a volume: the network gives no dense output, (B, K, D, H, W); its shape: {shape}"
            )
        if answers.shape[2:] != self.patch:
            raise UnsupportedError(
                f"the network answers {format_shape(tuple(answers.shape[2:]))} voxels to a patch of "
                f"{format_shape(self.patch)}: an answer has to have the patch's size"
            )


def _largest(total: Array) -> npt.NDArray[np.uint16]:
    """(D, H, W): the first of the largest channels; the first channel is overwritten by the largest value."""
    label = np.zeros(total.shape[1:], np.uint16)
    for plane, into in zip(np.moveaxis(total, 1, 0), label, strict=True):  # plane by plane, which a cache holds
        best = plane[0]
        for number, channel in enumerate(plane[1:], 1):
            np.copyto(into, number, where=channel > best)
            np.maximum(best, channel, out=best)
    return label
