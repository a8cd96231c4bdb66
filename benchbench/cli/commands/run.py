"""`bench run`: networks measured, or predicted, on devices; the table at its end, and its page."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from pathlib import Path

from benchbench import report
from benchbench.cli import next_step
from benchbench.cli import progress as progress_of
from benchbench.cli.output import new_folder, print_event, print_text, write_page
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.cli.progress_file import ProgressFile
from benchbench.cli.results_table import results_table
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, PLACE, BenchError
from benchbench.core.records import to_json
from benchbench.core.units import format_duration, format_value
from benchbench.report import reasons
from benchbench.runner.listener import EventWriter
from benchbench.runner.request import RunRequest
from benchbench.runner.result import RunResult, TimeBreakdown
from benchbench.zoo.cards import USUAL


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, RunRequest)
    add_shared(sub, "--out", "--fresh")
    add_shared(sub, "--format", help="format of the table at the end (default: table)")
    add_shared(sub, "--events", "--progress", "--config")
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
            with ProgressFile(out, "run") as kept:
                told = progress_of.to_several(EventWriter(print_event), kept)
                result = runner_run.run(request, out, fresh=options.fresh, progress=told)
        else:
            with ProgressFile(out, "run") as kept, progress_of.of_run(options, _intro(options)) as progress:
                told = progress_of.to_several(progress, kept)
                result = runner_run.run(request, out, fresh=options.fresh, progress=told)
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


_OTHERS = """\
Also usual:
  bench run --models all                                        all networks of 'bench list models'
  bench run --models nets/mine,nnunet_small --data DIR          one of your own beside another, with Dice on your data
  bench run --models all --device jetson:orin-nano-8gb-super    a forecast for a board that is not at hand
"""


def _intro(options: argparse.Namespace) -> str:
    """Which networks are taken where none was named; of the bare command also what else is usual."""
    if options.models is not None:
        return ""
    taken = f"No --models: measures {', '.join(USUAL)}"
    if [word for word in options.words if word not in ("-v", "--verbose")] != ["run"]:
        return f"{taken}."
    return f"{taken} on this machine's processor,\nthen writes a page; Ctrl-C keeps what is finished.\n{_OTHERS}"


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
    for line in reasons.lines(result.records):
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
    print(f"\n{next_step.after_run(result.records, result.folder, options)}")


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
