"""Facts on the Slim UNETR paper for a reader with one minute, each computed from the records.

No number of them is stored: they come from the records and from the paper's tables as shipped. What overstates a
network's compute also hides how much smaller than the others it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core import units
from benchbench.core.units import giga, times
from benchbench.report.audit.section import Fact, compute_fact
from benchbench.report.audit.tables import AGREES, AuditRow, direction
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import BASELINE, TableCell

_RIVAL = "swin_unetr"


def facts(part: Sequence[AuditRow]) -> list[Fact]:
    """The facts that these audits of one input give."""
    return [fact for fact in (compute_fact(part), _ratio(part), _off(part), _steps()) if fact]


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
    result = "the two ratios agree"
    if direction(more) != "agrees":
        verb = "understates" if more > 1 else "overstates"
        result = f"the paper {verb} its own network's advantage by {times(max(more, 1 / more))}"
    return Fact(
        figures=(
            ("published", TableCell(text=times(published_ratio), origin="published")),
            ("true", TableCell(text=times(true_ratio), origin="analytic")),
        ),
        title=f"{rival.label}'s compute over {own.label}'s",
        text=f"Published: {rival.published_text('macs')} / {own.published_text('macs')}. "
        f"True: {giga(true[0])} / {giga(true[1])} GMAC. So {result}.",
    )


def _off(part: Sequence[AuditRow]) -> Fact | None:
    compute, sizes = (
        [direction(factor) for one in part if one.paper and (factor := one.factor(metric))]
        for metric in ("macs", "params")
    )
    if len(compute) < 2:
        return None
    high, low, agree = (compute.count(word) for word in ("too high", "too low", "agrees"))
    return Fact(
        figures=(("", TableCell(text=f"{high + low} of {len(compute)}")),),
        title=f"compute figures of Table III off by more than {units.significant(100 * AGREES)} %",
        text=f"{high} too high, {low} too low; {agree} agree. Of the parameter counts, "
        f"{len(sizes) - sizes.count('agrees')} of {len(sizes)} are off by as much.",
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
