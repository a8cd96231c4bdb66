"""Journal of what is finished and has no record yet: on disk line by line, so that an interrupted command goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.results import JsonLines, set_aside


class CellJournal:
    """Lines of JSON, each of a cell under the conditions that it was measured in."""

    def __init__(self, path: Path, take: Callable[[tuple[str, str], Any], None], *, fresh: bool = False) -> None:
        """Read what an earlier command left.

        Args:
            path: of the file.
            take: gets (cell, conditions) and each line. One that is torn or of another version is passed over: there
                `take` may raise a KeyError or TypeError.
            fresh: begin anew: the file is set aside as `.old`, `.old.2`, ...

        Raises:
            StoreError: it cannot be read, or set aside.
        """
        self.path = path
        self._lines: JsonLines | None = None  # once there is something to keep
        with os_error_as(StoreError, f"cannot use {path}", "choose another --out"):
            if fresh:
                set_aside([path])
            lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        for line in lines:
            with contextlib.suppress(StoreError, KeyError, TypeError):
                item = parse_json(line, path.name, StoreError)
                if item["schema"] == rec.SCHEMA:
                    take((str(item["cell"]), str(item["environment"])), item)

    def keep(self, cell: str, environment: Mapping[str, Any], **more: Any) -> None:
        """Add a line and wait until the disk has it.

        Args:
            more: JSON values.

        Raises:
            StoreError: the disk is full or gone.
        """
        item = {"schema": rec.SCHEMA, "cell": cell, "environment": rec.fingerprint(environment), **more}
        advice = "what is finished is kept: make room and run the same command again"
        with os_error_as(StoreError, f"cannot write to {self.path}", advice):
            self._lines = self._lines or JsonLines(self.path)
            self._lines.append(item)

    def close(self) -> None:
        """Everything has a record: the journal is not needed any more."""
        self.path.unlink(missing_ok=True)
