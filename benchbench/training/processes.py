"""Processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator


def is_distributed() -> bool:
    """Whether this process trains together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """True on rank 0, and without torchrun."""
    return not is_distributed() or os.environ.get("RANK") == "0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroup:
    """The processes of one training."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """True on rank 0, which writes files and reports progress."""
        return self.rank == 0

    def from_main_process(self, value: float, device: str) -> float:
        """The value of rank 0, in all processes."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, 0)
        return float(shared)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()


@contextlib.contextmanager
def training_group(device: str) -> Iterator[TrainingGroup]:
    """The group that torchrun started this process in; a group of one without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield TrainingGroup()
        return
    from torch import distributed

    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield TrainingGroup(rank=distributed.get_rank(), size=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
