"""Evaluation: Dice of a network on a data set, region by region, and pictures of its best, median and worst case.

Dice is measured in the voxels of the label's own file. Where preprocessing resamples or crops, the answer is brought
back first; a label that was resampled or cropped with the image would flatter every network.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import DataError, UsageError
from benchbench.core.records import Measurement
from benchbench.core.statistics import case_mean_interval
from benchbench.core.units import format_shape
from benchbench.data import Case, DataPlan, get_plan, load_case
from benchbench.training.metrics import RULES, Scores, region_dice, score
from benchbench.training.sliding_window import DTYPES, AccuracyError, logits_of, regions_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AccuracyError", "AccuracyResult", "Picture", "measure_dice", "region_dice"]

log = logging.getLogger(__name__)

#: Told after each case: how many are done, and of how many.
Progress = Callable[[int, int], None]

TOLERANCE_MM = 1.0  # of the surface Dice
_RGB = {"wt": (0.20, 0.75, 0.35), "tc": (0.20, 0.45, 0.95), "et": (1.0, 0.85, 0.10)}  # drawn in this order


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG of one case: image, label, prediction."""

    name: str  # `best.png`, `median.png`, `worst.png`
    title: str
    png: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """Dice, and what it looks like."""

    measurements: tuple[Measurement, ...]  # `dice`, `dice_<region>`, then `hd95_mm` and `nsd_1mm` likewise if asked for
    pictures: tuple[Picture, ...]
    cases: dict[str, Any]  # `ids`, and `values`: metric -> a value a case in their order, None where it does not count


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
    surfaces: bool = True,
    progress: Progress | None = None,
) -> AccuracyResult:
    """Segment the cases of a split and compare.

    Args:
        model: (B, channels, D, H, W) -> logits (B, K, D, H, W), as the plan of the data has them.
        spatial: (D, H, W) of the patch, voxels.
        dtype: `fp32`, or `bf16`/`fp16` for autocast.
        overlap: of neighbouring windows, as a share of the patch.
        surfaces: also the distances of surfaces, which take longer.

    Returns:
        `dice` (mean over regions and cases) and `dice_<region>`, each with one value a case and a
        bootstrap interval over cases; `hd95_mm` and `nsd_1mm` likewise; and three pictures.

    Raises:
        DataError: unknown data set or split, or a case that cannot be read.
        UsageError: an overlap outside [0, 1), a limit below 1, or an unknown dtype.
        AccuracyError: the answers are not finite, or of another shape than the data needs.
    """
    plan = get_plan(data)
    plan.check_case(split, 0)
    if not 0 <= overlap < 1:
        raise UsageError(f"the overlap of windows must be at least 0 and below 1, not {overlap}")
    if limit is not None and limit < 1:
        raise UsageError(f"the number of cases must be at least 1, not {limit}")
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    count = min(limit or plan.splits[split], plan.splits[split])

    scores: list[Scores] = []
    shots: list[_Shot] = []
    missing: list[str] = []
    was_training = model.training
    model.eval()
    try:
        how = {"dtype": dtype, "overlap": overlap, "device": device}
        for index in range(count):
            try:
                answer = _answer(model, plan, data, split, index, spatial, how)
            except DataError as error:
                log.warning("left out of the Dice: %s", error)
                missing.append(f"{plan.ids[split][index] if split in plan.ids else index} ({error})")
                continue
            case, predicted = answer.case, answer.predicted
            reference = plan.to_regions(case.label)
            spacing = np.linalg.norm(case.affine[:3, :3], axis=0)
            scores.append(
                score(
                    predicted,
                    reference,
                    spacing_mm=spacing,
                    rule=plan.empty_rule,
                    tolerance_mm=TOLERANCE_MM,
                    surfaces=surfaces,
                )
            )
            shots.append(_middle_slice(answer.shown, answer.shown_predicted, plan))
            if progress:
                progress(len(scores), count)
    finally:
        model.train(was_training)
    if not scores:
        raise DataError(f"{plan.name}: none of the {count} {split} cases can be read, such as {missing[0]}")
    decided = "the largest logit" if plan.exclusive else "sigmoid > 0.5 per region"
    method = (
        f"{plan.key} ({plan.title}), {split}, {len(scores)} cases, patch {format_shape(tuple(spatial))}, "
        f"window overlap {overlap:g}, {dtype}, {decided}; {RULES[plan.empty_rule]}; "
        "95 % bootstrap interval over cases"
    ) + (f"; {len(missing)} could not be read: {'; '.join(missing)}" if missing else "")
    tables = {"dice": np.array([s.dice for s in scores])}
    if surfaces:
        tables["hd95_mm"] = np.array([s.hd95_mm for s in scores])
        tables[f"nsd_{TOLERANCE_MM:g}mm"] = np.array([s.nsd for s in scores])
    columns = {name: v for metric, table in tables.items() for name, v in _columns(metric, table, plan).items()}
    return AccuracyResult(
        measurements=tuple(_measurement(name, values, method) for name, values in columns.items()),
        pictures=_pictures(_means(tables["dice"]), shots, plan),
        cases={
            "ids": [shot.id for shot in shots],
            "values": {
                name: [round(v, 6) if np.isfinite(v) else None for v in values.tolist()]
                for name, values in columns.items()
            },
        },
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A case, and the regions that the network sees in it."""

    case: Case  # in the voxels of the label's own file
    predicted: npt.NDArray[np.bool_]  # (R, D, H, W), likewise
    shown: Case  # as the network saw it, which is what pictures are of: its axes and intensities are known
    shown_predicted: npt.NDArray[np.bool_]


def _answer(
    model: nn.Module,
    plan: DataPlan,
    data: str,
    split: str,
    index: int,
    spatial: Sequence[int],
    how: Mapping[str, Any],
) -> _Answer:
    how_made = plan.preparation
    if how_made is None or not (how_made.resample or how_made.foreground):  # turned at most: every voxel is there
        case = load_case(data, split, index)
        predicted = regions_of(logits_of(model, case.image, plan, spatial, **how), plan)
        return _Answer(case=case, predicted=predicted, shown=case, shown_predicted=predicted)
    from benchbench.data import preprocessing

    native, prepared = preprocessing.load_native(plan, split, index)
    image = np.asarray(prepared.image.numpy(), np.float32)
    if not how_made.resample:
        image = image.astype(np.float16).astype(np.float32)  # as it is trained on: half precision, from the cache
    logits = logits_of(model, image, plan, spatial, **how)
    assert prepared.label is not None
    affine = np.asarray(prepared.image.affine, np.float64)  # type: ignore[attr-defined]
    return _Answer(
        case=native,
        predicted=regions_of(prepared.to_native(logits), plan),
        shown=Case(id=native.id, image=image, label=prepared.label, affine=affine),
        shown_predicted=regions_of(logits, plan),
    )


def _means(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(cases,) mean over the regions of each case that count; NaN where none does."""
    counted = np.isfinite(table)
    return np.asarray(np.where(counted, table, 0).sum(1) / np.where(counted.any(1), counted.sum(1), np.nan))


def _columns(metric: str, table: npt.NDArray[np.float64], plan: DataPlan) -> dict[str, npt.NDArray[np.float64]]:
    """Name of a metric -> a value a case: the mean over regions, then each region."""
    stem, unit = (metric[: -len("_mm")], "_mm") if metric.endswith("_mm") else (metric, "")
    names = [f"{stem}_{slug}{unit}" for slug in _slugs(plan.regions)]
    return {metric: _means(table)} | {name: table[:, i] for i, name in enumerate(names)}


def _slugs(regions: Iterable[str]) -> list[str]:
    """A name in the metrics for each region, none of them twice: of those that would share one, signs are spelt out."""
    names = list(regions)
    plain = [_slug(name) for name in names]
    shared = {slug for slug in plain if plain.count(slug) > 1}
    slugs = [
        _slug(_spelt(name)) if slug in shared and _spelt(name) != name else slug
        for name, slug in zip(names, plain, strict=True)
    ]
    taken = {slug for slug in plain if slug not in shared}  # these are as they always were
    unique: list[str] = []
    for slug, original in zip(slugs, plain, strict=True):
        if original in shared:
            free = itertools.chain([slug], (f"{slug}_{n}" for n in itertools.count(2)))
            slug = next(candidate for candidate in free if candidate not in taken)
            taken.add(slug)
        unique.append(slug)
    return unique


def _spelt(region: str) -> str:
    """`GTV+` as `GTV plus`."""
    for sign, word in (("+", "plus"), ("-", "minus")):
        region = re.sub(rf"[ _]*{re.escape(sign)}(?=\W|_|$)", f"_{word}", region)
    return region


def _slug(region: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in region.lower())


def _measurement(metric: str, values: npt.NDArray[np.float64], method: str) -> Measurement:
    """The mean over the cases that count, with an interval; null where none does."""
    counted = values[np.isfinite(values)]
    unit = "mm" if metric.startswith("hd95") else "1"
    if not len(counted):
        why = "neither the label nor the answer of any case has such a region"
        return Measurement(metric=metric, unit=unit, value=None, origin="measured", method=method, reason=why)
    left_out = len(values) - len(counted)
    return Measurement(
        metric=metric,
        unit=unit,
        value=float(counted.mean()),
        values=tuple(float(v) for v in counted),
        ci95=case_mean_interval(counted) if len(counted) > 1 else None,
        origin="measured",
        method=f"{method}; {left_out} of {len(values)} cases left out" if left_out else method,
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
    order = np.argsort(np.where(np.isfinite(dice), dice, -1), kind="stable")
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
    """PNG of the image, label and prediction side by side, in the data's own voxels doubled.

    Of several contrasts two are shown: FLAIR and T1ce, where they have these names, else the first and the last.
    """
    from PIL import Image

    names = list(plan.channels)
    first = shot.image[names.index("FLAIR") if "FLAIR" in names else 0]
    second = shot.image[names.index("T1ce") if "T1ce" in names else -1]
    panels = [
        *([_grey(first)] if len(names) > 1 else []),
        _grey(second),
        _overlay(second, shot.reference, plan),
        _overlay(second, shot.predicted, plan),
    ]
    row = np.concatenate(panels, axis=0)  # along the left-right axis
    upright = row.transpose(1, 0, 2)[::-1]  # anterior up
    zoom = 2 if max(first.shape) > 80 else 4
    scaled = upright.repeat(zoom, axis=0).repeat(zoom, axis=1)
    file = io.BytesIO()
    Image.fromarray(scaled).quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
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
