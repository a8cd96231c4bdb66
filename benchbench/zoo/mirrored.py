"""Test-time mirroring: the mean of the logits for an input and its mirror images, each mirrored back.

Every subset of the axes is one image, so n axes take 2^n forwards. The axes are those that a training mirrored its
patches along: of others, a network has seen no mirror image. One form is for arrays, in a process without PyTorch; the
other is a module.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_axes, format_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = npt.NDArray[np.float32]
_FIRST = 2  # axis of an input (B, C, D, H, W) that is axis 0 of a volume


def images(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of the axes of a volume, the empty one first, as axes of (B, C, D, H, W)."""
    subsets = (itertools.combinations(axes, n) for n in range(len(axes) + 1))
    return [tuple(axis + _FIRST for axis in some) for some in itertools.chain.from_iterable(subsets)]


def mirroring_text(axes: Sequence[int]) -> str:
    """`mean over 4 mirror images (axes D, H)`, for the method of a measurement."""
    return f"mean over {2 ** len(axes)} mirror images ({'axis' if len(axes) == 1 else 'axes'} {format_axes(axes)})"


def mirrored_arrays(forward: Callable[[Array], Array], axes: Sequence[int]) -> Callable[[Array], Array]:
    """A forward of arrays, (B, C, D, H, W) -> logits (B, K, D, H, W), as the mean over mirror images.

    Args:
        forward: its answer is left alone by the next call.
        axes: 0 to 2 for D, H and W; none: the forward itself.

    Raises:
        UnsupportedError: when called, the answer is not dense.
    """
    if not axes:
        return forward
    places = images(axes)

    def mean(x: Array) -> Array:
        total = forward(x)
        if total.ndim != x.ndim:
            raise UnsupportedError(
                f"no answer can be mirrored back: it is not dense, (B, K, D, H, W), but {format_shape(total.shape)}"
            )
        for at in places[1:]:
            total += np.flip(forward(np.ascontiguousarray(np.flip(x, at))), at)
        total /= len(places)
        return total

    return mean


def mean_over_images(answer: Callable[[Tensor], Tensor], x: Tensor, axes: Sequence[int]) -> Tensor:
    """The mean of an answer (B, K, D, H, W) for a tensor (B, C, D, H, W) and its mirror images along axes 0 to 2."""
    places = images(axes)
    total = answer(x)
    for at in places[1:]:
        total = total + answer(x.flip(at)).flip(at)
    return total / len(places) if axes else total


def mirrored_module(network: nn.Module, axes: Sequence[int]) -> nn.Module:
    """A network as the mean over mirror images: (B, C, D, H, W) -> logits (B, K, D, H, W) float32.

    Args:
        network: whose logits are found as `zoo.logits` does.
        axes: 0 to 2 for D, H and W; none: the network itself.

    Raises:
        UnsupportedError: when called, no output is dense, or none has the input's size.
    """
    if not axes:
        return network
    import torch

    from benchbench.zoo import logits as zoo_logits

    class Mirrored(torch.nn.Module):
        """The mean over mirror images."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.training = network.training

        def forward(self, x: torch.Tensor) -> Any:
            """(B, C, D, H, W) -> (B, K, D, H, W)."""
            return mean_over_images(lambda image: zoo_logits.logits(self.network(image), x.shape[2:]).float(), x, axes)

    return Mirrored()
