"""`bench run`: networks measured, or predicted, on devices; the table at its end, and its page."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchbench import report
from benchbench.cli.output import new_folder, print_event, print_text, write_page
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.cli.progress import TerminalProgress, is_shown
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, PLACE, BenchError
from benchbench.core.records import Record, to_json
from benchbench.core.units import format_duration, format_value
from benchbench.report import reliability, writers
from benchbench.report.conditions import group
from benchbench.report.exports import legend, shown
from benchbench.report.figures import volumes
from benchbench.report.tables import (
    Table,
    TableCell,
    by_reason,
    fits_lines,
    headline,
    paths_of,
    row_labels,
    summary_rows,
    unqualified_lines,
)
from benchbench.runner.listener import EventWriter
from benchbench.runner.request import RunRequest
from benchbench.runner.result import RunResult, TimeBreakdown


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, RunRequest)
    add_shared(sub, "--out", "--fresh")
    add_shared(sub, "--format", help="format of the table at the end (default: table)")
    add_shared(sub, "--events", "--config")
    sub.add_argument(
        "--from-stdin",
        action="store_true",
        help="measure the networks that another machine sends, instead of those of --models: what its "
        "'bench run --device HOST' starts here",
    )


def run(options: argparse.Namespace) -> int:
    """Measure what is missing in the folder, and print the table."""
    from benchbench.runner import run as runner_run

    request = RunRequest(**values_of(RunRequest, options))
    if options.from_stdin:
        return _run_for_another_machine(request)
    out = options.out or new_folder("run")
    report.check_page(out)
    try:
        if options.events:
            result = runner_run.run(request, out, fresh=options.fresh, progress=EventWriter(print_event))
        else:
            with TerminalProgress(sys.stderr, shown=is_shown(options)) as progress:
                result = runner_run.run(request, out, fresh=options.fresh, progress=progress)
    except (KeyboardInterrupt, BenchError) as error:
        _write_page_of_what_is_finished(out)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_what_is_kept(out)) from None
        raise
    page, fault = write_page(out)
    if options.events:
        print_event({"event": "end", "spent": to_json(result.spent)})
    else:
        _print_result(result, options, page)
    if fault:
        raise fault
    return EXIT_INCOMPLETE if runner_run.failed(result.records) else EXIT_OK


def _run_for_another_machine(request: RunRequest) -> int:
    from benchbench.runner.remote import far_side

    try:
        far_side.run(request, print_event)
    except BenchError as error:
        print_event({"event": "error", "error": str(error)})
        raise
    return EXIT_OK


def _write_page_of_what_is_finished(out: Path) -> None:
    """After a break, which itself is what gets reported."""
    with contextlib.suppress(BenchError):
        if (out / "records.jsonl").exists() and (out / "records.jsonl").stat().st_size:
            report.write_report([out])


def _what_is_kept(out: Path) -> str:
    """What an interrupted run leaves, and how it goes on."""
    again = f"the same command with --out {shlex.quote(str(out))}"

    def is_there(name: str) -> bool:
        with contextlib.suppress(OSError):
            return (out / name).stat().st_size > 0
        return False

    if is_there("records.jsonl"):
        return f"finished records are kept in {out}: {again} measures the rest"
    if is_there("records.unfinished"):
        return f"no record is finished yet, and the processes that ended are kept in {out}: {again} goes on"
    return "nothing was finished yet: the same command begins anew"


def _print_result(result: RunResult, options: argparse.Namespace, page: Path | None) -> None:
    if options.format != "table":
        for banner in result.banners:  # beside the text, which has to stay readable for a program
            print(f"bench: {banner}", file=sys.stderr)
        text = report.export(list(result.records), options.format)
        if options.format == "markdown":
            text = "".join(f"> {banner}\n\n" for banner in result.banners) + text
        print_text(text)
        return
    for banner in result.banners:
        print(f"{banner}\n")
    print(results_table(list(result.records)))
    for line in _not_ok(result.records):
        print(line)
    for line in report.missing_dice(result.records):
        print(
            re.sub(rf"{PLACE}\S+", lambda _: shlex.quote(str(options.data)), line)
        )  # records do not tell where it lies
    spent = result.spent
    if spent.forward_s:
        print(
            f"\n{format_duration(spent.total_s)} in all: {spent.share:.0%} in forwards, Dice and the networks' start-up"
            f" ({format_duration(spent.forward_s)} forwards, {format_duration(spent.accuracy_s)} Dice, "
            f"{format_duration(spent.start_s)} start-up)"
        )
    for on_host in result.hosts:
        print(_host_line(on_host))
    if result.reused:
        print(
            f"{result.reused} of {len(result.records)} rows were measured before under the same conditions and reused"
            " (--fresh measures again)"
        )
    print(f"records: {result.folder / 'records.jsonl'}")
    if page:
        print(f"report:  {page}")


def _host_line(spent: TimeBreakdown) -> str:
    """Where the time with another host went, beside what was timed over there."""
    parts = [f"{format_duration(spent.connect_s)} to connect"]
    if spent.sent_bytes > 1_000_000:
        parts.append(f"{format_duration(spent.transfer_s)} for {format_value(spent.sent_bytes, 'B')} of weights")
    if spent.waited_s:
        parts.append(f"{format_duration(spent.waited_s)} waiting for another run")
    return (
        f"{spent.host}: {format_duration(spent.total_s)} in all, {format_duration(spent.measured_s)} of it "
        f"measuring over there; {', '.join(parts)}, in none of the latencies"
    )


def _not_ok(records: Sequence[Record]) -> list[str]:
    """Why rows failed or are unstable: a line for each reason, with the rows that have it."""
    paths = paths_of(records)
    names = {r.id: f"{r.model.name} {paths[r.id]}".strip() for r in records}
    reasons = by_reason(records, names, lambda r: None if r.status == "ok" else f"{r.status}: {r.error}")
    return [f"{', '.join(those)}: {reason}" for reason, those in reasons]


def results_table(records: Sequence[Record]) -> str:
    """The table at the end of a run: one for each set of conditions, every number with its origin's letter.

    Below each stand the noise floor by which its rows tie, the rows that something disturbed, those that may be other
    networks, and what would have fitted of those that ran out of memory.
    """
    blocks, groups = [], group(records)
    for part in groups:
        floors, labels = reliability.floors_of(part, groups), row_labels(part.records)
        table = summary_rows(sorted(part.records, key=_fastest_first), floors)
        below = [] if part.predicted else [f"noise floor: {reliability.floors_text(part.records, floors)}"]
        disturbed = reliability.disturbed_text(part.records, labels)
        below += [f"disturbed: {disturbed}"] if disturbed and disturbed != "none" else []
        below += unqualified_lines(part.records, labels)
        below += [f"{labels[r.id]}: {line}" for r in part.records for line in fits_lines(r)]
        volume = volumes.table(table.rows, part, floors, key="volume")
        patients = ["", volume.title, _text(volume)] if volume else []
        blocks.append("\n".join([part.title, _text(table), *patients, *below]))
    return "\n\n".join([*blocks, legend()])


def _text(table: Table) -> str:
    by_name = any(column.key in ("runtime", "dtype") for column in table.columns)
    lines = [
        [row.name if by_name else row.label, *(_short(c.key, row.cell(c.key)) for c in table.columns)]
        for row in table.rows
    ]
    return writers.to_text(["Model", *(c.title for c in table.columns)], lines)


def _short(key: str, cell: TableCell) -> str:
    """A cell in few columns: reasons come below the table, and the range of a throughput is that of its latency."""
    if key == "status":
        return cell.text
    return shown(key, dataclasses.replace(cell, qualifier="") if key == "throughput_patches_per_s" else cell)


def _fastest_first(record: Record) -> float:
    time = record.value(headline([record]))
    return math.inf if time is None or math.isnan(time) else time
