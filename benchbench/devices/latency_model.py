"""Latency model of operators: from those that were timed to those that were not, by kind and size.

A call takes its launch and the larger of arithmetic over the peak and bytes over the bandwidth, times a factor: the
linear trend of its kind's calls, and how far those near to it are off that trend. Near is meant on logarithms: of MACs,
of bytes, of MACs a byte, of the kernel's voxels, of the channels that are summed over, and on whether the input is laid
out in order. What a forward takes besides its calls (Python, memory to be had) is one factor more, the median over the
networks.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from benchbench.core.records import OperatorCost

_NEAR = 5  # calls that a factor is taken from
_SOFT = 0.1  # distance below which two calls count as equally near
_STRIDED = 2.0  # how far a strided input is from one that is not
_RIDGE = 1.0  # calls' worth of doubt in a trend
_BEYOND = 0.5  # how far past the best and the worst factor of its kind a trend may lead
_FAR = 4.0  # distance above which a call is unlike all that were timed: some factor of 16 in bytes and in MACs
COVERAGE = 0.9  # of intervals
FEWEST_FOR_COVERAGE = 9  # networks; of fewer the worst stands for the quantile
_KIN = 0.5  # of a network's time in calls that another makes, too: they are left out together


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Roofs:
    """What a device can do at most."""

    macs_per_s: float
    bytes_per_s: float
    launch_s: float  # the shortest call of all

    def seconds(self, cost: OperatorCost) -> float:
        """About the least that a call takes, launch included."""
        return self.launch_s + max(cost.macs / self.macs_per_s, cost.moved_bytes / self.bytes_per_s)


#: Six numbers. Logarithms: MACs, bytes, MACs a byte, kernel, channels summed over; and whether the input is strided.
Point = tuple[float, ...]
_Array = npt.NDArray[np.float64]
_TINY = 1e-9
Timed = tuple[OperatorCost, float]  # seconds


def roofs_of(timed: Sequence[Timed], macs_per_s: float = 0.0, bytes_per_s: float = 0.0) -> Roofs:
    """The roofs that were measured; a rate that was not (0), or that a call exceeds in arithmetic, is the calls' best.

    Calls whose tensors are in a cache may exceed the bandwidth of memory.

    Raises:
        ValueError: nothing was timed that computes.
    """
    rates = [cost.macs / seconds for cost, seconds in timed if cost.macs]
    if not rates:
        raise ValueError("no call with arithmetic was timed")
    return Roofs(
        macs_per_s=max(macs_per_s, *rates),
        bytes_per_s=bytes_per_s or max(cost.moved_bytes / seconds for cost, seconds in timed),
        launch_s=min(seconds for _, seconds in timed),
    )


def place(cost: OperatorCost) -> Point:
    """Where a call lies among its kind."""
    macs, moved = math.log(cost.macs + 1), math.log(cost.moved_bytes + 1)
    summed = cost.macs / max(1, math.prod(cost.output_shape)) / cost.kernel if cost.macs else 1.0
    strided = _STRIDED * cost.strided
    return macs, moved, macs - moved, 2 * math.log(cost.kernel), math.log(max(summed, 1.0)), strided


def work_of(cost: OperatorCost) -> str:
    """What calls are compared within: `norm/native_group_norm`."""
    return f"{cost.kind}/{cost.operator}"


class _Calls:
    """Those of one kind that were timed: the linear trend of their factors, and what each is off it."""

    def __init__(self, points: Sequence[tuple[Point, float]]) -> None:
        self.places = np.array([where for where, _ in points]).reshape(len(points), -1)
        factors = np.array([factor for _, factor in points])
        self._mean, self._spread = self.places.mean(0), self.places.std(0) + _TINY
        terms = self._terms(self.places)
        doubt = _RIDGE * np.eye(terms.shape[1])
        doubt[0, 0] = 0.0  # none in the mean
        self._trend = np.linalg.solve(terms.T @ terms + doubt, terms.T @ factors)
        self._off = factors - terms @ self._trend
        self._least, self._most = factors.min() - _BEYOND, factors.max() + _BEYOND

    def _terms(self, places: _Array) -> _Array:
        return np.hstack([np.ones((len(places), 1)), (places - self._mean) / self._spread])

    def distances(self, cost: OperatorCost) -> _Array:
        return np.linalg.norm(self.places - np.array(place(cost)), axis=1)  # type: ignore[no-any-return]

    def factor(self, cost: OperatorCost) -> float:
        distances = self.distances(cost)
        nearest = np.argsort(distances, kind="stable")[:_NEAR]
        weights = 1 / np.maximum(distances[nearest], _SOFT) ** 2
        trend = self._terms(np.array([place(cost)]))[0] @ self._trend
        logarithm = trend + (weights * self._off[nearest]).sum() / weights.sum()
        return math.exp(float(np.clip(logarithm, self._least, self._most)))


class Efficiency:
    """What calls take on a device that some calls were timed on."""

    def __init__(self, roofs: Roofs, points: Mapping[str, Sequence[tuple[Point, float]]]) -> None:
        """Take kind/operator -> (place, logarithm of the time over that of the roofs) of each call that was timed."""
        self.roofs, self.points = roofs, {work: list(calls) for work, calls in points.items() if calls}
        kinds: dict[str, list[tuple[Point, float]]] = {}
        for work, calls in self.points.items():
            kinds.setdefault(work.partition("/")[0], []).extend(calls)
        self._calls = {key: _Calls(calls) for key, calls in (self.points | kinds).items()}
        self._all = _Calls([call for calls in self.points.values() for call in calls])

    @classmethod
    def learn(cls, timed: Sequence[Timed], roofs: Roofs | None = None) -> Efficiency:
        """From calls on a device; without its roofs, with the best rates that were seen."""
        roofs = roofs or roofs_of(timed)
        points: dict[str, list[tuple[Point, float]]] = {}
        for cost, seconds in timed:
            points.setdefault(work_of(cost), []).append((place(cost), math.log(seconds / roofs.seconds(cost))))
        return cls(roofs, points)

    def strange(self, costs: Sequence[OperatorCost]) -> list[str]:
        """The operators of a forward that were not timed, or only at sizes far from these, as texts."""
        works = set()
        for cost in costs:
            calls = self._calls.get(work_of(cost))
            if calls is None:
                works.add(cost.operator)
            elif calls.distances(cost).min() > _FAR:
                works.add(f"{cost.operator} of such a size")
        return sorted(works)

    def seconds(self, costs: Sequence[OperatorCost], *, on: Roofs | None = None) -> float:
        """What calls one after the other take.

        Args:
            on: the roofs of another device, which is as near to them as this one to its own; None: this device.
        """
        roofs = on or self.roofs
        seconds_of: dict[tuple[object, ...], float] = {}
        total = 0.0
        for cost in costs:
            key = work_of(cost), cost.macs, cost.moved_bytes, cost.kernel, cost.output_shape, cost.strided
            if key not in seconds_of:
                calls = self._calls.get(work_of(cost)) or self._calls.get(cost.kind) or self._all
                seconds_of[key] = roofs.seconds(cost) * calls.factor(cost)
            total += seconds_of[key]
        return total


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """How far forecasts were off, each of a network whose own calls were left out."""

    ratios: Mapping[str, float]  # forecast over measured
    scale: float  # what a whole forward takes over the sum of its calls: the median
    interval: float  # factor around a forecast that is to hold COVERAGE of networks
    held: int  # networks that lie within the interval that the others give
    error: float  # mean of |forecast / measured - 1|


def check(
    networks: Mapping[str, Sequence[tuple[str, OperatorCost]]],
    timed: Mapping[str, Timed],
    measured: Mapping[str, float],
    roofs: Roofs | None = None,
) -> CrossValidation:
    """Forecast each network without its own calls, whoever makes them too, scaled by what the others show.

    Left out with it are those that make the calls which most of its time is in, such as its other sizes.

    Args:
        networks: name -> (key, cost) of its calls.
        timed: key -> a call that was timed.
        measured: name -> seconds of its forward.

    Raises:
        ValueError: fewer than three networks were measured.
    """
    if len(measured) < 3:
        raise ValueError(f"{len(measured)} networks are too few to tell how far forecasts are off: three are needed")

    keys = {name: {key for key, _ in calls} for name, calls in networks.items()}
    basics = set(timed).difference(*keys.values())

    def known_without(names: set[str], left_out: set[str]) -> Efficiency:
        others = basics.union(*(calls for other, calls in keys.items() if other not in names)) - left_out
        return Efficiency.learn([call for key, call in timed.items() if key in others], roofs)

    def scale_of(name: str, model: Efficiency) -> float:
        return measured[name] / model.seconds([cost for _, cost in networks[name]])

    ratios = {}
    for name in measured:
        without = {name, *_kin(name, networks, timed)}
        model = known_without(without, keys[name])
        others = [other for other in measured if other not in without] or [other for other in measured if other != name]
        scale = statistics.median(scale_of(other, model) for other in others)
        ratios[name] = scale / scale_of(name, model)
    everything = known_without(set(), set())
    logs = {name: abs(math.log(ratio)) for name, ratio in ratios.items()}
    held = sum(
        logs[name] <= math.log(interval_factor([ratio for other, ratio in ratios.items() if other != name]))
        for name in ratios
    )
    return CrossValidation(
        ratios=ratios,
        scale=statistics.median(scale_of(name, everything) for name in measured),
        interval=interval_factor(list(ratios.values())),
        held=held,
        error=statistics.fmean(abs(ratio - 1) for ratio in ratios.values()),
    )


def _kin(name: str, networks: Mapping[str, Sequence[tuple[str, OperatorCost]]], timed: Mapping[str, Timed]) -> set[str]:
    """Those that make the calls which most of a network's time is in: left in, they would give the answer away."""
    spent: dict[str, float] = {}
    for key, _ in networks[name]:
        spent[key] = spent.get(key, 0.0) + (timed[key][1] if key in timed else 0.0)
    kin = set()
    for other, calls in networks.items():
        shared = {key for key, _ in calls}
        if other != name and sum(took for key, took in spent.items() if key in shared) > _KIN * sum(spent.values()):
            kin.add(other)
    return kin


def interval_factor(ratios: Sequence[float], coverage: float = COVERAGE) -> float:
    """The factor around a forecast that holds the truth for so many networks left out, one more counted as worst.

    Source: split conformal prediction on the logarithm's absolute error, Lei et al. 2018.
    """
    errors = sorted(abs(math.log(ratio)) for ratio in ratios)
    rank = min(len(errors), math.ceil(coverage * (len(errors) + 1)))
    return math.exp(errors[rank - 1])
