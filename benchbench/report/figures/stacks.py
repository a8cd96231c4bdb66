"""Stacked bars with a letter in each part: memory by what holds it, a patient's time by where it goes.

Parts stand in a fixed order and carry a letter as well as a colour, so that the bars can be read in
print. Hatching stays what it is on the whole page, the mark of a number that was not measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_IN = 0.34
_LETTER_UNITS = 11.0  # width that a part needs for its letter
_TINT = 0.4


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
    names = [(part.letter, part.name, part.series) for part in legend]
    marked = bool(mark) and any(stack.mark is not None for stack in stacks)
    lines = _wrapped(names, mark if marked else "")
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([s.label for s in stacks], _ROW_IN, head_in=0.24 * len(lines))
        highest = max(max(s.end, s.mark or 0.0) for s in stacks) / divisor or 1.0
        axes.set_xlim(0, highest * 1.02)
        figures_style.label_ticks(axes.xaxis, (0, highest), log=False)
        axes.set_xlabel(x_title)
        units_each = 72 * figures_style.WIDTH_IN * axes.get_position().width / (highest * 1.02)
        for i, stack in enumerate(stacks):
            _row(axes, i, stack, divisor, units_each)
            end = max(stack.end, stack.mark or 0.0) / divisor
            figures_style.beside(axes, end, i, stack.text)
        _legend(axes, lines)
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


_Item = tuple[str, str, int]


def _wrapped(names: Sequence[_Item], mark: str) -> list[list[_Item]]:
    """The legend in lines that fit the width; series -1 is the diamond."""
    items = [*names, *([("", mark, -1)] if mark else [])]
    lines: list[list[_Item]] = []
    at = 0.0
    for item in items:
        width = _item_units(item)
        if not lines or at + width > 72 * figures_style.WIDTH_IN - 12:
            lines.append([])
            at = 0.0
        lines[-1].append(item)
        at += width
    return lines


def _item_units(item: _Item) -> float:
    return 32.0 + 6.2 * len(item[1])


def _legend(axes: Axes, lines: Sequence[Sequence[_Item]]) -> None:
    """Above the rows, from the left edge of the figure."""
    box = axes.get_position()
    start = -72 * figures_style.WIDTH_IN * box.x0
    top = axes.get_ylim()[1]
    for k, line in enumerate(lines):
        x, y = start + 6.0, 17.0 * (len(lines) - k) - 6.0
        for item in line:
            letter, name, series = item
            if series < 0:
                _mark(axes, x, y, "D", svg.PAPER, svg.INK, 6.0, 1.0)
            else:
                _mark(axes, x, y, "s", svg.SERIES[series], svg.SERIES[series], 13.0, _TINT)
                _label(axes, letter, x, y, top, "center")
            _label(axes, name, x + 11, y, top, "left")
            x += _item_units(item)


def _label(axes: Axes, text: str, x: float, y: float, top: float, align: Literal["left", "center"]) -> None:
    axes.annotate(
        text,
        (0, top),
        (x, y),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha=align,
        va="center",
        annotation_clip=False,
        parse_math=False,
    )


def _mark(axes: Axes, x: float, y: float, marker: str, face: str, edge: str, size: float, alpha: float) -> None:
    """A marker at an offset in points from the top left corner of the axes."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.figure
    shift = ScaledTranslation(x / 72, y / 72, figure.dpi_scale_trans)
    axes.plot(
        [0], [1], marker=marker, markersize=size, markerfacecolor=face, markeredgecolor=edge, alpha=alpha,
        linestyle="none", transform=axes.transAxes + shift, clip_on=False,
    )  # fmt: skip
