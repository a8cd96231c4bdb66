"""Tables of `bench list`, `bench info` and of a run's end, as text, JSON, CSV or Markdown.

Nothing here needs torch, so a list comes at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core.errors import DeviceError
from benchbench.core.records import Record
from benchbench.core.units import format_duration, format_shape, format_value
from benchbench.devices import cpu, environment, jetson
from benchbench.devices.hosts import load_hosts
from benchbench.devices.profile import CALIBRATIONS, Profile, list_profiles, load_profile, profile_names
from benchbench.report import reliability, writers
from benchbench.report.conditions import group
from benchbench.report.exports import legend, shown
from benchbench.report.figures import volumes
from benchbench.report.tables import Table, TableCell, fits_lines, headline, row_labels, summary_rows
from benchbench.runner.findings import Finding
from benchbench.runner.remote.queue import HostTiming
from benchbench.zoo import cards as zoo_cards

Row = Mapping[str, Any]


def models() -> list[Row]:
    """The zoo, a row a card."""
    return [
        {
            "name": card.name,
            "title": card.title,
            "task": card.task,
            "channels in": card.in_channels,
            "channels out": card.out_channels,
            "input": format_shape(card.spatial),
            "paper": f"{card.paper.get('authors', '-')} {card.paper.get('year', '')}".strip(),
            "reference licence": card.licence,
        }
        for card in map(zoo_cards.get_card, zoo_cards.list_models())
    ]


def devices() -> list[Row]:
    """This machine, the hosts that were added, own calibrations, then every profile that comes along.

    Raises:
        DeviceError: the file of hosts cannot be read.
    """
    here = cpu.probe()
    rows: list[Row] = [
        {
            "name": "cpu",
            "what": f"this machine: {here.name}, {cpu.usable_cores()} cores",
            "memory": format_value(cpu.available_memory_bytes(), "B") + " free",
            "basis": "measured",
        }
    ]
    board = jetson.detect()
    if board is not None:
        rows.append({"name": "jetson", "what": f"this machine: {board.model}", "memory": "-", "basis": "measured"})
    rows += [
        {"name": host.name, "what": f"host: {host.url}", "memory": "-", "basis": "measured there"}
        for host in load_hosts().values()
    ]
    rows += [
        {
            "name": name,
            "what": p.title,
            "memory": format_value(p.memory_bytes, "B"),
            "basis": f"predicted, {p.tier}",
        }
        for name, p in [*((str(path), p) for path, p in _own_profiles()), *((p.name, p) for p in list_profiles())]
    ]
    return rows


def _own_profiles() -> Iterator[tuple[Path, Profile]]:
    """Those that `bench calibrate` left in its default folder; a broken one is named by whoever asks for it."""
    for path in sorted(CALIBRATIONS.glob("*.toml")):
        with contextlib.suppress(DeviceError):
            yield path, load_profile(path)


def check_host_name(name: str) -> None:
    """Refuse the name of a profile for a host.

    Raises:
        DeviceError: a profile has it, so that its predictions could not be asked for any more.
    """
    if name in profile_names():
        raise DeviceError(f"a host cannot be called {name!r}: that is a profile; 'bench list devices' shows all")


def findings(found: Sequence[Finding]) -> list[Row]:
    """What a doctor found, a row a finding."""
    return [{"finding": f.name, "status": f.status, "found": f.text, "advice": f.advice} for f in found]


def finding_lines(finding: Finding) -> str:
    """One finding in a table whose rows come one by one; the advice on a line below it."""
    line = f"{finding.status:<4}  {finding.name:<16}  {finding.text}"
    return f"{line}\n{'':<24}-> {finding.advice}" if finding.advice else line


def visit_line(visit: HostTiming) -> str:
    """Where the time with another host went, beside what was timed over there."""
    parts = [f"{format_duration(visit.connect_s)} to connect"]
    if visit.sent_bytes > 1_000_000:
        parts.append(f"{format_duration(visit.transfer_s)} for {format_value(visit.sent_bytes, 'B')} of weights")
    if visit.waited_s:
        parts.append(f"{format_duration(visit.waited_s)} waiting for another run")
    return (
        f"{visit.name}: {format_duration(visit.total_s)} in all, {format_duration(visit.measured_s)} of it measuring "
        f"over there; {', '.join(parts)}, in none of the latencies"
    )


def datasets() -> list[Row]:
    """The data sets that Dice can be measured on."""
    return [
        {
            "name": plan.name,
            "title": plan.title,
            "channels": ", ".join(plan.channels),
            "regions": ", ".join(plan.regions),
            "patch": format_shape(plan.patch),
            "cases": ", ".join(f"{split} {n}" for split, n in plan.splits.items()),
            "licence": plan.licence,
        }
        for plan in data.list_datasets()
    ]


def info() -> dict[str, Any]:
    """What benchbench sees of this machine and its own parts."""
    return environment.environment("cpu", cpu.usable_cores())


def results(records: Sequence[Record]) -> str:
    """The table at the end of a run: one for each set of conditions, every number with its origin's letter.

    Below each stand the noise floor by which its rows tie, the rows that something disturbed, and what would have
    fitted of those that ran out of memory.
    """
    blocks, groups = [], group(records)
    for part in groups:
        floor, labels = reliability.floor_of(part, groups), row_labels(part.records)
        table = summary_rows(sorted(part.records, key=_fastest_first), floor)
        below = [] if part.predicted else [f"noise floor: {reliability.floor_text(floor)}"]
        disturbed = reliability.disturbed_text(part.records, labels)
        below += [f"disturbed: {disturbed}"] if disturbed and disturbed != "none" else []
        below += [f"{labels[r.id]}: {line}" for r in part.records for line in fits_lines(r)]
        volume = volumes.table(table.rows, part, floor, key="volume")
        patients = ["", volume.title, _text(volume)] if volume else []
        blocks.append("\n".join([part.title, _text(table), *patients, *below]))
    return "\n\n".join([*blocks, legend()])


def _text(table: Table) -> str:
    lines = [[row.label, *(_short(c.key, row.cell(c.key)) for c in table.columns)] for row in table.rows]
    return writers.to_text(["Model", *(c.title for c in table.columns)], lines)


def _short(key: str, cell: TableCell) -> str:
    """A cell in few columns: reasons come below the table, and the range of a throughput is that of its latency."""
    if key == "status":
        return cell.text
    return shown(key, dataclasses.replace(cell, qualifier="") if key == "throughput_patches_per_s" else cell)


def _fastest_first(record: Record) -> float:
    time = record.value(headline([record]))
    return math.inf if time is None or math.isnan(time) else time


def render_facts(facts: Mapping[str, Any], fmt: str) -> str:
    """Names and values, a line each; or as one JSON object."""
    if fmt == "json":
        return writers.to_json(facts)
    width = max(map(len, facts))
    shown = {k: format_value(v, "B") if k.endswith("_bytes") and v else v for k, v in facts.items()}
    return "\n".join(f"{k.replace('_bytes', ''):<{width}}  {'unknown' if v is None else v}" for k, v in shown.items())
