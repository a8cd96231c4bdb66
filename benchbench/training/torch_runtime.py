"""PyTorch runtime settings on a CPU: wrong kernels avoided, memory and layout that make them fast.

The one kernel known to give wrong numbers: on a CPU with AVX512-BF16, PyTorch 2.13's weight gradient of a 3x3x3
convolution in bf16 holds uninitialised memory where the first two sides of the map are 2 or less (the deepest stage
of a U-Net on a small patch). The loss does not show it: only the gradient is garbage, and only now and then.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
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


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, PyTorch computes with so many threads; None: as it has them."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, for the next ones; a hint, where the C library is glibc.

    Otherwise each large activation is mapped anew and its pages are zeroed, once a layer and step. The whole process
    is changed, and for good: it is for one that does nothing but train.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library, or another system


def channels_last(model: nn.Module, device: str) -> bool:
    """Lay out a network's weights so that each voxel's channels are neighbours, on a CPU; returns whether it was done.

    oneDNN's convolutions need no copies then: a step of a small U-Net takes 0.8 of the time. The values are the same.
    """
    if device != "cpu":
        return False
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 5:  # what has four axes, such as the weight of a 2-D convolution, has no such layout
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last_3d)
    return True


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 autocast is faster than fp32 there: a GPU that has it, or a CPU with AVX512-BF16 or AMX."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    instructions = capabilities()
    return bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))


def describe_device(device: str) -> str:
    """The name of a GPU or CPU, as far as torch or the system knows it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return str(capabilities().get("cpu_name") or platform.processor() or platform.machine())
