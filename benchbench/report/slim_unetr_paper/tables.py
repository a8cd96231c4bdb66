"""Tables I and II and the throughput of Table III of the Slim UNETR paper, beside what the records hold.

A Dice belongs to its data: ours stands under the paper's only where the data set is the same, and else in a column of
its own that says so. Throughputs may not be compared across columns, since each was measured on another machine; the
ratios inside a column may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.units import times
from benchbench.report import conditions
from benchbench.report.cells import BASELINE, TableCell, finite, valid
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import Column, Table, TableRow, summary_rows

_REGIONS = {"avg": "Mean", "wt": "WT", "et": "ET", "tc": "TC"}
_VESSEL = {"avg": "Mean", "vessel": "Vessel", "tumour": "Tumour"}
_MSD = ("task01", "task08")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ours:
    """A column of our own numbers: one set of conditions."""

    column: Column
    cells: dict[str, TableCell]  # by card


def dice_tables(records: Sequence[rec.Record]) -> list[Table]:
    """Tables I and II, each with the Dice and the Hausdorff distance of the records.

    Args:
        records: of runs; a Dice of data that is in neither table stands beside Table I.
    """
    ours = _our_dice(records)
    of_msd = [column for data, column in ours if any(task in data.lower() for task in _MSD)]
    others = [column for _, column in ours if column not in of_msd]
    regions = "WT, ET and TC are the whole tumour, the enhancing tumour and the tumour core."
    first = {"dice": ("Dice, %, published", _REGIONS), "hd95": ("HD95, mm, published", _REGIONS)}
    second = {
        "task01": ("Task01 Brain Tumour, Dice, %", _REGIONS),
        "task08": ("Task08 Hepatic Vessel, Dice, %", _VESSEL),
    }
    none = "" if ours else " These records hold no Dice of ours."
    return [
        _dice_table(1, "Table I: Dice and Hausdorff distance on BraTS2021", f"{regions}{none}", first, others),
        _dice_table(2, "Table II: Dice on two tasks of the MSD", regions, second, of_msd),
    ]


def _dice_table(
    number: Literal[1, 2],
    title: str,
    caption: str,
    groups: Mapping[str, tuple[str, Mapping[str, str]]],
    ours: Sequence[_Ours],
) -> Table:
    columns = [
        Column(key=f"{prefix}_{key}", title=name, help=f"{group}: as printed in table {number}", group=group)
        for prefix, (group, members) in groups.items()
        for key, name in members.items()
    ]
    printed = {row.card: _printed_cells(row, f"Table {'I' * number}") for row in published.table(number)}
    return Table(
        key=f"table{number}",
        title=title,
        caption=caption,
        columns=(*columns, *(column.column for column in ours)),
        rows=_lines(printed, ours),
    )


def _printed_cells(row: published.Printed, table: str) -> dict[str, TableCell]:
    note = f"{published.PAPER}, {table}"
    return {k: TableCell(text=v, origin="published", value=float(v), note=note) for k, v in row.values.items()}


def _lines(printed: Mapping[str, Mapping[str, TableCell]], ours: Sequence[_Ours]) -> tuple[TableRow, ...]:
    """The paper's networks, by card, with our numbers beside theirs, then those that the paper does not have."""
    cells = {card: dict(theirs) for card, theirs in printed.items()}
    for column in ours:
        for card, cell in column.cells.items():
            cells.setdefault(card, {})[column.column.key] = cell
    names = {row.card: row.name for row in published.table(3)}  # the three tables are of the same networks
    return tuple(TableRow(label=names.get(card, card), card=card, cells=those) for card, those in cells.items())


def _our_dice(records: Sequence[rec.Record]) -> list[tuple[str, _Ours]]:
    """A column for each data set, input, precision and metric; of one network the newest record counts."""
    found: dict[tuple[str, ...], dict[str, rec.Record]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.id)):
        data = conditions.data_text(record.workload)
        for metric in ("dice", "hd95_mm"):
            if data and not record.recipe and finite(valid(record, metric)):
                key = (metric, data, conditions.input_text(record), _path_text(record))
                found.setdefault(key, {})[record.model.name] = record
    columns: list[tuple[str, _Ours]] = []
    for i, ((metric, data, shape, path), by_card) in enumerate(sorted(found.items())):
        same = any(name in data.lower() for name in ("brats2021", *_MSD))
        caution = (
            "the paper's split and training are not ours: compare with care" if same else "not comparable: other data"
        )
        column = Column(
            key=f"ours_{metric}_{i}",
            title=f"{data}{'' if path == 'fp32' else f', {path}'} ({caution})",
            help=f"ours, {shape}, {path}",
            group="Dice, %, ours" if metric == "dice" else "HD95, mm, ours",
            kind="text",
        )
        columns.append((data, _Ours(column=column, cells={c: _our_cell(r, metric) for c, r in by_card.items()})))
    return columns


def _our_cell(record: rec.Record, metric: str) -> TableCell:
    m = record.get(metric)
    assert m is not None
    assert m.value is not None
    where = f"{m.method}; on {record.device.name}; record {record.id}"
    if metric != "dice":
        return TableCell(text=units.significant(m.value, 4), origin=m.origin, value=m.value, note=where)
    detail = summary_rows([record]).rows[0].cells["dice"].detail
    return TableCell(
        text=units.significant(100 * m.value, 4), origin=m.origin, value=m.value, detail=detail, note=where
    )


def throughput_table(records: Sequence[rec.Record]) -> Table:
    """The throughput of Table III beside ours, for the inputs that both have.

    Args:
        records: of runs.
    """
    columns: list[Column] = []
    ours: list[_Ours] = []
    for shape, task in published.TASKS.items():
        group = f"Images per minute, {task} input {shape}"
        key = f"{task}_images_per_min"
        columns.append(Column(key=key, title="Published", help="as printed in Table III", group=group))
        for part in conditions.group(records):
            if conditions.input_text(part.first) == shape:
                found = [_our_rates(part, rs, group) for rs in conditions.apart(part.records, _path_text).values()]
                ours += [rates for rates in found if rates]
                columns += [rates.column for rates in found if rates]
    base = published.find(3, BASELINE)
    caption = (
        f"The second line is the time of one image as a multiple of {base.name if base else BASELINE}'s in the same "
        "column. Each column had a machine and software of its own: compare these multiples, not the rates."
    )
    if not ours:
        caption += " These records hold no measured latency for these inputs; name a folder of bench run as well."
    return Table(
        key="throughput",
        title="Table III: throughput",
        caption=caption,
        columns=tuple(columns),
        rows=_lines({row.card: _printed_rates(row, base) for row in published.table(3)}, ours),
    )


def _printed_rates(row: published.Printed, base: published.Printed | None) -> dict[str, TableCell]:
    cells = {}
    for column, cell in _printed_cells(row, "Table III").items():
        if column.endswith("images_per_min"):
            own = base.number(column) if base else None
            cells[column] = dataclasses.replace(cell, detail=times(own / cell.value) if own and cell.value else "")
    return cells


def _path_text(record: rec.Record) -> str:
    """`fp32` of eager PyTorch, `openvino, bf16` of another runtime."""
    runtime, dtype = conditions.path_of(record)
    return dtype if runtime == "eager" else f"{runtime}, {dtype}"


def _our_rates(part: conditions.Group, records: Sequence[rec.Record], group: str) -> _Ours | None:
    """Rates from measured latencies of one set of conditions, in one runtime and precision.

    Args:
        part: the set.
        records: those of its records.
        group: heading of the column.
    """
    work, path = part.first.workload, _path_text(records[0])
    latencies = {
        record.model.name: (m, float(m.value))
        for record in records
        if not record.recipe
        and (m := finite(valid(record, "latency_s")))
        and m.value
        and m.origin in ("measured", "reference")
    }
    if not latencies or work.phase != "infer":
        return None
    _, base = latencies.get(BASELINE, (None, None))
    cells = {
        card: TableCell(
            text=units.significant(60 / seconds, 4),
            origin=m.origin,
            value=60 / seconds,
            detail=times(seconds / base) if base else "",
            note=f"60 s / {units.format_value(seconds, 's')}; {m.method}"
            + (f"; source: {m.source}" if m.source else ""),
        )
        for card, (m, seconds) in latencies.items()
    }
    threads = "" if work.threads is None else f", {work.threads} threads"
    column = Column(
        key=f"ours_rate_{part.letter.lower()}" + ("" if path == "fp32" else f"_{path.replace(', ', '_')}"),
        title=f"Ours: {part.first.device.name}{threads}, {path}",
        help="batch 1, from the median latency",
        group=group,
        kind="text",
    )
    return _Ours(column=column, cells=cells)
