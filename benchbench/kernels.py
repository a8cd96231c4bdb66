"""Kernels that give wrong numbers, and what is done instead.

The one known: on a CPU with AVX512-BF16, PyTorch 2.13's weight gradient of a 3x3x3 convolution in bf16
holds uninitialised memory where the first two sides of the map are 2 or less (the deepest stage of a
U-Net on a small patch). The surprise is that the loss shows nothing: only the gradient is garbage, and
only now and then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_BROKEN_BELOW = 3  # voxels: both of a map's first two sides below this


@contextlib.contextmanager
def exact_small_convolutions(model: nn.Module) -> Iterator[None]:
    """Inside, under bf16 autocast on a CPU, the convolutions of tiny maps run in fp32.

    Args:
        model: its `Conv3d` get hooks, which are gone afterwards.
    """
    switched_off: list[bool] = []

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x = args[0]
        broken = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and max(x.shape[2:4]) < _BROKEN_BELOW
        switched_off.append(broken)
        if not broken:
            return None
        torch.set_autocast_enabled("cpu", False)
        return (x.float(), *args[1:])

    def after(*_: Any) -> None:
        if switched_off.pop():
            torch.set_autocast_enabled("cpu", True)

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    hooks = [m.register_forward_pre_hook(before) for m in convolutions]
    hooks += [m.register_forward_hook(after, always_call=True) for m in convolutions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
