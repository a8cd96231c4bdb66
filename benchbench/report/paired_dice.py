"""Paired comparison of Dice, case by case: which differences are more than the choice of cases.

Two intervals of means may overlap although one network is better on nearly every case, since hard cases are hard for
both. So each network is set against the best one over the cases that count for both. Such cases may be fewer than
either network's: one that both leave empty counts for neither.

The artifact (kind `cases`) is somebody else's text until it has been checked.

Source: Wilcoxon's signed-rank test, Holm's correction; the interval is a percentile bootstrap over cases.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.report.cells import TableCell, valid
from benchbench.report.compare import verdicts
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.tables import Column, Table, TableRow, record_row

_COLUMNS = (
    Column(key="mean", title="Dice", help="mean over the cases that count for both"),
    Column(key="difference", title="Against the best", help="mean difference, case by case, and its 95 % interval"),
    Column(key="behind", title="Worse in", help="cases in which it is behind the best, of those that count for both"),
    Column(key="p", title="p", help="Wilcoxon's signed-rank test, corrected for the number of networks (Holm)"),
    Column(key="verdict", title="Verdict", help="worse: p is at most 0.05", kind="text"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A network against the best one."""

    row: TableRow
    values: tuple[float, ...]  # Dice of the cases that count for both
    differences: tuple[float, ...]  # to the best
    p: float | None  # not yet corrected; None: too few cases

    @property
    def mean(self) -> float:
        """Difference of the means."""
        return statistics.fmean(self.differences)

    @property
    def ranks_lower(self) -> bool:
        """Whether the signed ranks are those of a network that is behind: the direction that the test is of."""
        signed = sorted((d for d in self.differences if d), key=abs)
        return sum(math.copysign(rank, d) for rank, d in enumerate(signed, 1)) < 0

    @property
    def ci95(self) -> tuple[float, float]:
        """Of `mean`, by a bootstrap over cases."""
        return core_statistics.mean_interval(self.differences)


@functools.lru_cache(maxsize=256)  # the choice, the table and the exports ask for the same
def parse(content: bytes) -> Mapping[str, float]:
    """Case -> Dice, of those that count.

    Raises:
        StoreError: it is not what it should be.
    """
    try:
        data = parse_json(content, "the Dice of single cases", StoreError)
        names = rec.value_from_json(tuple[str, ...], data["ids"], "ids")
        dice = rec.value_from_json(tuple[float | None, ...], data["values"]["dice"], "values.dice")
        found = {name: float(value) for name, value in zip(names, dice, strict=True) if value is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError("the Dice of single cases could not be read, so networks are not compared by it") from error
    if not all(0 <= value <= 1 for value in found.values()):
        raise StoreError("the Dice of single cases is not from 0 to 1, so networks are not compared by it")
    return found


def against_best(rows: Sequence[TableRow], read: ReadArtifact) -> tuple[TableRow, list[Pair]] | None:
    """The row with the best mean, and every other one against it; None where no two rows have Dice of their cases."""
    scored = [
        (row, dice)
        for row in rows
        if valid(row.record, "dice") and (dice := artifact_of(row.record, "cases", read, parse))
    ]
    if len(scored) < 2:
        return None
    shared = set.intersection(*(set(dice) for _, dice in scored))
    best, best_dice = max(scored, key=lambda one: statistics.fmean([one[1][c] for c in sorted(shared or one[1])]))
    others = (pair(row, dice, best_dice) for row, dice in scored if row is not best)
    pairs = [one for one in others if one is not None]
    return (best, sorted(pairs, key=lambda one: -one.mean)) if pairs else None


def pair(row: TableRow, own: Mapping[str, float], best: Mapping[str, float]) -> Pair | None:
    """A row against the best one, over the cases that count for both; None where there is no such case.

    Args:
        own: Dice of the row by case.
        best: that of the best one.
    """
    both = [case for case in own if case in best]
    if not both:
        return None
    differences = tuple(own[case] - best[case] for case in both)
    p = core_statistics.signed_rank(differences) if len(both) >= verdicts.FEWEST_CASES else None
    return Pair(row=row, values=tuple(own[case] for case in both), differences=differences, p=p)


def table(rows: Sequence[TableRow], read: ReadArtifact, *, key: str) -> Table | None:
    """A line for each network but the best, the nearest first; None where there is nothing to compare."""
    found = against_best(rows, read)
    if found is None:
        return None
    best, pairs = found
    corrected = _corrected(pairs)
    least, most = (pick(len(pair.values) for pair in pairs) for pick in (min, max))
    cases = f"{most} cases" if least == most else f"{least} to {most} cases"
    return Table(
        key=key,
        title=f"Dice against {best.label}, case by case",
        caption=f"{best.label} has the highest mean over these cases; each other network is compared with it on the "
        f"{cases} that count for both.",
        columns=_COLUMNS,
        rows=tuple(_line(pair, corrected.get(pair.row.label)) for pair in pairs),
        sorted_by=("difference", "descending"),
    )


#: What `plain` says of a network.
PLAIN = (
    *("dice_against", "dice_difference", "dice_difference_ci95_low", "dice_difference_ci95_high"),
    *("dice_p_corrected", "dice_verdict"),
)


def plain(rows: Sequence[TableRow], read: ReadArtifact) -> dict[str, dict[str, str | float | None]]:
    """The same for a program: record id -> unrounded values by the names in `PLAIN`, of all rows but the best."""
    compared = against_best(rows, read)
    if compared is None:
        return {}
    best, pairs = compared
    corrected = _corrected(pairs)
    found = {}
    for pair in pairs:
        p = corrected.get(pair.row.label)
        values = (best.label, pair.mean, *pair.ci95, p, _verdict(pair, p))
        found[pair.row.record.id] = dict(zip(PLAIN, values, strict=True))
    return found


def _corrected(pairs: Sequence[Pair]) -> dict[str, float]:
    """Label -> p, corrected for the number of networks."""
    tested = [pair for pair in pairs if pair.p is not None]
    return dict(
        zip((pair.row.label for pair in tested), core_statistics.holm([p.p or 0.0 for p in tested]), strict=True)
    )


def _verdict(pair: Pair, p: float | None) -> str:
    """What the corrected p means."""
    if p is None:
        return f"too few cases ({len(pair.values)})"
    if p > verdicts.SIGNIFICANT:
        return "not told apart"
    if pair.ranks_lower == (pair.mean < 0):
        return "worse" if pair.ranks_lower else "better"
    # a few large differences the other way
    return "worse by its ranks, not on average" if pair.ranks_lower else "better by its ranks, worse on average"


def _line(pair: Pair, p: float | None) -> TableRow:
    dice = pair.row.record.get("dice")
    origin = dice.origin if dice else None
    mean, (low, high) = statistics.fmean(pair.values), pair.ci95
    behind = sum(d < 0 for d in pair.differences)
    cells = {
        "mean": TableCell(text=f"{mean:.3f}", origin=origin, value=mean),
        "difference": TableCell(
            text=f"{pair.mean:+.3f}", origin=origin, value=pair.mean, detail=f"{low:+.3f} to {high:+.3f}"
        ),
        "behind": TableCell(text=f"{behind} of {len(pair.values)}", origin=origin, value=behind / len(pair.values)),
        "p": TableCell(text=verdicts.p_text(p), value=p),
        "verdict": TableCell(text=_verdict(pair, p)),
    }
    return record_row(pair.row.record, pair.row.label, cells)
