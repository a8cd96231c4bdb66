"""Metrics of a segmentation: Dice, 95 % Hausdorff distance, surface Dice.

The distances are MONAI's. If a region is empty in the prediction and in the label, Dice is 0/0; if it is empty in one,
there is no distance. Two rules are in use, and every result names its rule.

- `brats`: both empty is perfect (Dice 1, distance 0); one empty is the worst (Dice 0, 374 mm).
- `exclude`: both empty is left out of the mean, as in nnU-Net; one empty is Dice 0, and the distance is the diagonal of
  the image.

Source: Dice 1945; Huttenlocher et al. 1993 (Hausdorff); Nikolov et al. 2018, arXiv:1809.04430 (surface Dice); the
penalty of 374 mm is that of BraTS, the diagonal of its 240x240x155 mm.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UsageError, unknown

BRATS_MM = 374.0
RULES = {
    "brats": "empty region: 1 if the answer is empty too, else 0",
    "exclude": "empty region: left out if the answer is empty too, else 0",
}

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One value per region of a case; NaN if the rule leaves the region out."""

    dice: Values  # (R,), 0 to 1
    hd95_mm: Values  # (R,)
    nsd: Values  # (R,), surface Dice at the tolerance, 0 to 1


def score(
    predicted: Mask,
    reference: Mask,
    *,
    spacing_mm: Sequence[float],
    rule: str = "brats",
    tolerance_mm: float = 1.0,
    surfaces: bool = True,
) -> Scores:
    """Compare a case region by region.

    Args:
        predicted: (R, D, H, W).
        rule: for empty regions, `brats` or `exclude`.
        tolerance_mm: of the surface Dice.
        surfaces: False: the distances of two regions that are not empty are NaN, which saves most of the time.

    Raises:
        UsageError: an unknown rule.
    """
    if rule not in RULES:
        raise UsageError(unknown("rule for empty regions", rule, RULES))
    scores = Scores(
        dice=region_dice(predicted, reference), hd95_mm=np.empty(len(predicted)), nsd=np.empty(len(predicted))
    )
    worst = BRATS_MM if rule == "brats" else float(np.linalg.norm(np.array(predicted.shape[1:]) * spacing_mm))
    for i, (a, b) in enumerate(zip(predicted, reference, strict=True)):
        if a.any() and b.any():
            pair = _distances(a, b, spacing_mm, tolerance_mm) if surfaces else (np.nan, np.nan)
            scores.hd95_mm[i], scores.nsd[i] = pair
        elif a.any() or b.any():
            scores.hd95_mm[i], scores.nsd[i] = worst, 0.0
        else:
            scores.hd95_mm[i], scores.nsd[i] = 0.0, 1.0
            if rule == "exclude":
                scores.dice[i] = scores.hd95_mm[i] = scores.nsd[i] = np.nan
    return scores


def region_dice(predicted: Mask, reference: Mask) -> Values:
    """Dice of each region (R,): 2 |A and B| / (|A| + |B|); 1 if both are empty.

    Args:
        predicted: (R, D, H, W).
        reference: the same shape.
    """
    axes = tuple(range(1, predicted.ndim))
    both = (predicted & reference).sum(axes)
    total = predicted.sum(axes) + reference.sum(axes)
    return np.asarray(np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1)), np.float64)


def _distances(a: Mask, b: Mask, spacing_mm: Sequence[float], tolerance_mm: float) -> tuple[float, float]:
    """(HD95 in mm, surface Dice) of two masks that are not empty, within their bounding box."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    inside = np.argwhere(a | b)
    low, high = np.maximum(inside.min(0) - 1, 0), inside.max(0) + 2
    box = tuple(slice(int(lo), int(hi)) for lo, hi in zip(low, high, strict=True))
    pair = [torch.from_numpy(np.pad(mask[box], 1).astype(np.float32))[None, None] for mask in (a, b)]
    spacing = [float(s) for s in spacing_mm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes itself
        far = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        near = compute_surface_dice(
            *pair, class_thresholds=[float(tolerance_mm)], include_background=True, spacing=spacing, use_subvoxels=False
        )
    return float(far), float(near)
