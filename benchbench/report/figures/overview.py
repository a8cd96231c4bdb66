"""Overview figures: accuracy against cost with its Pareto front, and bars of latency and memory.

A number that was not measured is drawn hollow and hatched, never in the colour of a measured one. Each mark of the
scatter bears the id of its record, by which the page's script links it with the row of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbench.core import statistics, units
from benchbench.report import conditions, reliability
from benchbench.report.cells import finite
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX*<>"
_ELSEWHERE = frozenset({"predicted", "reference", "published"})
_FEW = 6  # names behind an origin
_LATENCY_AXIS = "latency, seconds (log)"
_METRIC_NAMES = {
    "latency_s": "Latency",
    "volume_latency_s": "Time of a patient",
    "dice": "Dice",
    "macs": "MACs",
    "params": "Parameters",
}
_BAR_TITLES = {"latency_s": "Latency", "train_step_s": "Training step", "memory_bytes": "Peak memory"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One network in the scatter."""

    label: str
    x: float
    y: float
    series: int  # its place in the table; gives marker and colour
    hollow: bool  # some coordinate was not measured or counted here
    unranked: str = ""  # why it is on no front, in a word
    mark: str = ""  # its id within the figure
    span: tuple[float, float] | None = None  # of a forecast: from where to where `x` may be


@style.plain_matplotlib()
def scatter(
    rows: Sequence[TableRow], *, prefix: str, alike: bool = True, others: Sequence[TableRow] = ()
) -> Drawing | None:
    """Dice against latency where two rows have both, else parameters against MACs.

    Where the rows' patches differ the time is that of a patient: latencies would be of unlike work.

    Args:
        rows: that finished.
        prefix: of the figure's ids.
        alike: whether the networks were trained alike; those of a phantom are joined by a front only then.
        others: that have no row in the table, all behind the front; they are small dots without a name.

    Returns: None with fewer than one point.
    """
    own_patches = conditions.patches_differ(r.record for r in rows)
    time, axis = ("volume_latency_s", "one patient, seconds (log)") if own_patches else ("latency_s", _LATENCY_AXIS)
    with_both = _points(rows, time, "dice")
    if len(with_both) >= 2:
        able = [i for i, p in enumerate(with_both) if not p.unranked]
        front = [able[i] for i in statistics.pareto_front([(with_both[i].x, -with_both[i].y) for i in able])]
        front.sort(key=lambda i: (with_both[i].x, i))
        semi = any(conditions.has_phantom_dice(r.record) for r in rows)
        unlike = semi and not alike
        front = [] if unlike else front
        names = ", ".join(with_both[i].label for i in front) or _why_none(with_both)
        names = "none, since nothing shows that they were trained alike" if unlike else names
        joins = "No line joins them: nothing shows that they were trained alike, so their Dice rank nothing"
        text = f"The line joins the networks that no other beats in both: {names}" if not unlike else joins
        caption = f"Higher and further left is better. {text}. {_origins(rows, time, 'dice')}"
        rug = _without_dice(rows, time)
        if rug:
            caption += f" Ticks at the bottom: {len(rug)} without a Dice."
        caption += style.left_out("line", {p.label: p.unranked for p in with_both if front and p.unranked})
        heading = "Dice, semi-synthetic data" if semi else "Dice"
        dots = [(p.x, p.y) for p in _points(others, time, "dice")]
        caption += _of_dots(dots)
        figure = _draw_scatter(with_both, axis, heading, front, log_y=False, rug=rug, dots=dots)
        name = _METRIC_NAMES[time].lower()
        label = f"Dice against {name}. {_spoken(with_both, name, 's', 'Dice', '')} Pareto front: {names}."
        return style.drawing(figure, prefix=prefix, label=label, title="Accuracy and cost", caption=caption)
    fallback = _points(rows, "macs", "params")
    if not fallback:
        return None
    have = f"{'Only one row has' if with_both else 'No row has'} both a Dice and a {_METRIC_NAMES[time].lower()}"
    caption = (
        f"{have}, so this shows size against compute, and no front: without accuracy, smaller is not better. "
        f"{_origins(rows, 'macs', 'params')}"
    )
    dots = [(p.x, p.y) for p in _points(others, "macs", "params")]
    caption += _of_dots(dots)
    figure = _draw_scatter(fallback, "MACs (log)", "parameters (log)", [], log_y=True, dots=dots)
    label = f"Parameters against MACs. {_spoken(fallback, '', 'MAC', '', 'parameters')}"
    return style.drawing(figure, prefix=prefix, label=label, title="Size and compute", caption=caption)


@style.plain_matplotlib()
def bars(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """Bars of `latency_s`, `train_step_s` or `memory_bytes`, smallest first.

    Returns: None where no row has a value.
    """
    usable = [r for r in rows if r.cells[metric].value is not None and (r.usable or metric == "memory_bytes")]
    usable.sort(key=lambda r: (r.cells[metric].value or 0.0, r.label))
    if not usable:
        return None
    shown = usable[:MAX_ROWS]
    ends = [_ends(row, metric) for row in shown]
    highest = max(high for _, high in ends)
    unit, divisor = style.axis_unit("B" if metric == "memory_bytes" else "s", highest)
    title = _BAR_TITLES[metric]
    figure, axes = style.row_axes([row.label for row in shown], 0.34)
    style.scale(axes, "x", (0, highest / divisor or 1.0), f"{title.lower()}, {unit}")
    for i, (row, (low, high)) in enumerate(zip(shown, ends, strict=True)):
        cell = row.cells[metric]
        measured = cell.origin == "measured"
        look = style.MEASURED if measured else style.NOT_MEASURED
        axes.barh(i, (cell.value or 0.0) / divisor, height=0.6, **look)
        if low < high:
            span = [low / divisor, high / divisor]
            axes.plot(span, [i, i], color=style.INK, linewidth=1.2, marker="|", clip_on=False)
        style.beside(axes, high / divisor, i, cell.text if measured else cell.text.replace("at least", "≥"))
    spoken = "; ".join(f"{r.label} {r.cells[metric].text} ({r.cells[metric].origin})" for r in shown)
    others = sorted({str(r.cells[metric].origin) for r in shown} - {"measured"})
    note = f"Hatched bars were not measured here ({', '.join(others)}); ≥ marks a lower bound." if others else ""
    note = note or "All measured."
    note += f" The {MAX_ROWS} smallest of {len(usable)}." if len(usable) > MAX_ROWS else ""
    return style.drawing(figure, prefix=prefix, label=f"{title}: {spoken}.", title=title, caption=note)


def _ends(row: TableRow, metric: str) -> tuple[float, float]:
    """Of a time, the ends of what is known of it; of anything else, the value twice."""
    value, m = row.cells[metric].value or 0.0, row.record.get(metric)
    if metric == "memory_bytes" or m is None:
        return value, value
    span = m.interval or m.ci95 or ((min(m.values), max(m.values)) if len(m.values) > 1 else (value, value))
    return span[0], max(value, span[1])


def _points(rows: Sequence[TableRow], x: str, y: str) -> list[Point]:
    """The rows that have both values and can stand on a logarithmic axis."""
    points, without = [], reliability.without_rank([row.record for row in rows])
    for series, row in enumerate(rows):
        a, b = finite(row.record.get(x)), finite(row.record.get(y))
        if not a or not b or a.value is None or b.value is None or a.value <= 0:
            continue
        if y != "dice" and b.value <= 0:
            continue
        points.append(
            Point(
                label=row.label,
                x=a.value,
                y=b.value,
                series=series,
                hollow=bool({a.origin, b.origin} & _ELSEWHERE),
                unranked=without[row.record.id].word if row.record.id in without else "",
                mark=style.mark_of(row.record),
                span=a.interval if a.origin == "predicted" else None,
            )
        )
    return points


def _of_dots(dots: Sequence[tuple[float, float]]) -> str:
    return f" Small dots: {len(dots)} rows that the table does not have." if dots else ""


def _without_dice(rows: Sequence[TableRow], time: str) -> list[tuple[float, str]]:
    """Time and mark of the rows that have a time alone."""
    found = [(finite(row.record.get(time)), row) for row in rows if finite(row.record.get("dice")) is None]
    return [(m.value, style.mark_of(row.record)) for m, row in found if m and m.value is not None and m.value > 0]


def _why_none(points: Sequence[Point]) -> str:
    """Why nothing is on the front."""
    return f"none, since each is left out ({', '.join(dict.fromkeys(point.unranked for point in points))})"


def _origins(rows: Sequence[TableRow], *metrics: str) -> str:
    """`Latency: measured. Dice: measured (slim_unetr), reference (unetr).`, as a sentence for the caption."""
    sentences = []
    for metric in metrics:
        found: dict[str, list[str]] = {}
        for row in rows:
            if m := finite(row.record.get(metric)):
                found.setdefault(m.origin, []).append(row.label)
        one = len(found) == 1
        parts = [
            origin if one else f"{origin} ({units.first_few(names, _FEW)})" for origin, names in sorted(found.items())
        ]
        sentences.append(f"{_METRIC_NAMES[metric]}: {', '.join(parts)}.")
    if any(m.origin in _ELSEWHERE for row in rows for name in metrics if (m := finite(row.record.get(name)))):
        sentences.append("Hollow marks hold a number that was not obtained on this device.")
    return " ".join(sentences)


def _spoken(points: Sequence[Point], x_name: str, x_unit: str, y_name: str, y_unit: str) -> str:
    def text(name: str, value: float, unit: str) -> str:
        return f"{name} {units.format_value(value, unit or '1')}".strip()

    parts = [f"{p.label}: {text(y_name, p.y, y_unit)}, {text(x_name, p.x, x_unit)}" for p in points]
    return "; ".join(parts) + "."


def _draw_scatter(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    front: Sequence[int],
    *,
    log_y: bool,
    rug: Sequence[tuple[float, str]] = (),
    dots: Sequence[tuple[float, float]] = (),
) -> Figure:
    figure, axes = style.axes(3.8, 0.17)
    across = [end for p in points for end in (p.x, *(p.span or ()))] + [x for x, _ in (*rug, *dots)]
    style.scale(axes, "x", style.around(across, log=True), x_title, log=True)
    style.scale(axes, "y", style.around([p.y for p in points] + [y for _, y in dots], log=log_y), y_title, log=log_y)
    style.small_dots(axes, dots)
    bottom = axes.get_ylim()[0]
    for x, mark in rug:
        style.marks(axes, [x], [bottom], "|", 14, style.MUTED, markeredgewidth=1.6, gid=mark)
    axes.plot(
        [points[i].x for i in front], [points[i].y for i in front], color=style.MUTED, linewidth=1.2, linestyle="--"
    )
    for point in points:
        colour = style.SERIES[point.series % len(style.SERIES)]
        marker, face = _MARKERS[point.series % len(_MARKERS)], style.PAPER if point.hollow else colour
        if point.span:
            axes.plot(point.span, [point.y, point.y], color=style.MUTED, linewidth=1.0, linestyle=":")
        style.marks(axes, [point.x], [point.y], marker, 9, colour, face=face, markeredgewidth=1.6, gid=point.mark)
    places = [(point.x, point.y) for point in points]
    named = range(len(points)) if len(points) <= style.MAX_ROWS else front  # more names would be a wall
    names = [style.clip(point.label, 28) if i in named else "" for i, point in enumerate(points)]
    style.label_points(axes, places, names, line=[places[i] for i in front])
    return figure
