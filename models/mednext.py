"""MedNeXt: ConvNeXt blocks, depthwise then wide pointwise convolutions, through the whole of a U-Net.

Skips are added. On the way up, a transposed convolution of odd kernel gives 2n - 1 voxels, and the missing first one
of each axis is filled with zeros after the block. MONAI's variants of this network take the expansion of a
downsampling block from the stage above it, the authors take it from the stage below: the two differ wherever the
expansion changes, and this one follows the authors.

Source: Roy et al., "MedNeXt", MICCAI 2023, doi 10.1007/978-3-031-43901-8_39, and the behaviour of the
released code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .blocks import check_positive, check_sides

_HALVINGS = 4
_STAGES = 2 * _HALVINGS + 1  # encoder, bottleneck, decoder
_MULTIPLE_OF = 2**_HALVINGS


class MedNeXt(nn.Module):
    """Nine stages of MedNeXt blocks; fully convolutional."""

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        base_filters: int = 32,
        blocks: Sequence[int] = (2,) * _STAGES,
        expansion: Sequence[int] = (2,) * _STAGES,
        kernel_size: int = 3,
    ) -> None:
        """Build the network.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels; each a multiple of 16.
            base_filters: width of the first stage, doubled at each of the four halvings.
            blocks: number of blocks in each of the nine stages, in the order in which they run.
            expansion: of each stage's blocks and of the resampling block before it, inner over outer width.
            kernel_size: of the depthwise convolutions; odd.

        Raises:
            ValueError: not nine stages, a number below 1, an even kernel, or sides that are no multiple of 16.
        """
        super().__init__()
        check_positive("MedNeXt", in_channels=in_channels, out_channels=out_channels, base_filters=base_filters)
        for name, values in (("blocks", blocks), ("expansion", expansion)):
            if len(values) != _STAGES or any(v < 1 for v in values):
                raise ValueError(f"MedNeXt needs {_STAGES} {name}, all from 1, not {tuple(values)}")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"MedNeXt needs an odd kernel_size from 3, not {kernel_size}")
        check_sides("MedNeXt", spatial, _MULTIPLE_OF, least_voxels=2)

        depth = [min(stage, _STAGES - 1 - stage) for stage in range(_STAGES)]
        widths = [base_filters * 2**d for d in depth]
        self.stem = nn.Conv3d(in_channels, widths[0], kernel_size=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, ratio, kernel_size) for _ in range(n)))
            for width, ratio, n in zip(widths, expansion, blocks, strict=True)
        )
        self.resample = nn.ModuleList(  # the i-th stands before stage i + 1
            (Down if after > before else Up)(before, after, ratio, kernel_size)
            for before, after, ratio in zip(widths[:-1], widths[1:], expansion[1:], strict=True)
        )
        self.head = nn.Conv3d(widths[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_sides("MedNeXt", tuple(x.shape[2:]), _MULTIPLE_OF, least_voxels=2)
        x = self.stages[0](self.stem(x))
        skips = []
        for resample, stage in zip(self.resample, self.stages[1:], strict=True):
            if isinstance(resample, Down):
                skips.append(x)
                x = stage(resample(x))
            else:
                x = stage(resample(x) + skips.pop())
        return self.head(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Depthwise convolution, norm of each channel alone, pointwise MLP; with a residual. Keeps the shape."""

    def __init__(self, channels: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        depthwise = nn.Conv3d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.layers = _layers(depthwise, channels, expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        return x + self.layers(x)  # type: ignore[no-any-return]


class Down(nn.Module):
    """The block with stride 2, and a strided pointwise convolution as its residual."""

    def __init__(self, before: int, after: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        depthwise = nn.Conv3d(before, before, kernel_size, stride=2, padding=kernel_size // 2, groups=before)
        self.layers = _layers(depthwise, before, expansion, after)
        self.residual = nn.Conv3d(before, after, kernel_size=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D/2, H/2, W/2)."""
        return self.layers(x) + self.residual(x)  # type: ignore[no-any-return]


class Up(nn.Module):
    """The block with a transposed convolution of stride 2, and another as its residual."""

    def __init__(self, before: int, after: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        depthwise = nn.ConvTranspose3d(before, before, kernel_size, stride=2, padding=kernel_size // 2, groups=before)
        self.layers = _layers(depthwise, before, expansion, after)
        self.residual = nn.ConvTranspose3d(before, after, kernel_size=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, 2D, 2H, 2W)."""
        return functional.pad(self.layers(x) + self.residual(x), (1, 0, 1, 0, 1, 0))  # from 2n - 1 voxels to 2n


def _layers(depthwise: nn.Module, before: int, expansion: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        depthwise,
        nn.GroupNorm(before, before),
        nn.Conv3d(before, expansion * before, kernel_size=1),
        nn.GELU(),
        nn.Conv3d(expansion * before, after, kernel_size=1),
    )
