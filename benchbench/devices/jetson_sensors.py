"""Sensors of a Jetson in sysfs: power rails, temperatures, clocks, throttle events.

Rails keep the names that the device tree gives them. What the module takes in all is one rail on some boards
(`VDD_IN` on Orin NX, Orin Nano and Xavier NX; the INA238 before a Thor developer kit) and a sum on the others; rails
nest: an AGX Orin's `VDDQ_VDD2_1V8AO` is fed from its `VIN_SYS_5V0`, so a sum of all four counts the memory twice. No
figure here is power at the wall.

Sources: the Linux kernel's Documentation/hwmon/ina3221.rst and ina238.rst (files and units) and
arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi and tegra234-p3767.dtsi (labels); NVIDIA Jetson Linux
Developer Guide, "Platform Power and Performance" (which rail holds which, over-current events).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchbench.devices.cpu import ROOT, read_number, read_text
from benchbench.devices.sensors import Snapshot, cpu_hz, temperatures

#: Rails that hold everything the module takes.
_INPUTS = ("VDD_IN", "POM_5V_IN")
#: Rail -> the rail that feeds it, so that a sum leaves it out.
_FED_BY = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
_INA_PERIOD_S = 0.1  # where the chip does not say how often it has a new value
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
_SLOWING = ("cpufreq", "devfreq", "throttle-alert")  # in the name of a cooling device that lowers clocks


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One supply that a chip measures."""

    name: str  # the label, verbatim
    sensor: str  # ina3221 | ina238
    files: tuple[Path, ...] = ()  # of its power in microwatts, or of its millivolts and milliamperes

    def watts(self) -> float | None:
        """The power now; None where the chip does not answer."""
        numbers = [read_number(path) for path in self.files]
        return None if None in numbers else math.prod(number for number in numbers if number is not None) / 1e6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """The rails whose powers add up to the board's, and in what sense."""

    rails: tuple[Rail, ...]
    scope: str  # in words, for the record
    period_s: float  # how often the chip has a new value

    def watts(self) -> float | None:
        """The power now; None where a rail does not answer."""
        powers = [rail.watts() for rail in self.rails]
        return None if None in powers else sum(p for p in powers if p is not None)


def rails(root: Path = ROOT) -> list[Rail]:
    """Every rail that a power monitor measures and that can be read, in the order of the chips."""
    measured = []
    for chip in _chips(root, "ina3221"):
        for channel in (1, 2, 3):
            label = read_text(chip / f"in{channel}_label")
            if not label or label == "NC" or read_text(chip / f"in{channel}_enable") == "0":
                continue
            files = (chip / f"in{channel}_input", chip / f"curr{channel}_input")
            measured.append(Rail(name=label, sensor="ina3221", files=files))
    for chip in _chips(root, "ina238"):
        label = read_text(chip / "power1_label") or read_text(chip / "of_node/label") or "ina238"
        measured.append(Rail(name=label, sensor="ina238", files=(chip / "power1_input",)))
    return [rail for rail in measured if rail.watts() is not None]


def supply(root: Path = ROOT) -> Supply | None:
    """What the board takes, by one input rail or by the sum of its rails; None where nothing can be read."""
    readable = rails(root)
    chosen, scope = total(readable)
    return Supply(rails=tuple(chosen), scope=scope, period_s=_period_s(root)) if chosen else None


def total(readable: Sequence[Rail]) -> tuple[list[Rail], str]:
    """The rails that make the whole, each watt once, and what that whole is."""
    board = [rail for rail in readable if rail.sensor == "ina238"]
    if board:
        return board, "input of the developer kit, carrier board included; not wall"
    inputs = [rail for rail in readable if rail.name in _INPUTS]
    if inputs:
        return inputs, "module rails, not wall"
    names = {rail.name for rail in readable}
    apart = [rail for rail in readable if _FED_BY.get(rail.name) not in names]
    nested = [f"{rail.name} is within {_FED_BY[rail.name]}" for rail in readable if rail not in apart]
    return apart, "; ".join(["module rails, summed (the board has no total rail), not wall", *nested])


def parse_tegrastats(line: str) -> dict[str, float]:
    """Rail -> watts now, from one line of tegrastats.

    Its pairs are `NAME now/mean`, in mW with or without the unit; `NC` is a channel that nothing hangs on.
    """
    pairs = re.findall(r"\b((?:VDD|VIN|POM|VDDQ|CPU|GPU|SOC|CV|VDDRQ|SYS)\w*) (\d+)(?:mW)?/\d+(?:mW)?", line)
    return {name: int(milliwatts) / 1000 for name, milliwatts in pairs}


def tegrastats_watts(line: str) -> tuple[float, tuple[str, ...], str] | None:
    """(watts, rails, scope) of one line of tegrastats; None where the line tells no power."""
    powers = parse_tegrastats(line)
    if "VIN" in powers:
        return powers["VIN"], ("VIN",), "input of the developer kit, carrier board included; not wall"
    chosen, scope = total([Rail(name=name, sensor="tegrastats") for name in powers])
    names = tuple(rail.name for rail in chosen)
    return (sum(powers[name] for name in names), names, scope) if names else None


def snapshot(root: Path = ROOT) -> Snapshot:
    """One look at the board's zones, clocks and throttling."""
    gpus = [read_number(folder / "cur_freq") for folder in _gpu_folders(root)]
    states = list(_slowing(root))
    return Snapshot(
        temperatures_c=dict(temperatures(root)),
        cpu_hz=cpu_hz(root),
        gpu_hz=max((v for v in gpus if v is not None), default=None),
        throttle_counts=throttle_counts(root) or ({} if states else None),
        slowed_by=tuple(kind for kind, state in states if state > 0),
    )


def throttle_counts(root: Path = ROOT) -> dict[str, int] | None:
    """Events that slowed the board since boot: `oc1_event_cnt` (voltage) to `oc3_event_cnt` (current peaks).

    Returns:
        Counter -> events; None where the kernel has no such counters.
    """
    counts: dict[str, int] = {}
    for path in sorted(root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        number = read_number(path)
        if number is not None:
            counts[path.name] = counts.get(path.name, 0) + int(number)
    return counts or None


def clocks_locked(root: Path = ROOT) -> bool | None:
    """Whether CPU and GPU may run at one frequency only, as `jetson_clocks` sets it; None where unknown."""
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    pairs = [(folder / "scaling_min_freq", folder / "scaling_max_freq") for folder in policies]
    pairs += [(folder / "min_freq", folder / "max_freq") for folder in _gpu_folders(root)]
    limits = [(read_number(low), read_number(high)) for low, high in pairs]
    ranges = [(low, high) for low, high in limits if low is not None and high is not None]
    return all(low == high for low, high in ranges) if ranges else None


def _slowing(root: Path) -> Iterator[tuple[str, float]]:
    """(kind, state) of the cooling devices that lower clocks when on; a fan is one too and slows nothing."""
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        kind = read_text(device / "type") or ""
        state = read_number(device / "cur_state")
        if state is not None and any(word in kind for word in _SLOWING):
            yield kind, state


def _gpu_folders(root: Path) -> list[Path]:
    folders = sorted(root.glob("sys/class/devfreq/*"))
    return [folder for folder in folders if any(name in folder.name for name in _GPU_NAMES)]


def _chips(root: Path, name: str) -> list[Path]:
    """Folders of a chip's driver, by i2c address as far as the numbers of hwmon go."""
    folders = sorted(root.glob("sys/class/hwmon/hwmon*"), key=lambda path: int(path.name[5:] or 0))
    return [folder for folder in folders if read_text(folder / "name") == name]


def _period_s(root: Path) -> float:
    chips = [*_chips(root, "ina3221"), *_chips(root, "ina238")]
    periods = [read_number(chip / "update_interval") for chip in chips]
    period_s = max((p / 1000 for p in periods if p), default=_INA_PERIOD_S)
    return min(1.0, max(0.02, period_s))
