"""PyTorch runtime settings: what bf16 makes wrong runs in fp32, and a memory layout that is faster.

On a CPU with AVX512-BF16, PyTorch 2.13's weight gradient of a 3x3x3 convolution in bf16 holds uninitialised memory if
the first two sides of the feature map are 2 or less (the deepest stage of a U-Net on a small patch). The loss does not
show it, and the gradient is wrong only in some runs.

On a CPU autocast to bf16 computes the softmax in bf16, too. Slim UNETR's attention takes a map that no norm bounds, so
its logits grow in training, and their rounding with them, until gradients of 1e5 and more end the training: at a rate
of 8e-3 after 120 steps, at 4e-3 after some 1200. With the attention in fp32 it goes on as it does in fp32 as a whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_BROKEN_BELOW = 3  # voxels: both of a map's first two sides below this


@contextlib.contextmanager
def fp32_where_bf16_is_wrong(model: nn.Module) -> Iterator[None]:
    """Inside, under bf16 autocast, some modules run in fp32 (by hooks).

    These are, on a CPU, convolutions of tiny maps, and everywhere the modules of a class that says `fp32_in_training`.
    """
    switched_off: list[bool] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x = args[0]
        device = x.device.type
        broken = getattr(module, "fp32_in_training", False) or (device == "cpu" and max(x.shape[2:4]) < _BROKEN_BELOW)
        switched_off.append(broken and torch.is_autocast_enabled(device))
        if not switched_off[-1]:
            return None
        torch.set_autocast_enabled(device, False)
        return (x.float(), *args[1:])

    def after(_: nn.Module, args: tuple[Any, ...], __: Any) -> None:
        if switched_off.pop():
            torch.set_autocast_enabled(args[0].device.type, True)

    modules = [m for m in model.modules() if isinstance(m, nn.Conv3d) or getattr(m, "fp32_in_training", False)]
    hooks = [m.register_forward_pre_hook(before) for m in modules]
    hooks += [m.register_forward_hook(after, always_call=True) for m in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, PyTorch uses this number of threads; None: unchanged."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep freed memory for the next tensors; with another C library than glibc, do nothing.

    Otherwise the pages of each large activation are mapped and zeroed anew, in every layer and step. This changes the
    whole process for good, so it is for one that only trains.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library, or another system


def channels_last(model: nn.Module, device: str) -> bool:
    """Give a network's weights the channels-last layout, on a CPU; returns whether it was done.

    oneDNN's convolutions then need no copies: a step of a small U-Net takes 0.8 of the time, with the same values.
    """
    if device != "cpu":
        return False
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 5:  # others, such as the weight of a 2-D convolution, have no such layout
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last_3d)
    return True


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 autocast is faster than fp32: on a GPU with bf16, or a CPU with AVX512-BF16 or AMX."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = _cpu_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe_device(device: str) -> str:
    """Name of a GPU or CPU, from torch or the system."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return str(_cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def _cpu_capabilities() -> dict[str, Any]:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities
