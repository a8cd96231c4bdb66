"""Warm-up curves: how long each network takes to become as fast as it will be.

The first forwards take memory, choose kernels and fill caches. Each is shown as a multiple of the median
of the timed ones, so that a curve which ends above 1 says that timing began too early.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchbench.core import units
from benchbench.report import reliability
from benchbench.report.figures import panels, svg
from benchbench.report.figures import style as figures_style
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.figures.panels import Curve, Panel, Scale
from benchbench.report.tables import TableRow

_MOST = 4.0  # the axis ends here; what is beyond stands at its end and in the note
_ENDS_WARM = 1.1


def curves(rows: Sequence[TableRow], metric: str, *, prefix: str) -> Drawing | None:
    """A panel for each row that has two warm-up forwards and a median to set them against.

    A network too slow for a second one is in the caption alone.

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
    picture = panels.draw([_panel(row, runs) for row, runs in shown], x, y)
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
    spoken = "; ".join(f"{row.label} {_note(runs)}" for row, runs in shown)
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


def _panel(row: TableRow, runs: Sequence[Sequence[float]]) -> Panel:
    longest = max(map(len, runs))
    at = [[run[i] for run in runs if len(run) > i] for i in range(longest)]
    kept = [i for i in range(longest) if _kept(i, longest)]
    main = Curve(points=tuple((i + 1.0, statistics.median(at[i])) for i in kept))
    band = tuple((i + 1.0, min(at[i]), max(at[i])) for i in kept) if len(runs) > 1 else ()
    guide = Curve(points=((1.0, 1.0), (1e9, 1.0)), kind="guide")
    return Panel(title=row.label, note=_note(runs), curves=(guide, main), band=band)


def _kept(i: int, n: int) -> bool:
    """Of many forwards the first ten, then ever fewer: on a logarithmic axis the rest would be a blot."""
    return i < 10 or i == n - 1 or i % (i // 10 + 1) == 0


def _note(runs: Sequence[Sequence[float]]) -> str:
    first, longest = statistics.median(run[0] for run in runs), max(map(len, runs))
    return f"first {_times(first)}, n = {longest}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else f"{units.significant(ratio)} x"
