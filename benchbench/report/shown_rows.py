"""Which rows a page of very many networks shows: the front, those that were named, the fastest, the most accurate.

A page has the tables of at most `MOST` rows. The others are in a CSV beside it, with all that records hold, and the
page says how many they are and where; what did not finish is counted whatever is listed.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core import statistics
from benchbench.core.units import counted
from benchbench.report import reliability
from benchbench.report.cells import BASELINE, finite, valid
from benchbench.report.tables import Table, TableRow

#: Rows of all tables of results of a page; with more, the page would be larger than 1 MB and slow to load.
MOST = 150
_FEWEST = 4  # of one set of conditions, however many sets there are
#: Names in a list that is folded, such as those of rows that are unstable.
MOST_NAMES = 60


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The rows of one set of conditions that its tables have."""

    ids: frozenset[str]
    left_out: int  # finished rows that are not among them
    failures_left_out: int
    file: str  # where those are, a name beside the page

    def of(self, rows: Sequence[TableRow]) -> list[TableRow]:
        """Those of some rows that are shown, in their order."""
        return [row for row in rows if row.record.id in self.ids]

    def only(self, table: Table | None) -> Table | None:
        """A table with the rows that are shown, and a note that says how many more there are."""
        if table is None or not (self.left_out or self.failures_left_out):
            return table
        rows = tuple(self.of(table.rows))
        more = len(table.rows) - len(rows)
        note = f"{counted(more, 'more row')} of networks that the table of results does not have either."
        return dataclasses.replace(table, rows=rows, notes=(*table.notes, *([note] if more else [])))


def file_beside(page: Path) -> str:
    """The name of the CSV beside a page."""
    return f"{page.stem}-rows.csv"


def are_too_many(records: Sequence[rec.Record]) -> bool:
    """Whether a page of these rows leaves some out."""
    return len(records) > MOST


def shown(rows: Sequence[TableRow], time: str, *, of: int, first: Set[str], named: Sequence[str], file: str) -> Shown:
    """The rows of one set of conditions to show.

    Args:
        rows: all of them, the best first.
        time: the metric of their time.
        of: rows of the whole page, of which these have their share.
        first: ids of rows that are shown as those of the front are: all, or evenly spaced ones where they are too many.
        named: patterns of names whose rows are always shown.
        file: where the others are, a name beside the page.
    """
    if of <= MOST:
        return Shown(ids=frozenset(row.record.id for row in rows), left_out=0, failures_left_out=0, file=file)
    most = max(_FEWEST, MOST * len(rows) // of)
    usable, failures = [row for row in rows if row.usable], [row for row in rows if not row.usable]
    asked = {row.record.id for row in rows if _is_named(row.record, named)}
    front = (first | _fronts([row.record for row in usable])) - asked
    by_time = [row.record.id for row in rows if row.record.id in front]
    wanted = asked.union(statistics.evenly_spaced(by_time, max(2, most - len(asked))))
    kept = dict.fromkeys(row.record.id for row in rows if row.record.id in wanted)
    for row in _best(usable, time):
        if len(kept) >= most:
            break
        kept[row.record.id] = None
    listed = [row for row in failures if row.record.id not in kept][: max(_FEWEST, most // 4)]
    kept |= dict.fromkeys(row.record.id for row in listed)
    return Shown(
        ids=frozenset(kept),
        left_out=sum(row.record.id not in kept for row in usable),
        failures_left_out=sum(row.record.id not in kept for row in failures),
        file=file,
    )


def _is_named(record: rec.Record, named: Sequence[str]) -> bool:
    return record.model.name == BASELINE or any(fnmatch.fnmatchcase(record.model.name, one) for one in named)


def _fronts(records: Sequence[rec.Record]) -> set[str]:
    """Ids of the rows that no other beats in Dice and the time of a patch, or of a patient."""
    without, found = reliability.without_rank(records), set[str]()
    for time in ("latency_s", "volume_latency_s"):
        points = [
            (float(cost.value or 0), -float(dice.value or 0), r.id)
            for r in records
            if r.id not in without and (cost := finite(valid(r, time))) and (dice := finite(valid(r, "dice")))
        ]
        found |= {points[i][2] for i in statistics.pareto_front([(cost, dice) for cost, dice, _ in points])}
    return found


def _best(rows: Sequence[TableRow], time: str) -> Iterator[TableRow]:
    """The rows by turns: the fastest, the most accurate, the next fastest, and so on."""
    timed = sorted((row for row in rows if _known(row, time)), key=lambda row: row.record.value(time) or 0.0)
    scored = sorted((row for row in rows if _known(row, "dice")), key=lambda row: -(row.record.value("dice") or 0.0))
    for pair in itertools.zip_longest(timed, scored):
        yield from (row for row in pair if row is not None)
    yield from rows


def _known(row: TableRow, metric: str) -> bool:
    return finite(valid(row.record, metric)) is not None
