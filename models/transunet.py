"""TransUNet in 3D, as one table counts it: a UNETR whose transformer has 24 layers instead of 12.

This is inferred. The TransUNet paper of that name is another network, with a convolutional stem, and no code for the
table's row was released; but a UNETR with a 24-layer ViT has its parameters to within 0.2 %. The skips leave after a
quarter, a half and three quarters of the layers, as UNETR's do; which layers the table's authors tapped changes
neither count.

Source: Chen et al., "TransUNet", 2021, arXiv 2102.04306; Hatamizadeh et al., "UNETR", WACV 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks import nets
from torch import Tensor

from .blocks import check_input, check_positive, check_sides, check_widths_per_head

_PATCH = 16  # voxels along each side of a token
_TAPS = 12  # the layers of MONAI's UNETR, of whose states its decoder takes the 3rd, 6th and 9th, from 0


class TransUNet(nets.UNETR):  # type: ignore[misc]
    """MONAI's UNETR around a deeper ViT, for one fixed input size."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        num_layers: int = 24,
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            num_layers: transformer blocks.
            feature_size: width of the first stage of the convolutional part.
            hidden_size: width of a token.
            mlp_dim: width inside each block's MLP.
            num_heads: attention heads; must divide `hidden_size`.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        check_positive(
            "TransUNet",
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            feature_size=feature_size,
            mlp_dim=mlp_dim,
        )
        check_widths_per_head("TransUNet", hidden_size=hidden_size, num_heads=num_heads)
        sides = check_sides("TransUNet", spatial, _PATCH)
        widths = {"hidden_size": hidden_size, "mlp_dim": mlp_dim, "num_heads": num_heads}
        super().__init__(in_channels, out_channels, img_size=sides, feature_size=feature_size, **widths)
        self.vit = _DeepViT(in_channels, img_size=sides, patch_size=_PATCH, num_layers=num_layers, **widths)
        self.in_channels, self.spatial = in_channels, sides

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_input("TransUNet", x.shape, self.in_channels, self.spatial)
        return super().forward(x)  # type: ignore[no-any-return]


class _DeepViT(nets.ViT):  # type: ignore[misc]
    """MONAI's ViT, whose states are thinned (or repeated) to the twelve that UNETR's decoder counts on."""

    def forward(self, x: Tensor) -> Any:
        """(B, C, D, H, W) -> last tokens (B, N, hidden_size), and twelve states of that shape."""
        tokens, states = super().forward(x)
        return tokens, [states[i * len(states) // _TAPS] for i in range(_TAPS)]
