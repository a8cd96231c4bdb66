"""Stacked bars with a letter in each part; and the figure of peak memory by what holds it.

Parts stand in a fixed order and carry a letter as well as a colour, so that the bars can be read in print. Hatching
stays what it is on the whole page, the mark of a number that was not measured.

On a CPU the peak is that of a whole process: the framework before any network, then weights, input, output, and what
remains, which is activations and the kernels' scratch. The forecast knows the tensors and not the scratch, so it stands
beside every bar and its error is stated over the whole table.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core import units
from benchbench.report import reliability
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

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


def draw_stacks(stacks: Sequence[Stack], x_title: str, divisor: float, *, mark: str = "") -> Figure:
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


PARTS = {
    "base_memory_bytes": StackPart(letter="B", name="framework", series=4),
    "weights_memory_bytes": StackPart(letter="W", name="weights", series=1),
    "input_memory_bytes": StackPart(letter="I", name="input", series=2),
    "output_memory_bytes": StackPart(letter="O", name="output", series=5),
    "activation_memory_bytes": StackPart(letter="A", name="activations, scratch", series=0),
}
_RESERVED = StackPart(letter="R", name="reserved, not used", series=3)


@style.plain_matplotlib()
def split_bars(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """Peak memory by what holds it, smallest first.

    Returns: None where no row has its peak split; then plain bars say as much.
    """
    found = [(row, _parts(row)) for row in rows if row.cells["memory_bytes"].value is not None]
    if not any(parts for _, parts in found):
        return None
    found.sort(key=lambda pair: (pair[0].cells["memory_bytes"].value or 0.0, pair[0].label))
    shown = [_stack(row, parts) for row, parts in found[:MAX_ROWS]]
    largest = max(max(s.end, s.mark or 0.0) for s in shown)
    unit, divisor = style.axis_unit("B", largest)
    what = "what the GPU's allocator took" if any(_RESERVED in dict(parts) for _, parts in found) else "a process"
    caption = [f"The peak of {what}, divided by what holds it."]
    labels = {row.record.id: row.label for row, _ in found}
    if error := reliability.forecast_text([row.record for row, _ in found], labels):
        caption.append(error)
    if heaviest := _peak_operators([row for row, _ in found]):
        caption.append(heaviest)
    if any(s.hatched for s in shown):
        caption.append("Hatched: not measured, the forecast of the tensors, a lower bound (≥).")
    if any(s.whole and not s.parts for s in shown):
        caption.append("Grey: measured only as a whole.")
    if len(found) > len(shown):
        caption.append(f"The {len(shown)} smallest of {len(found)}.")
    return style.drawing(
        draw_stacks(shown, f"peak memory, {unit}", divisor, mark="forecast"),
        prefix=prefix,
        label=f"Peak memory and its parts: {'; '.join(map(_spoken, shown))}.",
        title="Peak memory, by what holds it",
        caption=" ".join(caption),
    )


def _parts(row: TableRow) -> tuple[tuple[StackPart, float], ...]:
    """The measured parts of a row; nothing where the activations are not told apart."""
    if not row.usable or row.cells["memory_bytes"].origin != "measured":
        return ()
    if row.record.value("activation_memory_bytes") is None:
        return ()
    values = [(part, row.record.value(metric)) for metric, part in PARTS.items()]
    known = [(part, float(v)) for part, v in values if v is not None and math.isfinite(v) and v > 0]
    allocated = row.record.value("allocated_memory_bytes")
    left = (row.cells["memory_bytes"].value or 0.0) - sum(v for _, v in known)
    if allocated is not None and left > 0:  # a GPU's peak is what the allocator took, and the parts are what it gave
        known.append((_RESERVED, left))
    return tuple(known)


def _stack(row: TableRow, parts: tuple[tuple[StackPart, float], ...]) -> Stack:
    cell = row.cells["memory_bytes"]
    measured, value = cell.origin == "measured", cell.value or 0.0
    return Stack(
        label=row.label,
        parts=parts,
        text=cell.text.replace("at least", "≥"),
        whole=value if measured else 0.0,
        hatched=0.0 if measured else value,
        mark=reliability.forecast(row.record) if measured else None,
    )


def _spoken(stack: Stack) -> str:
    parts = ", ".join(f"{part.name} {units.format_value(value, 'B')}" for part, value in stack.parts)
    forecast = f", forecast {units.format_value(stack.mark, 'B')}" if stack.mark else ""
    return f"{stack.label} {stack.text}" + (f" ({parts}{forecast})" if parts or forecast else "")


def _peak_operators(rows: Sequence[TableRow]) -> str:
    """At which operators the forecast sees the peaks, where the records say so."""
    forecasts = [m for row in rows if (m := row.record.get("tensor_memory_bytes"))]
    counts = Counter(name for m in forecasts if (name := operator_at_peak(m.method)))
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name} ({units.counted(n, 'row')})" for name, n in ordered[:3])
    return f"The forecast sees the peak at {shown}."


def operator_at_peak(method: str) -> str | None:
    """The operator that a forecast's method names: `convolution` of `..., at convolution in encoder.block1`."""
    found = re.search(r", at (\w+) in ", method)
    return found[1] if found else None
