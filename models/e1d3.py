"""E1D3 U-Net: one encoder and three decoders, one for each tumour region.

There are three decoders whatever the number of outputs, and each ends in a pair of logits, background and
foreground. An output's logit is their difference, of which the sigmoid is the published softmax. Outputs
are dealt to the decoders in turn; with one output or two, a decoder that would have none is averaged in.

Source: Bukhari and Mohy-ud-Din, "E1D3 U-Net for Brain Tumor Segmentation", 2021,
doi 10.48550/arXiv.2110.02519, and the behaviour of the released code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import check_positive, check_sides

_DECODERS = 3
_STAGES = 5
_MULTIPLE_OF = 2 ** (_STAGES - 1)


class E1D3(nn.Module):
    """One encoder, three decoders that do not see each other; fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        base_filters: int = 30,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel, whole tumour, core and enhancing tumour in the paper.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            base_filters: width of the first stage, doubled at each of the four further ones; even.

        Raises:
            ValueError: a number below 1, an odd width, or sides that are no multiple of 16.
        """
        super().__init__()
        check_positive("E1D3", in_channels=in_channels, out_channels=out_channels, base_filters=base_filters)
        if base_filters % 2:
            raise ValueError(
                f"E1D3 halves its first width in the decoders: base_filters must be even, not {base_filters}"
            )
        check_sides("E1D3", spatial, _MULTIPLE_OF, least_voxels=2)
        widths = [base_filters * 2**stage for stage in range(_STAGES)]
        #: outputs of each decoder
        self.dealt = [tuple(range(d, out_channels, _DECODERS)) or (d % out_channels,) for d in range(_DECODERS)]
        self.out_channels = out_channels
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(_conv(in_channels, widths[0]), _conv(widths[0], widths[0])),
                *(
                    nn.Sequential(_down(before), _conv(before, width), _conv(width, width))
                    for before, width in itertools.pairwise(widths[:-1])
                ),
                nn.Sequential(_down(widths[-2]), _conv(widths[-2], widths[-1])),
            ]
        )
        self.decoders = nn.ModuleList(Decoder(widths, 2 * len(outputs)) for outputs in self.dealt)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("E1D3", tuple(x.shape[2:]), _MULTIPLE_OF, least_voxels=2)
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        found: list[list[Tensor]] = [[] for _ in range(self.out_channels)]
        for decoder, outputs in zip(self.decoders, self.dealt, strict=True):
            pairs = decoder(features).unflatten(1, (-1, 2))  # (B, outputs, background | foreground, D, H, W)
            for logit, output in zip((pairs[:, :, 1] - pairs[:, :, 0]).unbind(1), outputs, strict=True):
                found[output].append(logit)
        return torch.stack([torch.stack(logits).mean(0) if logits[1:] else logits[0] for logits in found], dim=1)


class Decoder(nn.Module):
    """From the encoder's features of all stages to logits at full resolution."""

    def __init__(self, widths: Sequence[int], n_logits: int) -> None:
        super().__init__()
        self.first = _conv(widths[-1], widths[-2])
        self.ups = nn.ModuleList(nn.ConvTranspose3d(w, w, kernel_size=2, stride=2) for w in widths[-2::-1])
        self.convs = nn.ModuleList(nn.Sequential(_conv(2 * w, w), _conv(w, w // 2)) for w in widths[-2::-1])
        self.head = nn.Conv3d(widths[0] // 2, n_logits, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of the stages, finest first -> (B, n_logits, D, H, W)."""
        *skips, x = features
        x = self.first(x)
        for up, conv, skip in zip(self.ups, self.convs, reversed(skips), strict=True):
            x = conv(torch.cat((up(x), skip), dim=1))
        return self.head(x)  # type: ignore[no-any-return]


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, kernel_size=3, padding=1),
        nn.InstanceNorm3d(after, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _down(width: int) -> nn.Conv3d:
    return nn.Conv3d(width, width, kernel_size=3, stride=2, padding=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight)
        nn.init.constant_(module.bias, 0.1)
