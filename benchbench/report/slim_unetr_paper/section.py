"""What the paper adds to a page: its names and figures to the audits, its facts and tables to their section.

Records of runs only lend their Dice and latencies to it: they keep their own tables, since an audit runs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.report.audit.tables import AuditRow, PaperRow
from benchbench.report.conditions import input_text
from benchbench.report.slim_unetr_paper import published
from benchbench.report.slim_unetr_paper.facts import facts
from benchbench.report.slim_unetr_paper.tables import dice_tables, throughput_table
from benchbench.report.tables import BASELINE

HEADING = "The Slim UNETR paper’s tables, counted and timed again"
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
