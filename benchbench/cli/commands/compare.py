"""`bench compare`: two sets of records, one line a metric, and below it what has no line.

A is the first folder on the command line and B the second; a change is always from A to B. With `--measure` they are
two networks, which are measured in pairs (`cli/pairs.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchbench import report
from benchbench.cli import pairs
from benchbench.cli.parser import add_shared
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_INTERRUPTED, UsageError, command
from benchbench.core.results import read_records
from benchbench.core.units import format_value
from benchbench.report import writers
from benchbench.report.compare.compare import compare, parse_limits
from benchbench.report.compare.verdicts import (
    ComparedRow,
    Comparison,
    Metric,
    change_text,
    get_metric,
    interval_text,
    p_text,
    tally,
)

_FEW = 8  # so many names stand in one line


def _metrics(text: str) -> tuple[Metric, ...]:
    """`latency,dice`, each once."""
    return tuple(dict.fromkeys(get_metric(name.strip()) for name in text.split(",")))


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "before",
        metavar="A",
        help="records before the change: a results folder or a records.jsonl; with --measure a network",
    )
    sub.add_argument(
        "after", metavar="B", help="records after it: a results folder or a records.jsonl; with --measure a network"
    )
    sub.add_argument(
        "--fail-on",
        type=parse_limits,
        metavar="METRIC:RATIO[,...]",
        help="exit 1 only if one of these metrics is worse by more than its limit, such as latency:1.10,"
        "peak_memory:1.05,dice:0.01 (default: if any metric is worse)",
    )
    sub.add_argument(
        "--min-effect",
        type=to.share,
        metavar="SHARE",
        help="smallest change that counts, as a share of the value (default: 0.02; of Dice an absolute 0.01)",
    )
    sub.add_argument(
        "--metrics",
        type=_metrics,
        metavar="NAME[,NAME]",
        help="metrics to compare, such as latency,dice (default: all)",
    )
    sub.add_argument(
        "--anyway", action="store_true", help="compare records of different conditions, too, and list the differences"
    )
    add_shared(sub, "--format")
    add_shared(
        sub,
        "--out",
        metavar="FILE.html|DIR",
        help="page to write, with the distributions (default: none); with --measure the folder for the page and the "
        "times (default: a new folder under results/local)",
    )
    add_shared(
        sub,
        "--force",
        help="replace the file at --out even if it is no page of benchbench; with --measure a comparison that is there "
        "already is renamed to end in .old, .old.2, ...",
    )
    add_shared(sub, "--progress")
    pairs.add(sub)


def run(options: argparse.Namespace) -> int:
    """Compare two folders; the exit code tells whether anything became worse."""
    for name in options.fail_on or ():
        if options.metrics and name not in [m.short for m in options.metrics]:
            raise UsageError(f"--fail-on {name} is not among --metrics")
    request = pairs.check_flags(options)
    if options.measure:
        return pairs.run(options, request)
    folders = (Path(options.before), Path(options.after))
    if options.out:
        report.check_place(options.out, folders, page=True, force=options.force)
    sides = (list(read_records(folders[0])), list(read_records(folders[1])))
    settings = {"metrics": options.metrics, "min_effect": options.min_effect}
    comparison = compare(
        *sides,
        limits=options.fail_on,
        anyway=options.anyway,
        **{key: value for key, value in settings.items() if value is not None},
    )
    names = (str(options.before), str(options.after))
    interrupted = False
    if options.remeasure:
        comparison, interrupted = pairs.again(comparison, options, request)
    if options.out:
        report.write_comparison(comparison, names, options.out, force=options.force)
    print(text(comparison, names, options.format, page=options.out))
    return EXIT_INTERRUPTED if interrupted else comparison.exit_code


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One line a metric of a cell, for a person."""
    return [
        {
            "network": row.label,
            "metric": row.metric.title,
            "A": format_value(row.samples[0].value, row.metric.unit),
            "B": format_value(row.samples[1].value, row.metric.unit),
            "change": change_text(row.metric, row.evidence.effect),
            "95 % interval": interval_text(row.metric, row.evidence.ci95),
            "p": p_text(row.p),
            "values": "pairs" if row.again else values_text(row),
            "verdict": row.verdict + (f" ({row.unstable} unstable)" if row.unstable else ""),
        }
        for row in comparison.rows
    ]


def values_text(row: ComparedRow) -> str:
    """How many independent values each side has: `5, 5 processes`."""
    a, b = (len(s.medians) if row.metric.kind != "dice" else len(s.values) for s in row.samples)
    return f"{a}, {b} {'cases' if row.metric.kind == 'dice' else 'processes'}"


def plain(comparison: Comparison) -> list[dict[str, Any]]:
    """One line a metric for a program: unrounded SI values; cells that were not compared have lines without them."""
    lines = [{key: "" if value is None else value for key, value in _plain(row).items()} for row in comparison.rows]
    blank = dict.fromkeys(lines[0] if lines else ("network", "verdict", "note"), "")
    lines += [blank | {"network": b.label, "verdict": "broken", "note": b.text} for b in comparison.broken]
    for name, labels in zip("AB", comparison.only, strict=True):
        lines += [blank | {"network": label, "verdict": f"only in {name}"} for label in labels]
    return lines


def _plain(row: ComparedRow) -> dict[str, Any]:
    low, high = row.evidence.ci95 or (None, None)
    return {
        "network": row.label,
        "cell": row.records[0].cell,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "a": row.samples[0].value,
        "b": row.samples[1].value,
        "change": row.evidence.effect,
        "change_is": "b - a" if row.metric.kind == "dice" else "b / a",
        "change_ci95_low": low,
        "change_ci95_high": high,
        "p": row.evidence.p,
        "p_corrected": row.p,
        "min_effect": row.minimum,
        "verdict": row.verdict,
        "regression": row.regression,
        "unstable": row.unstable,
        "measured_again": row.again,
        "note": row.evidence.note,
    }


def to_json(comparison: Comparison, names: tuple[str, str]) -> dict[str, Any]:
    """Everything, for a program; what is not known is null."""
    return {
        "a": names[0],
        "b": names[1],
        "min_effect": comparison.min_effect,
        "fail_on": dict(comparison.limits),
        "rows": [_plain(row) for row in comparison.rows],
        "broken": [
            {"network": b.label, "status": [r.status for r in b.records], "why": b.text} for b in comparison.broken
        ],
        "only_in_a": list(comparison.only[0]),
        "only_in_b": list(comparison.only[1]),
        "unmeasured": list(comparison.unmeasured),
        "condition_differences": list(comparison.differences),
        "notes": list(comparison.notes),
        "exit_code": comparison.exit_code,
    }


def heading(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    """What A and B are, and in what their conditions differ."""
    lines = [f"{side}: {name}" for side, name in zip("AB", names, strict=True)]
    if comparison.differences:
        lines.append("compared anyway, under different conditions:")
        lines += [f"  {text}" for text in comparison.differences]
    return lines


def remarks(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    """The outcome, what was not compared and why, and how it was decided where that is not as usual."""
    lines = [tally(comparison.rows)]
    for name, labels in zip("AB", comparison.only, strict=True):
        if labels:
            lines.append(f"only in {name}: {_listed(labels)}")
    if comparison.unmeasured:
        lines.append(f"nothing measured on both sides: {_listed(comparison.unmeasured)}")
    lines += [f"broken: {b.label}: {b.text}" for b in comparison.broken]
    lines += comparison.notes
    lines += [_unpaired(comparison, names)] if any(row.metric.kind == "time" for row in comparison.rows) else []
    lines += [f"regression: {regression_text(comparison, row)}" for row in comparison.regressions]
    return lines


def _unpaired(comparison: Comparison, names: tuple[str, str]) -> str:
    """That the runs were at different times, and how to make sure of what looks faster or slower."""
    text = "unpaired: A and B were measured at different times, and a machine that changed meanwhile counts as well"
    if any(pairs.can_be_measured_again(row) for row in comparison.rows):
        text += (
            f"; this measures what looks faster or slower again, in pairs: {command('compare', *names, '--remeasure')}"
        )
    return text


def regression_text(comparison: Comparison, row: ComparedRow) -> str:
    """`slim_unetr latency +12.3 % (limit 1.10)`."""
    limit = comparison.limits.get(row.metric.short)
    limit_text = "" if limit is None else f" (limit {limit:g})"
    return f"{row.label} {row.metric.title} {change_text(row.metric, row.evidence.effect)}{limit_text}"


def _listed(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _FEW} more" if len(labels) > _FEW else ""
    return "; ".join(labels[:_FEW]) + more


def text(comparison: Comparison, names: tuple[str, str], fmt: str, *, page: Path | None = None) -> str:
    """What goes to stdout, in one of the formats; `page` is the one that was written."""
    if fmt == "json":
        return writers.to_json(to_json(comparison, names))
    if fmt == "csv":
        return writers.write(plain(comparison), fmt)
    parts = [heading(comparison, names), remarks(comparison, names) + ([f"page: {page}"] if page else [])]
    if fmt == "markdown":
        parts = [[f"- {line.strip()}" for line in part] for part in parts]
    table = [writers.write(rows(comparison), fmt)] if comparison.rows else []
    return "\n\n".join("\n".join(part) for part in (parts[0], table, parts[1]) if part)
