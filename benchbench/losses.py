"""The losses that every segmentation network here is trained with; a training step is timed with the first.

Regions that overlap are decisions of their own, so there each output channel has a sigmoid. Labels that exclude
each other, as in most data sets, have one softmax over the background and all of them. Those are MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss plus binary cross-entropy, the mean over regions.

    Args:
        logits: (B, R, D, H, W).
        target: the same shape, 0 or 1.

    Returns:
        A scalar; 0 for a perfect and certain answer.
    """
    probability = logits.sigmoid()
    axes = tuple(range(2, logits.ndim))
    both = (probability * target).sum(axes)
    dice = (2 * both + 1) / (probability.sum(axes) + target.sum(axes) + 1)  # the 1 settles an empty region
    return 1 - dice.mean() + nn.functional.binary_cross_entropy_with_logits(logits, target)


def make_loss(name: str, *, exclusive: bool) -> Loss:
    """A loss of logits and a target.

    Args:
        name: `dice_ce`: soft Dice plus cross-entropy; `dice_focal`: plus the focal loss, as Slim UNETR's authors train.
        exclusive: logits (B, 1 + R, ...) and class indices (B, 1, ...); else both (B, R, ...), targets 0 or 1.
    """
    from monai.losses import DiceCELoss, DiceFocalLoss

    if name == "dice_ce" and not exclusive:
        return dice_bce
    shared: dict[str, Any] = (
        {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
        if exclusive
        else {"sigmoid": True}
    )
    if name == "dice_ce":
        made: Loss = DiceCELoss(**shared)
        return made
    focal: Loss = DiceFocalLoss(gamma=2.0, **shared)
    return focal
