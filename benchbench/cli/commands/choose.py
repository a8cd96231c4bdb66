"""`bench choose`: which network to take, from records, under limits."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from benchbench import report
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.core import arguments as to
from benchbench.core import records as rec
from benchbench.core.arguments import flag
from benchbench.core.errors import EXIT_OK, EXIT_REGRESSION, UsageError
from benchbench.core.results import read_records
from benchbench.report import writers
from benchbench.report.cells import ORIGIN_LEGEND
from benchbench.report.choice import next_steps, words
from benchbench.report.choice.known import QUANTITIES, Limit, Quantity
from benchbench.report.choice.rank import Choice, NotRecordedError, Row, choose
from benchbench.report.choice.scope import choose_group
from benchbench.report.exports import legend
from benchbench.report.place import root_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChooseRequest:
    """What `bench choose` was asked for; each field is a flag of the command."""

    folders: tuple[Path, ...] = flag(
        "folders", nargs="+", type=Path, metavar="DIR", help="results folders, or records.jsonl files"
    )
    device: str | None = flag("--device", choices=None, metavar="NAME", help="take the rows of this device alone")
    conditions: str | None = flag(
        "--conditions",
        metavar="LETTER",
        help="take the rows of this set of conditions alone; where there are several, the message lists them",
    )
    max_latency_s: float | None = flag(
        "--max-latency",
        type=to.seconds,
        metavar="TIME",
        help="most time for a patient, or for a patch where no row has that of a patient, such as 1s or 50ms",
    )
    max_memory_bytes: int | None = flag(
        "--max-memory", type=to.memory, metavar="SIZE", help="most peak memory, such as 4GB"
    )
    max_file_bytes: int | None = flag(
        "--max-file",
        type=to.memory,
        metavar="SIZE",
        help="most bytes of the files that a deployment needs, such as 50MB",
    )
    max_energy_j: float | None = flag(
        "--max-energy", type=to.joules, metavar="ENERGY", help="most energy of a forward, such as 5J"
    )
    min_dice: float | None = flag(
        "--min-dice", type=to.least_dice, metavar="DICE", help="least Dice, which its interval must not reach below"
    )
    objective: Literal["dice", "latency", "memory"] = flag(
        "--objective",
        "dice",
        help="what is best among rows that keep all limits; dice: of those as accurate as the most accurate, the "
        "fastest (default: dice)",
    )

    @property
    def limits(self) -> list[Limit]:
        """Those that are set."""
        values: dict[Quantity, float | None] = {
            "time": self.max_latency_s,
            "memory": self.max_memory_bytes,
            "file": self.max_file_bytes,
            "energy": self.max_energy_j,
            "dice": self.min_dice,
        }
        return [Limit(quantity=q, value=float(value)) for q, value in values.items() if value is not None]


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, ChooseRequest)
    add_shared(sub, "--format", "--config")


def run(options: argparse.Namespace) -> int:
    """Choose, and say so; the exit code tells whether anything is known to keep all limits."""
    request = ChooseRequest(**values_of(ChooseRequest, options))
    records = [record for folder in request.folders for record in read_records(folder)]
    group, everything = choose_group(records, request.device, request.conditions)

    def find(record: rec.Record) -> str:
        return _weights(record, request.folders)

    try:
        choice = choose(group, everything, report.folder_reader(request.folders), request.limits, request.objective)
    except NotRecordedError as error:
        step = next_steps.not_recorded(error.limit.quantity, error.rows, find)
        raise UsageError(f"{error}; this measures it where a device can: {step}") from error
    print(text(choice, find, options.format))
    return EXIT_OK if choice.taken else EXIT_REGRESSION


def _weights(record: rec.Record, folders: tuple[Path, ...]) -> str:
    """Where the weights of a record are: beside the records, in results/local, or among those that are shipped."""
    from benchbench.zoo import places

    near = [*map(root_of, folders), Path("results") / "local"]
    digest = record.model.checkpoint
    weights = places.with_sha256(digest, near) if digest else None
    if weights is None:
        return next_steps.unplaced_weights(record)
    relative = os.path.relpath(weights)
    return str(weights) if relative.startswith("..") else relative


def sentences(choice: Choice, find: next_steps.FindWeights) -> list[str]:
    """The answer, a line for each thing to know; what is best first."""
    lines = [words.headline(choice)]
    if choice.first:
        what, step = words.next_command(choice, choice.first, find)
        lines += [words.cost(choice, choice.first), f"How sure: {words.sureness(choice, choice.first)}"]
        lines += filter(None, [words.also_possible(choice)])
        lines.append(f"Next, {what}: {step}")
    else:
        lines += words.nearest_misses(choice, find)
    return lines


def remarks(choice: Choice) -> list[str]:
    """What was left out and why, and what must be known to read the rows."""
    lines = [f"note: {line}" for line in words.notes(choice)]
    return lines + [f"left out: {label}: {why}" for label, why in choice.left_out]


def rows(choice: Choice) -> list[dict[str, Any]]:
    """One line a row, the best first, for a person."""
    limited = {limit.quantity for limit in choice.limits}
    shown = [
        quantity
        for quantity in QUANTITIES
        if quantity in limited or any(row.known[quantity].value is not None for row in choice.rows)
    ]
    lines = []
    for row in choice.rows:
        line: dict[str, Any] = {"network": row.label}
        for quantity in shown:
            title = row.known["time"].of or "time" if quantity == "time" else QUANTITIES[quantity][0]
            line[_title(choice, quantity, title)] = _cell(row, quantity)
        line["against the most accurate"] = f"{row.against.difference:+.4f}" if row.against else "-"
        if choice.limits:
            line["limits"] = limits_text(row)
        lines.append(line)
    return lines


def _title(choice: Choice, quantity: Quantity, title: str) -> str:
    """One title for all rows, whatever the first of them lacks."""
    if quantity != "time":
        return title
    return next((row.known["time"].of for row in choice.rows if row.known["time"].of), title)


def _cell(row: Row, quantity: Quantity) -> str:
    known = row.known[quantity]
    if known.measurement is None:
        return "-"
    span = f" ({known.span.removeprefix('95 % CI ')})" if known.span else ""
    return f"{known.text}{span} [{ORIGIN_LEGEND[known.measurement.origin][0]}]"


def limits_text(row: Row) -> str:
    """`kept`, or which are missed, not known or not sure."""
    found: dict[str, list[str]] = {}
    for quantity, verdict in row.verdicts.items():
        if verdict != "kept":
            found.setdefault(verdict, []).append(QUANTITIES[quantity][0])
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items()) or "kept"


def plain(choice: Choice) -> list[dict[str, Any]]:
    """One line a row for a program: unrounded SI values; rows that were left out have the reason alone."""
    lines = []
    for place, row in enumerate(choice.rows, 1):
        line: dict[str, Any] = {"place": place, "network": row.label, "model": row.record.model.name}
        work = row.record.workload
        line |= {"runtime": work.runtime, "dtype": work.dtype, "status": row.record.status, "limits": row.standing}
        for quantity in QUANTITIES:
            known = row.known[quantity]
            m = known.measurement
            low, high = (m.interval or m.ci95 or (None, None)) if m else (None, None)
            line |= {quantity: known.value, f"{quantity}_low": low, f"{quantity}_high": high}
            line |= {f"{quantity}_of": known.of, f"{quantity}_origin": known.origin or None}
            line |= {f"{quantity}_limit": row.verdicts.get(quantity), f"{quantity}_reason": known.reason or None}
        found = row.against
        line |= {
            "dice_difference": found.difference if found else None,
            "dice_difference_p": found.p if found else None,
            "reason": None,
            "id": row.record.id,
        }
        lines.append(line)
    blank: dict[str, Any] = dict.fromkeys(lines[0] if lines else ("network", "limits", "reason"))
    return lines + [blank | {"network": label, "limits": "left out", "reason": why} for label, why in choice.left_out]


def to_json(choice: Choice, find: next_steps.FindWeights) -> dict[str, Any]:
    """Everything, for a program; what is not known is null."""
    taken, first = choice.taken, choice.first
    what, step = words.next_command(choice, first, find) if first else (None, None)
    return {
        "take": taken.label if taken else None,
        "try_first": first.label if first else None,
        "sentences": sentences(choice, find),
        "conditions": choice.group.title,
        "device": choice.group.first.device.asked,
        "objective": choice.objective,
        "limits": {limit.quantity: limit.value for limit in choice.limits},
        "as_accurate": list(choice.as_accurate),
        "next": {"what": what, "command": step} if first else None,
        "rows": plain(choice),
        "notes": words.notes(choice),
        "exit_code": EXIT_OK if taken else EXIT_REGRESSION,
    }


def text(choice: Choice, find: next_steps.FindWeights, fmt: str) -> str:
    """What goes to stdout, in one of the formats."""
    if fmt == "json":
        return writers.to_json(to_json(choice, find))
    if fmt == "csv":
        lines = [{key: "" if value is None else value for key, value in line.items()} for line in plain(choice)]
        return writers.write(lines, fmt)
    parts = [sentences(choice, find), remarks(choice)]
    table: list[str] = []
    if choice.rows:
        limits = "; ".join(map(str, choice.limits))
        table = [choice.group.title + (f"; {limits}" if limits else ""), "", writers.write(rows(choice), fmt)]
        table += ["", legend()]
    if fmt == "markdown":
        parts = [[f"- {line.strip()}" for line in part] for part in parts]
    return "\n\n".join("\n".join(part) for part in (parts[0], table, parts[1]) if part)
