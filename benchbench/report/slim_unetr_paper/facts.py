"""Four facts from the audit for a reader with one minute, each computed from the records.

No number of them is stored: they come from the records and from the paper's tables as shipped. Mind the third one's
direction: what overstates a network's compute also hides how much smaller than the others it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core import units
from benchbench.core.units import giga, times
from benchbench.report.audit import facts as audit_facts
from benchbench.report.audit.facts import Fact
from benchbench.report.audit.tables import AGREES, AuditRow
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import BASELINE, TableCell

_RIVAL = "swin_unetr"


def facts(part: Sequence[AuditRow]) -> list[Fact]:
    """The facts that these audits of one input give."""
    return [fact for fact in (audit_facts.compute(part), _ratio(part), _off(part), _steps()) if fact]


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
    part = [one for one in part if one.paper]
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
