"""Page of a run: records are grouped, tabulated, drawn, and written whole.

The page depends on the records and their artifacts alone. No clock, no path, no locale goes in, so
the same folder gives the same bytes anywhere; an artifact that is missing or damaged becomes a note
in its place, never a crash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core import search_result
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import StoreError, UsageError
from benchbench.core.evaluation import are_evaluations, is_evaluation
from benchbench.core.units import counted
from benchbench.report import accuracy, conditions, details, html, paired_dice, place, reliability, search_page
from benchbench.report.audit import section as audit_section
from benchbench.report.audit.tables import gather
from benchbench.report.choice import scope
from benchbench.report.choice import section as choice_section
from benchbench.report.details import ReadArtifact
from benchbench.report.figures import curves, roofline, runtimes, scaling, volumes
from benchbench.report.figures import devices as figures_devices
from benchbench.report.figures import memory as figures_memory
from benchbench.report.figures import overview as figures_overview
from benchbench.report.figures import samples as figures_samples
from benchbench.report.figures.style import Drawing
from benchbench.report.slim_unetr_paper import claims, published
from benchbench.report.slim_unetr_paper import section as slim_unetr_paper
from benchbench.report.tables import (
    COUNTER_LEGEND,
    ORIGIN_LEGEND,
    Column,
    Table,
    TableRow,
    headline,
    missing_dice,
    not_possible,
    summary_rows,
    tally,
    unqualified_lines,
)

#: The page stays below this many bytes.
PAGE_BYTES = 1_000_000
#: What the figures of all sets of conditions may take together, less where there are very many rows; what is
#: beyond is named instead of shown.
FIGURE_BUDGET_BYTES = 450_000
_ROW_BYTES = 2_000  # what a row takes in its tables
_SMALLEST_FIGURE_BYTES = 5_000
_NOT_SETTLED = "its timings did not settle"


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    include_predicted: bool = False,
    paper: bool = False,
    force: bool = False,
) -> Path:
    """Make one page from one or several results folders.

    Args:
        folders: each holds `*.jsonl` and the artifacts that they name; or the only one holds a search.
        out: where to write; `report.html` in the first folder if None.
        include_predicted: whether forecasts are ranked, too.
        paper: show the Slim UNETR paper's claims and tables whatever the networks; see `render`.
        force: replace a file that is no page of ours; one that the page is made from is not replaced even so.

    Returns: the file written.

    Raises:
        StoreError: a folder cannot be read, or `out` cannot be written or must not be replaced; an older page stays
            whole.
        UsageError: no folder given.
    """
    if not folders:
        raise UsageError("no results folder to report on; give one, such as results/local/try")
    target = out or place.root_of(folders[0]) / place.PAGE
    place.check_place(target, folders, page=True, force=force)
    if any((folder / core_results.SEARCH).exists() for folder in folders):
        if len(folders) > 1:
            raise UsageError("a search has a page of its own: give its folder alone")
        text = search_page.render_search(search_result.read_search(folders[0]))
    else:
        records = [record for folder in folders for record in core_results.read_records(folder)]
        text = render(records, folder_reader(folders), include_predicted=include_predicted, paper=paper)
    place.write(target, text)
    return target


def folder_reader(folders: Sequence[Path]) -> ReadArtifact:
    """A reader that finds an artifact by its path in one of the folders and checks its hash.

    Args:
        folders: of the records, or files in them.
    """
    roots = [place.root_of(folder) for folder in folders]

    def read(artifact: rec.Artifact) -> bytes:
        relative = PurePosixPath(artifact.path)
        if relative.is_absolute() or ".." in relative.parts or "\\" in artifact.path:
            raise StoreError(f"{artifact.path} was not read: it is not inside the results folder")
        found = False
        for root in roots:
            try:
                content = (root / relative).read_bytes()
            except (OSError, ValueError):
                continue
            found = True
            if hashlib.sha256(content).hexdigest() == artifact.sha256:
                return content
        if found:
            raise StoreError(f"{artifact.path} was changed after the run (its hash differs), so it is not shown")
        raise StoreError(f"{artifact.path} is not beside the records, so it is not shown")

    return read


def render(
    records: Sequence[rec.Record], read_artifact: ReadArtifact, *, include_predicted: bool = False, paper: bool = False
) -> str:
    """The page as text.

    Args:
        records: any number, none included; of a cell that was measured again the newest counts.
        read_artifact: gives the content of an artifact; see `folder_reader`.
        include_predicted: whether forecasts are ranked, too.
        paper: show the Slim UNETR paper's claims and tables even where the records do not hold its network and one
            that it is compared with.
    """
    newest = core_results.latest(records)
    runs = [r for r in newest if not is_audit(r)]  # an audit ran nothing: it has a section, not a table of its own
    groups = conditions.group(runs)
    paper = paper or slim_unetr_paper.applies(newest)
    audits = gather(newest, read_artifact)
    audits = slim_unetr_paper.with_paper(audits) if paper else audits
    section = audit_section.section(audits) if audits else None
    if section and paper:
        section |= slim_unetr_paper.section(audits, runs)
    legend = {**ORIGIN_LEGEND, **COUNTER_LEGEND} if section else ORIGIN_LEGEND
    heading, sentence = _heading(groups), _sentence(runs, groups)
    if section and not runs:
        heading, done = audit_section.heading(newest)
        sentence = f"{section['sentence']} {done}"
    first = bool(newest) and is_audit(newest[0])
    if first and runs and paper:
        heading = slim_unetr_paper.HEADING
    rest = PAGE_BYTES - 100_000 - _ROW_BYTES * len(runs)
    budget = _Budget(max(FIGURE_BUDGET_BYTES // 5, min(FIGURE_BUDGET_BYTES, rest)))
    joined, joined_out = _joined(groups, budget)
    read = functools.cache(read_artifact)
    sides = []
    for i, devices in enumerate(figures_devices.find(groups)):
        drawn = figures_devices.figure(devices, prefix=f"side{i}f")
        table = figures_devices.table(devices, key=f"side{i}")
        sides.append({"table": table, "figure": budget.show(drawn) if drawn else None})
    parts = [_group(g, groups, budget, read_artifact, include_predicted, paper) for g in groups]
    shared = [pair for pair in parts[0]["facts"] if all(pair in p["facts"] for p in parts)] if len(parts) > 1 else []
    for part in parts:
        part["facts"] = [pair for pair in part["facts"] if pair not in shared]
    choices = [
        {"letter": g.letter, "title": g.title, "lines": told} for g, told in choice_section.lines(groups, runs, read)
    ]
    context = {
        "heading": heading,
        "choices": choices,
        "sentence": sentence,
        "banners": _banners(runs),
        "differences": scope.differences(groups),
        "groups": parts,
        "shared": shared,
        "sides": sides,
        "scaling": joined,
        "scaling_left_out": joined_out,
        "letters": {origin: letter for origin, (letter, _) in legend.items()},
        "origins": ORIGIN_LEGEND,
        "legend": legend,
        "section": section,
        "section_first": first,
        "commands": [conditions.reproduce(g) for g in groups] + (section["commands"] if section else []),
        "paper": published.PAPER if paper else "",
        "n_failed": sum(not r.ok for r in newest),
    }
    return _fitting(context, read)


def _fitting(context: dict[str, Any], read: ReadArtifact) -> str:
    """The page with as much detail as it has room for; pictures take what is left."""
    reserve = min(details.picture_bytes(context["groups"], read), details.PICTURE_BUDGET_BYTES) // 4
    text = ""
    for detail in details.DETAILS:
        details.fill(context["groups"], read, detail, 0)
        context["detail_note"] = detail.note
        text = html.page(context)
        left = PAGE_BYTES - len(text.encode())
        if left > reserve:
            break
    details.fill(
        context["groups"], read, detail, min(details.PICTURE_BUDGET_BYTES, max(0, int(0.7 * left)))
    )  # base64 takes a third more
    return html.page(context)


def _heading(groups: Sequence[conditions.Group]) -> str:
    names = {r.model.name for g in groups for r in g.records}
    if not groups:
        return "No records"
    if all(is_evaluation(g.first) for g in groups):
        return accuracy.heading([g.first for g in groups])
    devices = list(dict.fromkeys(g.first.device.name for g in groups))
    where = devices[0] if len(devices) == 1 else f"{len(devices)} devices"
    return f"{counted(len(names), 'network')} on {where}"


def _sentence(records: Sequence[rec.Record], groups: Sequence[conditions.Group]) -> str:
    if not groups:
        return "These folders hold no record yet: nothing has finished."
    verb = "forecast" if all(g.predicted for g in groups) else "finished"
    done = tally(records, counted(len(records), "row"), verb)
    if len(groups) > 1:
        return f"Runs under {len(groups)} sets of conditions, kept apart below. {done}."
    first = groups[0].first
    if is_evaluation(first):
        return f"{accuracy.sentence(groups[0].records)} {done}."
    work = first.workload
    precisions = conditions.dtypes(groups[0].records)
    patches = f"one batch ({groups[0].input}{f', {precisions[0]}' * (len(precisions) == 1)})"
    ways = conditions.runtimes(groups[0].records)
    several = f" in {counted(len(ways), 'runtime')}" * (len(ways) > 1)
    several += f"{' and' if several else ' in'} {counted(len(precisions), 'precision')}" * (len(precisions) > 1)
    threads = "" if work.threads is None else f" with {counted(work.threads, 'thread')}"
    if groups[0].predicted:
        return f"What {patches} would cost was forecast for {first.device.name}; nothing ran there. {done}."
    did = "trained on" if work.phase == "train" else "segmented"
    return f"Each network {did} {patches} on {first.device.name}{threads}{several}. {done}."


def _banners(records: Sequence[rec.Record]) -> list[str]:
    banners = []
    profiles = list(dict.fromkeys(r.device.name for r in records if r.device.basis == "profile"))
    if profiles:
        tiers: dict[str, list[str]] = {}
        for record in records:
            latency = record.get("latency_s") if record.device.basis == "profile" else None
            if latency and latency.value is not None:
                devices = tiers.setdefault(latency.method.partition(":")[0], [])
                devices += [record.device.name] * (record.device.name not in devices)
        basis = [(_list(tiers[tier]), text) for tier, text in _TIERS.items() if tier in tiers]
        told = "; ".join(f"for {names} from {text}" if len(basis) > 1 else f"from {text}" for names, text in basis)
        banners.append(
            f"Nothing on this page was measured on {_list(profiles)}. Its latencies are predictions"
            f"{f' {told}' if told else ''}: for choosing what to try first, not for quoting as results."
        )
    if any(conditions.has_phantom_dice(r) for r in records):
        banners.append(
            "Dice here is of a semi-synthetic phantom: simulated tumours in deformations of one real brain template. "
            "It ranks networks only where they were trained alike; it says nothing about patients."
        )
    return banners


_TIERS = {
    "calibrated": "operators timed on it, with a range meant to hold nine of ten networks",
    "scaled": "operators timed on another device, scaled to this one's peak and bandwidth",
    "datasheet": "data-sheet figures, lower bounds with a range",
}


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _joined(groups: Sequence[conditions.Group], budget: _Budget) -> tuple[list[Drawing], str]:
    """The figures across sets of conditions, and the names of those for which half of the budget had no room."""
    own = _Budget(budget.left_bytes // 2)
    drawn = scaling.figures(groups, prefix="x")
    shown = [(d, own.show(d)) for d in drawn]
    budget.left_bytes -= budget.left_bytes // 2 - own.left_bytes
    return [figure for _, figure in shown if figure], "; ".join(d.title for d, figure in shown if not figure)


def _group(
    group: conditions.Group,
    groups: Sequence[conditions.Group],
    budget: _Budget,
    read: ReadArtifact,
    include_predicted: bool,
    paper: bool,
) -> dict[str, Any]:
    floors, main = reliability.floors_of(group, groups), headline(group.records)
    unsorted = summary_rows(group.records, floors, include_predicted=include_predicted)
    table = Table(columns=unsorted.columns, rows=tuple(sorted(unsorted.rows, key=lambda row: _by(row, main))))
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
    shown = [(d, budget.show(d)) for d in _drawings(rows, main_rows, main, prefix, budget, read, alone)]
    has_roof = any(drawing.title == roofline.TITLE and figure for drawing, figure in shown)
    roof = _with_caption(roofline.table(main_rows, key=f"{prefix}roof"), alone) if has_roof else None
    volume = volumes.table(rows, group, floors, key=f"{prefix}volume")
    of_dice = (
        accuracy.tables(records, read, key=prefix)
        if evaluated
        else [_with_caption(paired_dice.table(main_rows, read, key=f"{prefix}paired"), alone)]
    )
    unsettled = [row for row in rows if row.record.status == "unstable"]
    return {
        "letter": group.letter,
        "title": group.title,
        "several": len(groups) > 1,
        "predicted": group.predicted,
        "columns": _columns(table),
        "main": main,
        "facts": conditions.facts(group) + _trust_facts(group, floors, labels),
        "noise": conditions.noise_text(records, labels),
        "rows": [{"row": row, "sort": _sort_values(row, table), "disturbed": _disturbed(row, main)} for row in rows],
        "notes": [f"{r.label} is unstable: {r.record.error or _NOT_SETTLED}" for r in unsettled]
        + unqualified_lines(records, labels)
        + accuracy.notes(records, labels)
        + missing_dice(records),
        "sort_order": "descending" if evaluated else "ascending",
        "sorted_by": main if rows[0].usable and rows[0].cells[main].value is not None else "",
        "figures": [figure for _, figure in shown if figure],
        "left_out": ", ".join(d.title[0].lower() + d.title[1:] for d, figure in shown if not figure)
        or ("its figures" if budget.spent and not shown else ""),
        "unqualified": bool(reliability.unqualified(records)),
        "not_possible": not_possible(records, labels) if runtimes.has_several(rows) else [],
        "explanation": roofline.explanation(main_rows),
        "roof": roof,
        "tables": [table for table in (volume, *of_dice) if table],
        "claims": claims.check(of_main) if paper else [],
        "sizes": audit_section.published_beside_ours([row.record for row in _networks(rows)], names),
        "network_rows": rows,
    }


def _columns(table: Table) -> list[Column]:
    """Those of the main table; beside runtimes there is no room for a throughput, which follows from the latency."""
    keys = {column.key for column in table.columns}
    left_out = {"status"} | ({"throughput_patches_per_s"} if keys & {"runtime", "dtype"} else set())
    return [column for column in table.columns if column.key not in left_out]


T = TypeVar("T", Drawing, Table)


def _with_caption(shown: T | None, more: str) -> T | None:
    """The figure or table with a longer caption."""
    return shown and dataclasses.replace(shown, caption=shown.caption + more)


def _networks(rows: Sequence[TableRow]) -> list[TableRow]:
    """The first row of each network, whatever ran it."""
    return [those[0] for those in conditions.apart(rows, runtimes.network_of).values()]


def _drawings(
    rows: Sequence[TableRow],
    main_rows: Sequence[TableRow],
    main: str,
    prefix: str,
    budget: _Budget,
    read: ReadArtifact,
    alone: str,
) -> list[Drawing]:
    """The figures of one set of conditions, the most telling first: where the page is full, the last give way.

    Nothing is drawn where no figure has room any more.

    Args:
        rows: all of them.
        main_rows: those of one runtime and precision, for what compares networks with each other.
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
    usable = [row for row in rows if row.usable]
    made = [
        runtimes.scatter(rows, main, prefix=f"{prefix}x")
        or (figures_overview.scatter(usable, prefix=f"{prefix}s") if main == "latency_s" else None),
        runtimes.speed_ups(rows, main, prefix=f"{prefix}g"),
        figures_overview.bars(rows, main, prefix=f"{prefix}l"),
        figures_memory.split_bars(rows, prefix=f"{prefix}m")
        or figures_overview.bars(rows, "memory_bytes", prefix=f"{prefix}m"),
        figures_samples.times(rows, main, prefix=f"{prefix}d"),
        _with_caption(roofline.figure(main_rows, prefix=f"{prefix}r"), alone),
        _with_caption(figures_samples.cases(main_rows, prefix=f"{prefix}c"), alone),
        curves.training(_networks(rows), read, prefix=f"{prefix}t"),
        volumes.figure(rows, prefix=f"{prefix}v"),
        curves.warmup(rows, main, prefix=f"{prefix}w"),
    ]
    return [drawing for drawing in made if drawing]


def _trust_facts(group: conditions.Group, floors: reliability.Floors, labels: dict[str, str]) -> list[tuple[str, str]]:
    """What the conditions say of noise, disturbance and the memory forecast."""
    if group.predicted or is_evaluation(group.first):
        return []
    pairs = [
        ("Noise floor", reliability.floors_text(group.records, floors)),
        ("Disturbed", reliability.disturbed_text(group.records, labels)),
        ("Memory forecast", reliability.forecast_text(group.records, labels)),
    ]
    return [(name, text) for name, text in pairs if text]


def _disturbed(row: TableRow, main: str) -> str:
    """`2 of 5 processes disturbed`."""
    hit, of = reliability.disturbed(row.record), len(reliability.processes(row.record, main))
    return f"{hit} of {max(hit, of)} processes disturbed" if hit else ""


def _by(row: TableRow, main: str) -> tuple[bool, bool, float]:
    value = row.cells[main].value
    return (not row.usable, value is None, -(value or 0.0) if main == "dice" else value or 0.0)


def _sort_values(row: TableRow, table: Table) -> str:
    """What the script sorts a row by, as JSON; a failed row has no latency to sort by."""
    values: dict[str, Any] = {"model": row.label}
    for column in _columns(table):
        cell = row.cells[column.key]
        if column.kind == "word":
            values[column.key] = cell.text
        elif row.usable or column.key in ("params", "macs"):
            values[column.key] = cell.value
    return json.dumps(values, sort_keys=True)


@dataclasses.dataclass(slots=True)
class _Budget:
    """Figures shown until their share of the page is spent."""

    left_bytes: int

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
