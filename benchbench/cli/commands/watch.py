"""`bench watch`: how far a run or a search is, from its folder alone, and what it has found so far."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.cli import progress_file
from benchbench.cli.next_step import next_line
from benchbench.cli.parser import add_shared
from benchbench.cli.results_table import results_table
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK, StoreError
from benchbench.core.records import Record
from benchbench.core.results import RECORDS, SEARCH, SEARCH_BEGUN, latest, read_records
from benchbench.core.search_result import ordered, read_search
from benchbench.core.units import counted, first_few, format_duration, format_value
from benchbench.report import reasons, so_far, writers
from benchbench.runner.schedule import JOURNAL

_MOST = 12  # proposals in the table of a search

Row = dict[str, Any]


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of a run or a search, running or finished")
    sub.add_argument(
        "--every",
        type=to.seconds,
        default="5s",
        metavar="TIME",
        help="look again after this time, until it has ended; on a terminal alone (default: 5s)",
    )
    sub.add_argument("--once", action="store_true", help="show it once, also on a terminal")
    add_shared(sub, "--format", choices=("table", "json"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a folder shows at one moment."""

    kind: str  # run | search
    running: bool
    killed: bool  # its process is gone and could not say so
    state: Mapping[str, Any]  # of `progress.json`
    records: tuple[Record, ...] = ()
    waiting: tuple[str, ...] = ()  # labels of rows that are not finished
    proposals: tuple[Row, ...] = ()
    finished: bool = False

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, as far as it is known."""
        ends = self.state.get("ends")
        return max(0.0, ends - time.time()) if self.running and isinstance(ends, (int, float)) else None


def run(options: argparse.Namespace) -> int:
    """Show the folder, once or until what runs there has ended."""
    live = sys.stdout.isatty() and not options.once and options.format == "table"
    seen = look(options.folder)
    if not live:
        print(writers.to_json(to_json(seen)) if options.format == "json" else text(seen, options.folder))
        return EXIT_OK
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(
        Text(text(seen, options.folder)),
        console=Console(highlight=False),
        auto_refresh=False,
        vertical_overflow="visible",
    ) as screen:
        while seen.running:
            time.sleep(options.every)
            seen = look(options.folder)
            screen.update(Text(text(seen, options.folder)), refresh=True)
        screen.update(Text(text(seen, options.folder)), refresh=True)
    return EXIT_OK


def look(folder: Path) -> Seen:
    """What there is in a folder now.

    Raises:
        StoreError: it holds neither a run nor a search, or cannot be read.
    """
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}: name that of a run or a search")
    state = progress_file.read(folder) or {}
    running = progress_file.runs_in(folder)
    killed = bool(state) and not running
    if state.get("command") == "search" or (folder / SEARCH).exists() or (folder / SEARCH_BEGUN).exists():
        finished = (folder / SEARCH).exists() and not running
        rows = _finalists(folder) if finished else _proposals(folder)
        return Seen(
            kind="search", running=running, killed=killed, state=state, proposals=tuple(rows), finished=finished
        )
    records: list[Record] = []
    if (folder / RECORDS).exists() or not (state or running):
        records = latest(read_records(folder))
    done = {record.cell for record in records}
    waiting = [str(row.get("label")) for row in state.get("rows", ()) if row.get("cell") not in done]
    return Seen(
        kind="run",
        running=running,
        killed=killed,
        state=state,
        records=tuple(records),
        waiting=tuple(waiting),
        finished=bool(records) and not (state or running) and not (folder / JOURNAL).exists(),
    )


def _proposals(folder: Path) -> list[Row]:
    """The proposals of a search that is not finished, those of the front first."""
    from benchbench.search import so_far as search_so_far

    with contextlib.suppress(StoreError):  # it is being written, or lies on a server
        return [
            {
                "proposal": one.number,
                "front": "yes" if one.is_front else "",
                "dice_val": one.dice,
                "cost": one.cost,
                "params": one.params,
            }
            for one in search_so_far.proposals(folder)
        ]
    return []


def _finalists(folder: Path) -> list[Row]:
    return [
        {
            "network": point["name"],
            "front": "yes" if point["front"] else "",
            "dice_test": point["dice_test"]["mean"],
            "cost": point["objective"],
            "params": point["costs"].get("params"),
        }
        for point in ordered(read_search(folder)["points"])
    ]


def text(seen: Seen, folder: Path) -> str:
    """What is shown of it in a terminal."""
    parts = [_headline(seen, folder)]
    if seen.records:
        parts.append(results_table(seen.records))
        below = [*so_far.fronts(seen.records), *reasons.lines(seen.records)]
        parts += ["\n".join(below)] if below else []
    if seen.proposals:
        shown = [{key: _shown(key, value) for key, value in row.items()} for row in seen.proposals[:_MOST]]
        parts.append(writers.write(shown, "table"))
        if len(seen.proposals) > _MOST:
            parts.append(f"and {len(seen.proposals) - _MOST} more")
    if seen.waiting:
        parts.append(f"to come: {first_few(list(seen.waiting), 6)}")
    return "\n\n".join([*parts, _next(seen, folder)])


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "params":
        return format_value(value, "parameters")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _headline(seen: Seen, folder: Path) -> str:
    """Whether it runs, how far it is, and how long it will take."""
    what = f"{seen.kind} in {folder}"
    if seen.killed:
        return f"{what}: stopped before its end, its process is gone"
    parts = []
    if seen.kind == "run":
        failed = sum(not record.ok for record in seen.records)
        parts.append(f"{counted(len(seen.records), 'row')} finished" + (f" ({failed} without a result)" * bool(failed)))
        parts += [f"{len(seen.waiting)} to come"] if seen.waiting else []
        now = [f"{label}{f' on {host}' if host else ''}" for host, label in seen.state.get("now", {}).items()]
        parts += [f"now {'; '.join(now)}"] if seen.running and now else []
    else:
        parts.append(counted(len(seen.proposals), "finalist" if seen.finished else "finished proposal"))
        parts += [str(seen.state["text"])] if seen.running and seen.state.get("text") else []
    if seen.left_s is not None:
        parts.append(f"about {format_duration(seen.left_s)} left")
    standing = "runs" if seen.running else "is finished" if seen.finished else "is not finished"
    begins = " (it has just begun: it counts and times the machine first)" if seen.running and not seen.state else ""
    return f"{what} {standing}{begins}: {', '.join(parts)}"


def _next(seen: Seen, folder: Path) -> str:
    if seen.running:
        return next_line("for a page that renews itself", "report", folder, "--live")
    if seen.kind == "search":
        if seen.finished:
            return next_line("for its page", "report", folder)
        return next_line("to go on with it", "search", "--resume", folder)
    if not seen.finished:
        return f"Next, to go on with it: the same command with --out {folder}"
    return next_line("to see which to take and how sure that is", "choose", folder)


def to_json(seen: Seen) -> dict[str, Any]:
    """The same for a program."""
    rows = [
        {
            "model": record.model.name,
            "status": record.status,
            "cell": record.cell,
            "values": {m.metric: m.value for m in record.measurements if m.origin != "published"},
        }
        for record in seen.records
    ]
    plain: dict[str, Any] = json.loads(json.dumps(dict(seen.state)))
    return {
        "kind": seen.kind,
        "running": seen.running,
        "finished": seen.finished,
        "stopped": seen.killed,
        "left_s": seen.left_s,
        "rows": rows,
        "to_come": list(seen.waiting),
        "proposals": list(seen.proposals),
        "fronts": so_far.fronts(seen.records),
        "progress": plain,
    }
