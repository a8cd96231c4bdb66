"""ViT3D: a plain vision transformer over voxel patches that answers once for the whole volume. MONAI's ViT.

It is a classifier. It stands in tables of segmentation networks, but holds no decoder: its output is (B, classes), so
it has a cost and a latency and no Dice.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks import nets
from torch import Tensor

from .blocks import check_input, check_positive, check_sides, check_widths_per_head

_PATCH = 16  # voxels along each side of a token


class ViT3D(nets.ViT):  # type: ignore[misc]
    """MONAI's ViT with a classification head, for one fixed input size; returns logits without MONAI's Tanh."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 2,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        num_layers: int = 24,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
    ) -> None:
        """Build the network.

        Args:
            out_channels: classes.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            num_layers: transformer blocks.
            hidden_size: width of a token.
            mlp_dim: width inside each block's MLP.
            num_heads: attention heads; must divide `hidden_size`.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        check_positive(
            "ViT3D", in_channels=in_channels, out_channels=out_channels, num_layers=num_layers, mlp_dim=mlp_dim
        )
        check_widths_per_head("ViT3D", hidden_size=hidden_size, num_heads=num_heads)
        sides = check_sides("ViT3D", spatial, _PATCH)
        super().__init__(
            in_channels,
            img_size=sides,
            patch_size=_PATCH,
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            classification=True,
            num_classes=out_channels,
            post_activation="",
        )
        self.in_channels, self.spatial = in_channels, sides

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> class logits (B, out_channels)."""
        check_input("ViT3D", x.shape, self.in_channels, self.spatial)
        return super().forward(x)[0]  # type: ignore[no-any-return]
