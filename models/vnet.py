"""V-Net: residual stages of 5x5x5 convolutions. MONAI's, with its sides checked.

The first stage adds the image itself, repeated to 16 channels, to its convolution: so the number of
image channels must divide 16.

Source: Milletari et al., "V-Net", 3DV 2016, doi 10.1109/3DV.2016.79.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_positive, check_sides

_FIRST_WIDTH = 16
_MULTIPLE_OF = 16  # four halvings


class VNet(nets.VNet):  # type: ignore[misc]
    """MONAI's V-Net; fully convolutional, so `spatial` is only checked."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        dropout_prob_down: float | None = 0.5,
        dropout_prob_up: Sequence[float | None] = (0.5, 0.5),
        bias: bool = False,
    ) -> None:
        """Build the network.

        Args:
            in_channels: image channels; 1, 2, 4, 8 or 16.
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            dropout_prob_down: of channels, in the two deepest encoder stages, in training.
            dropout_prob_up: of channels of the input and of the skip, in the two deepest decoder stages, in training.
            bias: whether the encoder's convolutions, each followed by a BatchNorm, have a bias.

        Raises:
            ValueError: image channels that do not divide 16, or sides that are no multiple of 16.
        """
        check_positive("V-Net", in_channels=in_channels, out_channels=out_channels)
        if _FIRST_WIDTH % in_channels:
            raise ValueError(
                f"V-Net repeats the image to {_FIRST_WIDTH} channels, so in_channels must divide that; "
                f"{in_channels} does not"
            )
        if len(dropout_prob_up) != 2:
            raise ValueError(f"V-Net needs two dropout_prob_up, for input and skip, not {tuple(dropout_prob_up)}")
        check_sides("V-Net", spatial, _MULTIPLE_OF)
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob_down=dropout_prob_down,
            dropout_prob_up=tuple(dropout_prob_up),
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("V-Net", tuple(x.shape[2:]), _MULTIPLE_OF)
        return super().forward(x)  # type: ignore[no-any-return]
