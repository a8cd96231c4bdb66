"""Tables I and II and the throughput of Table III of the Slim UNETR paper, beside what the records hold.

A Dice belongs to its data: ours stands under the paper's only where the data set is the same, and else in a column of
its own that says so. Throughputs may not be compared across columns, since each was measured on another machine; the
ratios inside a column may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.units import times
from benchbench.report import conditions
from benchbench.report.slim_unetr_paper import published
from benchbench.report.tables import BASELINE, Column, Table, TableCell, TableRow, finite, summary_rows, valid

_REGIONS = {"avg": "Mean", "wt": "WT", "et": "ET", "tc": "TC"}
_VESSEL = {"avg": "Mean", "vessel": "Vessel", "tumour": "Tumour"}
_NO_OTHER = "not comparable: other data"


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
    msd = [(key, o) for key, o in ours if _is_msd(key)]
    other = [(key, o) for key, o in ours if not _is_msd(key)]
    regions = "WT, ET and TC are the whole tumour, the enhancing tumour and the tumour core."
    first = _printed_columns(1, (("dice", "Dice, %, published", _REGIONS), ("hd95", "HD95, mm, published", _REGIONS)))
    second = _printed_columns(
        2, (("task01", "Task01 Brain Tumour, Dice, %", _REGIONS), ("task08", "Task08 Hepatic Vessel, Dice, %", _VESSEL))
    )
    none = "" if ours else " These records hold no Dice of ours."
    return [
        _dice_table(
            1, "Table I: Dice and Hausdorff distance on BraTS2021", f"{regions}{none}", first, [o for _, o in other]
        ),
        _dice_table(2, "Table II: Dice on two tasks of the MSD", regions, second, [o for _, o in msd]),
    ]


def _is_msd(data: str) -> bool:
    return any(task in data.lower() for task in ("task01", "task08"))


def _printed_columns(number: int, groups: Sequence[tuple[str, str, dict[str, str]]]) -> list[Column]:
    return [
        Column(key=f"{prefix}_{key}", title=title, help=f"{group}: as printed in table {number}", group=group)
        for prefix, group, members in groups
        for key, title in members.items()
    ]


def _dice_table(number: int, title: str, caption: str, columns: list[Column], ours: list[_Ours]) -> Table:
    rows = published.table(1 if number == 1 else 2)
    lines = [
        TableRow(
            label=row.name, card=row.card, cells=_printed_cells(row, f"Table {'I' * number}") | _mine(ours, row.card)
        )
        for row in rows
    ]
    lines += _beyond(ours, {row.card for row in rows})
    return Table(
        key=f"table{number}",
        title=title,
        caption=caption,
        columns=(*columns, *(o.column for o in ours)),
        rows=tuple(lines),
    )


def _printed_cells(row: published.Printed, table: str) -> dict[str, TableCell]:
    note = f"{published.PAPER}, {table}"
    return {k: TableCell(text=v, origin="published", value=float(v), note=note) for k, v in row.values.items()}


def _mine(ours: Sequence[_Ours], card: str) -> dict[str, TableCell]:
    return {o.column.key: o.cells[card] for o in ours if card in o.cells}


def _beyond(ours: Sequence[_Ours], known: set[str]) -> list[TableRow]:
    """Lines for networks that the paper does not have."""
    names = dict.fromkeys(card for o in ours for card in o.cells if card not in known)
    return [TableRow(label=name, card=name, cells=_mine(ours, name)) for name in names]


def _our_dice(records: Sequence[rec.Record]) -> list[tuple[str, _Ours]]:
    """A column for each data set, input, precision and metric; of one network the newest record counts."""
    found: dict[tuple[str, ...], dict[str, rec.Record]] = {}
    for record in sorted(records, key=lambda r: (r.started_at, r.id)):
        data = conditions.data_text(record.workload)
        for metric in ("dice", "hd95_mm"):
            if data and not record.recipe and finite(valid(record, metric)):
                key = (metric, data, conditions.input_text(record), record.workload.dtype)
                found.setdefault(key, {})[record.model.name] = record
    columns: list[tuple[str, _Ours]] = []
    for i, ((metric, data, shape, dtype), by_card) in enumerate(sorted(found.items())):
        same = any(name in data.lower() for name in ("brats2021", "task01", "task08"))
        caution = "the paper's split and training are not ours: compare with care" if same else _NO_OTHER
        column = Column(
            key=f"ours_{metric}_{i}",
            title=f"{data} ({caution})",
            help=f"ours, {shape}, {dtype}",
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
    mine: list[_Ours] = []
    for shape, task in published.TASKS.items():
        group = f"Images per minute, {task} input {shape}"
        title = "Published"
        columns.append(Column(key=f"{task}_images_per_min", title=title, help="as printed in Table III", group=group))
        for part in conditions.group(records):
            if conditions.input_text(part.first) == shape and (ours := _our_rates(part, group)):
                mine.append(ours)
                columns.append(ours.column)
    rows = published.table(3)
    base = published.find(3, BASELINE)
    lines = [TableRow(label=r.name, card=r.card, cells=_printed_rates(r, base) | _mine(mine, r.card)) for r in rows]
    lines += _beyond(mine, {row.card for row in rows})
    caption = (
        f"The second line is the time of one image as a multiple of {base.name if base else BASELINE}'s in the same "
        "column. Each column had a machine and software of its own: compare these multiples, not the rates."
    )
    if not mine:
        caption += " These records hold no measured latency for these inputs; name a folder of bench run as well."
    return Table(
        key="throughput", title="Table III: throughput", caption=caption, columns=tuple(columns), rows=tuple(lines)
    )


def _printed_rates(row: published.Printed, base: published.Printed | None) -> dict[str, TableCell]:
    cells = {}
    for column, cell in _printed_cells(row, "Table III").items():
        if column.endswith("images_per_min"):
            own = base.number(column) if base else None
            detail = times(own / cell.value) if own and cell.value else ""
            cells[column] = dataclasses.replace(cell, detail=detail)
    return cells


def _our_rates(part: conditions.Group, group: str) -> _Ours | None:
    """Rates from measured latencies of one set of conditions."""
    found: dict[str, rec.Measurement] = {}
    for record in part.records:
        m = finite(valid(record, "latency_s"))
        if (
            m
            and m.value
            and m.origin in ("measured", "reference")
            and record.workload.phase == "infer"
            and not record.recipe
        ):
            found[record.model.name] = m
    if not found:
        return None
    base = found.get(BASELINE)
    cells = {}
    for card, m in found.items():
        assert m.value
        cells[card] = TableCell(
            text=units.significant(60 / m.value, 4),
            origin=m.origin,
            value=60 / m.value,
            detail=times(m.value / base.value) if base and base.value else "",
            note=f"60 s / {units.format_value(m.value, m.unit)}; {m.method}"
            + (f"; source: {m.source}" if m.source else ""),
        )
    work = part.first.workload
    threads = "" if work.threads is None else f", {work.threads} threads"
    title = f"Ours: {part.first.device.name}{threads}, {work.dtype}"
    column = Column(
        key=f"ours_rate_{part.letter.lower()}",
        title=title,
        help="batch 1, from the median latency",
        group=group,
        kind="text",
    )
    return _Ours(column=column, cells=cells)
