"""Which records a choice is made among: those of one device, made under one set of conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import UsageError, command, data_flags, unknown
from benchbench.core.evaluation import is_evaluation
from benchbench.core.results import latest
from benchbench.core.units import counted
from benchbench.report import conditions
from benchbench.report.conditions import Group


def usable(record: rec.Record) -> bool:
    """Whether a row is a finished one of a network that segments."""
    return record.ok and record.workload.phase == "infer" and qualification.is_dense(record)


def choose_group(
    records: Sequence[rec.Record], device: str | None = None, letter: str | None = None
) -> tuple[Group, list[rec.Record]]:
    """The one set of conditions that is asked for, with its letter on the page of these records.

    Args:
        records: any number; of a cell that was measured again the newest counts.
        device: as it was asked for (`jetson:orin-nano-8gb-super`), or as it is called; None: there is only one.
        letter: of the set; None: there is only one.

    Returns:
        The set, and all records, whose Dice may be that of the same networks.

    Raises:
        UsageError: there is no such set, or there are several and nothing says which.
    """
    newest = [r for r in latest(records) if not is_audit(r)]
    groups = [g for g in conditions.group(newest) if any(map(usable, g.records))]
    groups = [g for g in groups if not is_evaluation(g.first)] or groups  # beside what ran, they only lend their Dice
    if not groups:
        raise UsageError(_nothing(newest))
    found = [g for g in groups if device is None or _is_of(g.first, device)]
    if device is not None and not found:
        raise UsageError(_no_device(device, groups))
    if letter is not None:
        found = [g for g in found if g.letter == letter.upper()] or found
        if found[0].letter != letter.upper():
            hint = "; ".join(map(_line, found))
            raise UsageError(unknown("set of conditions", letter, [], hint=f"there are: {hint}"))
    if len(found) > 1:
        raise UsageError(_several(found))
    return found[0], newest


def _is_of(record: rec.Record, asked: str) -> bool:
    device, wanted = record.device, _plain(asked)
    kind = device.kind if device.basis == "probed" else ""
    names = (device.asked, device.name, kind, str(record.environment.get("host") or ""))
    return wanted in {_plain(name) for name in names if name}


def _plain(name: str) -> str:
    return name.lower().replace(":", "-")


def _line(group: Group) -> str:
    return f"{group.letter} {group.title} ({counted(len(group.records), 'row')})"


def differences(groups: Sequence[Group]) -> str:
    """In what several sets of conditions differ, by name; nothing of one."""
    if len(groups) < 2:
        return ""
    tables = [dict(conditions.facts(group)) for group in groups]
    names = dict.fromkeys(name for table in tables for name in table)
    ignored = ("When", "Load average at start", "Forecast made on")
    differing = [n for n in names if n not in ignored and len({t.get(n) for t in tables}) > 1]
    return ", ".join(differing).lower() or "details of the environment"


def _nothing(records: Sequence[rec.Record]) -> str:
    if not records:
        return f"these folders hold no record of a network that ran: {command('run', '--models', 'all')} makes some"
    ran = next((r for r in records if r.workload.phase == "train"), None)
    if ran and all(r.workload.phase == "train" for r in records):
        why = "only training steps were timed"
    else:
        why = "no row of a network that segments has finished"
    first = dataclasses.replace(records[0], workload=dataclasses.replace(records[0].workload, phase="infer"))
    again = conditions.reproduce(Group(letter="", records=(first,)))
    return f"nothing to choose from: {why}; this measures one: {again}"


def _no_device(asked: str, groups: Sequence[Group]) -> str:
    """What there is, and what forecasts or measures the same networks there."""
    there = list(dict.fromkeys(g.first.device.asked for g in groups))
    first = groups[0]
    names = list(dict.fromkeys(r.model.name for r in first.records if not r.recipe))
    data = first.first.workload.data
    words = ["run", "--models", ",".join(names) or "all", "--device", asked, *(data_flags(data) if data else ())]
    hint = f"these records are of {', '.join(there)}; this measures or forecasts the same networks there"
    return f"{unknown('device', asked, there, hint=hint)}: {command(*words)}"


def _several(groups: Sequence[Group]) -> str:
    devices = {g.first.device.asked for g in groups}
    flags = [f"--device {g.first.device.asked}" for g in groups] if len(devices) > 1 else []
    letters = [f"--conditions {g.letter}" for g in groups]
    return (
        f"these records were made under {len(groups)} sets of conditions, which are never mixed: "
        f"{'; '.join(map(_line, groups))}. They differ in: {differences(groups)}. "
        f"Add {' or '.join(dict.fromkeys([*flags, *letters][:6]))}"
    )
