"""Logits of a network's outputs, whatever they come in.

A segmentation network may answer with a tensor, with several of deep supervision (a list, or the stack of DynUNet),
with a dictionary, or with its logits beside a loss or a reconstruction. Their order says little: some list the coarse
answers first, so the logits are the first answer of the size of the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_shape

#: Keys of a dictionary that name the answer itself, as torchvision, transformers and others have them.
_NAMES = ("logits", "out", "output", "outputs", "pred", "preds", "prediction", "seg", "segmentation", "main")
_DENSE = 5  # axes: (B, K, D, H, W)


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of an output, as it comes: of a dictionary those first that are called `logits`, `out` and the like.

    Args:
        output: a tensor, or lists, tuples, dictionaries and dataclasses of them in each other; all else is passed over.
    """
    if isinstance(output, Tensor):
        return [output]
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = {field.name: getattr(output, field.name, None) for field in dataclasses.fields(output)}
    parts = output if isinstance(output, (list, tuple)) else []
    if isinstance(output, Mapping):
        named = {str(key).lower(): key for key in reversed(list(output))}
        first = [named[name] for name in _NAMES if name in named]
        parts = [output[key] for key in [*first, *(key for key in output if key not in first)]]
    return [tensor for part in parts for tensor in tensors(part)]


def answers(output: Any) -> list[Tensor]:
    """Every tensor of an output, with those of DynUNet's deep supervision (B, heads, K, D, H, W) apart."""
    apart: list[Tensor] = []
    for tensor in tensors(output):
        apart += tensor.unbind(1) if tensor.ndim == _DENSE + 1 else [tensor]
    return apart


def segmentations(output: Any, sides: Sequence[int], channels: int | None = None) -> list[Tensor]:
    """The logits of an output, and after them the other answers of as many channels, which deep supervision trains.

    What is left out: losses that a network computes of itself, hidden states, reconstructions of the image.

    Args:
        output: as `tensors` takes it.
        sides: (D, H, W) of the input.
        channels: that are wanted; where no answer has so many, the logits are those of another number.

    Returns:
        At least one, each (B, K, D', H', W'). First is the first answer of the input's sides, where there is one.

    Raises:
        UnsupportedError: no output is dense.
    """
    candidates = answers(output)
    dense = [t for t in candidates if t.ndim == _DENSE and t.is_floating_point()]
    if not dense:
        shapes = ", ".join(format_shape(tuple(t.shape)) or "a number" for t in candidates[:4]) or "none"
        raise UnsupportedError(
            f"no segmentation of a volume: the network gives no dense output, (B, K, D, H, W); its shape: {shapes}"
        )
    fitting = [t for t in dense if t.shape[1] == channels] or dense
    whole = [t for t in fitting if tuple(t.shape[2:]) == tuple(sides)]
    first = (whole or fitting)[0]
    return [first, *(t for t in fitting if t is not first and t.shape[1] == first.shape[1])]


def logits(output: Any, sides: Sequence[int], channels: int | None = None) -> Tensor:
    """The logits (B, K, D, H, W) of an output, of the input's size; the arguments are those of `segmentations`.

    Raises:
        UnsupportedError: no output is dense, or none has the input's sides.
    """
    answer = segmentations(output, sides, channels)[0]
    if tuple(answer.shape[2:]) != tuple(sides):
        raise UnsupportedError(
            f"the network answers {format_shape(tuple(answer.shape[2:]))} voxels to a patch of "
            f"{format_shape(tuple(sides))}: an answer has to have the patch's size"
        )
    return answer


def main(output: Any, sides: Sequence[int]) -> Tensor:
    """The tensor that stands for an output where any network is compared: its logits, of a classifier its first tensor.

    Raises:
        UnsupportedError: there is no tensor in it.
    """
    all_tensors = answers(output)
    if any(t.ndim == _DENSE and t.is_floating_point() for t in all_tensors):
        return segmentations(output, sides)[0]
    if not all_tensors:
        raise UnsupportedError(f"the network's output holds no tensor: it is {type(output).__name__}")
    return all_tensors[0]
