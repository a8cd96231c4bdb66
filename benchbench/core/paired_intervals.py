"""Intervals of a ratio over sets of processes, each of which gives the median of its log-ratios.

Where processes differ for all of their lives, sets are what is drawn, and few of them: a trimmed mean with its t
interval (`trimmed_mean`). Where they do not, most of what sets differ by is the noise of their own forwards, of which
there are hundreds: each set then counts by its own standard error (`random_effects`). From seven sets of a machine with
noisy neighbours the second is a half narrower, and both hold the ratio as often as they promise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

TRIM = 0.2  # share of the sets left out at either end, where a whole one falls to it
_OWN = 0.003  # standard deviation by which sets are taken to differ at least, as a share
_Z = 1.96
_HALVINGS = 50
_FAR, _STEPS = 8.0, 2001  # standard deviations and places of a numerical integral


def trimmed_mean(values: Sequence[float], level: float, trim: float = TRIM) -> tuple[float, float]:
    """Trimmed mean of at least three values, and the half-width of its interval.

    Args:
        values: of any unit.
        level: of the interval.
        trim: share of the values left out at either end; 0: the plain mean with its t interval.

    Source: Yuen 1974, The two-sample trimmed t for unequal population variances, Biometrika 61; the one-sample form in
    Wilcox, Introduction to Robust Estimation and Hypothesis Testing, section 4.3.
    """
    from scipy.special import stdtrit

    n, ordered = len(values), sorted(values)
    cut = int(trim * n)
    left = n - 2 * cut
    centre = statistics.fmean(ordered[cut : n - cut])
    winsorized = [min(max(value, ordered[cut]), ordered[n - cut - 1]) for value in ordered]
    spread = math.sqrt(statistics.variance(winsorized) * (n - 1) / (left * (left - 1)))
    return centre, float(stdtrit(left - 1, (1 + level) / 2)) * spread


def median_error(values: Sequence[float], independent: float) -> float:
    """Standard error of a median, from the order statistics that hold it in 95 % of cases.

    Args:
        values: at least two.
        independent: as how many independent ones they count.

    Source: McKean and Schrader 1984, A comparison of methods for studentizing the sample median, Communications in
    Statistics 13.
    """
    import numpy as np

    reach = min(_Z / (2 * math.sqrt(independent)), 0.5)
    low, high = np.quantile(values, (0.5 - reach, 0.5 + reach))
    return float(high - low) / (2 * _Z)


def random_effects(
    values: Sequence[float], errors: Sequence[float], degrees: float, level: float
) -> tuple[float, float]:
    """Mean of values that are known to different errors and may differ besides, and the half-width of its interval.

    Args:
        values: at least two, as shares.
        errors: standard error of each.
        degrees: of freedom of all errors together.
        level: of the interval.

    Sources: the variance between values is Paule and Mandel's (1982, Journal of Research of the National Bureau of
    Standards 87); degrees of freedom of the sum of both variances: Satterthwaite 1946, Biometrics Bulletin 2.
    """
    from scipy.special import stdtrit

    n, own = len(values), [error**2 for error in errors]
    between = max(_between(values, own), _OWN**2)
    weights = [1 / (one + between) for one in own]
    total = sum(weights)
    centre = _mean(values, weights)
    of_sets = between * sum(w**2 for w in weights) / total**2
    of_forwards = sum(w**2 * one for w, one in zip(weights, own, strict=True)) / total**2
    variance = of_sets + of_forwards
    freedom = variance**2 / (of_sets**2 / (n - 1) + of_forwards**2 / degrees)
    return centre, float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)


def tail_left(error: float, *, spent: float, share: float) -> float:
    """Chance of an error of one side that the second of two looks may have, so that both together have `error`.

    Both are taken to be normal, and what the first has seen is a share of what the second sees.

    Args:
        error: of both looks together.
        spent: of it, by the first look alone; less than all of it.
        share: between 0 and 1.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    before, step = np.linspace(-_FAR, -ndtri(spent), _STEPS, retstep=True)  # what the first look saw and went on
    density = np.exp(-(before**2) / 2) / math.sqrt(2 * math.pi) * step
    low, high = 0.0, _FAR  # of the second look's bound
    for _ in range(_HALVINGS):
        bound = (low + high) / 2
        beyond = float(np.sum(ndtr((math.sqrt(share) * before - bound) / math.sqrt(1 - share)) * density))
        low, high = (bound, high) if spent + beyond > error else (low, bound)
    return float(ndtr(-high))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)


def _between(values: Sequence[float], own: Sequence[float]) -> float:
    """Variance between values with which their weighted spread is what it should be; 0 where errors explain it all."""
    tiny = (max(values) - min(values)) ** 2 * 1e-9  # where all errors are 0

    def excess(between: float) -> float:
        weights = [1 / max(one + between, tiny) for one in own]
        centre = _mean(values, weights)
        return sum(w * (value - centre) ** 2 for w, value in zip(weights, values, strict=True)) - (len(values) - 1)

    low, high = 0.0, (max(values) - min(values)) ** 2 * len(values)
    if not high or excess(low) <= 0:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2
