"""Snapshot of a device's sensors: temperature, clock, throttling; and that of a CPU that is no Jetson's.

Two looks, before and after the timed forwards, make a row's conditions. What a device counts of its own
throttling is cumulative since boot, so only the difference of two looks says anything; the totals do not.
Most virtual machines have no sensors. The counters of thermal throttling are Intel's: one for each core and one for
the package.

Sources: the Linux kernel's Documentation/driver-api/thermal/sysfs-api.rst and
Documentation/ABI/testing/sysfs-devices-system-cpu (thermal_throttle).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchbench.devices.cpu import ROOT, read_number, read_text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look; empty or None is what the device does not tell."""

    temperatures_c: Mapping[str, float] = dataclasses.field(default_factory=dict)  # zone, verbatim -> degrees
    cpu_hz: float | None = None  # the fastest core
    gpu_hz: float | None = None
    #: Counter, verbatim -> events since boot; empty: it has none, and tells only `slowed_by`; None: it tells neither.
    throttle_counts: Mapping[str, int] | None = None
    slowed_by: tuple[str, ...] = ()  # what holds it back at this moment

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The hottest zone and its temperature."""
        return max(self.temperatures_c.items(), key=lambda item: item[1]) if self.temperatures_c else None


def throttled(before: Snapshot, after: Snapshot) -> dict[str, int]:
    """What was counted between two looks, and what held the device back at either: name -> events.

    A state without a counter (a cooling device that is on) is one event.
    """
    earlier, later = before.throttle_counts or {}, after.throttle_counts or {}
    counted = {name: later[name] - earlier.get(name, 0) for name in later if later[name] > earlier.get(name, 0)}
    return counted | dict.fromkeys([*before.slowed_by, *after.slowed_by], 1)


def cpu_snapshot(root: Path = ROOT) -> Snapshot | None:
    """One look at a CPU; None where there is nothing to see."""
    look = Snapshot(temperatures_c=dict(temperatures(root)), cpu_hz=cpu_hz(root), throttle_counts=_throttling(root))
    return look if look != Snapshot() else None


def _throttling(root: Path) -> dict[str, int] | None:
    """Thermal throttle events since boot, cores and packages apart, each summed; None without such counters."""
    counts: dict[str, int] = {}
    for kind in ("core", "package"):
        for path in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count"):
            text = read_text(path)
            if text and text.isdigit():
                counts[f"{kind}_throttle_count"] = counts.get(f"{kind}_throttle_count", 0) + int(text)
    return counts or None


def cpu_hz(root: Path = ROOT) -> float | None:
    """The clock of the fastest core now; None where the kernel does not tell."""
    cores = [read_number(path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    khz = max((v for v in cores if v is not None), default=None)
    return None if khz is None else khz * 1000


def temperatures(root: Path) -> Iterator[tuple[str, float]]:
    """Zones that answer: one that is powered off gives an error, or -256."""
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"), key=lambda path: int(path.name[12:])):
        name, millidegrees = read_text(zone / "type"), read_number(zone / "temp")
        if name and millidegrees is not None and millidegrees > -60_000:
            yield name, millidegrees / 1000
