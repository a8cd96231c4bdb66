"""Writers of records as CSV, JSON, Markdown or LaTeX, with the origin of every value.

CSV and JSON are for programs: full values in SI units, `<metric>` beside `<metric>_origin`. Markdown and LaTeX are
for people: the tables of the page, a letter after each number, and a line that says what the letters mean; LaTeX
rules its tables by the package booktabs. A published figure has its own column (`published_macs`), so it can never
stand where ours is missing. Records of `bench audit` alone become the audit's tables instead, for which their
artifacts are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import spreadsheet
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import StoreError, UsageError, unknown
from benchbench.report import reliability
from benchbench.report.audit.tables import AuditRow, Metric, compute_grid, gather, parameter_grid
from benchbench.report.conditions import Group, group, input_text, is_semi_synthetic
from benchbench.report.figures import volumes
from benchbench.report.grid import Grid, GridColumn, GridRow
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import COUNTER_LEGEND, ORIGIN_LEGEND, Table, TableCell, bounded_text, summary_rows

ReadArtifact = Callable[[rec.Artifact], bytes]


def export(records: Sequence[rec.Record], fmt: str, read_artifact: ReadArtifact | None = None) -> str:
    """One text for all records.

    Args:
        records: any; Markdown and LaTeX make one table for each set of conditions. CSV is one table: the
            audits' where there is nothing else, and where there is, one of all records without the counters.
        fmt: `csv`, `json`, `markdown` or `latex`.
        read_artifact: gives the content of an artifact (`page.folder_reader`); without one an audit has
            its counts, but no counters.

    Raises:
        UsageError: another format.
    """
    if fmt not in FORMATS:
        raise UsageError(unknown("format", fmt, FORMATS))
    parts = gather(records, read_artifact or _unread)
    if not parts:
        return FORMATS[fmt](records)
    runs = [r for r in records if not is_audit(r)]
    if fmt == "json":
        return audits_to_json(records, parts)
    if fmt == "csv":
        return to_csv(records) if runs else audits_to_csv(parts)
    of_runs, of_audits = {"markdown": (to_markdown, audits_to_markdown), "latex": (to_latex, audits_to_latex)}[fmt]
    return (f"{of_runs(runs)}\n" if runs else "") + of_audits(parts)


def _unread(artifact: rec.Artifact) -> bytes:
    raise StoreError(f"{artifact.path} was not read")


def _metrics(records: Sequence[rec.Record]) -> list[str]:
    """Every metric, in the order of the schema; published figures as `published_<metric>`."""
    found = {_column(m) for r in records for m in r.measurements}
    order = list(rec.METRIC_UNITS)
    return sorted(found, key=lambda c: (c.startswith("published_"), _rank(c.removeprefix("published_"), order), c))


def _rank(metric: str, order: Sequence[str]) -> int:
    family = "dice" if metric.startswith("dice_") else metric
    return order.index(family) if family in order else len(order)


def _column(m: rec.Measurement) -> str:
    return f"published_{m.metric}" if m.origin == "published" else m.metric


def _what(record: rec.Record) -> dict[str, Any]:
    work = record.workload
    return {
        "model": record.model.name,
        "status": record.status,
        "error": record.error,
        "device": record.device.asked,
        "device_name": record.device.name,
        "basis": record.device.basis,
        "phase": work.phase,
        "batch": work.batch,
        "in_channels": record.model.in_channels,
        "out_channels": record.model.out_channels,
        "spatial": "x".join(map(str, work.spatial)),
        "dtype": work.dtype,
        "threads": work.threads,
        "runtime": work.runtime,
        "protocol": work.protocol,
        "volume": None if work.volume is None else "x".join(map(str, work.volume)),
        "overlap": work.overlap,
        "crop_foreground": work.crop_foreground or None,
        "memory_limit_bytes": work.memory_limit_bytes,
        "data": work.data,
        "data_kind": "semi-synthetic" if is_semi_synthetic(work.data) else None,
        "split": work.split,
        "recipe": rec.canonical_json(rec.to_json(record.recipe)) if record.recipe else None,
        "checkpoint": record.model.checkpoint,
        "id": record.id,
        "cell": record.cell,
        "started_at": record.started_at,
    }


#: Of what was asked: left out of CSV where no record was asked for it.
_OPTIONAL = frozenset({"volume", "overlap", "crop_foreground", "memory_limit_bytes"})


def _ranked(records: Sequence[rec.Record]) -> dict[str, dict[str, Any]]:
    """Record id -> its rank among the rows of its conditions, and the share within which those tie."""
    groups, found = group(records), {}
    for part in groups:
        floor = reliability.floor_of(part, groups)
        for row in summary_rows(part.records, floor).rows:
            cell = row.cells["rank"]
            if cell.value is not None:
                found[row.record.id] = {
                    "rank": cell.text,
                    "rank_tolerance": reliability.tolerance(floor),
                    "noise_floor": floor.share if floor else None,
                }
    return found


def to_csv(records: Sequence[rec.Record]) -> str:
    """One line a record: what was asked, its rank, then `<metric>`, its origin, bound, range, samples and reason."""
    metrics, ranked = _metrics(records), _ranked(records)
    rows = []
    for record in records:
        row = _what(record) | ranked.get(record.id, {})
        for m in record.measurements:
            name = _column(m)
            if len(m.values) > 1:
                row |= {f"{name}_samples": len(m.values), f"{name}_processes": len(reliability.split(m))}
            row |= {name: m.value, f"{name}_origin": m.origin, f"{name}_bound": m.bound, f"{name}_reason": m.reason}
            for kind, pair in (("", m.interval), ("_ci95", m.ci95)):
                row |= dict(zip((f"{name}{kind}_low", f"{name}{kind}_high"), pair or (None, None), strict=True))
        rows.append(row)
    asked = [*_what(records[0]), "rank", "rank_tolerance", "noise_floor"] if records else []
    optional_ones = _OPTIONAL | {"rank", "rank_tolerance", "noise_floor"}
    header = [c for c in asked if c not in optional_ones or any(row.get(c) is not None for row in rows)]
    for name in metrics:
        header += [name, f"{name}_origin"]
        parts = ("bound", "low", "high", "ci95_low", "ci95_high", "samples", "processes", "reason")
        optional = (f"{name}_{part}" for part in parts)
        header += [column for column in optional if any(row.get(column) is not None for row in rows)]
    return spreadsheet.to_csv(header, rows)


def to_json(records: Sequence[rec.Record]) -> str:
    """A list of objects; each value is an object with its unit, origin, method, samples and text."""
    ranked = _ranked(records)
    return _json([_what(r) | ranked.get(r.id, {}) | {"values": _values(r)} for r in records])


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _values(record: rec.Record) -> dict[str, Any]:
    values = {}
    for m in record.measurements:
        fields = {k: v for k, v in rec.to_json(m).items() if k not in ("metric", "values")}
        text = None if m.value is None else bounded_text(m)
        values[_column(m)] = fields | {"samples": list(m.values), "text": text}
    return values


def audits_to_json(records: Sequence[rec.Record], parts: Sequence[Sequence[AuditRow]]) -> str:
    """As `to_json`; an audit has its checked content too, or null and a note that says why."""
    by_id = {one.record.id: one for part in parts for one in part}
    rows = []
    for record in records:
        row = _what(record) | {"values": _values(record)}
        if one := by_id.get(record.id):
            row |= {"audit": rec.to_json(one.found), "audit_note": one.note or None}
        rows.append(row)
    return _json(rows)


def audits_to_csv(parts: Sequence[Sequence[AuditRow]]) -> str:
    """One line an audit: published, true and counted, in MACs and parameters, with the reasons."""
    rows = [_audit_row(one) for part in parts for one in part]
    header = list(dict.fromkeys(key for row in rows for key in row))
    return spreadsheet.to_csv(header, rows)


def _audit_row(one: AuditRow) -> dict[str, Any]:
    record, paper = one.record, published.find(3, one.card)
    row: dict[str, Any] = {
        "model": record.model.name,
        "paper_name": paper.name if paper else None,
        "status": record.status,
        "error": record.error,
        "input": input_text(record),
        "id": record.id,
        "cell": record.cell,
        "started_at": record.started_at,
        "verdict": one.found.verdict if one.found else None,
        "note": one.note or None,
    }
    metrics: tuple[Metric, ...] = ("macs", "params")
    for metric in metrics:
        stated, true, why = one.published(metric), one.true(metric), one.explained(metric)
        row |= {
            f"published_{metric}": stated,
            f"published_{metric}_origin": None if stated is None else "published",
            metric: true,
            f"{metric}_origin": None if true is None else "analytic",
            f"published_per_true_{metric}": one.factor(metric),
            f"published_{metric}_counter": why[0] if why else None,
            f"published_{metric}_why": why[1] if why else None,
        }
    if one.found:
        sizes = one.found.params
        row |= {"buffers": sizes.buffers, "bare_params": sizes.bare, "unused_params": sizes.unused}
        row["shared_modules"] = " ".join(sizes.shared_modules)
    for name, count in one.found.counts.items() if one.found else ():
        if name != "torch":
            row |= {f"{name}_macs": count.macs, f"{name}_params": count.params}
            row[f"{name}_origin"] = None if count.macs is None and count.params is None else "counter"
            row |= {f"{name}_version": count.version, f"{name}_reason": count.reason}
    return row


def to_markdown(records: Sequence[rec.Record]) -> str:
    """A table for each set of conditions, numbers with the letter of their origin."""
    blocks = []
    for part, table, floor, volume in _tables(records):
        columns = table.columns
        lines = [f"{_md(part.title)}", ""]
        lines.append("| " + " | ".join(_md(c.title) for c in columns) + " |")
        lines.append("|" + "|".join(" --- " if c.key in _NAMES else " ---: " for c in columns) + "|")
        for row in table.rows:
            lines.append("| " + " | ".join(_md(shown(c.key, row.cells[c.key])) for c in columns) + " |")
        if not part.predicted:
            lines += ["", _md(f"Noise floor: {reliability.floor_text(floor)}")]
        blocks.append("\n".join(lines) + "\n")
        if volume:
            blocks.append(_md_grid(volume.title, volume))
    return "\n".join([*blocks, f"{legend()}\n"])


_NAMES = ("model", "status")


def _tables(records: Sequence[rec.Record]) -> list[tuple[Group, Table, reliability.Floor | None, Grid | None]]:
    """For each set of conditions its table, its noise floor, and the table of whole volumes if there is one."""
    groups, found = group(records), []
    for part in groups:
        floor = reliability.floor_of(part, groups)
        table = summary_rows(part.records, floor)
        found.append((part, table, floor, volumes.grid(table.rows, part, floor, key="volume")))
    return found


def shown(key: str, cell: TableCell) -> str:
    """A cell of one column as text; a rank goes without a letter."""
    if key == "rank" and cell.origin:
        return cell.text + (f" ({cell.qualifier})" if cell.qualifier else "")
    return lettered(cell)


def to_latex(records: Sequence[rec.Record]) -> str:
    r"""A `tabular` for each set of conditions; needs `\usepackage{booktabs}`."""
    blocks = [_BOOKTABS]
    for part, table, floor, volume in _tables(records):
        columns = table.columns
        lines = [_comment(part.title)]
        lines.append(r"\begin{tabular}{" + "".join("l" if c.key in _NAMES else "r" for c in columns) + "}")
        lines += [r"\toprule", " & ".join(_tex(c.title) for c in columns) + r" \\", r"\midrule"]
        for row in table.rows:
            lines.append(" & ".join(_tex(shown(c.key, row.cells[c.key])) for c in columns) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if not part.predicted:
            lines.append(_comment(f"Noise floor: {reliability.floor_text(floor)}"))
        blocks.append("\n".join(lines) + "\n")
        if volume:
            blocks.append(_tex_grid(volume.title, volume))
    return "\n".join([*blocks, f"% {legend()}\n"])


_BOOKTABS = "% needs \\usepackage{booktabs}\n"


def _comment(text: str) -> str:
    """One line that LaTeX passes over."""
    return f"% {' '.join(text.split())}"


def audits_to_markdown(parts: Sequence[Sequence[AuditRow]]) -> str:
    """The tables of compute and of parameters for each input."""
    blocks = [_md_grid(title, grid) for title, grid in _grids(parts)]
    return "\n".join([*blocks, f"{legend(counters=True)}\n"])


def _md_grid(title: str, grid: Grid) -> str:
    heads = ["Network", *(_flat(c) for c in grid.columns)]
    lines = [_md(title), "", "| " + " | ".join(map(_md, heads)) + " |"]
    lines.append("| --- |" + "|".join(" --- " if c.kind == "prose" else " ---: " for c in grid.columns) + "|")
    for line in grid.lines:
        cells = [_named(line), *(shown(c.key, line.cell(c.key)) for c in grid.columns)]
        lines.append("| " + " | ".join(map(_md, cells)) + " |")
    return "\n".join([*lines, "", _md(grid.caption)]) + "\n"


def audits_to_latex(parts: Sequence[Sequence[AuditRow]]) -> str:
    r"""A `tabular` of compute and one of parameters for each input; needs `\usepackage{booktabs}`."""
    blocks = [_BOOKTABS, *(_tex_grid(title, grid) for title, grid in _grids(parts))]
    return "\n".join([*blocks, f"% {legend(counters=True)}\n"])


def _tex_grid(title: str, grid: Grid) -> str:
    kinds = "".join("p{6cm}" if c.kind == "prose" else "r" for c in grid.columns)
    lines = [_comment(title), r"\begin{tabular}{l" + kinds + "}", r"\toprule"]
    if grid.heads:
        over = [rf"\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for name, n in grid.heads]
        lines.append(" & ".join(["", *over]) + r" \\")
        lines += _midrules(grid)
    lines += [" & ".join(["Network", *(_tex(c.title) for c in grid.columns)]) + r" \\", r"\midrule"]
    for line in grid.lines:
        cells = [_named(line), *(shown(c.key, line.cell(c.key)) for c in grid.columns)]
        lines.append(" & ".join(map(_tex, cells)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", _comment(grid.caption)]
    return "\n".join(lines) + "\n"


def _midrules(grid: Grid) -> list[str]:
    """A rule under each shared heading."""
    rules, at = [], 2
    for name, n in grid.heads:
        rules += [rf"\cmidrule(lr){{{at}-{at + n - 1}}}"] if name else []
        at += n
    return [" ".join(rules)] if rules else []


def _grids(parts: Sequence[Sequence[AuditRow]]) -> list[tuple[str, Grid]]:
    """Each table with a title that names its input."""
    grids = [(part, make(part)) for part in parts for make in (compute_grid, parameter_grid)]
    return [(f"{grid.title}, input {input_text(part[0].record)}", grid) for part, grid in grids]


def _flat(column: GridColumn) -> str:
    """A heading that needs none above it: `thop` under `GMAC by` is `GMAC by thop`."""
    if column.group.endswith(" by"):
        return f"{column.group} {column.title}"
    return f"{column.title}, {column.group}" if column.group else column.title


def _named(line: GridRow) -> str:
    return line.label if line.status == "ok" else f"{line.label} ({line.status.replace('_', ' ')})"


def lettered(cell: TableCell) -> str:
    """`171 ms [M]`, with what must stand beside the number; a failure with its reason."""
    if cell.origin is None:
        return f"{cell.text}: {cell.note}" if cell.text in rec.STATUSES and cell.text != "ok" else cell.text
    qualifier = f" ({cell.qualifier})" if cell.qualifier else ""
    letter, _ = {**ORIGIN_LEGEND, **COUNTER_LEGEND}[cell.origin]
    return f"{cell.text}{qualifier} [{letter}]"


def legend(*, counters: bool = False) -> str:
    """What the letters mean, in one line; `counters` adds that of the public counters."""
    letters = {**ORIGIN_LEGEND, **COUNTER_LEGEND} if counters else ORIGIN_LEGEND
    return "Origin: " + ", ".join(f"[{letter}] {name}" for name, (letter, _) in letters.items())


def _md(text: str) -> str:
    return re.sub(r"([\\|`*_<>])", r"\\\1", " ".join(text.split()))


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_TEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in " ".join(text.split()))


#: Name of the format -> what writes it.
FORMATS: Mapping[str, Callable[[Sequence[rec.Record]], str]] = {
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
    "latex": to_latex,
}
