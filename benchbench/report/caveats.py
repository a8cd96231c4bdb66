"""Caveats of a page, said once: what did not settle, what is missing, what ran beside, what is of no patient.

A line counts the rows that it is of and says what to do; where they are many, their names are folded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from benchbench.core import records as rec
from benchbench.core.units import listed
from benchbench.report import accuracy, conditions, reliability
from benchbench.report.cells import FORECASTS, finite, tier_of, valid
from benchbench.report.labels import by_reason
from benchbench.report.shown_rows import MOST_NAMES

#: `the median is known to ±3.4% only, from 5 processes (limit 3%) when ...: what to do`.
_KNOWN_TO = re.compile(r"the median is known to ±([\d.]+)% only, from \d+ \w+(?: of \d+ \w+)? (.*)", re.DOTALL)
_NOT_SETTLED = "its timings did not settle"
_FEW = 3  # names that stand in the line itself


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """One line, and what it is of."""

    text: str
    of: tuple[str, ...] = ()  # labels of rows, folded


def of_group(group: conditions.Group, labels: Mapping[str, str]) -> list[Caveat]:
    """What is to be known of the rows of one set of conditions.

    Args:
        group: of the page.
        labels: record id -> what its row is called.
    """
    records = group.records
    usable = [record for record in records if record.ok]
    found = [*_unsettled(usable, labels), *_unqualified(records, labels)]
    found += [Caveat(text=line) for line in accuracy.notes(records, labels)]
    found += _without_dice(usable, labels)
    disturbed = reliability.disturbed_text(records, labels)
    if disturbed and disturbed != "none" and not group.predicted:
        found.append(Caveat(text=f"Disturbed: {disturbed}."))
    return found


def of_page(records: Sequence[rec.Record]) -> list[Caveat]:
    """What is to be known of all sets of conditions."""
    if any(conditions.has_phantom_dice(record) for record in records):
        return [
            Caveat(
                text="Dice here is of a semi-synthetic phantom: simulated tumours in deformations of one real brain "
                "template. It ranks networks only where they were trained alike; it says nothing about patients."
            )
        ]
    return []


def forecasts(records: Sequence[rec.Record]) -> str:
    """The banner of devices on which nothing ran: what their times rest on, and what would narrow them; or nothing."""
    profiles = list(dict.fromkeys(r.device.name for r in records if r.device.basis == "profile"))
    if not profiles:
        return ""
    tiers: dict[str, list[str]] = {}
    for record in records:
        latency = record.get("latency_s") if record.device.basis == "profile" else None
        if latency and latency.value is not None:
            devices = tiers.setdefault(tier_of(latency), [])
            devices += [record.device.name] * (record.device.name not in devices)
    basis = [(listed(tiers[tier]), text) for tier, text in _TIERS.items() if tier in tiers]
    told = "; ".join(f"for {names} from {text}" if len(basis) > 1 else f"from {text}" for names, text in basis)
    narrower = " 'bench calibrate' on the board narrows a range to about a fifth of the time." * (
        bool(tiers) and set(tiers) != {"calibrated"}
    )
    basis_text = f" {told}" if told else ""
    return (
        f"Nothing on this page was measured on {listed(profiles)}. Its times are forecasts{basis_text}: for choosing "
        f"what to try first, not for quoting as results.{narrower}"
    )


_TIERS = {
    "calibrated": "operators timed on it, with a range meant to hold nine of ten networks",
    "scaled": "operators timed on another device, scaled to this one's peak and bandwidth",
    "datasheet": "data-sheet figures alone: the lower end is what the device cannot beat, the upper 18 times that",
}
assert set(_TIERS) == set(FORECASTS)


def _unsettled(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[Caveat]:
    """`8 of 23 medians are known to 3.4 to 8.2 % only (limit 3%) ...`, and rows that are unstable for other reasons."""
    unstable = [record for record in records if record.status == "unstable"]
    known: dict[str, list[tuple[float, rec.Record]]] = {}
    others = []
    for record in unstable:
        match = _KNOWN_TO.fullmatch(record.error or "")
        if match:
            known.setdefault(match[2], []).append((float(match[1]), record))
        else:
            others.append(record)
    found = []
    for rest, those in known.items():
        how_far = _percent([share for share, _ in those])
        verb = "median is" if len(those) == 1 else "medians are"
        names = tuple(f"{labels[record.id]} ±{share:g} %" for share, record in sorted(those, key=lambda p: -p[0]))
        text = f"{len(those)} of {len(records)} {verb} known to {how_far} only {rest}"
        found.append(_caveat(text, names))
    for reason, these in by_reason(others, labels, lambda record: record.error or _NOT_SETTLED):
        found.append(_caveat(f"{_rows(len(these), len(records))} unstable: {reason}", tuple(these)))
    return found


def _unqualified(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[Caveat]:
    """Rows that take no rank since they may be other networks; how many voxels differ is a range."""
    why = reliability.unqualified(records)
    shares: dict[str, list[float]] = {}
    for reason in why.values():
        if match := _SHARE.search(reason):
            shares.setdefault(_SHARE.sub("%", reason), []).append(float(match[1]))
    found = []
    for reason, those in by_reason(records, labels, lambda record: _SHARE.sub("%", why.get(record.id, "")) or None):
        told = reason.replace("%", _percent(shares.get(reason, [0])), 1)
        text = f"{_rows(len(those), len(records))} {told}; {reliability.TO_QUALIFY}"
        found.append(_caveat(text, tuple(those)))
    return found


_SHARE = re.compile(r"([\d.]+)%")
#: Of a reason: each network's own patch, where it names one.
_PATCH = (re.compile(r" at \d+x\d+x\d+"), re.compile(r"--spatial \d+ \d+ \d+"))


def _without_dice(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[Caveat]:
    own_patches = conditions.patches_differ(records)

    def reason_of(record: rec.Record) -> str | None:
        dice = valid(record, "dice")
        if dice is None or finite(dice) or dice.value is not None or not dice.reason:
            return None
        if not own_patches:
            return dice.reason
        return _PATCH[1].sub("--spatial D H W", _PATCH[0].sub(" at its patch", dice.reason))

    names = {record.id: record.model.name for record in records}
    networks = len(set(names.values()))
    of = f"of {networks} network{'s' * (networks != 1)}"
    return [
        _caveat(f"{len(those)} {of} without a Dice: {reason}", tuple(those))
        for reason, those in by_reason(records, names, reason_of)
    ]


def _percent(shares: Sequence[float]) -> str:
    """`3.4 to 8.2 %`."""
    low, high = min(shares), max(shares)
    return f"{low:g} %" if low == high else f"{low:g} to {high:g} %"


def _rows(n: int, of: int) -> str:
    return f"{n} of {of} row{'s' * (of != 1)} {'is' if n == 1 else 'are'}"


def _caveat(text: str, names: tuple[str, ...]) -> Caveat:
    """The names stand in the line where they are few."""
    if len(names) <= _FEW:
        return Caveat(text=f"{', '.join(names)}: {text}")
    more = len(names) - MOST_NAMES
    return Caveat(text=text, of=(*names[:MOST_NAMES], *([f"and {more} more"] if more > 0 else [])))
