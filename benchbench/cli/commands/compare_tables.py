"""Table of a comparison for the terminal: one line a metric, and below it what has no line.

A is the first folder on the command line and B the second; a change is always from A to B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchbench.core.units import format_value
from benchbench.report import writers
from benchbench.report.compare.verdicts import ComparedRow, Comparison, change_text, interval_text, p_text, tally

_FEW = 8  # so many names stand in one line


def rows(found: Comparison) -> list[dict[str, Any]]:
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
            "values": values_text(row),
            "verdict": row.verdict + (f" ({row.unstable} unstable)" if row.unstable else ""),
        }
        for row in found.rows
    ]


def values_text(row: ComparedRow) -> str:
    """How many independent values each side has: `5, 5 processes`."""
    a, b = (len(s.medians) if row.metric.kind != "dice" else len(s.values) for s in row.samples)
    return f"{a}, {b} {'cases' if row.metric.kind == 'dice' else 'processes'}"


def plain(found: Comparison) -> list[dict[str, Any]]:
    """One line a metric for a program: unrounded SI values; cells that were not compared have lines without them."""
    lines = [_plain(row) for row in found.rows]
    blank = dict.fromkeys(lines[0] if lines else _KEYS, "")
    lines += [blank | {"network": b.label, "verdict": "broken", "note": b.text} for b in found.broken]
    for name, labels in zip("AB", found.only, strict=True):
        lines += [blank | {"network": label, "verdict": f"only in {name}"} for label in labels]
    return lines


_KEYS = ("network", "verdict", "note")


def _plain(row: ComparedRow) -> dict[str, Any]:
    low, high = row.evidence.ci95 or ("", "")
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
        "p": "" if row.evidence.p is None else row.evidence.p,
        "p_corrected": "" if row.p is None else row.p,
        "min_effect": row.minimum,
        "verdict": row.verdict,
        "regression": row.regression,
        "unstable": row.unstable,
        "note": row.evidence.note,
    }


def to_json(found: Comparison, names: tuple[str, str]) -> dict[str, Any]:
    """Everything, for a program; what is not known is null."""
    return {
        "a": names[0],
        "b": names[1],
        "min_effect": found.min_effect,
        "fail_on": dict(found.limits),
        "rows": [{k: None if v == "" and k not in _TEXTS else v for k, v in _plain(row).items()} for row in found.rows],
        "broken": [{"network": b.label, "status": [r.status for r in b.records], "why": b.text} for b in found.broken],
        "only_in_a": list(found.only[0]),
        "only_in_b": list(found.only[1]),
        "unmeasured": list(found.unmeasured),
        "condition_differences": list(found.differences),
        "notes": list(found.notes),
        "exit_code": found.exit_code,
    }


_TEXTS = ("unstable", "note")


def heading(found: Comparison, names: tuple[str, str]) -> list[str]:
    """What A and B are, and in what their conditions differ."""
    lines = [f"{side}: {name}" for side, name in zip("AB", names, strict=True)]
    if found.differences:
        lines.append("compared anyway, under different conditions:")
        lines += [f"  {text}" for text in found.differences]
    return lines


def remarks(found: Comparison) -> list[str]:
    """The outcome, what was not compared and why, and how it was decided where that is not as usual."""
    lines = [tally(found.rows)]
    for name, labels in zip("AB", found.only, strict=True):
        if labels:
            lines.append(f"only in {name}: {_listed(labels)}")
    if found.unmeasured:
        lines.append(f"nothing measured on both sides: {_listed(found.unmeasured)}")
    lines += [f"broken: {b.label}: {b.text}" for b in found.broken]
    lines += found.notes
    lines += [f"regression: {regression_text(found, row)}" for row in found.regressions]
    return lines


def regression_text(found: Comparison, row: ComparedRow) -> str:
    """`slim_unetr latency +12.3 % (limit 1.10)`."""
    limit = found.limits.get(row.metric.short)
    said = "" if limit is None else f" (limit {limit:g})"
    return f"{row.label} {row.metric.title} {change_text(row.metric, row.evidence.effect)}{said}"


def _listed(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _FEW} more" if len(labels) > _FEW else ""
    return "; ".join(labels[:_FEW]) + more


def text(found: Comparison, names: tuple[str, str], fmt: str, *, page: Path | None = None) -> str:
    """What goes to stdout.

    Args:
        found: the comparison.
        names: of A and B, as they were given.
        fmt: `table`, `json`, `csv` or `markdown`.
        page: that was written, if one was.
    """
    if fmt == "json":
        return writers.to_json(to_json(found, names))
    if fmt == "csv":
        return writers.write(plain(found), fmt)
    parts = [heading(found, names), remarks(found) + ([f"page: {page}"] if page else [])]
    if fmt == "markdown":
        parts = [[f"- {line.strip()}" for line in part] for part in parts]
    table = [writers.write(rows(found), fmt)] if found.rows else []
    return "\n\n".join("\n".join(part) for part in (parts[0], table, parts[1]) if part)
