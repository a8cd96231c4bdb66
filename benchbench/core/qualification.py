"""Qualification of a faster path: whether what was timed is still the same network.

A lower precision, another runtime or a rewritten network counts only if its output agrees with that of eager PyTorch in
fp32, or if its Dice on the same cases is no lower than chance allows.
"""

from __future__ import annotations

from benchbench.core.records import Measurement, ModelSpec, Record, Workload, to_json

MOST_OUTPUT_ERROR = 1e-3  # largest difference of one value, as a share of the output's range
MOST_MASK_CHANGE = 1e-4  # share of the voxels that get another label, on a real case
MOST_DICE_LOSS = 0.005  # upper end of the 95 % interval of the mean loss over cases

UNQUALIFIED = "output unqualified"
NOT_DENSE = "a classifier: it has no dense output, so no Dice"  # why a row has no Dice


def agrees(max_error: Measurement | None, mask_change: Measurement | None, *, exact: bool) -> bool | None:
    """Whether two outputs are the same network's; None where that was not looked at on anything that can tell.

    Args:
        max_error: `output_max_error`.
        mask_change: `mask_changed_share`, of a real case; None: there was none.
        exact: fp32, whose error on random numbers says enough; a lower precision is judged on a real case alone.
    """
    if max_error is None or max_error.value is None:
        return None
    if max_error.value > MOST_OUTPUT_ERROR:
        return False
    if mask_change is None or mask_change.value is None:
        return True if exact else None
    return mask_change.value <= MOST_MASK_CHANGE


def keeps_dice(loss: Measurement | None) -> bool | None:
    """Whether the interval of `lost_dice` stays below the most that may be lost; None where it has none."""
    if loss is None or loss.value is None or loss.ci95 is None:
        return None
    return loss.ci95[1] < MOST_DICE_LOSS


def is_eager_fp32(work: Workload) -> bool:
    """Whether this is what every other runtime and precision is held against."""
    return work.runtime == "eager" and work.dtype == "fp32"


def is_dense(record: Record) -> bool:
    """Whether a row is of a network that segments; a classifier can be as fast as it likes."""
    dice = record.get("dice")
    return dice is None or dice.reason != NOT_DENSE


def has_dice_of(record: Record, spec: ModelSpec, work: Workload) -> bool:
    """Whether a record's Dice is that of a network at some work, wherever each of them ran.

    Dice belongs to a network, its weights, its patch and the data, not to the machine. Only that of eager PyTorch in
    fp32 travels: other paths may have another output.

    Args:
        spec: with a checkpoint, only Dice of that checkpoint counts; without, that of any.
        work: its data, split, patch, crop and mirroring must be the record's.
    """
    r, w = record.model, record.workload
    names = ("name", "arch", "in_channels", "out_channels", "kwargs")
    same_network = all(to_json(getattr(r, name)) == to_json(getattr(spec, name)) for name in names)
    asked = ("data", "split", "spatial", "crop_foreground", "test_time_mirroring")
    same_work = all(getattr(w, name) == getattr(work, name) for name in asked)
    same_weights = spec.checkpoint in (None, r.checkpoint)
    return is_eager_fp32(w) and same_network and same_work and work.data is not None and same_weights


def is_reference(record: Record) -> bool:
    """Whether a row is what others are held against (eager PyTorch in fp32), or nothing ran that could be checked."""
    work = record.workload
    return is_eager_fp32(work) or work.phase == "train" or record.device.basis == "profile"


def is_qualified(record: Record) -> bool:
    """Whether a row may take a rank."""
    if is_reference(record):
        return True
    exact = record.workload.dtype == "fp32"
    same = agrees(record.get("output_max_error"), record.get("mask_changed_share"), exact=exact)
    return bool(same or keeps_dice(record.get("lost_dice")))


def failure(
    max_error: Measurement | None, mask_change: Measurement | None, loss: Measurement | None, *, exact: bool
) -> str | None:
    """Why a path is another network, with the figures; None where it is the same one, or nothing can be said."""
    same, keeps = agrees(max_error, mask_change, exact=exact), keeps_dice(loss)
    if same or keeps:
        return None
    if keeps is None and (same is None or not exact):
        return None  # a lower precision is judged by its Dice; without one it is unqualified
    figures = []
    if max_error is not None and max_error.value is not None:
        figures.append(f"its output differs by {max_error.value:.1e} of its range (limit {MOST_OUTPUT_ERROR:g})")
    if mask_change is not None and mask_change.value is not None:
        figures.append(f"{mask_change.value:.2%} of the voxels change (limit {MOST_MASK_CHANGE:.2%})")
    if loss is not None and loss.value is not None and loss.ci95 is not None:
        low, high = loss.ci95
        figures.append(f"it loses {loss.value:.4f} Dice ({low:.4f} to {high:.4f}; limit {MOST_DICE_LOSS:g})")
    elif loss is not None and loss.reason:
        figures.append(f"no Dice to judge it by ({loss.reason})")
    return f"not the same network any more: {'; '.join(figures)}"
