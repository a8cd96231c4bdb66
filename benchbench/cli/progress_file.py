"""What a running command leaves in its folder for `bench watch`: `progress.json`, gone when the command has ended.

It is written between measurements and never during one. A folder that has it although its process is gone belongs to a
command that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.records import Record
from benchbench.core.results import LOCK

if TYPE_CHECKING:
    from benchbench.runner.estimate import CellCost
    from benchbench.runner.job import Cell

NAME = "progress.json"
_EVERY_S = 5.0  # between two versions of a search's file


class ProgressFile:
    """Listens to a run, or to the steps of a search, and keeps what is needed to show how far it is."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.path = folder, folder / NAME
        self._state: dict[str, Any] = {
            "command": command,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "began": time.time(),
            "rows": [],
            "now": {},
        }
        self._next = 0.0
        self._is_ours = False  # a command that could not have the folder leaves the file of the one that has it

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_ours:
            return
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):  # nothing was recorded, and the folder had been kept by this file
                self.folder.rmdir()

    def _write(self, **fields: Any) -> None:
        self._is_ours = True
        self._state |= {**fields, "written": time.time()}
        partial = self.path.with_name(f"{NAME}.{os.getpid()}.partial")
        with contextlib.suppress(OSError):  # a command does not end for its progress
            try:
                partial.write_text(json.dumps(self._state))
                os.replace(partial, self.path)
            finally:
                partial.unlink(missing_ok=True)

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """The rows to come."""
        rows = [{"cell": cell.id, "label": cell.label, "estimate_s": seconds} for cell, _, seconds in cells]
        self._write(rows=rows, reused=reused, ends=time.time() + sum(seconds for *_, seconds in cells))

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """A process of a row starts."""
        self._write(now=self._state["now"] | {host: label}, ends=time.time() + remaining_s)

    def phase(self, text: str, host: str = "") -> None:
        """Not kept: it may come while something is measured."""

    def end(self, record: Record) -> None:
        """A row is done: its record says so."""

    def step(self, used: float, line: str) -> None:
        """So much of a search's time is used, 0 to 1."""
        now = time.time()
        if now >= self._next:
            self._next = now + _EVERY_S
            left = (now - self._state["began"]) / used * (1 - used) if used else None
            self._write(used=used, text=line, ends=None if left is None else now + left)


def read(folder: Path) -> Mapping[str, Any] | None:
    """What a command has left in a folder; None where none runs there, or its file cannot be read."""
    with contextlib.suppress(StoreError):
        state = read_json(folder / NAME, "the progress", StoreError)
        if isinstance(state, dict) and isinstance(state.get("rows"), list) and isinstance(state.get("now"), dict):
            return state
    return None


def runs_in(folder: Path) -> bool:
    """Whether a command is at work in a folder: by its progress; before there is any, by its lock, on Linux alone."""
    state = read(folder)
    return is_running(state) if state else _is_locked(folder / LOCK)


def _is_locked(path: Path) -> bool:
    """Whether a process has a lock on a file; looked up, since trying it could get in the way of one that begins."""
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any("FLOCK" in words and word.rpartition(":")[2] == inode for words in lines for word in words)
    return False


def is_running(state: Mapping[str, Any]) -> bool:
    """Whether its process is there; of another machine's that is not known, and it is believed for ten minutes."""
    if state.get("host") != socket.gethostname():
        written = state.get("written")
        return isinstance(written, (int, float)) and time.time() - written < 600
    import psutil

    process = state.get("process")
    with contextlib.suppress(psutil.Error, ValueError, TypeError):
        if isinstance(process, int):
            return psutil.Process(process).create_time() <= float(state["began"]) + 1
    return False
