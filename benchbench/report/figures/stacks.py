"""Stacked bars with a letter in each part: memory by what holds it, a patient's time by where it goes.

Parts stand in a fixed order and carry a letter as well as a colour, so that the bars can be read in
print. Hatching stays what it is on the whole page, the mark of a number that was not measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbench.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LETTER_UNITS = 11.0  # width that a part needs for its letter
_TINT = 0.4
_COLUMNS = 3  # of the legend
_MARK: dict[str, Any] = {
    "marker": "D",
    "markersize": 6,
    "markerfacecolor": style.PAPER,
    "markeredgecolor": style.INK,
    "markeredgewidth": 1.2,
    "linestyle": "none",
}


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


def draw(stacks: Sequence[Stack], x_title: str, divisor: float, *, mark: str = "") -> Figure:
    """The rows under a legend of the parts that occur.

    Args:
        stacks: from top to bottom; `divisor` turns their values into the unit of the axis.
        x_title: of the axis, with its unit.
        divisor: one unit of the axis.
        mark: what the open diamond means, if there is one.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    legend: list[Any] = [
        Patch(color=style.SERIES[part.series], alpha=_TINT, label=f"{part.letter}  {part.name}")
        for part in dict.fromkeys(part for stack in stacks for part, _ in stack.parts)
    ]
    if any(stack.mark is not None for stack in stacks):
        legend.append(Line2D([], [], label=mark, **_MARK))
    figure, axes = style.row_axes([s.label for s in stacks], 0.34, head_in=0.26 * -(-len(legend) // _COLUMNS))
    highest = max(max(s.end, s.mark or 0.0) for s in stacks) / divisor or 1.0
    style.scale(axes, "x", (0, highest * 1.02), x_title)
    letter_room = _LETTER_UNITS * highest * 1.02 / (72 * style.WIDTH_IN * axes.get_position().width)
    for i, stack in enumerate(stacks):
        _draw_row(axes, i, stack, divisor, letter_room)
        style.beside(axes, max(stack.end, stack.mark or 0.0) / divisor, i, stack.text)
    if legend:  # from the left edge of the figure
        figure.legend(
            handles=legend,
            loc="upper left",
            ncols=_COLUMNS,
            borderaxespad=0,
            borderpad=0.2,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.6,
        )
    return figure


def _draw_row(axes: Axes, i: int, stack: Stack, divisor: float, letter_room: float) -> None:
    left, mark = 0.0, None if stack.mark is None else stack.mark / divisor
    for part, value in stack.parts:
        width, colour = value / divisor, style.SERIES[part.series]
        axes.barh(i, width, left=left, height=0.62, facecolor=(colour, _TINT), edgecolor=colour)
        if width >= letter_room and (x := _free(left, width, mark, letter_room)) is not None:
            axes.text(x, i, part.letter, ha="center", va="center")
        left += width
    if not stack.parts:
        look = {"facecolor": style.GRID, "edgecolor": style.MUTED} if stack.whole else style.NOT_MEASURED
        axes.barh(i, stack.end / divisor, height=0.62, **look)
    if mark is not None:
        axes.plot([mark], [i], clip_on=False, **_MARK)


def _free(left: float, width: float, mark: float | None, room: float) -> float | None:
    """Where in a part its letter is clear of the mark: its middle, or that of the longer side, or nowhere."""
    middle = left + width / 2
    if mark is None or abs(mark - middle) >= room:
        return middle
    before, after = mark - left, left + width - mark
    if max(before, after) < 1.5 * room:
        return None
    return left + before / 2 if before >= after else mark + after / 2
