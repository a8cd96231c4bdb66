"""Figures of the audit: distance of published figures from the truth, and the reasons of one of them.

On a logarithmic axis a line between two dots has the length of their ratio, so that a small network's
error shows as well as a large one's. The staircase goes from the truth to what a counter
says, one step for each kind of operator that it gets wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchbench.core import units
from benchbench.core.audit_result import TITLES
from benchbench.core.units import giga, signed, times
from benchbench.report.audit.tables import AGREES, GMAC, SHOWN, AuditRow, Metric, blamed, direction, featured
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing

_TRUE, _HIGH, _LOW = style.SERIES[0], style.SERIES[1], style.SERIES[3]
#: A kind of step -> how its bar looks.
_LOOKS: dict[str, dict[str, Any]] = {
    "true": {"color": _TRUE},
    "more": {"color": _HIGH},
    "less": {"color": _LOW},
    "counter": style.NOT_MEASURED,
    "published": {"facecolor": style.PAPER, "edgecolor": style.MUTED},
}
#: Steps of the staircase; the rest become one.
MAX_STEPS = 6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of the staircase: a bar from `start` to `end`, in MACs."""

    label: str
    start: float
    end: float
    text: str
    kind: str  # key of `_LOOKS`


@style.plain_matplotlib()
def published_and_true(part: Sequence[AuditRow], metric: Metric, *, prefix: str) -> Drawing | None:
    """Each network's published and true figure, joined by a line, the most overstated first.

    Of parameters only those that do not agree are drawn: most do.

    Returns: None where no network has both.
    """
    pairs = [(one, factor) for one in part if (factor := one.factor(metric))]
    n, agreeing = len(pairs), 0
    if metric == "params":
        pairs = [pair for pair in pairs if direction(pair[1]) != "agrees"]
        agreeing = n - len(pairs)
    if not pairs:
        return None
    pairs = sorted(pairs, key=lambda pair: (-max(pair[1], 1 / pair[1]), pair[0].label))[:MAX_ROWS]
    pairs.sort(key=lambda pair: (-pair[1], pair[0].label))
    quantity, unit, divisor = ("compute", "GMAC", 1e9) if metric == "macs" else ("parameters", "M", 1e6)
    figure, axes = style.row_axes([one.label for one, _ in pairs], 0.32, left=0.27, right=0.17)
    ends = [((one.published(metric) or 0) / divisor, (one.true(metric) or 0) / divisor) for one, _ in pairs]
    limits = min(map(min, ends)) / 1.3, max(map(max, ends)) * 1.3
    title = f"{GMAC if metric == 'macs' else 'million parameters'}, log"
    style.scale(axes, "x", limits, title, log=True, prefixes=False)
    for i, ((_, factor), (stated, true)) in enumerate(zip(pairs, ends, strict=True)):
        verdict = direction(factor)
        colour = {"agrees": style.MUTED, "too high": _HIGH, "too low": _LOW}[verdict]
        axes.plot([stated, true], [i, i], color=colour, linewidth=2.2)
        style.marks(axes, [true], [i], "o", 6.5, _TRUE)
        face = "none" if verdict == "agrees" else style.PAPER
        style.marks(axes, [stated], [i], "o", 6.5, colour, face=face, markeredgewidth=1.6)
        style.beside(axes, limits[1], i, verdict if verdict == "agrees" else times(factor))
    spoken = "; ".join(
        f"{one.label} published {one.published_text(metric)}, true {SHOWN[metric](one.true(metric) or 0)}, {times(f)}"
        for one, f in pairs
    )
    caption = "Open: as published. Filled: true. The line is the error, the number published / true."
    elsewhere = [one.label for one, _ in pairs if not one.paper]
    if elsewhere and any(one.paper for one in part):
        caption += f" Published elsewhere: {', '.join(elsewhere)}."
    if agreeing:
        caption += f" The other {agreeing} agree within {units.significant(100 * AGREES)} %."
    elif len(pairs) < n:
        caption += f" The {len(pairs)} of {n} networks that are furthest off."
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"True {quantity}, {unit}. {spoken}.",
        title=f"Published and true {quantity}",
        caption=caption,
    )


@style.plain_matplotlib()
def staircase(part: Sequence[AuditRow], *, prefix: str) -> Drawing | None:
    """From the true compute of the featured network to the published figure, step by step.

    Returns: None where no audit says what a counter gets wrong.
    """
    one = featured(part)
    name = blamed(one) if one else None
    if one is None or one.result is None or name is None:
        return None
    steps = steps_of(one, name)
    figure, axes = style.row_axes([step.label for step in steps], 0.32, left=0.36, right=0.17)
    style.scale(axes, "x", (0, max(max(s.start, s.end) for s in steps) / 1e9 * 1.02), GMAC)
    for i, step in enumerate(steps):
        left, right = sorted((step.start / 1e9, step.end / 1e9))
        axes.barh(i, right - left, left=left, height=0.6, **_LOOKS[step.kind])
        if i + 1 < len(steps) and step.kind in ("true", "more", "less"):
            axes.plot([step.end / 1e9] * 2, [i + 0.3, i + 0.7], color=style.MUTED, linewidth=0.8, linestyle=":")
        style.beside(axes, right, i, step.text)
    counter = TITLES.get(name, name)
    added = sum(s.end - s.start for s in steps if s.kind in ("more", "less"))
    caption = f"{counter} counts {giga(abs(added))} GMAC {'more' if added > 0 else 'less'} than the graph holds."
    first = one.result.shares(name)[0]
    if first.why:
        caption += f" {first.kind.capitalize()}: {first.why}."
    title = f"{one.label}: why {one.published_text('macs')} is not {giga(one.true('macs') or 0)}"
    if direction(one.factor("macs") or 1) == "agrees":
        title = f"{one.label}: what {counter} gets wrong"
    label = f"{title}, in GMAC. {'; '.join(f'{s.label}: {s.text}' for s in steps)}."
    return style.drawing(figure, prefix=prefix, label=label, title=title, caption=caption)


def steps_of(one: AuditRow, counter: str) -> list[Step]:
    """The rows of the staircase; what the differences do not explain is a step of its own.

    Args:
        one: has an audit, a true and a published compute.
        counter: whose differences are climbed.
    """
    assert one.result is not None
    true, stated = float(one.true("macs") or 0), float(one.published("macs") or 0)
    steps = [Step(label="true", start=0, end=true, text=giga(true), kind="true")]
    moves = [(share.kind, share.excess) for share in one.result.shares(counter)]
    if len(moves) > MAX_STEPS:
        moves = [*moves[: MAX_STEPS - 1], ("all others", sum(e for _, e in moves[MAX_STEPS - 1 :]))]
    count = one.result.counts.get(counter)
    said = count.macs if count else None
    if said is not None and (rest := said - true - sum(e for _, e in moves)):
        moves.append(("not explained", round(rest)))
    at = true
    for label, excess in moves:
        kind = "more" if excess > 0 else "less"
        steps.append(Step(label=label, start=at, end=at + excess, text=signed(excess), kind=kind))
        at += excess
    shown = TITLES.get(counter, counter)
    if said is not None:
        steps.append(Step(label=f"{shown} says", start=0, end=said, text=giga(said), kind="counter"))
    steps.append(Step(label="published", start=0, end=stated, text=one.published_text("macs"), kind="published"))
    return steps
