"""Details of each network on the page, as many as there is room for.

Layer tables, samples and pictures are most of a page's bytes, and none of them is needed to compare. So
they give way first: a layer table that stood before is named, and where the page would pass its size there
are fewer layers and samples, then none. An artifact that is missing or damaged becomes a note.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.errors import StoreError
from benchbench.report import layers, reliability
from benchbench.report.cells import measurement_cell, valid
from benchbench.report.labels import STATUS_TEXT
from benchbench.report.tables import DEPLOYMENT, TableRow

#: Gives the content of an artifact, or raises StoreError with a line for the page (and no path of the machine).
ReadArtifact = Callable[[rec.Artifact], bytes]

T = TypeVar("T")

#: Pictures beyond this many bytes are named instead of shown; fewer, where the rest of the page needs the room.
PICTURE_BUDGET_BYTES = 500_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much each network's own section holds: the most that leaves the page below its size."""

    layers: int | None  # heaviest modules; None: as many as there are lines by default
    samples: int
    measurements: bool
    note: str = ""
    sections: bool = True  # whether the networks have sections at all
    row_bytes: int = 0  # a network takes at least; so many rows that it cannot be enough are not even tried


DETAILS = (
    Detail(layers=None, samples=40, measurements=True, row_bytes=2000),
    Detail(layers=8, samples=20, measurements=True, row_bytes=2000),
    Detail(layers=0, samples=0, measurements=True, row_bytes=2000, note="Layer tables and single samples"),
    Detail(
        layers=0,
        samples=0,
        measurements=False,
        row_bytes=500,
        note="Layer tables, single samples and tables of every measurement",
    ),
    Detail(layers=0, samples=0, measurements=False, sections=False, note="The sections of single networks"),
)


def artifact_of(record: rec.Record, kind: str, read: ReadArtifact, parse: Callable[[bytes], T]) -> T | None:
    """What the first artifact of a kind says; None where there is none, or it is missing or damaged."""
    for artifact in record.artifacts:
        if artifact.kind == kind:
            try:
                return parse(read(artifact))
            except StoreError:
                return None
    return None


def fill(groups: Sequence[dict[str, Any]], read: ReadArtifact, detail: Detail, budget_bytes: int) -> None:
    """Give each group of the page the sections of its networks, `networks`.

    Args:
        groups: what the template gets, with `network_rows`, `main` and `letter`.
        read: gives the content of an artifact.
        detail: how much of each.
        budget_bytes: for pictures.
    """
    pictures, seen = _Pictures(read, budget_bytes), dict[str, tuple[str, str]]()
    for group in groups:
        rows = group["network_rows"] if detail.sections else []
        group["networks"] = [_network(row, pictures, detail, seen, group["letter"], group["main"]) for row in rows]


def picture_bytes(groups: Sequence[dict[str, Any]], read: ReadArtifact) -> int:
    """What all pictures would take, before base64."""
    total = 0
    for artifact in (a for group in groups for row in group["network_rows"] for a in row.record.artifacts):
        if artifact.kind == "picture":
            with contextlib.suppress(StoreError):
                total += len(read(artifact))
    return total


def _network(
    row: TableRow, pictures: _Pictures, detail: Detail, seen: dict[str, tuple[str, str]], letter: str, main: str
) -> dict[str, Any]:
    """What the template needs; `seen` says in which group, and at which row, a layer table stood first."""
    record = row.record
    notes = [_compressed(record.recipe)] if record.recipe and "parent_sha256" in record.recipe else []
    table = None
    for artifact in record.artifacts:
        if artifact.kind == "layers" and detail.layers != 0:
            first, label = seen.setdefault(artifact.sha256, (letter, row.label))
            if (first, label) != (letter, row.label):
                notes.append(f"Its layers are the same as {f'in {first}' if first != letter else f'those of {label}'}.")
                continue
            try:
                table = layers.breakdown(pictures.read(artifact), top=detail.layers or layers.TOP)
            except StoreError as error:
                notes.append(str(error))
    if table and record.value("macs") not in (None, table.macs):
        notes.append(
            f"The layer table adds up to {units.format_value(table.macs, 'MAC')}, "
            f"the whole network to {units.format_value(record.value('macs'), 'MAC')}."
        )
    shown = [pictures.show(artifact) for artifact in record.artifacts if artifact.kind == "picture"]
    sampled = [m for m in record.measurements if detail.samples and len(m.values) > 1 and reliability.split(m)]
    return {
        "row": row,
        "status": STATUS_TEXT[record.status].partition(":")[0],
        "time": f"{cell.text} {cell.origin}" if (cell := measurement_cell(valid(record, main))).origin else "",
        "deployment": [
            (DEPLOYMENT[metric], cell) for metric in DEPLOYMENT if (cell := row.cell(metric)).value is not None
        ],
        "measurements": [{"m": m, "cell": measurement_cell(m)} for m in record.measurements if detail.measurements],
        "samples": [_samples(m, detail.samples) for m in sampled],
        "layers": table and [_layer(layer) for layer in table.layers],
        "kinds": table
        and ", ".join(f"{kind.replace('_', ' ')} {units.percent(share)}" for kind, share in table.kinds[:6]),
        "parts": table
        and "; ".join(f"{part or 'itself'} {units.percent(m)}, {units.percent(p)}" for part, m, p in table.parts[:8]),
        "pictures": [p for p in shown if isinstance(p, dict)],
        "notes": notes + [p for p in shown if isinstance(p, str)],
        "spec": _spec(record.model.kwargs),
    }


def _spec(kwargs: Mapping[str, Any]) -> str:
    """Its keywords; of what was cut, how many weights, since their shapes fill pages."""
    shown = {key: value for key, value in kwargs.items() if key != "pruned_shapes"}
    if cut := kwargs.get("pruned_shapes"):
        shown["pruned_shapes"] = f"{len(cut)} weights"
    return rec.canonical_json(rec.to_json(shown)) if shown else ""


def _compressed(recipe: Mapping[str, Any]) -> str:
    """What was done to a larger network to get this one; of a kind that is not known here, what it says.

    A recipe of `bench compress` has counts of channels, one of a search a configuration in their place.
    """
    source = f"{recipe.get('parent', 'a larger network')}, weights {str(recipe['parent_sha256'])[:8]}"
    if found := _pruned(recipe):
        text = f"Pruned from {source}: {found}"
    elif isinstance(recipe.get("search"), Mapping):
        text = f"Found by a search: {_share(recipe.get('inherited')) or 'some'} of its weights are from {source}"
        if share := _share(recipe["search"].get("prune")):
            text += f", of what was left {share} of {_scope(recipe['search'])} were to go"
    else:
        more = {key: value for key, value in recipe.items() if key not in _SHOWN}
        text = f"Made from {source}" + (f" ({rec.canonical_json(rec.to_json(more))})" if more else "")
    if recipe.get("finetune"):
        text += f", then trained on for {recipe['finetune']}"
        share = _share(recipe.get("distil"))
        text += f" with {share} of the loss from the network before" if share else ""
    before = recipe.get("before")
    text += ". "
    if isinstance(before, Mapping) and "parent_sha256" in before:
        text += f"The network before it: {_compressed(before)}"
    return text.strip()


#: Of a recipe: what its sentence says anyway.
_SHOWN = frozenset({"root", "parent", "parent_sha256", "finetune", "distil", "before"})


def _pruned(recipe: Mapping[str, Any]) -> str:
    """`30 of 100 channels went (30% of all channels were to go, by magnitude)`; empty where no counts are kept."""
    match recipe.get("channels"):
        case [int(before), int(after)]:
            text = f"{before - after} of {before} channels went"
        case _:
            return ""
    if share := _share(recipe.get("prune")):
        text += f" ({share} of {_scope(recipe)} were to go, by {recipe.get('criterion', 'a rule that is not kept')})"
    return text


def _scope(recipe: Mapping[str, Any]) -> str:
    return "each layer's channels" if recipe.get("scope") == "layer" else "all channels"


def _share(value: object) -> str:
    """`30%`; empty of 0 and of what is no number."""
    return f"{value:.0%}" if isinstance(value, (int, float)) and value else ""


def _layer(layer: layers.LayerShare) -> dict[str, Any]:
    return {
        "module": layer.module or "(the network itself)",
        "kind": layer.kind.replace("_", " "),
        "macs": units.format_value(layer.macs, "MAC"),
        "params": units.format_value(layer.params, "parameters"),
        "macs_share": f"{100 * layer.macs_share:.1f}",
        "params_share": f"{100 * layer.params_share:.1f}",
    }


def _samples(m: rec.Measurement, most: int) -> dict[str, str]:
    """The samples in their order, a semicolon between two processes."""
    apart = reliability.split(m)
    each = max(1, most // len(apart))
    parts = [", ".join(units.format_value(v, m.unit) for v in run[:each]) for run in apart[:most] if run]
    rest = len(m.values) - sum(min(len(run), each) for run in apart[:most])
    several = len(apart) > 1 and max(map(len, apart)) > 1
    text = ("; " if several else ", ").join(parts)
    n = f"{len(m.values)}, of {len(apart)} processes" if several else str(len(m.values))
    return {"metric": m.metric, "n": n, "text": text + (f" and {rest} more" * bool(rest))}


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
