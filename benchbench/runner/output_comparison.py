"""Outputs compared: how far one is from that of eager PyTorch in fp32, by its values and by its labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchbench.core import records as rec


def compare(now: Any, then: Any, case: str | None, exclusive: bool, *, trained: bool = True) -> list[rec.Measurement]:
    """How far an output is from that of eager PyTorch in fp32.

    Args:
        now: (B, K, D, H, W) float32.
        then: likewise, of eager PyTorch in fp32.
        case: the real case that the input was; None: random numbers, on which masks say nothing.
        exclusive: a voxel has one label, the largest logit; else one of each region, by its sign.
        trained: whether the weights are. Logits of random ones lie so near each other, and near 0, that errors of
            rounding change labels: such masks say nothing.

    Returns:
        `output_max_error`, `output_rel_error` and, of a real case and trained weights, `mask_changed_share`.
    """
    on = f"on a patch of {case}" if case else "on random numbers"
    span = float(then.max() - then.min()) or 1.0
    with np.errstate(all="ignore"):
        most = float(np.abs(now - then).max()) / span
        relative = float(np.linalg.norm((now - then).ravel()) / max(float(np.linalg.norm(then.ravel())), 1e-30))
    finite = bool(np.isfinite(now).all())
    reason = None if finite else "the output is not finite"
    eager = "the output of eager PyTorch in fp32"
    measurements = [
        rec.Measurement.of(
            "output_max_error",
            most if finite else None,
            f"largest difference to {eager}, as a share of its range, {on}",
            reason=reason,
        ),
        rec.Measurement.of(
            "output_rel_error",
            relative if finite else None,
            f"L2 distance to {eager} over its norm, {on}",
            reason=reason,
        ),
    ]
    if case and trained and now.ndim == 5:
        masks = [output.argmax(1) if exclusive else output > 0 for output in (now, then)]
        changed = (masks[0] != masks[1]).reshape(len(now), -1, *now.shape[2:]).any(1)
        share = float(changed.mean())
        measurements.append(rec.Measurement.of("mask_changed_share", share, f"voxels with another label, {on}"))
    return measurements
