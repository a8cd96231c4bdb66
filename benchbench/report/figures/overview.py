"""Overview figures: accuracy against cost with its Pareto front, and bars of latency and memory.

Drawn by matplotlib with fixed places, fixed ids and no date, so that equal records give equal bytes;
a person's matplotlibrc has no say. A number that was not measured is drawn hollow and hatched, never
in the colour of a measured one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core import statistics, units
from benchbench.report import conditions, reliability
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.tables import TableRow, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*<>"
MAX_BARS = 30  # more would be a wall; the table has them all


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure ready for the page."""

    svg: str
    title: str
    caption: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One network in the scatter."""

    label: str
    x: float
    y: float
    series: int  # its place in the table; gives marker and colour
    hollow: bool  # some coordinate was not measured or counted here
    of_use: bool = True  # its Dice is one that anybody would want


def scatter(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """Dice against latency where two rows have both, else parameters against MACs.

    Where the rows' patches differ the time is that of a patient: latencies would be of unlike work.

    Returns: None with fewer than one point.
    """
    own_patches = conditions.patches_differ(r.record for r in rows)
    time, axis = ("volume_latency_s", "one patient, seconds (log)") if own_patches else ("latency_s", _LATENCY_AXIS)
    with_both = _points(rows, time, "dice")
    if len(with_both) >= 2:
        able = [i for i, p in enumerate(with_both) if p.of_use]
        front = [able[i] for i in statistics.pareto_front([(with_both[i].x, -with_both[i].y) for i in able])]
        front.sort(key=lambda i: (with_both[i].x, i))
        names = ", ".join(with_both[i].label for i in front) or "none, since no Dice here is of use"
        semi = any(conditions.has_phantom_dice(r.record) for r in rows)
        text = "Higher and further left is better. The line joins the networks that no other beats in both"
        caption = f"{text}: {names}. {_origins(rows, time, 'dice')}"
        if front and (left := [p.label for p in with_both if not p.of_use]):
            caption += f" Not on it, whatever their time, since their Dice is of no use: {', '.join(left)}."
        picture = _draw_scatter(with_both, axis, "Dice, semi-synthetic data" if semi else "Dice", front, log_y=False)
        name = _METRIC_NAMES[time].lower()
        label = f"Dice against {name}. {_spoken(with_both, name, 's', 'Dice', '')} Pareto front: {names}."
        return Drawing(svg=svg.inline(picture, prefix=prefix, label=label), title="Accuracy and cost", caption=caption)
    fallback = _points(rows, "macs", "params")
    if not fallback:
        return None
    have = f"{'Only one row has' if with_both else 'No row has'} both a Dice and a {_METRIC_NAMES[time].lower()}"
    caption = (
        f"{have}, so this shows size against compute, and no front: without accuracy, smaller is not better. "
        f"{_origins(rows, 'macs', 'params')}"
    )
    picture = _draw_scatter(fallback, "MACs (log)", "parameters (log)", [], log_y=True)
    label = f"Parameters against MACs. {_spoken(fallback, '', 'MAC', '', 'parameters')}"
    return Drawing(svg=svg.inline(picture, prefix=prefix, label=label), title="Size and compute", caption=caption)


def bars(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """Bars of `latency_s`, `train_step_s` or `memory_bytes`, smallest first.

    Returns: None where no row has a value.
    """
    usable = [r for r in rows if r.cells[metric].value is not None and (r.usable or metric == "memory_bytes")]
    usable.sort(key=lambda r: (r.cells[metric].value or 0.0, r.label))
    if not usable:
        return None
    shown = usable[:MAX_BARS]
    unit, divisor = _bar_unit(metric, max(_high(r, metric) for r in shown))
    title = _BAR_TITLES[metric]
    picture = _draw_bars(shown, metric, f"{title.lower()}, {unit}", divisor)
    spoken = "; ".join(f"{r.label} {r.cells[metric].text} ({r.cells[metric].origin})" for r in shown)
    others = sorted({str(r.cells[metric].origin) for r in shown} - {"measured"})
    note = f"Hatched bars were not measured here ({', '.join(others)}); ≥ marks a lower bound." if others else ""
    note = note or "All measured."
    note += f" The {MAX_BARS} smallest of {len(usable)}." if len(usable) > MAX_BARS else ""
    return Drawing(svg=svg.inline(picture, prefix=prefix, label=f"{title}: {spoken}."), title=title, caption=note)


_BAR_TITLES = {"latency_s": "Latency", "train_step_s": "Training step", "memory_bytes": "Peak memory"}


def _bar_unit(metric: str, largest: float) -> tuple[str, float]:
    if metric != "memory_bytes":
        return ("seconds", 1.0) if largest >= 1 else ("milliseconds", 1e-3)
    return ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)


def _points(rows: Sequence[TableRow], x: str, y: str) -> list[Point]:
    """The rows that have both values and can stand on a logarithmic axis."""
    points, useless = [], reliability.useless([row.record for row in rows])
    for series, row in enumerate(rows):
        a, b = finite(row.record.get(x)), finite(row.record.get(y))
        if not a or not b or a.value is None or b.value is None or a.value <= 0:
            continue
        if y != "dice" and b.value <= 0:
            continue
        hollow = bool({a.origin, b.origin} & _ELSEWHERE)
        points.append(
            Point(
                label=row.label, x=a.value, y=b.value, series=series, hollow=hollow, of_use=row.record.id not in useless
            )
        )
    return points


def _origins(rows: Sequence[TableRow], *metrics: str) -> str:
    """`Latency: measured. Dice: measured (slim_unetr), reference (unetr).`, as a sentence for the caption."""
    sentences = []
    for metric in metrics:
        found: dict[str, list[str]] = {}
        for row in rows:
            if m := finite(row.record.get(metric)):
                found.setdefault(m.origin, []).append(row.label)
        one = len(found) == 1
        parts = [origin if one else f"{origin} ({', '.join(names)})" for origin, names in sorted(found.items())]
        sentences.append(f"{_METRIC_NAMES[metric]}: {', '.join(parts)}.")
    if any(m.origin in _ELSEWHERE for row in rows for name in metrics if (m := finite(row.record.get(name)))):
        sentences.append("Hollow marks hold a number that was not obtained on this device.")
    return " ".join(sentences)


_ELSEWHERE = frozenset({"predicted", "reference", "published"})
_LATENCY_AXIS = "latency, seconds (log)"
_METRIC_NAMES = {
    "latency_s": "Latency",
    "volume_latency_s": "Time of a patient",
    "dice": "Dice",
    "macs": "MACs",
    "params": "Parameters",
}


def _spoken(points: Sequence[Point], x_name: str, x_unit: str, y_name: str, y_unit: str) -> str:
    def text(name: str, value: float, unit: str) -> str:
        return f"{name} {units.format_value(value, unit or '1')}".strip()

    parts = [f"{p.label}: {text(y_name, p.y, y_unit)}, {text(x_name, p.x, x_unit)}" for p in points]
    return "; ".join(parts) + "."


def _draw_scatter(points: Sequence[Point], x_title: str, y_title: str, front: Sequence[int], *, log_y: bool) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(3.8, 0.17)
        axes.set_xscale("log")
        figures_style.limits(axes.set_xlim, [p.x for p in points], log=True)
        if log_y:
            axes.set_yscale("log")
        figures_style.limits(axes.set_ylim, [p.y for p in points], log=log_y)
        axes.grid(True, color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.minorticks_off()
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=True)
        figures_style.label_ticks(axes.yaxis, axes.get_ylim(), log=log_y)
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        if front:
            xs, ys = [points[i].x for i in front], [points[i].y for i in front]
            axes.plot(xs, ys, color=svg.MUTED, linewidth=1.2, linestyle="--")
        for point, (dx, dy, align) in zip(points, _label_places(points, front, axes), strict=True):
            colour = svg.SERIES[point.series % len(svg.SERIES)]
            axes.plot(
                [point.x],
                [point.y],
                marker=_MARKERS[point.series % len(_MARKERS)],
                markersize=9,
                markeredgecolor=colour,
                markerfacecolor=svg.PAPER if point.hollow else colour,
                markeredgewidth=1.6,
                linestyle="none",
            )
            axes.annotate(
                figures_style.clip(point.label, 28),
                (point.x, point.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=align,
                va="center",
                parse_math=False,
            )
        return figures_style.save(figure)


def _label_places(points: Sequence[Point], front: Sequence[int], axes: Axes) -> list[tuple[float, float, Any]]:
    """For each point where its name goes, as an offset: beside it, and out of the way of the others."""
    spots = [axes.transData.transform((p.x, p.y)) * 72 / axes.figure.dpi for p in points]
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y in spots]
    for (x0, y0), (x1, y1) in zip([spots[i] for i in front], [spots[i] for i in front[1:]], strict=False):
        along = [(x0 + (x1 - x0) * k / 40, y0 + (y1 - y0) * k / 40) for k in range(41)]
        taken += [(x - 1.0, y - 1.0, x + 1.0, y + 1.0) for x, y in along]
    box = axes.get_window_extent()
    left, right = box.x0 * 72 / axes.figure.dpi, box.x1 * 72 / axes.figure.dpi
    places: list[tuple[float, float, Any]] = []
    for point, (x, y) in zip(points, spots, strict=True):
        width = len(figures_style.clip(point.label, 28)) * figures_style.FONT * 0.6
        options = [(10.0, 0.0, "left"), (-10.0, 0.0, "right"), (0.0, 14.0, "center"), (0.0, -14.0, "center")]
        options += [(10.0, 14.0 * k, "left") for k in (1, -1, 2, -2, 3, -3)]
        options += [(-10.0, 14.0 * k, "right") for k in (1, -1, 2, -2, 3, -3)]
        rated = []
        for rank, (dx, dy, align) in enumerate(options):
            start = x + dx - {"left": 0.0, "right": width, "center": width / 2}[align]
            area = (start, y + dy - 6.5, start + width, y + dy + 6.5)
            cost = 20 * sum(_overlap(area, other) for other in taken) + rank
            cost += 1000 * (area[0] < left or area[2] > right)
            rated.append((cost, rank, area))
        _, rank, area = min(rated)
        taken.append(area)
        places.append(options[rank])
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_bars(rows: Sequence[TableRow], metric: str, x_title: str, divisor: float) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([row.label for row in rows], 0.34)
        highest = max(_high(row, metric) for row in rows) / divisor
        axes.set_xlim(0, highest or 1.0)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        axes.set_xlabel(x_title)
        for i, row in enumerate(rows):
            cell = row.cells[metric]
            value = (cell.value or 0.0) / divisor
            measured = cell.origin == "measured"
            axes.barh(
                i,
                value,
                height=0.6,
                facecolor=svg.SERIES[0] if measured else svg.PAPER,
                edgecolor=svg.SERIES[0] if measured else svg.MUTED,
                linewidth=1.0,
                hatch=None if measured else "////",
            )
            end = value
            if metric != "memory_bytes" and (span := _span(row, metric)):
                low, end = span[0] / divisor, max(value, span[1] / divisor)
                axes.plot([low, end], [i, i], color=svg.INK, linewidth=1.2, clip_on=False)
                axes.plot([low, end], [i, i], color=svg.INK, marker="|", markersize=7, linestyle="none", clip_on=False)
            figures_style.beside(axes, end, i, cell.text if measured else _short(row, metric))
        return figures_style.save(figure)


def _short(row: TableRow, metric: str) -> str:
    """`at least 171 ms` of a forecast, small enough to stand beside the bar."""
    return row.cells[metric].text.replace("at least", "≥")


def _span(row: TableRow, metric: str) -> tuple[float, float] | None:
    m = row.record.get(metric)
    if m is None:
        return None
    return m.interval or m.ci95 or ((min(m.values), max(m.values)) if len(m.values) > 1 else None)


def _high(row: TableRow, metric: str) -> float:
    value = row.cells[metric].value or 0.0
    span = None if metric == "memory_bytes" else _span(row, metric)
    return max(value, span[1]) if span else value
