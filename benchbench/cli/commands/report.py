"""`bench report`: the report of results folders, from their records alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchbench import report
from benchbench.cli.output import print_text
from benchbench.cli.parser import add_shared
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK
from benchbench.core.results import latest, read_records


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders with results")
    add_shared(sub, "--out", metavar="FILE", help="file to write (default: report.html in the first folder)")
    add_shared(sub, "--force", help="replace the file at --out even if it was not written by benchbench")
    add_shared(
        sub,
        "--format",
        default="html",
        choices=("html", *report.FORMATS),
        help="format of the report: html is written to a file, the others to stdout or --out (default: html)",
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
        "--paper",
        action="store_true",
        help="always show the claims and tables of the Slim UNETR paper (default: if the results have slim_unetr and a "
        "network that the paper compares it with)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the page, or the records in another format."""
    if options.format == "html":
        page = report.write_report(
            options.folders,
            options.out,
            include_predicted=options.include_predicted,
            paper=options.paper,
            max_latency_s=options.max_latency,
            force=options.force,
        )
        print(page)
        return EXIT_OK
    if options.out is not None:
        report.check_place(options.out, options.folders, page=False, force=options.force)
    records = latest(record for folder in options.folders for record in read_records(folder))
    text = report.export(records, options.format, report.folder_reader(options.folders))
    if options.out is None:
        print_text(text)
        return EXIT_OK
    report.write(options.out, text)
    print(options.out)
    return EXIT_OK
