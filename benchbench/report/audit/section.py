"""Section of the page on the audits: counters side by side and what they get wrong.

It gathers the tables and figures, and leaves the words between them to audit.html. A paper whose tables the audits
are set against adds its own title, facts and tables.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.audit_result import TITLES, AuditResult, Counted, Difference
from benchbench.core.units import giga, mega, signed, times
from benchbench.report import conditions
from benchbench.report.audit import figures as audit_figures
from benchbench.report.audit.tables import AGREES, AuditRow, blamed, direction, featured, table
from benchbench.report.cells import TableCell, finite
from benchbench.report.labels import STATUS_TEXT, tally

#: Differences of one network that have a line of their own; what is beyond them is one line.
MAX_DIFFERENCES = 12
_FEW_NETWORKS = 3  # so many have their reasons before the tables, as in the terminal
#: The facts of an audit's conditions that mean something where nothing was timed.
_FACTS = ("Input", "Versions", "Commit", "System", "When")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What a reader with one minute takes away: a few figures with their origins, what they are, and what that means.

    No number of it is stored: it comes from the records.
    """

    figures: tuple[tuple[str, TableCell], ...]  # (word before it, figure)
    title: str
    text: str


def compute_fact(part: Sequence[AuditRow]) -> Fact | None:
    """How far the published compute of the featured network is from the truth, and why."""
    one = featured(part)
    factor, true = (one.factor("macs"), one.true("macs")) if one else (None, None)
    if one is None or factor is None or true is None:
        return None
    far = {
        "agrees": "and true agree",
        "too high": f"{times(factor)} too high",
        "too low": f"{times(1 / factor)} too low",
    }
    return Fact(
        figures=(
            ("published", TableCell(text=one.published_text("macs"), origin="published")),
            ("true", TableCell(text=f"{giga(true)} GMAC", origin="analytic")),
        ),
        title=f"{one.label}: compute published {far[direction(factor)]}",
        text=_cause(one, true),
    )


def _cause(one: AuditRow, true: float) -> str:
    """Where the published figure comes from, by the counter's own differences."""
    name = blamed(one)
    if name is None or one.result is None:
        return "The audit names no counter that explains it."
    count, (most, *_) = one.result.counts.get(name), one.result.shares(name)
    text = f"The counter {TITLES.get(name, name)} differs"
    if count and count.macs is not None:
        more = count.macs - true
        text = (
            f"The counter {TITLES.get(name, name)} says {giga(count.macs)}, {giga(abs(more))} GMAC "
            f"{'more' if more > 0 else 'less'} than the graph holds"
        )
    return f"{text}. The largest part is {most.kind}, {signed(most.excess)}{f': {most.why}' if most.why else ''}."


def section(parts: Sequence[Sequence[AuditRow]]) -> dict[str, Any]:
    """What audit.html needs.

    Args:
        parts: the audits apart by input (`tables.gather`), at least one.
    """
    several = len(parts) > 1
    rows = [one for part in parts for one in part]
    facts = conditions.all_facts([one.record for one in rows])
    return {
        "title": "Counters side by side",
        "sentence": _sentence(rows),
        "source": "",
        "several": several,
        "facts": [fact for fact in map(compute_fact, parts) if fact][:1],
        "said": [line for one in rows for line in reasons(one)] if len(rows) <= _FEW_NETWORKS else [],
        "parts": [_part(part, f"p{i}" if several else "p", open=i == 1) for i, part in enumerate(parts, 1)],
        "tables": [],
        "conditions": [(name, facts[name]) for name in _FACTS if name in facts],
        "commands": [command([one.record for one in part]) for part in parts],
    }


def _sentence(rows: Sequence[AuditRow]) -> str:
    """How many published figures are off; without such figures what is compared."""
    factors = [factor for one in rows if (factor := one.factor("macs"))]
    if len(factors) < 2:
        return "What FLOP counters say of these networks, beside what their graphs hold."
    off = sum(direction(factor) != "agrees" for factor in factors)
    return (
        f"{off} of {len(factors)} published figures of compute are off by more than {units.percent(AGREES, trim=True)}."
    )


def reasons(one: AuditRow) -> list[str]:
    """What `bench audit` says of a network in the terminal: its verdict, or why there is none, and the reasons."""
    if one.result is None:
        return [f"{one.label}: no count. {one.record.error or one.note}"]
    lines = [f"{one.label}: {one.result.verdict}."]
    for metric in ("macs", "params"):
        explained = one.explained(metric)
        if one.published(metric) is not None and explained and explained[1]:
            unit = "G" if metric == "macs" else "M"
            lines.append(f"Published {one.published_text(metric)} {unit}: {explained[1]}.")
    lines += [
        f"{TITLES.get(count.counter, count.counter)}: {count.reason}."
        for count in one.result.counts.values()
        if count.counter != "torch" and count.macs is None and count.reason
    ]
    return lines


def heading(records: Sequence[rec.Record]) -> tuple[str, str]:
    """The heading of a page of audits alone, and how many of them were finished."""
    title = f"{units.counted(len({r.model.name for r in records}), 'network')} audited"
    return title, f"Nothing was timed. {tally(records, f'{len(records)} audits')}."


def command(records: Sequence[rec.Record]) -> str:
    """The command that asks for the same audits of one input again."""
    names = dict.fromkeys(r.model.name for r in records)
    first = records[0]
    shape = " ".join(map(str, (first.workload.batch, first.model.in_channels, *first.workload.spatial)))
    return f"bench audit --models {shlex.quote(','.join(names))} --input {shape} --out FOLDER"


def _part(part: Sequence[AuditRow], prefix: str, *, open: bool) -> dict[str, Any]:
    drawings = (
        audit_figures.published_and_true(part, "macs", prefix=f"{prefix}m"),
        audit_figures.staircase(part, prefix=f"{prefix}w"),
    )
    return {
        "title": f"Input {conditions.input_text(part[0].record)}",
        "open": open,
        "compute": table(part, "macs", key=f"{prefix}compute"),
        "parameters": table(part, "params", key=f"{prefix}parameters"),
        "figures": [drawing for drawing in drawings if drawing],
        "sizes": audit_figures.published_and_true(part, "params", prefix=f"{prefix}n"),
        "networks": [_network(one) for one in part],
    }


def _network(one: AuditRow) -> dict[str, Any]:
    result = one.result
    return {
        "one": one,
        "status": STATUS_TEXT[one.record.status],
        "verdict": result.verdict if result else "",
        "sizes": _sizes(result) if result else "",
        "shared": ", ".join(result.params.shared_modules[:20]) if result else "",
        "counts": [_count(one, c) for c in result.counts.values()] if result else [],
        "differences": _differences(result) if result else [],
        "exact": [
            {"metric": m.metric, "value": f"{m.value} {m.unit}", "origin": m.origin, "method": m.method}
            for m in one.record.measurements
            if finite(m) and m.origin == "analytic"
        ],
    }


def _elements(count: int) -> str:
    """A number of elements with its prefix: `3.97 k`."""
    return units.format_value(count, "parameters")


def _sizes(result: AuditResult) -> str:
    p = result.params
    return (
        f"{_elements(p.all)} parameters, {_elements(p.bare)} of them bare and "
        f"{'an unknown number' if p.unused is None else _elements(p.unused)} unused; "
        f"{_elements(p.buffers)} elements of buffers beside them"
    )


def _count(one: AuditRow, count: Counted) -> dict[str, Any]:
    def cell(value: int | None, shown: Callable[[float], str]) -> TableCell:
        if value is None:
            return TableCell(text="-", note=count.reason or "no count recorded")
        origin: Any = "analytic" if count.counter == "torch" else "counter"
        least = "at least " if shown is giga and count.uncounted else ""
        return TableCell(text=least + shown(value), origin=origin, value=value, note=str(value))

    true = one.true("macs")
    return {
        "name": TITLES.get(count.counter, count.counter),
        "version": count.version or "",
        "macs": cell(count.macs, giga),
        "params": cell(count.params, mega),
        "factor": times(count.macs / true) if true and count.macs is not None else "",
        "how": count.how if count.reason is None else f"{count.reason} ({count.how})" if count.how else count.reason,
    }


def _differences(result: AuditResult) -> list[dict[str, Any]]:
    """The differences of every counter, the largest first."""
    ordered = sorted(result.differences, key=lambda d: (-abs(d.excess), d.counter, d.kind, d.operator))
    rest = ordered[MAX_DIFFERENCES:]
    rows = [
        _difference([d], d.kind)
        | {
            "counter": TITLES.get(d.counter, d.counter),
            "operator": d.operator,
            "modules": units.significant(d.modules),
            "why": d.why,
        }
        for d in ordered[:MAX_DIFFERENCES]
    ]
    return rows + ([_difference(rest, f"{len(rest)} smaller ones")] if rest else [])


def _difference(those: Sequence[Difference], kind: str) -> dict[str, Any]:
    return dict.fromkeys(("counter", "operator", "modules", "why"), "") | {
        "kind": kind,
        "counted": giga(sum(d.counted for d in those)),
        "true": giga(sum(d.true for d in those)),
        "excess": signed(sum(d.excess for d in those)),
    }


def published_beside_ours(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Params and MACs of each network: the published figure, ours, and the factor between them."""
    rows = []
    for record in records:
        for metric, quantity in (("params", "parameters"), ("macs", "compute")):
            theirs, ours = finite(record.published(metric)), finite(record.get(metric))
            if theirs is None or ours is None or not theirs.value or not ours.value:
                continue
            shown, units_of = (mega, ("M", "M")) if metric == "params" else (giga, ("G, called GFLOPs", "GMAC"))
            row = {"label": labels[record.id], "quantity": quantity, "origin": ours.origin}
            row["published"], row["ours"] = (
                f"{shown(m.value or 0)} {unit}" for m, unit in zip((theirs, ours), units_of, strict=True)
            )
            rows.append(row | {"factor": times(theirs.value / ours.value)})
    return rows
