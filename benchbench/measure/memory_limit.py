"""Memory limit that is enforced: past it an allocation fails, as it would on a smaller machine.

On Linux RLIMIT_DATA bounds what a process may have mapped for itself (heap, anonymous memory, stacks), touched or
not. It leaves out the code of libraries, which is read in page by page as kernels are first called and is resident
too. So some room is kept free for code that is still to come, and the bound is drawn again when more is known. On a
GPU PyTorch's allocator keeps the limit.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_value
from benchbench.measure import memory

CODE_BYTES = 40_000_000  # of libraries, read in after the imports: up to 29 MB were seen
_LEAST_CODE_BYTES = 16_000_000
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of mallopt, see malloc.h
_LARGE_BYTES = 1 << 20  # freed blocks above this go back to the system at once


class LimitError(MemoryError):
    """The limit is below what the framework takes by itself."""


class MemoryLimit:
    """Keeps this process's resident memory below a limit, from its making on."""

    def __init__(self, limit_bytes: int, *, backend: str = "cpu", gpu: int = 0, file_bytes: int = 0) -> None:
        """Set the limit; to be called after imports and before anything large is made.

        Args:
            limit_bytes: of the process's resident memory, or of PyTorch's allocator on the GPU.
            file_bytes: of files that will be mapped, such as a checkpoint.

        Raises:
            LimitError: the framework itself takes more.
            UnsupportedError: this system enforces no such limit.
        """
        self.limit_bytes, self.backend = limit_bytes, backend
        self.framework_bytes = 0
        if backend == "cuda":
            import torch

            total = torch.cuda.get_device_properties(gpu).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), gpu)
            return
        if not sys.platform.startswith("linux") or memory.status_bytes("VmData") is None:
            raise UnsupportedError(
                "a memory limit can be enforced on Linux and on a GPU only: leave --memory-limit out"
            )
        if "torch" in sys.modules:
            _start_threads()
        _give_back_at_once()
        self._file_bytes = file_bytes
        self._code_at_start = memory.status_bytes("RssFile") or 0
        self.framework_bytes = memory.resident_bytes() + CODE_BYTES
        if self.framework_bytes >= limit_bytes:
            raise LimitError(
                f"the limit of {format_value(limit_bytes, 'B')} is below the "
                f"{format_value(self.framework_bytes, 'B')} that the framework takes before any network is built"
            )
        self.settle()

    def settle(self) -> None:
        """Draw the bound again from what is resident now: code that has been read in needs no room any more."""
        if self.backend == "cuda":
            return
        read_in = (memory.status_bytes("RssFile") or 0) - self._code_at_start
        room = max(_LEAST_CODE_BYTES, CODE_BYTES + self._file_bytes - max(0, read_in))
        mapped = memory.status_bytes("VmData") or 0
        _set_soft(max(0, mapped + self.limit_bytes - memory.resident_bytes() - room))

    def lift(self) -> None:
        """Let the process have memory again, to say what happened."""
        if self.backend == "cpu":
            _set_soft(None)


def _set_soft(data_bytes: int | None) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if data_bytes is None or hard != resource.RLIM_INFINITY:
        data_bytes = hard if data_bytes is None else min(data_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard))


def _start_threads() -> None:
    """Start torch's threads: their stacks are mapped at once, and a thread that cannot start ends the process."""
    import torch

    with torch.inference_mode():
        torch.nn.functional.conv3d(torch.ones(1, 8, 16, 16, 16), torch.ones(8, 8, 3, 3, 3))
        torch.ones(1 << 20).add_(1)


def _give_back_at_once() -> None:
    """Have the C library return freed blocks to the system and keep one heap: what it hoards counts as mapped."""
    try:
        libc: Any = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_ARENA_MAX, 1)
    except (OSError, AttributeError):  # another C library than glibc
        return
