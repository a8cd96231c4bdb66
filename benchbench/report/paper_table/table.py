"""A paper's table from records of one set of conditions: cells, the best of each column, and the notes below it.

A number of another origin than the rest of its column has a footnote, and so has a row that is unstable, failed, or
has no place in a ranking: cells hold numbers alone.
"""

from __future__ import annotations

import dataclasses
import math
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.errors import UsageError, unknown
from benchbench.core.version import __version__
from benchbench.report import reasons, reliability
from benchbench.report.cells import finite
from benchbench.report.conditions import Group, apart, group, has_phantom_dice
from benchbench.report.labels import paths_of, row_labels
from benchbench.report.paper_table.columns import PaperColumn, UnitScale, columns_of, scale_of, usual

Uncertainty = Literal["interval", "pm", "none"]
UNCERTAINTIES: tuple[Uncertainty, ...] = ("interval", "pm", "none")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperOptions:
    """What was asked of the table."""

    columns: tuple[str, ...] = ()  # none: the usual ones
    sort: str | None = None  # a column; None: the latency, or the Dice where nothing was timed
    caption: str | None = None
    uncertainty: Uncertainty = "interval"
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name of a network -> its title


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperCell:
    """One cell: a number with its interval, or a word; marks are those of the footnotes."""

    text: str  # `171`; empty where there is no number
    bound: str = ""  # `at_least`, `at_most`
    low: str = ""  # of the interval
    high: str = ""
    half: str = ""  # of its width, for ±
    best: bool = False
    marks: tuple[str, ...] = ()
    measurement: rec.Measurement | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperTableRow:
    """One network."""

    label: str
    record: rec.Record
    cells: tuple[PaperCell, ...]  # of the columns after the first, which is the label
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """The table, for the writers."""

    caption: str
    columns: tuple[PaperColumn, ...]  # without `model`
    heads: tuple[str, ...]  # of the columns, with units
    rows: tuple[PaperTableRow, ...]
    notes: tuple[str, ...]  # sentences
    footnotes: tuple[tuple[str, str], ...]  # mark -> sentence
    uncertainty: Uncertainty


def tables(records: Sequence[rec.Record], options: PaperOptions) -> list[PaperTable]:
    """A table for each set of conditions.

    Raises:
        UsageError: a column that no record can have.
    """
    columns = columns_of(options.columns, records) if options.columns else usual(records)
    shown = tuple(column for column in columns if column.key != "model")
    by = _sorting(options, records, columns)
    return [_table(part, shown, by, options) for part in group(records)]


def _sorting(
    options: PaperOptions, records: Sequence[rec.Record], columns: Sequence[PaperColumn]
) -> Callable[[rec.Record], tuple[bool, float, str]]:
    """Key of the rows' order: the best first, rows without a value last."""
    name = options.sort or next((c.key for c in columns if c.key in ("latency", "dice")), "model")
    try:
        (column,) = columns_of([name], records)
    except UsageError as error:
        raise UsageError(f"--sort {name}: {error}") from error
    if not (column.is_number or column.key == "model" or column.text):
        raise UsageError(unknown("column", name, [c.key for c in columns]))
    sign = -1.0 if column.better == "higher" else 1.0

    def key(record: rec.Record) -> tuple[bool, float, str]:
        m = finite(column.find(record)) if column.find else None
        word = column.text(record) if column.text else options.titles.get(record.model.name, record.model.name)
        value = sign * float(m.value) if m is not None and m.value is not None else math.inf
        return column.is_number and m is None, value if column.is_number else 0.0, word.lower()

    return key


class _Footnotes:
    """Marks by sentence, in the order in which they are first needed; equal sentences share one."""

    def __init__(self) -> None:
        self.by_text: dict[str, str] = {}

    def mark(self, text: str) -> str:
        if text not in self.by_text:
            n = len(self.by_text)
            self.by_text[text] = string.ascii_lowercase[n % 26] * (1 + n // 26)
        return self.by_text[text]


def _table(
    part: Group,
    columns: tuple[PaperColumn, ...],
    by: Callable[[rec.Record], tuple[bool, float, str]],
    options: PaperOptions,
) -> PaperTable:
    records = sorted(part.records, key=by)
    footnotes = _Footnotes()
    row_marks = {r.id: tuple(map(footnotes.mark, why)) for r, why in _of_rows(records)}
    unranked = set(reliability.without_rank(records))
    labels = _labels(records, columns, options.titles)
    ties = reliability.Ties.of(records, reliability.floors_of(part, [part]))
    filled = [_fill(column, records, unranked, ties, footnotes) for column in columns]
    rows = tuple(
        PaperTableRow(label=labels[r.id], record=r, cells=tuple(cells), marks=row_marks.get(r.id, ()))
        for r, *cells in zip(records, *(cells for cells, _ in filled), strict=True)
    )
    heads = tuple(head for _, head in filled)
    notes = _notes(part, columns, rows, options)
    return PaperTable(
        caption=options.caption if options.caption is not None else f"Networks on {part.title}",
        columns=columns,
        heads=heads,
        rows=rows,
        notes=tuple(notes),
        footnotes=tuple((mark, text) for text, mark in footnotes.by_text.items()),
        uncertainty=options.uncertainty,
    )


def _labels(records: Sequence[rec.Record], columns: Sequence[PaperColumn], titles: Mapping[str, str]) -> dict[str, str]:
    """Titles, with what tells two rows of one network apart and has no column of its own."""
    labels, paths = row_labels(records), paths_of(records)
    has_path = any(column.key in ("runtime", "precision") for column in columns)
    found = {}
    for r in records:
        label = labels[r.id]
        if has_path and paths[r.id]:
            label = label.replace(f" {paths[r.id]}", "", 1)
        if label.startswith(r.model.name):
            label = titles.get(r.model.name, r.model.name) + label.removeprefix(r.model.name)
        found[r.id] = label
    return found


def _of_rows(records: Sequence[rec.Record]) -> list[tuple[rec.Record, list[str]]]:
    """What has to be said of whole rows: those that are unstable share one sentence."""
    unstable = [r for r in records if r.status == "unstable"]
    told: dict[str, list[str]] = {}
    for kind in apart(unstable, lambda r: reasons.skeleton(reasons.fact_of(r.error or ""))).values():
        text = reasons.folded([reasons.fact_of(r.error or "") for r in kind]) or "its timings did not settle"
        for r in kind:
            told.setdefault(r.id, []).append(f"Unstable: {text}.")
    without = reliability.without_rank(records)
    for r in records:
        if not r.ok:
            told.setdefault(r.id, []).append(f"{r.status.replace('_', ' ').capitalize()}: {_sentence(r.error or '')}")
        why = without.get(r.id)
        if why and why.word != reliability.UNTRAINED:  # of which the cell of its Dice tells
            told.setdefault(r.id, []).append(_sentence(f"{why.reason[0].upper()}{why.reason[1:]}"))
    return [(r, told[r.id]) for r in records if r.id in told]


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _fill(
    column: PaperColumn,
    records: Sequence[rec.Record],
    unranked: set[str],
    ties: reliability.Ties,
    footnotes: _Footnotes,
) -> tuple[list[PaperCell], str]:
    """The cells of a column, and its head.

    Args:
        unranked: ids of the records that are the best of nothing.
        ties: of their times.
    """
    if column.find is None:
        text = column.text or (lambda _: "")
        return [PaperCell(text=text(r)) for r in records], column.title
    found = [column.find(r) for r in records]
    numbers = [m for m in map(finite, found) if m is not None]
    main = main_origin(numbers)
    scale = scale_of(numbers[0].unit, [float(m.value or 0) for m in numbers]) if numbers else UnitScale()
    cells = [_cell(r, m, scale, main, footnotes) for r, m in zip(records, found, strict=True)]
    head = f"{column.title} ({scale.unit})" if scale.unit else column.title
    if column.better is None:
        return cells, head
    ranked = {
        i: float(m.value or 0)
        for i, (r, m) in enumerate(zip(records, found, strict=True))
        if cells[i].text and m is not None and r.id not in unranked and m.origin == main and m.bound is None
    }
    if len({cells[i].text for i in ranked}) > 1:
        first = (min if column.better == "lower" else max)(ranked, key=lambda i: ranked[i])
        seconds = {records[i].id: value for i, value in ranked.items()}

        def is_slower(i: int, j: int) -> bool:
            return ties.is_faster(records[j].id, records[i].id, seconds, numbers[0].metric)

        for i in ranked:
            best = cells[i].text == cells[first].text or (numbers[0].unit == "s" and not is_slower(i, first))
            cells[i] = dataclasses.replace(cells[i], best=best)
    return cells, head


def main_origin(numbers: Sequence[rec.Measurement]) -> str | None:
    """The origin that a column's head speaks of: that of most of its numbers."""
    counts = Counter(m.origin for m in numbers)
    return counts.most_common(1)[0][0] if counts else None


def _cell(
    record: rec.Record, m: rec.Measurement | None, scale: UnitScale, main: str | None, footnotes: _Footnotes
) -> PaperCell:
    number = finite(m)
    if m is None or number is None or number.value is None:
        why = m.reason if m is not None and record.ok else None
        return PaperCell(text="", marks=(footnotes.mark(_reason(why)),) if why else (), measurement=m)
    value = float(number.value) / scale.divisor
    text = _number(value, number)
    marks = (footnotes.mark(_foreign(number)),) if number.origin != main else ()
    cell = PaperCell(text=text, bound=number.bound or "", marks=marks, measurement=number)
    span = number.interval or number.ci95
    if span is None:
        return cell
    low, high = (end / scale.divisor for end in span)
    places = len(text.partition(".")[2])
    half = max(value - low, high - value, 0.0)
    while places < 6 and half and float(f"{half:.{places}f}") == 0:
        places += 1
    return dataclasses.replace(cell, low=_number(low, number), high=_number(high, number), half=f"{half:.{places}f}")


def _number(value: float, m: rec.Measurement) -> str:
    """Three digits, of Dice three decimals, of counts all."""
    if m.metric == "lost_dice":
        return f"{round(value, 4) + 0.0:.4f}"
    if m.unit == "1":
        return f"{value:.3f}"
    return f"{value:.0f}" if m.unit == "cases" else units.significant(value)


def _reason(why: str) -> str:
    """Why there is no number, without the command that would make one."""
    return f"No value: {_sentence(why.partition(': ')[0].partition('; ')[0])}"


_FOREIGN = {
    "analytic": "Not measured, but counted from the graph",
    "predicted": "Not measured, but forecast by a model of the device",
    "measured": "Measured",
    "reference": "Measured earlier, elsewhere",
    "published": "From the literature, not checked here",
}


def _foreign(m: rec.Measurement) -> str:
    bound = "" if m.bound is None else f", {m.bound.replace('_', ' ')} this"
    source = f" ({m.source})" if m.source else ""
    return f"{_FOREIGN[m.origin]}{bound}{source}: {_sentence(m.method)}"


_HOW = {
    "measured": "measured",
    "analytic": "exact, counted from the graph",
    "predicted": "forecast by a model of the device, on which nothing ran",
    "reference": "measured earlier, elsewhere",
    "published": "from the literature",
}


def _notes(
    part: Group, columns: Sequence[PaperColumn], rows: Sequence[PaperTableRow], options: PaperOptions
) -> list[str]:
    """Conditions, the origin of each column, what brackets and bold mean."""
    first, work = part.first, part.first.workload
    torch = first.environment.get("torch")
    software = f"benchbench {first.environment.get('benchbench', __version__)}" + (
        f", PyTorch {torch}" if torch else ""
    )
    where = [f"{part.title}; protocol {work.protocol}; {software}."] if options.caption is not None else []
    notes = where or [f"Protocol {work.protocol}; {software}."]
    by_origin: dict[str, list[str]] = {}
    for i, column in enumerate(columns):
        numbers = [m for row in rows if (m := finite(row.cells[i].measurement)) is not None]
        if origin := main_origin(numbers):
            title = column.title if column.title[1:2].isupper() or column.key == "dice" else column.title.lower()
            by_origin.setdefault(origin, []).append(title)
    if by_origin:
        told = "; ".join(f"{', '.join(titles)}: {_HOW[origin]}" for origin, titles in by_origin.items())
        notes.append(f"{told[0].upper()}{told[1:]}.")
    notes += _of_numbers(columns, rows, options)
    if any(c.key.startswith("dice") for c in columns) and any(has_phantom_dice(row.record) for row in rows):
        notes.append("The Dice is of semi-synthetic images and says nothing about patients.")
    return notes


def _of_numbers(columns: Sequence[PaperColumn], rows: Sequence[PaperTableRow], options: PaperOptions) -> list[str]:
    """What the signs in the cells mean."""
    cells = [cell for row in rows for cell in row.cells]
    notes = []
    if options.uncertainty != "none" and any(cell.low for cell in cells):
        range_only = all(cell.measurement and cell.measurement.interval for cell in cells if cell.low)
        what = "range of the forecast" if range_only else "95 % interval"
        notes.append(
            f"In brackets: {what}." if options.uncertainty == "interval" else f"After ±: the wider half of the {what}."
        )
    keys = {column.key for column in columns}
    if "flops" in keys:
        notes.append("FLOPs are twice the MACs.")
    if "latency" in keys:
        training = any(row.record.workload.phase == "train" for row in rows)
        notes.append(f"Latency is the median of a {'training step' if training else 'forward'} of one batch.")
    if any(cell.bound for cell in cells):
        notes.append("Numbers with ≥ or ≤ are bounds.")
    if any(cell.best for cell in cells):
        times = any(cell.best and cell.measurement and cell.measurement.unit == "s" for cell in cells)
        notes.append(f"Bold: the best of its column{', and times that the noise does not tell from it' * times}.")
    return notes
