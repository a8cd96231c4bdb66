"""Figures of runtimes and precisions: the same networks, each run in several ways.

A network's rows are one line of dots, since what is chosen is a network together with what runs it. A hollow mark may
be of another network than the one that was trained: it is on no front, however fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from benchbench.core import qualification, statistics, units
from benchbench.core import records as rec
from benchbench.core.within_rounds import ratio_within_rounds
from benchbench.report import conditions, reliability
from benchbench.report.cells import finite, valid
from benchbench.report.conditions import EAGER_FP32, apart, path_of
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Runtime -> its mark; one that is not here has the last.
_MARKERS: Mapping[str, str] = {
    "eager": "o",
    "eager-optimized": "D",
    "compile": "s",
    "onnxruntime": "^",
    "openvino": "P",
    "tensorrt": "X",
}
_OTHER_MARKER = "v"
#: Precision -> size of the mark, the narrowest smallest.
_SIZES: Mapping[str, float] = {"fp32": 10.0, "bf16": 8.0, "fp16": 7.0, "int8": 5.5}
_COLUMNS = 4  # of the legend; more entries stand in two lines
_LEGEND_ROW_IN = 0.24
_HEIGHT_IN = 3.8  # without the legend
_TIMES = {
    "latency_s": "latency, seconds (log)",
    "train_step_s": "training step, seconds (log)",
    "volume_latency_s": "one patient, seconds (log)",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One row in the scatter."""

    row: TableRow
    seconds: float
    height: float  # Dice, or parameters
    qualified: bool
    unranked: str  # why it is on no front, in a word; empty where it may be


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """One bar."""

    row: TableRow
    ratio: float  # time of eager PyTorch in fp32 over its own
    interval: tuple[float, float] | None  # of 95 %
    qualified: bool


def network_of(row: TableRow) -> str:
    """Equal for the rows of one network, whatever ran it."""
    return rec.canonical_json([rec.to_json(row.record.model), rec.to_json(row.record.recipe)])


def has_several(rows: Sequence[TableRow]) -> bool:
    """Whether networks were run, or were to be, in at least two ways."""
    return len({path_of(row.record) for row in rows if row.record.device.basis != "profile"}) > 1


@style.plain_matplotlib()
def scatter(rows: Sequence[TableRow], main: str, *, prefix: str) -> Drawing | None:
    """Each network's rows as connected dots: Dice, or else parameters, against time; and the front.

    Args:
        rows: of all networks and runtimes.
        main: the time that was asked for, `latency_s` or `train_step_s`. Where the rows' patches differ it is that of
            a patient.
        prefix: of the figure's ids.

    Returns: None where fewer than two ways of running a network have both numbers.
    """
    usable = [row for row in rows if row.usable]
    own_patches = main == "latency_s" and conditions.patches_differ(row.record for row in usable)
    time = "volume_latency_s" if own_patches else main
    metric: Literal["dice", "params"] = "dice" if main == "latency_s" else "params"
    dots = _dots(usable, time, metric)
    if not has_several([dot.row for dot in dots]):
        metric, dots = "params", _dots(usable, time, "params")
    if not has_several([dot.row for dot in dots]):
        return None
    networks = list(apart(dots, lambda dot: network_of(dot.row)).values())
    shown = [dot for those in networks[:MAX_ROWS] for dot in those]
    front = _front(shown) if metric == "dice" else []
    title = "Runtimes and precisions"
    unit, heading = ("1", "Dice") if metric == "dice" else ("parameters", "parameters (log)")
    if metric == "dice" and any(conditions.has_phantom_dice(dot.row.record) for dot in shown):
        heading = "Dice, semi-synthetic data"
    named = "Dice" if metric == "dice" else "size"
    spoken = "; ".join(
        f"{dot.row.label} {named} {units.format_value(dot.height, unit)}, {units.format_value(dot.seconds, 's')}"
        + ("" if dot.qualified else f", {qualification.UNQUALIFIED}")
        for dot in shown
    )
    on_front = f" Pareto front: {', '.join(dot.row.label for dot in front)}." if front else ""
    return style.drawing(
        _draw(networks[:MAX_ROWS], front, _TIMES[time], heading, log=metric == "params"),
        prefix=prefix,
        label=f"{title}, {named} against time. {spoken}.{on_front}",
        title=title,
        caption=_caption(usable, shown, front, metric) + _first_networks(networks),
    )


def _dots(rows: Sequence[TableRow], time: str, metric: str) -> list[Dot]:
    """The rows that have a measured time and the other number, the slowest of a network first."""
    dots, without = [], reliability.without_rank([row.record for row in rows])
    for row in rows:
        seconds, height = finite(row.record.get(time)), finite(row.record.get(metric))
        if seconds is None or seconds.origin != "measured" or not seconds.value or seconds.value <= 0:
            continue
        if height is None or height.value is None or (metric != "dice" and height.value <= 0):
            continue
        dots.append(
            Dot(
                row=row,
                seconds=float(seconds.value),
                height=float(height.value),
                qualified=qualification.is_qualified(row.record),
                unranked=without[row.record.id].word if row.record.id in without else "",
            )
        )
    return sorted(dots, key=lambda dot: -dot.seconds)


def _front(dots: Sequence[Dot]) -> list[Dot]:
    """The qualified rows that no other beats in both, the fastest first."""
    able = [dot for dot in dots if not dot.unranked]
    return sorted(
        (able[i] for i in statistics.pareto_front([(dot.seconds, -dot.height) for dot in able])),
        key=lambda dot: dot.seconds,
    )


def _caption(rows: Sequence[TableRow], dots: Sequence[Dot], front: Sequence[Dot], metric: str) -> str:
    text = "A line joins the rows of one network; its mark says what ran it, and a smaller one a narrower precision."
    if metric == "params":
        text += " This shows size against time, and no front: a Dice is known in fewer than two of these ways."
    else:
        names = ", ".join(dot.row.label for dot in front) or "none"
        text += f" Higher and further left is better; dashed, the qualified rows that no other beats in both: {names}."
    if any(not dot.qualified for dot in dots):
        text += f" Hollow: {qualification.UNQUALIFIED}, so not on the front."
    text += style.left_out("front", {dot.row.label: dot.unranked for dot in dots if dot.unranked and dot.qualified})
    there = {dot.row.name for dot in dots}
    without = [name for name in dict.fromkeys(row.name for row in rows) if name not in there]
    return text + (f" Without both numbers, so not shown: {', '.join(without)}." if without else "")


def _first_networks(networks: Sequence[object]) -> str:
    return f" The first {MAX_ROWS} of {len(networks)} networks." if len(networks) > MAX_ROWS else ""


def _draw(networks: Sequence[Sequence[Dot]], front: Sequence[Dot], x: str, y: str, *, log: bool) -> Figure:
    dots = [dot for those in networks for dot in those]
    legends = _legends(dots)
    columns = [len(entries) if len(entries) <= _COLUMNS else -(-len(entries) // 2) for entries in legends]
    lines = [-(-len(entries) // n) for entries, n in zip(legends, columns, strict=True)]
    head = _LEGEND_ROW_IN * sum(lines)
    figure, axes = style.axes(_HEIGHT_IN + head, 0.17, head_in=head)
    style.scale(axes, "x", style.around([dot.seconds for dot in dots], log=True), x, log=True)
    style.scale(axes, "y", style.around([dot.height for dot in dots], log=log), y, log=log)
    xs, ys = [dot.seconds for dot in front], [dot.height for dot in front]
    axes.plot(xs, ys, color=style.MUTED, linewidth=1.2, linestyle="--")
    for i, those in enumerate(networks):
        _draw_network(axes, those, style.SERIES[i % len(style.SERIES)])
    named = {id(those[0]): style.clip(those[0].row.name, 28) for those in networks}  # at its slowest
    places = [(dot.seconds, dot.height) for dot in dots]
    texts = [named.get(id(dot), "") for dot in dots]
    style.label_points(axes, places, texts, line=list(zip(xs, ys, strict=True)))
    for k, entries in enumerate(legends):
        figure.legend(
            handles=entries,
            loc="upper left",
            bbox_to_anchor=(0, 1 - _LEGEND_ROW_IN * sum(lines[:k]) / (_HEIGHT_IN + head)),
            ncols=columns[k],
            borderaxespad=0,
            borderpad=0.2,
            handlelength=1.0,
            columnspacing=1.4,
            handletextpad=0.5,
            fontsize=style.FONT - 1,
        )
    return figure


def _draw_network(axes: Axes, dots: Sequence[Dot], colour: str) -> None:
    axes.plot([dot.seconds for dot in dots], [dot.height for dot in dots], color=colour, linewidth=1.2, alpha=0.6)
    for dot in dots:
        runtime, dtype = path_of(dot.row.record)
        marker, face = _MARKERS.get(runtime, _OTHER_MARKER), colour if dot.qualified else style.PAPER
        mark = style.mark_of(dot.row.record)
        style.marks(
            axes, [dot.seconds], [dot.height], marker, _SIZES[dtype], colour, face=face, markeredgewidth=1.3, gid=mark
        )


def _legends(dots: Sequence[Dot]) -> list[list[Any]]:
    """A mark for each runtime; below them a size for each precision, and what a hollow one means."""
    from matplotlib.lines import Line2D

    records = [dot.row.record for dot in dots]

    def entry(label: str, marker: str, size: float, **more: Any) -> Any:
        return Line2D([], [], label=label, marker=marker, markersize=size, linestyle="none", color=style.MUTED, **more)

    ran = conditions.runtimes(records)
    ordered = [name for name in _MARKERS if name in ran] + [name for name in ran if name not in _MARKERS]
    above = [entry(name, _MARKERS.get(name, _OTHER_MARKER), 7.5) for name in ordered]
    precisions = conditions.dtypes(records)
    below = [entry(dtype, "o", _SIZES[dtype]) for dtype in precisions] if len(precisions) > 1 else []
    if any(not dot.qualified for dot in dots):
        below.append(entry(qualification.UNQUALIFIED, "o", 7.5, markerfacecolor=style.PAPER, markeredgewidth=1.3))
    return [above, below] if below else [above]


@style.plain_matplotlib()
def speed_ups(rows: Sequence[TableRow], main: str, *, prefix: str) -> Drawing | None:
    """Bars of how many times as fast as eager PyTorch in fp32 each row of a network is, a panel a network.

    Args:
        rows: of all networks and runtimes; a row that did not finish has its status in place of a bar.
        main: the time that was asked for, `latency_s` or `train_step_s`.
        prefix: of the figure's ids.

    Returns: None where no network has a time in eager PyTorch, in fp32, and another one.
    """
    networks = [those for those in apart(rows, network_of).values() if _speed_ups(those, main)]
    if not networks:
        return None
    shown = networks[:MAX_ROWS]
    paths = _paths([row for those in shown for row in those])
    found = [{bar.row.path: bar for bar in _speed_ups(those, main)} for those in shown]
    figure, grid = style.panels(
        [those[0].name for those in shown],
        0.2 * len(paths) + 0.12,
        "times as fast as eager fp32",
        columns=min(2, len(shown)),
        left=min(0.42, 0.04 + 0.0165 * max(map(len, paths))),
    )
    longest = max((bar.interval or (0.0, bar.ratio))[1] for bars in found for bar in bars.values())
    for axes, those, bars in zip(grid, shown, found, strict=True):
        style.name_rows(axes, [style.clip(path, 24) for path in paths])
        axes.set_xlim(0, max(1.0, longest) * 1.5)
        axes.locator_params(axis="x", nbins=4)
        axes.axvline(1, color=style.MUTED, linewidth=0.8)
        status = {row.path: row.status.replace("_", " ") for row in those if not row.usable}
        for i, path in enumerate(paths):
            if path in bars:
                _draw_bar(axes, i, bars[path])
            elif path in status:
                style.beside(axes, 0, i, status[path], colour=style.MUTED)
    title = "Speed-up over eager fp32"
    all_bars = [bar for bars in found for bar in bars.values()]
    spoken = "; ".join(f"{bar.row.label} {_ratio_text(bar)}" for bar in all_bars)
    caption = "The median time of eager fp32 over that of the row; the upright line is eager fp32 itself."
    if any(bar.interval for bar in all_bars):
        caption += " Whiskers: the 95 % interval."
    if any(not bar.qualified for bar in all_bars):
        caption += f" Hollow: {qualification.UNQUALIFIED}, it may be another network."
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"{title}: {spoken}.",
        title=title,
        caption=caption + _first_networks(networks),
    )


def _paths(rows: Sequence[TableRow]) -> list[str]:
    """What the bars are of, runtime by runtime and the widest precision first."""
    order = [*_MARKERS, *conditions.runtimes(row.record for row in rows)]

    def place(row: TableRow) -> tuple[int, int, float]:
        runtime, dtype = path_of(row.record)
        return order.index(runtime), list(_SIZES).index(dtype), row.record.workload.int8_accuracy or 0.0

    others = sorted((row for row in rows if path_of(row.record) != EAGER_FP32), key=place)
    return list(dict.fromkeys(row.path for row in others))


def _speed_ups(rows: Sequence[TableRow], main: str) -> list[SpeedUp]:
    """The bars of one network."""
    times = [(row, m) for row in rows if (m := finite(valid(row.record, main))) and m.origin == "measured" and m.value]
    origin, base = next(((row, m) for row, m in times if path_of(row.record) == EAGER_FP32), (None, None))
    if origin is None or base is None or not base.value:
        return []
    return [
        SpeedUp(
            row=row,
            **_ratio(origin.record, row.record, base, m),
            qualified=qualification.is_qualified(row.record),
        )
        for row, m in times
        if m is not base
    ]


def _ratio(base: rec.Record, own: rec.Record, base_m: rec.Measurement, own_m: rec.Measurement) -> dict[str, Any]:
    """`base / own` and its interval: of their common rounds, or else of the medians."""
    if found := ratio_within_rounds(base, own, own_m.metric):
        return {"ratio": found.ratio, "interval": (found.low, found.high)}
    return {"ratio": float(base_m.value or 0) / float(own_m.value or 1), "interval": _interval(base_m, own_m)}


def _interval(base: rec.Measurement, own: rec.Measurement) -> tuple[float, float] | None:
    """Of `base / own`: over processes where both have enough, else from both intervals, which is wider."""
    runs = [reliability.split(m) for m in (own, base)]
    if min(map(len, runs)) >= statistics.FEWEST:
        own_medians, base_medians = (statistics.summarise(those).medians for those in runs)
        return statistics.ratio_interval(own_medians, base_medians)
    if base.ci95 and own.ci95 and own.ci95[0] > 0:
        return base.ci95[0] / own.ci95[1], base.ci95[1] / own.ci95[0]
    return None


def _draw_bar(axes: Axes, i: int, bar: SpeedUp) -> None:
    face = style.SERIES[0] if bar.qualified else style.PAPER
    axes.barh(i, bar.ratio, height=0.62, facecolor=face, edgecolor=style.SERIES[0], linewidth=1.0)
    end = bar.ratio
    if bar.interval:
        axes.plot(bar.interval, [i, i], color=style.INK, linewidth=1.2, marker="|")
        end = max(end, bar.interval[1])
    style.beside(axes, end, i, units.times(bar.ratio))


def _ratio_text(bar: SpeedUp) -> str:
    span = f" ({units.significant(bar.interval[0])} to {units.significant(bar.interval[1])})" if bar.interval else ""
    return f"{units.times(bar.ratio)}{span}" + ("" if bar.qualified else f", {qualification.UNQUALIFIED}")
