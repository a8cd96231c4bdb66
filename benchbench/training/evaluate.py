"""Evaluation: Dice and surface distances of a network on a data set, region by region.

They are measured in the voxels of the label file: if preprocessing resamples or crops, the prediction is mapped back
first, since a label that was resampled or cropped with the image would give every network a higher Dice.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import DataError, UsageError
from benchbench.core.records import Measurement
from benchbench.core.statistics import dice_interval
from benchbench.core.units import format_shape
from benchbench.data import Case, DataPlan, get_plan, load_case
from benchbench.training.case_pictures import Picture, Slice, case_pictures, middle_slice
from benchbench.training.metrics import RULES, Scores, score
from benchbench.training.sliding_window import DTYPES, logits_of, regions_of
from benchbench.zoo.mirrored import mirroring_text

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

#: Called after each case with the number of finished cases, and of all cases.
Progress = Callable[[int, int], None]

#: From an image (C, D, H, W) to logits (K, D, H, W), or to what `regions_of` takes in their place.
Answer = Callable[[npt.NDArray[np.float32]], "Tensor"]

Table = npt.NDArray[np.float64]  # (cases, R); NaN where a rule leaves a region out

TOLERANCE_MM = 1.0  # of the surface Dice
NSD = f"nsd_{TOLERANCE_MM:g}mm"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """Metrics over all cases, values of each case, and pictures."""

    measurements: tuple[Measurement, ...]  # `dice`, `dice_<region>`, and with surfaces `hd95_mm`, `nsd_1mm` likewise
    pictures: tuple[Picture, ...]
    cases: dict[str, Any]  # `ids`, and `values`: metric -> one value per case, None if the case does not count


def measure_dice(
    model: nn.Module,
    *,
    data: str,
    split: str = "test",
    spatial: Sequence[int],
    dtype: str = "fp32",
    overlap: float = 0.5,
    crop_foreground: bool = False,
    mirror: Sequence[int] = (),
    device: str = "cpu",
    limit: int | None = None,
    surfaces: bool = True,
    progress: Progress | None = None,
) -> AccuracyResult:
    """Segment the cases of a split, and compare the predictions with the labels.

    Args:
        model: (B, channels, D, H, W) -> logits (B, K, D, H, W), with the channels of the data's plan.
        spatial: (D, H, W) of the patch, voxels.
        dtype: `fp32`, or `bf16`/`fp16` for autocast.
        overlap: of neighbouring windows, as a share of the patch.
        crop_foreground: segment the box of the voxels that are not 0; all outside of it is background.
        mirror: axes, 0 to 2, along which windows are mirrored; the logits are the mean over all combinations.
        limit: number of cases; None: all.
        surfaces: also measure surface distances, which takes longer.

    Returns:
        `dice` (mean over regions and cases) and `dice_<region>`, each with one value per case and a bootstrap interval
        over cases; `hd95_mm` and `nsd_1mm` likewise; and three pictures.

    Raises:
        DataError: unknown data set or split, or no case can be read.
        UsageError: an overlap outside [0, 1), a limit below 1, or an unknown dtype.
        AccuracyError: the outputs are not finite, or do not have the shape that the data needs.
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
    slices: list[Slice] = []
    unread: list[str] = []
    was_training = model.training
    model.eval()
    settings = {"dtype": dtype, "overlap": overlap, "crop_foreground": crop_foreground, "mirror": mirror}
    answer = functools.partial(logits_of, model, plan=plan, spatial=spatial, device=device, **settings)  # type: ignore[arg-type]
    try:
        for index in range(count):
            try:
                prediction = predict_case(answer, plan, data, split, index)
            except DataError as error:
                log.warning("left out of the Dice: %s", error)
                unread.append(f"{case_name(plan, split, index)} ({error})")
                continue
            scores.append(judge(prediction, plan, surfaces=surfaces))
            slices.append(prediction.middle(plan))
            if progress:
                progress(len(scores), count)
    finally:
        model.train(was_training)
    tables = as_tables(scores, surfaces=surfaces)
    ids = [shown.id for shown in slices]
    how = how_answered(plan, spatial, **settings)  # type: ignore[arg-type]
    measurements, cases = summarise(tables, ids, plan, method_of(plan, split, how, len(ids), unread))
    return AccuracyResult(
        measurements=measurements,
        pictures=case_pictures(means(tables["dice"]), slices, plan),
        cases=cases,
    )


def case_name(plan: DataPlan, split: str, index: int) -> str:
    """What a case is called; its number where the data set has no names."""
    return plan.ids[split][index] if split in plan.ids else str(index)


def judge(prediction: Prediction, plan: DataPlan, *, surfaces: bool = True) -> Scores:
    """The metrics of one case, region by region."""
    case = prediction.case
    return score(
        prediction.regions,
        plan.to_regions(case.label),
        spacing_mm=np.linalg.norm(case.affine[:3, :3], axis=0),
        rule=plan.empty_rule,
        tolerance_mm=TOLERANCE_MM,
        surfaces=surfaces,
    )


def as_tables(scores: Sequence[Scores], *, surfaces: bool = True) -> dict[str, Table]:
    """Metric -> (cases, R); with surfaces `hd95_mm` and `nsd_1mm` beside `dice`."""
    tables = {"dice": np.array([s.dice for s in scores])}
    if surfaces:
        tables["hd95_mm"] = np.array([s.hd95_mm for s in scores])
        tables[NSD] = np.array([s.nsd for s in scores])
    return tables


def how_answered(
    plan: DataPlan,
    spatial: Sequence[int],
    *,
    dtype: str = "fp32",
    overlap: float = 0.5,
    crop_foreground: bool = False,
    mirror: Sequence[int] = (),
) -> str:
    """How a network is applied to a case, for the method of a measurement."""
    box = ", over the box of the voxels that are not 0" if crop_foreground else ""
    mean = f", {mirroring_text(mirror)}" if mirror else ""
    decided = "the largest logit" if plan.exclusive else "sigmoid > 0.5 per region"
    return f"patch {format_shape(tuple(spatial))}, window overlap {overlap:g}{box}{mean}, {dtype}, {decided}"


def method_of(plan: DataPlan, split: str, how: str, count: int, unread: Sequence[str] = ()) -> str:
    """How the metrics of an evaluation were obtained.

    Args:
        how: the regions of a case were.
        count: of cases.
        unread: cases that could not be read, with the reason.

    Raises:
        DataError: no case could.
    """
    if not count:
        raise DataError(f"{plan.name}: none of the {len(unread)} {split} cases can be read, such as {unread[0]}")
    return (
        f"{plan.key} ({plan.title}), {split}, {count} cases, {how}; {RULES[plan.empty_rule]}; "
        "95 % bootstrap interval over cases"
    ) + (f"; {len(unread)} could not be read: {'; '.join(unread)}" if unread else "")


def summarise(
    tables: Mapping[str, Table], ids: Sequence[str], plan: DataPlan, method: str
) -> tuple[tuple[Measurement, ...], dict[str, Any]]:
    """Means with intervals, and the values of each case.

    Args:
        tables: metric -> (cases, R).
        ids: of the cases.
        method: how they were obtained.

    Returns:
        The measurements, and `ids` and `values` as in `AccuracyResult.cases`.
    """
    columns = {name: v for metric, table in tables.items() for name, v in _columns(metric, table, plan).items()}
    values = {
        name: [round(v, 6) if np.isfinite(v) else None for v in column.tolist()] for name, column in columns.items()
    }
    measurements = tuple(_measurement(name, column, method) for name, column in columns.items())
    return measurements, {"ids": list(ids), "values": values}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A case, and the regions that were predicted of it."""

    case: Case  # in the voxels of the label file
    regions: npt.NDArray[np.bool_]  # (R, D, H, W), likewise
    network_case: Case  # as the network gets it, for pictures, since its axes and intensities are normalised
    network_regions: npt.NDArray[np.bool_]

    def middle(self, plan: DataPlan) -> Slice:
        """The slice for a picture."""
        return middle_slice(self.network_case, self.network_regions, plan)


def predict_case(answer: Answer, plan: DataPlan, data: str, split: str, index: int) -> Prediction:
    """Segment a case, in the voxels of its files.

    Raises:
        DataError: it cannot be read.
    """
    preparation = plan.preparation
    if preparation is None or not (preparation.resample or preparation.foreground):  # all voxels are those of the file
        case = load_case(data, split, index)
        regions = regions_of(answer(case.image), plan)
        return Prediction(case=case, regions=regions, network_case=case, network_regions=regions)
    from benchbench.data import preprocessing

    native, prepared = preprocessing.load_native(plan, split, index)
    image = np.asarray(prepared.image.numpy(), np.float32)
    if not preparation.resample:
        image = image.astype(np.float16).astype(np.float32)  # the cache that it was trained from has half precision
    logits = answer(image)
    assert prepared.label is not None
    affine = np.asarray(prepared.image.affine, np.float64)  # type: ignore[attr-defined]
    return Prediction(
        case=native,
        regions=regions_of(prepared.to_native(logits), plan),
        network_case=Case(id=native.id, image=image, label=prepared.label, affine=affine),
        network_regions=regions_of(logits, plan),
    )


def means(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(cases,) mean over the regions of each case that count; NaN where none does."""
    counted = np.isfinite(table)
    return np.asarray(np.where(counted, table, 0).sum(1) / np.where(counted.any(1), counted.sum(1), np.nan))


def _columns(metric: str, table: npt.NDArray[np.float64], plan: DataPlan) -> dict[str, npt.NDArray[np.float64]]:
    """Name of a metric -> one value per case: the mean over regions, then each region."""
    stem, unit = (metric[: -len("_mm")], "_mm") if metric.endswith("_mm") else (metric, "")
    names = [f"{stem}_{slug}{unit}" for slug in _slugs(plan.regions)]
    return {metric: means(table)} | {name: table[:, i] for i, name in enumerate(names)}


def _slugs(regions: Iterable[str]) -> list[str]:
    """Unique names for the metrics of regions; regions that would share one have their signs spelt out."""
    names = list(regions)
    plain = [_slug(name) for name in names]
    slugs: list[str] = []
    for name, slug in zip(names, plain, strict=True):
        if plain.count(slug) > 1:
            spelt = _slug(_spelt(name))
            taken = {*slugs, *(other for other in plain if plain.count(other) == 1)}
            candidates = itertools.chain([spelt], (f"{spelt}_{n}" for n in itertools.count(2)))
            slug = next(candidate for candidate in candidates if candidate not in taken)
        slugs.append(slug)
    return slugs


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
        ci95=dice_interval(counted) if len(counted) > 1 else None,
        origin="measured",
        method=f"{method}; {left_out} of {len(values)} cases left out" if left_out else method,
    )
