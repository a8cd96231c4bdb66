"""Medians and their intervals from samples of several processes.

Forwards of one process resemble each other more than those of two, so the samples of several processes are never
pooled: each process gives its median, and the interval is that of those medians. Below five processes, no bootstrap
of a median means anything; then the range stands, with the coverage that a range of n has exactly, 1 - 2^(1-n).
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence

LEVEL = 0.95
FEWEST = 5  # processes from which a bootstrap of their median is shown
RESAMPLES = 4000
_SEED = 20231  # equal samples give equal intervals


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A range for a median, and how it was obtained."""

    low: float
    high: float
    coverage: float  # nominal for a bootstrap, exact for order statistics
    method: str

    @property
    def confident(self) -> bool:
        """Whether it may be shown as a 95 % interval."""
        return self.coverage >= LEVEL


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The samples of one cell."""

    median: float  # of the processes' medians
    medians: tuple[float, ...]  # one a process
    interval: Interval | None  # None: nothing can be said, as of one sample
    samples: int

    @property
    def half_width(self) -> float:
        """Half of the interval over the median; infinite without an interval of 95 %."""
        if self.interval is None or not self.interval.confident or not self.median:
            return math.inf
        return (self.interval.high - self.interval.low) / 2 / self.median


def summarise(runs: Sequence[Sequence[float]]) -> Summary:
    """The median of the processes' medians with its interval.

    Args:
        runs: the samples of each process; none of them empty.
    """
    medians = tuple(statistics.median(run) for run in runs)
    interval = median_interval(runs[0]) if len(runs) == 1 else interval_of_medians(medians)
    return Summary(
        median=statistics.median(medians), medians=medians, interval=interval, samples=sum(len(run) for run in runs)
    )


def interval_of_medians(medians: Sequence[float]) -> Interval | None:
    """Of processes' medians: the percentile bootstrap from five on, below that the range with its exact coverage."""
    n = len(medians)
    if n < 2:
        return None
    if n < FEWEST:
        return Interval(
            low=min(medians),
            high=max(medians),
            coverage=range_coverage(n),
            method=f"range of {n} processes, which holds the median in {range_coverage(n):.0%} of cases",
        )
    low, high = bootstrap_median(medians)
    return Interval(low=low, high=high, coverage=LEVEL, method=f"bootstrap over {n} processes' medians")


def range_coverage(n: int) -> float:
    """How often the range of n independent values holds their distribution's median: 1 - 2^(1-n)."""
    return 1 - 2.0 ** (1 - n)


def bootstrap_median(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap of the median; equal values give equal bounds.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    n, draw = len(values), random.Random(_SEED)
    medians = sorted(statistics.median(draw.choices(values, k=n)) for _ in range(RESAMPLES))
    return _percentiles(medians, level)


def ratio_interval(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap of median(after) / median(before), both sides drawn anew.

    Args:
        before: a process's median each, or another independent value each.
        after: likewise.
        level: of the interval.
    """
    draw = random.Random(_SEED)
    ratios = sorted(
        statistics.median(draw.choices(after, k=len(after))) / statistics.median(draw.choices(before, k=len(before)))
        for _ in range(RESAMPLES)
    )
    return _percentiles(ratios, level)


def _percentiles(ordered: Sequence[float], level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    last = len(ordered) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]


def median_interval(samples: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The narrowest symmetric pair of order statistics that holds the median with at least `level`.

    Source: David and Nagaraja, Order Statistics, section 7.1 (sign-test interval).

    Returns:
        The interval; where even the whole range falls short (below six samples at 95 %), that range with its
        coverage; None for one sample.
    """
    n = len(samples)
    if n < 2:
        return None
    ordered = sorted(samples)
    outside, best, covered = 0.0, 0, range_coverage(n)
    for k in range(n // 2):
        outside += 2 * math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if 1 - outside < level:
            break
        best, covered = k, 1 - outside
    kind = "order statistics" if covered >= level else f"range, which holds the median in {covered:.0%} of cases,"
    return Interval(
        low=ordered[best], high=ordered[n - 1 - best], coverage=covered, method=f"{kind} of {n} samples of one process"
    )


def percentile(samples: Sequence[float], q: float) -> float | None:
    """The q-th percentile, or None where the samples do not support it: at least five must lie beyond it.

    Args:
        samples: of one kind.
        q: between 0 and 100.
    """
    n = len(samples)
    if n * min(q, 100 - q) / 100 < 5:
        return None
    ordered = sorted(samples)
    at = q / 100 * (n - 1)
    low = math.floor(at)
    high = min(low + 1, n - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def split_runs(values: Sequence[float], runs: Sequence[int]) -> list[list[float]]:
    """A measurement's samples apart by process.

    Args:
        values: of all processes, in order.
        runs: how many each gave; empty: all are of one process.
    """
    if not runs:
        return [list(values)] if values else []
    apart, at = [], 0
    for size in runs:
        apart.append(list(values[at : at + size]))
        at += size
    return apart


def tie_groups(values: Sequence[float], tolerance: float) -> list[str]:
    """Ranks of values from the smallest, equal ones sharing one: `1`, `2=`, `2=`, `4`.

    A value ties with the first of its group while it is no more than `tolerance` above it, so a group cannot
    creep along a chain of near neighbours.

    Args:
        values: in any order.
        tolerance: share by which two values may differ and still tie.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and values[i] <= values[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(i)
        else:
            groups.append([i])
    ranks = [""] * len(values)
    at = 1
    for members in groups:
        for i in members:
            ranks[i] = f"{at}=" if len(members) > 1 else str(at)
        at += len(members)
    return ranks
