"""Sensors of a CPU that is no Jetson's: temperature, clock, throttling; in most virtual machines none.

The counters of thermal throttling are Intel's: one for each core and one for the package, cumulative since boot.

Sources: the Linux kernel's Documentation/driver-api/thermal/sysfs-api.rst and
Documentation/ABI/testing/sysfs-devices-system-cpu (thermal_throttle).
"""

from __future__ import annotations

from pathlib import Path

from benchbench.devices.cpu import ROOT, read_text
from benchbench.devices.jetson_sensors import cpu_hz, temperatures
from benchbench.devices.sensors import Snapshot


def snapshot(root: Path = ROOT) -> Snapshot | None:
    """One look; None where there is nothing to see."""
    found = Snapshot(temperatures_c=dict(temperatures(root)), cpu_hz=cpu_hz(root), throttle_counts=_throttling(root))
    return found if found != Snapshot() else None


def _throttling(root: Path) -> dict[str, int] | None:
    """Thermal throttle events since boot, cores and packages apart, each summed; None without such counters."""
    found: dict[str, int] = {}
    for kind in ("core", "package"):
        for path in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count"):
            text = read_text(path)
            if text and text.isdigit():
                found[f"{kind}_throttle_count"] = found.get(f"{kind}_throttle_count", 0) + int(text)
    return found or None
