"""Energy of a forward in joules, from whatever sensor the device has.

Two kinds of sensor. A counter of energy (RAPL, most NVIDIA GPUs) is read before, between and after the
timed forwards, and nothing runs meanwhile. A gauge of power (a Jetson's rails, older GPUs) is logged by a
small process (`power_logger`) at the sensor's own pace and integrated afterwards. What a sensor sees differs
from one to the next (module, package, GPU board) and is never the wall, so `method` always says which.
"""

from __future__ import annotations

import dataclasses
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchbench.core.errors import DeviceError
from benchbench.core.records import Measurement
from benchbench.devices import jetson, jetson_sensors, nvml, rapl
from benchbench.devices.cpu import ROOT

_ROUND_S = 10.0  # a counter of 65 kJ, the shortest there is, lasts two minutes at 500 W
_LEAST_PERIODS = 3  # a window of fewer periods of the sensor is mostly its own edges


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Energy over a window of time."""

    joules: float | None
    window_s: float
    samples: int
    period_s: float
    what: str  # sensor, rails verbatim, and what it stands for


class Meter(Protocol):
    """Something that tells energy over the timed forwards."""

    def begin(self) -> None:
        """The first timed forward is about to start."""

    def between(self) -> None:
        """A forward has ended and the next has not begun."""

    def end(self) -> Reading:
        """The last forward has ended; called once."""

    def close(self) -> None:
        """End what runs, measured or not."""


class CounterMeter:
    """Counters that are read now and then, each with the value at which it starts again."""

    def __init__(
        self,
        counters: Sequence[tuple[Callable[[], float | None], float]],
        what: str,
        period_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the counters: (joules now, range in joules) of each, which has a new value every `period_s`."""
        self.counters, self.what, self.period_s, self.clock = counters, what, period_s, clock
        self._last: list[float | None] = []
        self._joules, self._reads, self._began = 0.0, 0, 0.0
        self._read_at, self._broken = 0.0, False

    def begin(self) -> None:
        """Read for the first time."""
        self._last = [read() for read, _ in self.counters]
        self._joules, self._reads, self._began = 0.0, 1, self.clock()
        self._read_at = self._began
        self._broken = None in self._last

    def between(self) -> None:
        """Read again if the last time is long ago, so that no round of a counter is lost.

        Not after every forward: a pause in which the device idles would count as the forwards' own.
        """
        if self.clock() - self._read_at >= _ROUND_S:
            self._read()

    def _read(self) -> None:
        self._read_at = self.clock()
        for i, (read, span) in enumerate(self.counters):
            now, last = read(), self._last[i]
            if now is None or last is None or (now < last and not span):
                self._broken = True
                continue
            self._joules += now - last + (span if now < last else 0.0)
            self._last[i] = now
        self._reads += 1

    def end(self) -> Reading:
        """Read for the last time."""
        self._read()
        return Reading(
            joules=None if self._broken else self._joules,
            window_s=self.clock() - self._began,
            samples=self._reads,
            period_s=self.period_s,
            what=self.what,
        )

    def close(self) -> None:
        """Nothing runs."""


class PowerMeter:
    """Power, logged by another process."""

    def __init__(
        self,
        request: dict[str, Any],
        what: str,
        *,
        start: Callable[[dict[str, Any]], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start to log, well before anything is timed.

        Args:
            request: for `power_logger`.
            what: the sensor in words.
            start: makes the log; `PowerLog` if None.
            clock: the log's own.
        """
        from benchbench.measure.power_logger import PowerLog

        self.what, self.period_s, self.clock = what, float(request["period_s"]), clock
        self._log: Any = (start or PowerLog)(request)
        self._began = 0.0

    def begin(self) -> None:
        """Note the time."""
        self._began = self.clock()

    def between(self) -> None:
        """The log goes on by itself."""

    def end(self) -> Reading:
        """Stop the log and integrate."""
        ended = self.clock()
        samples = self._log.stop()
        self._log = None
        inside = sum(self._began <= at <= ended for at, _ in samples)
        return Reading(
            joules=integrate(samples, self._began, ended),
            window_s=ended - self._began,
            samples=inside,
            period_s=self.period_s,
            what=self.what,
        )

    def close(self) -> None:
        """Stop the log, if it still runs."""
        if self._log is not None:
            self._log.stop()
            self._log = None


def integrate(samples: Sequence[tuple[float, float]], start: float, end: float) -> float | None:
    """Joules between two times: straight lines between samples, the nearest sample beyond the outermost.

    Args:
        samples: (seconds, watts), in order.

    Returns:
        None without a sample between the times.
    """
    inside = [at for at, _ in samples if start <= at <= end]
    if not inside:
        return None
    times = [start, *inside, end]
    watts = np.interp(times, [at for at, _ in samples], [power for _, power in samples])
    return float(np.sum(np.diff(times) * (watts[:-1] + watts[1:]) / 2))


def open_meter(backend: str, gpu: nvml.Gpu | str | None = None, root: Path = ROOT) -> Meter | str | None:
    """The meter for what computes here.

    Args:
        gpu: the GPU that is used, or why NVML gives no access to it.

    Returns:
        A meter; or, on a kind of device that has a sensor as a rule, the reason why there is none here;
        or None where no sensor is to be expected.
    """
    if jetson.detect(root):
        return _of_jetson(root)
    if backend == "cuda":
        return gpu if isinstance(gpu, str) or gpu is None else _of_gpu(gpu)
    packages = rapl.packages(root)
    if not packages:
        return None
    names = " + ".join(package.name for package in packages)
    what = f"RAPL {names} (powercap); processor package, not wall; whatever else runs is in it"
    return CounterMeter([(package.joules, package.range_j) for package in packages], what, 0.001)


def _of_jetson(root: Path) -> Meter | str:
    supply = jetson_sensors.supply(root)
    if supply:
        sensors = " + ".join(dict.fromkeys(rail.sensor for rail in supply.rails))
        rails = " + ".join(rail.name for rail in supply.rails)
        request = {"source": "rails", "root": str(root), "period_s": supply.period_s}
        return PowerMeter(request, f"{sensors}: {rails}; {supply.scope}")
    line = _first_line_of_tegrastats() if root == ROOT else None
    if line:
        _, names, scope = line
        request = {"source": "tegrastats", "period_s": 0.1}
        return PowerMeter(request, f"tegrastats: {' + '.join(names)}; {scope}")
    return "no power rail can be read: neither an INA3221 or INA238 under /sys/class/hwmon nor tegrastats tells one"


def _first_line_of_tegrastats() -> tuple[float, tuple[str, ...], str] | None:
    if shutil.which("tegrastats") is None:
        return None
    try:
        with subprocess.Popen(
            ["tegrastats", "--interval", "100"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            line = process.stdout.readline() if select.select([process.stdout], [], [], 5.0)[0] else ""
            process.terminate()
    except OSError:
        return None
    return jetson_sensors.tegrastats_watts(line)


def _of_gpu(gpu: nvml.Gpu) -> Meter | str:
    if gpu.mig:
        return f"a MIG slice ({gpu.mig}): NVML tells the energy of the whole GPU, which others may be using"
    if gpu.energy_j() is not None:
        what = "NVML energy counter; GPU board, not wall"
        return CounterMeter([(gpu.energy_j, 0.0)], what, nvml.PERIOD_S)
    if gpu.power_w() is not None:
        request = {"source": "nvml", "uuid": gpu.uuid, "period_s": nvml.PERIOD_S}
        return PowerMeter(request, "NVML power, integrated; GPU board, not wall")
    return "NVML tells neither energy nor power of this GPU"


def find_gpu(backend: str, index: int, root: Path = ROOT) -> nvml.Gpu | str | None:
    """The discrete GPU in use, why NVML gives no access to it, or None where there is none.

    A Jetson's GPU is left to its board's own sensors: there NVML knows next to nothing of it.
    """
    if backend != "cuda" or jetson.detect(root):
        return None
    try:
        return nvml.of_torch(index)
    except DeviceError as error:
        return str(error)


def measurement(reading: Reading | str, forwards: int) -> Measurement:
    """`energy_j` of one forward, or why there is none."""
    if isinstance(reading, str):
        return Measurement.of("energy_j", None, "none", reason=reading)
    period = f"{reading.period_s * 1000:.0f} ms"
    method = (
        f"{reading.what}; {reading.samples} samples, a new value every {period}, "
        f"over {reading.window_s:.2f} s with {forwards} forwards"
    )
    reason = None
    if reading.window_s < _LEAST_PERIODS * reading.period_s:
        reason = (
            f"the timed forwards took {reading.window_s:.3f} s in all and the sensor has a new value every {period}: "
            "too short; a longer --protocol, or a larger --batch-size"
        )
    elif reading.joules is None:
        reason = "the sensor gave no reading while the forwards were timed"
    value = None if reason or reading.joules is None else reading.joules / forwards
    return Measurement.of("energy_j", value, method, reason=reason)
