"""Figure of what changes with one condition: batch, threads, or precision.

Sets of conditions stand in tables of their own, since their numbers must not be mixed. Where two of them
differ in one condition only, this section joins them again, network by network. A cell that ran out of
memory is a cross in its curve: where a curve ends is part of the answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.report.conditions import Group
from benchbench.report.figures import curves, svg
from benchbench.report.figures import style as figures_style
from benchbench.report.figures.curves import Curve, Panel, Scale
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.tables import STATUS_TEXT, finite, headline, row_labels, valid

What = Literal["batch", "threads", "dtype"]


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
    "dtype": lambda w: ("fp32", "bf16", "fp16").index(w.dtype),
}
_SAME: Mapping[What, Mapping[str, Any]] = {
    "batch": {"batch": 0},
    "threads": {"threads": None},
    "dtype": {"dtype": "fp32"},
}
#: Of an environment: follows the number of threads, and is no other machine.
_FOLLOWS = ("threads", "affinity")


def families(groups: Sequence[Group]) -> list[Family]:
    """Every family of two groups or more, by batch, then threads, then precision."""
    found = []
    whats: tuple[What, ...] = ("batch", "threads", "dtype")
    for what in whats:
        alike: dict[str, list[Group]] = {}
        for group in groups:
            if not group.predicted and _VALUES[what](group.first.workload) is not None:
                alike.setdefault(_key(group, what), []).append(group)
        for those in alike.values():
            by_value = {_VALUES[what](g.first.workload): g for g in reversed(those)}
            if len(by_value) > 1:
                ordered = tuple(by_value[v] for v in sorted(by_value))
                found.append(Family(what=what, groups=ordered, title=_shared(ordered[0], what)))
    return found


def _key(group: Group, what: What) -> str:
    first = group.first
    plain: dict[str, Any] = {"data": None, "split": None, **_SAME[what]}
    work = dataclasses.replace(first.workload, **plain)
    environment = {k: v for k, v in first.environment.items() if what != "threads" or k not in _FOLLOWS}
    return rec.canonical_json(
        [rec.to_json(work), rec.to_json(first.device), rec.fingerprint(environment), first.model.in_channels]
    )


def _shared(group: Group, what: What) -> str:
    work = group.first.workload
    parts = [group.first.device.name]
    if what != "threads" and work.threads is not None:
        parts.append(f"{work.threads} thread{'s' * (work.threads != 1)}")
    if what != "dtype":
        parts.append(work.dtype)
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


def courses(family: Family) -> list[ScalingCurve]:
    """The networks with at least one time, in the order of the first group's."""
    found: dict[str, tuple[str, dict[float, rec.Record]]] = {}
    for group in family.groups:
        labels = row_labels(group.records)
        for record in group.records:
            key = rec.canonical_json([rec.to_json(record.model), rec.to_json(record.recipe)])
            label, seen = found.setdefault(key, (labels[record.id], {}))
            seen[float(_VALUES[family.what](group.first.workload))] = record
    made = []
    for label, seen in found.values():
        times = {v: _seconds(r) for v, r in seen.items()}
        points = tuple((v, t) for v, t in times.items() if t is not None)
        missing = tuple((v, seen[v].status) for v, t in times.items() if t is None)
        if points and len(points) + len(missing) > 1:
            made.append(ScalingCurve(label=label, points=points, missing=missing))
    return made


def _seconds(record: rec.Record) -> float | None:
    m = finite(valid(record, headline([record])))
    if m is None or m.origin != "measured" or m.value is None or m.value <= 0:
        return None
    return float(m.value)


def figures(groups: Sequence[Group], *, prefix: str, most: int = 8) -> list[Drawing]:
    """A figure for each family that has a network with two points, at most so many."""
    made = []
    for i, family in enumerate(families(groups)):
        found = [c for c in courses(family) if len(c.points) > 1 or c.missing]
        if any(len(c.points) > 1 for c in found):
            made.append(_DRAW[family.what](family, found, f"{prefix}{i}"))
        if len(made) == most:
            break
    return made


def _by_batch(family: Family, found: Sequence[ScalingCurve], prefix: str) -> Drawing:
    shown = found[:MAX_BARS]
    made = []
    for course in shown:
        rate = {batch: batch / t for batch, t in course.points}
        first = course.points[0][0]
        made.append(
            _panel(
                course,
                tuple((batch, value / rate[first]) for batch, value in rate.items()),
                " → ".join(units.significant(v) for v in _ends(list(rate.values()))) + " /s",
            )
        )
    x = _doubling([v for c in shown for v, _ in (*c.points, *c.missing)], "batch")
    highest = max(1.2, *(y for p in made for curve in p.curves if curve.kind == "main" for _, y in curve.points))
    y = _from_zero(highest, "patches a second, over those of the smallest batch")
    caption = (
        "Dotted: a batch costs as much as its patches one by one. Under each name: patches a second, first and last."
    )
    return _drawing(family, shown, made, x, y, prefix, f"Throughput against batch: {family.title}", caption)


def _by_threads(family: Family, found: Sequence[ScalingCurve], prefix: str) -> Drawing:
    shown = found[:MAX_BARS]
    made, guides = [], []
    for course in shown:
        first, base = course.points[0]
        note = " → ".join(units.format_value(t, "s") for t in _ends([t for _, t in course.points]))
        made.append(_panel(course, tuple((n, t / base) for n, t in course.points), note))
        guides.append(first)
    x = _doubling([v for c in shown for v, _ in (*c.points, *c.missing)], "threads")
    made = [
        dataclasses.replace(p, curves=(_ideal(first, x), *(c for c in p.curves if c.kind == "main")))
        for p, first in zip(made, guides, strict=True)
    ]
    highest = max(1.0, *(y for p in made for curve in p.curves if curve.kind == "main" for _, y in curve.points))
    y = _from_zero(highest * 1.05, "time, over that at the fewest threads")
    caption = (
        "Dotted: twice the threads, half the time. Under each name: the time at the fewest and at the most threads."
    )
    return _drawing(family, shown, made, x, y, prefix, f"Latency against threads: {family.title}", caption)


def _ideal(first: float, x: Scale) -> Curve:
    steps = [first * (x.high / first) ** (i / 8) for i in range(9)]
    return Curve(points=tuple((v, first / v) for v in steps), kind="guide")


def _panel(course: ScalingCurve, points: tuple[tuple[float, float], ...], note: str) -> Panel:
    flat = Curve(points=((points[0][0], 1.0), (1e9, 1.0)), kind="guide")
    crosses = tuple(v for v, _ in course.missing)
    return Panel(title=course.label, note=note, curves=(flat, Curve(points=points)), crosses=crosses)


def _ends(values: Sequence[float]) -> Sequence[float]:
    return values if len(values) < 2 else (values[0], values[-1])


def _doubling(values: Sequence[float], title: str) -> Scale:
    ticks = sorted(set(values))
    room = 1.12
    kept = ticks if len(ticks) <= 5 else [ticks[0], ticks[len(ticks) // 2], ticks[-1]]
    return Scale(
        low=ticks[0] / room, high=ticks[-1] * room, ticks=tuple((t, f"{t:g}") for t in kept), title=title, log=True
    )


def _from_zero(highest: float, title: str) -> Scale:
    ticks = figures_style.linear_ticks(0, highest)
    return Scale(low=0, high=highest, ticks=tuple((t, f"{t:g} x") for t in ticks if t), title=title)


def _drawing(
    family: Family,
    shown: Sequence[ScalingCurve],
    made: Sequence[Panel],
    x: Scale,
    y: Scale,
    prefix: str,
    title: str,
    caption: str,
) -> Drawing:
    crosses = [f"{c.label} at {v:g} ({STATUS_TEXT[status]})" for c in shown for v, status in c.missing]
    caption += f" Crosses: {', '.join(crosses[:6])}{' and more' * (len(crosses) > 6)}." if crosses else ""
    spoken = "; ".join(f"{p.title} {p.note}" for p in made)
    return Drawing(
        svg=svg.inline(curves.draw(made, x, y), prefix=prefix, label=f"{title}: {spoken}."),
        title=title,
        caption=f"{caption} Tables {family.letters}.",
    )


def _by_dtype(family: Family, found: Sequence[ScalingCurve], prefix: str) -> Drawing:
    names = [g.first.workload.dtype for g in family.groups]
    order = {float(_VALUES["dtype"](g.first.workload)): g.first.workload.dtype for g in family.groups}
    shown = [c for c in found if c.points][:MAX_BARS]
    texts = [_gain(course, order) for course in shown]
    title = f"{' against '.join(names)}: {family.title}"
    spoken = "; ".join(f"{c.label} {text}" for c, text in zip(shown, texts, strict=True))
    marks = ", ".join(f"{_SHAPES[i][1]} {name}" for i, name in enumerate(order.values()))
    caption = f"{marks[0].upper()}{marks[1:]}. The text says how much faster the last one is. Tables {family.letters}."
    return Drawing(
        svg=svg.inline(_draw_dtypes(shown, texts, order), prefix=prefix, label=f"{title}: {spoken}."),
        title=title,
        caption=caption,
    )


_SHAPES = (("o", "circle:"), ("s", "square:"), ("^", "triangle:"))


def _gain(course: ScalingCurve, order: Mapping[float, str]) -> str:
    gone = [f"{order[v]}: {STATUS_TEXT[status]}" for v, status in course.missing]
    if len(course.points) < 2:
        return "; ".join(gone)
    (_, first), (_, last) = course.points[0], course.points[-1]
    ratio = first / last
    text = f"{units.significant(ratio)} x faster" if ratio >= 1 else f"{units.significant(1 / ratio)} x slower"
    return "; ".join(["same" if abs(math.log(ratio)) < 0.005 else text, *gone])


def _draw_dtypes(shown: Sequence[ScalingCurve], texts: Sequence[str], order: Mapping[float, str]) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([c.label for c in shown], 0.3)
        axes.set_xscale("log")
        figures_style.limits(axes.set_xlim, [t for c in shown for _, t in c.points], log=True)
        axes.minorticks_off()
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=True)
        axes.set_xlabel("seconds of one batch (log)")
        right = axes.get_xlim()[1]
        places = {value: i for i, value in enumerate(order)}
        for i, (course, text) in enumerate(zip(shown, texts, strict=True)):
            times = [t for _, t in course.points]
            axes.plot([min(times), max(times)], [i, i], color=svg.MUTED, linewidth=1.6)
            for value, seconds in course.points:
                k = places[value]
                axes.plot([seconds], [i], marker=_SHAPES[k][0], markersize=6.5, color=svg.SERIES[k], linestyle="none")
            figures_style.beside(axes, right, i, text)
        return figures_style.save(figure)


_DRAW: Mapping[What, Callable[[Family, Sequence[ScalingCurve], str], Drawing]] = {
    "batch": _by_batch,
    "threads": _by_threads,
    "dtype": _by_dtype,
}
