"""Peak memory of a process, as the box must have it.

On Linux the kernel keeps a high-water mark of resident memory for each process and lets it be reset:
`5` written to /proc/self/clear_refs. The mark then holds the true peak, kernels' scratch memory
included, which no counting of tensors sees. Elsewhere `ru_maxrss` has to do, and it cannot be reset,
so there a figure is only right in a fresh process. On a GPU the allocator keeps the count.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchbench.records import Measurement

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")


def reset_peak() -> bool:
    """Set the process's high-water mark to what is resident now; False where the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The high-water mark of resident memory since the process began or `reset_peak`."""
    marked = _from_status("VmHWM")
    if marked is not None:
        return marked
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def resident_bytes() -> int:
    """What the process holds in memory now."""
    now = _from_status("VmRSS")
    if now is not None:
        return now
    import psutil

    return int(psutil.Process().memory_info().rss)


def system_available_bytes() -> int | None:
    """What the whole system could still give; a container's limit does not count, nor does it hold GPU memory."""
    return _from_file(_MEMINFO, "MemAvailable")


def _from_status(key: str) -> int | None:
    return _from_file(_STATUS, key)


def _from_file(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    line = next((line for line in lines if line.startswith(f"{key}:")), None)
    return None if line is None else int(line.split()[1]) * 1024


class PeakMemory:
    """Watches the peak from its making to `measurements()`."""

    def __init__(self, backend: str, *, available_before: int | None = None) -> None:
        """Start to watch.

        Args:
            backend: `cpu` or `cuda`.
            available_before: on a board whose GPU has no memory of its own, `system_available_bytes()` before
                anything was put on the GPU; then the board's memory is told too.
        """
        self.backend, self.available_before = backend, available_before
        if backend == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        if backend != "cuda" or available_before is not None:
            self.was_reset = reset_peak()

    def measurements(self, base_bytes: int | None = None) -> list[Measurement]:
        """`peak_memory_bytes` and, if given, `base_memory_bytes` (the framework before the network was built).

        On a board with shared memory also `process_memory_bytes` and `available_memory_drop_bytes`. The three
        overlap in part and must not be added.
        """
        if self.backend == "cuda":
            import torch

            found = [
                _measured(
                    "peak_memory_bytes", torch.cuda.max_memory_reserved(), "CUDA caching allocator, peak reserved"
                ),
            ]
        else:
            found = [_measured("peak_memory_bytes", peak_bytes(), self._how())]
        if self.available_before is not None:
            found.append(_measured("process_memory_bytes", peak_bytes(), self._how()))
            left = system_available_bytes()
            drop = None if left is None else self.available_before - left
            found.append(
                _measured(
                    "available_memory_drop_bytes",
                    drop if drop is not None and drop >= 0 else None,
                    "fall of MemAvailable from before the GPU was used to after the timed forwards, power log included",
                    reason=None if drop is not None and drop >= 0 else "other programs gave memory back meanwhile",
                )
            )
        if base_bytes is not None:
            found.append(
                _measured("base_memory_bytes", base_bytes, "resident after imports, before the network was built")
            )
        return found

    def _how(self) -> str:
        return "VmHWM of the whole process, reset before the forward" if self.was_reset else "ru_maxrss of the process"


def _measured(metric: str, value: int | None, method: str, reason: str | None = None) -> Measurement:
    return Measurement(metric=metric, unit="B", value=value, origin="measured", method=method, reason=reason)
