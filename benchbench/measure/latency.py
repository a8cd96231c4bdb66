"""Seconds for one forward of one batch: warm, repeated, with every sample kept.

A first forward is never representative (memory is taken, kernels are chosen), so it only warms up.
A fast network is repeated until the samples fill a few seconds; a slow one at least three times. The
interval of the median comes from the order of the samples, with no assumption on their distribution;
below six samples no such interval reaches 95 %, so there is none and the samples stand for themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchbench.errors import UsageError, unknown
from benchbench.records import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How long to warm up and how often to repeat."""

    name: str
    warmup_s: float  # warm up for so long, or `max_warmup` forwards, but at least one forward
    max_warmup: int
    timed_s: float  # repeat for so long
    min_repeats: int
    max_repeats: int
    unstable_above: float  # relative interquartile range of the samples from which the row is `unstable`


PROTOCOLS = {
    "quick": Protocol(
        name="quick", warmup_s=1.0, max_warmup=5, timed_s=5.0, min_repeats=3, max_repeats=50, unstable_above=0.25
    ),
    "standard": Protocol(
        name="standard", warmup_s=2.0, max_warmup=10, timed_s=20.0, min_repeats=10, max_repeats=200, unstable_above=0.15
    ),
    "thorough": Protocol(
        name="thorough", warmup_s=5.0, max_warmup=20, timed_s=60.0, min_repeats=20, max_repeats=500, unstable_above=0.10
    ),
}


def get_protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UsageError(unknown("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The samples of one network."""

    samples_s: tuple[float, ...]
    warmup_s: tuple[float, ...]
    batch: int
    unstable: str | None  # why the row is unstable, and what to try

    @property
    def forward_s(self) -> float:
        """Time inside forwards, warm-up included."""
        return sum(self.samples_s) + sum(self.warmup_s)

    def measurements(self) -> list[Measurement]:
        """`latency_s` (median, with samples) and `throughput_patches_per_s`, both measured."""
        median = statistics.median(self.samples_s)
        interval = median_interval(self.samples_s)
        count = f"median of {len(self.samples_s)} forwards after {len(self.warmup_s)} warm-up, one process"
        return [
            Measurement(
                metric="latency_s",
                unit="s",
                value=median,
                values=self.samples_s,
                ci95=interval,
                origin="measured",
                method=count if interval else f"{count}; too few for a 95 % interval",
            ),
            Measurement(
                metric="throughput_patches_per_s",
                unit="1/s",
                value=self.batch / median,
                ci95=None if interval is None else (self.batch / interval[1], self.batch / interval[0]),
                origin="measured",
                method="batch / latency_s",
            ),
        ]


def median_interval(samples: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The narrowest symmetric pair of order statistics that holds the median with at least `level`.

    Source: David and Nagaraja, Order Statistics, section 7.1 (sign-test interval).

    Returns:
        (low, high), or None where even the whole range falls short: below six samples at 95 %.
    """
    n = len(samples)
    ordered = sorted(samples)
    best = None
    for k in range(n // 2):
        outside = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        if 1 - outside < level:
            break
        best = (ordered[k], ordered[n - 1 - k])
    return best


def relative_spread(samples: Sequence[float]) -> float:
    """Interquartile range over median (0 for a single sample)."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / statistics.median(samples)


def time_forwards(
    forward: Callable[[], object],
    protocol: Protocol,
    *,
    batch: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    after_warmup: Callable[[], None] | None = None,
    tick: Callable[[str, int], None] | None = None,
) -> Latency:
    """Time a forward by a protocol.

    Args:
        forward: runs one forward and returns when its result is there (synchronised on a GPU).
        protocol: how often.
        batch: patches in one forward.
        clock: seconds, monotonic.
        after_warmup: called once between warm-up and timing.
        tick: called after each forward with `warm-up` or `timed` and how many there were.
    """

    def sample() -> float:
        start = clock()
        forward()
        return clock() - start

    warmup = [sample()]
    if tick:
        tick("warm-up", 1)
    while sum(warmup) < protocol.warmup_s and len(warmup) < protocol.max_warmup:
        warmup.append(sample())
    if after_warmup:
        after_warmup()
    samples: list[float] = []
    while len(samples) < protocol.min_repeats or (
        sum(samples) < protocol.timed_s and len(samples) < protocol.max_repeats
    ):
        samples.append(sample())
        if tick:
            tick("timed", len(samples))
    spread = relative_spread(samples)
    unstable = None
    if spread > protocol.unstable_above:
        unstable = (
            f"samples spread by {spread:.0%} of their median (limit {protocol.unstable_above:.0%}): "
            "close other programs, or set --threads below the number of cores, and run again"
        )
    return Latency(samples_s=tuple(samples), warmup_s=tuple(warmup), batch=batch, unstable=unstable)


def forward_function(
    module: nn.Module, x: Tensor, *, backend: str = "cpu", dtype: str = "fp32"
) -> Callable[[], Tensor]:
    """A function that runs one inference forward and waits for its end.

    Args:
        module: in eval mode, on the backend's device.
        x: (B, C, D, H, W) on the same device.
        backend: `cpu` or `cuda`.
        dtype: `fp32`, or autocast to `bf16` / `fp16`.
    """
    import torch

    from benchbench.measure.cost import DTYPES

    def forward() -> Tensor:
        cast = torch.autocast(backend, DTYPES[dtype]) if dtype != "fp32" else contextlib.nullcontext()
        with torch.inference_mode(), cast:
            out: Tensor = module(x)
        if backend == "cuda":
            torch.cuda.synchronize()
        return out

    return forward
