"""Main table of a page: which columns stand open, what their heads say for all cells, and what a row's name bears.

An origin, a kind of interval or a qualification that all cells of a column share stands once in its head; where they
differ each cell bears its own. Every other column of the run can be chosen by whoever reads the page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from benchbench.core import statistics as core_statistics
from benchbench.core import units
from benchbench.report import conditions, labels, reliability
from benchbench.report.cells import TableCell, finite, measurement_cell, valid
from benchbench.report.tables import Column, Table, TableRow

_CI = "95 % CI "
#: Columns in the order of the page, those that answer the question first.
_ORDER = (
    *("runtime", "dtype", "volume_latency_s", "latency_s", "train_step_s", "dice", "lost_dice", "hd95_mm", "nsd"),
    *("evaluated_cases", "memory_bytes", "macs", "params", "rank", "ratio", "throughput_patches_per_s", "patch"),
)
_FOLDED = ("runtime", "dtype", "rank", "ratio", "throughput_patches_per_s", "patch")
_PATIENT = Column(
    key="volume_latency_s", title="One patient", help="the whole volume by sliding windows, median; its table has more"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A column of the page."""

    column: Column
    origin: str  # that all its cells share; empty where they differ, or it has none
    under: str  # what the second lines of its cells are: `95 % CI`, `data sheet only`
    folded: bool  # whether it is shown only when chosen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of the page."""

    row: TableRow
    cells: Mapping[str, TableCell]
    notes: tuple[str, ...]  # below its name
    family: str  # its architecture, by which rows fold: variants, compressed networks, runtimes
    kept: bool  # no fold hides it
    mark: str  # the id of its mark in the picture; empty without one
    sort: str  # JSON that the page's script sorts by


def time_of(rows: Sequence[TableRow], main: str) -> str:
    """The time that the rows are sorted by: a patient's where patches differ, as forwards are then of unlike work."""
    records = [row.record for row in rows if row.usable]
    has_patients = any(finite(valid(record, "volume_latency_s")) for record in records)
    return "volume_latency_s" if main == "latency_s" and has_patients and conditions.patches_differ(records) else main


def heads_and_lines(
    table: Table, rows: Sequence[TableRow], main: str, kept: Set[str], marks: Mapping[str, str]
) -> tuple[list[Head], list[Line]]:
    """The table of the page.

    Args:
        table: of `summary_rows`.
        rows: of it that finished, in their order.
        main: the metric that they are sorted by.
        kept: ids of the records whose rows no fold hides.
        marks: record id -> the id of its mark in the picture.
    """
    columns = {column.key: column for column in table.columns if column.key != "status"}
    if any(row.record.get("volume_latency_s") for row in rows):
        columns[_PATIENT.key] = _PATIENT
    cells = {row.record.id: _cells(row) for row in rows}
    heads = []
    for key in (key for key in _ORDER if key in columns):
        those = [cells[row.record.id].get(key) for row in rows]
        shown = [cell for cell in those if cell is not None and cell.text != "-"]
        under = _under(shown)
        for row in rows:
            if (cell := cells[row.record.id].get(key)) is not None and under:
                detail = cell.detail.removeprefix(_CI) if under == _CI.strip() else ""
                cells[row.record.id][key] = dataclasses.replace(cell, detail=detail)
        origins = {cell.origin for cell in shown if cell.origin}
        (origin,) = origins if len(origins) == 1 and key != "rank" else {""}
        column = dataclasses.replace(columns[key], title=_title(columns[key], rows))
        heads.append(Head(column=column, origin=origin or "", under=under, folded=_is_folded(key, columns, main)))
    notes = _notes(rows, main)
    lines = [
        Line(
            row=row,
            cells=cells[row.record.id],
            notes=tuple(notes[row.record.id]),
            family=row.record.model.arch,
            kept=row.record.id in kept,
            mark=marks.get(row.record.id, ""),
            sort=_sort_values(row, [head.column for head in heads], cells[row.record.id]),
        )
        for row in rows
    ]
    return heads, lines


def _cells(row: TableRow) -> dict[str, TableCell]:
    record = row.record
    cells = dict(row.cells)
    cells["volume_latency_s"] = measurement_cell(valid(record, "volume_latency_s"))
    dice = valid(record, "dice")
    if dice is not None and finite(dice):
        interval = dice.ci95 or (core_statistics.mean_interval(dice.values) if len(dice.values) > 1 else None)
        span = " to ".join(units.format_value(end, "1") for end in interval) if interval else ""
        cells["dice"] = dataclasses.replace(cells["dice"], detail=f"{_CI}{span}" if span else "")
    return cells


def _under(cells: Sequence[TableCell]) -> str:
    """What the second lines are: a confidence interval, where they do not say themselves that they are another one."""
    details = {cell.detail for cell in cells}
    if any(detail.startswith(_CI) for detail in details):
        return _CI.strip()
    return next(iter(details)) if len(details) == 1 else ""


def _title(column: Column, rows: Sequence[TableRow]) -> str:
    """`Dice, phantom` where it is of no patients."""
    semi = column.key == "dice" and any(conditions.has_phantom_dice(row.record) for row in rows)
    return f"{column.title}, phantom" if semi else column.title


def _is_folded(key: str, columns: Mapping[str, Column], main: str) -> bool:
    if main == "dice":
        return False
    if key == "latency_s":  # of unlike patches; a patient's stands in its place
        return main == "volume_latency_s"
    return key in _FOLDED or (key == "macs" and "runtime" in columns)


def _notes(rows: Sequence[TableRow], main: str) -> dict[str, list[str]]:
    """Record id -> what stands below the name: how far the median is known, disturbance, another commit."""
    records = [row.record for row in rows]
    told = labels.row_notes(records)
    for record in records:
        more = told[record.id]
        if record.status == "unstable":
            known_to = re.search(r"±([\d.]+) ?%", record.error or "")
            more.insert(0, "unstable" + (f" ±{known_to[1]} %" if known_to else ""))
        hit, of = reliability.disturbed(record), len(reliability.processes(record, main))
        if hit:
            more.append(f"{hit} of {max(hit, of)} processes disturbed")
    return told


def _sort_values(row: TableRow, columns: Sequence[Column], cells: Mapping[str, TableCell]) -> str:
    values: dict[str, Any] = {"model": row.label}
    for column in columns:
        cell = cells.get(column.key)
        if cell is not None:
            values[column.key] = cell.text if column.kind == "word" else cell.value
    return json.dumps(values, sort_keys=True)
