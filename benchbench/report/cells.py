"""Cells of tables: one measurement as text, with where it came from and what is known of its spread.

A cell is text plus where it came from, and keeps the plain number for sorting. A column may mix origins: one row's
memory is measured, another's is only forecast. So the origin belongs to the cell and never to the column.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.within_rounds import ratio_within_rounds
from benchbench.report import reliability
from benchbench.report.conditions import EAGER_FP32, has_phantom_dice, path_of

#: Origin -> (letter of the badge, what it means).
ORIGIN_LEGEND: Mapping[str, tuple[str, str]] = {
    "measured": ("M", "measured on the device named in the conditions"),
    "analytic": ("A", "exact, counted from the network's graph; nothing was timed"),
    "predicted": ("P", "from a device model; nothing ran on that device"),
    "reference": ("R", "measured earlier, elsewhere; the record's id says where"),
    "published": ("L", "from the literature, not checked here"),
}

#: The badge of what a public counter says. No record has it as an origin: such a figure is exact about
#: the counter and may be wrong about the network.
COUNTER_LEGEND: Mapping[str, tuple[str, str]] = {
    "counter": ("C", "count of a public tool, run here on the same network; shown for comparison, it may be wrong"),
}

#: The network that the others are set against.
BASELINE = "slim_unetr"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """One value for a person, with the plain number beside it."""

    text: str  # `171 ms`, `at least 43 ms`, or `-`
    origin: rec.Origin | Literal["counter"] | None = None  # None: there is no number, or it is a name
    value: float | None = None  # in the unit of the measurement; what sorting uses
    detail: str = ""  # a second line: the interval, the classes
    qualifier: str = ""  # stands beside the number wherever it is shown: a prediction's range, `semi-synthetic`
    note: str = ""  # method, source, or why there is no number


NOTHING = TableCell(text="-", note="not recorded")


def lost_dice_cell(record: rec.Record) -> TableCell:
    """The Dice that a row loses against eager PyTorch in fp32."""
    if record.ok and path_of(record) == EAGER_FP32:
        return TableCell(text="-", note="the others are held against this row")
    return measurement_cell(valid(record, "lost_dice"))


def runtime_text(record: rec.Record) -> str:
    """`openvino`; `openvino, rewritten` where it runs the network's own form for inference."""
    return record.workload.runtime + (", rewritten" if record.value("rewritten_for_inference") else "")


def throughput_cell(record: rec.Record) -> TableCell:
    """Patches per second; of a training without them, from the step and the batch."""
    cell = measurement_cell(valid(record, "throughput_patches_per_s"))
    if cell.origin == "measured":  # its interval is that of the latency, which stands beside it
        return dataclasses.replace(cell, detail="")
    if cell.value is not None or record.workload.phase != "train":
        return cell
    step = finite(valid(record, "train_step_s"))
    if step is None or not step.value:
        return TableCell(text="-", note="needs a training step")
    rate = record.workload.batch / step.value
    text = units.format_value(rate, "1/s")
    return TableCell(text=text, origin=step.origin, value=rate, note="batch / train_step_s")


def valid(record: rec.Record | None, metric: str) -> rec.Measurement | None:
    """The measurement, unless the row failed: what was timed before a failure does not count.

    A network in half precision whose output is wrong has latencies, and status `failed`.
    """
    if record is None or not record.ok:
        return None
    return record.get(metric)


def measurement_cell(m: rec.Measurement | None) -> TableCell:
    """One measurement as a cell; `-` with the reason where there is no value."""
    if m is None or m.value is None:
        return TableCell(text="-", note=(m.reason if m else None) or NOTHING.note)
    if m.metric == "fits_in_memory" and m.origin == "predicted":
        return TableCell(text=fits_text(m), origin=m.origin, value=float(m.value), note=m.method)
    if finite(m) is None:
        return TableCell(text="-", note=f"the record holds {m.value}, which is no number")
    note = m.method + (f"; source: {m.source}" if m.source else "")
    if m.origin == "predicted" and m.interval is not None:  # one number of it would look like a promise
        return TableCell(
            text=range_text(m), origin=m.origin, value=float(m.value), detail=FORECASTS[tier_of(m)], note=note
        )
    return TableCell(text=bounded_text(m), origin=m.origin, value=float(m.value), detail=range_text(m), note=note)


#: What a forecast rests on, by the start of its method -> a plain word for it.
FORECASTS: Mapping[str, str] = {
    "datasheet": "data sheet only",
    "scaled": "scaled from another device",
    "calibrated": "its operators were timed there",
}


def tier_of(m: rec.Measurement) -> str:
    """What a forecast rests on: `datasheet`, `scaled` or `calibrated`."""
    start = m.method.partition(":")[0]
    return start if start in FORECASTS else "datasheet"


def finite(m: rec.Measurement | None) -> rec.Measurement | None:
    """The measurement where it holds a number, else None."""
    return m if m is not None and m.value is not None and math.isfinite(m.value) else None


def bounded_text(m: rec.Measurement) -> str:
    """`171 ms`, or `at least 43 ms` where the value is a bound."""
    text = _text(m.value, m)
    return text if m.bound is None else f"{m.bound.replace('_', ' ')} {text}"


def _text(value: float | int | None, m: rec.Measurement) -> str:
    """A value of a measurement; what is compared with eager PyTorch differs by too little for three decimals."""
    if value is None or not math.isfinite(value):
        return units.format_value(value, m.unit)
    if m.metric == "lost_dice":
        return f"{round(value, 4) + 0.0:.4f}"  # no minus before a zero
    return f"{value:.2g}" if m.metric in _TINY else units.format_value(value, m.unit)


_TINY = ("output_max_error", "output_rel_error", "mask_changed_share")


def range_text(m: rec.Measurement) -> str:
    """The interval of a measurement and what kind of interval it is, or nothing."""
    if m.interval is not None:
        return _span(m.interval, m)
    if m.ci95 is not None:
        return f"95 % CI {_span(m.ci95, m)}"
    if m.metric == "warmup_s":  # its value is a total, its samples are single forwards
        return f"{len(m.values)} forwards" if m.values else ""
    if m.metric.endswith("_s") and len(apart := reliability.split(m)) > 1:
        medians = [statistics.median(run) for run in apart]
        return f"medians {_span((min(medians), max(medians)), m)}, {len(medians)} processes"
    if m.metric.endswith("_s") and len(m.values) > 1:
        return f"range {_span((min(m.values), max(m.values)), m)}, n = {len(m.values)}"
    return ""


def _span(pair: tuple[float, float], m: rec.Measurement) -> str:
    low, high = (_text(v, m) for v in pair)
    number, _, suffix = low.partition(" ")
    return f"{number if suffix and high.endswith(' ' + suffix) else low} to {high}"


def memory_cell(record: rec.Record) -> TableCell:
    """The measured peak; without one, the forecast of the tensors, labelled as the bound it is."""
    train = "train_" if record.workload.phase == "train" else ""
    peak, tensors = valid(record, f"{train}peak_memory_bytes"), record.get(f"{train}tensor_memory_bytes")
    if finite(peak) is not None:
        return measurement_cell(peak)
    if record.workload.runtime != "eager":  # another runtime keeps other tensors than the forecast's
        return measurement_cell(peak)
    if finite(tensors) is None:
        return measurement_cell(peak or tensors)
    cell = measurement_cell(tensors)
    fits = record.get("fits_in_memory")
    detail = "" if fits is None or fits.value is None else f"; {fits_text(fits)}"
    return dataclasses.replace(
        cell,
        detail=f"tensors only{detail}",
        qualifier=fits_text(fits) if fits is not None and fits.value == 0 else "",
        note=f"forecast, not measured: {cell.note}",
    )


def fits_text(m: rec.Measurement) -> str:
    """What `fits_in_memory` says: that the tensors do not fit is sure, that they do is only a hope."""
    return "may fit" if m.value else "does not fit"


def ratio_cell(record: rec.Record, baseline: rec.Record | None, metric: str) -> TableCell:
    """One time as a multiple of the baseline's, with its interval where the two have rounds in common.

    Args:
        record: of the row.
        baseline: what it is set against.
        metric: a time. Where the two are bounds, the cell says what kind of ratio it is.
    """
    own, base = finite(valid(record, metric)), finite(valid(baseline, metric))
    if own is None or base is None or not own.value or not base.value:
        return TableCell(text="-", note=f"needs a time here and for {BASELINE}")
    if baseline is not None and own is not base and (found := ratio_within_rounds(record, baseline, metric)):
        low, high = units.significant(found.low), units.significant(found.high)
        how = f"of {found.rounds} rounds that hold both, the mean of its ratios, with the t interval of that"
        note = f"{metric} divided by that of {BASELINE}, {how}"
        span = f"95 % CI {low} to {high}"
        return TableCell(text=units.times(found.ratio), origin="measured", value=found.ratio, detail=span, note=note)
    ratio = own.value / base.value
    origin: rec.Origin = own.origin if own.origin == base.origin else "predicted"
    note = f"{own.metric} divided by that of {BASELINE}"
    of_bounds = ""
    if (own.bound or base.bound) and own is not base:
        of_bounds = "ratio of bounds"
        note += "; a ratio of two lower bounds is itself no bound"
    return TableCell(
        text=units.times(ratio), origin=origin, value=ratio, detail=of_bounds, qualifier=of_bounds, note=note
    )


def dice_cell(record: rec.Record) -> TableCell:
    """The mean Dice, and below it that of each region."""
    dice = valid(record, "dice")
    cell = measurement_cell(dice)
    if dice is None or finite(dice) is None:
        return cell
    classes = [(region_name(m), m) for m in dice_classes(record)]
    pairs = (f"{name}\u00a0{units.format_value(m.value, m.unit)}" for name, m in classes if m.value is not None)
    detail = ", ".join(pairs)  # no line break inside a pair
    mixed = {m.origin for _, m in classes if m.value is not None} - {dice.origin}
    if mixed:
        detail += f" (classes: {', '.join(sorted(mixed))})"
    qualifier = "semi-synthetic" if has_phantom_dice(record) else ""
    return dataclasses.replace(cell, detail="; ".join(filter(None, (qualifier, detail))), qualifier=qualifier)


def region_name(m: rec.Measurement) -> str:
    """`WT`, `anterior`: the region that a Dice is of."""
    name = m.metric.removeprefix("dice_").replace("_", " ")
    return name.upper() if len(name) <= 3 else name


def dice_classes(record: rec.Record) -> list[rec.Measurement]:
    """The Dice of each class, WT, TC and ET first."""
    order = {"dice_wt": 0, "dice_tc": 1, "dice_et": 2}
    found = [m for m in record.measurements if m.metric.startswith("dice_") and m.origin != "published"]
    return sorted(found, key=lambda m: (order.get(m.metric, 9), m.metric))
