"""Paired part of `bench compare`: measures two networks now (`--measure`), or rows of finished runs again."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench import report
from benchbench.cli.output import new_folder
from benchbench.cli.parser import values_of
from benchbench.cli.progress import TrainingProgress, is_shown
from benchbench.core.errors import EXIT_INTERRUPTED, UsageError
from benchbench.core.paired_result import PAIRS, PairedResult, pairs_to_json
from benchbench.report import writers
from benchbench.report.compare import paired
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
        UsageError: one was; or both ways to measure are asked for.
    """
    values = values_of(PairRequest, options)
    if options.measure and options.remeasure:
        raise UsageError("--measure takes networks and --remeasure finished runs: leave one of them out")
    allowed = (
        set(values)
        if options.measure
        else {"python", "margin", "time_limit_s", "trust"}
        if options.remeasure
        else set()
    )
    names = {field: PairRequest.__dataclass_fields__[field].metadata["flag"] for field in values}
    if wrong := [names[field] for field in values if field not in allowed]:
        which = "--measure" if not options.remeasure else "--measure, and --remeasure measures as the runs did"
        raise UsageError(f"{', '.join(wrong)}: only with {which}")
    return PairRequest(**values)


def measured(plans: Sequence[PairPlan], file: Path, options: argparse.Namespace) -> list[PairedResult]:
    """Measure comparisons with a live line, and keep their record."""
    from benchbench.runner.pairs.run import measure_pairs

    with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
        return measure_pairs(plans, file, progress=progress.step)


def run(options: argparse.Namespace, request: PairRequest) -> int:
    """`--measure`: two networks now.

    Raises:
        UsageError: as `plan_pair` does.
        StoreError: the folder cannot be written.
    """
    from benchbench.runner.pairs.plan import plan_pair

    out = options.out or new_folder("compare")
    if out.suffix == ".html":
        raise UsageError(f"--out {out}: with --measure it is a folder, which gets the page and the times")
    report.check_page(out)
    plan = plan_pair((options.before, options.after), request, anyway=options.anyway)
    (result,) = measured([plan], out / PAIRS, options)
    settings = {"limits": options.fail_on, "min_effect": options.min_effect or MIN_EFFECT}
    rows = paired.paired_rows(result, metrics=options.metrics or tuple(METRICS.values()), **settings)
    places = {"record": out / PAIRS, "page": report.write_pairs([result], out / report.PAGE)}
    print(text(result, rows, options.format, places))
    return EXIT_INTERRUPTED if result.interrupted else paired.exit_code([result], rows)


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


def text(result: PairedResult, rows: Sequence[paired.PairedRow], fmt: str, places: dict[str, Path]) -> str:
    """What goes to stdout, in one of the formats."""
    if fmt == "json":
        return writers.to_json(pairs_to_json([result])["comparisons"][0])
    if fmt == "csv":
        return writers.write([_plain(result)], fmt)
    blocks = [[f"{side}: {label}" for side, label in zip("AB", result.labels, strict=True)]]
    below = [*paired.remarks(result), *(f"regression: {row.metric} {row.change}" for row in rows if row.regression)]
    below += [f"{name}: {place}" for name, place in places.items()]
    if fmt == "markdown":
        blocks = [[f"- {line}" for line in block] for block in blocks]
        below = [f"- {line}" for line in below]
    table = [writers.write([paired.plain(row) for row in rows], fmt)] if rows else []
    return "\n\n".join("\n".join(block) for block in (*blocks, table, below) if block)


def _plain(result: PairedResult) -> dict[str, Any]:
    """One line for a program, unrounded."""
    found = result.judgement
    wall, cpu, control = (found.wall, found.cpu, found.control) if found else (None, None, None)

    def number(value: float | None) -> float | str:
        return "" if value is None or not math.isfinite(value) else value

    return {
        "a": result.labels[0],
        "b": result.labels[1],
        "verdict": result.verdict,
        "ratio": number(wall.ratio if wall else None),
        "ratio_low": number(wall.low if wall else None),
        "ratio_high": number(wall.high if wall else None),
        "cpu_ratio": number(cpu.ratio if cpu else None),
        "a_over_a": number(control.ratio if control else None),
        "margin": result.margin,
        "sets": len(result.sets),
        "seconds": result.spent.total_s,
        "error": result.error or "",
    }
