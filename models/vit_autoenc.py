"""ViT autoencoder: a vision transformer, and two transposed convolutions back to voxels. MONAI's ViTAutoEnc.

It was made to restore images in pre-training. As a segmentation network it has no skips at all: what
it draws comes from tokens 16 voxels wide.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929, and MONAI.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_input, check_positive, check_sides, check_widths_per_head

_PATCH = 16  # voxels along each side of a token; MONAI goes back in two steps of its square root


class ViTAutoEnc(nets.ViTAutoEnc):  # type: ignore[misc]
    """MONAI's ViTAutoEnc for one fixed input size; returns the volume and drops the hidden states."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        num_layers: int = 24,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        deconv_chns: int = 16,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            num_layers: transformer blocks.
            hidden_size: width of a token.
            mlp_dim: width inside each block's MLP.
            num_heads: attention heads; must divide `hidden_size`.
            deconv_chns: width between the two transposed convolutions.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        check_positive(
            "ViTAutoEnc",
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            mlp_dim=mlp_dim,
            deconv_chns=deconv_chns,
        )
        check_widths_per_head("ViTAutoEnc", hidden_size=hidden_size, num_heads=num_heads)
        sides = check_sides("ViTAutoEnc", spatial, _PATCH)
        super().__init__(
            in_channels,
            img_size=sides,
            patch_size=_PATCH,
            out_channels=out_channels,
            deconv_chns=deconv_chns,
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        self.in_channels, self.spatial = in_channels, sides

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_input("ViTAutoEnc", x.shape, self.in_channels, self.spatial)
        return super().forward(x)[0]  # type: ignore[no-any-return]
