"""nnU-Net's own network: a plain convolutional U-Net by plan. MONAI's DynUNet, without deep supervision.

The default is the six-stage plan that nnU-Net makes for 128x128x128 patches of BraTS: 32 channels,
doubled at each stage up to 320. Counters that walk modules see its recursive skip layers twice.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, doi 10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_sides


class NNUNet(nets.DynUNet):  # type: ignore[misc]
    """MONAI's DynUNet from a plan of filters and strides."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
        kernel_size: int | Sequence[Sequence[int]] = 3,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of the product of the strides.
            filters: width of each stage.
            strides: of each stage's first convolution, one for all axes or one for each.
            kernel_size: of every convolution; or of each stage's, for each axis.

        Raises:
            ValueError: filters and strides of different length, or sides that do not fit the strides.
        """
        if len(filters) != len(strides) or len(filters) < 3:
            raise ValueError(
                f"nnU-Net needs one stride per stage and three stages or more, "
                f"not filters {tuple(filters)} with strides {tuple(strides)}"
            )
        by_axis = [(stride,) * 3 if isinstance(stride, int) else tuple(stride) for stride in strides]
        kernels = [(kernel_size,) * 3] * len(filters) if isinstance(kernel_size, int) else list(map(tuple, kernel_size))
        if len(kernels) != len(filters):
            raise ValueError(f"nnU-Net needs one kernel_size per stage, not {len(kernels)} for {len(filters)} stages")
        products = tuple(math.prod(stride[axis] for stride in by_axis) for axis in range(3))
        self.multiple_of = products[0] if len(set(products)) == 1 else products
        check_sides("nnU-Net", spatial, self.multiple_of, least_voxels=2)
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernels,
            strides=by_axis,
            upsample_kernel_size=by_axis[1:],
            filters=list(filters),
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("nnU-Net", tuple(x.shape[2:]), self.multiple_of, least_voxels=2)
        return super().forward(x)  # type: ignore[no-any-return]
