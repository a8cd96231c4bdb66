"""What the paper adds to a page: its names and figures to the audits, its facts and tables to their section.

Records of runs only lend their Dice and latencies to it: they keep their own tables, since an audit runs nothing. No
number of the facts is stored: they come from the records and from the paper's tables as shipped. What overstates a
network's compute also hides how much smaller than the others it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.units import giga, times
from benchbench.report.audit.section import Fact, compute_fact
from benchbench.report.audit.tables import AGREES, AuditRow, PaperRow, direction
from benchbench.report.cells import BASELINE, TableCell
from benchbench.report.conditions import input_text
from benchbench.report.slim_unetr_paper import published
from benchbench.report.slim_unetr_paper.tables import dice_tables, throughput_table

HEADING = "The Slim UNETR paper’s tables, counted and timed again"
_RIVAL = "swin_unetr"
_COLUMN = {"macs": "gflops", "params": "mparams"}  # of Table III, after `brain_` or `vessel_`


def applies(records: Sequence[rec.Record]) -> bool:
    """Whether the records hold the paper's network and one that the paper compares it with."""
    names = {record.model.name for record in records if not record.recipe}
    rivals = {row.card for number in (1, 2, 3) for row in published.table(number)} - {BASELINE}
    return BASELINE in names and not names.isdisjoint(rivals)


def with_paper(parts: Sequence[Sequence[AuditRow]]) -> list[list[AuditRow]]:
    """The audits with the names and figures of Table III."""
    return [[_with_paper(one) for one in part] for part in parts]


def _with_paper(one: AuditRow) -> AuditRow:
    row, task = published.find(3, one.card), published.TASKS.get(input_text(one.record))
    if row is None:
        return one
    columns = {metric: f"{task}_{column}" for metric, column in _COLUMN.items()}
    figures = {metric: row.values[column] for metric, column in columns.items() if column in row.values}
    paper = PaperRow(name=row.name, table="Table III", source=f"{published.PAPER}, Table III", figures=figures)
    return dataclasses.replace(one, label=one.label.replace(one.card, row.name, 1), paper=paper)


def section(parts: Sequence[Sequence[AuditRow]], runs: Sequence[rec.Record]) -> dict[str, Any]:
    """What the section of the audits has of the paper.

    Args:
        parts: the audits apart by input, `with_paper`.
        runs: records that are no audits.
    """
    return {
        "title": "The paper’s tables, counted again",
        "sentence": "What the tables of the Slim UNETR paper print, beside what the networks hold.",
        "source": published.PAPER,
        "facts": max((facts(part) for part in parts), key=len),
        "tables": [throughput_table(runs), *dice_tables(runs)],
    }


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
