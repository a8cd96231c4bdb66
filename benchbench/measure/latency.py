"""Latency of a forward of one batch: warm-up, repetition, every sample kept.

A first forward is never representative (memory is taken, kernels are chosen), so forwards warm up until two windows
of them agree. Then they are timed until the interval of their median is narrow enough. That interval is of one
process only, and two processes of one network differ by more. Whoever asks for several processes gets the interval
over their medians, made from the same samples by the parent.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchbench.core import statistics as core_statistics
from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import Protocol
from benchbench.core.records import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn

_CLOCK_STEPS = 10  # backwards steps of a clock before it is given up
_FEW_SPREAD = 0.25  # of the range over the median, from which fewer samples than an interval needs are unsteady
Timer = Callable[[Callable[[], object]], float]  # runs a call and returns its seconds
_KEPT_WARMUPS = 60  # of a very fast network's warm-up so many forwards are kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The samples of one process."""

    samples_s: tuple[float, ...]
    warmup_s: tuple[float, ...]  # the first ones
    warm: str  # how the warm-up ended
    spent_s: float  # inside forwards, warm-up included
    batch: int
    protocol: Protocol
    unstable: str | None  # why the row is unstable, and what to try

    def measurements(self, metric: str = "latency_s") -> list[Measurement]:
        """`latency_s` (or another time), for a latency also throughput, and `warmup_s`; all measured."""
        return [
            *timing([self.samples_s], metric, batch=self.batch),
            Measurement.of(
                "warmup_s",
                sum(self.warmup_s),
                f"{len(self.warmup_s)} forwards, {self.warm}",
                values=self.warmup_s,
            ),
        ]


def timing(runs: Sequence[Sequence[float]], metric: str = "latency_s", *, batch: int = 1) -> list[Measurement]:
    """The measurement of a time from each process's samples; a latency comes with its throughput.

    Args:
        runs: seconds, of each process.
    """
    summary = core_statistics.summarise(runs)
    interval = summary.interval
    several = len(runs) > 1
    per = f"{len(runs)} processes" if several else "one process"
    what = "median of processes' medians" if several else "median"
    method = f"{what}, {summary.samples} samples, {per}; {interval.method if interval else 'no interval of one sample'}"
    sure = interval if interval and interval.confident else None
    samples = [value for run in runs for value in run]  # of which process does not matter for a percentile
    tails = [f"p{q} {at:.4g} s" for q in (90, 99) if (at := core_statistics.percentile(samples, q)) is not None]
    seconds = Measurement.of(
        metric,
        summary.median,
        "; ".join([method, *tails]),
        values=tuple(samples),
        runs=tuple(len(run) for run in runs) if several else (),
        ci95=(sure.low, sure.high) if sure else None,
    )
    if metric != "latency_s":
        return [seconds]
    throughput = Measurement.of(
        "throughput_patches_per_s",
        batch / summary.median,
        "batch / latency_s",
        ci95=(batch / sure.high, batch / sure.low) if sure else None,
    )
    return [seconds, throughput]


def unsteady(runs: Sequence[Sequence[float]], protocol: Protocol) -> str | None:
    """Why a row with these samples, seconds of each process, is `unstable`, and what to try; None if it is not."""
    summary = core_statistics.summarise(runs)
    interval = summary.interval
    per = f"{len(runs)} processes" if len(runs) > 1 else f"{summary.samples} samples"
    if interval and (len(runs) >= core_statistics.FEWEST or (len(runs) == 1 and interval.confident)):
        width = (interval.high - interval.low) / 2 / summary.median
        limit, what = protocol.half_width, f"the median is known to ±{width:.1%} only, from {per}"
    else:
        values = summary.medians if len(runs) > 1 else runs[0]
        width = (max(values) - min(values)) / summary.median
        limit, what = max(_FEW_SPREAD, protocol.half_width), f"{per} spread over {width:.0%} of their median"
    if width <= limit:
        return None
    longer = f"{protocol.name.partition(',')[0]},timed_s={4 * protocol.timed_s:g},cell_s={4 * protocol.cell_s:g}"
    return (
        f"{what} (limit {limit:.0%}) when the time cap was reached: close other programs, set --threads below the "
        f"number of cores, or take a longer protocol, such as --protocol {longer} (the same --out needs --fresh)"
    )


def wall_timer(call: Callable[[], object]) -> float:
    """Seconds of a call by the system's clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_forwards(
    forward: Callable[[], object],
    protocol: Protocol,
    *,
    batch: int = 1,
    timer: Timer = wall_timer,
    after_warmup: Callable[[], None] | None = None,
    tick: Callable[[str, int], None] | None = None,
) -> Latency:
    """Time a forward in this process by a protocol.

    Args:
        forward: runs one forward and returns when its result is there (synchronised on a GPU).
        batch: patches in one forward.
        after_warmup: called once between warm-up and timing.
        tick: called after each forward with `warm-up` or `timed` and how many there were.

    Raises:
        UnsupportedError: the clock goes backwards again and again.
    """
    backwards = 0
    spent = 0.0

    def sample() -> float:
        nonlocal backwards, spent
        while True:
            seconds = timer(forward)
            if seconds >= 0:
                spent += seconds
                return seconds
            backwards += 1
            if backwards >= _CLOCK_STEPS:
                raise UnsupportedError("this machine's clock goes backwards: no time can be measured on it")

    warmup = [sample()]
    while not is_warm(warmup, protocol.window, protocol.steady) and spent < protocol.warmup_s:
        if tick:
            tick("warm-up", len(warmup))
        warmup.append(sample())
    if tick:
        tick("warm-up", len(warmup))
    if after_warmup:
        after_warmup()
    forward_s = statistics.median(warmup[-protocol.window :])
    wanted = protocol.samples_of_slow(forward_s) if protocol.is_slow(forward_s) else None
    samples: list[float] = []
    timed = 0.0
    check = protocol.min_samples
    while True:
        samples.append(sample())
        timed += samples[-1]
        if tick:
            tick("timed", len(samples))
        n = len(samples)
        if wanted is not None:
            if n >= wanted:
                break
        elif n >= protocol.max_samples or (n >= protocol.min_samples and timed >= protocol.timed_s):
            break
        elif n >= check:
            if core_statistics.summarise([samples]).half_width <= protocol.half_width:
                break
            check = max(n + 1, n + n // 10)
    unstable = unsteady([samples], protocol) if protocol.processes == 1 else None  # else the processes decide
    if backwards:
        again = f"the clock went backwards {backwards} times: samples were taken again; set the clock before a run"
        unstable = "; ".join(filter(None, (again, unstable)))
    agreed = f"until two windows of {protocol.window} agreed within {protocol.steady:.0%}"
    limit = f"ended by the limit of {protocol.warmup_s:g} s before two windows of {protocol.window} agreed"
    return Latency(
        samples_s=tuple(samples),
        warmup_s=tuple(warmup[:_KEPT_WARMUPS]),
        warm=agreed if is_warm(warmup, protocol.window, protocol.steady) else limit,
        spent_s=spent,
        batch=batch,
        protocol=protocol,
        unstable=unstable,
    )


def is_warm(warmup: Sequence[float], window: int, steady: float) -> bool:
    """Whether the medians of the last two windows of forwards agree within a share."""
    if len(warmup) < 2 * window:
        return False
    late, early = statistics.median(warmup[-window:]), statistics.median(warmup[-2 * window : -window])
    return abs(late - early) <= steady * early


def cuda_timer() -> Timer:
    """Times a forward by events of the GPU's stream; waits without spinning, so the processor stays free."""
    import torch

    def timer(forward: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        forward()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return timer


def forward_function(
    module: nn.Module, x: Tensor, *, backend: str = "cpu", dtype: str = "fp32"
) -> Callable[[], Tensor]:
    """A function that runs one inference forward and waits for its end.

    Args:
        module: in eval mode, on the backend's device.
        x: (B, C, D, H, W) on the same device.
        dtype: `fp32`, or autocast to `bf16` / `fp16`.
    """
    import torch

    from benchbench.measure.flops.tracer import autocast

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(backend, dtype):
            out: Tensor = module(x)
        if backend == "cuda":
            torch.cuda.synchronize()
        return out

    return forward
