"""Swin UNETR: shifted-window transformer as encoder, convolutions as decoder. MONAI's, with its sides checked.

Source: Hatamizadeh et al., "Swin UNETR", BrainLes 2021, doi 10.1007/978-3-031-08999-2_22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks import nets

from .blocks import check_sides


class SwinUNETR(nets.SwinUNETR):  # type: ignore[misc]
    """MONAI's Swin UNETR; fully convolutional outside its windows, so `spatial` is only checked."""

    def __init__(
        self, in_channels: int = 4, out_channels: int = 3, spatial: Sequence[int] = (128, 128, 128), **kwargs: Any
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 32.
            kwargs: MONAI's own keywords, such as `feature_size`, `depths`, `num_heads`.

        Raises:
            ValueError: sides that are no multiple of 32, or MONAI's own refusal of a keyword's value.
        """
        check_sides("Swin UNETR", spatial, 32)
        super().__init__(in_channels, out_channels, **kwargs)
