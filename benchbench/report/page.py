"""Page of a run: records are grouped, tabulated, drawn, and written whole.

The page depends on the records and their artifacts alone. No clock, no path, no locale goes in, so
the same folder gives the same bytes anywhere; an artifact that is missing or damaged becomes a note
in its place, never a crash.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core import search_result
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import StoreError, UsageError
from benchbench.core.evaluation import is_evaluation
from benchbench.core.paired_result import PairedResult, holds_pairs, read_pairs
from benchbench.core.units import counted
from benchbench.report import accuracy, caveats, conditions, details, exports, html, place, search_page, shown_rows
from benchbench.report.audit import section as audit_section
from benchbench.report.audit.tables import gather
from benchbench.report.cells import COUNTER_LEGEND, ORIGIN_LEGEND
from benchbench.report.choice import scope
from benchbench.report.choice import section as choice_section
from benchbench.report.compare import paired_page
from benchbench.report.details import ReadArtifact
from benchbench.report.figures import devices as figures_devices
from benchbench.report.labels import tally
from benchbench.report.part import Budget, joined, part
from benchbench.report.slim_unetr_paper import published
from benchbench.report.slim_unetr_paper import section as slim_unetr_paper

#: The page stays below this many bytes.
PAGE_BYTES = 1_000_000
#: What the figures of all sets of conditions may take together, less where there are very many rows; what is
#: beyond is named instead of shown.
FIGURE_BUDGET_BYTES = 450_000
_ROW_BYTES = 4_000  # what a row takes in its tables


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    include_predicted: bool = False,
    paper: bool = False,
    max_latency_s: float | None = None,
    named: Sequence[str] = (),
    refresh_s: int | None = None,
    force: bool = False,
) -> Path:
    """Make one page from one or several results folders; of very many rows also a CSV beside it, with all of them.

    Args:
        folders: each holds `*.jsonl` and the artifacts that they name; or the only one holds a search; or each holds
            paired comparisons, or is their record.
        out: where to write; `report.html` in the first folder if None.
        include_predicted: whether forecasts are ranked, too.
        paper: show the Slim UNETR paper's claims and tables whatever the networks; see `render`.
        max_latency_s: a limit that the table of several devices holds their times against.
        named: patterns of names whose rows are shown where there are too many for all; see `shown_rows`.
        refresh_s: seconds after which browsers load the page again; None: it is finished.
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
    elif any(map(holds_pairs, folders)):
        text = paired_page.render_pairs(read_all_pairs(folders))
    else:
        records = core_results.latest(record for folder in folders for record in core_results.read_records(folder))
        file, read = shown_rows.file_beside(target), folder_reader(folders)
        if shown_rows.are_too_many(_runs(records)):
            place.check_rows(target.with_name(file), force=force)
            place.write(target.with_name(file), exports.export(records, "csv", read))
        text = render(
            records,
            read,
            include_predicted=include_predicted,
            paper=paper,
            max_latency_s=max_latency_s,
            named=named,
            file=file,
        )
    if refresh_s is not None:
        text = text.replace(_HEAD, f'{_HEAD}\n<meta http-equiv="refresh" content="{refresh_s}">', 1)
    place.write(target, text)
    return target


def read_all_pairs(places: Sequence[Path]) -> list[PairedResult]:
    """The paired comparisons of several folders, or of their records.

    Raises:
        StoreError: one cannot be read.
        UsageError: one holds something else.
    """
    if others := [place for place in places if not holds_pairs(place)]:
        raise UsageError(f"paired comparisons have a page and tables of their own: leave {others[0]} out")
    return [result for place in places for result in read_pairs(place)]


_HEAD = "<head>"
_KEPT = 64  # artifacts that are not read again from the disk


def _runs(records: Sequence[rec.Record]) -> list[rec.Record]:
    """An audit ran nothing: it has a section, not a table of its own."""
    return [r for r in records if not is_audit(r)]


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
    records: Sequence[rec.Record],
    read_artifact: ReadArtifact,
    *,
    include_predicted: bool = False,
    paper: bool = False,
    max_latency_s: float | None = None,
    named: Sequence[str] = (),
    file: str = "report-rows.csv",
) -> str:
    """The page as text.

    Args:
        records: any number, none included; of a cell that was measured again the newest counts.
        read_artifact: gives the content of an artifact; see `folder_reader`.
        include_predicted: whether forecasts are ranked, too.
        paper: show the Slim UNETR paper's claims and tables even where the records do not hold its network and one
            that it is compared with.
        max_latency_s: a limit that the table of several devices holds their times against.
        named: patterns of names whose rows are shown where there are too many for all.
        file: name of the CSV beside the page, which has the rows that are not shown.
    """
    newest = core_results.latest(records)
    runs = _runs(newest)
    groups = conditions.group(runs)
    paper = paper or slim_unetr_paper.applies(newest)
    audits = gather(newest, read_artifact)
    audits = slim_unetr_paper.with_paper(audits) if paper else audits
    section = audit_section.section(audits) if audits else None
    if section and paper:
        section |= slim_unetr_paper.section(audits, runs)
    legend = {**ORIGIN_LEGEND, **COUNTER_LEGEND} if section else ORIGIN_LEGEND
    first = bool(newest) and is_audit(newest[0])
    rest = PAGE_BYTES - 100_000 - _ROW_BYTES * min(len(runs), shown_rows.MOST)
    budget = Budget(max(FIGURE_BUDGET_BYTES // 5, min(FIGURE_BUDGET_BYTES, rest)))
    scaled, scaled_out = joined(groups, budget)
    read = functools.lru_cache(maxsize=_KEPT)(read_artifact)
    sides, beside = _sides(groups, budget, max_latency_s)
    told = {one.group.letter: one for one in choice_section.tell(groups, runs, read)}
    parts = [
        part(
            group,
            groups,
            budget,
            read,
            told.get(group.letter),
            include_predicted=include_predicted,
            paper=paper,
            beside=group.letter in beside,
            named=named,
            file=file,
        )
        for group in groups
    ]
    shared = [pair for pair in parts[0]["facts"] if all(pair in p["facts"] for p in parts)] if len(parts) > 1 else []
    for one in parts:
        one["facts"] = [pair for pair in one["facts"] if pair not in shared]
    _once(parts)
    heading, lead, sentence = _heading(groups), "", _sentence(runs, groups)
    if len(told) == len(groups) == 1:
        lead = told[groups[0].letter].headline
        verb = "forecast" if groups[0].predicted else "finished"
        sentence = f"{tally(runs, counted(len(runs), 'row'), verb, named=2)}."
    if section and not runs:
        heading, done = audit_section.heading(newest)
        sentence = f"{section['sentence']} {done}"
    if section and first and runs:  # what the audits say comes first, and the runs' headline with their section
        lead, sentence = "", f"{section['sentence']} {sentence}"
        heading = slim_unetr_paper.HEADING if paper else heading
    context = {
        "heading": heading,
        "lead": lead,
        "sentence": sentence,
        "banner": caveats.forecasts(runs),
        "choices": _choices(list(told.values()), lead),
        "caveats": _caveats(parts, runs),
        "differences": scope.differences(groups),
        "groups": parts,
        "shared": shared,
        "sides": sides,
        "scaling": scaled,
        "scaling_left_out": scaled_out,
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


def _sides(
    groups: Sequence[conditions.Group], budget: Budget, max_latency_s: float | None
) -> tuple[list[dict[str, Any]], set[str]]:
    """Tables and figures of several devices, and the letters of the sets of conditions that stand in them."""
    shown: list[dict[str, Any]] = []
    letters: set[str] = set()
    for i, devices in enumerate(figures_devices.find(groups)):
        drawn = figures_devices.figure(devices, prefix=f"side{i}f")
        table = figures_devices.table(devices, key=f"side{i}", max_latency_s=max_latency_s)
        shown.append({"table": table, "figure": budget.show(drawn) if drawn else None})
        letters |= devices.letters
    return shown, letters


def _once(parts: Sequence[dict[str, Any]]) -> None:
    """Claims and published sizes that several sets of conditions share stand in the first alone."""
    for key in ("claims", "sizes"):
        seen: list[Any] = []
        for one in parts:
            if one[key] in seen:
                one[key] = []
            seen.append(one[key])


def _choices(told: Sequence[choice_section.Told], lead: str) -> list[dict[str, Any]]:
    """The first section: headlines, unless the page begins with the only one; nothing is said twice."""
    said: set[str] = set()
    choices = []
    for one in told:
        lines = [line for line in one.more if line not in said]
        said |= set(lines)
        headline = "" if lead else one.headline
        choices.append({"letter": one.group.letter, "headline": headline, "lines": lines})
    return choices


def _caveats(parts: Sequence[dict[str, Any]], runs: Sequence[rec.Record]) -> list[tuple[str, caveats.Caveat]]:
    """Each caveat once, with the letters of the sets of conditions that have it where not all do."""
    letters: dict[caveats.Caveat, list[str]] = {}
    for one in parts:
        for caveat in one["caveats"]:
            letters.setdefault(caveat, []).append(one["letter"])
    found = [("" if len(those) == len(parts) else ", ".join(those), caveat) for caveat, those in letters.items()]
    return [("", caveat) for caveat in caveats.of_page(runs)] + found


def _fitting(context: dict[str, Any], read: ReadArtifact) -> str:
    """The page with as much detail as it has room for; pictures take what is left."""
    pictures = details.picture_bytes(context["groups"], read)
    reserve = min(pictures, details.PICTURE_BUDGET_BYTES) // 4
    rows = sum(len(group["network_rows"]) for group in context["groups"])
    text = ""
    for detail in details.DETAILS:
        if rows * detail.row_bytes > PAGE_BYTES:
            continue
        details.fill(context["groups"], read, detail, 0)
        context["detail_note"] = detail.note
        text = html.page(context)
        left = PAGE_BYTES - len(text.encode())
        if left > reserve:
            break
    room = min(details.PICTURE_BUDGET_BYTES, int(0.7 * left))  # base64 takes a third more
    if room <= 0 or not pictures:
        return text
    details.fill(context["groups"], read, detail, room)
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
