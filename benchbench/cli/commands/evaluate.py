"""`bench evaluate`: Dice and surface distances of networks, ensembles and label maps; its tables, and its page."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench import report
from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.output import new_folder, print_text, write_page
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK
from benchbench.core.evaluation import is_evaluation
from benchbench.core.results import RECORDS, latest, read_records
from benchbench.report import accuracy, writers
from benchbench.report.cells import TableCell
from benchbench.report.conditions import group
from benchbench.report.exports import legend, shown
from benchbench.report.labels import not_possible, row_labels
from benchbench.report.tables import Table
from benchbench.runner.evaluation.journal import JOURNAL
from benchbench.runner.evaluation.request import EvaluateRequest

if TYPE_CHECKING:
    from benchbench.runner.evaluation.run import EvaluationResult


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, EvaluateRequest)
    add_shared(sub, "--out", "--fresh")
    add_shared(
        sub,
        "--format",
        choices=("table", *report.FORMATS),
        help="format of the tables at the end (default: table)",
    )
    add_shared(sub, "--progress", "--config")


def run(options: argparse.Namespace) -> int:
    """Evaluate what is missing in the folder, and print the tables."""
    from benchbench.runner.evaluation import run as evaluation_run

    request = EvaluateRequest(**values_of(EvaluateRequest, options))
    out = options.out or new_folder("evaluate")
    report.check_page(out)
    try:
        with progress_of.of_steps(options) as progress:
            result = evaluation_run.evaluate(request, out, fresh=options.fresh, progress=progress.step)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_what_is_kept(out)) from None
    page, fault = write_page(out)
    read = report.folder_reader([out])
    every = [record for record in latest(read_records(out)) if is_evaluation(record)]
    table = accuracy.write_cases(every, read, out)
    if options.format == "table":
        print(text(result, read))
        print(f"records: {out / 'records.jsonl'}")
        print(f"cases:   {table}")
        if page:
            print(f"report:  {page}")
        words = ("report", out, "--format", "latex", "--columns", "model,dice,hd95,nsd,cases")
        print(f"\n{next_line('for a table to paste', *words)}")
    else:
        print_text(report.export(list(result.records), options.format, read))
    if fault:
        raise fault
    return EXIT_OK if all(record.ok for record in result.records) else EXIT_INCOMPLETE


def _what_is_kept(out: Path) -> str:
    """What an interrupted evaluation leaves, and how it goes on."""
    if not any((out / name).exists() for name in (RECORDS, JOURNAL)):
        return "nothing was finished yet: the same command begins anew"
    again = f"the same command with --out {shlex.quote(str(out))}"
    return f"the cases that were finished are kept in {out}: {again} goes on"


def text(result: EvaluationResult, read: report.ReadArtifact) -> str:
    """The tables for a terminal, and what has to be known of them."""
    blocks = []
    for part in group(result.records):
        labels = row_labels(part.records)
        tables = accuracy.tables(part.records, read, key="")
        blocks += ["\n".join([table.title, _text(table)]) for table in tables]
        below = accuracy.notes(part.records, labels)
        below += [f"{', '.join(those)}: {reason}" for reason, those in not_possible(part.records, labels)]
        blocks += ["\n".join(below)] if below else []
    if result.reused:
        blocks.append(
            f"{result.reused} of {len(result.records)} rows were evaluated before under the same conditions and reused "
            "(--fresh evaluates again)"
        )
    return "\n\n".join([*blocks, legend()])


def _text(table: Table) -> str:
    lines = [[row.label, *(_short(c.key, row.cell(c.key)) for c in table.columns)] for row in table.rows]
    return writers.to_text([table.head, *(column.title for column in table.columns)], lines)


def _short(key: str, cell: TableCell) -> str:
    """A cell in one line; a difference with its interval, which the page shows below it."""
    return shown(key, dataclasses.replace(cell, qualifier=cell.detail) if key == "difference" else cell)
