"""What a network gives in a training step: its outputs, checked, and its errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from benchbench import data
from benchbench.core.errors import BenchError, UnsupportedError, is_out_of_memory, named_line
from benchbench.core.units import format_shape
from benchbench.zoo import logits as zoo_logits


@contextlib.contextmanager
def network_errors(name: str, step: int, image: Tensor) -> Iterator[None]:
    """Inside, whatever a network raises for a batch (B, C, D, H, W) becomes one line."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # a network may raise anything
        shape = format_shape(tuple(image.shape))
        if is_out_of_memory(error):
            raise UnsupportedError(
                f"{name}: memory ran out in training step {step} on {shape}; take a smaller --batch-size or --spatial"
            ) from error
        advice = ""
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            advice = "; a norm over the batch needs more than one voxel: take --batch-size 2 or a larger --spatial"
        raise UnsupportedError(
            f"{name} cannot be trained on a batch of {shape}: {named_line(error)}{advice}"
        ) from error


def training_outputs(name: str, output: Any, image: Tensor, plan: data.DataPlan) -> list[Tensor]:
    """The logits of a network's output, and further outputs of deep supervision.

    Args:
        image: (B, C, D, H, W).

    Raises:
        UnsupportedError: it has not the channels that the data need.
    """
    outputs = zoo_logits.segmentations(output, image.shape[2:], plan.out_channels)
    if (channels := outputs[0].shape[1]) != plan.out_channels or len(outputs[0]) != len(image):
        raise UnsupportedError(
            f"{name} answers {format_shape(tuple(outputs[0].shape))} to a batch of "
            f"{format_shape(tuple(image.shape))}, and {plan.name} needs {len(image)} with "
            f"{plan.out_channels} channels, not {len(outputs[0])} with {channels}"
        )
    return outputs
