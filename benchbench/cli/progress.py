"""Progress of a command on stderr: the plan, one live line, and a line for each finished row; or lines of JSON.

The live line needs a terminal. Without one the other lines are written plainly, so that a log of a run reads well; -q
writes none. With `--progress json` each of them is an object, for another program.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from benchbench.core.records import Record
from benchbench.core.units import format_duration, format_shape, format_value

if TYPE_CHECKING:
    from rich.status import Status

    from benchbench.runner.estimate import CellCost
    from benchbench.runner.job import Cell
    from benchbench.runner.listener import RunListener


#: Texts of the metrics in the line of a finished row.
_METRIC_TEXTS = {
    "latency_s": "{}",
    "train_step_s": "{} a step",
    "peak_memory_bytes": "{}",
    "train_peak_memory_bytes": "{}",
    "volume_latency_s": "{} a volume",
    "dice": "Dice {}",
}
_JSON_EVERY_S = 1.0  # between two objects that say what goes on now
_LOG_EVERY_S = 30.0  # between two lines of a log that do


def is_shown(options: argparse.Namespace) -> bool:
    """Whether to show progress: everywhere, unless with -q."""
    return not options.quiet


T = TypeVar("T", bound="_LiveLine")


class _LiveLine:
    """A line of a terminal that is renewed, below lines that stay; a log gets the latter alone, if `shown` at all."""

    first = "starting"  # text of the line

    def __init__(self, stream: TextIO, *, shown: bool, intro: str = "") -> None:
        """Make it.

        Args:
            stream: stderr.
            shown: whether anything is written.
            intro: what is said first, as soon as it is sure that the command can begin.
        """
        self.stream, self.shown = stream, shown
        self._intro = intro
        self._live: Status | None = None
        self._next_line_s = time.monotonic() + _LOG_EVERY_S  # when a log says again what goes on

    def __enter__(self: T) -> T:
        if self.shown and self.stream.isatty():
            from rich.console import Console

            self._live = Console(file=self.stream, highlight=False).status(self.first)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _introduce(self) -> None:
        intro, self._intro = self._intro, ""
        if intro:
            self._say(intro)

    def _is_due(self, now: float) -> bool:
        """Whether to say what goes on now: always where a line is renewed, twice a minute in a log."""
        return bool(self._live) or now >= self._next_line_s

    def _renew(self, text: str, now: float) -> None:
        """Say what goes on now."""
        if self._live:
            self._live.update(text.replace("[", "\\["))
        else:
            self._next_line_s = now + _LOG_EVERY_S
            self._say(text)

    def _say(self, text: str) -> None:
        """Write a line that stays."""
        if self._live:
            self._live.console.print(text, markup=False, soft_wrap=True)
        elif self.shown:
            print(text, file=self.stream, flush=True)


class TerminalProgress(_LiveLine):
    """`RunListener` for a terminal or a log."""

    first = "counting parameters and MACs"

    def __init__(self, stream: TextIO, *, shown: bool, intro: str = "") -> None:
        super().__init__(stream, shown=shown, intro=intro)
        self._now: dict[str, tuple[str, float]] = {}  # host -> what runs there, and until when
        self._texts: dict[str, str] = {}
        self._done, self._total = 0, 0

    def _say(self, text: str) -> None:
        self._next_line_s = time.monotonic() + _LOG_EVERY_S  # a row that is done says enough
        super()._say(text)

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """Say what will be done, and about how long it will take."""
        self._introduce()
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
        """Renew the live line; in a log, add one every half minute."""
        self._texts[host] = text
        if host not in self._now:
            self._now[host] = (host, 0.0)
            if not self._live:
                self._say(f"{host}: {text}" if host else text)  # before any row, such as waiting for a board
        now = time.monotonic()
        if self._is_due(now):
            self._renew(f"[{self._done + 1}/{self._total}] {' | '.join(map(self._part, self._now))}", now)

    def _part(self, host: str) -> str:
        label, until = self._now[host]
        left = max(0.0, until - time.monotonic())
        return f"{label}: {self._texts[host]}{f', about {format_duration(left)} left' if until else ''}"

    def end(self, record: Record) -> None:
        """A row is done: one line that stays."""
        self._done += 1
        host = record.device.asked
        self._now.pop(host if host in self._now else "", None)
        where = f"[{self._done}/{self._total}] {label_of(record)}: "
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


def label_of(record: Record) -> str:
    """`slim_unetr 128x128x128 on cpu`."""
    return f"{record.model.name} {format_shape(record.workload.spatial)} on {record.device.asked}"


class _Steps:
    """The time that is left, from the share of the whole that is done."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def left_s(self, used: float, now: float) -> float | None:
        return (now - self.began) / used * (1 - used) if used else None


class TrainingProgress(_LiveLine):
    """One live line for a training, or for going through cases; in a log, a line every half minute."""

    def __init__(self, stream: TextIO, *, shown: bool, intro: str = "") -> None:
        super().__init__(stream, shown=shown, intro=intro)
        self._steps = _Steps()

    def step(self, used: float, line: str) -> None:
        """So much of the budget is used, 0 to 1."""
        if used:  # before that it may still be refused, and then that is all there is to say
            self._introduce()
        now = time.monotonic()
        if not self._is_due(now) and used < 1:
            return
        left = self._steps.left_s(used, now)
        text = line if left is None else f"{used:.0%}: {line}"
        text += f", about {format_duration(left)} left" if left else ""
        self._renew(text, now)

    def case(self, done: int, total: int) -> None:
        """So many cases are done."""
        self.step(done / total, f"case {done} of {total}")


class JsonProgress:
    """Listens to a run, or to steps, and writes each event as a line of JSON: `--progress json`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._steps = _Steps()
        self._next = 0.0
        self._done, self._total = 0, 0

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self.stream, flush=True)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _JSON_EVERY_S
        return True

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """`rows` with `label` and `estimate_s`, `reused`, `folder`."""
        self._total = len(cells)
        rows = [{"label": cell.label, "cell": cell.id, "estimate_s": seconds} for cell, _, seconds in cells]
        self._write("plan", rows=rows, reused=reused, folder=str(folder))

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        """`label`, `remaining_s`, `host`."""
        self._next = 0.0
        self._write("begin", label=label, remaining_s=remaining_s, host=host)

    def phase(self, text: str, host: str = "") -> None:
        """`text`, `host`; once a second."""
        if self._is_due():
            self._write("phase", text=text, host=host)

    def end(self, record: Record) -> None:
        """`label`, `status`, `error`, `values` by metric, and how many rows are done."""
        self._done += 1
        values = {name: record.value(name) for name in _METRIC_TEXTS if record.get(name)}
        self._write(
            "row",
            label=label_of(record),
            status=record.status,
            error=record.error,
            values=values,
            done=self._done,
            total=self._total,
        )

    def step(self, used: float, line: str) -> None:
        """`used`, 0 to 1, `text`, `remaining_s`; once a second."""
        if self._is_due() or used >= 1:
            left = self._steps.left_s(used, time.monotonic())
            self._write("step", used=used, text=line, remaining_s=left)

    def case(self, done: int, total: int) -> None:
        """A step."""
        self.step(done / total, f"case {done} of {total}")


class _ToSeveral:
    """A listener of a run that tells others."""

    def __init__(self, *listeners: RunListener) -> None:
        self.listeners = listeners

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        for one in self.listeners:
            one.plan(cells, folder, reused)

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        for one in self.listeners:
            one.begin(label, remaining_s, host)

    def phase(self, text: str, host: str = "") -> None:
        for one in self.listeners:
            one.phase(text, host)

    def end(self, record: Record) -> None:
        for one in self.listeners:
            one.end(record)


def to_several(*listeners: RunListener) -> RunListener:
    """One listener that tells all of these."""
    return _ToSeveral(*listeners)


def of_run(options: argparse.Namespace, intro: str = "") -> TerminalProgress | JsonProgress:
    """What listens to a run, as it was asked for; `intro` is for a person."""
    if options.progress == "json" and is_shown(options):
        return JsonProgress(sys.stderr)
    return TerminalProgress(sys.stderr, shown=is_shown(options), intro=intro)


def of_steps(options: argparse.Namespace, intro: str = "") -> TrainingProgress | JsonProgress:
    """What listens to a training, a search, or going through cases, as it was asked for; `intro` is for a person."""
    if options.progress == "json" and is_shown(options):
        return JsonProgress(sys.stderr)
    return TrainingProgress(sys.stderr, shown=is_shown(options), intro=intro)
