"""nnU-Net's first generation of networks: max-pooling down, trilinear interpolation up.

The network that nnU-Net plans today is in nnunet.py; this one is a choice of options of the older code's class. Every
decoder stage has a segmentation head, and all of them are computed in each forward, although only the finest is
returned; that is how the older code runs, and it is counted.

Without transposed convolutions, the second convolution of each stage on the way up must give the width
of the stage above, so that interpolation alone makes the sizes meet.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, doi 10.1038/s41592-020-01008-z, and the behaviour
of version 1 of its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_positive, check_sides


class NNUNetV1(nn.Module):
    """A U-Net of two convolutions a stage, with a head at each decoder stage; fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        base_filters: int = 32,
        poolings: int = 4,
        max_filters: int = 320,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 2 for every pooling.
            base_filters: width of the first stage, doubled at each pooling.
            poolings: number of times the sides are halved.
            max_filters: what no stage exceeds.

        Raises:
            ValueError: a number below 1, or sides that do not fit the poolings.
        """
        super().__init__()
        check_positive(
            "nnU-Net v1",
            in_channels=in_channels,
            out_channels=out_channels,
            base_filters=base_filters,
            poolings=poolings,
            max_filters=max_filters,
        )
        self.multiple_of = 2**poolings
        check_sides("nnU-Net v1", spatial, self.multiple_of, least_voxels=2)

        *widths, deepest = (min(base_filters * 2**stage, max_filters) for stage in range(poolings + 1))
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(before, width), _conv(width, width))
            for before, width in zip((in_channels, *widths), widths, strict=False)
        )
        self.bottleneck = nn.Sequential(_conv(widths[-1], deepest), _conv(deepest, widths[-1]))
        above = (widths[0], *widths)  # what each stage hands to the one above it; the first keeps its width
        self.decoder = nn.ModuleList(
            nn.Sequential(_conv(2 * widths[i], widths[i]), _conv(widths[i], above[i]))
            for i in reversed(range(poolings))
        )
        self.heads = nn.ModuleList(
            nn.Conv3d(above[i], out_channels, kernel_size=1, bias=False) for i in reversed(range(poolings))
        )
        self.pool = nn.MaxPool3d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear")
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("nnU-Net v1", tuple(x.shape[2:]), self.multiple_of, least_voxels=2)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for stage, head in zip(self.decoder, self.heads, strict=True):
            x = stage(torch.cat((self.upsample(x), skips.pop()), dim=1))
            logits = head(x)  # all but the last are thrown away
        return logits  # type: ignore[no-any-return]


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, kernel_size=3, padding=1),
        nn.InstanceNorm3d(after, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
