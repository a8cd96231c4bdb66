"""UNETR: a vision transformer as encoder, convolutions as decoder. MONAI's, with its sides checked.

Source: Hatamizadeh et al., "UNETR", WACV 2022, doi 10.1109/WACV51458.2022.00181.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks import nets

from .blocks import check_sides


class UNETR(nets.UNETR):  # type: ignore[misc]
    """MONAI's UNETR for one fixed input size (B, C, D, H, W); its patches are 16 voxels wide."""

    def __init__(
        self, in_channels: int = 4, out_channels: int = 3, spatial: Sequence[int] = (128, 128, 128), **kwargs: Any
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            kwargs: MONAI's own keywords, such as `feature_size`, `hidden_size`, `num_heads`.

        Raises:
            ValueError: sides that are no multiple of 16, or MONAI's own refusal of a keyword's value.
        """
        super().__init__(in_channels, out_channels, img_size=check_sides("UNETR", spatial, 16), **kwargs)
