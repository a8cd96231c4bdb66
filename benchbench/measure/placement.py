"""Where a network's tensors lie in memory, which by itself makes one process of it faster than another.

A process keeps its places for all of its life, and two processes of one network differ by some percent
(`benchmarks/trust.py placement`). So its memory is laid out anew from forward to forward, as Curtsinger and Berger do
with a whole program (STABILIZER, ASPLOS 2013): weights and input are copied elsewhere, and what the forward allocates
comes to lie elsewhere, too.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterable, Sequence

import torch

_PADS, _PAD_BYTES = 12, 1_600_000  # most blocks that shift what is allocated after them, and of each
_MOST_BYTES = 64 << 20  # copied at a time
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_MOST_INT, _MOST_ON_HEAP_BYTES = 2**31 - 1, 32 << 20  # the second is the most that glibc takes


def keep_freed_memory() -> bool:
    """Have this process's allocator keep what is freed for later; False where it is not glibc's.

    Otherwise some forwards give memory back and take it again, page by page, as chance has it: with moves between
    forwards, that doubles their noise.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MOST_INT) and mallopt(_M_MMAP_THRESHOLD, _MOST_ON_HEAP_BYTES))


class Places:
    """Tensors that are moved in memory, each time to other places."""

    def __init__(self, tensors: Iterable[torch.Tensor], chance: random.Random) -> None:
        """Nothing is moved yet.

        Args:
            tensors: on the processor. One that shares its memory with another, or is part of a larger one, stays where
                it is.
            chance: of the order and of the places.
        """
        self.tensors: Sequence[torch.Tensor] = _alone(tensors)
        self.chance = chance

    def move(self) -> None:
        """Copy them to other places, one by one and in random order, up to 64 MiB; they stay the same objects."""
        count, copied = self.chance.randint(1, _PADS), 0
        pads = [torch.empty(self.chance.randint(1, _PAD_BYTES), dtype=torch.uint8) for _ in range(count)]
        for tensor in self.chance.sample(self.tensors, len(self.tensors)):
            copied += tensor.nbytes
            if copied > _MOST_BYTES:
                break
            tensor.data = _copy(tensor.data)
        del pads


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """By this thread alone: PyTorch has others copy, which would spin on afterwards."""
    there = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    ctypes.memmove(there.data_ptr(), tensor.data_ptr(), tensor.nbytes)
    return there


def _alone(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Those that have a memory of their own and fill it, each once."""
    by_memory: dict[int, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_memory.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    return [
        group[0]
        for group in by_memory.values()
        if len({id(tensor) for tensor in group}) == 1
        and group[0].untyped_storage().nbytes() == group[0].nbytes == group[0].numel() * group[0].element_size() > 0
    ]
