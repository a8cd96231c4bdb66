"""Slim UNETR with the defects of its published code corrected; otherwise the same parameters.

What differs from `slim_unetr`, and only this:

- attention is scaled by the square root of a head's width;
- the sampler is a true average over r x r x r voxels. The published `AvgPool3d(kernel_size=1,
  stride=r)` hands one voxel of each cell to the attention. Choosing one could be meant, since the
  local mixing before it reaches three voxels to each side; but the operator is named a pool, no
  single voxel stands for its cell better than the rest, and the average costs no parameter;
- tokens are transposed back before they become a map again;
- logits are not normalised: the head's GroupNorm is gone, and with it its 2 x out_channels
  parameters, so that none is held unused;
- the position embedding is interpolated to other grids, and any input is padded at its far sides
  with zeros (what lies outside of a head in normalised MRI) and cropped back, so one network takes
  any size.

A logit still depends a little on the whole patch, also on how much was padded, since the norms between the stages
remain and take all voxels together.

`padding="stages"` pads less: not the input, to a multiple of every stride, but each stage's map, as far as its own
stride needs. An input of 40x56x40 voxels is computed on as 64x64x64 otherwise, 2.9 times the voxels. Weights are the
same, and so are the logits where nothing has to be padded; elsewhere they are those of another network, since the norms
see less of the padding. So trained weights need the padding that they were trained with.

Source: Pang et al., "Slim UNETR", IEEE TMI 2023, doi 10.1109/TMI.2023.3326188; the corrections are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import check_sides
from .slim_unetr import SlimBlock, SlimUNETR, SparseAttention, cropped

_LATER_STRIDES = (1, 2, 4, 8)  # of the four stages' maps against the first one's


class SlimUNETRFixed(SlimUNETR):
    """Slim UNETR, corrected, for inputs of any size; best near the `spatial` that it was trained at."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        r: Sequence[int] = (4, 2, 2, 1),
        stem: int = 4,
        padding: Literal["whole", "stages"] = "whole",
        **kwargs: Any,
    ) -> None:
        """Build the network; arguments are those of `SlimUNETR`.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W), voxels, that the position embedding is laid out for; any, rounded up
                to a multiple of 32, with the usual strides, unless stages are padded.
            r: side of the cells that the sampler averages, in each stage.
            stem: stride of the first downsampling convolution, and of the head.
            padding: of the `whole` input, to a multiple of all strides and cells, or of each of the `stages`.
            kwargs: the other arguments of `SlimUNETR`.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        if padding not in ("whole", "stages"):
            raise ValueError(f"the padding of Slim UNETR (fixed) is 'whole' or 'stages', not {padding!r}")
        sides = check_sides("Slim UNETR (fixed)", spatial, 1)
        strides = [max(1, stem) * stride for stride in _LATER_STRIDES]
        multiple_of = math.lcm(*(s * max(1, cell) for s, cell in zip(strides, r, strict=False)))
        whole = tuple(_round_up(side, multiple_of) for side in sides)
        super().__init__(in_channels, out_channels, whole, r=r, stem=stem, **kwargs)
        self.strides = (stem, 2, 2, 2)
        by_stage = padding == "stages"
        self.multiple_of = 1 if by_stage else multiple_of  # to which the input is padded
        self.spatial = sides if by_stage else whole
        self.grid = tuple(-(-side // strides[-1]) for side in self.spatial)
        if (tokens := math.prod(self.grid)) != self.position_embedding.shape[1]:
            self.position_embedding = nn.Parameter(torch.zeros(1, tokens, self.position_embedding.shape[2]))
        for block in self.modules():
            if isinstance(block, SlimBlock):
                plain = block.attention.qkv
                block.attention = PooledAttention(
                    plain.in_channels, block.attention.heads, block.attention.r, plain.out_channels // 3
                )
        self.ups[0].norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W); D, H and W are any."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"this Slim UNETR (fixed) takes (B, {self.in_channels}, D, H, W), not {tuple(x.shape)}; "
                "build it with the channels of the input"
            )
        d, h, w = check_sides("Slim UNETR (fixed)", tuple(x.shape[2:]), 1)
        x = padded(x, self.multiple_of)
        skips = []
        for down, stride, stage in zip(self.downs, self.strides, self.encoder, strict=True):
            x = stage(down(padded(x, stride)))
            skips.append(x)
        grid = skips.pop().shape[2:]
        x = self.dropout(x + self._positions(grid))
        for up, stage in zip(self.ups[::-1], self.decoder[::-1], strict=True):
            x = up(stage(x))
            if skips:
                skip = skips.pop()
                x = cropped(x, skip.shape[2:]) + skip
        return x[:, :, :d, :h, :w]

    def _positions(self, grid: Sequence[int]) -> Tensor:
        """The position embedding as a map (1, embed_dim, *grid)."""
        own = self.position_embedding.transpose(1, 2).reshape(1, -1, *self.grid)
        if tuple(grid) == self.grid:
            return own
        return F.interpolate(own, size=tuple(grid), mode="trilinear", align_corners=False)


def _round_up(side: int, multiple_of: int) -> int:
    return -(-side // multiple_of) * multiple_of


def padded(x: Tensor, multiple_of: int) -> Tensor:
    """A map (B, C, D, H, W) with zeros at its far sides, which then are multiples of a stride."""
    missing = [-side % multiple_of for side in reversed(x.shape[2:])]
    return F.pad(x, [pad for side in missing for pad in (0, side)]) if any(missing) else x


def cell_means(x: Tensor, r: int) -> Tensor:
    """Means of the cells of r x r x r voxels of a map, the last of each axis of those that there are.

    (B, C, D, H, W) -> (B, C, ceil(D/r), ceil(H/r), ceil(W/r)).
    """
    means = F.avg_pool3d(padded(x, r), r)
    for axis, side in enumerate(x.shape[2:], 2):
        if missing := -side % r:  # not `ceil_mode`, in which the runtimes of exported networks differ
            whole = int(means.shape[axis]) - 1
            weights = torch.tensor([1.0] * whole + [r / (r - int(missing))], dtype=x.dtype, device=x.device)
            means = means * weights.reshape([-1 if i == axis else 1 for i in range(5)])
    return means


class PooledAttention(SparseAttention):
    """Scaled self-attention among the means of cells of r x r x r voxels. (B, C, D, H, W) -> (B, A, D/r, H/r, W/r).

    D/r, H/r and W/r are rounded up.
    """

    def __init__(self, channels: int, heads: int, r: int, attention: int | None = None) -> None:
        super().__init__(channels, heads, r, attention)
        self.temperature = math.sqrt((attention or channels) // heads)  # stays, should heads lose channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, A, D/r, H/r, W/r)."""
        x = cell_means(x, self.r)
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1)).chunk(3, dim=2)  # each (B, heads, A/heads, N)
        weights = (q.transpose(-2, -1) @ k / self.temperature).softmax(dim=-1)  # (B, heads, N queries, N keys)
        return (v @ weights.transpose(-2, -1)).reshape(len(x), -1, *x.shape[2:])  # type: ignore[no-any-return]
