"""nnU-Net with a residual encoder: what nnU-Net's authors recommend today (ResEnc M, L, XL).

A deep encoder of ResNet-D blocks and a decoder of one convolution a stage: the parameters are in the
encoder's narrow end, the MACs in its wide one. Where a block halves the sides, its residual is averaged,
not strided, and projected only if the width changes too. The deep-supervision heads of the public code,
which its inference leaves unused, are left out.

Source: Isensee et al., "nnU-Net Revisited", MICCAI 2024, doi 10.48550/arXiv.2404.09556.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_positive, check_sides


class NNUNetResEnc(nn.Module):
    """A U-Net with a residual encoder, from a plan; fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
        strides: Sequence[int] = (1, 2, 2, 2, 2, 2),
        blocks: Sequence[int] = (1, 3, 4, 6, 6, 6),
        decoder_convs: Sequence[int] = (1, 1, 1, 1, 1),
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of the product of the strides.
            filters: width of each encoder stage.
            strides: of each encoder stage's first convolution, the same along all axes.
            blocks: residual blocks of each encoder stage.
            decoder_convs: convolutions of each decoder stage, deepest first; one entry less.

        Raises:
            ValueError: entries that do not match in number, a number below 1, or sides that do not fit the strides.
        """
        super().__init__()
        check_positive("nnU-Net ResEnc", in_channels=in_channels, out_channels=out_channels)
        counts = {"filters": filters, "strides": strides, "blocks": blocks, "decoder_convs": decoder_convs}
        lengths = [len(values) for values in counts.values()]
        if lengths[0] < 2 or lengths != [lengths[0]] * 3 + [lengths[0] - 1] or min(map(min, counts.values())) < 1:
            raise ValueError(
                "nnU-Net ResEnc needs one filters, strides and blocks per stage, one decoder_convs less, two stages "
                "or more and all from 1, not " + ", ".join(f"{name} {tuple(v)}" for name, v in counts.items())
            )
        self.multiple_of = math.prod(strides)
        check_sides("nnU-Net ResEnc", spatial, self.multiple_of, least_voxels=2)

        self.stem = nn.Sequential(*_conv(in_channels, filters[0]), _activation())
        self.encoder = nn.ModuleList(
            nn.Sequential(ResidualBlock(before, width, stride), *(ResidualBlock(width, width) for _ in range(n - 1)))
            for before, width, stride, n in zip((filters[0], *filters[:-1]), filters, strides, blocks, strict=True)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(below, width, kernel_size=stride, stride=stride)
            for below, width, stride in zip(filters[:0:-1], filters[-2::-1], strides[:0:-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*(_step(width if i else 2 * width, width) for i in range(n)))
            for width, n in zip(filters[-2::-1], decoder_convs, strict=True)
        )
        self.head = nn.Conv3d(filters[0], out_channels, kernel_size=1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("nnU-Net ResEnc", tuple(x.shape[2:]), self.multiple_of, least_voxels=2)
        x = self.stem(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = stage(torch.cat((up(x), skips.pop()), dim=1))
        return self.head(x)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions and a residual, as in ResNet-D. (B, before, ...) -> (B, after, .../stride)."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        conv, norm = _conv(after, after)
        nn.init.zeros_(norm.weight)  # a block starts as its residual alone
        self.layers = nn.Sequential(*_conv(before, after, stride), _activation(), conv, norm)
        residual: list[nn.Module] = []
        if stride != 1:
            residual.append(nn.AvgPool3d(stride, stride))
        if before != after:
            residual += [nn.Conv3d(before, after, kernel_size=1, bias=False), nn.InstanceNorm3d(after, affine=True)]
        self.residual = nn.Sequential(*residual)
        self.activation = _activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D/stride, H/stride, W/stride)."""
        return self.activation(self.layers(x) + self.residual(x))  # type: ignore[no-any-return]


def _conv(before: int, after: int, stride: int = 1) -> tuple[nn.Conv3d, nn.InstanceNorm3d]:
    conv = nn.Conv3d(before, after, kernel_size=3, stride=stride, padding=1)
    return conv, nn.InstanceNorm3d(after, affine=True)


def _step(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_conv(before, after), _activation())


def _activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.01, inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
