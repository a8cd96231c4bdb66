"""Style of figures: matplotlib set up so that equal numbers give equal bytes, and its SVG as an element of the page.

Fixed sizes, fixed ids, no date, plain-text ticks; a person's matplotlibrc has no say. Font sizes are in units of the
view box, whose width is about a telephone's.

Matplotlib writes a document of its own: a stylesheet that would apply to the whole page, ids that repeat from figure to
figure, inline styles that the page's content policy forbids, fixed colours. Here each becomes what the page needs: no
stylesheet, ids with a prefix, plain attributes, and for each sentinel colour a variable of the page's stylesheet, so
that a figure follows dark mode.
"""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from benchbench.core import records as rec
from benchbench.core.units import first_few

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 5.4  # 389 units of the view box, about a telephone's width; font sizes are in the same units
FONT = 11.0
MAX_ROWS = 30  # of one figure; more would be a wall, and the table has them all
_LINE = 26  # characters of a name beside an axis
_TWO_LINES_IN = 0.4  # height of a row whose name has two lines

#: Colour to draw with -> the variable of report.css that it becomes. No two figures may use another colour.
INK = "#010203"
MUTED = "#010204"
GRID = "#010205"
PAPER = "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"}
_VARIABLES |= {colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)}

#: Bars of a number that was measured here, and of one that was not.
MEASURED: dict[str, Any] = {"facecolor": SERIES[0], "edgecolor": SERIES[0]}
NOT_MEASURED: dict[str, Any] = {"facecolor": PAPER, "edgecolor": MUTED, "hatch": "////"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure ready for the page."""

    svg: str  # markup
    title: str
    caption: str


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Matplotlib's own defaults and the settings that make its SVG the same every time; also a decorator."""
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
                "text.color": INK,
                "text.parse_math": False,
                "axes.edgecolor": MUTED,
                "axes.labelcolor": MUTED,
                "axes.axisbelow": True,
                "axes.formatter.limits": (-9, 9),
                "axes.formatter.useoffset": False,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "axes.facecolor": "none",
                "figure.facecolor": "none",
                "grid.color": GRID,
                "hatch.color": MUTED,
                "hatch.linewidth": 0.8,
                "legend.frameon": False,
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        yield


def drawing(figure: Figure, *, prefix: str, label: str, title: str, caption: str) -> Drawing:
    """A finished figure for the page; `prefix` and `label` as in `inline`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(svg=inline(out.getvalue(), prefix=prefix, label=label), title=title, caption=caption)


def axes(
    height_in: float, left: float = 0.15, *, bottom_in: float = 0.62, right: float = 0.03, head_in: float = 0.0
) -> tuple[Figure, Axes]:
    """A figure of the page's width; `left` and `right` are shares of it that stay free, `head_in` is for a legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in))
    bottom = bottom_in / height_in
    drawn = figure.add_axes((left, bottom, 1 - left - right, 0.96 - bottom - head_in / height_in))
    drawn.grid(True)
    return figure, drawn


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

    if max(map(len, names), default=0) > _LINE:  # in two lines: what tells rows of one network apart comes last
        names = ["\n".join(clip(line, _LINE) for line in name.split(" ", 1)) for name in names]
        row_in = max(row_in, _TWO_LINES_IN) if any("\n" in name for name in names) else row_in
    lines = [line for name in names for line in name.split("\n")]
    left = max(left, min(0.46, 0.04 + 0.0175 * max(map(len, lines))))
    bottom, room = 0.62, 0.06
    height = bottom + row_in * (len(names) + 0.2) + head_in + room
    figure = Figure(figsize=(WIDTH_IN, height))
    drawn = figure.add_axes((left, bottom / height, 1 - left - right, 1 - (bottom + room + head_in) / height))
    name_rows(drawn, names)
    return figure, drawn


def panels(
    titles: Sequence[str], panel_in: float, below: str, *, columns: int, left: float, head_in: float = 0.3
) -> tuple[Figure, list[Axes]]:
    """Small multiples with axes of one size and scale, row by row from the left.

    Args:
        titles: above the panels.
        panel_in: height of one without its title.
        below: what the axes are of.
        columns: how many panels stand beside each other.
        left: share of the width that stays free for what the y-axis says.
        head_in: height that stays free above each panel.
    """
    from matplotlib.figure import Figure

    rows, foot, room = -(-len(titles) // columns), 0.56, 0.08
    height = rows * (panel_in + head_in + room) - room + foot
    figure = Figure(figsize=(WIDTH_IN, height))
    sides = {"left": left, "right": 0.98, "bottom": foot / height, "top": 1 - head_in / height}
    spaces = {"wspace": 0.12, "hspace": (head_in + room) / panel_in}
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=sides | spaces)
    figure.text(left, 0.08 / height, below, color=MUTED, fontsize=FONT - 1)
    for unused in grid.flat[len(titles) :]:
        unused.remove()
    drawn = list(grid.flat[: len(titles)])
    length = int(72 * drawn[0].get_position().width * WIDTH_IN / 5.9)
    for i, (axes, title) in enumerate(zip(drawn, titles, strict=True)):
        axes.set_title(clip(title, length), fontsize=FONT - 1, color=INK, loc="left", pad=72 * head_in - 13)
        axes.tick_params(labelsize=FONT - 1, labelbottom=i + columns >= len(titles))
    return figure, drawn


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The names beside the axes, the first on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), labels=names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(True, axis="x")


def scale(
    axes: Axes,
    which: Literal["x", "y"],
    ends: tuple[float, float],
    title: str,
    *,
    log: bool = False,
    prefixes: bool = True,
) -> None:
    """Limits of one axis, its title, and round numbers as ticks.

    Args:
        axes: that the axis is of.
        which: axis.
        ends: lower and upper limit.
        title: with the unit.
        log: whether it is logarithmic.
        prefixes: write a logarithmic axis' `1000` as `1 k`; not where the unit has a prefix already.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    axes.set(**{f"{which}scale": "log" if log else "linear", f"{which}lim": ends, f"{which}label": title})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(log_ticks(*ends)) if log else MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    if log:
        axis.set_major_formatter(FuncFormatter(lambda value, _: _prefixed(value) if prefixes else f"{value:g}"))
        axis.minorticks_off()


def around(values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    """Limits a little beyond the values, never empty."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.12, 1.4)
        return low / room, high * room
    room = max((high - low) * 0.15, 0.02)
    return low - room, high + room


def axis_unit(unit: str, largest: float) -> tuple[str, float]:
    """What an axis of such values is called, and one unit of it: seconds or milliseconds, GB or MB."""
    if unit == "s":
        return ("seconds", 1.0) if largest >= 1 else ("milliseconds", 1e-3)
    if unit == "B":
        return ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)
    return "" if unit == "1" else unit, 1.0


def log_ticks(low: float, high: float, *, apart: float = 0.13, enough: int = 3) -> list[float]:
    """Round numbers between two of a logarithmic axis, the roundest of which there are enough.

    Args:
        low: lower limit.
        high: upper limit.
        apart: share of the axis that two have to be apart, so that what stands at them does not overlap.
        enough: how many there have to be, where so many have room.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = spaced([float(f"{s}e{d}") for d in decades for s in steps], (low, high), apart)
        if len(ticks) >= enough:
            return ticks
        found = max(found, ticks, key=len)
    for decade, s in itertools.product(range(decades[-1], decades[0] - 3, -1), (5, 2.5, 2, 1)):
        step = float(f"{s}e{decade}")  # over less than a decade: equal steps, the widest that are enough
        if high / step > _MOST_STEPS:
            break
        rounds = [float(f"{k * step:.6g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        ticks = spaced(rounds, (low, high), apart)
        if len(ticks) >= enough:
            return ticks
        found = max(found, ticks, key=len)
    return found


_MOST_STEPS = 400  # smaller ones are no round numbers


def spaced(ticks: Sequence[float], ends: tuple[float, float], apart: float) -> list[float]:
    """Those of some ticks within a logarithmic axis that are far enough from the one before.

    Args:
        ticks: from the smallest, all positive.
        ends: limits of the axis.
        apart: share of the axis.
    """
    least, kept = apart * math.log(ends[1] / ends[0]), list[float]()
    for tick in ticks:
        if ends[0] <= tick <= ends[1] and (not kept or math.log(tick / kept[-1]) >= least * 0.999):
            kept.append(tick)
    return kept


def _prefixed(value: float) -> str:
    for divisor, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= divisor:
            return f"{value / divisor:g}{suffix}"
    return f"{value:g}"


def first_of(shown: int, n: int) -> str:
    """For the end of a caption: how many of the rows a figure shows, where those are not all."""
    return f" The first {shown} of {n} rows." if shown < n else ""


def left_out(what: str, words: Mapping[str, str]) -> str:
    """For the end of a caption: which rows are not on a front, and why.

    Args:
        what: the front is called.
        words: name of a row -> why, in a word.
    """
    if not words:
        return ""
    by_word = {word: [name for name, own in words.items() if own == word] for word in dict.fromkeys(words.values())}
    told = "; ".join(f"{first_few(names, MAX_ROWS)} ({word})" for word, names in by_word.items())
    return f" Left out of the {what}: {told}."


def clip(text: str, length: int) -> str:
    """A name that fits beside an axis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def mark_of(record: rec.Record) -> str:
    """The id, within its figure, of the mark that a record has; `mark_id` is that on the page."""
    return f"at-{record.id}"


def mark_id(prefix: str, record: rec.Record) -> str:
    """The id of a record's mark on the page; `prefix` as in `inline`."""
    return f"{prefix}-{mark_of(record)}"


def marks(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    marker: str,
    size: float,
    colour: str,
    *,
    face: str = "",
    **more: Any,
) -> None:
    """Marks that no line joins; hollow ones have a `face` of another colour."""
    more |= {"marker": marker, "markersize": size, "color": colour, "markerfacecolor": face or colour}
    axes.plot(xs, ys, linestyle="none", **more)


def small_dots(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Any number of small dots as one path; of those that fall on one another, one.

    Args:
        axes: with its final limits.
        points: in the units of the data.
    """
    import numpy as np
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not points:
        return
    side = _DOT * axes.figure.dpi / 72
    places = np.unique(np.round(axes.transData.transform(np.asarray(points)) / side), axis=0) * side
    half = np.array((side / 2, 0))
    ends = np.stack([places - half, places + half], axis=1).reshape(-1, 2)
    path = Path(axes.transData.inverted().transform(ends), [Path.MOVETO, Path.LINETO] * len(places))
    axes.add_patch(PathPatch(path, fill=False, edgecolor=MUTED, linewidth=_DOT, alpha=0.5, zorder=1))


_DOT = 2.0  # side, in units of the view box


def beside(axes: Axes, x: float, y: float, text: str, *, colour: str = INK) -> None:
    """A short text to the right of a place of the data."""
    axes.annotate(
        text, (x, y), xytext=(6, 0), textcoords="offset points", va="center", annotation_clip=False, color=colour
    )


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """A text at each point, where it is clear of the other points and texts; one that stands far off has a leader.

    Args:
        axes: with its final limits.
        points: in the units of the data.
        texts: one a point, or nothing.
        line: corners of a line that the texts keep clear of.
    """
    import numpy as np

    unit = 72 / axes.figure.dpi
    spots, corners = ([axes.transData.transform(point) * unit for point in these] for these in (points, line))
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y in spots]
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        along = [(x0 + (x1 - x0) * k / 40, y0 + (y1 - y0) * k / 40) for k in range(41)]
        taken += [(x - 1.0, y - 1.0, x + 1.0, y + 1.0) for x, y in along]
    areas = np.empty((len(taken) + len(points), 4))  # in which the first `count` are taken
    count, areas[: len(taken)] = len(taken), taken
    left, right = (end * unit for end in axes.get_window_extent().intervalx)
    beyond = [(10.0, 14.0 * k) for k in (1, -1, 2, -2, 3, -3)]
    offsets = [(10.0, 0.0), (-10.0, 0.0), (0.0, 14.0), (0.0, -14.0), *beyond, *((-x, y) for x, y in beyond)]
    for point, text, (x, y) in zip(points, texts, spots, strict=True):
        if not text:
            continue
        width = len(text) * FONT * 0.6
        rated = []
        for rank, (dx, dy) in enumerate(offsets):
            start = x + dx - width * (0.5 if not dx else dx < 0)
            area = (start, y + dy - 6.5, start + width, y + dy + 6.5)
            cost = 20 * _overlaps(area, areas[:count]) + 1000 * (area[0] < left or area[2] > right)
            rated.append((cost + rank, rank, area))
        _, rank, area = min(rated)
        areas[count] = area
        count += 1
        dx, dy = offsets[rank]
        axes.annotate(
            text,
            point,
            xytext=offsets[rank],
            textcoords="offset points",
            ha="center" if not dx else "left" if dx > 0 else "right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6} if abs(dy) > 20 else None,
        )


def _overlaps(area: tuple[float, ...], others: npt.NDArray[np.float64]) -> int:
    """How many of the others (n, 4) it overlaps."""
    x0, y0, x1, y1 = area
    return int(((x0 < others[:, 2]) & (others[:, 0] < x1) & (y0 < others[:, 3]) & (others[:, 1] < y1)).sum())


_STYLE = re.compile(r' style="([^"]*)"')
_COLOUR = re.compile(r"#0102[01][0-9a-f]")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_FINE = re.compile(r"(?<=\d\.\d\d)\d+")  # digits of a place that no screen shows


def inline(svg: str, *, prefix: str, label: str) -> str:
    """An SVG document as an element of the page.

    Args:
        svg: what matplotlib wrote, drawn in the colours above.
        prefix: unique on the page; starts every id.
        label: what the figure shows, in words, for who cannot see it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda match: _tag(match[0], prefix), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    opening = f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" class="figure">'
    return opening + body[body.index(">") + 1 :].strip()


def _tag(tag: str, prefix: str) -> str:
    """One tag; the text between tags is somebody's label and stays as it is."""
    tag = _FINE.sub("", re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag).replace("xlink:href=", "href="))
    tag = re.sub(r' (id|href)="(#?)', rf' \1="\2{prefix}-', tag)
    tag = tag.replace("url(#", f"url(#{prefix}-")
    tag = _STYLE.sub(lambda match: _attributes(match[1]), tag)
    return _COLOUR.sub(lambda match: f"var({_VARIABLES[match[0]]})", tag)


def _attributes(style: str) -> str:
    """`fill: none; stroke-width: 0.8` as ` fill="none" stroke-width="0.8"`."""
    pairs = []
    for part in style.split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":  # the shorthand is no attribute; the page chooses the family
            size = _FONT_SIZE.search(value)
            pairs.append(f' font-size="{size[1]}"' if size else "")
        elif name and name != "font-family":
            pairs.append(f' {name}="{value}"')
    return "".join(pairs)
