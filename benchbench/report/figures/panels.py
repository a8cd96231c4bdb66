"""Small multiples: one little curve for each network, all on the same two axes.

Twenty curves in one plot are a tangle, and twenty labels beside it worse. Here each network has a panel
with its name above the curve, so nothing needs a legend or a colour of its own, and equal heights mean
equal values. All panels are drawn in one pair of axes whose units are those of the view box.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEFT, _GAP, _HEAD, _FOOT, _PLOT = 34.0, 14.0, 28.0, 22.0, 46.0
_WIDTH = 72 * figures_style.WIDTH_IN
_SMALL = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One axis that all panels share."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands between the ends, 0 to 1; beyond them, at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points joined by a line."""

    points: tuple[tuple[float, float], ...]
    kind: Literal["main", "guide"] = "main"  # a guide says what would be ideal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One network."""

    title: str
    note: str  # under the name: the figures of its ends
    curves: tuple[Curve, ...]
    band: tuple[tuple[float, float, float], ...] = ()  # x, low and high: what the processes span
    crosses: tuple[float, ...] = ()  # x of what could not be had


def draw(panels: Sequence[Panel], x: Scale, y: Scale) -> str:
    """The panels as an SVG document, row by row from the left."""
    from matplotlib.figure import Figure

    columns = min(3, max(2, len(panels)))
    rows = -(-len(panels) // columns)
    width = (_WIDTH - _LEFT - 6 - _GAP * (columns - 1)) / columns
    step = _HEAD + _PLOT + 12
    height = rows * step + _FOOT
    with figures_style.plain_matplotlib():
        figure = Figure(figsize=(figures_style.WIDTH_IN, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, _WIDTH)
        axes.set_ylim(height, 0)
        for i, panel in enumerate(panels):
            left, top = _LEFT + (i % columns) * (width + _GAP), (i // columns) * step
            last = i + columns >= len(panels)
            _panel(axes, panel, x, y, (left, top, width), first=i % columns == 0, last=last)
        _text(axes, _LEFT, height - 9, f"across: {x.title}; up: {y.title}", svg.MUTED)
        return figures_style.save(figure)


def _panel(
    axes: Axes, panel: Panel, x: Scale, y: Scale, place: tuple[float, float, float], *, first: bool, last: bool
) -> None:
    left, top, width = place
    base = top + _HEAD + _PLOT

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + x.share(point[0]) * width, base - y.share(point[1]) * _PLOT

    _text(axes, left, top + 9, figures_style.clip(panel.title, int(width / 5.9)), svg.INK)
    _text(axes, left, top + 21, figures_style.clip(panel.note, int(width / 4.9)), svg.MUTED)
    for value, text in y.ticks:
        _, height = at((x.low, value))
        axes.plot([left, left + width], [height, height], color=svg.GRID, linewidth=0.8)
        if first:
            _text(axes, left - 4, height, text, svg.MUTED, align="right")
    axes.plot([left, left + width], [base, base], color=svg.MUTED, linewidth=0.8)
    for value, text in x.ticks:
        across, _ = at((value, y.low))
        axes.plot([across, across], [base, base + 2.5], color=svg.MUTED, linewidth=0.8)
        if last:
            _text(axes, across, base + 9, text, svg.MUTED, align="center")
    if len(panel.band) > 1:
        upper, lower = ([at((p[0], p[k])) for p in panel.band] for k in (2, 1))
        outline = [*upper, *reversed(lower)]
        axes.fill([p[0] for p in outline], [p[1] for p in outline], color=svg.SERIES[0], alpha=0.2, linewidth=0)
    for curve in panel.curves:
        points = [at(p) for p in curve.points]
        guide = curve.kind == "guide"
        axes.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            color=svg.MUTED if guide else svg.SERIES[0],
            linewidth=1 if guide else 1.6,
            linestyle=":" if guide else "-",
        )
        if not guide:
            marked = points if len(points) <= 6 else points[:1]
            axes.plot(
                [p[0] for p in marked], [p[1] for p in marked], color=svg.SERIES[0], marker="o", markersize=4,
                linestyle="none",
            )  # fmt: skip
    for value in panel.crosses:
        across, down = at((value, y.low))
        axes.plot([across], [down - 6], marker="x", markersize=6, markeredgewidth=1.6, color=svg.SERIES[1])


def _text(
    axes: Axes, x: float, y: float, text: str, colour: str, align: Literal["left", "right", "center"] = "left"
) -> None:
    axes.text(x, y, text, color=colour, ha=align, va="center", fontsize=_SMALL, parse_math=False)
