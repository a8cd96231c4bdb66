"""Figure of every case's Dice, region by region.

A mean of 0.85 can be forty cases near it, or thirty at 0.95 and ten where the network saw nothing. Each region of
each network is a row with a dot a case, its mean, and the interval of that mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.figures.samples import thin
from benchbench.report.tables import TableRow, dice_classes, region_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DOTS = 80  # of one row


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegionDice:
    """A region of a network."""

    label: str
    values: tuple[float, ...]  # one a case
    mean: float
    ci95: tuple[float, float] | None


def lines(rows: Sequence[TableRow]) -> list[RegionDice]:
    """The regions of the rows whose Dice was measured here, or earlier on another machine."""
    found = []
    for row in rows:
        classes = dice_classes(row.record)
        whole = row.record.get("dice")
        for m in classes or ([whole] if whole else []):
            if m.value is None or len(m.values) < 2:
                continue
            name = region_name(m) if classes else ""
            label = f"{row.label} {name}".strip()
            found.append(RegionDice(label=label, values=tuple(m.values), mean=m.value, ci95=m.ci95))
    return found


def strip_plot(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """A dot for each case, a row for each region of each network.

    Returns: None where no Dice of two cases is there.
    """
    found = lines(rows)
    if not found:
        return None
    shown = found[:MAX_BARS]
    low = min(0.5, *(v for line in shown for v in line.values))
    caption = ["Each dot is a case; the line is their mean, shaded its 95 % interval."]
    worst = min(shown, key=lambda line: min(line.values))
    caption.append(f"The lowest case is {min(worst.values):.3f} ({worst.label}).")
    if len(found) > len(shown):
        caption.append(f"The first {len(shown)} of {len(found)} rows.")
    spoken = "; ".join(f"{line.label} {_text(line)}, {len(line.values)} cases" for line in shown)
    return Drawing(
        svg=svg.inline(_draw(shown, low), prefix=prefix, label=f"Dice of every case: {spoken}."),
        title="Dice of every case",
        caption=" ".join(caption),
    )


def _text(line: RegionDice) -> str:
    return f"{line.mean:.3f}" + (f" ({line.ci95[0]:.3f} to {line.ci95[1]:.3f})" if line.ci95 else "")


def _draw(shown: Sequence[RegionDice], low: float) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([line.label for line in shown], 0.28, right=0.24)
        axes.set_xlim(low - 0.02, 1.02)
        ticks = figures_style.linear_ticks(low, 1.0)
        axes.set_xticks(ticks, labels=[f"{t:g}" for t in ticks])
        axes.set_xlabel("Dice")
        for i, line in enumerate(shown):
            _line(axes, i, line)
            figures_style.beside(axes, 1.02, i, f"{line.mean:.3f}, n = {len(line.values)}", muted=True)
        return figures_style.save(figure)


def _line(axes: Axes, i: int, line: RegionDice) -> None:
    if line.ci95:
        axes.barh(
            i, line.ci95[1] - line.ci95[0], left=line.ci95[0], height=0.8, color=svg.SERIES[1], alpha=0.3, linewidth=0
        )
    values = thin(line.values, _MOST_DOTS)
    spread = [i + 0.24 * ((k * 0.618) % 1 - 0.5) for k in range(len(values))]  # equal cases lie apart
    axes.plot(values, spread, marker="o", markersize=3, color=svg.SERIES[0], linestyle="none", alpha=0.6)
    axes.plot([line.mean, line.mean], [i - 0.4, i + 0.4], color=svg.INK, linewidth=1.6)
