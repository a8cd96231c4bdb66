"""NVIDIA GPU through its management library (NVML): power, energy, throttling, other processes.

Through nvidia-ml-py, an optional extra (`pip install 'benchbench[nvidia]'`), imported when called; without
it, or without a driver, `connect` says so in a line. torch counts devices after CUDA_VISIBLE_DEVICES and
NVML counts all, so a device is found by its UUID, not by its index. On a GPU in MIG slices every figure of
power is of the whole GPU, other tenants included, so there a slice has no energy.

Source: NVIDIA, NVML API Reference Guide, "Device Queries" (units: mW, mJ; clocks event reasons).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Callable
from typing import Any

from benchbench.core.errors import DeviceError
from benchbench.devices.sensors import Snapshot

#: Bit of the clocks event reasons -> what it means. A power cap is the normal state of a busy GPU, and a
#: set clock is somebody's wish: neither is throttling.
_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
PERIOD_S = 0.1  # NVML has a new power figure every 20 to 100 ms, depending on the GPU


class Gpu:
    """One GPU; a question that it does not answer gives None."""

    def __init__(self, nvml: Any, handle: Any, *, mig: str | None = None) -> None:
        """Take a handle.

        Args:
            nvml: the pynvml module, initialised.
            mig: the MIG slice in use, such as `1g.5gb`; None where the GPU is whole.
        """
        self.nvml, self.handle, self.mig = nvml, handle, mig

    @property
    def uuid(self) -> str | None:
        """`GPU-...`."""
        uuid = self._ask("nvmlDeviceGetUUID")
        return uuid.decode() if isinstance(uuid, bytes) else uuid

    def energy_j(self) -> float | None:
        """Energy since the driver was loaded; None before Volta."""
        return _scaled(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def power_w(self) -> float | None:
        """Power of the whole board now."""
        return _scaled(self._ask("nvmlDeviceGetPowerUsage"), 1e-3)

    def power_limit_w(self) -> float | None:
        """The limit that is in force."""
        return _scaled(self._ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3)

    def slowdowns(self) -> tuple[str, ...] | None:
        """What throttles the clocks now; None where the driver does not say."""
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else tuple(name for bit, name in _SLOWDOWNS.items() if int(bits) & bit)

    def other_processes(self, pid: int | None = None) -> int | None:
        """Other programs that compute there.

        In a container NVML gives the host's process ids, ours among them under another number; then one is
        taken to be ours.
        """
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return None
        pids = {process.pid for process in processes}
        pid = os.getpid() if pid is None else pid
        return len(pids - {pid}) if pid in pids else max(0, len(pids) - 1)

    def process_memory_bytes(self, pid: int | None = None) -> int | None:
        """Memory of this process there, CUDA's own included; None where the driver does not say whose it is.

        Args:
            pid: ours. In a container NVML knows it by another number; a process that is alone is ours.
        """
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if processes is None:
            return None
        pid = os.getpid() if pid is None else pid
        ours = [process for process in processes if process.pid == pid] or (processes if len(processes) == 1 else [])
        used = getattr(ours[0], "usedGpuMemory", None) if ours else None
        return None if used is None else int(used)

    def snapshot(self) -> Snapshot:
        """One look at temperature, clock and throttling."""
        degrees = self._ask("nvmlDeviceGetTemperature", getattr(self.nvml, "NVML_TEMPERATURE_GPU", 0))
        clock_mhz = self._ask("nvmlDeviceGetClockInfo", getattr(self.nvml, "NVML_CLOCK_SM", 1))
        slowed_by = self.slowdowns()
        return Snapshot(
            temperatures_c={} if degrees is None else {"GPU": float(degrees)},
            gpu_hz=_scaled(clock_mhz, 1e6),
            throttle_counts=None if slowed_by is None else {},  # NVML counts no events
            slowed_by=slowed_by or (),
        )

    def _ask(self, function: str, *arguments: Any) -> Any:
        call: Callable[..., Any] | None = getattr(self.nvml, function, None)
        if call is None:
            return None
        try:
            return call(self.handle, *arguments)
        except self.nvml.NVMLError:  # not supported by this GPU, or not permitted
            return None


def connect(uuid: str | None = None, *, index: int = 0, name: str = "") -> Gpu:
    """The GPU of that UUID, or of NVML's own index where no UUID is known.

    Args:
        uuid: `GPU-...`, `MIG-...` or bare, as torch gives it.
        name: torch's name of the device, which names a MIG slice.

    Raises:
        DeviceError: nvidia-ml-py or the driver is missing, or it knows no such GPU.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise DeviceError("nvidia-ml-py is not installed: pip install 'benchbench[nvidia]'") from error
    try:
        nvml.nvmlInit()
        handle, is_slice = _handle(nvml, uuid, index)
    except nvml.NVMLError as error:
        raise DeviceError(f"NVIDIA's management library gives no access: {error}") from error
    return Gpu(nvml, handle, mig=_mig(nvml, handle, is_slice, name))


def of_torch(index: int) -> Gpu:
    """The GPU that torch counts as `index`.

    Raises:
        DeviceError: as `connect`, or torch has no such device.
    """
    from benchbench.devices.cuda import torch_with

    cuda = torch_with(index).cuda
    uuid = getattr(cuda.get_device_properties(index), "uuid", None)
    return connect(None if uuid is None else str(uuid), index=index, name=str(cuda.get_device_name(index)))


def _handle(nvml: Any, uuid: str | None, index: int) -> tuple[Any, bool]:
    """The whole GPU's handle, and whether the UUID was that of a slice of it."""
    if uuid is None:
        return nvml.nvmlDeviceGetHandleByIndex(index), False
    bare = re.sub(r"^(GPU|MIG)-", "", uuid)
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}"), False
    except nvml.NVMLError:
        part = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part), True


def _mig(nvml: Any, handle: Any, is_slice: bool, name: str) -> str | None:
    enabled = is_slice
    with contextlib.suppress(nvml.NVMLError, AttributeError):
        enabled = enabled or int(nvml.nvmlDeviceGetMigMode(handle)[0]) == 1
    if not enabled:
        return None
    match = re.search(r"\bMIG (\S+)", name)
    return match[1] if match else "enabled"


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor
