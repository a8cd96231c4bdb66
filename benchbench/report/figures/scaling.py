"""Figure of what changes with one condition: batch, or threads.

Sets of conditions stand in tables of their own, since their numbers must not be mixed. Where two of them
differ in one condition only, this section joins them again, network by network, each runtime and precision a
curve of its own. A cell that ran out of memory is a cross in its curve: where a curve ends is part of the answer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.report.cells import finite, valid
from benchbench.report.conditions import Group, any_path, apart, dtypes, environment_key, path_of
from benchbench.report.figures import curves, style
from benchbench.report.figures.curves import Panel, Scale
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.labels import STATUS_TEXT, row_labels
from benchbench.report.tables import headline

What = Literal["batch", "threads"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Sets of conditions that differ in one alone."""

    what: What
    groups: tuple[Group, ...]  # by that condition, the smallest first
    title: str  # the conditions that they share

    @property
    def letters(self) -> str:
        """`A, B and D`."""
        letters = [g.letter for g in self.groups]
        return f"{', '.join(letters[:-1])} and {letters[-1]}"


#: A condition -> its value; and a stand-in for it, under which groups that differ in it alone are equal.
_VALUES: Mapping[What, Callable[[rec.Workload], Any]] = {
    "batch": lambda w: w.batch,
    "threads": lambda w: w.threads,
}
_SAME: Mapping[What, Mapping[str, Any]] = {
    "batch": {"batch": 0},
    "threads": {"threads": None},
}
#: Of an environment: follows the number of threads, and is no other machine.
_FOLLOWS = ("threads", "affinity")
_ROOM = 1.12  # factor by which an axis goes on beyond the outermost condition


def families(groups: Sequence[Group]) -> list[Family]:
    """Every family of two groups or more, by batch, then threads."""
    joined = []
    for what in _VALUES:
        measured = [g for g in groups if not g.predicted and _VALUES[what](g.first.workload) is not None]
        for those in apart(measured, functools.partial(_key, what)).values():
            by_value = {_VALUES[what](g.first.workload): g for g in reversed(those)}
            if len(by_value) > 1:
                ordered = tuple(by_value[v] for v in sorted(by_value))
                joined.append(Family(what=what, groups=ordered, title=_shared(ordered, what)))
    return joined


def _key(what: What, group: Group) -> str:
    first = group.first
    plain: dict[str, Any] = {"data": None, "split": None, **_SAME[what]}
    work = dataclasses.replace(any_path(first.workload), **plain)
    environment = {k: v for k, v in first.environment.items() if what != "threads" or k not in _FOLLOWS}
    return rec.canonical_json(
        [rec.to_json(work), rec.to_json(first.device), environment_key(environment), first.model.in_channels]
    )


def _shared(groups: Sequence[Group], what: What) -> str:
    first = groups[0].first
    work, parts = first.workload, [first.device.name]
    if what != "threads" and work.threads is not None:
        parts.append(units.counted(work.threads, "thread"))
    precisions = dtypes(record for group in groups for record in group.records)
    parts += precisions if len(precisions) == 1 else []
    if what != "batch":
        parts.append(f"batch {work.batch}")
    parts += ["training"] if work.phase == "train" else []
    return ", ".join(parts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCurve:
    """One network through a family."""

    label: str
    points: tuple[tuple[float, float], ...]  # condition, seconds of one batch
    missing: tuple[tuple[float, rec.Status], ...]  # condition, why there is no time


def curves_of(family: Family) -> list[ScalingCurve]:
    """The networks with at least one time, in the order of the first group's."""
    networks: dict[str, tuple[str, dict[float, rec.Record]]] = {}
    together = [record for group in family.groups for record in group.records]
    for group in family.groups:
        labels = row_labels(group.records, beside=together)
        for record in group.records:
            path = (*path_of(record), record.workload.int8_accuracy)
            key = rec.canonical_json([rec.to_json(record.model), rec.to_json(record.recipe), path])
            _, by_value = networks.setdefault(key, (labels[record.id], {}))
            by_value[float(_VALUES[family.what](group.first.workload))] = record
    drawn = []
    for label, by_value in networks.values():
        times = {value: _seconds(record) for value, record in by_value.items()}
        points = tuple((v, t) for v, t in times.items() if t is not None)
        missing = tuple((v, by_value[v].status) for v, t in times.items() if t is None)
        if points and len(points) + len(missing) > 1:
            drawn.append(ScalingCurve(label=label, points=points, missing=missing))
    return drawn


def _seconds(record: rec.Record) -> float | None:
    m = finite(valid(record, headline([record])))
    if m is None or m.origin != "measured" or m.value is None or m.value <= 0:
        return None
    return float(m.value)


def figures(groups: Sequence[Group], *, prefix: str, most: int = 8) -> list[Drawing]:
    """A figure for each family that has a network with two points, at most so many."""
    drawn = []
    for i, family in enumerate(families(groups)):
        shown = [curve for curve in curves_of(family) if len(curve.points) > 1 or curve.missing]
        if any(len(curve.points) > 1 for curve in shown):
            drawn.append(_by_count(family, shown[:MAX_ROWS], f"{prefix}{i}"))
        if len(drawn) == most:
            break
    return drawn


_APART = 0.14  # of two ticks, share of a panel's axis


@style.plain_matplotlib()
def _by_count(family: Family, shown: Sequence[ScalingCurve], prefix: str) -> Drawing:
    """Throughput by batch, or time by threads, over that of the smallest."""
    by_batch = family.what == "batch"
    values = sorted({value for curve in shown for value, _ in (*curve.points, *curve.missing)})
    panels = []
    for curve in shown:
        numbers = [(value, value / seconds if by_batch else seconds) for value, seconds in curve.points]
        first, base = numbers[0]
        ends = [number for _, number in numbers[:: max(1, len(numbers) - 1)]]
        steps = [first * (values[-1] * _ROOM / first) ** (i / 8) for i in range(9)]
        panels.append(
            Panel(
                title=curve.label,
                note=" → ".join(units.significant(end) if by_batch else units.format_value(end, "s") for end in ends)
                + " /s" * by_batch,
                line=tuple((value, number / base) for value, number in numbers),
                guide=((first, 1.0), (1e9, 1.0)) if by_batch else tuple((value, first / value) for value in steps),
                crosses=tuple(value for value, _ in curve.missing),
            )
        )
    highest = max(number for panel in panels for _, number in panel.line)
    highest = max(1.2, highest) if by_batch else max(1.0, highest) * 1.05
    ticks = values if len(values) <= 5 else [values[0], values[len(values) // 2], values[-1]]
    ticks = style.spaced(ticks, (values[0] / _ROOM, values[-1] * _ROOM), _APART)
    if by_batch:
        title, y_title = "Throughput against batch", "patches a second, over those of the smallest batch"
        ideal, note = "no gain, a batch takes as long as its patches one by one", "patches a second, first and last"
    else:
        title, y_title = "Latency against threads", "time, over that at the fewest threads"
        ideal, note = "ideal, twice the threads take half the time", "the time at the fewest and at the most threads"
    caption = f"Dotted: {ideal}. Under each name: {note}."
    missing = [f"{curve.label} at {value:g} ({STATUS_TEXT[why]})" for curve in shown for value, why in curve.missing]
    if missing:
        caption += f" Crosses: {', '.join(missing[:6])}{' and more' * (len(missing) > 6)}."
    x = Scale(
        low=values[0] / _ROOM, high=values[-1] * _ROOM, ticks={t: f"{t:g}" for t in ticks}, title=family.what, log=True
    )
    y = Scale(low=0, high=highest, ticks={t: f"{t:g} x" for t in _ticks(highest)}, title=y_title)
    title = f"{title}: {family.title}"
    return style.drawing(
        curves.draw(panels, x, y),
        prefix=prefix,
        label=f"{title}: {'; '.join(f'{panel.title} {panel.note}' for panel in panels)}.",
        title=title,
        caption=f"{caption} Tables {family.letters}.",
    )


def _ticks(highest: float) -> list[float]:
    """Some four round numbers above zero."""
    from matplotlib.ticker import MaxNLocator

    return [
        float(tick) for tick in MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)).tick_values(0, highest) if 0 < tick <= highest
    ]
