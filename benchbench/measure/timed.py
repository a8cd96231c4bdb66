"""Timed loop of a forward, a training step or a whole volume: its times, its peak of memory, what the device did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from benchbench.core.protocol import Protocol
from benchbench.core.records import Measurement
from benchbench.measure.latency import Latency, cuda_timer, time_forwards, wall_timer
from benchbench.measure.memory import PeakMemory
from benchbench.measure.monitor import Watch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Calls that were timed in this process."""

    latency: Latency
    peak: PeakMemory  # since before the first of them
    watch: Watch | None  # over those that count

    @property
    def doubts(self) -> list[str]:
        """Why the times are unstable, and what to try."""
        return [why for why in (self.latency.unstable, self.watch.unstable if self.watch else None) if why]

    def watched(self) -> list[Measurement]:
        """Energy, temperatures, frequencies and disturbance over the calls that count."""
        return self.watch.measurements(len(self.latency.samples_s)) if self.watch else []


def time_calls(
    call: Callable[[], object],
    protocol: Protocol,
    *,
    backend: str = "cpu",
    gpu: int = 0,
    batch: int = 1,
    available_before: int | None = None,
    watched: bool = False,
    after_warmup: Callable[[], None] | None = None,
    tick: Callable[[str, int], None] | None = None,
) -> Timed:
    """Time a call by a protocol.

    Args:
        call: returns when its result is there (synchronised on a GPU).
        available_before: for `PeakMemory`.
        watched: read the device's sensors over the calls that count.
        after_warmup: called once between warm-up and timing.
        tick: called after each call, as by `time_forwards`.
    """
    watch = Watch(backend, gpu) if watched else None

    def begin() -> None:
        if after_warmup:
            after_warmup()
        if watch:
            watch.begin()

    def after_each(phase: str, count: int) -> None:
        if tick:
            tick(phase, count)
        if watch and phase == "timed":
            watch.between()

    try:
        peak = PeakMemory(backend, gpu=gpu, available_before=available_before)
        latency = time_forwards(
            call,
            protocol,
            batch=batch,
            timer=cuda_timer() if backend == "cuda" else wall_timer,
            after_warmup=begin,
            tick=after_each,
        )
        if watch:
            watch.end()
    finally:
        if watch:
            watch.close()
    return Timed(latency=latency, peak=peak, watch=watch)
