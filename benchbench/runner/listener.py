"""Listeners of a run: the protocol, and one that writes JSON lines for another program or machine."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchbench.core import records as rec
from benchbench.core.results import plain_name
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell

_PHASE_EVERY_S = 1.0  # more often would take time from what is measured


class RunListener(Protocol):
    """Hears how a run goes on; `host` is empty for this machine, and several hosts run at the same time."""

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """The cells to come, their counts, and an estimate of their seconds; 0 where there is none."""

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """A process of a cell starts; so much is left of all that runs there."""

    def phase(self, text: str, host: str = "") -> None:
        """What it does now."""

    def end(self, record: rec.Record) -> None:
        """A cell is done and on disk."""


class EventWriter:
    """`RunListener` of `bench run --events json`: `plan`, `begin`, `phase` (once a second) and `record`."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], *, files_of: Path | None = None) -> None:
        """Make it.

        Args:
            emit: writes an event.
            files_of: results folder whose artifacts go along with the records, for another machine.
        """
        self._emit, self._files_of = emit, files_of
        self._next_phase = 0.0

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """`cells`: {cell, label, estimate_s, counts}, the counts as measurements."""
        planned = [
            {"cell": cell.id, "label": cell.label, "estimate_s": seconds, "counts": rec.to_json(cost.measurements)}
            for cell, cost, seconds in cells
        ]
        self._emit({"event": "plan", "cells": planned, "folder": str(folder), "reused": reused})

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """`label`, `remaining_s` and `host`."""
        self._next_phase = 0.0
        self._emit({"event": "begin", "label": label, "remaining_s": remaining_s, "host": host})

    def phase(self, text: str, host: str = "") -> None:
        """`text` and `host`."""
        now = time.monotonic()
        if now >= self._next_phase:
            self._next_phase = now + _PHASE_EVERY_S
            self._emit({"event": "phase", "text": text, "host": host})

    def end(self, record: rec.Record) -> None:
        """`record` as in `records.jsonl`, and `files` with their content in base64 where they go along."""
        files = [] if self._files_of is None else [_file(artifact, self._files_of) for artifact in record.artifacts]
        self._emit({"event": "record", "record": rec.record_to_json(record), "files": files})


def _file(artifact: rec.Artifact, folder: Path) -> dict[str, str]:
    """An artifact with its content."""
    return {
        "kind": artifact.kind,
        "name": plain_name(artifact),
        "title": artifact.title,
        "sha256": artifact.sha256,
        "content": base64.b64encode((folder / artifact.path).read_bytes()).decode(),
    }
