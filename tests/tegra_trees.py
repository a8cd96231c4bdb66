"""Jetson boards as trees of files: what their kernel shows, laid out in a folder that a probe reads as its root.

None of these is a copy of a real board. They are plausible trees, written after public descriptions:

- the Linux kernel's Documentation/hwmon/ina3221.rst and ina238.rst: names and units of the files; an INA3221
  has labels of its channels and no power, an INA238 has power in microwatts and no label;
- the Linux kernel's arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi and tegra234-p3767.dtsi: i2c addresses and
  labels of the AGX Orin's two chips (two channels of the second one are off) and of Orin NX and Nano's one;
- NVIDIA Jetson Linux Developer Guide, "Platform Power and Performance" of Jetson Xavier NX, of Orin and of Thor:
  rails, thermal zones, the counters `oc1_event_cnt` to `oc3_event_cnt` of `soctherm_oc`, power modes;
- the Linux kernel's Documentation/driver-api/thermal/sysfs-api.rst, admin-guide/pm/cpufreq.rst and
  ABI/testing/sysfs-class-devfreq: zones, cooling devices, frequencies and their units (kHz and Hz).

Thor's figures come from the same guide and from its users' listings of /sys/class/hwmon; nobody has tried
this suite on a Thor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Channels = Sequence[tuple[str, int, int]]  # label, millivolts, milliamperes; an empty label: the channel is off


def lay_out(root: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{content}\n".encode())
    return root


def ina3221(number: int, channels: Channels, update_ms: int | None = None) -> dict[str, object]:
    folder = f"sys/class/hwmon/hwmon{number}"
    files: dict[str, object] = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages"}
    if update_ms:
        files[f"{folder}/update_interval"] = update_ms
    for i, (label, millivolts, milliamperes) in enumerate(channels, start=1):
        files[f"{folder}/in{i}_enable"] = 1 if label else 0
        if label:
            files |= {
                f"{folder}/in{i}_label": label,
                f"{folder}/in{i}_input": millivolts,
                f"{folder}/curr{i}_input": milliamperes,
            }
    return files


def ina238(number: int, microwatts: int) -> dict[str, object]:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {f"{folder}/name": "ina238", f"{folder}/power1_input": microwatts, f"{folder}/in1_input": 20_000}


def over_current(number: int, *counts: int) -> dict[str, object]:
    folder = f"sys/class/hwmon/hwmon{number}"
    files: dict[str, object] = {f"{folder}/name": "soctherm_oc"}
    for i, count in enumerate(counts, start=1):
        files |= {f"{folder}/oc{i}_event_cnt": count, f"{folder}/oc{i}_throt_en": 1}
    return files


def zones(**millidegrees: int | None) -> dict[str, object]:
    """Thermal zones; None is one whose unit is powered off, which cannot be read."""
    files: dict[str, object] = {}
    for i, (name, value) in enumerate(millidegrees.items()):
        files[f"sys/class/thermal/thermal_zone{i}/type"] = f"{name}-thermal"
        if value is not None:
            files[f"sys/class/thermal/thermal_zone{i}/temp"] = value
    return files


def cooling(**states: int) -> dict[str, object]:
    files: dict[str, object] = {}
    for i, (name, state) in enumerate(states.items()):
        folder = f"sys/class/thermal/cooling_device{i}"
        files |= {f"{folder}/type": name.replace("_", "-"), f"{folder}/cur_state": state}
    return files


def clocks(gpus: Sequence[str], *, cores: int, cpu_khz: int, gpu_hz: int, locked: bool = False) -> dict[str, object]:
    files: dict[str, object] = {}
    for core in range(cores):
        files[f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq"] = cpu_khz if core == 0 else 729_600
    for policy in range(0, cores, 4):
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        low = cpu_khz if locked else 729_600
        files |= {f"{folder}/scaling_min_freq": low, f"{folder}/scaling_max_freq": cpu_khz}
    for gpu in gpus:
        folder = f"sys/class/devfreq/{gpu}"
        low = gpu_hz if locked else 306_000_000
        files |= {f"{folder}/min_freq": low, f"{folder}/max_freq": gpu_hz, f"{folder}/cur_freq": gpu_hz}
    files |= {f"sys/class/devfreq/{n}/{k}_freq": 1 for n in ("15340000.vic",) for k in ("min", "max", "cur")}
    return files


def board(root: Path, model: str, compatible: str, kib: int, mode: str, release: str = "36 4.3") -> Path:
    major, revision = release.split()
    return lay_out(
        root,
        {
            "proc/device-tree/model": f"{model}\0",
            "proc/device-tree/compatible": compatible.replace("|", "\0") + "\0",
            "proc/meminfo": f"MemTotal: {kib} kB\nMemAvailable: {kib // 2} kB",
            "etc/nv_tegra_release": f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic",
            "var/lib/nvpmodel/status": "pmode:0000",
            "etc/nvpmodel.conf": f"< POWER_MODEL ID=0 NAME={mode} >",
        },
    )


_SLIM_RAILS = (("VDD_IN", 5000, 2400), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 400))


def orin_nano(root: Path, *, locked: bool = False) -> Path:
    board(
        root,
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "nvidia,p3768-0000+p3767-0005-super|nvidia,p3767-0005|nvidia,tegra234",
        7_802_000,
        "MAXN_SUPER",
    )
    files = ina3221(1, _SLIM_RAILS, update_ms=100) | over_current(3, 0, 0, 27_390)
    files |= zones(cpu=51_000, gpu=50_500, cv0=None, soc0=51_031, tj=52_250)
    files |= cooling(pwm_fan=3, cpu_throttle_alert=0, gpu_throttle_alert=0, hot_surface_alert=0)
    return lay_out(
        root, files | clocks(["17000000.gpu"], cores=6, cpu_khz=1_728_000, gpu_hz=1_020_000_000, locked=locked)
    )


def orin_nx(root: Path) -> Path:
    compatible = "nvidia,p3768-0000+p3767-0000|nvidia,p3767-0000|nvidia,tegra234"
    board(root, "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", compatible, 15_900_000, "25W")
    files = ina3221(1, _SLIM_RAILS) | over_current(3, 0, 0, 0) | zones(cpu=46_000, gpu=None, tj=47_000)
    files |= cooling(pwm_fan=1, cpu_throttle_alert=0)
    return lay_out(root, files | clocks(["17000000.gpu"], cores=8, cpu_khz=1_984_000, gpu_hz=918_000_000))


def agx_orin(root: Path) -> Path:
    compatible = "nvidia,p3737-0000+p3701-0005|nvidia,p3701-0005|nvidia,tegra234"
    board(root, "NVIDIA Jetson AGX Orin Developer Kit", compatible, 64_300_000, "MAXN")
    first = (("VDD_GPU_SOC", 20_000, 600), ("VDD_CPU_CV", 20_000, 200), ("VIN_SYS_5V0", 5_000, 1_000))
    second = (("", 0, 0), ("VDDQ_VDD2_1V8AO", 5_000, 200), ("", 0, 0))
    files = ina3221(3, first) | ina3221(4, second) | over_current(5, 0, 0, 0) | zones(cpu=44_500, gpu=41_000, tj=45_000)
    return lay_out(root, files | clocks(["17000000.gpu"], cores=12, cpu_khz=2_201_600, gpu_hz=1_300_500_000))


def xavier_nx(root: Path) -> Path:
    """JetPack 5: no over-current counters in hwmon; the kernel's cooling devices tell."""
    board(
        root,
        "NVIDIA Jetson Xavier NX Developer Kit",
        "nvidia,p3509-0000+p3668-0001|nvidia,p3668-0001|nvidia,tegra194",
        6_900_000,
        "MODE_20W_6CORE",
        release="35 4.1",
    )
    files = ina3221(0, _SLIM_RAILS) | zones(CPU=44_000, GPU=43_500, AUX=43_000)
    files |= cooling(pwm_fan=1, thermal_cpufreq_0=0)
    return lay_out(root, files | clocks(["17000000.gv11b"], cores=6, cpu_khz=1_420_800, gpu_hz=1_109_250_000))


def thor(root: Path) -> Path:
    compatible = "nvidia,p4071-0000+p3834-0008|nvidia,p3834-0008|nvidia,tegra264"
    board(root, "NVIDIA Jetson AGX Thor Developer Kit", compatible, 128_800_000, "MAXN", release="38 2.0")
    rails = (("VDD_GPU", 20_000, 500), ("VDD_CPU_SOC_MSS", 20_000, 400), ("VIN_SYS_5V0", 5_000, 1_300))
    files = (
        ina3221(2, rails) | ina238(4, 31_500_000) | over_current(5, 0, 0, 179) | zones(cpu=53_700, gpu=None, tj=55_100)
    )
    gpus = ["gpu-gpc-0", "gpu-nvd-0"]
    return lay_out(root, files | clocks(gpus, cores=14, cpu_khz=2_601_000, gpu_hz=1_575_000_000))
