"""SegFormer3D: a pyramid of four transformer stages, and a decoder of nothing but pointwise layers.

Each stage halves the map with an overlapping convolution and attends to a shortened sequence of keys;
position comes from a depthwise convolution inside each MLP, so no size is baked in.

More than half of the MACs are one pointwise layer, the decoder's fusion at a quarter of the resolution; and the
logits are made there too, so what they draw is no finer than 4 voxels.

Source: Perera et al., "SegFormer3D", CVPR Workshops 2024, arXiv 2404.10156, and the 2D original,
Xie et al., "SegFormer", NeurIPS 2021, arXiv 2105.15203. Written from the papers; of the public code
(GPL-3.0) only the published configuration's numbers are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import check_positive, check_sides, check_widths_per_head

_KERNELS = (7, 3, 3, 3)  # of the four downsampling convolutions; wider than their strides, so patches overlap
_STRIDES = (4, 2, 2, 2)


class SegFormer3D(nn.Module):
    """SegFormer3D for inputs whose sides are a multiple of 32, whatever `spatial` it was built for."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (4, 2, 1, 1),
        mlp_ratio: int = 4,
        decoder_width: int = 256,
        dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; only checked.
            widths: of the four stages.
            depths: blocks in each stage.
            heads: attention heads in each stage; must divide that stage's width.
            reductions: by how much each axis of the keys' map is shortened in each stage.
            mlp_ratio: width inside a block's MLP over the stage's width.
            decoder_width: of every stage's features in the decoder.
            dropout: of whole channels before the logits, in training.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        super().__init__()
        check_positive(
            "SegFormer3D",
            in_channels=in_channels,
            out_channels=out_channels,
            mlp_ratio=mlp_ratio,
            decoder_width=decoder_width,
        )
        lists = {"widths": widths, "depths": depths, "heads": heads, "reductions": reductions}
        for name, values in lists.items():
            if len(values) != len(_STRIDES) or any(v < 1 for v in values):
                raise ValueError(f"SegFormer3D needs {len(_STRIDES)} positive {name}, not {tuple(values)}")
        for stage, (width, n_heads) in enumerate(zip(widths, heads, strict=True), 1):
            check_widths_per_head(f"SegFormer3D stage {stage}", width=width, heads=n_heads)
        reach = (math.prod(_STRIDES[: i + 1]) * reduction for i, reduction in enumerate(reductions))
        self.multiple_of = math.lcm(*reach)
        check_sides("SegFormer3D", spatial, self.multiple_of)

        before = (in_channels, *widths[:-1])
        self.downs = nn.ModuleList(
            nn.Conv3d(narrow, wide, kernel, stride, padding=kernel // 2)
            for narrow, wide, kernel, stride in zip(before, widths, _KERNELS, _STRIDES, strict=True)
        )
        self.down_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.encoder = nn.ModuleList(
            Stage(Block(width, n_heads, reduction, mlp_ratio) for _ in range(depth))
            for width, depth, n_heads, reduction in zip(widths, depths, heads, reductions, strict=True)
        )
        self.stage_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.decoder = nn.ModuleList(nn.Linear(width, decoder_width) for width in widths)
        self.fuse = nn.Sequential(
            nn.Conv3d(len(widths) * decoder_width, decoder_width, 1, bias=False),
            nn.BatchNorm3d(decoder_width),
            nn.ReLU(),
            nn.Dropout3d(dropout),
        )
        self.head = nn.Conv3d(decoder_width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        sides = check_sides("SegFormer3D", tuple(x.shape[2:]), self.multiple_of)
        features = []
        for i, down in enumerate(self.downs):
            x = down(x)
            grid = x.shape[2:]
            tokens = self.down_norms[i](_as_tokens(x))
            tokens = self.stage_norms[i](self.encoder[i](tokens, grid))
            x = _as_map(tokens, grid)
            features.append(_as_map(self.decoder[i](tokens), grid))
        finest = features[0].shape[2:]
        same = [_resize(f, finest) for f in features[::-1]]  # deepest first
        return _resize(self.head(self.fuse(torch.cat(same, dim=1))), sides)


def _as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, N, C) -> (B, C, D, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def _as_tokens(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def _resize(x: Tensor, sides: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(sides):
        return x
    return F.interpolate(x, size=tuple(sides), mode="trilinear", align_corners=False)


class Stage(nn.ModuleList):
    """Blocks one after another on the same grid. (B, N, C) -> the same."""

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, N, C), and the (D, H, W) that the N tokens lie on -> (B, N, C)."""
        for block in self:
            tokens = block(tokens, grid)
        return tokens


class Block(nn.Module):
    """Attention and a position-aware MLP, each behind a LayerNorm and around a residual. (B, N, C) -> the same."""

    def __init__(self, width: int, heads: int, reduction: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = ReducedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixMLP(width, mlp_ratio * width)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, N, C), and the (D, H, W) that the N tokens lie on -> (B, N, C)."""
        tokens = tokens + self.attention(self.norm1(tokens), grid)
        return tokens + self.mlp(self.norm2(tokens), grid)  # type: ignore[no-any-return]


class ReducedAttention(nn.Module):
    """Self-attention in which all tokens ask, and a strided convolution of them answers. (B, N, C) -> the same."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.temperature = heads, math.sqrt(width // heads)  # stays, should heads lose channels
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.reduce = nn.Conv3d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, N, C), and the (D, H, W) that the N tokens lie on -> (B, N, C)."""
        source = tokens
        if self.reduce is not None and self.reduce_norm is not None:
            source = self.reduce_norm(_as_tokens(self.reduce(_as_map(tokens, grid))))  # (B, N / reduction^3, C)
        q = self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C/heads)
        pairs: Tensor = self.key_value(source).unflatten(2, (2, self.heads, -1))
        k, v = pairs.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, keys, C/heads)
        weights = (q @ k.transpose(-2, -1) / self.temperature).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MixMLP(nn.Module):
    """An MLP with a depthwise convolution inside, from whose zero padding tokens learn where they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.mix = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, N, C), and the (D, H, W) that the N tokens lie on -> (B, N, C)."""
        x = _as_map(self.widen(tokens), grid)
        return self.narrow(_as_tokens(F.gelu(self.mix(x))))  # type: ignore[no-any-return]
