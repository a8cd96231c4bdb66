"""Strip plot of a comparison: every sample a dot, each process in a lane of its own.

The lanes show what a box would hide, that forwards of one process resemble each other more than those
of two: the large marks, the processes' medians, are what was tested. Of many samples a few are drawn,
evenly from the smallest to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbench.core import units
from benchbench.report.compare.verdicts import ComparedRow, Sample, change_text, interval_text
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS = 120  # samples drawn a side
_HALF = 0.36  # of a side's height, in which its lanes lie


def strip(row: ComparedRow, *, prefix: str) -> Drawing | None:
    """Both sides of one row.

    Returns: None where either side has a single value only, which the table shows as well.
    """
    if min(len(s.values) for s in row.samples) < 2:
        return None
    metric = row.metric
    unit, divisor = _unit(metric.unit, max(max(s.values) for s in row.samples))
    picture = _draw(row, f"{metric.title}, {unit}" if unit else metric.title, divisor)
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


def thin(values: Sequence[float], most: int) -> list[float]:
    """So many of the values, evenly by rank, the smallest and the largest among them."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def _draw(row: ComparedRow, x_title: str, divisor: float) -> str:
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
            _lanes(axes, sample, at, divisor, svg.SERIES[at], marker)
            middle = sample.value / divisor
            axes.plot([middle, middle], [at - _HALF - 0.06, at + _HALF + 0.06], color=svg.INK, linewidth=1.6)
        return figures_style.save(figure)


def _lanes(axes: Axes, sample: Sample, at: int, divisor: float, colour: str, marker: str) -> None:
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
