"""Audit records as rows: one network's truth, its published figures, and its counters.

Truth is the record's own count, never a counter's; a published figure is the card's, or, for an input that the card
does not have, that of the paper which the audits are set against. Little may be there: a failed audit has only what was
published, and an artifact may be gone; each still is a line with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from benchbench.core import records as rec
from benchbench.core.audit_result import TITLES, AuditResult, is_audit, read_audit
from benchbench.core.errors import StoreError
from benchbench.core.units import giga, mega, times
from benchbench.report.cells import BASELINE, NOTHING, TableCell, finite, measurement_cell
from benchbench.report.conditions import apart, input_text
from benchbench.report.details import ReadArtifact
from benchbench.report.labels import STATUS_TEXT, row_labels
from benchbench.report.tables import Column, Table, TableRow, record_row

Metric = Literal["macs", "params"]
#: Two figures this close agree to the digits that papers print.
AGREES = 0.02
#: What heads every column of compute, whatever the source called it.
GMAC = "GMAC (2x = GFLOP)"


def direction(factor: float) -> str:
    """Whether published / true means that the published figure is too high, too low, or right."""
    if abs(factor - 1) <= AGREES:
        return "agrees"
    return "too high" if factor > 1 else "too low"


#: How a figure is written: G or M.
SHOWN = {"macs": giga, "params": mega}
_ORDER = ("thop", "thop_fixed", "fvcore", "torch_pruning")  # of the counters' columns
_SCALE = {"macs": 1e9, "params": 1e6}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """What a paper prints of one network and input."""

    name: str  # the paper's
    table: str  # `Table III`
    source: str
    figures: Mapping[str, str]  # by metric, in G or M as printed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One audit record and what its artifact holds."""

    record: rec.Record
    label: str  # the paper's name of the network, else the card's
    card: str
    result: AuditResult | None
    note: str = ""  # why there is no audit, or what is odd about it
    paper: PaperRow | None = None  # of the paper that the audits are set against

    @property
    def usable(self) -> bool:
        """Whether the audit came to its end."""
        return self.record.ok

    def true(self, metric: Metric) -> int | float | None:
        """Our count; a count needs no run that ended well."""
        found = finite(self.record.get(metric))
        return found.value if found and found.value else None

    def published(self, metric: Metric) -> float | None:
        """The published figure in MACs or parameters."""
        own = finite(self.record.published(metric))
        if own and own.value:
            return float(own.value)
        if self.result and (printed := getattr(self.result.published, metric)):
            return float(printed)
        text = self._printed(metric)
        return float(text) * _SCALE[metric] if text else None

    def published_text(self, metric: Metric) -> str:
        """The published figure in G or M; with the paper's digits where it is from there."""
        value, text = self.published(metric), self._printed(metric)
        if value is None:
            return "-"
        same = text is not None and abs(float(text) * _SCALE[metric] / value - 1) < 1e-9
        return text if text is not None and same else SHOWN[metric](value)

    def _printed(self, metric: Metric) -> str | None:
        return self.paper.figures.get(metric) if self.paper else None

    def factor(self, metric: Metric) -> float | None:
        """Published over true."""
        stated, true = self.published(metric), self.true(metric)
        return stated / true if stated and true else None

    def explained(self, metric: Metric) -> tuple[str | None, str] | None:
        """The counter that gives the published figure, if one does, and why it is not ours; None without an audit."""
        if self.result is None:
            return None
        figures = self.result.published
        return getattr(figures, f"{metric}_counter"), getattr(figures, f"{metric}_why")


def gather(records: Sequence[rec.Record], read: ReadArtifact) -> list[list[AuditRow]]:
    """The audit records apart by input, each with what could be read of its artifact.

    Args:
        records: any; those that are no audits are passed over.
        read: gives the content of an artifact, or raises StoreError with a line for the page.
    """
    parts = []
    for members in apart(filter(is_audit, records), input_text).values():
        labels = row_labels(members)
        parts.append([_audited(record, labels[record.id], read) for record in members])
    return parts


def _audited(record: rec.Record, label: str, read: ReadArtifact) -> AuditRow:
    kept = [a for a in record.artifacts if a.kind == "audit"]
    result, note = None, ""
    if kept:
        try:
            result = read_audit(read(kept[-1]))
        except StoreError as error:
            note = str(error)
    elif record.ok:
        note = "the record names no audit, so no counter can be shown"
    one = AuditRow(record=record, label=label, card=record.model.name, result=result, note=note)
    own = result.counts.get("torch") if result else None
    if own and own.macs is not None and one.true("macs") not in (None, own.macs):
        odd = f"the audit counts {giga(own.macs)} GMAC by PyTorch, the record {giga(one.true('macs') or 0)}"
        return dataclasses.replace(one, note=odd)
    return one


def featured(part: Sequence[AuditRow]) -> AuditRow | None:
    """The network to explain: the baseline, else the one whose published compute is furthest off."""
    audited = [(one, factor) for one in part if (factor := one.factor("macs")) and one.result]
    audited.sort(key=lambda pair: (pair[0].card != BASELINE, -max(pair[1], 1 / pair[1]), pair[0].label))
    return audited[0][0] if audited else None


def blamed(one: AuditRow) -> str | None:
    """The counter to explain a network by: the one that gave the published figure, else the one furthest off."""
    if one.result is None:
        return None
    named = one.result.published.macs_counter
    if named and one.result.shares(named):
        return named
    excess = {name: sum(abs(s.excess) for s in one.result.shares(name)) for name in one.result.counts}
    return max((n for n in excess if excess[n]), key=lambda n: (excess[n], n), default=None)


_MACS_UNIT = "thousand millions of multiply-accumulates of one forward of one batch"


def table(part: Sequence[AuditRow], metric: Metric, *, key: str = "") -> Table:
    """Published compute or parameters, the truth, every counter, and why they differ."""
    is_compute = metric == "macs"
    papers = [one.paper.table for one in part if one.paper]
    if is_compute:
        group, what, true_help = GMAC, "compute", f"counted from the graph: {_MACS_UNIT}"
        caption = (
            f"In {_MACS_UNIT}; {'the paper heads' if papers else 'papers head'} the column GFLOPs. A second line says "
            "how far from the truth a figure is."
        )
    else:
        group, what = "Million parameters", "parameters"
        true_help = "elements of every nn.Parameter, each counted once"
        caption = (
            "In millions of elements. True: every nn.Parameter once, and no buffers. Bare parameters belong to no "
            "layer, so that a counter which asks the layers misses them."
        )
    of = f"{papers[0]}{' and other networks' * (len(papers) < len(part))}" if papers else "Published, true and counted"
    asked = {name for one in part if one.result for name in one.result.counts}
    names = [name for name in _ORDER if name in asked] + sorted(asked - {"torch", *_ORDER})
    columns = (
        Column(key="published", title="Published", help="as printed in a paper", group=group),
        Column(key="true", title="True", help=true_help, group=group),
        Column(key="factor", title="Published / true", help="1 where the published figure is right"),
        *(
            Column(key=f"by_{name}", title=TITLES.get(name, name), help=f"what {name} says", group=f"{group} by")
            for name in names
        ),
        Column(key="why", title="Why they differ", help="what the published figure counts", kind="prose"),
    )
    rows = [record_row(one.record, one.label, _cells(one, metric, names)) for one in part]
    sign = -1 if is_compute else 1  # the most overstated compute first, the most understated parameters

    def order(row: TableRow) -> tuple[bool, float, str]:
        factor = row.cell("factor").value
        return factor is None, sign * (factor or 0.0), row.label

    has_factor = any(row.cell("factor").value is not None for row in rows)
    return Table(
        key=key or what,
        title=f"{of}: {what}",
        caption=caption,
        columns=columns,
        rows=tuple(sorted(rows, key=order)),
        sorted_by=("factor", "descending" if is_compute else "ascending") if has_factor else None,
        notes=tuple(f"{one.label}: {one.note}" for one in part if one.note) if is_compute else (),
        cards=is_compute,
    )


def _cells(one: AuditRow, metric: Metric, names: Sequence[str]) -> dict[str, TableCell]:
    shown = SHOWN[metric]
    stated, true, factor = one.published(metric), one.true(metric), one.factor(metric)
    ours = measurement_cell(one.record.get(metric))
    cells = {
        "published": TableCell(text="-", note="no figure published for this input"),
        "true": ours,
        "factor": TableCell(text="-", note="needs a published figure and a count"),
        "why": _why(one, metric),
    }
    if stated is not None:
        source = one.record.published(metric)
        note = (source.source if source else None) or (one.paper.source if one.paper else "as the audit has it")
        cells["published"] = TableCell(text=one.published_text(metric), origin="published", value=stated, note=note)
    if true is not None:
        cells["true"] = dataclasses.replace(ours, text=shown(true), detail="", note=f"{true}; {ours.note}")
    if factor is not None:
        cells["factor"] = TableCell(text=times(factor), value=factor, detail=direction(factor))
    for name in names:
        cells[f"by_{name}"] = _counter_cell(one, metric, name)
    return cells


def _counter_cell(one: AuditRow, metric: Metric, name: str) -> TableCell:
    count = one.result.counts.get(name) if one.result else None
    if count is None:
        return TableCell(text="-", note=one.note or "this counter was not asked")
    value, true = getattr(count, metric), one.true(metric)
    if value is None:
        return TableCell(text="-", note=count.reason or "no count recorded")
    ratio = value / true if true else 1.0
    return TableCell(
        text=SHOWN[metric](value),
        origin="counter",
        value=value,
        detail="" if abs(ratio - 1) <= AGREES else times(ratio),
        note="; ".join(filter(None, (f"{name} {count.version or ''}".strip(), count.how, str(value)))),
    )


def _why(one: AuditRow, metric: Metric) -> TableCell:
    """The reason in words; of a failure, why there is no audit."""
    if not one.usable:
        return TableCell(text=f"{STATUS_TEXT[one.record.status]}: {one.record.error or 'no reason recorded'}")
    explained = one.explained(metric)
    if explained is None:
        return TableCell(text=one.note or NOTHING.note)
    counter, why = explained
    if why:
        return TableCell(text=why[0].upper() + why[1:])
    if one.published(metric) is None:
        verdict = one.result.verdict if one.result and metric == "macs" else ""
        return TableCell(text=f"No figure published{f'; {verdict}' if verdict else ''}.")
    return TableCell(text=f"Reproduced by {TITLES.get(counter, counter)}." if counter else "No counter reproduces it.")
