"""Figures of paired comparisons: ratios with their intervals beside A against A, and the ratios of pairs over time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchbench.core import units
from benchbench.core.paired_result import PairedResult
from benchbench.core.paired_times import Estimate, effects, level_of, own_effects
from benchbench.report.figures import style
from benchbench.report.figures.style import Drawing

_MOST_DOTS = 600  # of pairs over time
_EDGE = 30.0  # percent beyond which an axis of single pairs does not go


@style.plain_matplotlib()
def forest(results: Sequence[PairedResult], *, prefix: str) -> Drawing | None:
    """The ratio of each comparison with its interval, its CPU time, and A against itself; None without any."""
    shown = [result for result in results if result.judgement][: style.MAX_ROWS // 3]
    if not shown:
        return None
    rows: list[tuple[str, Estimate, str]] = []
    for result in shown:
        found = result.judgement
        assert found is not None
        name = f"{result.labels[1]}: " if len(shown) > 1 else ""
        rows.append((f"{name}B / A", found.wall, "o"))
        rows += [(f"{name}CPU time", found.cpu, "s")] if found.cpu else []
        rows.append((f"{name}A / A", found.control, "D"))
    ends = [_percent(end) for _, e, _ in rows for end in (e.low, e.high)]
    margin = 100 * shown[0].margin
    low, high = min(*ends, -1.5 * margin), max(*ends, 1.5 * margin)
    room = 0.05 * (high - low)
    figure, axes = style.row_axes([name for name, _, _ in rows], 0.34, right=0.44)
    style.scale(axes, "x", (low - room, high + room), "difference, %")
    axes.axvspan(_percent(1 / (1 + margin / 100)), margin, facecolor=style.GRID, edgecolor="none", alpha=0.6)
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    for i, (_, estimate, marker) in enumerate(rows):
        colour = style.SERIES[0] if marker == "o" else style.MUTED
        dashed = "-" if estimate.confident else ":"
        axes.plot([_percent(estimate.low), _percent(estimate.high)], [i, i], dashed, color=colour, linewidth=1.6)
        style.marks(axes, [_percent(estimate.ratio)], [i], marker, 7 if marker == "o" else 5, style.PAPER, face=colour)
        style.beside(axes, high + room, i, _text(estimate), colour=style.MUTED)
    levels = " or ".join(sorted({f"{100 * level_of(len(result.sets)):.0f} %" for result in shown}))
    spoken = "; ".join(f"{name} {_text(estimate)}" for name, estimate, _ in rows)
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"Ratios and their intervals: {spoken}.",
        title="Ratios and their intervals",
        caption=f"The band is the margin, ±{margin:g} %. Lines are intervals that hold the ratio in "
        f"{levels} of comparisons; dotted ones, of too few sets, are the range. A / A is what A shows against itself.",
    )


@style.plain_matplotlib()
def over_time(result: PairedResult, *, prefix: str) -> Drawing | None:
    """Each pair's ratio at its time, with the median of its set; None without pairs."""
    if not result.sets:
        return None
    own: list[tuple[float, float]] = []
    both: list[tuple[float, float]] = []
    lines: list[tuple[float, float, float]] = []  # from, to, median
    for one in result.sets:
        pairs = [(b.at_s, _share(x)) for b in one.blocks for x in effects(b.wall_s, result.mode)]
        both += pairs
        own += [(b.at_s, _share(x)) for b in one.blocks for x in own_effects(b.wall_s, result.mode)]
        lines.append((pairs[0][0], pairs[-1][0], statistics.median(value for _, value in pairs)))
    values = sorted(value for _, value in (*both, *own))
    cut = len(values) // 50
    low, high = min(values[cut], -2.5), max(values[-1 - cut], 2.5)
    middles = [middle for *_, middle in lines]  # which are always inside
    low = min(max(low * 1.08, -_EDGE), 1.08 * min(middles))
    high = max(min(high * 1.08, _EDGE), 1.08 * max(middles))
    end_s = max(at for at, _ in both)
    figure, axes = style.axes(2.6, head_in=0.28)
    style.scale(axes, "x", (-0.02 * (end_s or 1.0), 1.02 * (end_s or 1.0)), "seconds since the beginning")
    style.scale(axes, "y", (low, high), "difference, %")
    axes.axhline(0, color=style.MUTED, linewidth=0.8)
    for dots, marker, colour, name in ((own, "x", style.MUTED, "A / A"), (both, "o", style.SERIES[0], "B / A")):
        step = -(-len(dots) // _MOST_DOTS)
        inside = [(at, value) for at, value in dots[::step] if low <= value <= high]
        style.marks(
            axes, [at for at, _ in inside], [value for _, value in inside], marker, 3, colour, alpha=0.6, label=name
        )
    for start, stop, middle in lines:
        width = max(stop - start, 0.01 * end_s)
        axes.plot([start, start + width], [middle, middle], color=style.SERIES[1], linewidth=2)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1, handletextpad=0.2)
    beyond = sum(not low <= value <= high for value in values)
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"Ratios of pairs over {units.format_duration(end_s)}: medians of the sets from {min(middles):+.1f} % to "
        f"{max(middles):+.1f} %.",
        title="Ratios of pairs over time",
        caption="A dot is the ratio of two neighbouring forwards, a line the median of one set of processes. A drift "
        "of the machine would show in both kinds of dots alike."
        + (f" {units.counted(beyond, 'pair')} beyond the axis." if beyond else ""),
    )


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)


def _share(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def _text(estimate: Estimate) -> str:
    low, high = (_percent(end) for end in (estimate.low, estimate.high))
    return f"{_percent(estimate.ratio):+.1f} % ({low:+.1f} to {high:+.1f})"
