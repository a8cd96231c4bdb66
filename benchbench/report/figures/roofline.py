"""Roofline: why fewer MACs are not the same factor in time.

A network that moves many bytes for each MAC waits for memory, and one that moves few can come near the
peak of the cores. Both limits were measured on this machine, at the table's dtype and threads; each
network is a point at its MACs per byte and the rate at which it ran. The bytes are what the operators
read and write as if nothing stayed in a cache, so a point may lie above the slope: its data did stay.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchbench.core import units
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import Drawing
from benchbench.report.tables import BASELINE, Column, Table, TableCell, TableRow, finite, valid

TITLE = "Roofline: compute against memory"
_RIVAL = "swin_unetr"  # what the reference paper sets itself against


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one network did in a second."""

    label: str
    name: str  # of the model
    macs: float
    latency_s: float
    moved_bytes: float | None

    @property
    def macs_per_s(self) -> float:
        """Achieved."""
        return self.macs / self.latency_s

    @property
    def intensity(self) -> float | None:
        """MACs for each byte that its operators read or write; None where the bytes are not known."""
        return self.macs / self.moved_bytes if self.moved_bytes else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The measured limits of a machine at one dtype and thread count."""

    macs_per_s: float
    bytes_per_s: float

    def limit(self, intensity: float) -> float:
        """MAC/s that a network of this intensity can reach at most, if every byte comes from memory."""
        return min(self.macs_per_s, self.bytes_per_s * intensity)


def rates(rows: Sequence[TableRow]) -> list[Rate]:
    """The rows with a measured latency and MACs, in their order."""
    found = []
    for row in rows:
        latency, macs = finite(valid(row.record, "latency_s")), finite(row.record.get("macs"))
        if latency is None or macs is None or latency.origin != "measured" or not latency.value or not macs.value:
            continue
        if latency.value <= 0 or macs.value <= 0:
            continue
        moved = row.record.value("moved_bytes")
        known = moved if moved is not None and math.isfinite(moved) and moved > 0 else None
        found.append(
            Rate(
                label=row.label,
                name=row.record.model.name,
                macs=float(macs.value),
                latency_s=float(latency.value),
                moved_bytes=known,
            )
        )
    return found


def roof(rows: Sequence[TableRow]) -> Roof | None:
    """The median of the limits that the records hold; None where one of the two is missing."""
    limits = []
    for metric in ("peak_macs_per_s", "memory_bandwidth_bytes_per_s"):
        values = [row.record.value(metric) for row in rows]
        kept = [float(v) for v in values if v is not None and math.isfinite(v) and v > 0]
        if not kept:
            return None
        limits.append(statistics.median(kept))
    return Roof(macs_per_s=limits[0], bytes_per_s=limits[1])


def explanation(rows: Sequence[TableRow]) -> str:
    """In words: what the ratio of MACs between two networks became in time, and which limit made it so.

    The baseline is set against the network that the reference paper compares itself with, or else against the one
    for which the two ratios lie furthest apart. Nothing, where there are no two rates.
    """
    found = rates(rows)
    if len(found) < 2:
        return ""
    base = next((r for r in found if r.name == BASELINE), None) or min(found, key=lambda r: r.macs)
    others = [r for r in found if r is not base]
    other = next((r for r in others if r.name == _RIVAL), None) or max(others, key=lambda r: _apart(r, base.macs_per_s))
    if other.macs < base.macs:
        base, other = other, base
    more, longer = other.macs / base.macs, other.latency_s / base.latency_s
    text = (
        f"{other.label} does {units.times(more)} the MACs of {base.label} in {units.times(longer)} the time: "
        f"it runs at {_rate(other.macs_per_s)}, {base.label} at {_rate(base.macs_per_s)}."
    )
    limits = roof(rows)
    if limits is None:
        return text
    return " ".join([text, *(_against(r, limits) for r in (base, other) if r.intensity)])


def _apart(rate: Rate, macs_per_s: float) -> float:
    return abs(math.log(rate.macs_per_s / macs_per_s))


def _against(rate: Rate, limits: Roof) -> str:
    """How one network stands to the limit of its intensity."""
    assert rate.intensity is not None
    limit = limits.limit(rate.intensity)
    per = f"{units.significant(rate.intensity)} MACs for each byte moved"
    which = "memory" if limit < limits.macs_per_s else "the cores"
    share = rate.macs_per_s / limit
    if share > 1:
        return f"At {per}, {rate.label} would be held to {_rate(limit)} by {which} if nothing stayed in a cache."
    return f"At {per}, {which} would allow {rate.label} {_rate(limit)}; it reaches {100 * share:.0f} % of that."


def _rate(value: float) -> str:
    return units.format_value(value, "MAC/s")


def figure(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """The roof and the networks under it, numbered as in `grid`.

    Returns: None without a measured roof, or without a network whose bytes are known.
    """
    limits, found = roof(rows), [r for r in rates(rows) if r.intensity]
    if limits is None or not found:
        return None
    ridge = limits.macs_per_s / limits.bytes_per_s
    bound = [r.label for r in found if (r.intensity or 0) < ridge]
    caption = (
        "The line is what this machine was measured to allow: "
        f"{units.format_value(limits.bytes_per_s, 'B/s')} from memory (the slope) and "
        f"{_rate(limits.macs_per_s)} in the cores (the level). They meet at "
        f"{units.significant(ridge)} MACs a byte; {len(bound)} of {len(found)} networks lie left of that, where memory "
        "is the limit. The numbers are those of the table below."
    )
    if left := len(rates(rows)) - len(found):
        caption += f" {left} more without a count of their bytes."
    spoken = "; ".join(
        f"{r.label} {units.significant(r.intensity or 0)} MACs a byte, {_rate(r.macs_per_s)}" for r in found
    )
    return Drawing(
        svg=svg.inline(_draw(found, limits), prefix=prefix, label=f"Roofline. {spoken}."),
        title=TITLE,
        caption=caption,
    )


def _draw(found: Sequence[Rate], limits: Roof) -> str:
    ridge = limits.macs_per_s / limits.bytes_per_s
    xs = [r.intensity or 1.0 for r in found]
    with figures_style.plain_matplotlib():
        drawn, axes = figures_style.axes(3.9, 0.17)
        axes.set_xscale("log")
        axes.set_yscale("log")
        figures_style.limits(axes.set_xlim, [*xs, ridge], log=True)
        figures_style.limits(axes.set_ylim, [*(r.macs_per_s for r in found), limits.macs_per_s], log=True)
        low, high = axes.get_xlim()
        axes.grid(True, color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.minorticks_off()
        figures_style.label_ticks(axes.xaxis, (low, high), log=True)
        figures_style.label_ticks(axes.yaxis, axes.get_ylim(), log=True)
        axes.set_xlabel("MACs for each byte moved (log)")
        axes.set_ylabel("MAC/s achieved (log)")
        axes.plot([low, ridge, high], [limits.limit(v) for v in (low, ridge, high)], color=svg.INK, linewidth=1.6)
        points = [(x, rate.macs_per_s) for x, rate in zip(xs, found, strict=True)]
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], marker="o", markersize=5.5, markerfacecolor=svg.SERIES[0],
            markeredgecolor=svg.PAPER, markeredgewidth=0.8, linestyle="none",
        )  # fmt: skip
        at = [tuple(v * 72 / drawn.dpi for v in axes.transData.transform(p)) for p in points]
        for number, (point, offset) in enumerate(zip(points, _places(at), strict=True), 1):
            far = math.hypot(*offset) > 15
            axes.annotate(
                str(number), point, xytext=offset, textcoords="offset points", ha="center", va="center",
                parse_math=False, arrowprops={"arrowstyle": "-", "color": svg.MUTED, "lw": 0.6} if far else None,
            )  # fmt: skip
        return figures_style.save(drawn)


def _places(at: Sequence[tuple[float, ...]]) -> list[tuple[float, float]]:
    """For each point an offset in points at which its number is clear of every other, near before far."""
    taken = [(p[0], p[1]) for p in at]
    options = [
        (round(r * math.cos(k * math.pi / 8), 1), round(0.85 * r * math.sin(k * math.pi / 8), 1))
        for r in (12, 22, 32)
        for k in range(16)
    ]
    chosen = []
    for i, own in enumerate(taken[: len(at)]):
        others = taken[:i] + taken[i + 1 :]

        def cost(option: tuple[float, float], own: tuple[float, float] = own, others: Any = others) -> float:
            place = (own[0] + option[0], own[1] + option[1])
            near = min((math.hypot((place[0] - o[0]) / 1.3, place[1] - o[1]) for o in others), default=99.0)
            return max(0.0, 10.0 - near) * 4 + math.hypot(*option)

        best = min(options, key=cost)
        taken.append((own[0] + best[0], own[1] + best[1]))
        chosen.append(best)
    return chosen


_COLUMNS = (
    Column(key="number", title="#", help="the number in the figure"),
    Column(key="intensity", title="MACs per byte", help="MACs over what the operators read and write"),
    Column(key="rate", title="Achieved", help="MACs over latency"),
    Column(key="share", title="Of its limit", help="achieved over what the roof allows at this intensity"),
    Column(key="limit", title="Limited by", help="which of the two limits is the lower one here", kind="text"),
)


def table(rows: Sequence[TableRow], *, key: str) -> Table | None:
    """The points of `figure` as a table; None where there is no figure."""
    limits, found = roof(rows), [r for r in rates(rows) if r.intensity]
    if limits is None or not found:
        return None
    return Table(
        key=key,
        title="The networks under the roof",
        caption="A share above 100 % means that data stayed in a cache instead of coming from memory.",
        columns=_COLUMNS,
        rows=tuple(_line(i, rate, limits) for i, rate in enumerate(found, 1)),
        sorted_by=("number", "ascending"),
    )


def _line(number: int, rate: Rate, limits: Roof) -> TableRow:
    intensity = rate.intensity or 0.0
    limit = limits.limit(intensity)
    memory = limit < limits.macs_per_s
    share = rate.macs_per_s / limit
    return TableRow(
        label=rate.label,
        card=rate.name,
        cells={
            "number": TableCell(text=str(number), value=number),
            "intensity": TableCell(text=units.significant(intensity), origin="analytic", value=intensity),
            "rate": TableCell(text=_rate(rate.macs_per_s), origin="measured", value=rate.macs_per_s),
            "share": TableCell(text=f"{100 * share:.0f} %", origin="measured", value=share),
            "limit": TableCell(text="memory" if memory else "cores", value=float(memory)),
        },
    )
