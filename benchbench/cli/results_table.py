"""The table at the end of a run, no wider than a terminal; what has to be known of its rows stands below it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from benchbench.core.records import Record
from benchbench.report import reliability, writers
from benchbench.report.cells import ORIGIN_LEGEND, TableCell
from benchbench.report.conditions import group
from benchbench.report.exports import legend, shown
from benchbench.report.figures import volumes
from benchbench.report.labels import fits_lines, row_labels, unqualified_lines, unranked_lines
from benchbench.report.tables import Column, Table, TableRow, headline, summary_rows

#: Columns of a terminal; only a name or a number that is longer by itself makes a table wider.
WIDTH = 100
#: What a table that is too wide goes without, in this order.
_FIRST_TO_GO = (
    *("throughput_patches_per_s", "window_s", "volume_cropped_share", "ratio", "evaluated_cases", "nsd", "patch"),
    *("volume_outside_share", "volume_windows", "hd95_mm", "rank", "lost_dice", "macs", "params"),
)


def results_table(records: Sequence[Record]) -> str:
    """The table at the end of a run: one for each set of conditions, every number with its origin's letter.

    A letter that all numbers of a column have stands in its head. Below each table stand the noise floor by which its
    rows tie, the rows that something disturbed, those that may be other networks, and what would have fitted of those
    that ran out of memory.
    """
    blocks, letters, groups = [], set[str](), group(records)
    for part in groups:
        floors, labels = reliability.floors_of(part, groups), row_labels(part.records)
        table = summary_rows(sorted(part.records, key=_fastest_first), floors)
        below = [] if part.predicted else [f"noise floor: {reliability.floors_text(part.records, floors)}"]
        disturbed = reliability.disturbed_text(part.records, labels)
        below += [f"disturbed: {disturbed}"] if disturbed and disturbed != "none" else []
        below += unqualified_lines(part.records, labels) + unranked_lines(part.records, labels)
        below += [f"{labels[r.id]}: {line}" for r in part.records for line in fits_lines(r)]
        volume = volumes.table(table.rows, part, floors, key="volume")
        patients = ["", volume.title, fitted(volume, letters)] if volume else []
        blocks.append("\n".join([part.title, fitted(table, letters), *patients, *below]))
    return "\n\n".join([*blocks, legend(letters)])


def fitted(table: Table, letters: set[str]) -> str:
    """A table as text that is at most `WIDTH` wide, with what it goes without for that.

    Args:
        table: any.
        letters: gets those of the origins that it shows.
    """
    columns = [column for column in table.columns if not _says_nothing(column, table.rows)]
    letters |= {
        ORIGIN_LEGEND[origin][0]
        for row in table.rows
        for column in columns
        if (origin := row.cell(column.key).origin) is not None and origin in ORIGIN_LEGEND
    }
    gone = []
    text = _text(table, columns)
    for key in _FIRST_TO_GO:
        if _width(text) <= WIDTH:
            break
        gone += [column.title for column in columns if column.key == key]
        columns = [column for column in columns if column.key != key]
        text = _text(table, columns)
    return f"{text}\n(on the page also: {', '.join(gone)})" if gone else text


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _says_nothing(column: Column, rows: Sequence[TableRow]) -> bool:
    """Whether a column has no number, or says of every row that it is finished."""
    texts = {row.cell(column.key).text for row in rows}
    return texts <= {"-"} or (column.key == "status" and texts == {"ok"} and not any(map(_status_note, rows)))


def _status_note(row: TableRow) -> str:
    return row.cell("status").detail


def _text(table: Table, columns: Sequence[Column]) -> str:
    by_name = any(column.key in ("runtime", "dtype") for column in columns)
    titles, aligns = ["Model"], ["l"]
    cells = [[row.name if by_name else row.label] for row in table.rows]
    for column in columns:
        origins = {origin for row in table.rows if (origin := row.cell(column.key).origin)}
        in_head = len(origins) == 1 and column.key != "rank"
        letter = f" [{ORIGIN_LEGEND[next(iter(origins))][0]}]" if in_head else ""
        titles.append(column.title + letter)
        aligns.append("l" if column.kind in ("word", "prose") else "r")
        for row, line in zip(table.rows, cells, strict=True):
            line.append(_short(column.key, row.cell(column.key), letter=not in_head))
    return writers.to_text(titles, cells, aligns)


def _short(key: str, cell: TableCell, *, letter: bool) -> str:
    """A cell in few columns: reasons come below the table.

    The range of a throughput is that of its latency, and that a row is unstable stands in its status.
    """
    if key == "status":
        return cell.text
    if key in ("throughput_patches_per_s", "rank"):
        cell = dataclasses.replace(cell, qualifier="")
    return shown(key, cell, letter=letter)


def _fastest_first(record: Record) -> float:
    time = record.value(headline([record]))
    return math.inf if time is None or math.isnan(time) else time
