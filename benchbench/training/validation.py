"""Dice on the validation cases during a training, which goes on without it where it cannot be measured."""

from __future__ import annotations

import logging

from torch import nn

from benchbench import data
from benchbench.core.errors import DataError, is_out_of_memory
from benchbench.training.evaluate import measure_dice
from benchbench.training.recipe import Patch
from benchbench.training.sliding_window import AccuracyError

log = logging.getLogger(__name__)


def dice_on_val(
    model: nn.Module, plan: data.DataPlan, patch: Patch, *, device: str, bf16: bool, step: int
) -> float | None:
    """Mean Dice of a network on the cases of the split `val`; None, with a warning, if it cannot be measured.

    Args:
        patch: (D, H, W) of the windows, voxels.
        step: of the training, for the warning.
    """
    why = "step %d was not evaluated on the validation cases: %s"
    try:
        accuracy = measure_dice(
            model,
            data=plan.where,
            split="val",
            spatial=patch,
            device=device,
            dtype="bf16" if bf16 else "fp32",
            surfaces=False,
        )
    except (DataError, AccuracyError) as error:
        log.warning(why, step, error)
        return None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning(why, step, "memory ran out")
        return None
    value = accuracy.measurements[0].value
    return None if value is None else round(float(value), 5)
