"""Dot plots of every sample: times of a run, Dice of its cases, and the two sides of a comparison.

Times are shares of their row's median, since the forwards of a zoo span a factor of a hundred, and each process of a
row has a lane of its own: where lanes lie apart, processes differ by more than the forwards within them, and only an
interval over processes is honest.

A mean Dice of 0.85 can be forty cases near it, or thirty at 0.95 and ten where the network saw nothing: each region of
each network is a row with a dot a case, its mean, and the interval of that mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core import statistics, units
from benchbench.report import reliability
from benchbench.report.cells import dice_classes, region_name
from benchbench.report.compare.verdicts import ComparedRow, change_text, interval_text
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SAMPLES = 60  # of one row of times that are drawn
_MAX_LANES = 10
_MAX_CASES = 80  # of one row of Dice
DOTS = 120  # of one side of a comparison
_EDGE = 50.0  # no axis of times reaches beyond ± 50 %: one hiccup would squeeze all else


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DotRow:
    """One row, in the units of the axis."""

    label: str
    lanes: tuple[tuple[float, ...], ...]  # of each process, thinned; of Dice, of all cases
    n: int  # values before thinning
    interval: tuple[float, float] | None
    sure: bool = True  # whether the interval is one of 95 %
    marks: tuple[float, ...] = ()  # a larger mark in each lane: the medians of the processes
    middle: float | None = None  # an upright line across all lanes


def thinned(runs: Sequence[Sequence[float]], most: int) -> tuple[tuple[float, ...], ...]:
    """Of each process as many samples as a row of `most` leaves it, evenly spaced by rank, the extremes among them."""
    each = max(2, most // len(runs))
    lanes = []
    for run in runs:
        lanes.append(tuple(statistics.evenly_spaced(sorted(run), each)))
    return tuple(lanes)


def time_rows(rows: Sequence[TableRow], metric: str) -> list[DotRow]:
    """The rows that have samples of a time, as % from their median; a row whose median is zero has no scale."""
    drawn = []
    for row in rows:
        runs, m = reliability.processes(row.record, metric), row.record.get(metric)
        if not row.usable or m is None or m.origin != "measured" or not runs:
            continue
        summary = statistics.summarise(runs)
        if summary.median <= 0:
            continue
        pair, sure = m.ci95, True
        if pair is None and summary.interval is not None:
            pair, sure = (summary.interval.low, summary.interval.high), summary.interval.confident

        def share(value: float, middle: float = summary.median) -> float:
            return 100 * (value / middle - 1)

        drawn.append(
            DotRow(
                label=row.label,
                lanes=tuple(tuple(map(share, lane)) for lane in thinned(runs[:_MAX_LANES], MAX_SAMPLES)),
                n=summary.samples,
                interval=pair and (share(pair[0]), share(pair[1])),
                sure=sure,
                marks=tuple(map(share, summary.medians)) if len(runs) > 1 else (),
            )
        )
    return drawn


@style.plain_matplotlib()
def times(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """The samples of `latency_s` or `train_step_s`, one row a network.

    Returns: None where no row has two samples.
    """
    all_rows = time_rows(rows, metric)
    if not any(row.n > 1 for row in all_rows):
        return None
    shown = all_rows[:MAX_ROWS]
    what = "training steps" if metric == "train_step_s" else "latencies"
    values = [value for row in shown for lane in row.lanes for value in lane]
    low, high = _limits(shown, values)
    figure, axes = style.row_axes(
        [row.label for row in shown], 0.26 + 0.035 * min(6, max(len(row.lanes) for row in shown)), right=0.2
    )
    style.scale(axes, "x", (low, high), f"{what}, % from the row’s median")
    axes.xaxis.set_major_formatter(lambda value, _: _signed(value, "g"))
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    for i, row in enumerate(shown):
        _draw_row(axes, i, row, marker="|")
        style.beside(axes, high, i, _counts(row), colour=style.MUTED)
    caption = "Each tick is one sample, as its distance from the row’s median."
    if any(row.marks for row in shown):
        caption += " Each process has a lane of its own, the diamond on it is its median; n: samples / processes."
    caption += " Shaded: the 95 % interval of the median."
    if any(row.interval and not row.sure for row in shown):
        caption += " Dashed: the range of values that are too few for such an interval."
    if len(values) < (n := sum(row.n for row in shown)):
        caption += (
            f" Of {n} samples {len(values)} are drawn: of each process evenly spaced by rank, the extremes among them."
        )
    if beyond := sum(not low <= value <= high for value in values):
        caption += f" Arrows: {units.counted(beyond, 'sample')} beyond the axis."
    spoken = "; ".join(f"{row.label} {_span(row)}, {_counts(row)}" for row in shown)
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"Samples of the {what}: {spoken}.",
        title=f"How the {what} scatter",
        caption=caption + style.first_of(len(shown), len(all_rows)),
    )


def _limits(shown: Sequence[DotRow], values: Sequence[float]) -> tuple[float, float]:
    """Where the axis ends: all intervals and nearly all samples are inside."""
    values = sorted(values)
    cut = len(values) // 50
    inner = values[cut : len(values) - cut] or values
    ends = [end for row in shown if row.interval for end in row.interval]
    low, high = min(inner[0], *ends, -2.0), max(inner[-1], *ends, 2.0)
    room = 0.04 * (high - low)
    return max(low - room, -_EDGE), min(high + room, _EDGE)


def _span(row: DotRow) -> str:
    values = [value for lane in row.lanes for value in lane]
    return f"{_signed(min(values))} % to {_signed(max(values))} %"


def _signed(value: float, form: str = ".1f") -> str:
    text = f"{value:+{form}}"
    return text.replace("-", "−") if float(text) else text[1:]


def _counts(row: DotRow) -> str:
    return f"n = {row.n}" + (f" / {len(row.marks)}" if row.marks else "")


def _draw_row(
    axes: Axes,
    i: int,
    row: DotRow,
    *,
    marker: str,
    colour: str = style.SERIES[0],
    spread: float = 0.0,
) -> None:
    """Interval, samples and marks of a row; what lies beyond the axis is an arrow at its end.

    Args:
        axes: with their final limits.
        i: place of the row.
        row: the row.
        marker: of a sample; that of `row.marks` is the same but larger, among ticks a diamond.
        colour: of a sample.
        spread: height over which samples are spread, so that equal ones lie apart; a row's is 1.
    """
    low, high = axes.get_xlim()
    if row.interval:
        start, end = (min(max(value, low), high) for value in row.interval)
        sure: dict[str, Any] = {"facecolor": (style.SERIES[1], 0.25), "edgecolor": style.SERIES[1], "linewidth": 1}
        unsure: dict[str, Any] = {"facecolor": "none", "edgecolor": style.MUTED, "linewidth": 0.8, "linestyle": ":"}
        axes.barh(i, end - start, left=start, height=0.84, **(sure if row.sure else unsure))
    height = 0.76 / len(row.lanes)
    for k, lane in enumerate(row.lanes):
        y = i - 0.38 + height * (k + 0.5)
        inside = [value for value in lane if low <= value <= high]
        if inside and marker == "|":  # one path with gaps: an element for each sample would fill the page with bytes
            half = min(0.42 * height, 0.2)
            xs = [x for value in inside for x in (value, value, math.nan)]
            axes.plot(xs, [y - half, y + half, math.nan] * len(inside), color=colour, linewidth=0.9)
        elif inside:
            ys = [y + spread * ((n * 0.618) % 1 - 0.5) for n in range(len(inside))]
            style.marks(axes, inside, ys, marker, 3, colour, alpha=0.6)
        for beyond, edge, arrow in ((lane and lane[0] < low, low, "<"), (lane and lane[-1] > high, high, ">")):
            if beyond:
                style.marks(axes, [edge], [y], arrow, 4, colour, clip_on=False)
        if row.marks and low <= row.marks[k] <= high:
            if marker == "|":
                style.marks(axes, [row.marks[k]], [y], "D", 3.2, style.INK, face=style.PAPER, markeredgewidth=0.8)
            else:
                style.marks(axes, [row.marks[k]], [y], marker, 8, style.PAPER, face=colour)
    if row.middle is not None:
        axes.plot([row.middle] * 2, [i - 0.42, i + 0.42], color=style.INK, linewidth=1.6)


def dice_rows(rows: Sequence[TableRow]) -> list[DotRow]:
    """The regions of the rows whose Dice was measured here, or earlier on another machine."""
    drawn = []
    for row in rows:
        regions, whole = dice_classes(row.record), row.record.get("dice")
        for m in regions or ([whole] if whole else []):
            if m.value is not None and len(m.values) > 1:
                label = f"{row.label} {region_name(m) if regions else ''}".strip()
                lanes = thinned([m.values], _MAX_CASES)
                drawn.append(DotRow(label=label, lanes=lanes, n=len(m.values), interval=m.ci95, middle=m.value))
    return drawn


@style.plain_matplotlib()
def cases(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """The Dice of every case, a row for each region of each network.

    Returns: None where no Dice of two cases is there.
    """
    all_rows = dice_rows(rows)
    if not all_rows:
        return None
    shown = all_rows[:MAX_ROWS]
    figure, axes = style.row_axes([row.label for row in shown], 0.28, right=0.24)
    style.scale(axes, "x", (min(0.5, *(row.lanes[0][0] for row in shown)) - 0.02, 1.02), "Dice")
    for i, row in enumerate(shown):
        _draw_row(axes, i, row, marker="o", spread=0.24)
        style.beside(axes, 1.02, i, f"{row.middle:.3f}, n = {row.n}", colour=style.MUTED)
    worst = min(shown, key=lambda row: row.lanes[0][0])
    spoken = "; ".join(
        f"{row.label} {row.middle:.3f}"
        + (f" ({row.interval[0]:.3f} to {row.interval[1]:.3f})" if row.interval else "")
        + f", {row.n} cases"
        for row in shown
    )
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"Dice of every case: {spoken}.",
        title="Dice of every case",
        caption="Each dot is a case; the line is their mean, shaded its 95 % interval. "
        f"The lowest case is {worst.lanes[0][0]:.3f} ({worst.label})." + style.first_of(len(shown), len(all_rows)),
    )


@style.plain_matplotlib()
def compared(row: ComparedRow, *, prefix: str) -> Drawing | None:
    """Both sides of one row of a comparison; the large marks, the processes' medians, are what was tested.

    Returns: None where either side has a single value only, which the table shows as well.
    """
    values = [[value for run in side.runs for value in run] for side in row.samples]
    if min(map(len, values)) < 2:
        return None
    metric, is_dice = row.metric, row.metric.kind == "dice"
    unit, divisor = style.axis_unit(metric.unit, max(map(max, values)))
    values = [[value / divisor for value in side] for side in values]
    low, high = min(map(min, values)), max(map(max, values))
    room = (high - low) * 0.06 or abs(high) * 0.01 or 0.01
    figure, axes = style.row_axes(("A", "B"), 0.65, right=0.03)
    style.scale(axes, "x", (low - room, high + room), f"{metric.title}, {unit}" if unit else metric.title)
    if is_dice and len(values[0]) == len(values[1]):
        for a, b in zip(*values, strict=True):
            axes.plot([a, b], [0, 1], color=style.MUTED, linewidth=0.5)
    for i, (side, marker) in enumerate(zip(row.samples, "os", strict=True)):
        runs = [[value / divisor for value in run] for run in side.runs]
        medians = tuple(median / divisor for median in side.medians)
        lanes = tuple(() if medians and len(lane) == 1 else lane for lane in thinned(runs, DOTS))
        dots = DotRow(
            label="AB"[i], lanes=lanes, n=len(values[i]), interval=None, marks=medians, middle=side.value / divisor
        )
        _draw_row(axes, i, dots, marker=marker, colour=style.SERIES[i])
    a, b = (units.format_value(side.value, metric.unit) for side in row.samples)
    change = change_text(metric, row.evidence.effect)
    if row.evidence.ci95:
        change += f" ({interval_text(metric, row.evidence.ci95)})"
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"{metric.title} of {row.label}: {'mean' if is_dice else 'median'} of A {a}, of B {b}; {change}, "
        f"{row.verdict}.",
        title=f"{metric.title[0].upper()}{metric.title[1:]}",
        caption=f"A {a}, B {b}: {change}, {row.verdict}.",
    )
