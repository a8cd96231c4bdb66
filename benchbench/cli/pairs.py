"""Paired part of `bench compare`: measures two networks now (`--measure`), or rows of finished runs again."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench import report
from benchbench.cli import progress as progress_of
from benchbench.cli.output import new_folder
from benchbench.cli.parser import values_of
from benchbench.core.errors import EXIT_INTERRUPTED, StoreError, UsageError, os_error_as
from benchbench.core.paired_result import PairedResult
from benchbench.core.results import PAIRS, SEARCH, held, set_aside
from benchbench.report.compare import paired, paired_text
from benchbench.report.compare.compare import with_pairs
from benchbench.report.compare.verdicts import METRICS, MIN_EFFECT, ComparedRow, Comparison
from benchbench.runner.pairs.request import PairRequest

if TYPE_CHECKING:
    from benchbench.runner.pairs.plan import PairPlan


def add(sub: argparse.ArgumentParser) -> None:
    """The flags of both."""
    from benchbench.cli.parser import add_fields

    group = sub.add_argument_group(
        "measured in pairs",
        "A and B are run in strict alternation by fresh processes, with a second process of A beside them, and ratios "
        "of neighbouring forwards are judged: right also on a busy machine.",
    )
    group.add_argument(
        "--measure",
        action="store_true",
        help="A and B are two networks, as --models of 'bench run' takes them: measure them now",
    )
    group.add_argument(
        "--remeasure",
        action="store_true",
        help="A and B are finished runs: measure again, in pairs, each latency that looks faster or slower, before it "
        "is called",
    )
    add_fields(group, PairRequest)


def check_flags(options: argparse.Namespace) -> PairRequest:
    """The request, and that no flag of it was given to a comparison of finished runs.

    Raises:
        UsageError: one was, or --progress; or both ways to measure are asked for.
    """
    values = values_of(PairRequest, options)
    if options.measure and options.remeasure:
        raise UsageError("--measure takes networks and --remeasure finished runs: leave one of them out")
    allowed = (
        set(values)
        if options.measure
        else {"python", "priority", "margin", "time_limit_s", "trust"}
        if options.remeasure
        else set()
    )
    if options.progress == "json" and not (options.measure or options.remeasure):
        raise UsageError("--progress: only with --measure or --remeasure: a comparison of finished runs has none")
    names = {field: PairRequest.__dataclass_fields__[field].metadata["flag"] for field in values}
    if wrong := [names[field] for field in values if field not in allowed]:
        which = "--measure" if not options.remeasure else "--measure, and --remeasure measures as the runs did"
        raise UsageError(f"{', '.join(wrong)}: only with {which}")
    return PairRequest(**values)


def measured(plans: Sequence[PairPlan], file: Path, options: argparse.Namespace) -> list[PairedResult]:
    """Measure comparisons with a live line, and keep their record."""
    from benchbench.runner.pairs.run import measure_pairs

    with progress_of.of_steps(options) as progress:
        return measure_pairs(plans, file, progress=progress.step)


def run(options: argparse.Namespace, request: PairRequest) -> int:
    """`--measure`: two networks now.

    Raises:
        UsageError: as `plan_pair` does.
        StoreError: the folder cannot be written, or holds results already.
    """
    from benchbench.runner.pairs.plan import plan_pair

    out = options.out or new_folder("compare")
    if out.suffix == ".html":
        raise UsageError(f"--out {out}: with --measure it is a folder, which gets the page and the times")
    report.check_page(out)
    _check_folder(out, force=options.force)
    plan = plan_pair((options.before, options.after), request, anyway=options.anyway)
    with held(out):
        set_aside([out / PAIRS])
        (result,) = measured([plan], out / PAIRS, options)
    settings = {"limits": options.fail_on, "min_effect": options.min_effect or MIN_EFFECT}
    rows = paired.paired_rows(result, metrics=options.metrics or tuple(METRICS.values()), **settings)
    places = {"record": out / PAIRS, "page": report.write_pairs([result], out / report.PAGE)}
    print(paired_text.one_text(result, rows, options.format, places))
    return EXIT_INTERRUPTED if result.interrupted else paired.exit_code([result], rows)


def _check_folder(out: Path, *, force: bool) -> None:
    """Refuse a folder whose results or page a comparison would take the place of.

    Raises:
        StoreError: it holds a run or a search; or a comparison, which only `force` sets aside.
    """
    with os_error_as(StoreError, f"cannot look into {out}", "choose another --out"):
        if any(out.glob("*.jsonl")) or (out / SEARCH).exists():
            raise StoreError(f"{out} holds a run or a search, whose page would be replaced: choose another --out")
        if (out / PAIRS).exists() and not force:
            raise StoreError(
                f"{out} holds a comparison already: choose another --out, or --force, which renames it to {PAIRS}.old"
            )


def can_be_measured_again(row: ComparedRow) -> bool:
    """Whether `--remeasure` would measure a row."""
    called = (row.metric.improved, row.metric.regressed)
    return row.metric.short == "latency" and row.verdict in called and not row.again


def again(comparison: Comparison, options: argparse.Namespace, request: PairRequest) -> tuple[Comparison, bool]:
    """`--remeasure`: the comparison with what looked faster or slower measured again, and whether that was interrupted.

    The times are kept beside the page, or in a new folder.

    Raises:
        UsageError: A and B were measured by different software, and no Python is named for each.
        StoreError: the record cannot be written.
    """
    if not (rows := [row for row in comparison.rows if can_be_measured_again(row)]):
        return comparison, False
    from benchbench.runner.pairs.again import plans_again

    plans, left = plans_again(rows, request, anyway=options.anyway)
    file = options.out.with_suffix(".pairs.json") if options.out else new_folder("compare") / PAIRS
    results = measured(plans, file, options) if plans else []
    notes = [*left, *(f"{result.labels[1]}: {line}" for result in results for line in paired.remarks(result))]
    notes += [f"times of the pairs: {file}"] if results else []
    judged = with_pairs(comparison, results)
    interrupted = any(result.interrupted for result in results)
    return dataclasses.replace(judged, notes=(*judged.notes, *notes)), interrupted
