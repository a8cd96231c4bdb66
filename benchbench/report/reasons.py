"""Reasons of many rows as few lines: what differs in its numbers alone is said once, with the range of each number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.report.conditions import apart
from benchbench.report.labels import by_reason, paths_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def folded(texts: Sequence[str]) -> str:
    """Texts that differ in numbers alone as one: `known to ±3.4 to 8.1% only, from 5 to 8 processes (limit 3%)`.

    Raises:
        ValueError: they differ in more.
    """
    if len({_NUMBER.sub("0", text) for text in texts}) != 1:
        raise ValueError("the texts differ in more than numbers")
    slots = list(zip(*(_NUMBER.findall(text) for text in texts), strict=True))
    ranges = [low if low == high else f"{low} to {high}" for low, high in map(_ends, slots)]
    found = iter(ranges)
    return _NUMBER.sub(lambda _: next(found), texts[0])


def _ends(numbers: Sequence[str]) -> tuple[str, str]:
    return min(numbers, key=float), max(numbers, key=float)


def fact_of(reason: str) -> str:
    """Why a row is unstable without what to do about it, which comes behind the first colon."""
    return reason.partition(": ")[0]


def skeleton(text: str) -> str:
    """Equal for texts that `folded` takes together."""
    return _NUMBER.sub("0", text)


def lines(records: Sequence[rec.Record]) -> list[str]:
    """Why rows failed or are unstable: a line for each kind of reason, its advice once."""
    paths = paths_of(records)
    names = {r.id: f"{r.model.name} {paths[r.id]}".strip() for r in records}
    unstable = [r for r in records if r.status == "unstable"]
    told = []
    for same in apart(unstable, lambda r: skeleton(fact_of(r.error or ""))).values():
        rows = list(dict.fromkeys(names[r.id] for r in same))
        advice = (same[0].error or "").partition(": ")[2]
        told.append(
            f"unstable: {', '.join(rows)}: {folded([fact_of(r.error or '') for r in same])}"
            + (f": {advice}" if advice else "")
        )
    failed = by_reason(records, names, lambda r: None if r.ok else f"{r.status}: {r.error}")
    return [*told, *(f"{', '.join(those)}: {reason}" for reason, those in failed)]
