"""Cases that are judged and have no record yet, on disk one by one, so that an interrupted evaluation goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.runner.journal import CellJournal

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
        self._slices = folder / SLICES
        self._cases: dict[tuple[str, str], dict[int, Any]] = {}
        self._journal = CellJournal(folder / JOURNAL, self._take, fresh=fresh)
        if fresh:
            shutil.rmtree(self._slices, ignore_errors=True)  # they are of use to that journal alone

    def _take(self, key: tuple[str, str], item: Any) -> None:
        self._cases.setdefault(key, {})[item["case"]["index"]] = item["case"]

    def cases(self, cell: str, environment: Mapping[str, Any]) -> dict[int, Any]:
        """The cases of a cell that were judged under equal conditions, by their numbers."""
        return dict(self._cases.get((cell, rec.fingerprint(environment)), {}))

    def keep(self, cell: str, environment: Mapping[str, Any], case: Mapping[str, Any]) -> None:
        """Add a case and wait until the disk has it.

        Raises:
            StoreError: the disk is full or gone.
        """
        self._journal.keep(cell, environment, case=case)

    def slices(self, cell: str) -> Path:
        """The folder for the slices of a cell."""
        return self._slices / cell

    def close(self) -> None:
        """Everything has a record: neither is needed any more."""
        self._journal.close()
        shutil.rmtree(self._slices, ignore_errors=True)
