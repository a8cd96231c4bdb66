"""`bench report`: the report of results folders, from their records alone: a page, or tables for a paper."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench import report
from benchbench.cli import progress_file
from benchbench.cli.next_step import next_line, tell
from benchbench.cli.output import print_text
from benchbench.cli.parser import add_shared
from benchbench.core import arguments as to
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import EXIT_OK, StoreError, UsageError
from benchbench.core.evaluation import is_evaluation
from benchbench.core.paired_result import holds_pairs
from benchbench.core.records import Record
from benchbench.core.results import SEARCH, latest, read_records
from benchbench.report.paper_table.writers import FORMATS as PAPER_FORMATS
from benchbench.zoo import cards as zoo_cards


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders with results, of runs, of a search, or of paired comparisons",
    )
    add_shared(sub, "--out", metavar="FILE", help="file to write (default: report.html in the first folder)")
    add_shared(sub, "--force", help="replace the file at --out even if it was not written by benchbench")
    add_shared(
        sub,
        "--format",
        default="html",
        choices=("html", *report.FORMATS),
        help="format of the report: html is written to a file, the others to stdout or --out (default: html)",
    )
    sub.add_argument(
        "--columns",
        metavar="C[,C]",
        help="columns of a table for a paper, such as model,params,macs,flops,latency,memory,dice,hd95, or any metric "
        "such as dice_wt (latex, markdown, csv); 'all': the tables of the page, with every origin (default: of latex "
        "those that have values, of the others all)",
    )
    sub.add_argument("--sort", metavar="COLUMN", help="the best of this column first (default: latency, else dice)")
    sub.add_argument("--caption", metavar="TEXT", help="caption of the table (default: its conditions)")
    sub.add_argument(
        "--uncertainty",
        choices=report.UNCERTAINTIES,
        help="what stands beside a number: its 95 %% interval, ± half of that (pm), or nothing (default: interval)",
    )
    sub.add_argument(
        "--live",
        action="store_true",
        help="while a run lasts in a folder, write the page again with its new rows; browsers load it again every 30 s",
    )
    sub.add_argument("--include-predicted", action="store_true", help="rank forecasts beside measurements (HTML only)")
    sub.add_argument(
        "--max-latency",
        type=to.seconds,
        metavar="TIME",
        help="most time for a patch, such as 50ms: a page of several devices says which network keeps it where "
        "(HTML only)",
    )
    sub.add_argument(
        "--show",
        metavar="NAME[,NAME]",
        type=to.names,
        default=(),
        help="networks, by name or pattern, whose rows a page of more than 150 rows has in any case, beside the front, "
        "the fastest and the most accurate; all rows are then in a CSV beside it (HTML only)",
    )
    sub.add_argument(
        "--paper",
        action="store_true",
        help="always show the claims and tables of the Slim UNETR paper (default: if the results have slim_unetr and a "
        "network that the paper compares it with)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the page, or the records in another format."""
    is_of_pairs = any(map(holds_pairs, options.folders))
    if is_of_pairs:
        _check_pairs_flags(options)
    paper = _paper_options(options)
    if options.live and options.format != "html":
        raise UsageError("--live renews a page: leave --format out")
    if options.format == "html":
        write = _renew if options.live else report.write_report
        page = write(
            options.folders,
            options.out,
            include_predicted=options.include_predicted,
            paper=options.paper,
            max_latency_s=options.max_latency,
            named=options.show,
            force=options.force,
        )
        print(page)
        sys.stdout.flush()
        if not any((folder / SEARCH).exists() for folder in options.folders):
            tell(options, next_line("for a table to paste", "report", *options.folders, "--format", "latex"))
        return EXIT_OK
    if options.out is not None:
        report.check_place(options.out, options.folders, page=False, force=options.force)
    if is_of_pairs:
        return _put(report.pairs_text(report.read_all_pairs(options.folders), options.format), options.out)
    records = latest(record for folder in options.folders for record in read_records(folder))
    if options.format == "latex" and options.columns is None and any(map(_has_costs, records)):
        paper = paper or report.PaperOptions(titles=_titles())
    if paper:
        timed = [record for record in records if not is_audit(record)]
        text = report.paper_text(timed or records, options.format, paper)
    else:
        text = report.export(records, options.format, report.folder_reader(options.folders))
    return _put(text, options.out)


def _put(text: str, out: Path | None) -> int:
    """Print a text, or write it and print where."""
    if out is None:
        print_text(text)
        return EXIT_OK
    report.write(out, text)
    print(out)
    return EXIT_OK


_NOT_OF_PAIRS = ("columns", "sort", "caption", "uncertainty", "live", "include_predicted", "max_latency", "paper")


def _check_pairs_flags(options: argparse.Namespace) -> None:
    """Refuse what shapes the page or the table of a run.

    Raises:
        UsageError: it was asked for.
    """
    if given := [f"--{flag.replace('_', '-')}" for flag in _NOT_OF_PAIRS if getattr(options, flag)]:
        raise UsageError(f"{given[0]} shapes the report of a run, and this is of a paired comparison: leave it out")


_EVERY_S, _LOOK_S = 30, 2.0  # until a browser loads the page again; between two looks for new rows


def _renew(folders: Sequence[Path], out: Path | None, **options: Any) -> Path:
    """Write the page again whenever there are new rows, until nothing runs in the folders any more.

    The browser loads it again every half minute. Nothing is written where nothing has changed, so that the page takes
    no more of a processor that is being measured than it has to.
    """
    before: object = None
    while any(map(progress_file.runs_in, folders)):
        now = [path.stat().st_size for folder in folders for path in sorted(folder.glob("*.jsonl"))]
        if now != before:
            try:
                target = report.write_report(folders, out, refresh_s=_EVERY_S, **options)
                if before is None:
                    print(target, flush=True)
                before = now
            except StoreError:
                if any(any(folder.glob("*.jsonl")) or (folder / SEARCH).exists() for folder in folders):
                    raise  # else there is no row yet
        time.sleep(_LOOK_S)
    return report.write_report(folders, out, **options)


def _paper_options(options: argparse.Namespace) -> report.PaperOptions | None:
    """What was asked of a table for a paper; None where none is asked for.

    Raises:
        UsageError: of a format that has none.
    """
    flags = ("columns", "sort", "caption", "uncertainty")
    given = [f"--{flag}" for flag in flags if getattr(options, flag) is not None]
    if not given:
        return None
    if options.format not in PAPER_FORMATS:
        raise UsageError(f"{given[0]} shapes a table for a paper: add --format {', '.join(PAPER_FORMATS[:-1])} or csv")
    if options.columns == "all":
        if len(given) > 1:
            raise UsageError(f"{given[1]} needs chosen columns, and --columns all has those of the page")
        return None
    return report.PaperOptions(
        columns=to.names(options.columns or ""),
        sort=options.sort,
        caption=options.caption,
        uncertainty=options.uncertainty or "interval",
        titles=_titles(),
    )


def _titles() -> dict[str, str]:
    """The titles of the zoo's networks by their names."""
    return {name: zoo_cards.get_card(name).title for name in zoo_cards.list_models()}


def _has_costs(record: Record) -> bool:
    """Whether it is of a run: an audit and an evaluation have tables of their own."""
    return not is_audit(record) and not is_evaluation(record)
