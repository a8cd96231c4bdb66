"""Microbenchmarks of operators beyond those of the zoo's networks: every common kind over channels and sizes.

Each is a small module, so that its calls are those that PyTorch makes of it under a dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchbench.measure.operators import replay
from benchbench.measure.operators.replay import Call

_CHANNELS = (8, 32, 96, 256)
_SIDES = (4, 8, 16, 32, 64, 128)
_MOST_ELEMENTS = 2**23  # of an activation, 32 MiB in fp32: larger ones are the zoo's own
_MOST_MACS = 5e9
_LARGE_DEPTHWISE = (8, 16)  # channels
_HEADS = 4


class _Empty(nn.Module):
    """The least that a call can be."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()[:1] + 1


class _Elementwise(nn.Module):
    """The triad, activations, and what a softmax or a gate does."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.add(x, x, alpha=3)
        y = nn.functional.gelu(nn.functional.relu(y)) * x
        return torch.softmax(nn.functional.leaky_relu(y, 0.01), 1)


class _Moves(nn.Module):
    """Concatenation, channels last and back, padding."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, x], 1).permute(0, 2, 3, 4, 1).contiguous()
        return nn.functional.pad(y, (0, 0, 1, 1)).permute(0, 4, 1, 2, 3).contiguous()


class _Tokens(nn.Module):
    """A layer norm, a linear layer, and attention in batches of heads, on the voxels as tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.norm(x.flatten(2).transpose(1, 2)))
        q = y.unflatten(-1, (_HEADS, -1)).transpose(1, 2)
        if q.shape[-2] > 16**3:  # nobody attends to that many at once
            return y  # type: ignore[no-any-return]
        return torch.softmax(q @ q.transpose(-1, -2), -1) @ q  # type: ignore[no-any-return]


class _Turned(nn.Module):
    """What networks of tokens do to get back to a volume: its sides do not lie in memory in their order then."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        volume = tokens.transpose(1, 2).reshape(x.shape)
        return self.conv(volume) + nn.functional.relu(volume)  # type: ignore[no-any-return]


class _Resized(nn.Module):
    """Interpolation, of a volume and of tokens that were turned back into one."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        turned = x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(x.shape)

        def twice(volume: Tensor) -> Tensor:
            return nn.functional.interpolate(volume, scale_factor=2.0, mode="trilinear")

        return twice(x), twice(turned)


def _modules(channels: int) -> Iterator[nn.Module]:
    c = channels
    for kernel in (1, 3, 5):
        yield nn.Conv3d(c, c, kernel, padding=kernel // 2)
    yield nn.Conv3d(c, 2 * c, 3, stride=2, padding=1)
    yield nn.Conv3d(c, c, 2, stride=2)
    yield nn.ConvTranspose3d(c, c // 2, 2, stride=2)
    yield nn.Conv3d(c, c, 3, padding=1, groups=c)
    yield nn.Conv3d(c, c, 7, padding=3, groups=c)
    yield nn.Conv3d(c, c, 3, padding=1, groups=4)
    yield nn.InstanceNorm3d(c, affine=True)
    yield nn.BatchNorm3d(c)
    yield nn.GroupNorm(4, c)
    yield from (_Elementwise(), _Moves(), _Tokens(c), _Turned(c), _Resized())


def calls(dtype: str = "fp32") -> list[Call]:
    """The calls of every kind in a type, those left out that are larger than networks have them."""
    every = replay.calls_of(_Empty(), (1, 1, 4, 4, 4), dtype)[0]
    for channels, side in itertools.product(_CHANNELS, _SIDES):
        if channels * side**3 > _MOST_ELEMENTS or channels * side > 4096:  # many channels are at coarse stages
            continue
        for module in _modules(channels):
            traced, _ = replay.calls_of(module.eval(), (1, channels, side, side, side), dtype)
            every += [call for call in traced if call.cost.macs <= _MOST_MACS]
    for channels, kernel in itertools.product(_LARGE_DEPTHWISE, (3, 5)):  # few networks have them, at full resolution
        module = nn.Conv3d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        every += replay.calls_of(module.eval(), (1, channels, *(_SIDES[-1],) * 3), dtype)[0]
    return replay.different(every)
