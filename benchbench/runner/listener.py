"""Who hears of a run while it goes on, and where its results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchbench.core import records as rec
from benchbench.runner.job import Cell
from benchbench.runner.schedule import ProcessResult


class RunListener(Protocol):
    """Who is told how a run goes on; `host` is empty for this machine, and several hosts run at the same time."""

    def plan(self, cells: Sequence[tuple[str, float]], folder: Path, reused: int) -> None:
        """(label, estimated seconds) of each cell to come."""

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """A process of a cell starts; so much is left of all that runs there."""

    def phase(self, text: str, host: str = "") -> None:
        """What it does now."""

    def end(self, record: rec.Record) -> None:
        """A cell is done and on disk."""


class Recorder(Protocol):
    """Where the results of a run go: a folder here, or the side that asked an agent; its listener hears of them."""

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """For the listener."""

    def phase(self, text: str, host: str = "") -> None:
        """For the listener."""

    def environment(self, cell: Cell) -> Mapping[str, Any]:
        """The conditions of a cell."""

    def earlier(self, cell: Cell, *, repeat: bool = False) -> Sequence[ProcessResult]:
        """Processes of a cell, or of its repeat run, that have ended before this run."""

    def keep(self, cell: Cell, result: ProcessResult, *, repeat: bool = False) -> None:
        """A process of a cell that has several has ended."""

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        """Keep a file beside the records."""

    def finish(self, cell: Cell, record: rec.Record) -> None:
        """A cell has its record."""
