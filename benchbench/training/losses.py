"""Losses of training: soft Dice with cross-entropy, and others.

Regions may overlap, so each output channel has a sigmoid. Labels that exclude each other, as in most data sets, have
one softmax over the background and all labels; those losses are MONAI's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchbench.data import DataPlan

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss plus binary cross-entropy, the mean over regions.

    Args:
        logits: (B, R, D, H, W).
        target: the same shape, 0 or 1.
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
    loss: Loss = DiceCELoss(**shared) if name == "dice_ce" else DiceFocalLoss(gamma=2.0, **shared)
    return loss


def deep_supervision(outputs: Sequence[Tensor], target: Tensor, loss: Loss) -> Tensor:
    """Loss over the outputs of a network, each of which counts half as much as the one before.

    Args:
        outputs: logits (B, K, D, H, W), the finest first; coarser ones are compared with the nearest voxels' labels.
        target: as `loss` takes it, of the finest.

    Source: the weights are those of nnU-Net (Isensee et al. 2021, Nature Methods 18, supplementary note 4).
    """
    total = torch.zeros((), device=target.device)
    for i, logits in enumerate(outputs):
        sides = logits.shape[2:]
        truth = target if sides == target.shape[2:] else nn.functional.interpolate(target, size=sides, mode="nearest")
        total = total + loss(logits.float(), truth) / 2**i
    whole: float = 2 - 2.0 ** (1 - len(outputs))
    return total / whole


def distillation(logits: Tensor, teacher: Tensor, *, exclusive: bool) -> Tensor:
    """Kullback-Leibler divergence of a network's probabilities from its teacher's, the mean over voxels.

    Args:
        logits: (B, K, D, H, W).
        teacher: the same shape; it gets no gradient.
        exclusive: one softmax over K; else a sigmoid each.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", at temperature 1.
    """
    if exclusive:
        wanted = teacher.detach().log_softmax(1)
        return (wanted.exp() * (wanted - logits.log_softmax(1))).sum(1).mean()
    wanted = teacher.detach().sigmoid()
    entropy = nn.functional.binary_cross_entropy_with_logits(teacher.detach(), wanted)
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted) - entropy


def set_prior(model: nn.Module, plan: DataPlan, prior: float) -> None:
    """Set the bias of a network's last layer so that it starts from "nearly nothing is tumour".

    Without it a network whose logits are normalised (Slim UNETR ends in a GroupNorm) cannot get there
    in a short training: the mean of its logits is that bias, and a step moves it by the learning rate.
    The last layer is the last one with a bias of `out_channels` values; a network without is left alone.

    Args:
        plan: of the data set: a sigmoid a region, or a softmax with the background.
        prior: each region's probability.

    Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.1.
    """
    channels = plan.out_channels
    biases = [bias for m in model.modules() if isinstance(bias := getattr(m, "bias", None), Tensor)]
    last = [bias for bias in biases if bias.shape == (channels,)][-1:]
    for bias in last:
        if plan.exclusive:
            background = 1 - prior * len(plan.regions)
            nn.init.constant_(bias, math.log(prior))
            with torch.no_grad():
                bias[0] = math.log(max(background, prior))
        else:
            nn.init.constant_(bias, math.log(prior / (1 - prior)))
    if not last:
        log.warning("no last bias found; the training starts from the network's own")
