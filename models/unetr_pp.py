"""UNETR++: stages of paired attention, over space and over channels, with shared queries and keys.

Keys and values of the spatial attention are projected from all N voxels to a few dozen, by a learned
matrix of N rows: that keeps it linear in N, and ties a network to one input size. These matrices
and the position embeddings are bare Parameters, more than half of all the network holds.

The spatial attention's output (B, heads, N, width of a head) is read back as tokens in the order (width of a head,
heads, N), so that channels and positions are mixed. The published weights depend on it, and it is kept.

Source: Shaker et al., "UNETR++", IEEE TMI 2024, doi 10.1109/TMI.2024.3398728; the public code of its
tumour configuration for what the paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_input, check_positive, check_sides

_STRIDES = (4, 2, 2, 2)  # of the four downsampling convolutions
_UP_PROJECTED = 64  # keys of the spatial attention in every decoder stage
_UP_BLOCKS = 3  # in every decoder stage
_DROPPED_CHANNELS = 0.1  # share of channels dropped behind a block's convolutions, in training


class UNETRPP(nn.Module):
    """UNETR++ for one fixed input size, without the heads of deep supervision."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        feature_size: int = 16,
        depths: Sequence[int] = (3, 3, 3, 3),
        projected: Sequence[int] = (64, 64, 64, 32),
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 32.
            feature_size: width at full resolution; the stages are 2, 4, 8 and 16 times as wide.
            depths: blocks in each encoder stage.
            projected: keys of the spatial attention in each encoder stage.
            heads: attention heads in every stage; must divide twice the `feature_size`.
            dropout: of attention weights, in training.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        super().__init__()
        check_positive(
            "UNETR++", in_channels=in_channels, out_channels=out_channels, feature_size=feature_size, heads=heads
        )
        for name, values in (("depths", depths), ("projected", projected)):
            if len(values) != len(_STRIDES) or any(v < 1 for v in values):
                raise ValueError(f"UNETR++ needs {len(_STRIDES)} positive {name}, not {tuple(values)}")
        if 2 * feature_size % heads:
            raise ValueError(
                f"UNETR++: heads must divide the narrowest stage, 2 x feature_size, "
                f"but {heads} does not divide {2 * feature_size}"
            )
        self.in_channels = in_channels
        self.spatial = check_sides("UNETR++", spatial, math.prod(_STRIDES))
        widths = tuple(feature_size << stage for stage in range(1, 5))
        grids = [[side // math.prod(_STRIDES[: i + 1]) for side in self.spatial] for i in range(4)]
        tokens = [math.prod(grid) for grid in grids]

        before = (in_channels, *widths[:-1])
        self.downs = nn.ModuleList(Downsample(*a) for a in zip(before, widths, _STRIDES, strict=True))
        self.encoder = nn.ModuleList(
            nn.Sequential(*(PairedBlock(width, n, keys, heads, dropout) for _ in range(depth)))
            for width, n, keys, depth in zip(widths, tokens, projected, depths, strict=True)
        )
        self.full_resolution = ResidualBlock(in_channels, feature_size, nn.InstanceNorm3d)
        narrower = (feature_size, *widths[:-1])
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(wide, narrow, kernel_size=stride, stride=stride, bias=False)
            for wide, narrow, stride in zip(widths, narrower, _STRIDES, strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*(PairedBlock(width, n, _UP_PROJECTED, heads, dropout) for _ in range(_UP_BLOCKS)))
            for width, n in zip(widths[:-1], tokens[:-1], strict=True)
        )
        self.decoder.insert(0, ResidualBlock(feature_size, feature_size, nn.InstanceNorm3d))
        self.head = nn.Conv3d(feature_size, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_input("UNETR++", x.shape, self.in_channels, self.spatial)
        skips = [self.full_resolution(x)]
        for down, stage in zip(self.downs, self.encoder, strict=True):
            x = stage(down(x))
            skips.append(x)
        x = skips.pop()
        for up, stage in zip(self.ups[::-1], self.decoder[::-1], strict=True):
            x = stage(up(x) + skips.pop())
        return self.head(x)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Convolution of kernel = stride, and a GroupNorm of as many groups as channels came in.

    Where these do not divide the new width, their greatest common divisor is taken.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, kernel_size=stride, stride=stride, bias=False)
        self.norm = nn.GroupNorm(math.gcd(before, after), after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D/stride, H/stride, W/stride)."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class PairedBlock(nn.Module):
    """Paired attention, scaled into a residual, then two convolutions and a pointwise one around another.

    (B, C, D, H, W) -> the same.
    """

    def __init__(self, channels: int, tokens: int, projected: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.zeros(1, tokens, channels))
        self.norm = nn.LayerNorm(channels)
        self.attention = PairedAttention(channels, tokens, projected, heads, dropout)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.convs = ResidualBlock(channels, channels, nn.BatchNorm3d)
        self.mix = nn.Sequential(nn.Dropout3d(_DROPPED_CHANNELS), nn.Conv3d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        tokens = x.flatten(2).transpose(1, 2) + self.position_embedding  # (B, N, C)
        tokens = tokens + self.gamma * self.attention(self.norm(tokens))
        x = tokens.transpose(1, 2).reshape(x.shape)
        return x + self.mix(self.convs(x))  # type: ignore[no-any-return]


class PairedAttention(nn.Module):
    """Attention among channels plus attention over space, from the same queries and keys. (B, N, C) -> the same.

    The one projection's channels lie [query, key, value of channels, value of space][head][head width].
    """

    def __init__(self, channels: int, tokens: int, projected: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkvv = nn.Linear(channels, 4 * channels, bias=False)
        self.projection = nn.Parameter(torch.empty(tokens, projected).uniform_(-1, 1) / math.sqrt(projected))
        self.channel_temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.space_temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.channel_dropout = nn.Dropout(dropout)
        self.space_dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.qkvv.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        split = self.qkvv(x).unflatten(2, (4, self.heads, -1)).permute(2, 0, 3, 4, 1)
        q, k, v_channel, v_space = split.unbind(0)  # each (B, heads, C/heads, N)
        k_few, v_few = k @ self.projection, v_space @ self.projection  # (B, heads, C/heads, projected)
        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)  # each channel over all voxels

        weights = (q @ k.transpose(-2, -1) * self.channel_temperature).softmax(dim=-1)  # (B, heads, C/heads, C/heads)
        by_channel = (self.channel_dropout(weights) @ v_channel).permute(0, 3, 1, 2).reshape(x.shape)

        weights = (q.transpose(-2, -1) @ k_few * self.space_temperature).softmax(dim=-1)  # (B, heads, N, projected)
        by_space = self.space_dropout(weights) @ v_few.transpose(-2, -1)  # (B, heads, N, C/heads)
        mixed = by_space.permute(0, 3, 1, 2).reshape(x.shape)  # as published: not the order of by_channel
        return by_channel + mixed  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions around a residual, which is projected where the width changes."""

    def __init__(self, before: int, after: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1, bias=False)
        self.norm1 = norm(after)
        self.conv2 = nn.Conv3d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.activation = nn.LeakyReLU(0.01)
        self.shortcut = (
            nn.Sequential(nn.Conv3d(before, after, 1, bias=False), norm(after)) if before != after else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D, H, W)."""
        y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        return self.activation(y + self.shortcut(x))  # type: ignore[no-any-return]
