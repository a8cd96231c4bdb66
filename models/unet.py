"""A plain residual U-Net, small: the honest cheap baseline. MONAI's, with its sides checked.

Its first convolution already halves the sides, so no wide layer runs at full resolution: that, not its
depth, is why it is cheap. Counters that walk modules see its recursive skip layers twice.

Source: Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net", STACOM 2018,
doi 10.1007/978-3-030-12029-0_40.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_positive, check_sides


class UNet(nets.UNet):  # type: ignore[misc]
    """MONAI's U-Net; fully convolutional, so `spatial` is only checked."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int] = (2, 2, 2, 2),
        residual_units: int = 2,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of the product of the strides.
            channels: width of each stage.
            strides: of each stage but the last, the same along all axes.
            residual_units: convolutions of each encoder stage, under one residual; 0 for plain convolutions.

        Raises:
            ValueError: channels and strides that do not match, or sides that do not fit the strides.
        """
        check_positive("U-Net", in_channels=in_channels, out_channels=out_channels)
        if len(channels) < 2 or len(strides) != len(channels) - 1 or min((*channels, *strides)) < 1:
            raise ValueError(
                f"U-Net needs two channels or more and one stride less, all from 1, "
                f"not channels {tuple(channels)} with strides {tuple(strides)}"
            )
        if residual_units < 0:
            raise ValueError(f"U-Net needs 0 residual_units or more, not {residual_units}")
        self.multiple_of = math.prod(strides)
        check_sides("U-Net", spatial, self.multiple_of, least_voxels=2)
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=tuple(channels),
            strides=tuple(strides),
            num_res_units=residual_units,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("U-Net", tuple(x.shape[2:]), self.multiple_of, least_voxels=2)
        return super().forward(x)  # type: ignore[no-any-return]
