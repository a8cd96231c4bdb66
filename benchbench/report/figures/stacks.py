"""Stacked bars with a letter in each part: memory by what holds it, a patient's time by where it goes.

Parts stand in a fixed order and carry a letter as well as a colour, so that the bars can be read in
print. Hatching stays what it is on the whole page, the mark of a number that was not measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN = 0.34
_LETTER_UNITS = 11.0  # width that a part needs for its letter
_TINT = 0.4
_COLUMNS = 3  # of the legend


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StackPart:
    """What one colour means."""

    letter: str
    name: str
    series: int  # index of the colour


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One row."""

    label: str
    parts: tuple[tuple[StackPart, float], ...]  # measured, in the order of the legend
    text: str  # beside the bar
    whole: float = 0.0  # measured but not split; drawn in one piece where there are no parts
    hatched: float = 0.0  # not measured; drawn where there is nothing else
    mark: float | None = None  # a forecast

    @property
    def end(self) -> float:
        """Where the bar ends."""
        return sum(value for _, value in self.parts) or self.whole or self.hatched


def draw(stacks: Sequence[Stack], x_title: str, divisor: float, *, mark: str = "") -> str:
    """The rows as an SVG document, under a legend of the parts that occur.

    Args:
        stacks: from top to bottom; `divisor` turns their values into the unit of the axis.
        x_title: of the axis, with its unit.
        divisor: one unit of the axis.
        mark: what the open diamond means, if there is one.
    """
    legend = list(dict.fromkeys(part for stack in stacks for part, _ in stack.parts))
    mark = mark if any(stack.mark is not None for stack in stacks) else ""
    lines = -(-(len(legend) + bool(mark)) // _COLUMNS)
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([s.label for s in stacks], _ROW_IN, head_in=0.26 * lines)
        highest = max(max(s.end, s.mark or 0.0) for s in stacks) / divisor or 1.0
        axes.set_xlim(0, highest * 1.02)
        figures_style.label_ticks(axes.xaxis, (0, highest), log=False)
        axes.set_xlabel(x_title)
        units_each = 72 * figures_style.WIDTH_IN * axes.get_position().width / (highest * 1.02)
        for i, stack in enumerate(stacks):
            _row(axes, i, stack, divisor, units_each)
            end = max(stack.end, stack.mark or 0.0) / divisor
            figures_style.beside(axes, end, i, stack.text)
        _legend(figure, legend, mark)
        return figures_style.save(figure)


def _row(axes: Axes, i: int, stack: Stack, divisor: float, units_each: float) -> None:
    left = 0.0
    for part, value in stack.parts:
        width, colour = value / divisor, svg.SERIES[part.series]
        axes.barh(i, width, left=left, height=0.62, color=colour, alpha=_TINT, linewidth=0)
        axes.barh(i, width, left=left, height=0.62, facecolor="none", edgecolor=colour, linewidth=1.0)
        if width * units_each >= _LETTER_UNITS:
            x = _free(left, width, None if stack.mark is None else stack.mark / divisor, _LETTER_UNITS / units_each)
            if x is not None:
                axes.text(x, i, part.letter, ha="center", va="center", parse_math=False)
        left += width
    if not stack.parts and stack.whole:
        axes.barh(i, stack.whole / divisor, height=0.62, facecolor=svg.GRID, edgecolor=svg.MUTED, linewidth=1.0)
    elif not stack.parts and stack.hatched:
        axes.barh(
            i,
            stack.hatched / divisor,
            height=0.62,
            facecolor=svg.PAPER,
            edgecolor=svg.MUTED,
            linewidth=1.0,
            hatch="////",
        )
    if stack.mark is not None:
        axes.plot(
            [stack.mark / divisor], [i], marker="D", markersize=6, markerfacecolor=svg.PAPER, markeredgecolor=svg.INK,
            markeredgewidth=1.2, clip_on=False,
        )  # fmt: skip


def _free(left: float, width: float, mark: float | None, room: float) -> float | None:
    """Where in a part its letter is clear of the mark: its middle, or that of the longer side, or nowhere."""
    middle = left + width / 2
    if mark is None or abs(mark - middle) >= room:
        return middle
    before, after = mark - left, left + width - mark
    if max(before, after) < 1.5 * room:
        return None
    return left + before / 2 if before >= after else mark + after / 2


def _legend(figure: Figure, parts: Sequence[StackPart], mark: str) -> None:
    """Above the rows, from the left edge of the figure."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=svg.SERIES[part.series], alpha=_TINT, label=f"{part.letter}  {part.name}") for part in parts
    ]
    if mark:
        diamond = Line2D([], [], marker="D", markersize=6, markerfacecolor=svg.PAPER, linestyle="none", label=mark)
        diamond.set_markeredgecolor(svg.INK)
        handles.append(diamond)
    if handles:
        figure.legend(
            handles=handles, loc="upper left", ncols=_COLUMNS, frameon=False, fontsize=figures_style.FONT,
            borderaxespad=0, borderpad=0.2, handlelength=1.2, handleheight=1.0, columnspacing=1.6,
        )  # fmt: skip
