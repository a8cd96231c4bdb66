"""The choice: which rows keep all limits, in which order, and which of them to take.

The most accurate row is not taken for its mean alone: all rows that a paired test over the same cases does not tell
apart from it, or that lose less than a faster path may lose, are as accurate, and the fastest of them is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core.errors import UsageError
from benchbench.report import paired_dice, reliability
from benchbench.report.cells import finite, valid
from benchbench.report.choice.known import QUANTITIES, KnownFigure, Limit, Quantity, Verdict, known_of, time_metric
from benchbench.report.compare import verdicts
from benchbench.report.conditions import Group, apart
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.labels import STATUS_TEXT, row_labels
from benchbench.report.tables import record_row

Objective = Literal["dice", "latency", "memory"]
Standing = Literal["keeps all", "not sure", "misses"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A row's Dice against another's, case by case where that is known."""

    other: str  # its label
    difference: float  # of the means; below 0: this row is worse
    ci95: tuple[float, float] | None  # by a bootstrap over cases
    p: float | None  # of the signed-rank test, corrected (Holm); None: there was none
    cases: int  # that both have

    @property
    def told_apart(self) -> bool:
        """Whether this row is worse by more than chance, and by more than a faster path may lose."""
        if self.p is None or self.ci95 is None:  # no test: only a difference that is no difference is none
            return self.difference <= -verdicts.MIN_DICE
        return self.p <= verdicts.SIGNIFICANT and self.difference < 0 and self.ci95[0] <= -qualification.MOST_DICE_LOSS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network in one runtime and precision."""

    label: str
    record: rec.Record
    dice_record: rec.Record  # whose Dice it is: this record, or one of the same network that ran elsewhere
    known: Mapping[Quantity, KnownFigure]
    verdicts: Mapping[Quantity, Verdict]  # of the limits
    against: Against | None = None  # against the most accurate row; None: it is that, or has no Dice

    @property
    def standing(self) -> Standing:
        """What can be said of all limits together."""
        said = set(self.verdicts.values())
        return "misses" if said & {"missed", "not known"} else "not sure" if "not sure" in said else "keeps all"

    @property
    def unsure(self) -> list[Quantity]:
        """The quantities whose limits it may or may not keep."""
        return [quantity for quantity, verdict in self.verdicts.items() if verdict == "not sure"]

    def value(self, quantity: Quantity) -> float:
        """For an order from the smallest; infinite where nothing is known. Of Dice the negative."""
        value = self.known[quantity].value
        return math.inf if value is None else -value if quantity == "dice" else value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the records say."""

    group: Group
    limits: tuple[Limit, ...]
    objective: Objective  # what was asked for, or time where no row has a Dice
    rows: tuple[Row, ...]  # those that keep all limits first, the best first
    left_out: tuple[tuple[str, str], ...]  # label, and why the row does not count
    as_accurate: tuple[str, ...]  # labels of candidates as accurate as the most accurate of them, itself included
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> Row | None:
        """The row to take; None where none is known to keep all limits."""
        return self.rows[0] if self.rows and self.rows[0].standing == "keeps all" else None

    @property
    def first(self) -> Row | None:
        """The row to try first: the one to take, else one that may keep all limits."""
        return self.rows[0] if self.rows and self.rows[0].standing != "misses" else None

    @property
    def candidates(self) -> list[Row]:
        """The rows among which the choice was made: all with the standing of the first."""
        return [row for row in self.rows if row.standing == self.rows[0].standing]

    @property
    def most_accurate(self) -> Row | None:
        """Of all rows, whatever limits they miss."""
        scored = [row for row in self.rows if row.known["dice"].value is not None]
        return min(scored, key=_by_dice, default=None)


def choose(
    group: Group,
    records: Sequence[rec.Record],
    read: ReadArtifact,
    limits: Sequence[Limit] = (),
    objective: Objective = "dice",
) -> Choice:
    """Rank the rows of one set of conditions.

    Args:
        group: of `scope.choose_group`.
        records: all that there are: of a network that did not run here, a Dice may be among them.
        read: gives the content of an artifact, for the Dice of single cases.
        limits: that have to be kept.
        objective: what is best among rows that keep all limits; `dice` falls back to the time where no row has one.

    Raises:
        UsageError: no row has what a limit is of.
    """
    left_out = _left_out(group)
    kept = [r for r in group.records if r.id not in left_out]
    labels, time = row_labels(group.records), time_metric(kept)
    measured = [r for r in reversed(records) if (m := finite(valid(r, "dice"))) and m.origin == "measured"]
    lenders = apart(measured, lambda r: r.model.name)  # the newest of a network first
    rows = [_row(r, labels[r.id], time, lenders, limits) for r in kept]
    for limit in limits:
        if rows and all(row.known[limit.quantity].value is None for row in rows):
            raise NotRecordedError(limit, rows)
    scored = any(row.known["dice"].value is not None for row in rows)
    if objective == "dice" and not scored:
        objective = "latency"
    if objective == "memory" and all(row.known["memory"].value is None for row in rows):
        raise NotRecordedError(Limit(quantity="memory", value=0), rows)
    cases = _cases(rows, read)
    rows = _compared(rows, cases)
    best_standing = min((_STANDINGS.index(row.standing) for row in rows), default=0)
    candidates = [row for row in rows if _STANDINGS.index(row.standing) == best_standing]
    accurate = _as_accurate(candidates, cases)
    ordered = sorted(rows, key=lambda row: _order(row, objective, accurate))
    return Choice(
        group=group,
        limits=tuple(limits),
        objective=objective,
        rows=tuple(ordered),
        left_out=tuple((labels[i], why) for i, why in left_out.items()),
        as_accurate=tuple(row.label for row in ordered if row.record.id in accurate),
    )


class NotRecordedError(UsageError):
    """No row has what a limit is of; the command that measures it is in the message of `words.not_recorded`."""

    def __init__(self, limit: Limit, rows: Sequence[Row]) -> None:
        """Say what is missing, of which rows, and why."""
        self.limit, self.rows = limit, list(rows)
        title, _, flag = QUANTITIES[limit.quantity]
        reasons = list(dict.fromkeys(row.known[limit.quantity].reason for row in rows))
        super().__init__(f"{flag}: no row has a figure of {title} ({reasons[0]})")


_STANDINGS: tuple[Standing, ...] = ("keeps all", "not sure", "misses")
_OF: Mapping[Objective, Quantity] = {"dice": "dice", "latency": "time", "memory": "memory"}


def _left_out(group: Group) -> dict[str, str]:
    """Record id -> why the row is not one to choose."""
    found: dict[str, str] = {}
    useless, without = reliability.useless(group.records), reliability.without_rank(group.records)
    for record in group.records:
        fits = record.get("fits_in_memory")
        if not record.ok:
            found[record.id] = f"{record.status.replace('_', ' ')}: {record.error or STATUS_TEXT[record.status]}"
        elif record.workload.phase != "infer":
            found[record.id] = "a training step: nothing was segmented"
        elif not qualification.is_dense(record):
            found[record.id] = qualification.NOT_DENSE
        elif record.id in without and without[record.id].word in reliability.TO_DO:
            found[record.id] = f"{without[record.id].reason}; {reliability.TO_DO[without[record.id].word]}"
        elif record.id in useless:
            found[record.id] = useless[record.id].partition(":")[0]
        elif fits is not None and fits.value == 0:
            found[record.id] = f"does not fit into the device's memory ({fits.method})"
    return found


#: Name of a network -> the records that have a measured Dice of it.
Lenders = Mapping[str, Sequence[rec.Record]]


def _row(record: rec.Record, label: str, time: str, lenders: Lenders, limits: Sequence[Limit]) -> Row:
    dice, lender = _dice_of(record, lenders.get(record.model.name, ()))
    known = known_of(record, time, dice)
    found = {limit.quantity: known[limit.quantity].against(limit.value) for limit in limits}
    return Row(label=label, record=record, dice_record=lender, known=known, verdicts=found)


def _dice_of(record: rec.Record, lenders: Sequence[rec.Record]) -> tuple[rec.Measurement | None, rec.Record]:
    """Its Dice and the record that has its cases; of a network that did not run here, that of one where it did."""
    own = valid(record, "dice")
    if finite(own) and own and own.origin != "reference":
        return own, record
    if own and finite(own):
        return own, next((r for r in lenders if r.id == own.source), record)
    if qualification.is_eager_fp32(record.workload):
        for other in lenders:
            lent = valid(other, "dice")
            if lent and qualification.has_dice_of(other, record.model, record.workload):
                return dataclasses.replace(lent, origin="reference", source=other.id), other
    return own, record


Cases = Mapping[str, Mapping[str, float]]  # record id -> case -> Dice


def _cases(rows: Sequence[Row], read: ReadArtifact) -> Cases:
    """Dice by case: by their names, or by their places where the rows that have no names have as many cases."""
    scored = [row for row in rows if row.known["dice"].value is not None]
    named = {row.record.id: artifact_of(row.dice_record, "cases", read, paired_dice.parse) for row in scored}
    found = {i: cases for i, cases in named.items() if cases}
    values = {row.record.id: (row.known["dice"].measurement or _NO_DICE).values for row in scored}
    if len(found) < len(scored) and len({len(v) for v in values.values()}) == 1:
        return {i: {str(at): float(v) for at, v in enumerate(those)} for i, those in values.items() if those}
    return found


_NO_DICE = rec.Measurement.missing("dice", "none")


def against(row: Row, other: Row, cases: Cases) -> Against:
    """One row's Dice against another's, with the p-value of a test of its own."""
    own, best = cases.get(row.record.id), cases.get(other.record.id)
    table_row = record_row(row.record, row.label, {})
    pair = paired_dice.pair(table_row, own, best) if own and best else None
    if pair is None:
        difference = (row.known["dice"].value or 0.0) - (other.known["dice"].value or 0.0)
        return Against(other=other.label, difference=difference, ci95=None, p=None, cases=0)
    return Against(other=other.label, difference=pair.mean, ci95=pair.ci95, p=pair.p, cases=len(pair.values))


def _all_against(rows: Sequence[Row], other: Row, cases: Cases) -> dict[str, Against]:
    """Record id -> each row against one, the p-values corrected for their number."""
    found = {row.record.id: against(row, other, cases) for row in rows if row is not other}
    tested = [i for i, one in found.items() if one.p is not None]
    corrected = core_statistics.holm([found[i].p or 0.0 for i in tested])
    return found | {i: dataclasses.replace(found[i], p=p) for i, p in zip(tested, corrected, strict=True)}


def _compared(rows: Sequence[Row], cases: Cases) -> list[Row]:
    """The rows, each against the most accurate one of all."""
    scored = [row for row in rows if row.known["dice"].value is not None]
    if not scored:
        return list(rows)
    found = _all_against(scored, min(scored, key=_by_dice), cases)
    return [dataclasses.replace(row, against=found.get(row.record.id)) for row in rows]


def _as_accurate(candidates: Sequence[Row], cases: Cases) -> set[str]:
    """Ids of those that are as accurate as the most accurate of them, which is among them."""
    scored = [row for row in candidates if row.known["dice"].value is not None]
    if not scored:
        return set()
    best = min(scored, key=_by_dice)
    found = _all_against(scored, best, cases)
    return {best.record.id} | {i for i, one in found.items() if not one.told_apart}


def _by_dice(row: Row) -> tuple[float, float, str]:
    return row.value("dice"), row.value("time"), row.label


def _order(row: Row, objective: Objective, accurate: set[str]) -> tuple[object, ...]:
    standing = _STANDINGS.index(row.standing)
    missed = sum(verdict in ("missed", "not known") for verdict in row.verdicts.values())
    rest = (row.value("dice"), row.value("memory"), row.label)
    if objective != "dice":
        return standing, missed, row.value(_OF[objective]), *rest
    if row.record.id in accurate:
        return standing, missed, 0, row.value("time"), *rest
    return standing, missed, 1, row.value("dice"), row.value("time"), *rest[1:]
