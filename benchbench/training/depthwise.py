"""Depthwise convolutions whose backward is fast on a CPU.

PyTorch's own backward of a depthwise 3-D convolution is left to kernels that oneDNN does not serve: on a CPU with AMX a
stage of 24 channels and 16x16x16 voxels needs ten times as long for the gradient of its input as for the forward, and
four times as long in bf16 as in fp32 for that of its weight. The gradient of the input is a forward with the flipped
weight; that of the weight is computed in fp32. Both are the same sums, to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv3d_weight


@contextlib.contextmanager
def fast_depthwise_backward(model: nn.Module, device: str) -> Iterator[None]:
    """Inside, on a CPU, the depthwise convolutions of a network have the backward of this module.

    These are `Conv3d` modules of one channel a group with an odd kernel, stride 1 and zeros as padding that keep the
    size of the map; all others stay as they are, and so does everything on a GPU.
    """
    convolutions = [m for m in model.modules() if type(m) is nn.Conv3d and _is_served(m)]
    chosen = convolutions if device == "cpu" else []
    try:
        for module in chosen:
            setattr(module, "forward", _forward_of(module))  # noqa: B010 - a method may not be assigned to
        yield
    finally:
        for module in chosen:
            del module.forward


def _is_served(module: nn.Conv3d) -> bool:
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    plain = module.stride == module.dilation == (1, 1, 1) and module.padding_mode == "zeros"
    same = all(side % 2 for side in module.kernel_size) and module.padding in (
        "same",
        tuple(side // 2 for side in module.kernel_size),
    )
    return depthwise and plain and same and "forward" not in vars(module)


def _forward_of(module: nn.Conv3d) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.ndim != 5:
            return nn.Conv3d.forward(module, x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        output: Tensor = _DepthwiseConvolution.apply(x, module.weight)  # type: ignore[no-untyped-call]
        return output if module.bias is None else output + module.bias.to(output.dtype)[:, None, None, None]

    return forward


class _DepthwiseConvolution(torch.autograd.Function):
    """(B, C, D, H, W) and a weight (C, 1, kD, kH, kW) in fp32 -> (B, C, D, H, W) in the input's precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x = _convolve(gradient, weight.flip(2, 3, 4)) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = conv3d_weight(  # type: ignore[no-untyped-call]
                x.float(), list(weight.shape), gradient.float(), padding=_padding(weight), groups=len(weight)
            )
        return of_x, of_weight


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return F.conv3d(x, weight.to(x.dtype), padding=_padding(weight), groups=len(weight))


def _padding(weight: Tensor) -> tuple[int, int, int]:
    d, h, w = weight.shape[2:]
    return d // 2, h // 2, w // 2
