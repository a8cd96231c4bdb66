"""SegResNet: residual blocks with GroupNorm, a deep encoder and a thin decoder. MONAI's, with its sides checked.

Skips are added, not concatenated, and upsampling is linear: nearly all parameters lie in the encoder.
The published network's variational branch, which regularises training, is not part of it.

Source: Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", BrainLes 2018,
doi 10.1007/978-3-030-11726-9_28.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_positive, check_sides

_GROUPS = 8  # of every GroupNorm


class SegResNet(nets.SegResNet):  # type: ignore[misc]
    """MONAI's SegResNet; fully convolutional, so `spatial` is only checked."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        init_filters: int = 24,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        dropout_prob: float | None = None,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 2 for every entry of `blocks_up`.
            init_filters: width of the first stage, doubled at each further one; a multiple of 8.
            blocks_down: residual blocks of each encoder stage.
            blocks_up: residual blocks of each decoder stage; one entry less.
            dropout_prob: after the first convolution, in training; none by default.

        Raises:
            ValueError: a width that the groups do not divide, stages that do not match, or sides that do not fit.
        """
        check_positive("SegResNet", in_channels=in_channels, out_channels=out_channels, init_filters=init_filters)
        if init_filters % _GROUPS:
            raise ValueError(f"SegResNet needs init_filters that its {_GROUPS} groups divide, not {init_filters}")
        if len(blocks_down) != len(blocks_up) + 1 or min((*blocks_down, *blocks_up)) < 1:
            raise ValueError(
                f"SegResNet needs one more blocks_down than blocks_up, all from 1, "
                f"not {tuple(blocks_down)} with {tuple(blocks_up)}"
            )
        self.multiple_of = 2 ** len(blocks_up)
        check_sides("SegResNet", spatial, self.multiple_of)
        super().__init__(
            spatial_dims=3,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=dropout_prob,
            norm=("GROUP", {"num_groups": _GROUPS}),
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("SegResNet", tuple(x.shape[2:]), self.multiple_of)
        return super().forward(x)  # type: ignore[no-any-return]
