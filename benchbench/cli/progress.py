"""Progress in the terminal: the plan, one live line, and a line for each finished row.

All of it on stderr. The live line needs a terminal; with -v and no terminal the other lines are
written plainly, so that a log of a run reads well.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from benchbench.core.records import Record
from benchbench.core.units import format_duration, format_shape, format_value

if TYPE_CHECKING:
    from rich.status import Status

    from benchbench.runner.estimate import CellCost
    from benchbench.runner.job import Cell


#: Texts of the metrics in the line of a finished row.
_METRIC_TEXTS = {
    "latency_s": "{}",
    "train_step_s": "{} a step",
    "peak_memory_bytes": "{}",
    "train_peak_memory_bytes": "{}",
    "volume_latency_s": "{} a volume",
    "dice": "Dice {}",
}


def is_shown(options: argparse.Namespace) -> bool:
    """Whether to show progress: on a terminal without -q, and anywhere with -v."""
    return bool(options.verbose or (sys.stderr.isatty() and not options.quiet))


T = TypeVar("T", bound="_LiveLine")


class _LiveLine:
    """A line of a terminal that is renewed, below lines that stay; a log gets the latter alone, if `shown` at all."""

    first = "starting"  # text of the line

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self.stream, self.shown = stream, shown
        self._live: Status | None = None

    def __enter__(self: T) -> T:
        if self.shown and self.stream.isatty():
            from rich.console import Console

            self._live = Console(file=self.stream, highlight=False).status(self.first)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _say(self, text: str) -> None:
        """Write a line that stays."""
        if self._live:
            self._live.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            print(text, file=self.stream, flush=True)


class TerminalProgress(_LiveLine):
    """`RunListener` for a terminal or a log."""

    first = "counting parameters and MACs"

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        super().__init__(stream, shown=shown)
        self._now: dict[str, tuple[str, float]] = {}  # host -> what runs there, and until when
        self._texts: dict[str, str] = {}
        self._done, self._total = 0, 0

    def __enter__(self) -> TerminalProgress:
        super().__enter__()
        if not self._live:
            self._say(self.first)
        return self

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """Say what will be done, and about how long it will take."""
        self._total = len(cells)
        if reused:
            self._say(f"{reused} row(s) in {folder} were measured before under the same conditions and are kept")
        if cells:
            here = sum(seconds for *_, seconds in cells)
            about = f", about {format_duration(here)} (a guess from the MACs)" if here else ""
            self._say(f"{len(cells)} to do, the cheapest first{about}; records go to {folder}")

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """A row starts, here or on another host."""
        self._now[host] = (label, time.monotonic() + remaining_s)
        self.phase("starting", host)

    def phase(self, text: str, host: str = "") -> None:
        """Renew the live line."""
        self._texts[host] = text
        if host not in self._now:
            self._now[host] = (host, 0.0)
            if not self._live:
                self._say(f"{host}: {text}")  # waiting for the board, before any row of it
        if self._live:
            parts = [self._part(key) for key in self._now]
            self._live.update(f"[{self._done + 1}/{self._total}] {' | '.join(parts)}".replace("[", "\\["))

    def _part(self, host: str) -> str:
        label, until = self._now[host]
        left = max(0.0, until - time.monotonic())
        return f"{label}: {self._texts[host]}{f', about {format_duration(left)} left' if until else ''}"

    def end(self, record: Record) -> None:
        """A row is done: one line that stays."""
        self._done += 1
        host = record.device.asked
        self._now.pop(host if host in self._now else "", None)
        label = f"{record.model.name} {format_shape(record.workload.spatial)} on {host}"
        where = f"[{self._done}/{self._total}] {label}: "
        if not record.ok:
            self._say(f"{where}{record.status}: {record.error}")
            return
        parts = []
        for metric, words in _METRIC_TEXTS.items():
            m = record.get(metric)
            if m and m.value is not None:
                bound = "at least " if m.bound == "at_least" else ""
                parts.append(words.format(f"{bound}{format_value(m.value, m.unit)}"))
        note = "" if record.status == "ok" else f" ({record.status})"
        self._say(f"{where}{', '.join(parts)}{note}, in {format_duration(record.duration_s)}")


class TrainingProgress(_LiveLine):
    """One live line for a training, or for going through cases; in a log, a line every half minute."""

    every_s = 30.0  # between two lines of a log

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        super().__init__(stream, shown=shown)
        self._began = self._last = time.monotonic()

    def step(self, used: float, line: str) -> None:
        """So much of the budget is used, 0 to 1."""
        now = time.monotonic()
        left = (now - self._began) / used * (1 - used) if used else 0.0
        text = f"{used:.0%}: {line}, about {format_duration(left)} left" if used else line
        if self._live:
            self._live.update(text)
        elif self.shown and (now - self._last >= self.every_s or used >= 1):
            self._last = now
            self._say(text)

    def case(self, done: int, total: int) -> None:
        """So many cases are done."""
        self.step(done / total, f"case {done} of {total}")
