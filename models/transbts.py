"""TransBTS: a convolutional encoder, a transformer over its 8x smaller map, a convolutional decoder with skips.

The network scores the background and each class; an output here is a class's score less that of the
background, so its sigmoid is the softmax of the two. With three classes these are the public code's
four scores.

Some of it does nothing: the decoder takes the last transformer layer as it is, so the LayerNorm behind it has no
effect, and the projection for the other way of making tokens (cutting the map into patches) is held and never called.
Both are kept, since they are in the published checkpoints and counts. The published code also drops channels of its
first convolution at random in evaluation; here dropout stops there.

Source: Wang et al., "TransBTS", MICCAI 2021, doi 10.1007/978-3-030-87193-2_11; the public code for
what the paper leaves open: 3x3x3 token convolution, 8 groups a norm, residuals of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_input, check_positive, check_sides, check_widths_per_head

_GROUPS = 8  # of every GroupNorm in the encoder
_WIDENING = 32  # a token's width over that of the first stage
_MAP_WIDENING = 8  # the smallest map's width over that of the first stage


class TransBTS(nn.Module):
    """TransBTS with 8x downsampling and a learned position embedding, for one fixed input size."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        embed_dim: int = 512,
        mlp_dim: int = 4096,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        stem_dropout: float = 0.2,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 8.
            embed_dim: width of a token; the convolutional stages are 1/32, 1/16, 1/8 and 1/4 of it wide.
            mlp_dim: width inside each transformer layer's MLP.
            layers: of the transformer.
            heads: attention heads; must divide `embed_dim`.
            dropout: in the transformer, in training.
            stem_dropout: of whole channels behind the first convolution, in training.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        super().__init__()
        check_positive("TransBTS", in_channels=in_channels, out_channels=out_channels, mlp_dim=mlp_dim, layers=layers)
        check_widths_per_head("TransBTS", embed_dim=embed_dim, heads=heads)
        if embed_dim % (_WIDENING * _GROUPS):
            raise ValueError(
                f"TransBTS: embed_dim must be a multiple of {_WIDENING * _GROUPS}, so that its first stage, "
                f"{_WIDENING} times narrower, has {_GROUPS} groups of channels; not {embed_dim}"
            )
        self.in_channels, self.spatial = in_channels, check_sides("TransBTS", spatial, 8)
        self.grid = tuple(side // 8 for side in self.spatial)
        width = embed_dim // _WIDENING
        deepest = _MAP_WIDENING * width

        self.stem = nn.Conv3d(in_channels, width, 3, padding=1)
        self.stem_dropout = nn.Dropout3d(stem_dropout)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(PreNormBlock(width << stage) for _ in range(n_blocks)))
            for stage, n_blocks in enumerate((1, 2, 2, 4))
        )
        self.downs = nn.ModuleList(
            nn.Conv3d(width << stage, width << stage + 1, 3, stride=2, padding=1) for stage in range(3)
        )
        self.to_tokens = nn.Sequential(nn.BatchNorm3d(deepest), nn.ReLU(), nn.Conv3d(deepest, embed_dim, 3, padding=1))
        self.patch_projection = nn.Linear(in_channels * deepest, embed_dim)  # of the reference; never called
        self.position_embedding = nn.Parameter(torch.zeros(1, math.prod(self.grid), embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Sequential(*(TransformerLayer(embed_dim, mlp_dim, heads, dropout) for _ in range(layers)))
        self.last_norm = nn.LayerNorm(embed_dim)  # of the reference; its result is not used there either
        self.to_map = nn.ModuleList([PostNormBlock(embed_dim, deepest), PostNormBlock(deepest, deepest)])
        self.ups = nn.ModuleList(UpJoin(width << stage + 1) for stage in range(3))
        self.decoder = nn.ModuleList(PostNormBlock(width << stage, width << stage) for stage in range(3))
        self.head = nn.Conv3d(width, 1 + out_channels, 1)  # the background, then each class

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_input("TransBTS", x.shape, self.in_channels, self.spatial)
        x = self.stem_dropout(self.stem(x))
        skips = []
        for stage, down in zip(self.encoder, self.downs, strict=False):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.to_tokens(self.encoder[-1](x))
        x = self.dropout(x.flatten(2).transpose(1, 2) + self.position_embedding)  # (B, N, embed_dim)
        x = self.transformer(x).transpose(1, 2).unflatten(2, self.grid)
        for block in self.to_map:
            x = block(x)
        for up, block, skip in zip(self.ups[::-1], self.decoder[::-1], skips[::-1], strict=True):
            x = block(up(x, skip))
        scores = self.head(x)  # (B, 1 + out_channels, D, H, W)
        return scores[:, 1:] - scores[:, :1]  # type: ignore[no-any-return]


class PreNormBlock(nn.Module):
    """Norm, ReLU, convolution, twice, around a residual. (B, C, D, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        y = self.conv1(self.norm1(x).relu())
        return x + self.conv2(self.norm2(y).relu())  # type: ignore[no-any-return]


class PostNormBlock(nn.Module):
    """Convolution, norm, ReLU, twice; around a residual where the width stays. (B, C, D, H, W) -> (B, C', D, H, W)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(after)
        self.conv2 = nn.Conv3d(after, after, 3, padding=1)
        self.norm2 = nn.BatchNorm3d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D, H, W)."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        return x + y if x.shape == y.shape else y  # type: ignore[no-any-return]


class UpJoin(nn.Module):
    """Half the channels, twice the sides, then joined with the skip and mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = nn.Conv3d(channels, half, 1)
        self.up = nn.ConvTranspose3d(half, half, kernel_size=2, stride=2)
        self.mix = nn.Conv3d(channels, half, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, D, H, W) and (B, C/2, 2D, 2H, 2W) -> (B, C/2, 2D, 2H, 2W)."""
        return self.mix(torch.cat((skip, self.up(self.narrow(x))), dim=1))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and around a residual. (B, N, C) -> the same."""

    def __init__(self, width: int, mlp_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.temperature = heads, math.sqrt(width // heads)  # stays, should heads lose channels
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp_dim, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.dropout(self.projection(self._attend(self.norm1(x))))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)  # each (B, heads, N, C/heads)
        weights = (q @ k.transpose(-2, -1) / self.temperature).softmax(dim=-1)
        return (self.attention_dropout(weights) @ v).transpose(1, 2).flatten(2)  # type: ignore[no-any-return]
