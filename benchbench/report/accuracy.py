"""Accuracy of an evaluation: Dice, HD95 and surface Dice of each region, the paired test, and what should be known.

A record of `bench evaluate` has nothing else, so its tables have no columns of cost. A mean over fewer cases than were
asked for says so beside it, as does one over cases that a network was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.core.evaluation import is_evaluation, region_metrics, surface_dice
from benchbench.report import paired_dice, place, writers
from benchbench.report.cells import TableCell, dice_classes, finite, measurement_cell, region_name, valid
from benchbench.report.conditions import data_text
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.labels import row_labels
from benchbench.report.tables import Column, Table, TableRow, record_row

CASES = "cases.csv"
_ALL = "all regions"
_KEYS = ("dice", "hd95_mm", "nsd")


def tables(records: Sequence[rec.Record], read: ReadArtifact, *, key: str) -> list[Table]:
    """Every region of each row, the best row first; and each row against the best one, where there are two.

    Args:
        records: of one set of conditions.
        read: gives the content of an artifact.
        key: what the keys of the tables begin with.
    """
    rows = rows_of(records)
    regions = by_region(rows, key=f"{key}regions")
    return [table for table in (regions, paired_dice.table(rows, read, key=f"{key}paired")) if table]


def rows_of(records: Sequence[rec.Record]) -> list[TableRow]:
    """The rows that have a Dice, the best first."""
    labels = row_labels(records)
    scored = [r for r in records if finite(valid(r, "dice"))]
    return [record_row(r, labels[r.id], {}) for r in sorted(scored, key=lambda r: -float(r.value("dice") or 0))]


def by_region(rows: Sequence[TableRow], *, key: str) -> Table | None:
    """A line for each region of each row; None where no row has a Dice."""
    if not rows:
        return None
    tolerance = next((name for row in rows if (name := surface_dice(row.record))), "nsd")
    columns = (
        Column(key="region", title="Region", help="what was segmented", kind="word"),
        Column(key="dice", title="Dice (95 % CI)", help="mean over cases, and its bootstrap interval"),
        Column(key="hd95_mm", title="HD95 (95 % CI)", help="95th percentile of the surface distances, mean over cases"),
        Column(
            key="nsd",
            title=f"Surface Dice{_tolerance_text(tolerance)} (95 % CI)",
            help="share of both surfaces that lies within the tolerance of the other, mean over cases",
        ),
        Column(key="cases", title="Cases", help="over how many cases the mean of Dice is", kind="text"),
    )
    lines = [line for row in rows for line in _lines(row)]
    work = rows[0].record.workload
    return Table(
        key=key,
        title=f"Dice, HD95 and surface Dice on {data_text(work)}",
        caption="Means over cases, region by region; HD95 and surface Dice in the voxels of the label files.",
        columns=columns,
        rows=tuple(lines),
    )


def _tolerance_text(metric: str) -> str:
    tolerance = metric.removeprefix("nsd_").removesuffix("mm")
    return f" at {tolerance} mm" if tolerance != metric else ""


def _lines(row: TableRow) -> list[TableRow]:
    record = row.record
    regions = [("", _ALL)] if len(dice_classes(record)) != 1 else []
    regions += [(m.metric.removeprefix("dice_"), region_name(m)) for m in dice_classes(record)]
    lines = []
    for region, name in regions:
        found = [record.get(metric) for metric in region_metrics(record, region)]
        cells = {key: _cell(m) for key, m in zip(_KEYS, found, strict=True)}
        cells |= {"region": TableCell(text=name), "cases": _cases_cell(record, found[0])}
        lines.append(record_row(record, row.label, cells))
    return lines


def _cell(m: rec.Measurement | None) -> TableCell:
    """A mean, with its interval beside it wherever it is shown."""
    cell = measurement_cell(m)
    if cell.origin is None or m is None or m.ci95 is None:
        return cell
    low, high = (units.format_value(v, m.unit) for v in m.ci95)
    span = f"{low.partition(' ')[0]} to {high}"
    return TableCell(text=cell.text, origin=cell.origin, value=cell.value, detail=span, qualifier=span, note=cell.note)


def _cases_cell(record: rec.Record, dice: rec.Measurement | None) -> TableCell:
    """`44`; `40 of 44` where some are left out."""
    count = len(dice.values) if dice else 0
    asked = int(record.value("evaluated_cases") or count) + int(record.value("missing_cases") or 0)
    return TableCell(text=str(count) if count == asked else f"{count} of {asked}", value=count)


def notes(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[str]:
    """What should be known of the means: over how many cases, and whether the network knew them."""
    lines = []
    for record in filter(is_evaluation, records):
        judged, missing, seen = (record.get(name) for name in ("evaluated_cases", "missing_cases", "training_cases"))
        count = int(judged.value or 0) if judged else 0
        if missing and missing.value:
            total = count + int(missing.value)
            lines.append(f"{labels[record.id]}: its means are over {count} of {total} cases: {missing.method}")
        if seen and seen.value:
            lines.append(f"{labels[record.id]}: {int(seen.value)} of its {count} cases are {seen.method}")
    return lines


def heading(firsts: Sequence[rec.Record]) -> str:
    """The page's heading.

    Args:
        firsts: a record of each set of conditions.
    """
    names = list(dict.fromkeys(str(r.workload.data).partition(":")[0] for r in firsts))
    return f"Segmentations of {names[0]}" if len(names) == 1 else f"Segmentations of {len(names)} data sets"


def sentence(records: Sequence[rec.Record]) -> str:
    """What was done, in one sentence."""
    work = records[0].workload
    counts = [int(record.value("evaluated_cases") or 0) for record in records]
    most = max(counts)
    return (
        f"Segmentations of {units.counted(most, 'case')} of {str(work.data).partition(':')[0]} "
        f"({work.split}) were compared with their labels; nothing was timed."
    )


# -- single cases


def write_cases(records: Sequence[rec.Record], read: ReadArtifact, folder: Path) -> Path:
    """Write a line for each region of each case of each row as CSV, beside the records.

    Raises:
        StoreError: it cannot be written.
    """
    labels = row_labels(records)
    lines = [line for record in records for line in _case_lines(record, labels[record.id], read)]
    header = list(dict.fromkeys(["network", "case", "region", *(key for line in lines for key in line)]))
    path = folder / CASES
    place.write(path, writers.to_csv(header, lines))
    return path


def _case_lines(record: rec.Record, label: str, read: ReadArtifact) -> list[dict[str, Any]]:
    found = artifact_of(record, "cases", read, _parse)
    if found is None:
        return []
    ids, values = found
    regions = [("", _ALL), *((m.metric.removeprefix("dice_"), region_name(m)) for m in dice_classes(record))]
    lines = []
    for i, case in enumerate(ids):
        for region, name in regions:
            line: dict[str, Any] = {"network": label, "case": case, "region": name}
            metrics = region_metrics(record, region)
            for title, metric in zip(region_metrics(record, ""), metrics, strict=True):
                line[title] = values[metric][i] if metric in values else None
            lines.append(line)
    return lines


def _parse(content: bytes) -> tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]:
    """Cases, and metric -> a value for each of them.

    Raises:
        StoreError: it is not what it should be.
    """
    try:
        data = parse_json(content, "single cases", StoreError)
        ids = rec.value_from_json(tuple[str, ...], data["ids"], "ids")
        values = {
            str(metric): rec.value_from_json(tuple[float | None, ...], column, str(metric))
            for metric, column in data["values"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError("the metrics of single cases could not be read") from error
    if any(len(column) != len(ids) for column in values.values()):
        raise StoreError("the metrics of single cases could not be read")
    return ids, values
