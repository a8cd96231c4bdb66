"""Cases that are judged and have no record yet, on disk one by one, so that an interrupted evaluation goes on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.results import JsonLines, set_aside

JOURNAL, SLICES = "cases.unfinished", "slices.unfinished"


class CaseJournal:
    """The judged cases of a folder, and the slices that their pictures are made from."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Read what an earlier evaluation left.

        Args:
            folder: of the records.
            fresh: begin anew: it is set aside as `cases.unfinished.old`, `.old.2`, ...

        Raises:
            StoreError: it cannot be read, or set aside.
        """
        self.path, self._slices = folder / JOURNAL, folder / SLICES
        self._lines: JsonLines | None = None  # once there is something to keep
        self._cases: dict[tuple[str, str], dict[int, Any]] = {}
        with os_error_as(StoreError, f"cannot use {self.path}", "choose another --out"):
            if fresh:
                set_aside([self.path])
                shutil.rmtree(self._slices, ignore_errors=True)  # they are of use to that journal alone
            lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        for line in lines:
            with contextlib.suppress(StoreError, KeyError, TypeError):  # torn, or of another version
                item = parse_json(line, JOURNAL, StoreError)
                if item["schema"] == rec.SCHEMA:
                    key = (str(item["cell"]), str(item["environment"]))
                    self._cases.setdefault(key, {})[item["case"]["index"]] = item["case"]

    def cases(self, cell: str, environment: Mapping[str, Any]) -> dict[int, Any]:
        """The cases of a cell that were judged under equal conditions, by their numbers."""
        return dict(self._cases.get((cell, rec.fingerprint(environment)), {}))

    def keep(self, cell: str, environment: Mapping[str, Any], case: Mapping[str, Any]) -> None:
        """Add a case and wait until the disk has it.

        Raises:
            StoreError: the disk is full or gone.
        """
        item = {
            "schema": rec.SCHEMA,
            "cell": cell,
            "environment": rec.fingerprint(environment),
            "case": case,
        }
        advice = "what is finished is kept: make room and run the same command again"
        with os_error_as(StoreError, f"cannot write to {self.path}", advice):
            self._lines = self._lines or JsonLines(self.path)
            self._lines.append(item)

    def slices(self, cell: str) -> Path:
        """The folder for the slices of a cell."""
        return self._slices / cell

    def close(self) -> None:
        """Everything has a record: neither is needed any more."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._slices, ignore_errors=True)
