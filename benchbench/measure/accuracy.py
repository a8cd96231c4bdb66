"""Dice of a network on a data set, region by region, and pictures of its best, median and worst case.

The surprise is the padding. A volume smaller than the patch is padded with zeros on both sides alike,
so that a 128-voxel network sees the whole head in one window; a larger one is covered by windows that
overlap. An empty region counts as BraTS counts it: 1 where the answer is empty too, else 0.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.data import Case, DataPlan, get_plan, load_case
from benchbench.errors import BenchError, UsageError
from benchbench.records import Measurement
from benchbench.units import format_shape

if TYPE_CHECKING:
    from torch import nn

#: Told after each case: how many are done, and of how many.
Progress = Callable[[int, int], None]

EMPTY_RULE = "empty region: 1 if the answer is empty too, else 0"
_BOOTSTRAPS, _BOOTSTRAP_SEED = 2000, 0
_RGB = {"wt": (0.20, 0.75, 0.35), "tc": (0.20, 0.45, 0.95), "et": (1.0, 0.85, 0.10)}  # drawn in this order


class AccuracyError(BenchError):
    """A network whose answers are no segmentation."""

    exit_code = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG of one case: image, label, prediction."""

    name: str  # `best.png`, `median.png`, `worst.png`
    title: str
    png: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """Dice, and what it looks like."""

    measurements: tuple[Measurement, ...]  # `dice`, then `dice_<region>`
    pictures: tuple[Picture, ...]


def measure_dice(
    model: nn.Module,
    *,
    data: str,
    split: str = "test",
    spatial: Sequence[int],
    dtype: str = "fp32",
    overlap: float = 0.5,
    device: str = "cpu",
    limit: int | None = None,
    progress: Progress | None = None,
) -> AccuracyResult:
    """Segment the cases of a split and compare.

    Args:
        model: (B, channels, D, H, W) -> logits (B, regions, D, H, W), as the plan of the data has them.
        data: name of the data set.
        split: which of its cases.
        spatial: (D, H, W) of the patch, voxels.
        dtype: `fp32`, or `bf16`/`fp16` for autocast.
        overlap: of neighbouring windows, as a share of the patch.
        device: `cpu` or `cuda`.
        limit: only the first so many cases.
        progress: told after each case.

    Returns:
        `dice` (mean over regions and cases) and `dice_<region>`, each with one value a case and a
        bootstrap interval over cases; and three pictures.

    Raises:
        DataError: unknown data set or split.
        UsageError: an overlap outside [0, 1), a limit below 1, or an unknown dtype.
        AccuracyError: the answers are not finite, or of another shape than the data needs.
    """
    import torch

    plan = get_plan(data)
    plan.check_case(split, 0)
    if not 0 <= overlap < 1:
        raise UsageError(f"the overlap of windows must be at least 0 and below 1, not {overlap}")
    if limit is not None and limit < 1:
        raise UsageError(f"the number of cases must be at least 1, not {limit}")
    if dtype not in _DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    count = min(limit or plan.splits[split], plan.splits[split])

    scores, shots = [], []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for index in range(count):
                case = load_case(data, split, index)
                predicted = _predict(model, case.image, plan, spatial, dtype, overlap, device)
                scores.append(region_dice(predicted, plan.to_regions(case.label)))
                shots.append(_middle_slice(case, predicted, plan))
                if progress:
                    progress(index + 1, count)
    finally:
        model.train(was_training)
    table = np.array(scores)  # (cases, regions)
    method = (
        f"{data} ({plan.title}), {split}, {count} cases, patch {format_shape(tuple(spatial))}, "
        f"window overlap {overlap:g}, {dtype}, sigmoid > 0.5 per region; {EMPTY_RULE}; "
        "95 % bootstrap interval over cases"
    )
    columns = {"dice": table.mean(1)} | {f"dice_{region}": table[:, i] for i, region in enumerate(plan.regions)}
    return AccuracyResult(
        measurements=tuple(_measurement(name, values, method) for name, values in columns.items()),
        pictures=_pictures(table.mean(1), shots, plan),
    )


_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # name -> torch's name


def _predict(
    model: nn.Module,
    image: npt.NDArray[np.float32],
    plan: DataPlan,
    spatial: Sequence[int],
    dtype: str,
    overlap: float,
    device: str,
) -> npt.NDArray[np.bool_]:
    """The regions that a network sees: (R, D, H, W)."""
    import torch
    from monai.inferers import sliding_window_inference

    sides = image.shape[1:]
    missing = [max(0, wanted - side) for wanted, side in zip(spatial, sides, strict=True)]
    before = [m // 2 for m in missing]
    padded = np.pad(image, [(0, 0), *((b, m - b) for b, m in zip(before, missing, strict=True))])
    x = torch.from_numpy(padded)[None].to(device)
    with torch.autocast(device.partition(":")[0], getattr(torch, _DTYPES[dtype]), enabled=dtype != "fp32"):
        logits: Any = sliding_window_inference(
            x, tuple(spatial), 1, lambda window: _logits(model(window), plan), overlap=overlap, mode="gaussian"
        )
    if not torch.isfinite(logits).all():
        raise AccuracyError(f"the network's answer is not finite (NaN or infinite) in {dtype}: no Dice can be had")
    inside = tuple(slice(b, b + side) for b, side in zip(before, sides, strict=True))
    found: npt.NDArray[np.bool_] = (logits[0].float() > 0).cpu().numpy()[(slice(None), *inside)]  # sigmoid > 0.5
    return found


def _logits(output: Any, plan: DataPlan) -> Any:
    """The logits of a network that may return several; the first are those at full size."""
    logits = output[0] if isinstance(output, (list, tuple)) else output
    if logits.shape[1] != plan.out_channels:
        raise AccuracyError(
            f"the network has {logits.shape[1]} output channels and {plan.name} has "
            f"{plan.out_channels} regions ({', '.join(plan.regions)}); build it with out_channels={plan.out_channels}"
        )
    return logits.float()


def region_dice(predicted: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Dice of each region: 2 |A and B| / (|A| + |B|); two empty ones agree (1), one empty one does not (0).

    Args:
        predicted: (R, D, H, W).
        reference: the same shape.

    Returns:
        (R,), 0 to 1.

    Source: Dice 1945; the rule for empty regions is that of BraTS.
    """
    axes = tuple(range(1, predicted.ndim))
    both = (predicted & reference).sum(axes)
    total = predicted.sum(axes) + reference.sum(axes)
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def _measurement(metric: str, values: npt.NDArray[np.float64], method: str) -> Measurement:
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    means = values[rng.integers(len(values), size=(_BOOTSTRAPS, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Measurement(
        metric=metric,
        unit="1",
        value=float(values.mean()),
        values=tuple(float(v) for v in values),
        ci95=(float(low), float(high)) if len(values) > 1 else None,
        origin="measured",
        method=method,
    )


# -- pictures ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Shot:
    """One axial slice of a case."""

    id: str
    image: npt.NDArray[np.float32]  # (channels, D, H)
    reference: npt.NDArray[np.bool_]  # (R, D, H)
    predicted: npt.NDArray[np.bool_]  # (R, D, H)


def _middle_slice(case: Case, predicted: npt.NDArray[np.bool_], plan: DataPlan) -> _Shot:
    """The axial slice through the middle of the label, or of the volume where there is none."""
    reference = plan.to_regions(case.label)
    heights = np.flatnonzero(case.label.any((0, 1)))
    weights = case.label.astype(bool).sum((0, 1))[heights]
    k = round(np.average(heights, weights=weights)) if len(heights) else case.label.shape[2] // 2
    return _Shot(
        id=case.id, image=case.image[..., k].copy(), reference=reference[..., k], predicted=predicted[..., k].copy()
    )


def _pictures(dice: npt.NDArray[np.float64], shots: list[_Shot], plan: DataPlan) -> tuple[Picture, ...]:
    order = np.argsort(dice, kind="stable")
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    return tuple(
        Picture(
            name=f"{name}.png",
            title=f"{name} of {len(shots)} cases: {shots[i].id}, Dice {dice[i]:.3f}",
            png=_montage(shots[i], plan),
        )
        for name, i in chosen.items()
    )


def _montage(shot: _Shot, plan: DataPlan) -> bytes:
    """PNG of FLAIR, T1ce, label and prediction side by side, in the data's own voxels doubled.

    A contrast that the data set does not have is replaced by its first and last channel.
    """
    from PIL import Image

    names = list(plan.channels)
    first = shot.image[names.index("FLAIR") if "FLAIR" in names else 0]
    second = shot.image[names.index("T1ce") if "T1ce" in names else -1]
    panels = [
        _grey(first),
        _grey(second),
        _overlay(second, shot.reference, plan),
        _overlay(second, shot.predicted, plan),
    ]
    row = np.concatenate(panels, axis=0)  # along the left-right axis
    upright = row.transpose(1, 0, 2)[::-1]  # anterior up
    doubled = upright.repeat(2, axis=0).repeat(2, axis=1)
    file = io.BytesIO()
    Image.fromarray(doubled).quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _grey(channel: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(D, H) z-scores as (D, H, 3) grey; the background, 0, is black."""
    shade = np.where(channel == 0, 0, np.clip((channel + 2.5) / 5.5, 0.04, 1))
    return (255 * shade[..., None].repeat(3, axis=-1)).round().astype(np.uint8)


def _overlay(channel: npt.NDArray[np.float32], regions: npt.NDArray[np.bool_], plan: DataPlan) -> npt.NDArray[np.uint8]:
    """Regions in colour over a contrast, the largest first."""
    picture = _grey(channel).astype(np.float64)
    spare = [(0.9, 0.3, 0.6), (0.3, 0.8, 0.9), (0.9, 0.6, 0.2)]
    by_size = sorted(enumerate(plan.regions), key=lambda item: -len(plan.regions[item[1]]))
    for order, (i, name) in enumerate(by_size):
        colour = np.array(_RGB.get(name, spare[order % len(spare)])) * 255
        picture[regions[i]] = 0.45 * _grey(channel)[regions[i]] + 0.55 * colour
    return picture.round().astype(np.uint8)
