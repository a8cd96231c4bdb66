"""Roofline: why fewer MACs are not the same factor in time.

A network that moves many bytes for each MAC waits for memory, and one that moves few can come near the
peak of the cores. Both limits were measured on this machine, at the rows' dtype and threads, so all rows
here must be of one runtime and precision; each network is a point at its MACs per byte and the rate at
which it ran. The bytes are what the operators read and write as if nothing stayed in a cache, so a point
may lie above the slope: its data did stay.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from benchbench.core import units
from benchbench.report.cells import BASELINE, TableCell, valid
from benchbench.report.figures import style
from benchbench.report.figures.style import Drawing
from benchbench.report.tables import Column, Table, TableRow

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
    measured = []
    for row in rows:
        latency, record = valid(row.record, "latency_s"), row.record
        seconds, macs = _positive(latency.value if latency else None), _positive(record.value("macs"))
        if latency and latency.origin == "measured" and seconds and macs:
            moved = _positive(record.value("moved_bytes"))
            measured.append(
                Rate(label=row.label, name=record.model.name, macs=macs, latency_s=seconds, moved_bytes=moved)
            )
    return measured


def _positive(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None


def roof(rows: Sequence[TableRow]) -> Roof | None:
    """The median of the limits that the records hold; None where one of the two is missing."""
    limits = []
    for metric in ("peak_macs_per_s", "memory_bandwidth_bytes_per_s"):
        values = [value for row in rows if (value := _positive(row.record.value(metric)))]
        if not values:
            return None
        limits.append(statistics.median(values))
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


@style.plain_matplotlib()
def figure(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """The roof and the networks under it, numbered as in `table`.

    Returns: None without a measured roof, or without a network whose bytes are known.
    """
    limits, points = roof(rows), [(r.intensity, r) for r in rates(rows) if r.intensity]
    if limits is None or not points:
        return None
    ridge = limits.macs_per_s / limits.bytes_per_s
    places = [(x, rate.macs_per_s) for x, rate in points]
    figure, axes = style.axes(3.9, 0.17)
    low, high = style.around([ridge, *(x for x, _ in places)], log=True)
    style.scale(axes, "x", (low, high), "MACs for each byte moved (log)", log=True)
    tallest = style.around([limits.macs_per_s, *(y for _, y in places)], log=True)
    style.scale(axes, "y", tallest, "MAC/s achieved (log)", log=True)
    line = [(x, limits.limit(x)) for x in (low, ridge, high)]
    axes.plot([x for x, _ in line], [y for _, y in line], color=style.INK, linewidth=1.6)
    xs, ys = [x for x, _ in places], [y for _, y in places]
    style.marks(axes, xs, ys, "o", 5.5, style.PAPER, face=style.SERIES[0], markeredgewidth=0.8)
    style.label_points(axes, places, [str(number) for number in range(1, len(places) + 1)], line=line)
    bound = sum(x < ridge for x, _ in points)
    caption = (
        "The line is what this machine was measured to allow: "
        f"{units.format_value(limits.bytes_per_s, 'B/s')} from memory (the slope) and "
        f"{_rate(limits.macs_per_s)} in the cores (the level). They meet at "
        f"{units.significant(ridge)} MACs a byte; {bound} of {len(points)} networks lie left of that, where memory "
        "is the limit. The numbers are those of the table below."
    )
    if left := len(rates(rows)) - len(points):
        caption += f" {left} more without a count of their bytes."
    spoken = "; ".join(f"{r.label} {units.significant(x)} MACs a byte, {_rate(r.macs_per_s)}" for x, r in points)
    return style.drawing(figure, prefix=prefix, label=f"Roofline. {spoken}.", title=TITLE, caption=caption)


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
