"""The loss that every segmentation network here is trained with; a training step is timed with the same one.

The surprise is that it needs no softmax: regions overlap, so each output channel is a decision of its own.
"""

from __future__ import annotations

from torch import Tensor, nn


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
