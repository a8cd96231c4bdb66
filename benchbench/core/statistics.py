"""Medians, means and their intervals; tests and their correction; the Pareto front.

Forwards of one process resemble each other more than those of two, so the samples of several processes are never
pooled: each process gives its median, and the interval is that of those medians. Below five processes, no bootstrap
of a median means anything; then the range stands, with the coverage that a range of n has exactly, 1 - 2^(1-n).

NumPy and SciPy are imported where they are used: `bench --help` needs neither.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

LEVEL = 0.95
FEWEST = 5  # processes from which a bootstrap of their median is shown
RESAMPLES = 4000
_SEED = 20231  # equal samples give equal intervals
_KEPT = 8192  # results that are kept: a page asks for those of its rows several times


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
    import numpy as np

    (indices,) = _resamples((len(values),), RESAMPLES)
    return _percentiles(np.median(np.asarray(values)[indices], axis=1), level)


def ratio_interval(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap of median(after) / median(before), both sides drawn anew.

    Args:
        before: a process's median each, or another independent value each.
    """
    import numpy as np

    drawn = _resamples((len(after), len(before)), RESAMPLES)
    medians = [np.median(np.asarray(side)[i], axis=1) for side, i in zip((after, before), drawn, strict=True)]
    return _percentiles(medians[0] / medians[1], level)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of a mean, 95 %."""
    return _mean_interval(tuple(values))


@functools.lru_cache(maxsize=_KEPT)
def _mean_interval(values: tuple[float, ...]) -> tuple[float, float]:
    import numpy as np

    (indices,) = _resamples((len(values),), RESAMPLES)
    means = np.sort(np.asarray(values)[indices].mean(1))
    cut = round((1 - LEVEL) / 2 * (RESAMPLES - 1))
    return float(means[cut]), float(means[-1 - cut])


def dice_interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean Dice over cases, 95 %, with the draws of every recorded Dice (seed 0)."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _resamples(sizes: tuple[int, ...], count: int) -> list[npt.NDArray[np.int64]]:
    """Indices (count, size) into each of several samples, drawn with replacement; equal sizes give equal indices."""
    import numpy as np

    draw, total = random.Random(_SEED).random, sum(sizes)
    drawn = np.array([draw() for _ in range(count * total)]).reshape(count, total)
    sides = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    return [(side * size).astype(np.int64) for side, size in zip(sides, sizes, strict=True)]


def _percentiles(values: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    values.sort()
    tail, last = (1 - level) / 2, len(values) - 1
    return float(values[math.floor(tail * last)]), float(values[math.ceil((1 - tail) * last)])


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
    """The q-th percentile (0 to 100), or None where the samples do not support it: at least five must lie beyond it."""
    if len(samples) * min(q, 100 - q) / 100 < 5:
        return None
    import numpy as np

    return float(np.percentile(samples, q))


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value of Welch's t-test on the logarithms, two-sided.

    Args:
        a: positive, at least two; a process's median each.

    Source: Welch 1947, Biometrika 34; logarithms, since noise of a time is a share of it.
    """
    logs = [[math.log(v) for v in side] for side in (a, b)]
    gap = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    shares = [statistics.variance(side) / len(side) for side in logs]
    if math.sqrt(sum(shares)) < 1e-12:  # the values of each side are equal
        return 1.0 if abs(gap) < 1e-12 else 0.0
    from scipy.stats import ttest_ind

    return float(ttest_ind(*logs, equal_var=False).pvalue)


def signed_rank(differences: Sequence[float]) -> float:
    """The p-value of Wilcoxon's signed-rank test, two-sided; 1 where nothing differs."""
    return _signed_rank(tuple(differences)) if any(differences) else 1.0


@functools.lru_cache(maxsize=_KEPT)
def _signed_rank(differences: tuple[float, ...]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def evenly_spaced(values: Sequence[T], most: int) -> list[T]:
    """All values, or `most` of them, at least 2, at equal distances in their order, both ends among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def split_runs(values: Sequence[float], runs: Sequence[int]) -> list[list[float]]:
    """A measurement's samples apart by process.

    Args:
        runs: how many each gave; empty: all are of one process.
    """
    if not runs:
        return [list(values)] if values else []
    apart, at = [], 0
    for size in runs:
        apart.append(list(values[at : at + size]))
        at += size
    return apart


def tie_groups(values: Sequence[float], tolerance: float | Sequence[float]) -> list[str]:
    """Ranks of values from the smallest, equal ones sharing one: `1`, `2=`, `2=`, `4`.

    A value ties with the first of its group while it is no more than the tolerance above it, so a group cannot
    creep along a chain of near neighbours.

    Args:
        tolerance: share by which two values may differ and still tie; or one of each value, of two the larger counts.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    each = [tolerance] * len(values) if isinstance(tolerance, (int, float)) else tolerance
    groups: list[list[int]] = []
    for i in order:
        if groups and values[i] <= values[first := groups[-1][0]] * (1 + max(each[i], each[first])):
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


def ranks_behind(count: int, is_faster: Callable[[int, int], bool]) -> list[str]:
    """Ranks of values of which not every two can be told apart: one more than the number of those that are faster.

    Ones that share a rank are `1=`. Two that cannot be told apart may have different ranks, where a third one is
    faster than one of them alone.

    Args:
        count: how many there are.
        is_faster: whether the first of two is surely faster than the second, by their places.
    """
    behind = [sum(is_faster(j, i) for j in range(count) if j != i) for i in range(count)]
    return [f"{n + 1}{'=' * (behind.count(n) > 1)}" for n in behind]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere larger than `b`, and somewhere smaller."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other dominates, all coordinates to be made small; equal points stay."""
    order = sorted(range(len(points)), key=lambda i: tuple(points[i]))  # what dominates a point comes before it
    front: list[int] = []
    for i in order:
        if not any(dominates(points[other], points[i]) for other in front):
            front.append(i)
    return sorted(front)
