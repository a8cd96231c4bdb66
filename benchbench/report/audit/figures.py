"""Figures of the audit: distance of published figures from the truth, and the reasons of one of them.

On a logarithmic axis a line between two dots has the length of their ratio, so that a small network's
error shows as well as a large one's. The staircase goes from the truth to what a counter
says, one step for each kind of operator that it gets wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import units
from benchbench.core.audit_result import TITLES
from benchbench.core.units import giga, signed, times
from benchbench.report.audit.facts import blamed, featured
from benchbench.report.audit.tables import AGREES, GMAC, SHOWN, AuditRow, Metric, direction
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import MAX_BARS, Drawing

_TRUE, _HIGH, _LOW = svg.SERIES[0], svg.SERIES[1], svg.SERIES[3]
#: Steps of the staircase; the rest become one.
MAX_STEPS = 6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of the staircase: a bar from `start` to `end`, in MACs."""

    label: str
    start: float
    end: float
    text: str
    kind: str  # true | more | less | counter | published


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
    if len(pairs) > MAX_BARS:
        pairs = sorted(pairs, key=lambda pair: (-max(pair[1], 1 / pair[1]), pair[0].label))[:MAX_BARS]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (-pair[1], pair[0].label))
    shown = SHOWN[metric]
    quantity, unit = ("compute", "GMAC") if metric == "macs" else ("parameters", "M")
    spoken = "; ".join(
        f"{one.label} published {one.published_text(metric)}, true {shown(one.true(metric) or 0)}, {times(f)}"
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
    return Drawing(
        svg=svg.inline(_draw_pairs(pairs, metric), prefix=prefix, label=f"True {quantity}, {unit}. {spoken}."),
        title=f"Published and true {quantity}",
        caption=caption,
    )


def _draw_pairs(pairs: Sequence[tuple[AuditRow, float]], metric: Metric) -> str:
    scale = 1e9 if metric == "macs" else 1e6
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([one.label for one, _ in pairs], 0.32, left=0.27, right=0.17)
        axes.set_xscale("log")
        both = [value / scale for one, _ in pairs for value in (one.published(metric), one.true(metric)) if value]
        axes.set_xlim(min(both) / 1.3, max(both) * 1.3)
        axes.minorticks_off()
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=True, plain=True)
        axes.set_xlabel(f"{GMAC if metric == 'macs' else 'million parameters'}, log")
        right = axes.get_xlim()[1]
        for i, (one, factor) in enumerate(pairs):
            stated, true = (one.published(metric) or 0) / scale, (one.true(metric) or 0) / scale
            verdict = direction(factor)
            colour = {"agrees": svg.MUTED, "too high": _HIGH, "too low": _LOW}[verdict]
            axes.plot([stated, true], [i, i], color=colour, linewidth=2.2)
            axes.plot([true], [i], marker="o", markersize=6.5, color=_TRUE, linestyle="none")
            axes.plot(
                [stated],
                [i],
                marker="o",
                markersize=6.5,
                markerfacecolor="none" if verdict == "agrees" else svg.PAPER,
                markeredgecolor=colour,
                markeredgewidth=1.6,
                linestyle="none",
            )
            figures_style.beside(axes, right, i, verdict if verdict == "agrees" else times(factor))
        return figures_style.save(figure)


def staircase(part: Sequence[AuditRow], *, prefix: str) -> Drawing | None:
    """From the true compute of the featured network to the published figure, step by step.

    Returns: None where no audit says what a counter gets wrong.
    """
    one = featured(part)
    name = blamed(one) if one else None
    if one is None or name is None:
        return None
    steps = steps_of(one, name)
    shown = TITLES.get(name, name)
    added = sum(s.end - s.start for s in steps if s.kind in ("more", "less"))
    first = one.found.shares(name)[0] if one.found else None
    caption = f"{shown} counts {giga(abs(added))} GMAC {'more' if added > 0 else 'less'} than the graph holds."
    if first and first.why:
        caption += f" {first.kind.capitalize()}: {first.why}."
    spoken = "; ".join(f"{s.label}: {s.text}" for s in steps)
    published_text, true = one.published_text("macs"), one.true("macs") or 0
    title = f"{one.label}: why {published_text} is not {giga(true)}"
    if direction(one.factor("macs") or 1) == "agrees":
        title = f"{one.label}: what {shown} gets wrong"
    return Drawing(
        svg=svg.inline(_draw_steps(steps), prefix=prefix, label=f"{title}, in GMAC. {spoken}."),
        title=title,
        caption=caption,
    )


def steps_of(one: AuditRow, counter: str) -> list[Step]:
    """The rows of the staircase; what the differences do not explain is a step of its own.

    Args:
        one: has an audit, a true and a published compute.
        counter: whose differences are climbed.
    """
    assert one.found is not None
    true, stated = float(one.true("macs") or 0), float(one.published("macs") or 0)
    steps = [Step(label="true", start=0, end=true, text=giga(true), kind="true")]
    moves = [(share.kind, share.excess) for share in one.found.shares(counter)]
    if len(moves) > MAX_STEPS:
        moves = [*moves[: MAX_STEPS - 1], ("all others", sum(e for _, e in moves[MAX_STEPS - 1 :]))]
    count = one.found.counts.get(counter)
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


def _draw_steps(steps: Sequence[Step]) -> str:
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([step.label for step in steps], 0.32, left=0.36, right=0.17)
        highest = max(max(s.start, s.end) for s in steps) / 1e9
        axes.set_xlim(0, highest * 1.02)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        axes.set_xlabel(GMAC)
        colours = {"true": _TRUE, "more": _HIGH, "less": _LOW, "counter": svg.MUTED, "published": svg.MUTED}
        for i, step in enumerate(steps):
            left, width = min(step.start, step.end) / 1e9, abs(step.end - step.start) / 1e9
            open_bar = step.kind in ("counter", "published")
            axes.barh(
                i,
                width,
                left=left,
                height=0.6,
                facecolor=svg.PAPER if open_bar else colours[step.kind],
                edgecolor=colours[step.kind],
                linewidth=1.0,
                hatch="////" if step.kind == "counter" else None,
            )
            if i + 1 < len(steps) and step.kind in ("true", "more", "less"):
                axes.plot([step.end / 1e9] * 2, [i + 0.3, i + 0.7], color=svg.MUTED, linewidth=0.8, linestyle=":")
            figures_style.beside(axes, left + width, i, step.text)
        return figures_style.save(figure)
