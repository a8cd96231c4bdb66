"""Convolutions whose training is faster on a CPU if they are computed otherwise, with the same sums.

- Depthwise: PyTorch's backward is left to kernels that oneDNN does not serve. On a CPU with AMX a stage of 24 channels
  and 16x16x16 voxels needs ten times as long for the gradient of its input as for the forward, and that of its weight
  eight times as long in bf16 as in fp32. The former is a forward with the flipped weight, the latter is summed in fp32.
- Pointwise (1x1x1): a matrix product over the voxels, in the channels-last layout without a copy.
- Depthwise transposed with a kernel as large as its stride: each voxel times the kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv3d_weight

_LAYOUT = torch.channels_last_3d  # in which the depthwise kernels are several times as fast as in PyTorch's own
_ONE = (1, 1, 1)

Forward = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def fast_convolutions(model: nn.Module, device: str) -> Iterator[None]:
    """Inside, on a CPU, a network's convolutions of these kinds are computed as this module says.

    All others stay as they are, and so does everything on a GPU. Subclasses are left alone.
    """
    forwards = {module: forward for module in model.modules() if device == "cpu" and (forward := _forward_of(module))}
    try:
        for module, forward in forwards.items():
            setattr(module, "forward", forward)  # noqa: B010 - a method may not be assigned to
        yield
    finally:
        for module in forwards:
            del module.forward


def _forward_of(module: nn.Module) -> Forward | None:
    """Another forward of a module, None for most."""
    if "forward" in vars(module):
        return None
    if type(module) is nn.Conv3d and module.padding_mode == "zeros" and module.stride == module.dilation == _ONE:
        if module.groups == module.in_channels == module.out_channels > 1:
            same = tuple(side // 2 for side in module.kernel_size)
            odd = all(side % 2 for side in module.kernel_size)
            return _for_maps(module, _depthwise) if odd and module.padding in ("same", same) else None
        no_padding = module.padding in ("same", "valid", (0, 0, 0))
        return (
            _for_maps(module, _pointwise) if module.groups == 1 and module.kernel_size == _ONE and no_padding else None
        )
    if type(module) is nn.ConvTranspose3d and module.groups == module.in_channels == module.out_channels > 1:
        spread = module.kernel_size == module.stride and module.dilation == _ONE
        plain = module.padding == module.output_padding == (0, 0, 0)
        return _for_maps(module, _spread) if spread and plain else None
    return None


def _for_maps(module: nn.Module, convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Forward:
    """A forward for maps (B, C, D, H, W); anything else goes to PyTorch's, with its errors."""
    plain: Forward = module.forward
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)

    def forward(x: Tensor) -> Tensor:
        return convolve(x, weight, bias) if x.ndim == 5 else plain(x)  # type: ignore[arg-type]

    return forward


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = _DepthwiseConvolution.apply(_autocast(x), weight)  # type: ignore[no-untyped-call]
    return output if bias is None else output + bias.to(output.dtype)[:, None, None, None]


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def _spread(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, D, H, W) and a weight (C, 1, i, j, k) -> (B, C, D*i, H*j, W*k)."""
    x = _autocast(x)
    i, j, k = weight.shape[2:]
    kernel = weight.to(x.dtype).flatten(0, 1).permute(1, 2, 3, 0)  # (i, j, k, C)
    voxels = x.permute(0, 2, 3, 4, 1)  # (B, D, H, W, C)
    output = voxels[:, :, None, :, None, :, None] * kernel[:, None, :, None, :]  # (B, D, i, H, j, W, k, C)
    if bias is not None:
        output = output + bias.to(output.dtype)
    b, d, h, w, c = voxels.shape
    return output.reshape(b, d * i, h * j, w * k, c).movedim(-1, 1)


def _autocast(x: Tensor) -> Tensor:
    """The input in the precision of autocast, where that is on."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


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
                x.to(torch.float32, memory_format=_LAYOUT),
                list(weight.shape),
                gradient.to(torch.float32, memory_format=_LAYOUT),
                padding=_padding(weight),
                groups=len(weight),
            )
        return of_x, of_weight


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        x = x.contiguous(memory_format=_LAYOUT)
        return F.conv3d(x, weight.to(x.dtype), padding=_padding(weight), groups=len(weight))


def _padding(weight: Tensor) -> tuple[int, int, int]:
    d, h, w = weight.shape[2:]
    return d // 2, h // 2, w // 2
