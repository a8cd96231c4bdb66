"""Records as CSV, JSON, Markdown or LaTeX, with the origin of every value.

CSV and JSON are for programs: full values in SI units, `<metric>` beside `<metric>_origin`. Markdown and LaTeX are
for people: the tables of the page, a letter after each number, and a line that says what the letters mean. A
published figure has its own column (`published_macs`), so it can never stand where ours is missing. Records of
`bench audit` alone become the audit's tables instead, for which their artifacts are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import StoreError, UsageError, unknown
from benchbench.core.evaluation import is_evaluation
from benchbench.report import accuracy, paired_dice, reliability, writers
from benchbench.report.audit import tables as audit_tables
from benchbench.report.audit.tables import AuditRow, Metric, gather
from benchbench.report.cells import COUNTER_LEGEND, ORIGIN_LEGEND, TableCell, bounded_text
from benchbench.report.conditions import group, input_text, is_semi_synthetic, path_of
from benchbench.report.details import ReadArtifact
from benchbench.report.figures import volumes
from benchbench.report.labels import not_possible, row_labels, unqualified_lines, unranked_lines
from benchbench.report.slim_unetr_paper import section as slim_unetr_paper
from benchbench.report.tables import Column, Table, TableRow, summary_rows

FORMATS = ("csv", "json", "markdown", "latex")


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
    if slim_unetr_paper.applies(records):
        parts = slim_unetr_paper.with_paper(parts)
    runs = [r for r in records if not is_audit(r)]
    if fmt == "json":
        return _json(records, parts, read_artifact or _unread)
    if fmt == "csv":
        return _csv(records, read_artifact or _unread) if runs or not parts else _audits_csv(parts)
    document = _markdown if fmt == "markdown" else _latex
    documents = [document(_run_tables(runs, read_artifact or _unread), legend())] if runs or not parts else []
    documents += [document(_audit_tables(parts), legend(counters=True))] if parts else []
    return "\n".join(documents)


def _unread(artifact: rec.Artifact) -> bytes:
    raise StoreError(f"{artifact.path} was not read")


def _metrics(records: Sequence[rec.Record]) -> list[str]:
    """Every metric, in the order of the schema; published figures as `published_<metric>`."""
    order = {metric: i for i, metric in enumerate(rec.METRIC_UNITS)}

    def place(column: str) -> tuple[bool, int, str]:
        metric = column.removeprefix("published_")
        family = "dice" if metric.startswith("dice_") else metric
        return metric != column, order.get(family, len(order)), column

    return sorted({_column(m) for r in records for m in r.measurements}, key=place)


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
        "int8_accuracy": work.int8_accuracy,
        "test_time_mirroring": units.format_axes(work.test_time_mirroring) if work.test_time_mirroring else None,
        "data_kind": "semi-synthetic" if is_semi_synthetic(work.data) else None,
        "split": work.split,
        "recipe": rec.canonical_json(rec.to_json(record.recipe)) if record.recipe else None,
        "checkpoint": record.model.checkpoint,
        "id": record.id,
        "cell": record.cell,
        "started_at": record.started_at,
    }


#: Columns that CSV leaves out where no record has a value: of what was asked, of the rank, and of a metric.
_OPTIONAL = ("volume", "overlap", "crop_foreground", "memory_limit_bytes", "int8_accuracy", "test_time_mirroring")
_RANKING = ("rank", "rank_reason", "rank_by", "rank_tolerance", "noise_floor")
_PARTS = ("bound", "low", "high", "ci95_low", "ci95_high", "samples", "processes", "reason")


def _ranked(records: Sequence[rec.Record]) -> dict[str, dict[str, Any]]:
    """Record id -> its rank among the rows of its conditions, by what it is, and the share within which those tie.

    Of a row that takes none, why. Rows that have no time are not among them.
    """
    groups, ranked = group(records), dict[str, dict[str, Any]]()
    for part in groups:
        floors, without = reliability.floors_of(part, groups), reliability.without_rank(part.records)
        ties = reliability.Ties.of(part.records, floors)
        for row in summary_rows(part.records, floors).rows:
            if why := without.get(row.record.id):
                ranked[row.record.id] = {"rank_reason": why.reason}
            elif row.cells["rank"].value is not None:
                floor = floors.get(path_of(row.record))
                by = {"rank_by": "ratios within rounds" if ties.within_rounds(row.record) else "medians"}
                tie: dict[str, Any] = {
                    "rank_tolerance": reliability.tolerance(floor),
                    "noise_floor": floor.share if floor else None,
                }
                ranked[row.record.id] = {"rank": row.cells["rank"].text} | by | tie
    return ranked


def _compared(records: Sequence[rec.Record], read: ReadArtifact) -> dict[str, dict[str, Any]]:
    """Record id -> how its Dice differs from the best one's, case by case, of evaluations."""
    found: dict[str, dict[str, Any]] = {}
    for part in group([r for r in records if is_evaluation(r)]):
        found |= paired_dice.plain(accuracy.rows_of(part.records), read)
    return found


def _csv(records: Sequence[rec.Record], read: ReadArtifact) -> str:
    """One line a record: what was asked, its rank, then `<metric>`, its origin, bound, range, samples and reason."""
    metrics, ranked, compared = _metrics(records), _ranked(records), _compared(records, read)

    def row_of(record: rec.Record) -> dict[str, Any]:
        row = _what(record) | ranked.get(record.id, {}) | compared.get(record.id, {})
        for m in record.measurements:
            name = _column(m)
            if len(m.values) > 1:
                row |= {f"{name}_samples": len(m.values), f"{name}_processes": len(reliability.split(m))}
            row |= {name: m.value, f"{name}_origin": m.origin, f"{name}_bound": m.bound, f"{name}_reason": m.reason}
            row[f"{name}_low"], row[f"{name}_high"] = m.interval or (None, None)
            row[f"{name}_ci95_low"], row[f"{name}_ci95_high"] = m.ci95 or (None, None)
        return row

    header = [*_what(records[0]), *_RANKING, *paired_dice.PLAIN] if records else []
    optional = {*_OPTIONAL, *_RANKING, *paired_dice.PLAIN}
    for name in metrics:
        header += [name, f"{name}_origin"]
        parts = [f"{name}_{part}" for part in _PARTS]
        header += parts
        optional.update(parts)
    used = {column for record in records for column, value in row_of(record).items() if value is not None}
    # made once more instead of kept: ten thousand rows of all columns would take more memory than all else
    return writers.to_csv([c for c in header if c in used or c not in optional], map(row_of, records))


def _json(records: Sequence[rec.Record], parts: Sequence[Sequence[AuditRow]], read: ReadArtifact) -> str:
    """A list of objects; each value is an object with its unit, origin, method, samples and text.

    An audit has its checked content too, or null and a note that says why.
    """
    by_id = {one.record.id: one for part in parts for one in part}
    ranked, compared = {} if parts else _ranked(records), _compared(records, read)
    objects = []
    for record in records:
        values = _what(record) | ranked.get(record.id, {}) | compared.get(record.id, {}) | {"values": _values(record)}
        if one := by_id.get(record.id):
            values |= {"audit": rec.to_json(one.result), "audit_note": one.note or None}
        objects.append(values)
    return writers.to_json(objects) + "\n"


def _values(record: rec.Record) -> dict[str, Any]:
    values = {}
    for m in record.measurements:
        fields = {k: v for k, v in rec.to_json(m).items() if k not in ("metric", "values")}
        text = None if m.value is None else bounded_text(m)
        values[_column(m)] = fields | {"samples": list(m.values), "text": text}
    return values


def _audits_csv(parts: Sequence[Sequence[AuditRow]]) -> str:
    """One line an audit: published, true and counted, in MACs and parameters, with the reasons."""
    rows = [_audit_row(one) for part in parts for one in part]
    header = list(dict.fromkeys(key for row in rows for key in row))
    if not any(row["paper_name"] for row in rows):
        header.remove("paper_name")
    return writers.to_csv(header, rows)


def _audit_row(one: AuditRow) -> dict[str, Any]:
    record = one.record
    row: dict[str, Any] = {
        "model": record.model.name,
        "paper_name": one.paper.name if one.paper else None,
        "status": record.status,
        "error": record.error,
        "input": input_text(record),
        "id": record.id,
        "cell": record.cell,
        "started_at": record.started_at,
        "verdict": one.result.verdict if one.result else None,
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
    if one.result:
        sizes = one.result.params
        row |= {"buffers": sizes.buffers, "bare_params": sizes.bare, "unused_params": sizes.unused}
        row["shared_modules"] = " ".join(sizes.shared_modules)
    for name, count in one.result.counts.items() if one.result else ():
        if name != "torch":
            row |= {f"{name}_macs": count.macs, f"{name}_params": count.params}
            row[f"{name}_origin"] = None if count.macs is None and count.params is None else "counter"
            row |= {f"{name}_version": count.version, f"{name}_reason": count.reason}
    return row


def _run_tables(records: Sequence[rec.Record], read: ReadArtifact) -> list[Table]:
    """For each set of conditions its table, and that of whole volumes if there is one; of evaluations theirs."""
    groups, tables = group(records), []
    for part in groups:
        if is_evaluation(part.first):
            tables += _evaluation_tables(part.records, read)
            continue
        floors = reliability.floors_of(part, groups)
        table = summary_rows(part.records, floors, deployment=True)
        noise = "" if part.predicted else f"Noise floor: {reliability.floors_text(part.records, floors)}"
        labels = {row.record.id: row.label for row in table.rows}
        below = [*unqualified_lines(part.records, labels), *unranked_lines(part.records, labels)]
        caption = ". ".join(filter(None, [noise, *below]))
        tables.append(dataclasses.replace(table, title=part.title, caption=caption))
        if volume := volumes.table(table.rows, part, floors, key="volume"):
            tables.append(volume)
    return tables


def _evaluation_tables(records: Sequence[rec.Record], read: ReadArtifact) -> list[Table]:
    """Every region and the paired test; what has to be known stands below the first."""
    tables = accuracy.tables(records, read, key="")
    labels = row_labels(records)
    below = accuracy.notes(records, labels)
    below += [f"{', '.join(those)}: {reason}" for reason, those in not_possible(records, labels)]
    if not tables or not below:
        return tables
    caption = ". ".join([tables[0].caption.rstrip("."), *below])
    return [dataclasses.replace(tables[0], caption=caption), *tables[1:]]


def _audit_tables(parts: Sequence[Sequence[AuditRow]]) -> list[Table]:
    """The tables of compute and of parameters, each with a title that names its input."""
    metrics: tuple[Metric, ...] = ("macs", "params")
    tables = [(part, audit_tables.table(part, metric)) for part in parts for metric in metrics]
    return [
        dataclasses.replace(table, title=f"{table.title}, input {input_text(part[0].record)}") for part, table in tables
    ]


def _markdown(tables: Sequence[Table], letters: str) -> str:
    blocks, escape = [], writers.escape_markdown
    for table in tables:
        titles = [escape(title) for title in (table.head, *map(_flat, table.columns))]
        lines = [list(map(escape, line)) for line in _lines(table)]
        below = ["", escape(table.caption)] if table.caption else []
        text = writers.to_markdown(titles, lines, _aligns(table))
        blocks.append("\n".join([escape(table.title), "", text, *below]) + "\n")
    return "\n".join([*blocks, f"{letters}\n"])


def _latex(tables: Sequence[Table], letters: str) -> str:
    blocks = ["% needs \\usepackage{booktabs}\n"]
    for table in tables:
        titles = [table.head, *(column.title for column in table.columns)]
        text = writers.to_latex(titles, _lines(table), _aligns(table), table.heads)
        below = [_comment(table.caption)] if table.caption else []
        blocks.append("\n".join([_comment(table.title), text, *below]) + "\n")
    return "\n".join([*blocks, f"% {letters}\n"])


def _comment(text: str) -> str:
    """One line that LaTeX passes over."""
    return f"% {' '.join(text.split())}"


def _lines(table: Table) -> list[list[str]]:
    return [[_label(row, table), *(shown(c.key, row.cell(c.key)) for c in table.columns)] for row in table.rows]


def _label(row: TableRow, table: Table) -> str:
    """A row's label, with its status where that has no column and is worth a word."""
    keys = {column.key for column in table.columns}
    label = row.name if keys & {"runtime", "dtype"} else row.label
    return label if row.status == "ok" or "status" in keys else f"{label} ({row.status.replace('_', ' ')})"


def _aligns(table: Table) -> list[str]:
    return ["l", *({"word": "l", "prose": "p{6cm}"}.get(column.kind, "r") for column in table.columns)]


def _flat(column: Column) -> str:
    """A heading that needs none above it: `thop` under `GMAC by` is `GMAC by thop`."""
    if column.group.endswith(" by"):
        return f"{column.group} {column.title}"
    return f"{column.title}, {column.group}" if column.group else column.title


def shown(key: str, cell: TableCell, *, letter: bool = True) -> str:
    """A cell of one column as text; a rank goes without a letter.

    Args:
        key: of the column.
        cell: its cell.
        letter: whether the letter of its origin is not in the column's head.
    """
    if cell.origin and (key == "rank" or not letter):
        return cell.text + (f" ({cell.qualifier})" if cell.qualifier else "")
    return lettered(cell)


def lettered(cell: TableCell) -> str:
    """`171 ms [M]`, with what must stand beside the number; a failure with its reason."""
    if cell.origin is None:
        return f"{cell.text}: {cell.note}" if cell.text in rec.STATUSES and cell.text != "ok" else cell.text
    qualifier = f" ({cell.qualifier})" if cell.qualifier else ""
    letter, _ = {**ORIGIN_LEGEND, **COUNTER_LEGEND}[cell.origin]
    return f"{cell.text}{qualifier} [{letter}]"


def legend(letters: Collection[str] | None = None, *, counters: bool = False) -> str:
    """What the letters mean, in one line.

    Args:
        letters: those that are shown; None: any may be.
        counters: whether that of the public counters may be among them.
    """
    known = {**ORIGIN_LEGEND, **COUNTER_LEGEND} if counters else ORIGIN_LEGEND
    named = [f"[{letter}] {name}" for name, (letter, _) in known.items() if letters is None or letter in letters]
    return f"Origin: {', '.join(named)}"
