"""Monitor of a device during a measurement: energy, temperature, clocks, throttling, other load.

It looks once before the first timed forward and once after the last; between forwards it only reads what
costs microseconds. A row that was throttled is `unstable`: its latency is that of the cooling, not of the
network. On a machine without such sensors it measures nothing and says nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchbench.core.records import Measurement
from benchbench.devices import contention, jetson, jetson_sensors, nvml
from benchbench.devices.cpu import ROOT
from benchbench.devices.sensors import Snapshot, cpu_snapshot, throttled
from benchbench.measure import energy

_ASK_S = 0.5  # between two questions to a GPU what slows it


class Watch:
    """Watches from `begin` to `end`; then it has measurements, and perhaps a reason to distrust them."""

    def __init__(
        self,
        backend: str,
        index: int = 0,
        root: Path = ROOT,
        *,
        gpu: nvml.Gpu | str | None = None,
        meter: energy.Meter | str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the sensors; a log of power starts now.

        Args:
            gpu: the GPU in use, or why there is no access to it; found if None.
        """
        self.root, self.clock, self.backend = root, clock, backend
        self._asked_at = -math.inf
        self.board = jetson.detect(root)
        gpu = energy.find_gpu(backend, index, root) if gpu is None else gpu
        self.gpu = gpu if isinstance(gpu, nvml.Gpu) else None
        meter = energy.open_meter(backend, gpu, root) if meter is None else meter
        self.meter = None if isinstance(meter, str) else meter
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None
        self._seen: dict[str, None] = {}  # what held the device back between forwards, each once
        self._reading: energy.Reading | str | None = meter if isinstance(meter, str) else None
        self._load: contention.Load | None = None
        self.disturbance: contention.Disturbance | None = None

    def begin(self) -> None:
        """The first timed forward is about to start."""
        self._before = self._look()
        if self.meter:
            self.meter.begin()
        self._load = contention.look(self.root)

    def between(self) -> None:
        """A timed forward has ended."""
        if self.meter:
            self.meter.between()
        if self.gpu and self.clock() - self._asked_at >= _ASK_S:  # a pause lets the GPU idle
            self._asked_at = self.clock()
            self._seen |= dict.fromkeys(self.gpu.slowdowns() or ())

    def end(self) -> None:
        """The last timed forward has ended."""
        self.disturbance = contention.between(self._load, contention.look(self.root))
        if self.meter:
            self._reading = self.meter.end()
        self._after = self._look()

    def close(self) -> None:
        """End what runs, when a forward has failed."""
        if self.meter:
            self.meter.close()

    def _look(self) -> Snapshot | None:
        if self.board:
            return jetson_sensors.snapshot(self.root)
        if self.backend == "cpu":
            return cpu_snapshot(self.root)
        return self.gpu.snapshot() if self.gpu else None

    @property
    def throttling(self) -> Mapping[str, int] | None:
        """What slowed the device while forwards were timed: name -> events; None where it does not tell."""
        if not self._before or not self._after or self._after.throttle_counts is None:
            return None
        return dict.fromkeys(self._seen, 1) | throttled(self._before, self._after)

    @property
    def unstable(self) -> str | None:
        """Why the row is unstable, and what to try."""
        events = self.throttling
        if not events:
            return None
        remedy = (
            "cool the board, give it a stronger supply or a lower power mode"
            if self.board
            else "let the processor cool, or lower its clocks"
            if self.backend == "cpu"
            else "let the GPU cool, or lower its power limit"
        )
        return f"throttled while it was timed ({_listed(events)}): {remedy}, and run again"

    def measurements(self, forwards: int) -> list[Measurement]:
        """`energy_j`, temperatures, frequencies, `throttle_events`, `contended_processes`: those that there are."""
        measurements = [] if self._reading is None else [energy.measurement(self._reading, forwards)]
        for when, look in (("start", self._before), ("end", self._after)):
            if look and (hottest := look.hottest):
                zones = ", ".join(f"{name} {degrees:.1f}" for name, degrees in look.temperatures_c.items())
                by_zone = self.board or self.backend == "cpu"
                method = f"the hottest zone, {hottest[0]}, of: {zones}" if by_zone else "NVML, GPU die"
                measurements.append(Measurement.of(f"temperature_{when}_c", hottest[1], method))
            if look and look.cpu_hz is not None:
                measurements.append(
                    Measurement.of(f"cpu_frequency_{when}_hz", look.cpu_hz, "cpufreq, the fastest core")
                )
            if look and look.gpu_hz is not None:
                method = "devfreq" if self.board else "NVML, SM clock"
                measurements.append(Measurement.of(f"gpu_frequency_{when}_hz", look.gpu_hz, method))
        events = self.throttling
        if events is not None:
            how = (
                "rise of the board's over-current counters, and cooling devices that were on"
                if self.board
                else "rise of the processor's thermal throttle counters"
                if self.backend == "cpu"
                else "kinds of slowdown that NVML told before, between and after the forwards"
            )
            method = f"{how}: {_listed(events)}" if events else how
            measurements.append(Measurement.of("throttle_events", sum(events.values()), method))
        if self.disturbance:
            method = self.disturbance.reason or (
                f"/proc/stat over the timed forwards: other programs {self.disturbance.foreign_cores:.2f} cores, "
                f"steal {self.disturbance.steal_cores:.2f}"
            )
            measurements.append(Measurement.of("contended_processes", int(self.disturbance.reason is not None), method))
        return measurements


def _listed(events: Mapping[str, int]) -> str:
    return ", ".join(name if count == 1 else f"{name} +{count}" for name, count in events.items())
