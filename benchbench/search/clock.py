"""Clocks of a search: its elapsed time over all sittings, and the time that the machine slept."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from benchbench.core.config import read_json
from benchbench.core.errors import StoreError, first_line
from benchbench.core.results import write_whole

log = logging.getLogger(__name__)

_TICK_S = 1.0  # between two writes of the elapsed time
_SLEPT_S = 30.0  # least difference of wall clock and monotonic clock that counts as a sleep of the machine


class ElapsedTime:
    """Elapsed time of a search in one folder, over all its sittings; `path` keeps that of earlier ones."""

    def __init__(self, path: Path) -> None:
        self.path, self._began, self._written = path, time.monotonic(), 0.0
        self.before_s = self.measured_s = self.pause_s = 0.0
        self._controls_before_s = 0.0
        self._controls_began: float | None = None  # by the monotonic clock, while they run
        try:
            times = read_json(path, "the times of a search", StoreError) if path.exists() else None
            if times is not None:
                whole, measured, seen = (max(0.0, float(times[key])) for key in ("whole_s", "measured_s", "seen"))
                self.before_s, self.measured_s = whole, measured
                self._controls_before_s = max(0.0, float(times.get("controls_s", 0.0)))
                self.pause_s = max(0.0, time.time() - seen)
        except (StoreError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("%s is unreadable (%s): the search counts its time from now on", path, first_line(error))

    @property
    def sitting_s(self) -> float:
        """Elapsed time of this sitting."""
        return time.monotonic() - self._began

    @property
    def whole_s(self) -> float:
        """All sittings together."""
        return self.before_s + self.sitting_s

    @property
    def controls_s(self) -> float:
        """Elapsed time of the controls, all sittings together."""
        began = self._controls_began
        return self._controls_before_s + (0.0 if began is None else time.monotonic() - began)

    @contextlib.contextmanager
    def controls(self) -> Iterator[None]:
        """Inside, the controls run."""
        self._controls_began = time.monotonic()
        try:
            yield
        finally:
            self._controls_before_s, self._controls_began = self.controls_s, None
            self._write()

    def measured(self, seconds: float) -> None:
        """Count seconds of measuring before or after the search itself."""
        self.measured_s += seconds
        self._write()

    def tick(self) -> None:
        """Write the elapsed time, once a second at most."""
        if time.monotonic() - self._written >= _TICK_S:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        times = {"whole_s": self.whole_s, "measured_s": self.measured_s, "controls_s": self.controls_s}
        write_whole(self.path, json.dumps({**times, "seen": time.time()}).encode())


class MachineSleep:
    """Time that this machine slept, or that its clock was set by, between two calls."""

    def __init__(self) -> None:
        self._wall, self._process = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Seconds since the last call; short differences count as 0."""
        wall, process = time.time(), time.monotonic()
        slept = (wall - self._wall) - (process - self._process)
        self._wall, self._process = wall, process
        return slept if abs(slept) > _SLEPT_S else 0.0
