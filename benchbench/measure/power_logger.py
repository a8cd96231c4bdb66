"""Power logger: a process of its own that reads power while forwards are timed.

A thread of the worker would take the interpreter's lock between two kernel launches of what is being timed;
a small process (no torch) takes a few thousandths of one core at ten samples a second, some 20 MB, and
nothing from the worker's peak memory. It sleeps in `select` on its stdin, so it also ends when the worker
ends, however that happens. Its times are the system's monotonic clock, which both processes share.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchbench.core import launch
from benchbench.core.errors import DeviceError
from benchbench.devices import jetson_sensors, nvml

_START_S = 20.0


class PowerLog:
    """The worker's side: start the process, and have its samples at the end."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Start to log.

        Args:
            request: `source` (rails, tegrastats or nvml), `period_s`, and `root` or `uuid`.
        """
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            launch.command("benchbench.measure.power_logger", json.dumps(request)),
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
            env=launch.environment({"OMP_NUM_THREADS": "1"}),
        )
        # Its start-up is over before anything is warmed up; a sensor that is silent is not waited for long.
        until = time.monotonic() + _START_S
        while not os.fstat(self._file.fileno()).st_size and self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)

    def stop(self) -> list[tuple[float, float]]:
        """End the process; its samples as (monotonic seconds, watts)."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.seek(0)
        lines = self._file.read().decode().splitlines()
        self._file.close()
        samples = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a last line cut short
                at, watts = map(float, line.split())
                samples.append((at, watts))
        return samples


def main(arguments: list[str]) -> int:
    """Write a line `seconds watts` for each sample until stdin ends."""
    request = json.loads(arguments[0])
    if request["source"] == "tegrastats":
        samples = _of_tegrastats(request["period_s"])
    else:
        samples = _read(_reader(request), request["period_s"])
    for at, watts in samples:
        os.write(1, f"{at:.6f} {watts:.6f}\n".encode())
    return 0


def _reader(request: dict[str, Any]) -> Callable[[], float | None]:
    if request["source"] == "nvml":
        return nvml.connect(request["uuid"]).power_w
    supply = jetson_sensors.supply(Path(request["root"]))
    if supply is None:
        raise DeviceError("no power rail can be read")
    return supply.watts


def _read(read: Callable[[], float | None], period_s: float) -> Iterator[tuple[float, float]]:
    while True:
        before = time.monotonic()
        watts = read()
        after = time.monotonic()
        if watts is not None:
            yield (before + after) / 2, watts
        if select.select([0], [], [], max(0.0, period_s - (after - before)))[0]:
            return


def _of_tegrastats(period_s: float) -> Iterator[tuple[float, float]]:
    command = ["tegrastats", "--interval", str(max(1, round(period_s * 1000)))]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        pending = b""
        try:
            lines_come = process.stdout.fileno()
            while 0 not in select.select([0, lines_come], [], [])[0]:
                chunk = os.read(lines_come, 1 << 16)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    powers = jetson_sensors.tegrastats_watts(line.decode(errors="replace"))
                    if powers:
                        yield time.monotonic(), powers[0]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
