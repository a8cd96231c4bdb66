"""Tables: columns and rows of cells, every number with its origin; and the table of a run.

A cell is text plus where it came from, and keeps the plain number for sorting. A column may mix origins: one row's
memory is measured, another's is only forecast. So the origin belongs to the cell and never to the column.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from benchbench.core import qualification, units
from benchbench.core import records as rec
from benchbench.core.evaluation import are_evaluations, surface_dice
from benchbench.report import reliability
from benchbench.report.conditions import (
    EAGER_FP32,
    apart,
    dtypes,
    has_phantom_dice,
    patches_differ,
    path_of,
    runtimes,
)

#: Origin -> (letter of the badge, what it means).
ORIGIN_LEGEND: Mapping[str, tuple[str, str]] = {
    "measured": ("M", "measured on the device named in the conditions"),
    "analytic": ("A", "exact, counted from the network's graph; nothing was timed"),
    "predicted": ("P", "from a device model; nothing ran on that device"),
    "reference": ("R", "measured earlier, elsewhere; the record's id says where"),
    "published": ("L", "from the literature, not checked here"),
}

#: The badge of what a public counter says. No record has it as an origin: such a figure is exact about
#: the counter and may be wrong about the network.
COUNTER_LEGEND: Mapping[str, tuple[str, str]] = {
    "counter": ("C", "count of a public tool, run here on the same network; shown for comparison, it may be wrong"),
}

#: What a status means, for a person.
STATUS_TEXT: Mapping[str, str] = {
    "ok": "finished",
    "unstable": "unstable: the timings did not settle",
    "oom": "out of memory",
    "timeout": "out of time",
    "unsupported": "unsupported",
    "failed": "failed",
    "not_run": "not run",
}

#: The network that the others are set against.
BASELINE = "slim_unetr"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """One value for a person, with the plain number beside it."""

    text: str  # `171 ms`, `at least 43 ms`, or `-`
    origin: rec.Origin | Literal["counter"] | None = None  # None: there is no number, or it is a name
    value: float | None = None  # in the unit of the measurement; what sorting uses
    detail: str = ""  # a second line: the interval, the classes
    qualifier: str = ""  # stands beside the number wherever it is shown: a prediction's range, `semi-synthetic`
    note: str = ""  # method, source, or why there is no number


NOTHING = TableCell(text="-", note="not recorded")


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
    def heads(self) -> list[tuple[str, int]]:
        """The shared headings and how many columns each spans; empty where there are none."""
        if not any(c.group for c in self.columns):
            return []
        return [(name, len(list(members))) for name, members in itertools.groupby(self.columns, lambda c: c.group)]


def tally(records: Sequence[rec.Record], rows: str, verb: str = "finished") -> str:
    """`4 of 5 rows finished; unet3d out of memory`."""
    paths = paths_of(records)
    failed = [f"{_joined(r.model.name, paths[r.id])} {STATUS_TEXT[r.status]}" for r in records if not r.ok]
    text = f"{len(records) - len(failed)} of {rows} {verb}"
    return f"{text}; {units.first_few(failed, 6)}" if failed else text


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
    ranked = _ranks(records, reliability.noise_floors(records) if floors is None else floors, origins)
    rows = tuple(
        dataclasses.replace(
            record_row(r, labels[r.id], _cells(r, baseline) | {"rank": ranked[r.id]}),
            path=paths[r.id],
        )
        for r in records
    )
    training, own_patches = headline(records) == "train_step_s", patches_differ(records)
    shown = {
        "runtime": runtimes(records) not in ([], ["eager"]),
        "dtype": dtypes(records) not in ([], ["fp32"]),
        "patch": own_patches,
        "latency_s": not training,
        "train_step_s": training,
        # of unlike work there is neither; a whole patient has them
        "rank": not own_patches and sum(cell.value is not None for cell in ranked.values()) > 1,
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
    return Table(columns=columns, rows=rows, head="Model")


def baseline_of(records: Sequence[rec.Record]) -> rec.Record | None:
    """The row that the others are set against: of eager PyTorch in fp32, where there is one."""
    rows = [r for r in records if r.model.name == BASELINE and not r.recipe]
    return next((r for r in rows if path_of(r) == EAGER_FP32), rows[0] if rows else None)


def row_labels(records: Sequence[rec.Record], *, beside: Sequence[rec.Record] = ()) -> dict[str, str]:
    """Record id -> the model's name, with recipe, runtime, precision and the id's start where that tells rows apart.

    Args:
        records: each gets a label of its own.
        beside: records of other tables, if they are shown together: what differs among all of them is said.
    """
    paths = paths_of([*records, *beside])
    names = {r.id: r.model.name + (f" [{_recipe(r.recipe)}]" if r.recipe and _is_unnamed(r) else "") for r in records}
    names = {i: _joined(name, paths[i]) for i, name in names.items()}
    repeated = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {i: f"{name} #{i[:6]}" if name in repeated else name for i, name in names.items()}


def paths_of(records: Sequence[rec.Record]) -> dict[str, str]:
    """Record id -> runtime and precision, as far as these rows differ in them: `openvino bf16`, or nothing.

    Int8 with a bound on what it may lose is `openvino int8 < 0.005` beside int8 without, or with another.
    """
    several = len(runtimes(records)) > 1, len(dtypes(records)) > 1
    bounds = len({r.workload.int8_accuracy for r in records if r.workload.dtype == "int8"}) > 1
    paths = {}
    for record in records:
        words = [word for word, told in zip(path_of(record), several, strict=True) if told]
        most = record.workload.int8_accuracy if bounds else None
        paths[record.id] = " ".join([*words, *([f"< {most:g}"] if most else [])])
    return paths


def _joined(name: str, path: str) -> str:
    return f"{name} {path}" if path else name


def _is_unnamed(record: rec.Record) -> bool:
    """Whether a compressed network bears the name of the one it was made from."""
    return bool((record.recipe or {}).get("parent", record.model.name) == record.model.name)


_LONG = ("root", "parent", "parent_sha256")  # of a recipe: told in the network's own section


def _recipe(recipe: Mapping[str, object]) -> str:
    plain = {k: v for k, v in recipe.items() if not isinstance(v, (Mapping, list, tuple)) and k not in _LONG}
    return ", ".join(f"{k}={v}" for k, v in sorted(plain.items())) or "compressed"


def _ranks(
    records: Sequence[rec.Record], floors: reliability.Floors, origins: Sequence[rec.Origin]
) -> dict[str, TableCell]:
    """Record id -> its rank.

    A prediction is no time, and gets none unless it is asked for; nor does a network whose Dice is of no use, or one
    that may be another network than eager PyTorch in fp32.
    """
    main, within = headline(records), reliability.tolerances(records, floors)
    unqualified = reliability.unqualified(records)
    without = reliability.useless(records) | unqualified
    timed = {r.id: m for r in records if r.id not in without and (m := finite(valid(r, main))) and m.origin in origins}
    timed = {} if main == "dice" else timed
    found = reliability.ranks({i: float(m.value or 0) for i, m in timed.items()}, within)
    cells = {}
    for record in records:
        if rank := found.get(record.id):
            cells[record.id] = TableCell(
                text=rank,
                origin=timed[record.id].origin,
                value=float(rank.rstrip("=")),
                qualifier="unstable" if record.status == "unstable" else "",
                note=f"by {main}; within {units.percent(within[record.id], trim=True)} rows tie",
            )
        else:
            cells[record.id] = TableCell(
                text="-",
                detail=qualification.UNQUALIFIED if record.id in unqualified else "",
                note=without.get(record.id, "only a measured time has a rank"),
            )
    return cells


def fits_lines(record: rec.Record) -> list[str]:
    """What would have fitted of a row that ran out of memory: `largest patch that fits: ...`."""
    lines = []
    for metric, what in (("largest_patch_voxels", "patch"), ("largest_batch", "batch")):
        m = record.get(metric)
        if m is None:
            continue
        if finite(m) is not None:
            lines.append(f"largest {what} that fits: {bounded_text(m)} ({m.method})")
        elif m.reason:
            lines.append(f"largest {what} that fits: not known, {m.reason}")
    return lines


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
        "throughput_patches_per_s": _throughput_cell(record),
        "ratio": ratio_cell(valid(record, main), valid(baseline, main)),
        "memory_bytes": memory_cell(record),
        "dice": _dice_cell(record),
        "hd95_mm": measurement_cell(valid(record, "hd95_mm")),
        "nsd": measurement_cell(valid(record, surface_dice(record) or "nsd")),
        "evaluated_cases": measurement_cell(valid(record, "evaluated_cases")),
        "lost_dice": _lost_dice_cell(record),
    } | {metric: measurement_cell(valid(record, metric)) for metric in DEPLOYMENT}


def _lost_dice_cell(record: rec.Record) -> TableCell:
    if record.ok and path_of(record) == EAGER_FP32:
        return TableCell(text="-", note="the others are held against this row")
    return measurement_cell(valid(record, "lost_dice"))


def runtime_text(record: rec.Record) -> str:
    """`openvino`; `openvino, rewritten` where it runs the network's own form for inference."""
    return record.workload.runtime + (", rewritten" if record.value("rewritten_for_inference") else "")


def _throughput_cell(record: rec.Record) -> TableCell:
    """Patches per second; of a training without them, from the step and the batch."""
    cell = measurement_cell(valid(record, "throughput_patches_per_s"))
    if cell.origin == "measured":  # its interval is that of the latency, which stands beside it
        return dataclasses.replace(cell, detail="")
    if cell.value is not None or record.workload.phase != "train":
        return cell
    step = finite(valid(record, "train_step_s"))
    if step is None or not step.value:
        return TableCell(text="-", note="needs a training step")
    rate = record.workload.batch / step.value
    text = units.format_value(rate, "1/s")
    return TableCell(text=text, origin=step.origin, value=rate, note="batch / train_step_s")


def valid(record: rec.Record | None, metric: str) -> rec.Measurement | None:
    """The measurement, unless the row failed: what was timed before a failure does not count.

    A network in half precision whose output is wrong has latencies, and status `failed`.
    """
    if record is None or not record.ok:
        return None
    return record.get(metric)


def measurement_cell(m: rec.Measurement | None) -> TableCell:
    """One measurement as a cell; `-` with the reason where there is no value."""
    if m is None or m.value is None:
        return TableCell(text="-", note=(m.reason if m else None) or NOTHING.note)
    if m.metric == "fits_in_memory" and m.origin == "predicted":
        return TableCell(text=fits_text(m), origin=m.origin, value=float(m.value), note=m.method)
    if finite(m) is None:
        return TableCell(text="-", note=f"the record holds {m.value}, which is no number")
    span = range_text(m)
    return TableCell(
        text=bounded_text(m),
        origin=m.origin,
        value=float(m.value),
        detail=span,
        qualifier=span if m.origin == "predicted" else "",
        note=m.method + (f"; source: {m.source}" if m.source else ""),
    )


def finite(m: rec.Measurement | None) -> rec.Measurement | None:
    """The measurement where it holds a number, else None."""
    return m if m is not None and m.value is not None and math.isfinite(m.value) else None


def bounded_text(m: rec.Measurement) -> str:
    """`171 ms`, or `at least 43 ms` where the value is a bound."""
    text = _text(m.value, m)
    return text if m.bound is None else f"{m.bound.replace('_', ' ')} {text}"


def _text(value: float | int | None, m: rec.Measurement) -> str:
    """A value of a measurement; what is compared with eager PyTorch differs by too little for three decimals."""
    if value is None or not math.isfinite(value):
        return units.format_value(value, m.unit)
    if m.metric == "lost_dice":
        return f"{round(value, 4) + 0.0:.4f}"  # no minus before a zero
    return f"{value:.2g}" if m.metric in _TINY else units.format_value(value, m.unit)


_TINY = ("output_max_error", "output_rel_error", "mask_changed_share")


def range_text(m: rec.Measurement) -> str:
    """The interval of a measurement and what kind of interval it is, or nothing."""
    if m.interval is not None:
        return _span(m.interval, m)
    if m.ci95 is not None:
        return f"95 % CI {_span(m.ci95, m)}"
    if m.metric == "warmup_s":  # its value is a total, its samples are single forwards
        return f"{len(m.values)} forwards" if m.values else ""
    if m.metric.endswith("_s") and len(apart := reliability.split(m)) > 1:
        medians = [statistics.median(run) for run in apart]
        return f"medians {_span((min(medians), max(medians)), m)}, {len(medians)} processes"
    if m.metric.endswith("_s") and len(m.values) > 1:
        return f"range {_span((min(m.values), max(m.values)), m)}, n = {len(m.values)}"
    return ""


def _span(pair: tuple[float, float], m: rec.Measurement) -> str:
    low, high = (_text(v, m) for v in pair)
    number, _, suffix = low.partition(" ")
    return f"{number if suffix and high.endswith(' ' + suffix) else low} to {high}"


def memory_cell(record: rec.Record) -> TableCell:
    """The measured peak; without one, the forecast of the tensors, labelled as the bound it is."""
    train = "train_" if record.workload.phase == "train" else ""
    peak, tensors = valid(record, f"{train}peak_memory_bytes"), record.get(f"{train}tensor_memory_bytes")
    if finite(peak) is not None:
        return measurement_cell(peak)
    if record.workload.runtime != "eager":  # another runtime keeps other tensors than the forecast's
        return measurement_cell(peak)
    if finite(tensors) is None:
        return measurement_cell(peak or tensors)
    cell = measurement_cell(tensors)
    fits = record.get("fits_in_memory")
    detail = "" if fits is None or fits.value is None else f"; {fits_text(fits)}"
    return dataclasses.replace(
        cell,
        detail=f"tensors only{detail}",
        qualifier=fits_text(fits) if fits is not None and fits.value == 0 else "",
        note=f"forecast, not measured: {cell.note}",
    )


def fits_text(m: rec.Measurement) -> str:
    """What `fits_in_memory` says: that the tensors do not fit is sure, that they do is only a hope."""
    return "may fit" if m.value else "does not fit"


def ratio_cell(own: rec.Measurement | None, base: rec.Measurement | None) -> TableCell:
    """One time as a multiple of the baseline's; what kind of ratio it is where the two are bounds."""
    own, base = finite(own), finite(base)
    if own is None or base is None or not own.value or not base.value:
        return TableCell(text="-", note=f"needs a time here and for {BASELINE}")
    ratio = own.value / base.value
    origin: rec.Origin = own.origin if own.origin == base.origin else "predicted"
    note = f"{own.metric} divided by that of {BASELINE}"
    of_bounds = ""
    if (own.bound or base.bound) and own is not base:
        of_bounds = "ratio of bounds"
        note += "; a ratio of two lower bounds is itself no bound"
    return TableCell(
        text=units.times(ratio), origin=origin, value=ratio, detail=of_bounds, qualifier=of_bounds, note=note
    )


def _dice_cell(record: rec.Record) -> TableCell:
    dice = valid(record, "dice")
    cell = measurement_cell(dice)
    if dice is None or finite(dice) is None:
        return cell
    classes = [(region_name(m), m) for m in dice_classes(record)]
    pairs = (f"{name}\u00a0{units.format_value(m.value, m.unit)}" for name, m in classes if m.value is not None)
    detail = ", ".join(pairs)  # no line break inside a pair
    mixed = {m.origin for _, m in classes if m.value is not None} - {dice.origin}
    if mixed:
        detail += f" (classes: {', '.join(sorted(mixed))})"
    qualifier = "semi-synthetic" if has_phantom_dice(record) else ""
    return dataclasses.replace(cell, detail="; ".join(filter(None, (qualifier, detail))), qualifier=qualifier)


def missing_dice(records: Sequence[rec.Record]) -> list[str]:
    """Why finished rows have no Dice: a line for each reason, with the networks that it is of."""

    def reason_of(record: rec.Record) -> str | None:
        dice = valid(record, "dice")
        return dice.reason if dice is not None and dice.value is None else None

    names = {r.id: r.model.name for r in records}
    return [f"no Dice of {', '.join(those)}: {reason}" for reason, those in by_reason(records, names, reason_of)]


def unqualified_lines(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[str]:
    """Which finished rows take no rank since they may be other networks, a line for each reason, and what to do."""
    found = reliability.unqualified(records)
    return [
        f"{', '.join(those)}: {reason}; {reliability.TO_QUALIFY}"
        for reason, those in by_reason(records, labels, lambda record: found.get(record.id))
    ]


def not_possible(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Why rows did not finish, and which, the reason of most rows first."""

    def reason_of(record: rec.Record) -> str | None:
        if record.ok:
            return None
        return f"{record.status.replace('_', ' ')}: {record.error or STATUS_TEXT[record.status]}"

    return sorted(by_reason(records, labels, reason_of), key=lambda pair: -len(pair[1]))


def by_reason(
    records: Sequence[rec.Record], labels: Mapping[str, str], reason_of: Callable[[rec.Record], str | None]
) -> list[tuple[str, list[str]]]:
    """Each reason that rows have, and the labels of these rows, each once.

    Where reasons differ in the network's own name alone, they are one, and the name becomes MODEL.
    """

    def key(record: rec.Record) -> str:
        return (reason_of(record) or "").replace(f" {record.model.name} ", " MODEL ")

    found = []
    for reason, those in apart(filter(key, records), key).items():
        (name, *others) = dict.fromkeys(r.model.name for r in those)
        text = reason if others else reason.replace(" MODEL ", f" {name} ")
        found.append((text, list(dict.fromkeys(labels[r.id] for r in those))))
    return found


def region_name(m: rec.Measurement) -> str:
    """`WT`, `anterior`: the region that a Dice is of."""
    name = m.metric.removeprefix("dice_").replace("_", " ")
    return name.upper() if len(name) <= 3 else name


def dice_classes(record: rec.Record) -> list[rec.Measurement]:
    """The Dice of each class, WT, TC and ET first."""
    order = {"dice_wt": 0, "dice_tc": 1, "dice_et": 2}
    found = [m for m in record.measurements if m.metric.startswith("dice_") and m.origin != "published"]
    return sorted(found, key=lambda m: (order.get(m.metric, 9), m.metric))
