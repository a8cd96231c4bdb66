"""`bench compare --measure` and `--remeasure`: plans to the record of paired comparisons, on disk whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.paired_result import PairedResult, Spent, write_pairs
from benchbench.core.paired_times import ProcessSet
from benchbench.runner.pairs import there
from benchbench.runner.pairs.here import SetsSoFar, measure_pair
from benchbench.runner.pairs.measure import Keep, Progress
from benchbench.runner.pairs.order import Role
from benchbench.runner.pairs.plan import PairPlan

_KILLED = "the measurement ended before its time"


def measure_pairs(plans: Sequence[PairPlan], file: Path, *, progress: Progress | None = None) -> list[PairedResult]:
    """Measure comparisons one after the other.

    Each is on disk before the next begins, and each set of the one that runs, so that a kill leaves those. Ctrl-C ends
    the one that runs with what there is, and leaves the others out: the last result is `interrupted` then; likewise
    where the connection to another machine is lost.

    Args:
        plans: of the comparisons.
        file: record to write.
        progress: hears how far they are.

    Raises:
        StoreError: the file cannot be written.
        DeviceError: the connection to another machine was lost before anything was measured, or it refuses.
    """
    results: list[PairedResult] = []
    for number, plan in enumerate(plans):
        tell = progress and _share(progress, number, len(plans))
        measure = there.measure_there if plan.host else measure_pair
        result = measure(plan, progress=tell, keep=_kept(file, results, plan))
        results.append(result)
        keep(file, results)
        if result.interrupted or result.lost:
            break
    return results


def _kept(file: Path, results: Sequence[PairedResult], plan: PairPlan) -> Keep:
    """Writes the record with the sets that the comparison that runs has so far."""
    so_far = SetsSoFar(plan)

    def add(one: ProcessSet, measurements: dict[Role, list[rec.Measurement]], spent: Spent) -> None:
        so_far.add(one, measurements, spent)
        keep(file, [*results, so_far.result(lost=_KILLED)])

    return add


def keep(file: Path, results: Sequence[PairedResult]) -> None:
    """Write the record.

    Raises:
        StoreError: it cannot be written.
    """
    with os_error_as(StoreError, f"cannot write {file}", "choose another --out"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_pairs(file, results)


def _share(progress: Progress, number: int, count: int) -> Progress:
    def tell(used: float, text: str) -> None:
        progress((number + used) / count, text)

    return tell
