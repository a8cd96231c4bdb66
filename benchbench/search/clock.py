"""Elapsed time of a search, without its pauses and the machine's sleep."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from benchbench.core.config import read_json
from benchbench.core.errors import StoreError, first_line
from benchbench.core.results import write_whole

log = logging.getLogger(__name__)

_EVERY_S = 1.0  # between two writes
_SLEPT_S = 30.0  # by which the clock on the wall gets ahead of the process's own where the machine sleeps


class Sleep:
    """How long this machine has slept, or was set to another time, since it was last asked."""

    def __init__(self) -> None:
        self._wall, self._own = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Since the last time; what is short counts as none."""
        wall, own = time.time(), time.monotonic()
        slept = (wall - self._wall) - (own - self._own)
        self._wall, self._own = wall, own
        return slept if abs(slept) > _SLEPT_S else 0.0


class ElapsedTime:
    """The sittings of a search in one folder."""

    def __init__(self, path: Path) -> None:
        """Begin a sitting.

        Args:
            path: where earlier ones are kept; not there: there were none; not readable: nor, with a warning.
        """
        self.path, self._began, self._written = path, time.monotonic(), 0.0
        self.before_s = self.measured_s = self.pause_s = 0.0
        try:
            known = read_json(path, "the times of a search", StoreError) if path.exists() else None
            if known is not None:
                whole, measured, seen = (max(0.0, float(known[key])) for key in ("whole_s", "measured_s", "seen"))
                self.before_s, self.measured_s = whole, measured
                self.pause_s = max(0.0, time.time() - seen)
        except (StoreError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("%s is of no use (%s): the search counts its time from now on", path, first_line(error))

    @property
    def sitting_s(self) -> float:
        """Of this sitting."""
        return time.monotonic() - self._began

    @property
    def whole_s(self) -> float:
        """All sittings together."""
        return self.before_s + self.sitting_s

    def measured(self, seconds: float) -> None:
        """So much was spent on measuring before or after the search itself."""
        self.measured_s += seconds
        self._written = 0.0
        self.tick()

    def tick(self) -> None:
        """A sign of life."""
        if time.monotonic() - self._written < _EVERY_S:
            return
        self._written = time.monotonic()
        known = {"whole_s": self.whole_s, "measured_s": self.measured_s, "seen": time.time()}
        write_whole(self.path, json.dumps(known).encode())
