"""Trainings after the proposals, each a line of a journal in the search's folder.

The command that began a search works them off, one after the other. A training that is in the journal is finished, and
is not run again; a search that was interrupted goes on with the first one that is not.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core.errors import BenchError, CheckpointError, StoreError, first_line, os_error_as
from benchbench.core.results import JsonLines

log = logging.getLogger(__name__)

JOURNAL = "trainings.jsonl"
SAME_AS = "same_as"  # of a training that was not run again: the label of the equal one whose result it has


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTraining:
    """A promotion, final or control, or why there is no result."""

    label: str  # unique in a search
    what: Mapping[str, Any]  # `kind`, `key` of its configuration, and so on; JSON values
    result: Mapping[str, Any]  # JSON values
    error: str | None = None

    @property
    def kind(self) -> str:
        """`promotion`, `final`, `scratch`, ..."""
        return str(self.what["kind"])


class Journal:
    """The finished trainings of a search, and what was decided on the way."""

    def __init__(self, folder: Path) -> None:
        """Open, or make, the journal of a folder.

        Raises:
            StoreError: it cannot be read or written, or is damaged.
        """
        path = folder / JOURNAL
        self._advice = f"{path} keeps what is finished: make room, and run the same command again"
        with os_error_as(StoreError, f"cannot write {path}", "choose another --out"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = JsonLines(path)
            text = path.read_text(errors="replace")
        self.trainings: dict[str, FinishedTraining] = {}
        self._decisions: dict[str, Any] = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                if "decision" in entry:
                    self._decisions[str(entry["decision"])] = entry["value"]
                else:
                    self.trainings[str(entry["label"])] = FinishedTraining(**entry)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise StoreError(f"{path} line {number} is no training of a search ({first_line(error)})") from error

    def of(self, *kinds: str) -> list[FinishedTraining]:
        """The finished trainings of some kinds, in order."""
        return [training for training in self.trainings.values() if training.kind in kinds]

    def run(self, label: str, what: Mapping[str, Any], do: Callable[[], Mapping[str, Any]]) -> FinishedTraining:
        """A training: as it is in the journal, or run now. What fails in it is its error, and is not tried again.

        Raises:
            CheckpointError, StoreError: the journal, or another file, cannot be read or written.
        """
        if label in self.trainings:
            return self.trainings[label]
        try:
            training = FinishedTraining(label=label, what=what, result=dict(do()))
        except (StoreError, CheckpointError):  # of this machine, not of the network
            raise
        except (BenchError, ValueError, RuntimeError) as error:
            log.debug("%s failed", label, exc_info=True)
            training = FinishedTraining(label=label, what=what, result={}, error=first_line(error))
        self._append(dataclasses.asdict(training))
        self.trainings[label] = training
        return training

    def decide(self, key: str, value: Callable[[], Any]) -> Any:
        """A decision, as JSON values: as it was made first."""
        if key not in self._decisions:
            made = value()
            self._append({"decision": key, "value": made})
            self._decisions[key] = made
        return self._decisions[key]

    def decision(self, key: str) -> Any | None:
        """A decision that was made, or None."""
        return self._decisions.get(key)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with os_error_as(StoreError, "cannot write the journal of the search", self._advice):
            self._lines.append(dict(entry))


def rows(trainings: Sequence[FinishedTraining]) -> list[dict[str, Any]]:
    """Trainings as JSON values, for the record of the search."""
    return [{**one.what, "label": one.label, "error": one.error, **one.result} for one in trainings]
