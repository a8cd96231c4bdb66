"""nnU-Net with a residual encoder: what nnU-Net's authors recommend today (ResEnc M, L, XL).

A deep encoder of ResNet-D blocks and a decoder of one convolution a stage: the parameters are in the
encoder's narrow end, the MACs in its wide one.

Source: Isensee et al., "nnU-Net Revisited", MICCAI 2024, doi 10.48550/arXiv.2404.09556.
"""

from __future__ import annotations

from collections.abc import Sequence

from .nnunet_planned import NNUNetPlanned


class NNUNetResEnc(NNUNetPlanned):
    """A U-Net with a residual encoder, from a plan; fully convolutional."""

    title = "nnU-Net ResEnc"

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
        blocks: Sequence[int] = (1, 3, 4, 6, 6, 6),
        decoder_convs: Sequence[int] = (1, 1, 1, 1, 1),
    ) -> None:
        """Build the network; the arguments are those of `NNUNetPlanned`.

        Raises:
            ValueError: entries that do not match in number, a number below 1, or sides that do not fit the strides.
        """
        super().__init__(
            in_channels,
            out_channels,
            spatial,
            filters=filters,
            strides=strides,
            residual=True,
            blocks=blocks,
            decoder_convs=decoder_convs,
        )
