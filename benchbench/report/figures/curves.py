"""Curves as small multiples: training, warm-up, and whatever else has a little curve for each network.

Twenty curves in one plot are a tangle, and twenty labels beside it worse. Here each network has a panel with its name
above the curve, so nothing needs a legend or a colour of its own, and equal heights mean equal values. All panels are
drawn in one pair of axes whose units are those of the view box.

The artifact of a training (kind `training`) is somebody else's text until it has been checked.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.report import reliability
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEFT, _GAP, _HEAD, _FOOT, _PLOT = 34.0, 14.0, 28.0, 22.0, 46.0
_WIDTH = 72 * figures_style.WIDTH_IN
_SMALL = 10.0
_HIGHEST = 1e6  # of a loss; beyond it a training has failed, and a curve has no scale
_MOST = 4.0  # the axis of a warm-up ends here; what is beyond stands at its end and in the note
_ENDS_WARM = 1.1


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
            _draw_panel(axes, panel, x, y, (left, top, width), first=i % columns == 0, last=last)
        _text(axes, _LEFT, height - 9, f"across: {x.title}; up: {y.title}", svg.MUTED)
        return figures_style.save(figure)


def _draw_panel(
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurve:
    """What the curve of a network needs."""

    budget: str
    steps: int
    loss: tuple[tuple[float, float], ...]  # (share of the steps, mean loss)
    validation: tuple[tuple[float, float], ...]  # (share of the steps, Dice on `val`)


def parse_training(content: bytes) -> TrainingCurve:
    """Read the artifact of a training: loss and Dice over the budget.

    Raises:
        StoreError: it is not what it should be.
    """
    try:
        data = parse_json(content, "a training curve", StoreError)
        steps = rec.value_from_json(rec.Count, data["steps_done"], "steps_done")
        return TrainingCurve(
            budget=rec.value_from_json(str, data["budget"], "budget")[:40],
            steps=steps,
            loss=_points(data["curve"], steps),
            validation=_points(data.get("validation", ()), steps),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError("a training curve could not be read, so it is not shown") from error


def _points(pairs: Any, steps: int) -> tuple[tuple[float, float], ...]:
    found = rec.value_from_json(tuple[tuple[float, float], ...], pairs, "a curve")
    return tuple((step / max(steps, 1), y) for step, y in found if 0 <= step <= max(steps, 1) and abs(y) <= _HIGHEST)


def training(rows: Sequence[TableRow], read: ReadArtifact, *, prefix: str) -> Drawing | None:
    """Training curves: a panel for each row whose weights were trained with a curve kept.

    The axis is the share of the budget, not steps, since what was equal between the networks is the budget.

    Returns: None where none was.
    """
    read_rows = [(row, artifact_of(row.record, "training", read, parse_training)) for row in rows]
    found = [(row, one) for row, one in read_rows if one and len(one.loss) > 1]
    if not found:
        return None
    shown = found[:MAX_BARS]
    x = Scale(low=0, high=1, ticks=((0, "0"), (0.5, "half"), (1, "all")), title="share of the budget")
    y = Scale(low=0, high=1, ticks=((0, "0"), (0.5, "0.5"), (1, "1")), title="Dice on the validation cases")
    picture = draw([_training_panel(row, one) for row, one in shown], x, y)
    caption = (
        "Dotted: the loss, as a share of its first value. The validation cases were watched while it trained; the "
        "Dice in the tables is of others."
    )
    if len(found) > len(shown):
        caption += f" The first {len(shown)} of {len(found)} rows."
    spoken = "; ".join(f"{row.label} {_training_note(one)}" for row, one in shown)
    return Drawing(
        svg=svg.inline(picture, prefix=prefix, label=f"Training: {spoken}."), title="Training", caption=caption
    )


def _training_panel(row: TableRow, one: TrainingCurve) -> Panel:
    first = max(one.loss[0][1], 1e-9)
    loss = Curve(points=tuple((x, y / first) for x, y in one.loss[:: max(1, len(one.loss) // 40)]), kind="guide")
    note = f"Dice {one.validation[-1][1]:.3f}, {one.budget}" if one.validation else one.budget
    return Panel(title=row.label, note=note, curves=(loss, Curve(points=one.validation)))


def _training_note(one: TrainingCurve) -> str:
    last = f", Dice {one.validation[-1][1]:.3f}" if one.validation else ""
    return f"{one.budget}, {one.steps} steps{last}"


def warmup(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """Warm-up curves: how long each network takes to become as fast as it will be.

    Each forward is a multiple of the median of the timed ones, so that a curve which ends above 1 says that timing
    began too early. A row needs two warm-up forwards and a median to set them against; a network too slow for a
    second one is in the caption alone.

    Returns: None where no row has.
    """
    all_of = [(row, runs) for row in rows if row.usable and (runs := _relative(row, metric))]
    found = [(row, runs) for row, runs in all_of if max(map(len, runs)) > 1]
    if not found:
        return None
    once = [statistics.median(run[0] for run in runs) for _, runs in all_of if max(map(len, runs)) == 1]
    shown = found[:MAX_BARS]
    longest = max(len(run) for _, runs in shown for run in runs)
    highest = max(v for _, runs in shown for run in runs for v in run)
    ends = [(row.label, statistics.median(run[-1] for run in runs)) for row, runs in shown]
    cold = [f"{label} ({_times(ratio)})" for label, ratio in ends if ratio > _ENDS_WARM]
    x_ticks = tuple((t, f"{t:g}") for t in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if t <= longest)
    x = Scale(low=1, high=max(2, longest) * 1.04, ticks=x_ticks, title="forward", log=True)
    top = min(_MOST, max(1.5, highest))
    y_ticks = tuple((t, f"{t:g} x") for t in figures_style.linear_ticks(0, top) if t == int(t) or top < 2)
    y = Scale(low=0, high=top, ticks=y_ticks, title="time, over the timed median")
    picture = draw([_warmup_panel(row, runs) for row, runs in shown], x, y)
    caption = "Dotted: as fast as when timed."
    if any(len(runs) > 1 for _, runs in shown):
        caption += " The line is the median of the processes, the band what they span."
    if highest > top:
        caption += f" Above {units.significant(top)} x the axis ends; the figure below each name does not."
    caption += (
        f" Still more than {round(100 * (_ENDS_WARM - 1))} % slow at the end: {', '.join(cold[:5])}."
        if cold
        else " All had become as fast before timing began."
    )
    if once:
        span = _times(once[0]) if len(once) == 1 else f"{_times(min(once))} to {_times(max(once))}"
        caption += f" {len(once)} more, too slow for a second warm-up: {span}."
    if len(found) > len(shown):
        caption += f" The first {len(shown)} of {len(found)} rows."
    spoken = "; ".join(f"{row.label} {_warmup_note(runs)}" for row, runs in shown)
    return Drawing(
        svg=svg.inline(picture, prefix=prefix, label=f"Warm-up: {spoken}."), title="Warm-up", caption=caption
    )


def _relative(row: TableRow, metric: str) -> list[list[float]]:
    """Each process's warm-up forwards over the row's median of `metric`."""
    m = row.record.get(metric)
    if m is None or m.value is None or m.origin != "measured" or not 0 < m.value < float("inf"):
        return []
    middle = m.value
    return [[v / middle for v in run] for run in reliability.processes(row.record, "warmup_s")]


def _warmup_panel(row: TableRow, runs: Sequence[Sequence[float]]) -> Panel:
    longest = max(map(len, runs))
    at = [[run[i] for run in runs if len(run) > i] for i in range(longest)]
    kept = [i for i in range(longest) if _kept(i, longest)]
    main = Curve(points=tuple((i + 1.0, statistics.median(at[i])) for i in kept))
    band = tuple((i + 1.0, min(at[i]), max(at[i])) for i in kept) if len(runs) > 1 else ()
    guide = Curve(points=((1.0, 1.0), (1e9, 1.0)), kind="guide")
    return Panel(title=row.label, note=_warmup_note(runs), curves=(guide, main), band=band)


def _kept(i: int, n: int) -> bool:
    """Of many forwards the first ten, then ever fewer: on a logarithmic axis the rest would be a blot."""
    return i < 10 or i == n - 1 or i % (i // 10 + 1) == 0


def _warmup_note(runs: Sequence[Sequence[float]]) -> str:
    first, longest = statistics.median(run[0] for run in runs), max(map(len, runs))
    return f"first {_times(first)}, n = {longest}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else f"{units.significant(ratio)} x"
