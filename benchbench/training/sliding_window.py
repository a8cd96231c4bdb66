"""Sliding-window inference on a whole volume, and the regions that its logits mean.

A volume smaller than the patch is padded with zeros on both sides, so that a 128-voxel network has the whole head in
one window; a larger one is covered by overlapping windows. A network of nnU-Net gets nnU-Net's windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import BenchError, is_out_of_memory, named_line
from benchbench.core.units import format_shape
from benchbench.data import DataPlan
from benchbench.data.foreground import foreground_box
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.mirrored import mean_over_images

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Name of a dtype -> torch's name.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class AccuracyError(BenchError):
    """A network whose outputs are no segmentation."""

    exit_code = 3


def logits_of(
    model: nn.Module,
    image: npt.NDArray[np.float32],
    plan: DataPlan,
    spatial: Sequence[int],
    *,
    dtype: str = "fp32",
    overlap: float = 0.5,
    crop_foreground: bool = False,
    mirror: Sequence[int] = (),
    device: str = "cpu",
) -> Tensor:
    """The logits of a network for a whole volume.

    Args:
        model: (B, C, D, H, W) -> logits (B, K, D, H, W), in eval mode; of several outputs `zoo.logits` chooses one.
        image: (C, D, H, W), any size.
        spatial: (D, H, W) of the patch, voxels.
        dtype: `fp32`, or `bf16`/`fp16` for autocast.
        overlap: of neighbouring windows, as a share of the patch.
        crop_foreground: go over the box of the voxels that are not 0, as a volume is timed with `--crop-foreground`.
        mirror: axes, 0 to 2, of each window's mirror images, over all combinations of which its logits are the mean.

    Returns:
        (K, D, H, W) float32, of the image's size, on the device; outside of the box 0, which is background.

    Raises:
        MemoryError: memory ran out; or PyTorch's `RuntimeError`.
        AccuracyError: the network cannot take the patch, or its output is not finite, or has another size than the
            patch or another number of channels than the data.
    """
    import torch
    from monai.inferers import sliding_window_inference

    from benchbench.training import nnunet_windows

    box = foreground_box(image) if crop_foreground else None
    if box is not None:
        at = (slice(None), *box)
        inner = logits_of(model, image[at], plan, spatial, dtype=dtype, overlap=overlap, mirror=mirror, device=device)
        whole = torch.zeros((len(inner), *image.shape[1:]), device=device)
        whole[at] = inner
        return whole
    sides = image.shape[1:]
    missing = [max(0, wanted - side) for wanted, side in zip(spatial, sides, strict=True)]
    before = [m // 2 for m in missing]
    padded = np.pad(image, [(0, 0), *((b, m - b) for b, m in zip(before, missing, strict=True))])
    x = torch.from_numpy(padded)[None].to(device)

    def mirrored(window: Tensor) -> Tensor:
        return mean_over_images(lambda image: _answer(model, image, plan), window, mirror)

    with (
        torch.inference_mode(),
        torch.autocast(device.partition(":")[0], getattr(torch, DTYPES[dtype]), enabled=dtype != "fp32"),
    ):
        logits: Any
        if plan.preparation and plan.preparation.nnunet:
            logits = nnunet_windows.slide(x, spatial, mirrored, overlap)
        else:
            logits = sliding_window_inference(x, tuple(spatial), 1, mirrored, overlap=overlap, mode="gaussian")
    if not torch.isfinite(logits).all():
        raise AccuracyError(f"the network's answer is not finite (NaN or infinite) in {dtype}: no Dice can be had")
    inside = tuple(slice(b, b + side) for b, side in zip(before, sides, strict=True))
    answer: Tensor = logits[0].float()[(slice(None), *inside)]
    return answer


def _answer(model: nn.Module, window: Tensor, plan: DataPlan) -> Tensor:
    """The logits of a window."""
    try:
        output = model(window)
        logits = zoo_logits.logits(output, window.shape[2:], plan.out_channels)
    except BenchError as error:
        raise AccuracyError(f"no Dice can be had: {error}") from error
    except Exception as error:  # a network may raise anything
        if is_out_of_memory(error, limited=True):
            raise  # of the device, not of the network
        raise AccuracyError(
            f"no Dice can be had: the network cannot take a patch of {format_shape(tuple(window.shape))}: "
            f"{named_line(error)}"
        ) from error
    if logits.shape[1] != plan.out_channels:
        what = f"{len(plan.regions)} regions ({', '.join(plan.regions)})" + (
            " and background" if plan.exclusive else ""
        )
        raise AccuracyError(
            f"the network has {logits.shape[1]} output channels and {plan.name} has {what}; "
            f"build it with out_channels={plan.out_channels}"
        )
    if len(logits) != len(window):
        raise AccuracyError(
            f"the network answers {format_shape(tuple(logits.shape))} to a batch of {format_shape(tuple(window.shape))}"
        )
    return logits.float()


def regions_of(logits: Tensor, plan: DataPlan) -> npt.NDArray[np.bool_]:
    """Regions (R, D, H, W) from logits (K, D, H, W): the largest logit if labels exclude each other, else by sign."""
    import torch

    if not plan.exclusive:
        return np.asarray((logits > 0).cpu().numpy())  # sigmoid > 0.5
    winner = logits.argmax(0)
    return np.asarray(torch.stack([winner == i + 1 for i in range(len(plan.regions))]).cpu().numpy())
