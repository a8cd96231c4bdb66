"""Paired times: what forwards of two sides in strict alternation say about the ratio of their times.

Forwards come in blocks that hold both sides, so whatever slows the machine for a while slows both and leaves their
ratio. The pairs of one set of processes share how these lie in memory, so they are not pooled: each set gives the
median log-ratio of its pairs, and the interval is over sets. A second process of A in every set (the control) is
compared with A in the same way: what it shows is the noise floor of this very comparison.

The interval over sets (`paired_intervals`) is that of their trimmed mean (a fifth off either end), unless weights had
another place in memory for every forward. In simulations with now and then a process that is slower for all its life, a
bootstrap over 6 to 10 sets was either too narrow (of the median: 9 to 15 % misses instead of 5) or, widened to keep its
promise, wider than this one.

Everything here is a pure function.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Literal

from benchbench.core.paired_intervals import median_error, random_effects, tail_left, trimmed_mean
from benchbench.core.records import Above, AtLeast

Mode = Literal["interleaved", "duet"]
PairedVerdict = Literal["same", "faster", "slower", "ambiguous"]
Seconds = Annotated[float, Above(0)]

MARGIN = 0.02  # share within which two times are the same
ERROR = 0.05  # chance over both looks together of a verdict where it is wrong, of each of the three
FIRST_LOOK = 6  # sets after which a comparison may end; it is looked at once more when its time is up
#: Of the interval at the first look. Each verdict hangs on one end, which lies beyond the ratio with half the chance
#: that is left: two one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics 15).
LEVEL = 0.95
FEWEST = 3  # sets that an interval needs
_INDEPENDENT = 2 / 3  # of a pair of an interleaved block, which shares B with another one
_FEWEST_PAIRS = 8  # independent ones of a set, for an error of its median
_CLOSE = 0.125  # of the margin: an effect that near to it is decided by no measurement of reasonable length


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each process's forwards in one block.

    In `interleaved` mode each process has two, in opposite places of the block: the first ones of all three were
    neighbours, and so were the second. In `duet` mode A has one beside B's and then one beside the control's.
    """

    a: tuple[Seconds, ...]
    control: tuple[Seconds, ...]  # the second process of A
    b: tuple[Seconds, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Forwards of all three processes close together in time."""

    at_s: Annotated[float, AtLeast(0)]  # since the comparison began
    wall_s: Times
    cpu_s: Times | None = None  # of the processes, all threads; None where the system does not say


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSet:
    """Blocks of one fresh process of B and two of A."""

    blocks: tuple[Block, ...]
    moved: bool = False  # whether all weights had another place in memory for every forward
    ahead: bool = False  # whether the system had its processes go before other programs
    forked: bool = False  # whether they were forked from one that had imported torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A ratio of times with its interval."""

    ratio: float
    low: float
    high: float
    sets: int
    confident: bool  # whether low and high are an interval of `level_of`, or only the range of what was seen

    @property
    def size(self) -> float:
        """The logarithm of the ratio."""
        return math.log(self.ratio)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the sets say."""

    verdict: PairedVerdict
    wall: Estimate  # B over A
    cpu: Estimate | None  # of the processes' CPU time, B over A
    control: Estimate  # A over A
    waited: bool  # wall and CPU time disagree by more than their intervals
    needed_sets: int | None  # where ambiguous: so many would probably do; None: no reasonable number would

    @property
    def floor(self) -> float:
        """By how much A differed from itself, as a share: nothing below it is called."""
        return math.expm1(abs(self.control.size))


def judge(sets: Sequence[ProcessSet], mode: Mode, margin: float = MARGIN) -> Judgement:
    """Judge what was measured so far.

    Args:
        sets: at least one, each with at least one block.
        mode: how they were measured.
        margin: share within which two times are the same.
    """
    moved, once = all(one.moved for one in sets), _INDEPENDENT if mode == "interleaved" else 1.0
    wall = _over_sets([[x for block in one.blocks for x in effects(block.wall_s, mode)] for one in sets], moved, once)
    own = [[x for block in one.blocks for x in own_effects(block.wall_s, mode)] for one in sets]
    control = _over_sets(own, moved, 1.0)
    apart = [[x for block in one.blocks if block.cpu_s for x in effects(block.cpu_s, mode)] for one in sets]
    cpu = _over_sets(apart, moved, once) if all(apart) else None
    verdict = decide(wall, control, margin)
    both = cpu is not None and wall.confident and cpu.confident
    return Judgement(
        verdict=verdict,
        wall=wall,
        cpu=cpu,
        control=control,
        waited=both and cpu is not None and (wall.low > cpu.high or cpu.low > wall.high),
        needed_sets=needed_sets(wall, control, margin) if verdict == "ambiguous" else None,
    )


def decide(wall: Estimate, control: Estimate, margin: float) -> PairedVerdict:
    """The word for a ratio.

    `same` is shown, not assumed: the whole interval lies within the margin, and A against itself is not shown to lie
    beyond it. `slower` needs an interval beyond the noise floor and a ratio beyond the margin, and `faster` likewise,
    so that swapped sides swap the words and nothing else.
    """
    bound, floor = math.log1p(margin), abs(control.size)
    low, high = math.log(wall.low), math.log(wall.high)
    if not (wall.confident and control.confident):
        return "ambiguous"
    if -bound <= low and high <= bound:
        beyond = math.log(control.low) > bound or math.log(control.high) < -bound
        return "ambiguous" if beyond else "same"
    if low > floor and wall.size > bound:
        return "slower"
    if high < -floor and wall.size < -bound:
        return "faster"
    return "ambiguous"


def needed_sets(wall: Estimate, control: Estimate, margin: float) -> int | None:
    """Sets with which the interval would probably be narrow enough; None if the ratio is too near to the margin.

    The width falls with the square root of their number.
    """
    bound, floor, size = math.log1p(margin), abs(control.size), abs(wall.size)
    room = size - floor if size > bound else bound - size
    if not wall.confident or room < _CLOSE * bound or abs(size - bound) < _CLOSE * bound:
        return None
    half = (math.log(wall.high) - math.log(wall.low)) / 2
    return max(wall.sets + 1, math.ceil(wall.sets * (half / room) ** 2))


@functools.cache
def level_of(sets: int) -> float:
    """Level of the intervals that so many sets give.

    At the first look, and of fewer sets, it is `LEVEL`. Of more, it is the last look: one end has the chance of an
    error that the first has left of `ERROR`, given that both look at sets that they share (error spending).

    Source: Lan and DeMets 1983, Discrete sequential boundaries for clinical trials, Biometrika 70.
    """
    if sets <= FIRST_LOOK:
        return LEVEL
    return 1 - 2 * tail_left(ERROR, spent=(1 - LEVEL) / 2, share=FIRST_LOOK / sets)


def effects(times: Times, mode: Mode) -> list[float]:
    """Log-ratios of B to A in one block, of a pair of neighbours each; interleaved, both processes of A count."""
    if mode == "duet":
        return [math.log(times.b[0] / times.a[0])]
    return [math.log(b / a) for side in (times.a, times.control) for b, a in zip(times.b, side, strict=True)]


def own_effects(times: Times, mode: Mode) -> list[float]:
    """Log-ratios of A's second process to its first in one block."""
    if mode == "duet":
        return [math.log(times.control[0] / times.a[-1])]
    return [math.log(again / a) for again, a in zip(times.control, times.a, strict=True)]


def _over_sets(logs: Sequence[Sequence[float]], moved: bool, independent: float) -> Estimate:
    """From the log-ratios of each set's pairs, of which a share is independent of the others."""
    medians = [statistics.median(pairs) for pairs in logs]
    counts = [independent * len(pairs) for pairs in logs]
    if len(medians) < FEWEST:
        seen = logs[0] if len(logs) == 1 else medians
        centre, low, high = statistics.median(medians), min(seen), max(seen)
    else:
        if moved and min(counts) >= _FEWEST_PAIRS:
            errors = [median_error(pairs, count) for pairs, count in zip(logs, counts, strict=True)]
            centre, half = random_effects(medians, errors, sum(counts) - len(counts), level_of(len(logs)))
        else:
            centre, half = trimmed_mean(medians, level_of(len(logs)))
        low, high = centre - half, centre + half
    return Estimate(
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        sets=len(medians),
        confident=len(medians) >= FEWEST,
    )
