"""Peak memory of a process.

On Linux the kernel keeps a high-water mark of resident memory for each process and lets it be reset:
`5` written to /proc/self/clear_refs. The mark then holds the true peak, kernels' scratch memory
included, which no counting of tensors sees. Elsewhere `ru_maxrss` has to do, and it cannot be reset,
so there a figure is only right in a fresh process. On a GPU the allocator keeps the count.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core.errors import DeviceError
from benchbench.core.records import Measurement
from benchbench.devices import cpu

if TYPE_CHECKING:
    from torch import nn

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Set the process's high-water mark to what is resident now; False where the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The high-water mark of resident memory since the process began or `reset_peak`."""
    marked = status_bytes("VmHWM")
    if marked is not None:
        return marked
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def resident_bytes() -> int:
    """What the process holds in memory now."""
    now = status_bytes("VmRSS")
    if now is not None:
        return now
    import psutil

    return int(psutil.Process().memory_info().rss)


def system_available_bytes() -> int | None:
    """Memory available on the whole system; a container's own limit and GPU memory are not part of it."""
    return cpu.meminfo_bytes(cpu.ROOT, "MemAvailable")


def status_bytes(key: str) -> int | None:
    """A line of /proc/self/status, such as `VmData`; None where the system has none."""
    return cpu.bytes_in(_STATUS, key)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What of a peak is known to the byte."""

    weights_bytes: int
    input_bytes: int
    output_bytes: int


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Memory behind tensors, in bytes: what they share is counted once, what is no tensor is passed over."""
    from torch import Tensor

    storages = [t.untyped_storage() for t in tensors if isinstance(t, Tensor)]
    return sum({s._cdata: int(s.nbytes()) for s in storages}.values())


def weights_bytes(module: nn.Module) -> int:
    """Memory of a network's parameters and buffers, in bytes; what they share is counted once."""
    return storage_bytes([*module.parameters(), *module.buffers()])


class PeakMemory:
    """Watches the peak from its making to `measurements()`."""

    def __init__(self, backend: str, *, gpu: int = 0, available_before: int | None = None) -> None:
        """Start to watch.

        Args:
            available_before: on a board whose GPU has no memory of its own, `system_available_bytes()` before
                anything was put on the GPU; then the board's memory is told too.
        """
        self.backend, self.gpu, self.available_before = backend, gpu, available_before
        if backend == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        if backend != "cuda" or available_before is not None:
            self.was_reset = reset_peak()

    def measurements(self, base_bytes: int | None = None, parts: Parts | None = None) -> list[Measurement]:
        """`peak_memory_bytes`, and what it is made of as far as it is known.

        On a CPU, with `base_bytes`, also `base_memory_bytes`; on a GPU `allocated_memory_bytes` and
        `process_memory_bytes`, the driver's figure. With `parts` also `weights_memory_bytes`,
        `input_memory_bytes`, `output_memory_bytes` and `activation_memory_bytes`: what remains of the peak (on a
        GPU, of what was allocated). On a board with shared memory `process_memory_bytes` is the processor's side and
        `available_memory_drop_bytes` comes with it; they and the peak overlap in part and must not be added.
        """
        if self.backend == "cuda":
            import torch

            reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
            measurements = [
                Measurement.of("peak_memory_bytes", reserved, "CUDA caching allocator, peak reserved"),
                Measurement.of("allocated_memory_bytes", allocated, "CUDA caching allocator, peak of live tensors"),
            ]
            whole, base_bytes = allocated, None
        else:
            whole = peak_bytes()
            measurements = [Measurement.of("peak_memory_bytes", whole, self._how())]
        if self.available_before is not None:
            measurements += self._of_board(self.available_before)
        elif self.backend == "cuda":
            measurements.append(_of_driver(self.gpu))
        if base_bytes is not None:
            how = "resident after imports, before the network was built"
            measurements.append(Measurement.of("base_memory_bytes", base_bytes, how))
        if parts is not None:
            measurements += _split(whole, base_bytes, parts)
        return measurements

    def _of_board(self, available_before: int) -> list[Measurement]:
        left = system_available_bytes()
        drop = None if left is None or left > available_before else available_before - left
        return [
            Measurement.of("process_memory_bytes", peak_bytes(), self._how()),
            Measurement.of(
                "available_memory_drop_bytes",
                drop,
                "fall of MemAvailable from before the GPU was used to after the timed forwards, power log included",
                reason=None if drop is not None else "other programs gave memory back meanwhile",
            ),
        ]

    def _how(self) -> str:
        return "VmHWM of the whole process, reset before the forward" if self.was_reset else "ru_maxrss of the process"


def _of_driver(index: int) -> Measurement:
    from benchbench.devices import nvml

    method = "NVML: memory of this process on the GPU after the forwards, CUDA's own share included"
    try:
        used = nvml.of_torch(index).process_memory_bytes()
        why = None if used is not None else "the driver does not tell which memory is this process's"
    except DeviceError as error:
        used, why = None, str(error)
    return Measurement.of("process_memory_bytes", used, method if used is not None else "none", reason=why)


def _split(whole: int, base_bytes: int | None, parts: Parts) -> list[Measurement]:
    certain = parts.weights_bytes + parts.input_bytes + parts.output_bytes + (base_bytes or 0)
    of, base = ("allocated peak", "") if base_bytes is None else ("peak", "base, ")
    too_small = "the parts are larger than the peak: some were not resident during the forwards"
    shared = "parameters and buffers, shared storages once"
    return [
        Measurement.of("weights_memory_bytes", parts.weights_bytes, shared, "analytic"),
        Measurement.of("input_memory_bytes", parts.input_bytes, "the input batch", "analytic"),
        Measurement.of("output_memory_bytes", parts.output_bytes, "every tensor of the output", "analytic"),
        Measurement.of(
            "activation_memory_bytes",
            whole - certain if whole >= certain else None,
            f"{of} less {base}weights, input and output: activations, kernels' scratch memory and what the allocator "
            "holds",
            reason=None if whole >= certain else too_small,
        ),
    ]
