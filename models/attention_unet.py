"""Attention U-Net as in Attention-Gated-Networks: a narrow U-Net whose skips are gated by the deepest stage.

It is not isotropic: convolutions are 3x3x1 and poolings 2x2x1, so the last axis keeps its size and voxels mix along
it only in the gates, which look at every second voxel of all three axes and are interpolated back. It was made for
slices lying along the last axis. MONAI's network of the same name is another one.

Source: Oktay et al., "Attention U-Net", 2018, doi 10.48550/arXiv.1804.03999, and the behaviour of the
released code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import check_positive, check_sides

_FULL_WIDTHS = (64, 128, 256, 512, 1024)  # before feature_scale divides them
_MULTIPLE_OF = (16, 16, 1)


class AttentionUNet(nn.Module):
    """A U-Net of five stages; all skips but the first are gated. Fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        feature_scale: int = 4,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; D and H multiples of 16, W from 2.
            feature_scale: divides the widths 64, 128, 256, 512 and 1024 of the five stages.

        Raises:
            ValueError: a number below 1, widths that vanish, or sides that do not fit.
        """
        super().__init__()
        check_positive(
            "Attention U-Net", in_channels=in_channels, out_channels=out_channels, feature_scale=feature_scale
        )
        if _FULL_WIDTHS[0] % feature_scale:
            raise ValueError(
                f"Attention U-Net divides its widths {_FULL_WIDTHS} by feature_scale, so that must divide "
                f"{_FULL_WIDTHS[0]}; {feature_scale} does not"
            )
        _check(spatial)
        widths = [width // feature_scale for width in _FULL_WIDTHS]
        self.encoder = nn.ModuleList(
            _two_convs(before, width) for before, width in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool3d((2, 2, 1))
        self.signal = nn.Sequential(
            nn.Conv3d(widths[4], widths[3], kernel_size=1), nn.BatchNorm3d(widths[3]), nn.ReLU(inplace=True)
        )
        self.gates = nn.ModuleList(Gate(width, widths[3]) for width in widths[1:4])  # the first skip has none
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(below, width, kernel_size=(4, 4, 1), stride=(2, 2, 1), padding=(1, 1, 0))
            for width, below in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(_two_convs(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], out_channels, kernel_size=1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        _check(tuple(x.shape[2:]))
        skips: list[Tensor] = []
        for i, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if i else x)
            skips.append(x)
        x = skips.pop()  # (B, widths[4], D/16, H/16, W)
        signal = self.signal(x)
        skips[1:] = [gate(skip, signal) for gate, skip in zip(self.gates, skips[1:], strict=True)]
        for up, stage in zip(self.ups[::-1], self.decoder[::-1], strict=True):
            x = stage(torch.cat((skips.pop(), up(x)), dim=1))
        return self.head(x)  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Additive attention: weigh a skip's voxels, in blocks of 2x2x2, by what the deepest stage has seen there."""

    def __init__(self, channels: int, signal_channels: int) -> None:
        super().__init__()
        self.of_skip = nn.Conv3d(channels, channels, kernel_size=2, stride=2, bias=False)
        self.of_signal = nn.Conv3d(signal_channels, channels, kernel_size=1)
        self.score = nn.Conv3d(channels, 1, kernel_size=1)
        self.mix = nn.Sequential(nn.Conv3d(channels, channels, kernel_size=1), nn.BatchNorm3d(channels))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """Skip (B, C, D, H, W) and signal (B, S, d, h, w) -> (B, C, D, H, W)."""
        query = self.of_skip(skip)  # (B, C, D/2, H/2, W/2)
        met = functional.relu(query + _resize(self.of_signal(signal), query))
        weight = self.score(met).sigmoid()  # (B, 1, D/2, H/2, W/2)
        return self.mix(skip * _resize(weight, skip))  # type: ignore[no-any-return]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="trilinear")


def _two_convs(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [
            nn.Conv3d(width, after, kernel_size=(3, 3, 1), padding=(1, 1, 0)),
            nn.BatchNorm3d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _check(spatial: Sequence[int]) -> None:
    *_, width = check_sides("Attention U-Net", spatial, _MULTIPLE_OF)
    if width < 2:
        raise ValueError(
            f"Attention U-Net's gates take every second voxel: the last side must be 2 or more, not {width}"
        )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight)
