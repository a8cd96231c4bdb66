"""CPU: its name, and the cores and memory that this process may really use.

In a container the machine's own figures lie: 64 cores are visible and two may be used, 256 GB are
there and the kernel ends the process at 8. So the quotas of cgroup v1 and v2 count as well, on every
level between the process and the root.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchbench.core.records import Device

ROOT = Path("/")
_NO_LIMIT = 2**60  # cgroup v1 says "no limit" with a number near 2**63

#: (CPU implementer, CPU part) of /proc/cpuinfo -> core, for boards whose kernel gives no "model name".
#: Source: Arm's Main ID Register values, as in the Linux kernel's arch/arm64/include/asm/cputype.h.
_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def read_text(path: Path) -> str | None:
    """The text of a small file of the kernel, NULs and white space cut off the end; None if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").rstrip("\0\n\t ")
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """The number in a small file of the kernel; None without one."""
    try:
        return float(read_text(path) or "")
    except ValueError:
        return None


def probe(root: Path = ROOT, *, asked: str = "cpu") -> Device:
    """The processor as a Device."""
    return Device(kind="cpu", name=name(root), basis="probed", asked=asked)


def name(root: Path = ROOT) -> str:
    """The processor's name: its "model name", or on an Arm board the cores' names and the board's."""
    lines = [line.partition(":") for line in (read_text(root / "proc/cpuinfo") or "").splitlines()]
    fields = [(key.strip(), value.strip()) for key, _, value in lines]
    for key, value in fields:
        if key == "model name" and value and not value.startswith("ARMv"):
            return value
    cores: list[str] = []
    implementer = ""
    for key, value in fields:
        if key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            cores.append(_ARM_CORES.get((implementer, value), f"Arm core {implementer}/{value}"))
    board = next((value for key, value in fields if key == "Model"), None) or read_text(root / "proc/device-tree/model")
    core = " + ".join(dict.fromkeys(cores))
    if core and board:
        return f"{board} ({core})"
    return core or board or platform.processor() or platform.machine() or "unknown CPU"


def usable_cores(root: Path = ROOT, *, affinity: int | None = None) -> int:
    """Cores that this process may keep busy: its affinity, limited by the cgroup's CPU quota.

    Args:
        affinity: cores that the scheduler allows; None asks the system.

    Returns:
        At least 1; a quota of 2.5 cores counts as 2, since a third thread would be throttled.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = list(_cpu_quotas(root))
    return max(1, min([affinity, *(int(quota) for quota in quotas)]))


def allowed_cores() -> tuple[int, ...]:
    """The numbers of the cores that the scheduler allows this process; empty where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def cores_for(threads: int | None) -> tuple[int, ...]:
    """The cores that a child with so many threads is bound to: the first ones allowed; empty for no binding.

    Threads that may wander over more cores than they are, do so, and a latency then has two modes.
    """
    allowed = allowed_cores()
    return allowed[:threads] if threads and threads < len(allowed) else ()


def set_affinity(cores: Sequence[int]) -> None:
    """Bind this process to cores; before torch is imported, which starts as many threads as it may use cores."""
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def last_cache_bytes(root: Path = ROOT) -> int:
    """The largest cache of the first core; 32 MiB where the system does not tell."""
    sizes = [0]
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KM]?)", read_text(path) or "")
        if match:
            sizes.append(int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2]])
    return max(sizes) or 32 << 20


def ranges(numbers: Sequence[int]) -> str | None:
    """Whole numbers as the kernel writes lists of cores: `0-3,8`; None for none."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or None


def total_memory_bytes(root: Path = ROOT) -> int:
    """Memory of the machine, or the cgroup's limit where that is lower; bytes."""
    return min([_memory_bytes(root, "MemTotal", "total"), *(limit for limit, _ in _memory_limits(root))])


def available_memory_bytes(root: Path = ROOT) -> int:
    """Bytes that can be taken now without swapping: what is free, limited by what the cgroup leaves."""
    available = _memory_bytes(root, "MemAvailable", "available")
    return max(0, min([available, *(limit - used for limit, used in _memory_limits(root))]))


def _memory_bytes(root: Path, key: str, attribute: str) -> int:
    """Of the machine, by /proc/meminfo, or by psutil where there is none."""
    size = meminfo_bytes(root, key)
    if size is not None:
        return size
    import psutil

    return int(getattr(psutil.virtual_memory(), attribute))


def governor(root: Path = ROOT) -> str | None:
    """The frequency governor, `performance`; several where the cores differ; None where the kernel tells none."""
    governors = {
        text
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
        if (text := read_text(path))
    }
    return ", ".join(sorted(governors)) or None


def load_average(root: Path = ROOT) -> float | None:
    """Processes that wanted to run, mean of the last minute; None where the system does not say."""
    text = read_text(root / "proc/loadavg")
    try:
        return float(text.split()[0]) if text else None
    except ValueError:
        return None


def meminfo_bytes(root: Path, key: str) -> int | None:
    """A line of /proc/meminfo; None where the kernel does not tell."""
    return bytes_in(root / "proc/meminfo", key)


def bytes_in(path: Path, key: str) -> int | None:
    """A line `key: 12 kB` of a file of the kernel, in bytes; None without one."""
    match = re.search(rf"^{re.escape(key)}:\s*(\d+) kB", read_text(path) or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroups(root: Path, controller: str) -> Iterator[tuple[bool, Path]]:
    """(is it v2, folder) of every cgroup on the way from this process to the root that is visible here."""
    mount = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            tops, v2 = [mount, mount / "unified"], True
        elif controller in controllers.split(","):
            tops, v2 = [mount / controllers, mount / controller], False
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in dict.fromkeys(tops):
            for depth in range(len(parts), -1, -1):
                folder = top.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield v2, folder


def _cpu_quotas(root: Path) -> Iterator[float]:
    for v2, folder in _cgroups(root, "cpu"):
        if v2:
            quota, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
        else:
            quota = read_text(folder / "cpu.cfs_quota_us") or ""
            period = read_text(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # no quota: "max", or -1
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without the file cache that the kernel gives back), bytes."""
    for v2, folder in _cgroups(root, "memory"):
        limit = read_text(folder / ("memory.max" if v2 else "memory.limit_in_bytes")) or ""
        used = read_text(folder / ("memory.current" if v2 else "memory.usage_in_bytes")) or ""
        if not limit.isdigit() or int(limit) >= _NO_LIMIT or not used.isdigit():
            continue
        key = "inactive_file" if v2 else "total_inactive_file"
        cache = 0
        for line in (read_text(folder / "memory.stat") or "").splitlines():
            label, _, value = line.partition(" ")
            if label == key and value.isdigit():
                cache = int(value)
        yield int(limit), max(0, int(used) - cache)
