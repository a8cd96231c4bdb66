"""Curves as small multiples: training, warm-up, and whatever else has a little curve for each network.

Twenty curves in one plot are a tangle, and twenty labels beside it worse. Here each network has a panel with its name
above the curve, so nothing needs a legend or a colour of its own, and equal heights mean equal values.

The artifact of a training (kind `training`) is somebody else's text until it has been checked.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.report import reliability
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HIGHEST = 1e6  # of a loss; beyond it a training has failed, and a curve has no scale
_MOST = 4.0  # the axis of a warm-up ends here; what is beyond stands at its end and in the note
_ENDS_WARM = 1.1

Points = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One axis that all panels share."""

    low: float
    high: float
    ticks: Mapping[float, str]
    title: str
    log: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One network."""

    title: str
    note: str  # under the name: the figures of its ends
    line: Points
    guide: Points  # dotted: what would be ideal, or what the line is to be read against
    band: tuple[tuple[float, float, float], ...] = ()  # x, low and high: what the processes span
    crosses: tuple[float, ...] = ()  # x of what could not be had


def draw(panels: Sequence[Panel], x: Scale, y: Scale) -> Figure:
    """The panels; what is beyond the y-axis stands at its end."""
    columns = min(3, max(2, len(panels)))
    titles, below = [panel.title for panel in panels], f"across: {x.title}; up: {y.title}"
    figure, grid = style.panels(titles, 0.64, below, columns=columns, left=0.09, head_in=0.43)
    for axes, panel in zip(grid, panels, strict=True):
        axes.set(xscale="log" if x.log else "linear", xlim=(x.low, x.high), ylim=(y.low, y.high))
        axes.set_xticks(list(x.ticks), labels=list(x.ticks.values()))
        axes.set_yticks(list(y.ticks), labels=list(y.ticks.values()))
        axes.minorticks_off()
        axes.spines.left.set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(True, axis="y")
        note = style.clip(panel.note, 24 if columns == 3 else 36)
        axes.annotate(
            note, (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points", color=style.MUTED,
            fontsize=style.FONT - 1,
        )  # fmt: skip
        if len(panel.band) > 1:
            across, lows, highs = zip(*panel.band, strict=True)
            axes.fill_between(across, lows, highs, color=style.SERIES[0], alpha=0.2, linewidth=0)
        xs, ys = [p[0] for p in panel.guide], [p[1] for p in panel.guide]
        axes.plot(xs, ys, color=style.MUTED, linewidth=1, linestyle=":")
        xs, ys = [p[0] for p in panel.line], [min(p[1], y.high) for p in panel.line]
        axes.plot(xs, ys, color=style.SERIES[0], linewidth=1.6)
        marked = len(xs) if len(xs) <= 6 else 1
        style.marks(axes, xs[:marked], ys[:marked], "o", 4, style.SERIES[0], clip_on=False)
        for value in panel.crosses:
            style.marks(axes, [value], [0.12 * y.high], "x", 6, style.SERIES[1], markeredgewidth=1.6)
    return figure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurve:
    """What the curve of a network needs."""

    budget: str
    steps: int
    loss: Points  # (share of the steps, mean loss)
    validation: Points  # (share of the steps, Dice on `val`)


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


def _points(pairs: Any, steps: int) -> Points:
    points, last = rec.value_from_json(Points, pairs, "a curve"), max(steps, 1)
    return tuple((step / last, y) for step, y in points if 0 <= step <= last and abs(y) <= _HIGHEST)


@style.plain_matplotlib()
def training(rows: Sequence[TableRow], read: ReadArtifact, *, prefix: str) -> Drawing | None:
    """Training curves: a panel for each network whose weights were trained with a curve kept.

    Args:
        rows: one of each network, since in all runtimes its weights are the same.
        read: gives the content of an artifact.
        prefix: of the figure's ids.

    The axis is the share of the budget, not steps, since what was equal between the networks is the budget.

    Returns: None where none was.
    """
    shown, trained = list[tuple[TableRow, TrainingCurve]](), 0
    for row in rows:
        curve = artifact_of(row.record, "training", read, parse_training)
        if curve and len(curve.loss) > 1:
            trained += 1
            if trained <= MAX_ROWS:  # the others are only counted: curves of thousands of rows would fill the memory
                shown.append((row, curve))
    if not shown:
        return None
    x = Scale(low=0, high=1, ticks={0: "0", 0.5: "half", 1: "all"}, title="share of the budget")
    y = Scale(low=0, high=1, ticks={0: "0", 0.5: "0.5", 1: "1"}, title="Dice on the validation cases")
    spoken = "; ".join(f"{row.name} {_training_note(curve)}" for row, curve in shown)
    return style.drawing(
        draw([_training_panel(row, curve) for row, curve in shown], x, y),
        prefix=prefix,
        label=f"Training: {spoken}.",
        title="Training",
        caption="Dotted: the loss, as a share of its first value. The validation cases were watched while it trained; "
        "the Dice in the tables is of others." + style.first_of(len(shown), trained),
    )


def _training_panel(row: TableRow, curve: TrainingCurve) -> Panel:
    first = max(curve.loss[0][1], 1e-9)
    loss = tuple((x, y / first) for x, y in curve.loss[:: max(1, len(curve.loss) // 40)])
    note = f"Dice {curve.validation[-1][1]:.3f}, {curve.budget}" if curve.validation else curve.budget
    return Panel(title=row.name, note=note, line=curve.validation, guide=loss)


def _training_note(curve: TrainingCurve) -> str:
    last = f", Dice {curve.validation[-1][1]:.3f}" if curve.validation else ""
    return f"{curve.budget}, {curve.steps} steps{last}"


@style.plain_matplotlib()
def warmup(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """Warm-up curves: how long each network takes to become as fast as it will be.

    Each forward is a multiple of the median of the timed ones, so that a curve which ends above 1 says that timing
    began too early. A row needs two warm-up forwards and a median to set them against; a network too slow for a
    second one is in the caption alone.

    Returns: None where no row has.
    """
    relative = [(row, runs) for row in rows if row.usable and (runs := _relative(row, metric))]
    curves = [(row, runs) for row, runs in relative if max(map(len, runs)) > 1]
    if not curves:
        return None
    once = [statistics.median(run[0] for run in runs) for _, runs in relative if max(map(len, runs)) == 1]
    shown = curves[:MAX_ROWS]
    longest = max(len(run) for _, runs in shown for run in runs)
    highest = max(v for _, runs in shown for run in runs for v in run)
    ends = [(row.label, statistics.median(run[-1] for run in runs)) for row, runs in shown]
    cold = [f"{label} ({_times(ratio)})" for label, ratio in ends if ratio > _ENDS_WARM]
    top = min(_MOST, max(1.5, highest))
    x_ticks = {float(t): f"{t}" for t in (1, 2, 5, 10, 20, 50) if t <= longest}
    y_ticks = {t: f"{t:g} x" for t in ((0, 1, 2, 3, 4) if top >= 2 else (0, 0.5, 1, 1.5)) if t <= top}
    x = Scale(low=1, high=max(2, longest) * 1.04, ticks=x_ticks, title="forward", log=True)
    y = Scale(low=0, high=top, ticks=y_ticks, title="time, over the timed median")
    caption = "Dotted: the median of the timed forwards."
    if any(len(runs) > 1 for _, runs in shown):
        caption += " The line is the median of the processes, the band what they span."
    if highest > top:
        caption += f" Above {units.significant(top)} x the curves are cut off; the number below each name is not."
    caption += (
        f" Still more than {round(100 * (_ENDS_WARM - 1))} % slower at the end of warm-up: {', '.join(cold[:5])}."
        if cold
        else " All had become as fast as that before timing began."
    )
    if once:
        span = _times(once[0]) if len(once) == 1 else f"{_times(min(once))} to {_times(max(once))}"
        caption += f" {len(once)} more had a single warm-up forward, since each takes long: {span}."
    return style.drawing(
        draw([_warmup_panel(row, runs) for row, runs in shown], x, y),
        prefix=prefix,
        label=f"Warm-up: {'; '.join(f'{row.label} {_warmup_note(runs)}' for row, runs in shown)}.",
        title="Warm-up",
        caption=caption + style.first_of(len(shown), len(curves)),
    )


def _relative(row: TableRow, metric: str) -> list[list[float]]:
    """Each process's warm-up forwards over the row's median of `metric`."""
    m = row.record.get(metric)
    if m is None or m.value is None or m.origin != "measured" or not 0 < m.value < float("inf"):
        return []
    middle = m.value
    return [[v / middle for v in run] for run in reliability.processes(row.record, "warmup_s")]


def _warmup_panel(row: TableRow, runs: Sequence[Sequence[float]]) -> Panel:
    """Of many forwards the first ten, then ever fewer: on a logarithmic axis the rest would be a blot."""
    longest = max(map(len, runs))
    kept = [i for i in range(longest) if i < 10 or i == longest - 1 or i % (i // 10 + 1) == 0]
    at = {i + 1.0: [run[i] for run in runs if len(run) > i] for i in kept}
    return Panel(
        title=row.label,
        note=_warmup_note(runs),
        line=tuple((forward, statistics.median(values)) for forward, values in at.items()),
        guide=((1.0, 1.0), (1e9, 1.0)),
        band=tuple((forward, min(values), max(values)) for forward, values in at.items()) if len(runs) > 1 else (),
    )


def _warmup_note(runs: Sequence[Sequence[float]]) -> str:
    first, longest = statistics.median(run[0] for run in runs), max(map(len, runs))
    return f"first {_times(first)}, n = {longest}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else units.times(ratio)
