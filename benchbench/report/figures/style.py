"""Style of figures: matplotlib set up so that equal numbers give equal bytes.

Fixed sizes, fixed ids, no date, plain-text ticks; a person's matplotlibrc has no say. Font sizes are in
units of the view box, whose width is about a telephone's.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchbench.report.figures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 5.4  # 389 units of the view box, about a telephone's width; font sizes are in the same units
FONT = 11.0


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Matplotlib's own defaults and the settings that make its SVG the same every time."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the layout font lacks; the browser has it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "benchbench",
                "path.simplify": False,
                "font.size": FONT,
                "text.color": svg.INK,
                "axes.edgecolor": svg.MUTED,
                "axes.labelcolor": svg.MUTED,
                "xtick.color": svg.MUTED,
                "ytick.color": svg.MUTED,
                "axes.facecolor": "none",
                "figure.facecolor": "none",
                "hatch.color": svg.MUTED,
                "hatch.linewidth": 0.8,
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        yield


def axes(height_in: float, left: float, *, bottom_in: float = 0.62, right: float = 0.03) -> tuple[Figure, Axes]:
    """A figure of the page's width; `left` and `right` are shares of it that stay free."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in))
    bottom = bottom_in / height_in
    return figure, figure.add_axes((left, bottom, 1 - left - right, 0.96 - bottom))


def row_axes(
    names: Sequence[str], row_in: float, *, left: float = 0.1, right: float = 0.27, head_in: float = 0.0
) -> tuple[Figure, Axes]:
    """Axes with one named row after another, the first on top.

    Args:
        names: of the rows, in their order.
        row_in: height of one.
        left: share of the width at the least for the names.
        right: share of the width that stays free for text beside the rows.
        head_in: height that stays free above the rows, for a legend.
    """
    from matplotlib.figure import Figure

    names = [clip(name, 26) for name in names]
    left = max(left, min(0.46, 0.04 + 0.0175 * max(map(len, names))))
    bottom, room = 0.62, 0.06
    height = bottom + row_in * (len(names) + 0.2) + head_in + room
    figure = Figure(figsize=(WIDTH_IN, height))
    drawn = figure.add_axes((left, bottom / height, 1 - left - right, 1 - (bottom + room + head_in) / height))
    drawn.spines["left"].set_visible(True)
    drawn.set_ylim(len(names) - 0.4, -0.6)
    drawn.grid(True, axis="x", color=svg.GRID, linewidth=0.8)
    drawn.set_axisbelow(True)
    drawn.set_yticks(range(len(names)), labels=names)
    drawn.tick_params(axis="y", length=0)
    for text in drawn.get_yticklabels():
        text.set_parse_math(False)
        text.set_color(svg.INK)
    return figure, drawn


def beside(axes: Axes, x: float, y: float, text: str, *, muted: bool = False) -> None:
    """A short text to the right of a place of the data."""
    axes.annotate(
        text,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        parse_math=False,
        color=svg.MUTED if muted else svg.INK,
    )


def save(figure: Figure) -> str:
    """The figure as an SVG document without a date."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def limits(set_limits: Any, values: Sequence[float], *, log: bool) -> None:
    """Limits a little beyond the values, never empty."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.12, 1.4)
        set_limits(low / room, high * room)
    else:
        room = max((high - low) * 0.15, 0.02)
        set_limits(low - room, high + room)


def label_ticks(axis: Any, limits: tuple[float, float], *, log: bool, plain: bool = False) -> None:
    """Round numbers as ticks, in plain text: matplotlib's own 10^x would be drawn as mathematics.

    `plain` keeps `1000` where the unit of the axis has a prefix already; else it is `1 k`.
    """
    ticks = log_ticks(*limits) if log else linear_ticks(*limits)
    places = 0 if log or len(ticks) < 2 else max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    fine = any(abs(round(t, places) - t) > 1e-9 for t in ticks)
    axis.set_ticks(ticks, labels=[_log_text(t, plain) if log else f"{t:.{places + fine}f}" for t in ticks])
    for text in axis.get_ticklabels():
        text.set_parse_math(False)


def log_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers between two of a logarithmic axis, where there are so many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [float(f"{s}e{d}") for d in decades for s in steps]
        ticks = [t for t in ticks if low <= t <= high]
        if len(ticks) >= 3:
            break
    return ticks


def linear_ticks(low: float, high: float) -> list[float]:
    """Some five round numbers between two."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _log_text(value: float, plain: bool) -> str:
    if plain:
        return f"{value:g}"
    for divisor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= divisor:
            return f"{value / divisor:g} {suffix}"
    return f"{value:g}"


def clip(text: str, length: int) -> str:
    """A name that fits beside an axis."""
    return text if len(text) <= length else text[: length - 1] + "…"
