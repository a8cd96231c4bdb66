"""`bench compare --measure` and `--remeasure`: plans to the record of paired comparisons, on disk whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.paired_result import PairedResult, write_pairs
from benchbench.runner.pairs import there
from benchbench.runner.pairs.here import measure_pair
from benchbench.runner.pairs.measure import Progress
from benchbench.runner.pairs.plan import PairPlan


def measure_pairs(plans: Sequence[PairPlan], file: Path, *, progress: Progress | None = None) -> list[PairedResult]:
    """Measure comparisons one after the other.

    Each is on disk before the next begins. Ctrl-C ends the one that runs with what there is, and leaves the others out:
    the last result is `interrupted` then; likewise where the connection to another machine is lost.

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
        result = there.measure_there(plan, progress=tell) if plan.host else measure_pair(plan, progress=tell)
        results.append(result)
        keep(file, results)
        if result.interrupted or result.lost:
            break
    return results


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
