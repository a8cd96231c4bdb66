"""Part of a page: one set of conditions, with its picture, tables, figures and what is folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from benchbench.core import records as rec
from benchbench.core.evaluation import are_evaluations, is_evaluation
from benchbench.core.units import first_few
from benchbench.report import accuracy, caveats, conditions, main_table, paired_dice, reliability, shown_rows
from benchbench.report.audit import section as audit_section
from benchbench.report.choice.section import Told
from benchbench.report.details import ReadArtifact
from benchbench.report.figures import curves, roofline, runtimes, scaling, style, volumes
from benchbench.report.figures import memory as figures_memory
from benchbench.report.figures import overview as figures_overview
from benchbench.report.figures import samples as figures_samples
from benchbench.report.figures.style import Drawing
from benchbench.report.labels import fits_lines, not_possible
from benchbench.report.slim_unetr_paper import claims
from benchbench.report.tables import Table, TableRow, headline, summary_rows

_SMALLEST_FIGURE_BYTES = 5_000
_FEW_ROWS = 12  # so many fold by no architecture


@dataclasses.dataclass(slots=True)
class Budget:
    """Figures shown until their share of the page is spent; one that was shown already is not shown again."""

    left_bytes: int
    seen: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    @property
    def spent(self) -> bool:
        """Whether not even a small figure has room."""
        return self.left_bytes < _SMALLEST_FIGURE_BYTES

    def show(self, drawing: Drawing) -> Drawing | None:
        """The figure, or None where there is no room."""
        size = len(drawing.svg.encode())
        if size > self.left_bytes:
            return None
        self.left_bytes -= size
        return drawing

    def is_new(self, drawing: Drawing, prefix: str) -> bool:
        """Whether no equal figure was asked about before; `prefix` begins its ids."""
        key = drawing.title, drawing.svg.replace(prefix, "")
        known = key in self.seen
        self.seen.add(key)
        return not known


def part(
    group: conditions.Group,
    groups: Sequence[conditions.Group],
    budget: Budget,
    read: ReadArtifact,
    told: Told | None,
    *,
    include_predicted: bool,
    paper: bool,
    beside: bool,
    named: Sequence[str],
    file: str,
) -> dict[str, Any]:
    """What the template needs of one set of conditions.

    Args:
        group: the set.
        groups: of the page.
        budget: of its figures.
        read: gives the content of an artifact.
        told: its headline; None where it has none.
        include_predicted: whether forecasts are ranked, too.
        paper: whether the claims of the Slim UNETR paper are checked.
        beside: whether a table of several devices has its rows, too: then its own is folded.
        named: patterns of names whose rows are shown whatever their number.
        file: where the rows are that have no room, a name beside the page.
    """
    floors, main = reliability.floors_of(group, groups), headline(group.records)
    unsorted = summary_rows(group.records, floors, include_predicted=include_predicted)
    time = main_table.time_of(unsorted.rows, main)
    table = dataclasses.replace(unsorted, rows=tuple(sorted(unsorted.rows, key=lambda row: _by(row, time))))
    names = {row.record.id: row.name for row in unsorted.rows}
    rows, labels = table.rows, {row.record.id: row.label for row in table.rows}
    records = [row.record for row in rows]
    of_main = conditions.main_path(records)
    main_path = conditions.path_of(of_main[0])
    main_rows = [
        dataclasses.replace(row, label=row.name, path="") for row in rows if conditions.path_of(row.record) == main_path
    ]
    evaluated = are_evaluations(records)
    if evaluated:  # a Dice is one, whatever it was computed by
        main_rows = list(rows)
    alone = f" Rows of {' '.join(main_path)} alone." if runtimes.has_several(rows) and not evaluated else ""
    prefix = f"f{group.letter.lower()}"
    first = told.kept if told else frozenset()
    of = sum(len(one.records) for one in groups)
    listed = shown_rows.shown(rows, time, of=of, first=first, named=named, file=file)
    shown_main, network_rows = listed.of(main_rows), listed.of(rows)
    picture, marks = _picture(rows, network_rows, main, prefix, budget, told)
    usable = [row for row in network_rows if row.usable]
    heads, lines = main_table.heads_and_lines(table, usable, time, first, marks)
    made = _drawings(rows, main_rows, shown_main, main, prefix, budget, read, alone)
    shown = [(d, budget.show(d)) for d in made if budget.is_new(d, prefix)]
    has_roof = any(drawing.title == roofline.TITLE and figure for drawing, figure in shown)
    roof = _with_caption(roofline.table(shown_main, key=f"{prefix}roof"), alone) if has_roof else None
    volume = volumes.table(rows, group, floors, key=f"{prefix}volume")
    of_dice = (
        accuracy.tables(records, read, key=prefix)
        if evaluated
        else [_with_caption(paired_dice.table(main_rows, read, key=f"{prefix}paired"), alone)]
    )
    by_time = lines and lines[0].cells.get(time)
    return {
        "letter": group.letter,
        "title": group.title,
        "several": len(groups) > 1,
        "predicted": group.predicted,
        "beside": beside,
        "main": time,
        "picture": picture,
        "prefix": prefix,
        "heads": heads,
        "origins": {cell.origin for line in lines for cell in line.cells.values() if cell.origin},
        "protocol": "" if group.predicted or evaluated else group.first.workload.protocol,
        "lines": lines,
        "folds": len(lines) > _FEW_ROWS and len(lines) > len({line.family for line in lines}),
        "sort_order": "descending" if evaluated else "ascending",
        "sorted_by": time if by_time and by_time.value is not None else "",
        "failures": [(row, fits_lines(row.record)) for row in network_rows if not row.usable],
        "listed": listed,
        "n_rows": len(rows),
        "n_failed": sum(not row.usable for row in rows),
        "facts": conditions.facts(group) + _trust_facts(group, floors, labels),
        "noise": reliability.noise_text(records, labels),
        "caveats": caveats.of_group(group, labels),
        "figures": [figure for _, figure in shown if figure],
        "left_out": ", ".join(d.title[0].lower() + d.title[1:] for d, figure in shown if not figure)
        or ("its figures" if budget.spent and not made else ""),
        "unqualified": bool(reliability.unqualified(records)),
        "not_possible": _not_possible(records, labels) if runtimes.has_several(rows) else [],
        "explanation": roofline.explanation(main_rows),
        "roof": roof,
        "tables": [(only, evaluated) for one in (volume, *of_dice) if (only := listed.only(one))],
        "claims": claims.check(of_main) if paper else [],
        "sizes": audit_section.published_beside_ours([row.record for row in _networks(network_rows)], names),
        "network_rows": network_rows,
    }


def _not_possible(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each reason, and of which rows it is."""
    return [(reason, first_few(those, shown_rows.MOST_NAMES)) for reason, those in not_possible(records, labels)]


def _by(row: TableRow, time: str) -> tuple[bool, bool, float]:
    value = row.record.value(time) if row.usable and time not in row.cells else row.cell(time).value
    return (not row.usable, value is None, -(value or 0.0) if time == "dice" else value or 0.0)


T = TypeVar("T", Drawing, Table)


def _with_caption(shown: T | None, more: str) -> T | None:
    """The figure or table with a longer caption."""
    return shown and dataclasses.replace(shown, caption=shown.caption + more)


def _networks(rows: Sequence[TableRow]) -> list[TableRow]:
    """The first row of each network, whatever ran it."""
    return [those[0] for those in conditions.apart(rows, runtimes.network_of).values()]


def _picture(
    rows: Sequence[TableRow], listed: Sequence[TableRow], main: str, prefix: str, budget: Budget, told: Told | None
) -> tuple[Drawing | None, Mapping[str, str]]:
    """Accuracy against cost, which stands beside the table; and record id -> the id of its mark in it.

    Args:
        rows: all of them.
        listed: those that the table has.
    """
    if budget.spent or main == "dice":
        return None, {}
    usable = [row for row in listed if row.usable]
    drawn, own = runtimes.scatter(listed, main, prefix=f"{prefix}x"), f"{prefix}x"
    if drawn is None and main == "latency_s":
        own, has_row = f"{prefix}s", {row.record.id for row in listed}
        others = [row for row in rows if row.usable and row.record.id not in has_row]
        drawn = figures_overview.scatter(usable, prefix=own, alike=told is not None and told.alike, others=others)
    picture = drawn and budget.show(drawn)
    if picture is None:
        return None, {}
    marks = {row.record.id: style.mark_id(own, row.record) for row in usable}
    return picture, {i: mark for i, mark in marks.items() if f' id="{mark}"' in picture.svg}


def _drawings(
    rows: Sequence[TableRow],
    main_rows: Sequence[TableRow],
    shown_main: Sequence[TableRow],
    main: str,
    prefix: str,
    budget: Budget,
    read: ReadArtifact,
    alone: str,
) -> list[Drawing]:
    """The other figures of one set of conditions, the most telling first: where the page is full, the last give way.

    Nothing is drawn where no figure has room any more.

    Args:
        rows: all of them.
        main_rows: those of one runtime and precision, for what compares networks with each other.
        shown_main: those of them that the table has.
        main: the metric by which the rows are ranked.
        prefix: of the figures' ids.
        budget: of the page.
        read: gives the content of an artifact.
        alone: end of the captions of what shows `main_rows`.
    """
    if budget.spent:
        return []
    if main == "dice":
        shown = figures_samples.cases(main_rows, prefix=f"{prefix}c")
        return [shown] if shown else []
    of_table = " Rows of the table alone." if len(shown_main) < len(main_rows) else ""
    made = [
        runtimes.speed_ups(rows, main, prefix=f"{prefix}g"),
        figures_overview.bars(rows, main, prefix=f"{prefix}l"),
        figures_memory.split_bars(rows, prefix=f"{prefix}m")
        or figures_overview.bars(rows, "memory_bytes", prefix=f"{prefix}m"),
        _with_caption(figures_samples.cases(main_rows, prefix=f"{prefix}c"), alone),
        volumes.figure(rows, prefix=f"{prefix}v"),
        _with_caption(roofline.figure(shown_main, prefix=f"{prefix}r"), alone + of_table),
        curves.training(_networks(rows), read, prefix=f"{prefix}t"),
        figures_samples.times(rows, main, prefix=f"{prefix}d"),
        curves.warmup(rows, main, prefix=f"{prefix}w"),
    ]
    return [drawing for drawing in made if drawing]


def joined(groups: Sequence[conditions.Group], budget: Budget) -> tuple[list[Drawing], str]:
    """The figures across sets of conditions, and the names of those for which half of the budget had no room."""
    own = Budget(budget.left_bytes // 2)
    drawn = scaling.figures(groups, prefix="x")
    shown = [(d, own.show(d)) for d in drawn]
    budget.left_bytes -= budget.left_bytes // 2 - own.left_bytes
    return [figure for _, figure in shown if figure], "; ".join(d.title for d, figure in shown if not figure)


def _trust_facts(group: conditions.Group, floors: reliability.Floors, labels: dict[str, str]) -> list[tuple[str, str]]:
    """What the conditions say of noise, disturbance and the memory forecast."""
    if group.predicted or is_evaluation(group.first):
        return []
    disturbed = reliability.disturbed_text(group.records, labels)
    pairs = [
        ("Noise floor", reliability.floors_text(group.records, floors)),
        ("Disturbed", disturbed if disturbed == "none" else None),  # else it is a caveat
        ("Memory forecast", reliability.forecast_text(group.records, labels)),
    ]
    return [(name, text) for name, text in pairs if text]
