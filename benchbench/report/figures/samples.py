"""Figures of every sample, process by process: of the rows of a run, and of the two sides of a comparison.

A row is scaled by its own median, since the forwards of a zoo span a factor of a hundred, and each of its processes
has a lane of its own: where lanes lie apart, processes differ by more than the forwards within them, and only an
interval over processes is honest. One element for each sample would fill the page with bytes, so a lane is one path
with gaps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbench.core import statistics, units
from benchbench.report import reliability
from benchbench.report.compare.verdicts import ComparedRow, Sample, change_text, interval_text
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SAMPLES = 60  # of one row that are drawn
_MAX_LANES = 10
DOTS = 120  # samples drawn of a side of a comparison
_HALF = 0.36  # of a side's height, in which its lanes lie
_EDGE = 0.5  # no axis reaches beyond ± 50 %: one hiccup would squeeze all else


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One row: shares of its median by which the samples differ from it."""

    label: str
    lanes: tuple[tuple[float, ...], ...]  # of each process, thinned
    medians: tuple[float, ...]  # of each process
    interval: tuple[float, float] | None
    sure: bool  # whether the interval is one of 95 %
    n: int
    processes: int


def strips(rows: Sequence[TableRow], metric: str) -> list[Strip]:
    """The rows that have samples of a metric, in their order; a row whose median is zero has no scale."""
    found = []
    for row in rows:
        runs = reliability.processes(row.record, metric)
        m = row.record.get(metric)
        if not row.usable or m is None or m.origin != "measured" or not runs:
            continue
        summary = statistics.summarise(runs)
        middle = summary.median
        if middle <= 0:
            continue
        pair, sure = m.ci95, True
        if pair is None and summary.interval is not None:
            pair, sure = (summary.interval.low, summary.interval.high), summary.interval.confident
        found.append(
            Strip(
                label=row.label,
                lanes=tuple(tuple(v / middle - 1 for v in lane) for lane in thinned(runs)),
                medians=tuple(v / middle - 1 for v in summary.medians),
                interval=None if pair is None else (pair[0] / middle - 1, pair[1] / middle - 1),
                sure=sure,
                n=summary.samples,
                processes=len(runs),
            )
        )
    return found


def thinned(runs: Sequence[Sequence[float]], most: int = MAX_SAMPLES) -> list[list[float]]:
    """Of each process as many samples as a row of `most` leaves it, evenly spaced by rank, the extremes among them."""
    runs = runs[:_MAX_LANES]
    return [thin(run, max(2, most // len(runs))) for run in runs]


def thin(values: Sequence[float], most: int) -> list[float]:
    """So many of the values, evenly by rank, the smallest and the largest among them."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def strip_plot(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """The samples of `latency_s` or `train_step_s`, one row a network.

    Returns: None where no row has two samples.
    """
    found = strips(rows, metric)
    if not any(strip.n > 1 for strip in found):
        return None
    shown = found[:MAX_BARS]
    what = "training steps" if metric == "train_step_s" else "latencies"
    low, high = _limits(shown)
    several = any(strip.processes > 1 for strip in shown)
    caption = ["Each tick is one sample, as its distance from the row’s median."]
    if several:
        caption.append("Each process has a lane of its own, the diamond on it is its median; n: samples / processes.")
    caption.append("Shaded: the 95 % interval of the median.")
    if any(strip.interval and not strip.sure for strip in shown):
        caption.append("Dashed: a range of too few values to be one.")
    drawn, all_of = sum(len(lane) for s in shown for lane in s.lanes), sum(s.n for s in shown)
    if drawn < all_of:
        caption.append(
            f"Of {all_of} samples {drawn} are drawn: of each process evenly spaced by rank, the extremes among them."
        )
    beyond = sum(not low <= v <= high for s in shown for lane in s.lanes for v in lane)
    if beyond:
        caption.append(f"Arrows at the edge: {beyond} beyond it.")
    if len(found) > len(shown):
        caption.append(f"The first {len(shown)} of {len(found)} rows.")
    spoken = "; ".join(f"{s.label} {_spoken(s)}" for s in shown)
    return Drawing(
        svg=svg.inline(_draw(shown, low, high, what), prefix=prefix, label=f"Samples of the {what}: {spoken}."),
        title=f"How the {what} scatter",
        caption=" ".join(caption),
    )


def _spoken(strip: Strip) -> str:
    values = [v for lane in strip.lanes for v in lane]
    return f"{_signed(min(values))} to {_signed(max(values))}, {_counts(strip)}"


def _counts(strip: Strip) -> str:
    return f"n = {strip.n}" + (f" / {strip.processes}" if strip.processes > 1 else "")


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text.replace("-", "−")


def _limits(shown: Sequence[Strip]) -> tuple[float, float]:
    """Where the axis ends: all intervals and nearly all samples are inside."""
    values = sorted(v for s in shown for lane in s.lanes for v in lane)
    cut = len(values) // 50
    inner = values[cut : len(values) - cut] or values
    pairs = [end for s in shown if s.interval for end in s.interval]
    low, high = min(inner[0], *pairs, -0.02), max(inner[-1], *pairs, 0.02)
    room = 0.04 * (high - low)
    return max(low - room, -_EDGE), min(high + room, _EDGE)


def _draw(shown: Sequence[Strip], low: float, high: float, what: str) -> str:
    lanes = max(len(s.lanes) for s in shown)
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([s.label for s in shown], 0.26 + 0.035 * min(lanes, 6), right=0.2)
        axes.set_xlim(100 * low, 100 * high)
        ticks = figures_style.linear_ticks(100 * low, 100 * high)
        axes.set_xticks(ticks, labels=[f"{t:+g}".replace("-", "−") if t else "0" for t in ticks])
        axes.set_xlabel(f"{what}, % from the row’s median")
        axes.axvline(0, color=svg.MUTED, linewidth=0.8)
        for i, strip in enumerate(shown):
            _interval(axes, i, strip, low, high)
            _lanes(axes, i, strip, low, high)
            figures_style.beside(axes, 100 * high, i, _counts(strip), muted=True)
        return figures_style.save(figure)


def _interval(axes: Axes, i: int, strip: Strip, low: float, high: float) -> None:
    if strip.interval is None:
        return
    start, end = (100 * min(max(v, low), high) for v in strip.interval)
    if strip.sure:
        axes.barh(i, end - start, left=start, height=0.84, color=svg.SERIES[1], alpha=0.25, linewidth=0)
        for edge in (start, end):
            axes.plot([edge, edge], [i - 0.42, i + 0.42], color=svg.SERIES[1], linewidth=1)
    else:
        axes.barh(
            i, end - start, left=start, height=0.84, facecolor="none", edgecolor=svg.MUTED, linewidth=0.8, linestyle=":"
        )


def _lanes(axes: Axes, i: int, strip: Strip, low: float, high: float) -> None:
    n = len(strip.lanes)
    height = 0.76 / n
    for k, (lane, median) in enumerate(zip(strip.lanes, strip.medians, strict=False)):
        y = i - 0.38 + height * (k + 0.5)
        half = min(0.42 * height, 0.2)
        xs: list[float] = []
        ys: list[float] = []
        for value in lane:
            if low <= value <= high:
                xs += [100 * value, 100 * value, math.nan]
                ys += [y - half, y + half, math.nan]
        if xs:
            axes.plot(xs[:-1], ys[:-1], color=svg.SERIES[0], linewidth=0.9)
        for beyond, edge, marker in ((min(lane) < low, low, "<"), (max(lane) > high, high, ">")):
            if beyond:
                axes.plot([100 * edge], [y], marker=marker, markersize=4, color=svg.SERIES[0], clip_on=False)
        if n > 1 and low <= median <= high:
            axes.plot(
                [100 * median], [y], marker="D", markersize=3.2, markerfacecolor=svg.PAPER, markeredgecolor=svg.INK,
                markeredgewidth=0.8,
            )  # fmt: skip


def compared(row: ComparedRow, *, prefix: str) -> Drawing | None:
    """Both sides of one row of a comparison: every sample a dot, each process in a lane of its own.

    The large marks, the processes' medians, are what was tested.

    Returns: None where either side has a single value only, which the table shows as well.
    """
    if min(len(s.values) for s in row.samples) < 2:
        return None
    metric = row.metric
    unit, divisor = _unit(metric.unit, max(max(s.values) for s in row.samples))
    picture = _draw_sides(row, f"{metric.title}, {unit}" if unit else metric.title, divisor)
    a, b = (units.format_value(s.value, metric.unit) for s in row.samples)
    change = change_text(metric, row.evidence.effect)
    interval = f" ({interval_text(metric, row.evidence.ci95)})" if row.evidence.ci95 else ""
    middle = "mean" if metric.kind == "dice" else "median"
    caption = f"A {a}, B {b}: {change}{interval}, {row.verdict}."
    label = f"{metric.title} of {row.label}: {middle} of A {a}, of B {b}; {change}{interval}, {row.verdict}."
    title = f"{metric.title[0].upper()}{metric.title[1:]}"
    return Drawing(svg=svg.inline(picture, prefix=prefix, label=label), title=title, caption=caption)


def _unit(unit: str, largest: float) -> tuple[str, float]:
    if unit == "s":
        return ("seconds", 1.0) if largest >= 1 else ("milliseconds", 1e-3)
    if unit == "B":
        return ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)
    return ("", 1.0) if unit == "1" else (unit, 1.0)


def _draw_sides(row: ComparedRow, x_title: str, divisor: float) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(2.1, 0.08)
        everything = [v / divisor for s in row.samples for v in s.values]
        room = (max(everything) - min(everything)) * 0.06 or abs(max(everything)) * 0.01 or 0.01
        axes.set_xlim(min(everything) - room, max(everything) + room)
        axes.set_ylim(1.5, -0.5)
        axes.grid(True, axis="x", color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        axes.set_yticks((0, 1), labels=("A", "B"))
        axes.tick_params(axis="y", length=0)
        for text in axes.get_yticklabels():
            text.set_color(svg.INK)
        axes.set_xlabel(x_title)
        if row.metric.kind == "dice" and len(row.samples[0].values) == len(row.samples[1].values):
            for a, b in zip(row.samples[0].values, row.samples[1].values, strict=True):
                axes.plot([a, b], [0, 1], color=svg.MUTED, linewidth=0.5)
        for at, (sample, marker) in enumerate(zip(row.samples, "os", strict=True)):
            _side(axes, sample, at, divisor, svg.SERIES[at], marker)
            middle = sample.value / divisor
            axes.plot([middle, middle], [at - _HALF - 0.06, at + _HALF + 0.06], color=svg.INK, linewidth=1.6)
        return figures_style.save(figure)


def _side(axes: Axes, sample: Sample, at: int, divisor: float, colour: str, marker: str) -> None:
    """The samples of each process in its lane, and its median, if there are others beside it."""
    n = len(sample.runs)
    for i, run in enumerate(sample.runs):
        y = at + (_HALF * (2 * i - n + 1) / n if n > 1 else 0.0)
        dots = [v / divisor for v in thin(run, max(DOTS // n, 2))]
        if len(run) > 1:
            axes.plot(dots, [y] * len(dots), marker=marker, markersize=3, color=colour, linestyle="none", alpha=0.55)
        if sample.medians:
            axes.plot(
                [sample.medians[i] / divisor],
                [y],
                marker=marker,
                markersize=8,
                markerfacecolor=colour,
                markeredgecolor=svg.PAPER,
                linestyle="none",
            )
