"""From records to the page: gather, arrange, fill the template, write the file whole.

The page depends on the records and their artifacts alone. No clock, no path, no locale goes in, so
the same folder gives the same bytes anywhere; an artifact that is missing or damaged becomes a note
in its place, never a crash.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from benchbench import records as rec
from benchbench import store, units
from benchbench.errors import StoreError, UsageError
from benchbench.report import audit, claims, conditions, figures, html, layers, paper, published
from benchbench.report.tables import (
    COLUMNS,
    COUNTER_LEGEND,
    ORIGIN_LEGEND,
    STATUS_TEXT,
    Row,
    Table,
    measurement_cell,
    missing_dice,
    summary_rows,
)

#: Gives the content of an artifact, or raises StoreError with a line for the page (and no path of the machine).
ReadArtifact = Callable[[rec.Artifact], bytes]

#: Pictures beyond this many bytes are named instead of shown, so that the page stays below 1 MB.
PICTURE_BUDGET_BYTES = 500_000
MAX_SAMPLES = 40
_NOISE_OF_EACH = 6  # rows up to which each has its own noise
_NOT_SETTLED = "its timings did not settle"


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Make one page from one or several results folders.

    Args:
        folders: each holds `*.jsonl` and the artifacts that they name.
        out: where to write; `report.html` in the first folder if None.

    Returns: the file written.

    Raises:
        StoreError: a folder cannot be read, or `out` cannot be written; an older page stays whole.
        UsageError: no folder given.
    """
    if not folders:
        raise UsageError("no results folder to report on; give one, such as results/local/try")
    records = [record for folder in folders for record in store.read_records(folder)]
    target = out or _folder(folders[0]) / "report.html"
    content = render(records, folder_reader(folders)).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        store.write_whole(target, content)
    except OSError as error:
        raise StoreError(
            f"cannot write the report to {target}: {error.strerror or error}; choose another place with --out"
        ) from error
    return target


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def folder_reader(folders: Sequence[Path]) -> ReadArtifact:
    """A reader that finds an artifact by its path in one of the folders and checks its hash.

    Args:
        folders: of the records, or files in them.
    """
    roots = [_folder(folder) for folder in folders]

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


def render(records: Sequence[rec.Record], read_artifact: ReadArtifact) -> str:
    """The page as text.

    Args:
        records: any number, none included; of a cell that was measured again the newest counts.
        read_artifact: gives the content of an artifact; see `folder_reader`.
    """
    newest = store.latest(records)
    runs = [
        r for r in newest if not audit.is_audit(r)
    ]  # an audit ran nothing: it has a section, not a table of its own
    groups = conditions.group(runs)
    section = paper.section(newest, read_artifact)
    legend = {**ORIGIN_LEGEND, **COUNTER_LEGEND} if section else ORIGIN_LEGEND
    heading, sentence = (_heading(groups), _sentence(runs, groups)) if runs or not newest else paper.heading(newest)
    first = bool(newest) and audit.is_audit(newest[0])
    if first and runs:
        heading = "The Slim UNETR paper’s tables, counted and timed again"
    pictures = _Pictures(read_artifact)
    context = {
        "heading": heading,
        "sentence": sentence,
        "banners": _banners(runs),
        "differences": _differences(groups),
        "groups": [_group(g, len(groups) > 1, pictures) for g in groups],
        "columns": [c for c in COLUMNS if c.key != "status"],
        "letters": {origin: letter for origin, (letter, _) in legend.items()},
        "origins": ORIGIN_LEGEND,
        "legend": legend,
        "section": section,
        "section_first": first,
        "commands": [conditions.reproduce(g) for g in groups] + (section["commands"] if section else []),
        "paper": published.PAPER,
        "n_failed": sum(r.status not in ("ok", "unstable") for r in newest),
    }
    return html.page(context)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _heading(groups: Sequence[conditions.Group]) -> str:
    names = {r.model.name for g in groups for r in g.records}
    if not groups:
        return "No records"
    devices = list(dict.fromkeys(g.first.device.name for g in groups))
    where = devices[0] if len(devices) == 1 else f"{len(devices)} devices"
    return f"{_count(len(names), 'network')} on {where}"


def _sentence(records: Sequence[rec.Record], groups: Sequence[conditions.Group]) -> str:
    if not groups:
        return "These folders hold no record yet: nothing has finished."
    done = sum(r.status in ("ok", "unstable") for r in records)
    verb = "forecast" if all(g.predicted for g in groups) else "finished"
    tally = f"{done} of {_count(len(records), 'row')} {verb}"
    failed = [f"{r.model.name} {STATUS_TEXT[r.status]}" for r in records if r.status not in ("ok", "unstable")]
    if failed:
        tally += f"; {', '.join(failed[:6])}" + (f" and {len(failed) - 6} more" if len(failed) > 6 else "")
    if len(groups) > 1:
        return f"Runs under {len(groups)} sets of conditions, kept apart below. {tally}."
    first = groups[0].first
    work = first.workload
    patches = f"one batch ({conditions.input_text(first)}, {work.dtype})"
    threads = "" if work.threads is None else f" with {_count(work.threads, 'thread')}"
    if groups[0].predicted:
        return f"What {patches} would cost was forecast for {first.device.name}; nothing ran there. {tally}."
    did = "trained on" if work.phase == "train" else "segmented"
    return f"Each network {did} {patches} on {first.device.name}{threads}. {tally}."


def _banners(records: Sequence[rec.Record]) -> list[str]:
    banners = []
    profiles = list(dict.fromkeys(r.device.name for r in records if r.device.basis == "profile"))
    if profiles:
        banners.append(
            f"Nothing on this page was measured on {_list(profiles)}. Its latencies are predictions from data-sheet "
            "figures: lower bounds with a range, for choosing what to try first, not for quoting as results."
        )
    if any(conditions.has_phantom_dice(r) for r in records):
        banners.append(
            "Dice here is of a semi-synthetic phantom: simulated tumours in deformations of one real brain template. "
            "It ranks networks only where they were trained alike; it says nothing about patients."
        )
    return banners


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _differences(groups: Sequence[conditions.Group]) -> str:
    """In what several sets of conditions differ, by name."""
    if len(groups) < 2:
        return ""
    tables = [dict(conditions.facts(g)) for g in groups]
    names = dict.fromkeys(name for table in tables for name in table)
    ignored = ("When", "Load average at start", "Forecast made on")
    differing = [n for n in names if n not in ignored and len({t.get(n) for t in tables}) > 1]
    return ", ".join(differing).lower() or "details of the environment"


def _group(group: conditions.Group, several: bool, pictures: _Pictures) -> dict[str, Any]:
    unsorted = summary_rows(group.records)
    table = Table(columns=unsorted.columns, rows=tuple(sorted(unsorted.rows, key=_by_latency)))
    rows, labels = table.rows, {row.record.id: row.label for row in table.rows}
    records = [row.record for row in rows]
    prefix = f"f{group.letter.lower()}"
    usable = [row for row in rows if row.usable]
    drawings = [
        figures.scatter(usable, prefix=f"{prefix}s"),
        figures.bars(rows, "latency_s", prefix=f"{prefix}l"),
        figures.bars(rows, "memory_bytes", prefix=f"{prefix}m"),
    ]
    unsettled = [row for row in rows if row.record.status == "unstable"]
    return {
        "letter": group.letter,
        "title": group.title,
        "several": several,
        "predicted": group.predicted,
        "facts": conditions.facts(group),
        "noise": _noise(conditions.noise(records, labels)),
        "rows": [{"row": row, "sort": _sort_values(row)} for row in rows],
        "notes": [f"{r.label} is unstable: {r.record.error or _NOT_SETTLED}" for r in unsettled]
        + missing_dice(records),
        "sorted_by": "latency_s" if rows[0].usable and rows[0].cells["latency_s"].value is not None else "",
        "figures": [{"svg": html.safe(d.svg), "title": d.title, "caption": d.caption} for d in drawings if d],
        "claims": claims.check(records),
        "comparisons": [
            {"it": one, "factor": f"{units.significant(one.factor)} x"}
            for one in claims.published_beside_ours(records, labels)
        ],
        "networks": [_network(row, pictures) for row in rows],
    }


def _noise(rows: Sequence[conditions.Noise]) -> str:
    """The spread of each row's samples; of many rows, the middle and the largest."""
    texts = [f"{n.label} {_percent(n.spread)} ({n.kind}, n = {n.n})" for n in rows]
    if len(texts) <= _NOISE_OF_EACH:
        return "; ".join(texts)
    ordered = sorted(zip(rows, texts, strict=True), key=lambda pair: pair[0].spread or 0.0)
    middle, largest = ordered[len(ordered) // 2], ordered[-1]
    return f"half of the rows below {_percent(middle[0].spread)}, the largest {largest[1]}; all samples stand below"


def _by_latency(row: Row) -> tuple[bool, bool, float]:
    latency = row.cells["latency_s"].value
    return (not row.usable, latency is None, latency or 0.0)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _sort_values(row: Row) -> str:
    """The numbers of a row for the script, as JSON; a failed row has no latency to sort by."""
    values: dict[str, Any] = {k: c.value for k, c in row.cells.items() if row.usable or k in ("params", "macs")}
    return json.dumps(values | {"model": row.label}, sort_keys=True)


def _network(row: Row, pictures: _Pictures) -> dict[str, Any]:
    record = row.record
    notes: list[str] = []
    table = None
    for artifact in record.artifacts:
        if artifact.kind == "layers":
            try:
                table = layers.breakdown(pictures.read(artifact))
            except StoreError as error:
                notes.append(str(error))
    if table and record.value("macs") not in (None, table.macs):
        notes.append(
            f"The layer table adds up to {units.format_value(table.macs, 'MAC')}, "
            f"the whole network to {units.format_value(record.value('macs'), 'MAC')}."
        )
    measurements = [{"m": m, "cell": measurement_cell(m)} for m in record.measurements]
    shown = [p for artifact in record.artifacts if artifact.kind == "picture" for p in [pictures.show(artifact)]]
    return {
        "row": row,
        "status": STATUS_TEXT[record.status],
        "measurements": measurements,
        "samples": [_samples(m) for m in record.measurements if len(m.values) > 1],
        "layers": table and [_layer(one) for one in table.layers],
        "kinds": table and ", ".join(f"{kind.replace('_', ' ')} {_percent(share)}" for kind, share in table.kinds[:6]),
        "parts": table
        and "; ".join(f"{part or 'itself'} {_percent(m)}, {_percent(p)}" for part, m, p in table.parts[:8]),
        "pictures": [p for p in shown if isinstance(p, dict)],
        "notes": notes + [p for p in shown if isinstance(p, str)],
        "spec": rec.canonical_json(rec.to_json(record.model.kwargs)) if record.model.kwargs else "",
    }


def _layer(layer: layers.Layer) -> dict[str, Any]:
    return {
        "module": layer.module or "(the network itself)",
        "kind": layer.kind.replace("_", " "),
        "macs": units.format_value(layer.macs, "MAC"),
        "params": units.format_value(layer.params, "parameters"),
        "macs_share": f"{100 * layer.macs_share:.1f}",
        "params_share": f"{100 * layer.params_share:.1f}",
    }


def _samples(m: rec.Measurement) -> dict[str, str]:
    texts = [units.format_value(v, m.unit) for v in m.values[:MAX_SAMPLES]]
    rest = len(m.values) - len(texts)
    return {"metric": m.metric, "n": str(len(m.values)), "text": ", ".join(texts) + (f" and {rest} more" * bool(rest))}


@dataclasses.dataclass(slots=True)
class _Pictures:
    """Artifacts read, and pictures shown until the page's budget is spent."""

    read: ReadArtifact
    left_bytes: int = PICTURE_BUDGET_BYTES

    def show(self, artifact: rec.Artifact) -> dict[str, Any] | str:
        """What the template needs to show a picture, or a note in its place."""
        try:
            content = self.read(artifact)
        except StoreError as error:
            return str(error)
        if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
            return f"{artifact.path} is no PNG, so it is not shown"
        if len(content) > self.left_bytes:
            size = units.format_value(len(content), "B")
            return f"{artifact.path} ({size}) was left out to keep this page below 1 MB"
        self.left_bytes -= len(content)
        width, height = struct.unpack(">II", content[16:24])
        encoded = base64.b64encode(content).decode()
        return {"src": f"data:image/png;base64,{encoded}", "width": width, "height": height, "title": artifact.title}
