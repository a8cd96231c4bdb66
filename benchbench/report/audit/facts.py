"""Fact of an audit for a reader with one minute: the network to explain, and the counter to explain it by.

No number of it is stored: it comes from the records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core.audit_result import TITLES
from benchbench.core.units import giga, signed, times
from benchbench.report.audit.tables import AGREES, AuditRow
from benchbench.report.tables import BASELINE, TableCell


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact: a few figures with their origins, what they are, and what that means."""

    figures: tuple[tuple[str, TableCell], ...]  # (word before it, figure)
    title: str
    text: str


def featured(part: Sequence[AuditRow]) -> AuditRow | None:
    """The network to explain: the baseline, else the one whose published compute is furthest off."""
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


def compute(part: Sequence[AuditRow]) -> Fact | None:
    """How far the published compute of that network is from the truth, and why."""
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
