"""U-Nets as nnU-Net builds them from its plans: a plain or a residual encoder, a decoder of plain convolutions.

All stages may have kernels, strides and numbers of convolutions of their own, for each axis. Where a residual block
halves the sides, its residual is averaged, not strided, and projected only if the width changes too. A stage of the
decoder has the kernel of the encoder's stage of its size. The deep-supervision heads of the public code, which its
inference leaves unused, are left out.

MONAI's DynUNet is the same where all kernels are equal and every stage has two convolutions; its decoder takes the
kernel of the stage below.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, doi 10.1038/s41592-020-01008-z; "nnU-Net Revisited", MICCAI
2024, doi 10.48550/arXiv.2404.09556; layout of dynamic-network-architectures 0.4.4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .blocks import check_positive, check_sides

Sides = tuple[int, int, int]  # for each axis (D, H, W)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What convolutions are followed by, the same in the whole network."""

    bias: bool = True  # of convolutions; those that project a residual have none
    norm: Literal["instance", "batch", "none"] = "instance"
    norm_eps: float = 1e-5
    norm_affine: bool = True
    activation: Literal["leakyrelu", "relu"] = "leakyrelu"
    slope: float = 0.01  # of the leaky ReLU

    def conv(self, before: int, after: int, kernel: Sides = (3, 3, 3), stride: Sides = (1, 1, 1)) -> list[nn.Module]:
        """A convolution and its norm."""
        d, h, w = ((side - 1) // 2 for side in kernel)
        return [nn.Conv3d(before, after, kernel, stride, (d, h, w), bias=self.bias), *self.normed(after)]

    def normed(self, width: int) -> list[nn.Module]:
        """The norm of a width, or nothing."""
        kinds: dict[str, type[nn.Module]] = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}
        if self.norm == "none":
            return []
        return [kinds[self.norm](width, eps=self.norm_eps, affine=self.norm_affine)]

    def activated(self) -> nn.Module:
        """The activation."""
        return nn.ReLU(inplace=True) if self.activation == "relu" else nn.LeakyReLU(self.slope, inplace=True)

    def step(self, before: int, after: int, kernel: Sides, stride: Sides = (1, 1, 1)) -> nn.Sequential:
        """Convolution, norm and activation."""
        return nn.Sequential(*self.conv(before, after, kernel, stride), self.activated())


class NNUNetPlanned(nn.Module):
    """A U-Net from a plan; fully convolutional."""

    title = "nnU-Net"  # in messages

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
        kernels: int | Sequence[int | Sequence[int]] = 3,
        residual: bool = False,
        blocks: Sequence[int] = (2, 2, 2, 2, 2, 2),
        decoder_convs: Sequence[int] = (2, 2, 2, 2, 2),
        bias: bool = True,
        norm: Literal["instance", "batch", "none"] = "instance",
        norm_eps: float = 1e-5,
        norm_affine: bool = True,
        activation: Literal["leakyrelu", "relu"] = "leakyrelu",
        slope: float = 0.01,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of the product of its axis's strides.
            filters: width of each encoder stage.
            strides: of each encoder stage's first convolution, one for all axes or one for each.
            kernels: of the convolutions of all stages, or of each stage's, for all axes or for each.
            residual: whether the encoder has a stem and residual blocks, or plain convolutions.
            blocks: residual blocks, or convolutions, of each encoder stage.
            decoder_convs: convolutions of each decoder stage, deepest first; one entry less.
            bias: whether convolutions have one.
            norm: after each convolution.
            slope: of the leaky ReLU.

        Raises:
            ValueError: entries that do not match in number, a number below 1, an even kernel, or sides that do not fit
                the strides.
        """
        super().__init__()
        check_positive(self.title, in_channels=in_channels, out_channels=out_channels)
        kernels = [kernels] * len(filters) if isinstance(kernels, int) else kernels
        by_axis, kernel = [_sides(stride) for stride in strides], [_sides(side) for side in kernels]
        counts = {"filters": filters, "strides": by_axis, "kernels": kernel, "blocks": blocks}
        counts["decoder_convs"] = decoder_convs
        lengths = [len(values) for values in counts.values()]
        least = min(*filters, *blocks, *decoder_convs, *(side for sides in (*by_axis, *kernel) for side in sides))
        if lengths[0] < 2 or lengths != [lengths[0]] * 4 + [lengths[0] - 1] or least < 1:
            raise ValueError(
                f"{self.title} needs one filters, strides, kernels and blocks per stage, one decoder_convs less, two "
                "stages or more and all from 1, not " + ", ".join(f"{name} {tuple(v)}" for name, v in counts.items())
            )
        if any(side % 2 == 0 for sides in kernel for side in sides):
            raise ValueError(f"{self.title} needs kernels of an odd number of voxels, not {kernel}")
        if norm not in ("instance", "batch", "none") or activation not in ("leakyrelu", "relu"):
            raise ValueError(f"{self.title} has no norm {norm!r} with the activation {activation!r}")
        products = tuple(math.prod(stride[axis] for stride in by_axis) for axis in range(3))
        self.multiple_of = products[0] if len(set(products)) == 1 else products
        self.least_voxels = 2 if norm == "instance" else 1
        check_sides(self.title, spatial, self.multiple_of, least_voxels=self.least_voxels)

        layers = Layers(
            bias=bias, norm=norm, norm_eps=norm_eps, norm_affine=norm_affine, activation=activation, slope=slope
        )
        first = filters[0] if residual else in_channels
        self.stem = layers.step(in_channels, first, kernel[0]) if residual else nn.Identity()
        self.encoder = nn.ModuleList(
            _encoder_stage(layers, residual, before, width, k, stride, n)
            for before, width, k, stride, n in zip(
                (first, *filters[:-1]), filters, kernel, by_axis, blocks, strict=True
            )
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(below, width, kernel_size=stride, stride=stride, bias=bias)
            for below, width, stride in zip(filters[:0:-1], filters[-2::-1], by_axis[:0:-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*(layers.step(width if i else 2 * width, width, k) for i in range(n)))
            for width, k, n in zip(filters[-2::-1], kernel[-2::-1], decoder_convs, strict=True)
        )
        self.head = nn.Conv3d(filters[0], out_channels, kernel_size=1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides(self.title, tuple(x.shape[2:]), self.multiple_of, least_voxels=self.least_voxels)
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

    def __init__(self, layers: Layers, before: int, after: int, kernel: Sides, stride: Sides = (1, 1, 1)) -> None:
        super().__init__()
        last = layers.conv(after, after, kernel)
        if isinstance(scale := getattr(last[-1], "weight", None), nn.Parameter) and layers.norm != "none":
            nn.init.zeros_(scale)  # a block starts as its residual alone
        self.layers = nn.Sequential(*layers.conv(before, after, kernel, stride), layers.activated(), *last)
        residual: list[nn.Module] = []
        if stride != (1, 1, 1):
            residual.append(nn.AvgPool3d(stride, stride))
        if before != after:
            residual += [nn.Conv3d(before, after, kernel_size=1, bias=False), *layers.normed(after)]
        self.residual = nn.Sequential(*residual)
        self.activation = layers.activated()

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D/stride, H/stride, W/stride)."""
        return self.activation(self.layers(x) + self.residual(x))  # type: ignore[no-any-return]


def _encoder_stage(
    layers: Layers, residual: bool, before: int, width: int, kernel: Sides, stride: Sides, count: int
) -> nn.Sequential:
    """Residual blocks or plain convolutions, the first of which has the stride."""
    inputs = [(before, stride), *[(width, (1, 1, 1))] * (count - 1)]
    if residual:
        return nn.Sequential(*(ResidualBlock(layers, n, width, kernel, at) for n, at in inputs))
    return nn.Sequential(*(layers.step(n, width, kernel, at) for n, at in inputs))


def _sides(value: int | Sequence[int]) -> Sides:
    """One number for all axes, or one for each."""
    d, h, w = (value,) * 3 if isinstance(value, int) else tuple(value)
    return d, h, w


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
