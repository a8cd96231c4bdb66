"""A forward's cost on a device by its data sheet: a lower bound, and how far above it reality may be.

Per operator the larger of 2 x MACs / peak and bytes / bandwidth, summed over the operators, since
eager PyTorch runs one after the other. That is what the device could not beat; what it reaches is
another matter, so the upper end is the bound times the worst ratio that published latencies of a 3D
network show. The ratio is large, and none of those latencies is from a Jetson.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.forecast.profile import Profile
from benchbench.records import METRIC_UNITS, Measurement, OperatorCost, Workload
from benchbench.units import format_value

#: Upper end of the interval over the lower bound. The worst of three published latencies of nnU-Net's
#: network over their roofs (17.9, 7.2 and 7.4), rounded up; `benchmarks/datasheet_interval.py` computes
#: it again from `published_latency.csv`. The worst one is a batch of 1 on an A100 that takes as long as on
#: a V100, so what it shows is mostly the time between kernels.
INTERVAL_FACTOR = 18.0


def roof_seconds(operators: Sequence[OperatorCost], peak_flops: float, bandwidth_bytes_per_s: float) -> float:
    """The time below which these operators, one after the other, cannot get.

    Args:
        operators: of one forward of one batch.
        peak_flops: FLOP/s at the type of the forward.
        bandwidth_bytes_per_s: of the memory.

    Returns:
        Seconds.
    """
    return sum(
        max(2 * op.macs / peak_flops, (op.read_bytes + op.written_bytes) / bandwidth_bytes_per_s) for op in operators
    )


def predict(
    operators: Sequence[OperatorCost],
    profile: Profile,
    workload: Workload,
    tensor_memory_bytes: int | None,
) -> tuple[Measurement, ...]:
    """Latency, throughput and whether it fits, for a device that is not at hand.

    Args:
        operators: of one forward of one batch, bytes at the workload's own dtype.
        profile: of the device.
        workload: what is asked; only inference is predicted.
        tensor_memory_bytes: weights, input and the most that activations take at once; None if not known.

    Returns:
        `latency_s` (its value is the lower bound), `throughput_patches_per_s` (an upper bound) and
        `fits_in_memory` (1 or 0), each of origin `predicted`, or without value and with the reason.
    """
    return (*_speed(operators, profile, workload), _fits(profile, workload, tensor_memory_bytes))


def _speed(operators: Sequence[OperatorCost], profile: Profile, workload: Workload) -> tuple[Measurement, Measurement]:
    peak = profile.peaks.get(workload.dtype)
    reason = None
    if workload.phase != "infer":
        reason = "the data-sheet forecast knows only inference"
    elif peak is None:
        reason = f"{profile.name} has no {workload.dtype} units: its profile has {', '.join(profile.peaks)}"
    elif not operators:
        reason = "no operators of this network are known"
    method = f"sum over operators of max(2 MAC / {workload.dtype} peak, bytes / bandwidth) of {profile.name}"
    if reason is not None or peak is None:
        return _none("latency_s", method, reason), _none("throughput_patches_per_s", method, reason)
    low = roof_seconds(operators, peak, profile.bandwidth_bytes_per_s)
    high = low * INTERVAL_FACTOR
    method += f"; upper end {INTERVAL_FACTOR:g} times that"
    source = (
        f"peak: {profile.sources[workload.dtype]}; bandwidth: {profile.sources['bandwidth_bytes_per_s']}"  # both decide
    )
    latency = Measurement(
        metric="latency_s",
        unit=METRIC_UNITS["latency_s"],
        value=low,
        origin="predicted",
        method=method,
        interval=(low, high),
        bound="at_least",
        source=source,
    )
    throughput = Measurement(
        metric="throughput_patches_per_s",
        unit=METRIC_UNITS["throughput_patches_per_s"],
        value=workload.batch / low,
        origin="predicted",
        method=method,
        interval=(workload.batch / high, workload.batch / low),
        bound="at_most",
        source=source,
    )
    return latency, throughput


def _fits(profile: Profile, workload: Workload, tensor_memory_bytes: int | None) -> Measurement:
    method = "tensor bytes + reserve against the device's memory"
    if workload.phase != "infer":
        return _none("fits_in_memory", method, "the data-sheet forecast knows only inference")
    if profile.memory_bytes is None:
        return _none("fits_in_memory", method, f"the memory of {profile.name} differs from machine to machine")
    if tensor_memory_bytes is None:
        return _none("fits_in_memory", method, "the tensor bytes of this network are not known")
    fits = tensor_memory_bytes + profile.reserve_bytes <= profile.memory_bytes
    return Measurement(
        metric="fits_in_memory",
        unit=METRIC_UNITS["fits_in_memory"],
        value=int(fits),
        origin="predicted",
        method=(
            f"{format_value(tensor_memory_bytes, 'B')} of tensors + {format_value(profile.reserve_bytes, 'B')} reserve "
            f"{'fit into' if fits else 'exceed'} {format_value(profile.memory_bytes, 'B')}; scratch memory of "
            "kernels is not in it"
        ),
        bound="at_most" if fits else None,  # tensors are the least it takes: 0 is sure, 1 is not
        source=f"reserve: {profile.sources['reserve_bytes']}",
    )


def _none(metric: str, method: str, reason: str | None) -> Measurement:
    return Measurement(
        metric=metric, unit=METRIC_UNITS[metric], value=None, origin="predicted", method=method, reason=reason
    )
