"""Tables: columns and rows of cells; and the table of a run.

Cells are made in `cells`, labels and shared reasons in `labels`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from benchbench.core import qualification, units
from benchbench.core import records as rec
from benchbench.core.evaluation import are_evaluations, surface_dice
from benchbench.report import reliability
from benchbench.report.cells import (
    BASELINE,
    NOTHING,
    TableCell,
    dice_cell,
    finite,
    lost_dice_cell,
    measurement_cell,
    memory_cell,
    ratio_cell,
    runtime_text,
    throughput_cell,
    valid,
)
from benchbench.report.conditions import EAGER_FP32, dtypes, patches_differ, path_of, runtimes
from benchbench.report.labels import (
    STATUS_TEXT,
    fits_lines,
    paths_of,
    row_labels,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one column holds; neighbours with the same `group` share a heading above theirs."""

    key: str  # `latency_s`; `status` is a word, not a number; `rank` needs no letter of its own
    title: str
    help: str  # one sentence
    group: str = ""
    kind: Literal["number", "text", "word", "prose"] = "number"  # `text`: a number under a heading of several lines


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One network."""

    label: str  # tells apart two rows of one network
    cells: Mapping[str, TableCell]  # by the key of the column; a key that is not there is a dash
    path: str = ""  # runtime and precision, with which the label ends where rows differ in them
    card: str = ""  # the card's name, where the label is another
    status: str = "ok"
    source: rec.Record | None = None  # what the row shows, where that is one record

    @property
    def name(self) -> str:
        """The label without runtime and precision: for a table that has columns of these."""
        return self.label.replace(f" {self.path}", "", 1) if self.path else self.label

    @property
    def record(self) -> rec.Record:
        """The record of a row that shows one."""
        assert self.source is not None
        return self.source

    @property
    def usable(self) -> bool:
        """Whether the cell was measured or predicted to its end."""
        return self.status in ("ok", "unstable")

    def cell(self, key: str) -> TableCell:
        """The cell of a column."""
        return self.cells.get(key, NOTHING)

    @property
    def sort_values(self) -> str:
        """What the page's script sorts by, as JSON."""
        values = {key: cell.value for key, cell in self.cells.items() if cell.value is not None}
        return json.dumps(values | {"model": self.label}, sort_keys=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Named columns and a row for each network, whose label stands before them."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    key: str = ""  # unique on the page
    title: str = ""
    caption: str = ""
    head: str = "Network"  # of the labels
    sorted_by: tuple[str, Literal["ascending", "descending"]] | None = None
    notes: tuple[str, ...] = ()
    cards: bool = False  # whether each row also names its network of the zoo

    @property
    def column_origins(self) -> dict[str, str]:
        """Column -> the origin that all its numbers share, which then stands in its head; empty where they differ."""
        found = {}
        for column in self.columns:
            origins = {cell.origin for row in self.rows if (cell := row.cell(column.key)).origin}
            found[column.key] = str(next(iter(origins))) if len(origins) == 1 and column.key != "rank" else ""
        return found

    @property
    def heads(self) -> list[tuple[str, int]]:
        """The shared headings and how many columns each spans; empty where there are none."""
        if not any(c.group for c in self.columns):
            return []
        return [(name, len(list(members))) for name, members in itertools.groupby(self.columns, lambda c: c.group)]


def record_row(record: rec.Record, label: str, cells: Mapping[str, TableCell]) -> TableRow:
    """The row of one record."""
    return TableRow(label=label, cells=cells, card=record.model.name, status=record.status, source=record)


#: What a deployment takes besides: too many columns for a page, whose sections of single networks have them.
DEPLOYMENT = {"prepare_s": "Prepare", "first_answer_s": "First answer", "artefact_bytes": "Artefact"}

_TITLES = {
    "runtime": "Runtime",
    "dtype": "Precision",
    "params": "Params",
    "macs": "MACs",
    "patch": "Patch",
    "latency_s": "Latency",
    "train_step_s": "Training step",
    "rank": "Rank",
    "ratio": f"vs {BASELINE}",
    "throughput_patches_per_s": "Throughput",
    "memory_bytes": "Peak memory",
    "dice": "Dice",
    "hd95_mm": "HD95",
    "nsd": "Surface Dice",
    "evaluated_cases": "Cases",
    "lost_dice": "Lost Dice",
    **DEPLOYMENT,
    "status": "Status",
}
_OF_EVALUATIONS = ("hd95_mm", "nsd", "evaluated_cases")
_WORDS = ("runtime", "dtype", "status")  # columns without numbers
_HELP = {
    "runtime": "what runs the network; eager is PyTorch as the network was published",
    "dtype": "precision of the computation",
    "params": "elements of every nn.Parameter, each counted once",
    "macs": "multiply-accumulates of one forward of one batch",
    "patch": "the input of one forward, voxels: the smallest that the network takes",
    "latency_s": "one forward of one batch, median",
    "train_step_s": "forward, loss, backward and optimiser of one batch, median",
    "rank": "by time; rows that differ by no more than the noise floor, or 2 %, tie",
    "ratio": f"latency as a multiple of {BASELINE}'s, same conditions",
    "throughput_patches_per_s": "patches per second at this batch size",
    "memory_bytes": "highest resident memory; where it was not measured, the forecast of the tensors alone, a lower "
    "bound",
    "dice": "mean over regions and cases; each region below it",
    "hd95_mm": "95th percentile of the surface distances, mean over regions and cases",
    "nsd": "share of both surfaces that lies within the tolerance of the other, mean over regions and cases",
    "evaluated_cases": "over how many cases the means are",
    "lost_dice": "Dice of eager PyTorch in fp32 less this row's, mean over the same cases",
    "prepare_s": "export, conversion and quantization, once",
    "first_answer_s": "from loading the network to its first output",
    "artefact_bytes": "files that a deployment needs",
    "status": "finished, or why not",
}
_TRAINING_HELP = {
    "ratio": f"the step as a multiple of {BASELINE}'s, same conditions",
    "throughput_patches_per_s": "patches trained on per second at this batch size",
    "memory_bytes": "highest resident memory during steps; else the forecast of the tensors alone, a lower bound",
}


def headline(records: Sequence[rec.Record]) -> str:
    """The metric by which the rows are sorted: `latency_s`, `train_step_s` of a training, `dice` where nothing ran."""
    if are_evaluations(records):
        return "dice"
    return "train_step_s" if records and records[0].workload.phase == "train" else "latency_s"


def summary_rows(
    records: Sequence[rec.Record],
    floors: reliability.Floors | None = None,
    *,
    include_predicted: bool = False,
    deployment: bool = False,
) -> Table:
    """The table at the end of a run and on the page.

    Args:
        records: measured under one set of conditions; the caller keeps others apart
            (`conditions.group`). The order is kept.
        floors: the noise floors by which rows tie; those of the records if None.
        include_predicted: whether forecasts have ranks, too.
        deployment: whether what a deployment takes besides has columns.
    """
    labels, paths = row_labels(records), paths_of(records)
    baseline = baseline_of(records)
    origins: tuple[rec.Origin, ...] = ("measured", "predicted") if include_predicted else ("measured",)
    without = reliability.without_rank(records)
    ranked = _ranks(records, without, reliability.noise_floors(records) if floors is None else floors, origins)
    known: dict[TableCell, TableCell] = {}  # thousands of rows have few cells of their own
    rows = []
    for r in records:
        cells = {key: known.setdefault(cell, cell) for key, cell in (_cells(r, baseline) | ranked[r.id]).items()}
        rows.append(dataclasses.replace(record_row(r, labels[r.id], cells), path=paths[r.id]))
    training, own_patches = headline(records) == "train_step_s", patches_differ(records)
    shown = {
        "runtime": runtimes(records) not in ([], ["eager"]),
        "dtype": dtypes(records) not in ([], ["fp32"]),
        "patch": own_patches,
        "latency_s": not training,
        "train_step_s": training,
        # of unlike work there is neither; a whole patient has them
        "rank": not own_patches and sum(row.cells["rank"].value is not None for row in rows) > 1,
        "ratio": not own_patches and any(row.cells["ratio"].value is not None for row in rows),
        "dice": not training and any(r.get("dice") for r in records),
        "lost_dice": any(row.cells["lost_dice"].value is not None for row in rows),
        **dict.fromkeys(_OF_EVALUATIONS, False),
    } | {key: deployment and any(row.cells[key].value is not None for row in rows) for key in DEPLOYMENT}
    if are_evaluations(records):  # nothing was timed or counted
        shown |= {key: key in _OF_EVALUATIONS for key in _TITLES if key not in ("dtype", "dice", "status")}
        shown["params"] = any(row.cells["params"].value is not None for row in rows)
    help_texts = _HELP | (_TRAINING_HELP if training else {})
    columns = tuple(
        Column(key=key, title=title, help=help_texts[key], kind="word" if key in _WORDS else "number")
        for key, title in _TITLES.items()
        if shown.get(key, True)
    )
    return Table(columns=columns, rows=tuple(rows), head="Model")


def baseline_of(records: Sequence[rec.Record]) -> rec.Record | None:
    """The row that the others are set against: of eager PyTorch in fp32, where there is one."""
    rows = [r for r in records if r.model.name == BASELINE and not r.recipe]
    return next((r for r in rows if path_of(r) == EAGER_FP32), rows[0] if rows else None)


def _ranks(
    records: Sequence[rec.Record],
    without: Mapping[str, reliability.NoRank],
    floors: reliability.Floors,
    origins: Sequence[rec.Origin],
) -> dict[str, dict[str, TableCell]]:
    """Record id -> its `rank`, and of a row without one what else compares its time with others'.

    A prediction is no time, and gets no rank unless it is asked for.
    """
    main, ties = headline(records), reliability.Ties.of(records, floors)
    timed = {r.id: m for r in records if r.id not in without and (m := finite(valid(r, main))) and m.origin in origins}
    timed = {} if main == "dice" else timed
    found = ties.ranks({i: float(m.value or 0) for i, m in timed.items()}, main)
    cells = {}
    for record in records:
        if rank := found.get(record.id):
            ranked = TableCell(
                text=rank,
                origin=timed[record.id].origin,
                value=float(rank.rstrip("=")),
                qualifier="unstable" if record.status == "unstable" else "",
                note=ties.how(record, main),
            )
            cells[record.id] = {"rank": ranked}
        else:
            cells[record.id] = unranked_cells(without.get(record.id))
    return cells


def unranked_cells(why: reliability.NoRank | None) -> dict[str, TableCell]:
    """The cells `rank` and `ratio` of a row without a rank; of a faster path of one network the ratio stays.

    Args:
        why: None: it has no measured time.
    """
    if why is None:
        return {"rank": TableCell(text="-", note="only a measured time has a rank")}
    cell = TableCell(text="-", detail=why.word, note=why.reason)
    keys = ("rank",) if why.word == qualification.UNQUALIFIED else ("rank", "ratio")
    return dict.fromkeys(keys, cell)


def _cells(record: rec.Record, baseline: rec.Record | None) -> dict[str, TableCell]:
    status = record.error or STATUS_TEXT[record.status]
    spatial, main = record.workload.spatial, headline([record])
    most_lost = record.workload.int8_accuracy
    more = [*fits_lines(record), *reliability.unqualified([record]).values()]
    return {
        "runtime": TableCell(text=runtime_text(record)),
        "dtype": TableCell(text=record.workload.dtype, detail=f"loss < {most_lost:g}" if most_lost else ""),
        "status": TableCell(text=record.status, detail="; ".join(more), note=status),
        "patch": TableCell(text=units.format_shape(spatial), value=math.prod(spatial)),
        "params": measurement_cell(record.get("params")),
        "macs": measurement_cell(record.get("macs")),
        "latency_s": measurement_cell(valid(record, "latency_s")),
        main: measurement_cell(valid(record, main)),
        "throughput_patches_per_s": throughput_cell(record),
        "ratio": ratio_cell(record, baseline, main),
        "memory_bytes": memory_cell(record),
        "dice": dice_cell(record),
        "hd95_mm": measurement_cell(valid(record, "hd95_mm")),
        "nsd": measurement_cell(valid(record, surface_dice(record) or "nsd")),
        "evaluated_cases": measurement_cell(valid(record, "evaluated_cases")),
        "lost_dice": lost_dice_cell(record),
    } | {metric: measurement_cell(valid(record, metric)) for metric in DEPLOYMENT}
