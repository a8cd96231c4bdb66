"""The 3D U-Net of Models Genesis and TransVW: wide, with BatchNorm, and by far the costliest of the zoo.

Its last decoder stage starts at full resolution with 192 channels, and alone has 47 % of all MACs. The released code
normalises by the statistics of the batch at hand in evaluation too, and never reads the running ones that it keeps.
So does this one, by default: with one image at a time it is an instance norm, and with more an image's result depends
on its company.

Source: Çiçek et al., "3D U-Net", MICCAI 2016, doi 10.1007/978-3-319-46723-8_49; widths and norms as the
released code of Zhou et al., "Models Genesis", doi 10.1016/j.media.2020.101840, behaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_positive, check_sides

_STAGES = 4
_MULTIPLE_OF = 2 ** (_STAGES - 1)


class UNet3D(nn.Module):
    """A U-Net of four stages, two convolutions each; fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        base_filters: int = 32,
        running_statistics: bool = False,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel; the released code applies a sigmoid to them.
            spatial: (D, H, W) of the input, voxels; each a multiple of 8.
            base_filters: width of the first convolution; each stage doubles it twice, within and to the next.
            running_statistics: normalise by running statistics in evaluation, as BatchNorm usually does.

        Raises:
            ValueError: a number below 1, or sides that are no multiple of 8.
        """
        super().__init__()
        check_positive("UNet3D", in_channels=in_channels, out_channels=out_channels, base_filters=base_filters)
        check_sides("UNet3D", spatial, _MULTIPLE_OF, least_voxels=2)

        def conv(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv3d(before, after, kernel_size=3, padding=1),
                nn.BatchNorm3d(after, track_running_stats=running_statistics),
                nn.ReLU(inplace=True),
            )

        widths = [2 * base_filters * 2**stage for stage in range(_STAGES)]
        self.encoder = nn.ModuleList(
            nn.Sequential(conv(before, width // 2), conv(width // 2, width))
            for before, width in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.ups = nn.ModuleList(nn.ConvTranspose3d(width, width, kernel_size=2, stride=2) for width in widths[1:])
        self.decoder = nn.ModuleList(
            nn.Sequential(conv(below + width, width), conv(width, width)) for width, below in itertools.pairwise(widths)
        )
        self.head = nn.Conv3d(widths[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("UNet3D", tuple(x.shape[2:]), _MULTIPLE_OF, least_voxels=2)
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if i else x)
            skips.append(x)
        x = skips.pop()
        for up, stage in zip(self.ups[::-1], self.decoder[::-1], strict=True):
            x = stage(torch.cat((up(x), skips.pop()), dim=1))
        return self.head(x)  # type: ignore[no-any-return]
