"""First section of a page: the most accurate network, the fastest, and those between, under each set of conditions."""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.report.choice import words
from benchbench.report.choice.rank import Choice, Row, choose
from benchbench.report.choice.scope import usable
from benchbench.report.conditions import Group
from benchbench.report.details import ReadArtifact

_MOST = 8  # sets of conditions that a page says it of


def lines(groups: Sequence[Group], records: Sequence[rec.Record], read: ReadArtifact) -> list[tuple[Group, list[str]]]:
    """For each set of conditions its sentences; none where no network that segments has finished.

    Args:
        groups: of the page.
        records: of all of them.
        read: gives the content of an artifact.
    """
    told: list[tuple[Group, list[str]]] = []
    for group in groups:
        if len(told) < _MOST and any(map(usable, group.records)):
            choice = choose(group, records, read)
            if choice.rows:
                told.append((group, sentences(choice)))
    return told


def sentences(choice: Choice) -> list[str]:
    """The fastest, the most accurate, what is on the front between them, and how sure that is."""
    timed = [row for row in choice.rows if row.known["time"].value is not None]
    best, fastest = choice.most_accurate, min(timed, key=lambda row: row.value("time"), default=None)
    by = " by forecasts" if fastest and fastest.known["time"].tier else ""
    several = len(choice.rows) > 1
    scored = [row for row in choice.rows if row.known["dice"].value is not None]
    first = "Most accurate" if len(scored) > 1 else "The only one with a Dice"
    if best is None or fastest is None:
        only = fastest or best or choice.rows[0]
        kind = f"Fastest{by}" if fastest else first
        told = [f"{f'{kind}: ' if several else ''}{only.label}. {words.figures(only)}."]
        if best is None:
            told.append("Without a Dice of trained weights nothing says which one to take.")
    elif fastest is best:
        what = f"{first}, and{by} the fastest: " if several else ""
        told = [f"{what}{best.label}. {words.figures(best)}."]
    else:
        told = [
            f"{first}: {best.label}. {words.figures(best)}.",
            f"Fastest{by}: {fastest.label}. {words.figures(fastest)}. {words.cost(choice, fastest)}",
        ]
    between = front(choice.rows)
    if len(between) > 2:
        told.append(f"No other row is both faster and more accurate than these: {words.front_text(between)}.")
    named = choice.rows[0]
    if named is not best and len(choice.as_accurate) > 1:
        rest = "" if named is fastest else f": {words.figures(named)}"
        told.append(f"{named.label} is the fastest of {len(choice.as_accurate)} as accurate as the best{rest}.")
    told.append(f"How sure{f' of {named.label}' if several else ''}: {words.sureness(choice, named)}")
    return told


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in time and Dice, the fastest first."""
    both = [row for row in rows if row.known["time"].value is not None and row.known["dice"].value is not None]
    on_it = core_statistics.pareto_front([(row.value("time"), row.value("dice")) for row in both])
    return sorted((both[i] for i in on_it), key=lambda row: row.value("time"))
