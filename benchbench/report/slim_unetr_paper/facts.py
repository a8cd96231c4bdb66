"""Four facts from the audit for a reader with one minute, each computed from the records.

No number of them is stored: they come from the records and from the paper's tables as shipped. Mind the third one's
direction: what overstates a network's compute also hides how much smaller than the others it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import units
from benchbench.core.audit_result import TITLES
from benchbench.core.units import giga, signed, times
from benchbench.report.audit.tables import AuditRow
from benchbench.report.grid import AGREES
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import BASELINE, TableCell

_RIVAL = "swin_unetr"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact: a few figures with their origins, what they are, and what that means."""

    figures: tuple[tuple[str, TableCell], ...]  # (word before it, figure)
    title: str
    text: str


def facts(part: Sequence[AuditRow]) -> list[Fact]:
    """The facts that these audits of one input give."""
    return [fact for fact in (_compute(part), _ratio(part), _off(part), _steps()) if fact]


def featured(part: Sequence[AuditRow]) -> AuditRow | None:
    """The network to explain: the paper's own, else the one whose published compute is furthest off."""
    told = [one for one in part if one.factor("macs") and one.found]
    own = [one for one in told if one.card == BASELINE]
    return next(iter(own or sorted(told, key=lambda one: (-_distance(one), one.label))), None)


def _distance(one: AuditRow) -> float:
    factor = one.factor("macs") or 1.0
    return max(factor, 1 / factor)


def blamed(one: AuditRow) -> str | None:
    """The counter to explain a network by: the one that gave the published figure, else the one furthest off."""
    if one.found is None:
        return None
    named = one.found.published.macs_counter
    if named and one.found.shares(named):
        return named
    excess = {name: sum(abs(s.excess) for s in one.found.shares(name)) for name in one.found.counts}
    return max((n for n in excess if excess[n]), key=lambda n: (excess[n], n), default=None)


def _compute(part: Sequence[AuditRow]) -> Fact | None:
    one = featured(part)
    factor, true = (one.factor("macs"), one.true("macs")) if one else (None, None)
    if one is None or factor is None or true is None:
        return None
    return Fact(
        figures=(
            ("published", TableCell(text=one.published_text("macs"), origin="published")),
            ("true", TableCell(text=f"{giga(true)} GMAC", origin="analytic")),
        ),
        title=f"{one.label}: compute published {_too(factor)}",
        text=_cause(one, true),
    )


def _too(factor: float) -> str:
    if abs(factor - 1) <= AGREES:
        return "and true agree"
    return f"{times(factor)} too high" if factor > 1 else f"{times(1 / factor)} too low"


def _cause(one: AuditRow, true: float) -> str:
    """Where the published figure comes from, by the counter's own differences."""
    name = blamed(one)
    if name is None or one.found is None:
        return "The audit names no counter that explains it."
    count, shares = one.found.counts.get(name), one.found.shares(name)
    said = f"The counter {TITLES.get(name, name)}"
    if count and count.macs is not None:
        more = count.macs - true
        said += (
            f" says {giga(count.macs)}, {giga(abs(more))} GMAC {'more' if more > 0 else 'less'} than the graph holds"
        )
    else:
        said += " differs"
    if not shares:
        return f"{said}."
    most = shares[0]
    return f"{said}. The largest part is {most.kind}, {signed(most.excess)}{f': {most.why}' if most.why else ''}."


def _ratio(part: Sequence[AuditRow]) -> Fact | None:
    by_card = {one.card: one for one in part if not one.record.recipe}
    own, rival = by_card.get(BASELINE), by_card.get(_RIVAL)
    if own is None or rival is None:
        return None
    stated = rival.published("macs"), own.published("macs")
    true = rival.true("macs"), own.true("macs")
    if not (stated[0] and stated[1] and true[0] and true[1]):
        return None
    published_ratio, true_ratio = stated[0] / stated[1], true[0] / true[1]
    more = true_ratio / published_ratio
    verdict = "agree" if abs(more - 1) <= AGREES else ("understates" if more > 1 else "overstates")
    tail = (
        "the two ratios agree"
        if verdict == "agree"
        else f"the paper {verdict} its own network's advantage by {times(max(more, 1 / more))}"
    )
    return Fact(
        figures=(
            ("published", TableCell(text=times(published_ratio), origin="published")),
            ("true", TableCell(text=times(true_ratio), origin="analytic")),
        ),
        title=f"{rival.label}'s compute over {own.label}'s",
        text=f"Published: {rival.published_text('macs')} / {own.published_text('macs')}. "
        f"True: {giga(true[0])} / {giga(true[1])} GMAC. So {tail}.",
    )


def _off(part: Sequence[AuditRow]) -> Fact | None:
    part = [one for one in part if one.in_paper]
    factors = [f for one in part if (f := one.factor("macs"))]
    if len(factors) < 2:
        return None
    high = sum(f > 1 + AGREES for f in factors)
    low = sum(f < 1 - AGREES for f in factors)
    sizes = [f for one in part if (f := one.factor("params"))]
    off = sum(abs(f - 1) > AGREES for f in sizes)
    percent = units.significant(100 * AGREES)
    return Fact(
        figures=(("", TableCell(text=f"{high + low} of {len(factors)}")),),
        title=f"compute figures of Table III off by more than {percent} %",
        text=f"{high} too high, {low} too low; {len(factors) - high - low} agree. "
        f"Of the parameter counts, {off} of {len(sizes)} are off by as much.",
    )


def _steps() -> Fact:
    found = published.throughput_steps()
    rest = ", ".join(f"{name} {figure}" for name, figure in found.others)
    return Fact(
        figures=(("", TableCell(text=f"{found.exact} of {found.n}", origin="published")),),
        title=f"published throughputs are whole multiples of {published.STEP} images per minute",
        text=f"By chance about {units.significant(found.by_chance, 1)} would be. It is what one rate in images per "
        "second, rounded to three decimals and multiplied by 60, gives. No repeat and no spread is printed, so a small "
        f"gap between two rows may be noise.{f' The others: {rest}.' if rest else ''}",
    )
