"""Ensemble: several networks that answer as one, by the mean of their probabilities.

The mean is of probabilities (softmax, or sigmoid of each region) and not of logits: logits of networks that were
trained apart have scales of their own, and the one with the largest would decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchbench.data import DataPlan
from benchbench.training.evaluate import Answer

if TYPE_CHECKING:
    from torch import Tensor


def ensemble_of(answers: Sequence[Answer], plan: DataPlan) -> Answer:
    """One answer from several.

    Returns:
        From an image (C, D, H, W) to what stands in the place of logits (K, D, H, W) in `regions_of`: the mean softmax
        where labels exclude each other; else the mean sigmoid less a half, so that 0 decides. Outside of a crop, which
        is 0, both mean background.
    """

    def answer(image: npt.NDArray[np.float32]) -> Tensor:
        total = _probabilities(answers[0](image), plan)
        for member in answers[1:]:
            total += _probabilities(member(image), plan)
        mean = total / len(answers)
        return mean if plan.exclusive else mean - 0.5

    return answer


def _probabilities(logits: Tensor, plan: DataPlan) -> Tensor:
    return logits.softmax(0) if plan.exclusive else logits.sigmoid()
