"""Page of a comparison: the outcome in a sentence, the verdicts, and their samples.

Only measured numbers get here. As in the report, no clock and no path goes in (a side is called by the
last part of its folder's name), so equal records give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from benchbench.core import units
from benchbench.report import conditions, html, place
from benchbench.report.compare import paired_page
from benchbench.report.compare.verdicts import ComparedRow, Comparison, change_text, interval_text, p_text, tally
from benchbench.report.figures import samples as figures_samples
from benchbench.report.figures.style import Drawing

#: Figures beyond this many bytes are left out, those of rows that are the same first.
FIGURE_BUDGET_BYTES = 700_000
_FEW_ROWS = 12  # so many rows that are the same are not folded where nothing else is there


def write_comparison(comparison: Comparison, names: tuple[str, str], out: Path, *, force: bool = False) -> Path:
    """Write the page whole.

    Args:
        comparison: the comparison.
        names: of A and B: folders, or files in them.
        out: the file to write.
        force: replace a file that is no page of ours; one of A or B is not replaced even so.

    Raises:
        StoreError: it cannot be written, or must not be replaced; an older page stays whole.
    """
    place.check_place(out, [Path(name) for name in names], page=True, force=force)
    place.write(out, render_comparison(comparison, names))
    return out


def render_comparison(comparison: Comparison, names: tuple[str, str]) -> str:
    """The page as text."""
    drawings, left_out = _figures(comparison.rows)
    context = {
        "heading": _heading(comparison),
        "sentence": _sentence(comparison),
        "differences": comparison.differences,
        "sides": list(zip("AB", _short(names), strict=True)),
        "rows": [_row(row, comparison) for row in comparison.rows if row.verdict != "same"],
        "same": [_row(row, comparison) for row in comparison.rows if row.verdict == "same"],
        "few": _FEW_ROWS,
        "broken": comparison.broken,
        "only": [(side, labels) for side, labels in zip("AB", comparison.only, strict=True) if labels],
        "unmeasured": comparison.unmeasured,
        "notes": comparison.notes,
        "facts": _facts(comparison.rows, comparison),
        "networks": drawings,
        "left_out": left_out,
        "min_effect": f"{units.significant(round(100 * comparison.min_effect, 6), 2)} %",
        "limits": ", ".join(f"{name} {limit:g}" for name, limit in comparison.limits.items()),
        "exit_code": comparison.exit_code,
        **paired_page.section(comparison.pairs),
    }
    return html.page(context, "compare.html", ("report.css", "compare.css"))


def _short(names: tuple[str, str]) -> list[str]:
    """The last part of each folder's name; of a records file, that of its folder."""
    paths = [PurePath(name) for name in names]
    return [(path.parent if path.suffix == ".jsonl" and path.parent.name else path).name or "here" for path in paths]


def _heading(comparison: Comparison) -> str:
    if comparison.regressions:
        return f"{units.counted(len(comparison.regressions), 'regression')} from A to B"
    return "No regression from A to B" if comparison.rows else "Nothing could be compared"


def _sentence(comparison: Comparison) -> str:
    parts = [tally(comparison.rows)]
    if comparison.regressions:
        worst = [
            f"{r.label} {r.metric.title} {change_text(r.metric, r.evidence.effect)}" for r in comparison.regressions
        ]
        parts.append(units.first_few(worst, 5, "; "))
    if comparison.broken:
        parts.append(f"Without a result on a side: {units.first_few([b.label for b in comparison.broken], 5)}")
    return ". ".join(parts) + "."


def _row(row: ComparedRow, comparison: Comparison) -> dict[str, Any]:
    metric, evidence = row.metric, row.evidence
    values = {
        "model": row.label,
        "metric": metric.title,
        "a": row.samples[0].value,
        "b": row.samples[1].value,
        "change": evidence.effect if metric.kind == "dice" else evidence.effect - 1,
        "p": row.p,
        "verdict": row.verdict,
    }
    limit = comparison.limits.get(metric.short) if row.regression else None
    kind = "regressed" if row.regression else "improved" if row.verdict == metric.improved else row.verdict
    return {
        "label": row.label,
        "metric": metric.title,
        "a": units.format_value(row.samples[0].value, metric.unit),
        "b": units.format_value(row.samples[1].value, metric.unit),
        "n": [_n(row, side) for side in (0, 1)],
        "change": change_text(metric, evidence.effect),
        "interval": interval_text(metric, evidence.ci95) if evidence.ci95 else "",
        "p": p_text(row.p),
        "verdict": row.verdict,
        "kind": kind if kind in ("regressed", "improved", "ambiguous") else "",
        "unstable": row.unstable,
        "limit": "" if limit is None else f"limit {limit:g}",
        "note": evidence.note,
        "sort": json.dumps(values, sort_keys=True),
    }


def _n(row: ComparedRow, side: int) -> str:
    """`5 processes, 60 samples`, `16 cases`."""
    sample = row.samples[side]
    if row.metric.kind == "dice":
        return units.counted(len(sample.values), "case")
    processes = f"{len(sample.medians)} process{'es' * (len(sample.medians) != 1)}"
    return processes if len(sample.values) == len(sample.medians) else f"{processes}, {len(sample.values)} samples"


def _facts(rows: Sequence[ComparedRow], comparison: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """The conditions by name: what holds on both sides once, what differs apart as A and B."""
    pairs = {r.records[0].cell: r.records for r in rows} | {b.records[0].cell: b.records for b in comparison.broken}
    sides = [conditions.all_facts([pair[side] for pair in pairs.values()]) for side in (0, 1)]
    facts = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = (side.get(name, "unknown") for side in sides)
        facts.append((name, [("", a)] if a == b else [("A", a), ("B", b)]))
    return facts


def _figures(rows: Sequence[ComparedRow]) -> tuple[list[dict[str, Any]], list[str]]:
    """The strips by network, and the names of those that there was no room for."""
    spent, drawn, left_out = 0, dict[int, Drawing](), []
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].verdict == "same", i)):
        drawing = figures_samples.compared(rows[i], prefix=f"s{i}")
        if drawing is None:
            continue
        spent += len(drawing.svg)
        if spent > FIGURE_BUDGET_BYTES:
            left_out.append(f"{rows[i].label} {rows[i].metric.title}")
        else:
            drawn[i] = drawing
    networks: dict[str, list[Drawing]] = {}
    changed: dict[str, list[str]] = {}
    for i in sorted(drawn):
        networks.setdefault(rows[i].label, []).append(drawn[i])
        if rows[i].verdict != "same":
            changed.setdefault(rows[i].label, []).append(f"{rows[i].metric.title} {rows[i].verdict}")
    shown = [
        {"label": label, "figures": figures, "changed": ", ".join(changed.get(label, ["all the same"]))}
        for label, figures in networks.items()
    ]
    return shown, left_out
