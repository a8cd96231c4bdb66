"""Ratio of two rows of one run, from processes of the same rounds.

Each round of a run starts one process of every row, so a machine that is slower for some minutes slows both rows of a
round and leaves their ratio: a round gives one pair. Medians of all rounds, taken apart for each row, have lost that.

The interval is that of paired comparisons, the t interval of a trimmed mean, but for fewer than six rounds, where it is
the plain t interval: in simulations of five rounds it holds the ratio in 95 to 98 % of cases, trimmed in 93 to 97 %.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

from benchbench.core.paired_intervals import TRIM, trimmed_mean
from benchbench.core.paired_times import FEWEST
from benchbench.core.records import Record
from benchbench.core.statistics import LEVEL, split_runs

_TRIMMED_FROM = 6  # rounds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundsRatio:
    """A ratio of times with its 95 % interval."""

    ratio: float
    low: float
    high: float
    rounds: int

    def differs(self, floor: float, least: float) -> bool:
        """Whether the interval lies beyond what the run shows of a network against itself, and the ratio is no trifle.

        Args:
            floor: the noise floor, a share.
            least: share below which two times are the same.
        """
        apart = max(math.log(self.low), -math.log(self.high))
        return apart > math.log1p(floor) and abs(math.log(self.ratio)) > math.log1p(least)


def ratio_within_rounds(own: Record, base: Record, metric: str) -> RoundsRatio | None:
    """The time of one row over that of another; None with fewer than three rounds in common.

    Args:
        own: a row.
        base: another one.
        metric: a time, measured in each.
    """
    times, others = _by_round(own, metric), _by_round(base, metric)
    logs = [math.log(times[at] / others[at]) for at in times if at in others]
    if len(logs) < FEWEST:
        return None
    centre, half = trimmed_mean(logs, LEVEL, TRIM if len(logs) >= _TRIMMED_FROM else 0.0)
    return RoundsRatio(
        ratio=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half), rounds=len(logs)
    )


def _by_round(record: Record, metric: str) -> dict[str, float]:
    """Start of the round -> the median of the process that was of it."""
    m = record.get(metric)
    if m is None or m.origin != "measured" or sum(m.runs) != len(m.values) or len(m.runs) != len(record.rounds):
        return {}  # in one process, of an older benchbench, or with processes that gave no time
    medians = map(_median, split_runs(m.values, m.runs))
    return {at: s for at, s in zip(record.rounds, medians, strict=True) if at and s > 0}


def _median(samples: list[float]) -> float:
    kept = [s for s in samples if math.isfinite(s)]
    return statistics.median(kept) if kept else 0.0
