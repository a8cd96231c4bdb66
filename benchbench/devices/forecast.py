"""Forecast of a forward's latency on a device that is not at hand, in three tiers.

`calibrated`: the profile has calls that were timed on that very device; each operator takes its roof's time and
the factor of calls near to it, and the interval is how far such forecasts were off.

`scaled`: the calls were timed on another device; each operator is as near to this device's roofs as it was to that
one's, and the interval is an assumption.

`datasheet`: a lower bound, and how far above it reality may be.
Per operator the larger of 2 x MACs / peak and bytes / bandwidth, summed over the operators, since
eager PyTorch runs one after the other. That is what the device could not beat; what it reaches is
another matter, so the upper end is the bound times the worst ratio that published latencies of a 3D
network show. The ratio is large, and none of those latencies is from a Jetson.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from benchbench.core.records import Measurement, OperatorCost, Workload
from benchbench.core.units import format_value
from benchbench.core.version import installed
from benchbench.devices.latency_model import FEWEST_FOR_COVERAGE, Roofs
from benchbench.devices.profile import Calibration, Profile

#: Upper end of the interval over the lower bound. The worst of three published latencies of nnU-Net's
#: network over their roofs (17.8, 7.2 and 7.4), rounded up; `benchmarks/datasheet_interval.py` computes
#: it again from `published_latency.csv`. The worst one is a batch of 1 on an A100 that takes as long as on
#: a V100, so what it shows is mostly the time between kernels.
INTERVAL_FACTOR = 18.0
#: The range of a scaled forecast, up and down: an assumption, since only settings of one processor could be compared.
#: Between one and two threads of it the worst was far below (docs/devices.md; `benchmarks/forecast_error.py`).
SCALED_FACTOR = 3.0
_LEFT_OUT = "operators whose MACs are not known are in it by the bytes that they move alone"
_STRANGE = 1.5  # times the interval's factor, where a network has operators that were not timed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a forward of one batch takes."""

    seconds: float  # of the datasheet tier the lower bound
    interval: tuple[float, float]
    tier: str
    method: str
    source: str

    @property
    def bound(self) -> Literal["at_least"] | None:
        """Whether the seconds are a lower bound."""
        return "at_least" if self.tier == "datasheet" else None


def roof_seconds(operators: Sequence[OperatorCost], peak_flops: float, bandwidth_bytes_per_s: float) -> float:
    """Seconds below which these operators, one after the other, cannot get; the peak in FLOP/s at their type."""
    return sum(max(2 * op.macs / peak_flops, op.moved_bytes / bandwidth_bytes_per_s) for op in operators)


def predict(
    operators: Sequence[OperatorCost],
    profile: Profile,
    workload: Workload,
    tensor_memory_bytes: int | None,
    *,
    is_complete: bool = True,
) -> tuple[Measurement, ...]:
    """Latency, throughput and whether it fits, for a device that is not at hand.

    Args:
        operators: of one forward of one batch, bytes at the workload's own dtype.
        workload: what is asked; only inference is predicted.
        tensor_memory_bytes: weights, input and the most that activations take at once; None if not known.
        is_complete: whether the MACs of every operator are known; else the time is a lower bound in each tier.

    Returns:
        `latency_s` and `throughput_patches_per_s` (from data sheets a lower and an upper bound) and
        `fits_in_memory` (1 or 0), each of origin `predicted`, or without value and with the reason.
    """
    return (*_speed(operators, profile, workload, is_complete), _fits(profile, workload, tensor_memory_bytes))


def forecast_latency(
    operators: Sequence[OperatorCost], profile: Profile, dtype: str = "fp32", threads: int | None = None
) -> Forecast | str:
    """What a forward takes on a device that is not at hand, or why that cannot be told.

    Args:
        operators: of one forward of one batch, bytes at `dtype`.
        dtype: `fp32`, `bf16`, `fp16`.
        threads: of the processor; None: as it was calibrated.
    """
    calibration, timed = profile.calibration, profile.timed
    if not operators:
        return "no operators of this network are known"
    if calibration and threads not in (None, calibration.threads):
        return f"{profile.name} was calibrated for {calibration.threads} threads: 'bench calibrate --threads {threads}'"
    if calibration and dtype != calibration.dtype:
        return f"{profile.name} was calibrated for {calibration.dtype}: 'bench calibrate --dtype {dtype}'"
    if dtype not in profile.peaks:
        return f"{profile.name} has no {dtype} units: its profile has {', '.join(profile.peaks)}"
    peak = profile.peaks[dtype]  # type: ignore[index]
    if timed and timed.dtype == dtype:
        return _from_calls(operators, profile, timed, peak)
    low = roof_seconds(operators, peak, profile.bandwidth_bytes_per_s)
    return Forecast(
        seconds=low,
        interval=(low, low * INTERVAL_FACTOR),
        tier="datasheet",
        method=(
            f"datasheet: sum over operators of max(2 MAC / {dtype} peak, bytes / bandwidth) of {profile.name}; upper "
            f"end {INTERVAL_FACTOR:g} times that"
        ),
        source=f"peak: {profile.sources[dtype]}; bandwidth: {profile.sources['bandwidth_bytes_per_s']}",  # both decide
    )


def _from_calls(operators: Sequence[OperatorCost], profile: Profile, timed: Calibration, peak: float) -> Forecast:
    on_it = profile.calibration is not None
    there = profile if on_it or profile.like is None else profile.like
    strange = there.efficiency.strange(operators)
    roofs = Roofs(
        macs_per_s=peak / 2,
        bytes_per_s=profile.bandwidth_bytes_per_s,
        launch_s=profile.launch_s or timed.launch_s,
    )
    seconds = timed.scale * there.efficiency.seconds(operators, on=None if on_it else roofs)
    factor = (timed.interval if on_it else SCALED_FACTOR) * (_STRANGE if strange else 1.0)
    threads = f"{timed.threads} thread{'s' * (timed.threads != 1)}" if there.kind == "cpu" else "TF32 off"
    conditions = f"{threads}, {timed.dtype}, {timed.runtime}, torch {timed.versions.get('torch', '?')}"
    if on_it:
        method = (
            f"calibrated: {timed.calls} calls timed on this device ({conditions}); {len(timed.ratios)} networks, each "
            f"forecast without its own calls, were off {timed.error:.0%} on average"
        ) + (
            f", and {timed.held} of them by less than the range that the others gave"
            if len(timed.ratios) >= FEWEST_FOR_COVERAGE
            else "; these are too few for a range that holds nine of ten, so it is the worst of them"
        )
    else:
        method = (
            f"scaled: {timed.calls} calls timed on {there.title} ({conditions}), each as near to the roofs of "
            f"{profile.name} as to those there; the range, a factor of {SCALED_FACTOR:g}, is an assumption: two "
            "processors could not be compared, and roofs of a data sheet are not reached"
        )
    if strange:
        some = ", ".join(strange[:3]) + (" and others" if len(strange) > 3 else "")
        method += (
            f"; {len(strange)} kind{'s' * (len(strange) != 1)} of operators not timed there: {some}, so the range's "
            f"factor is {_STRANGE:g} times as large"
        )
    if timed.restless:
        method += (
            f"; the machine was not quiet when they were timed: {timed.disturbed} of {timed.repeated} lay far apart in "
            "several rounds"
        )
    here = installed("torch")
    if here and here != timed.versions.get("torch"):
        method += f"; here is torch {here}"
    return Forecast(
        seconds=seconds,
        interval=(seconds / factor, seconds * factor),
        tier=profile.tier_for(timed.dtype),
        method=method,
        source=f"{there.name}, calibrated {timed.when[:10]}",
    )


def _speed(
    operators: Sequence[OperatorCost], profile: Profile, workload: Workload, is_complete: bool
) -> tuple[Measurement, Measurement]:
    forecast = (
        forecast_latency(operators, profile, workload.dtype, workload.threads)
        if workload.phase == "infer"
        else "a forecast knows only inference"
    )
    if isinstance(forecast, str):
        tier = profile.tier_for(workload.dtype)
        return _none("latency_s", tier, forecast), _none("throughput_patches_per_s", tier, forecast)
    low, high = forecast.interval
    bound = forecast.bound if is_complete else "at_least"
    method = forecast.method if is_complete else f"{forecast.method}; {_LEFT_OUT}"

    def predicted(metric: str, value: float, interval: tuple[float, float], bound: str | None) -> Measurement:
        return Measurement.of(
            metric, value, method, "predicted", interval=interval, bound=bound, source=forecast.source
        )

    n = workload.batch
    most = "at_most" if bound else None
    return (
        predicted("latency_s", forecast.seconds, forecast.interval, bound),
        predicted("throughput_patches_per_s", n / forecast.seconds, (n / high, n / low), most),
    )


def _fits(profile: Profile, workload: Workload, tensor_memory_bytes: int | None) -> Measurement:
    method = "tensor bytes + reserve against the device's memory"
    if workload.phase != "infer":
        return _none("fits_in_memory", method, "a forecast knows only inference")
    if profile.memory_bytes is None:
        return _none("fits_in_memory", method, f"the memory of {profile.name} differs from machine to machine")
    if tensor_memory_bytes is None:
        return _none("fits_in_memory", method, "the tensor bytes of this network are not known")
    fits = tensor_memory_bytes + profile.reserve_bytes <= profile.memory_bytes
    return Measurement.of(
        "fits_in_memory",
        int(fits),
        f"{format_value(tensor_memory_bytes, 'B')} of tensors + {format_value(profile.reserve_bytes, 'B')} reserve "
        f"{'fit into' if fits else 'exceed'} {format_value(profile.memory_bytes, 'B')}; scratch memory of "
        "kernels is not in it",
        "predicted",
        bound="at_most" if fits else None,  # tensors are the least it takes: 0 is sure, 1 is not
        source=f"reserve: {profile.sources['reserve_bytes']}",
    )


def _none(metric: str, method: str, reason: str) -> Measurement:
    return Measurement.of(metric, None, method, "predicted", reason=reason)
