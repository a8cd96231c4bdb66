"""Slim UNETR, as its authors published it: the faithful variant.

A U-shaped encoder and decoder of four stages. Every block mixes locally (depthwise convolutions),
then globally (attention over a sparse sample of the voxels), each with a residual.

"Faithful" includes what looks like mistakes, because the published weights and figures depend on them: the attention
is not scaled; the sampler is a strided slice, so at the first stage 63 of 64 voxels never reach the attention; the
bottleneck's tokens (B, N, C) are read back as (B, C, D, H, W) without a transpose, which mixes channels with space;
and the head ends in a GroupNorm over the logits, so a logit depends on the whole patch.

Source: Pang et al., "Slim UNETR", IEEE TMI 2023, doi 10.1109/TMI.2023.3326188, and the behaviour
of the released code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .blocks import check_input, check_positive, check_sides, check_widths_per_head

_LATER_STRIDES = (2, 2, 2)  # of the downsampling convolutions after the first


class SlimUNETR(nn.Module):
    """The published Slim UNETR for one fixed input size.

    The position embedding has one entry for each bottleneck voxel, so a network belongs to one
    `spatial`; any other input is refused.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        spatial: Sequence[int] = (128, 128, 128),
        *,
        channels: Sequence[int] = (24, 48, 60),
        embed_dim: int = 96,
        blocks: Sequence[int] = (1, 2, 3, 2),
        heads: Sequence[int] = (1, 2, 4, 4),
        r: Sequence[int] = (4, 2, 2, 1),
        dropout: float = 0.3,
        attention: Sequence[int] | None = None,
        expansion: Sequence[int] = (4, 4, 4, 4),
        stem: int = 4,
    ) -> None:
        """Build the network; argument names up to `dropout` are the published constructor's, the rest is fixed there.

        Args:
            out_channels: logits per voxel.
            spatial: (D, H, W) of the input, voxels.
            channels: width of the first three stages.
            embed_dim: width of the fourth stage.
            blocks: number of blocks in each of the four stages.
            heads: attention heads in each stage; must divide that stage's attention width.
            r: stride of the sparse sampler in each stage.
            dropout: after the position embedding, in training.
            attention: width of the attention in each stage; None: the stage's own.
            expansion: hidden channels of the pointwise MLPs in each stage, for each of the stage's.
            stem: stride of the first downsampling convolution, and of the head.

        Raises:
            ValueError: a size, width or number of heads that does not fit, with the rule and the values.
        """
        super().__init__()
        for name, values, wanted in (
            ("channels", channels, 3),
            ("blocks", blocks, 4),
            ("heads", heads, 4),
            ("r", r, 4),
            ("expansion", expansion, 4),
            ("attention", attention or (1,) * 4, 4),
        ):
            if len(values) != wanted or any(v < 1 for v in values):
                raise ValueError(f"Slim UNETR needs {wanted} positive {name}, not {tuple(values)}")
        check_positive("Slim UNETR", in_channels=in_channels, out_channels=out_channels, embed_dim=embed_dim, stem=stem)
        widths = (*channels, embed_dim)
        attended = tuple(attention or widths)
        for stage, (width, n_heads) in enumerate(zip(attended, heads, strict=True), 1):
            check_widths_per_head(f"Slim UNETR stage {stage}", width=width, heads=n_heads)
        each = (stem, *_LATER_STRIDES)
        strides = [math.prod(each[: i + 1]) for i in range(4)]
        multiple = math.lcm(*(stride * sample for stride, sample in zip(strides, r, strict=True)))
        self.spatial = check_sides("Slim UNETR", spatial, multiple)
        self.in_channels = in_channels

        tokens = math.prod(side // strides[-1] for side in self.spatial)
        inputs = (in_channels, *channels)
        self.downs = nn.ModuleList(
            Downsample(before, after, stride) for before, after, stride in zip(inputs, widths, each, strict=True)
        )
        stages = list(zip(widths, blocks, heads, r, attended, expansion, strict=True))
        self.encoder = nn.ModuleList(_stage(*a) for a in stages)
        self.position_embedding = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(_stage(*a) for a in stages)
        outputs = (out_channels, *channels)
        self.ups = nn.ModuleList(
            Upsample(after, before, stride) for before, after, stride in zip(outputs, widths, each, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W)."""
        check_input("Slim UNETR", x.shape, self.in_channels, self.spatial)
        skips = []
        for down, stage in zip(self.downs, self.encoder, strict=True):
            x = stage(down(x))
            skips.append(x)
        x = self.dropout(x.flatten(2).transpose(1, 2) + self.position_embedding)  # (B, N, C)
        x = x.reshape(skips.pop().shape)  # no transpose: as published
        for up, stage in zip(self.ups[::-1], self.decoder[::-1], strict=True):
            x = up(stage(x))
            if skips:
                x = x + skips.pop()
        return x

    def for_inference(self, form: Literal["eager", "export"] = "eager") -> nn.Module:
        """The same function of copies of the weights, written for speed on a CPU; see `slim_unetr_inference`.

        Its logits are those of this network in evaluation to 1e-4 of their range; dropout and the statistics of a
        batch have no part in them, and `train()` has no effect on it.

        Args:
            form: `eager` to call it from PyTorch, without gradients; `export` to write it as a graph, such as by
                `torch.onnx.export(..., dynamo=True)`, since it writes no tensor in place.

        Returns:
            A module that takes what this one takes: (B, in_channels, D, H, W) -> logits.

        Raises:
            ValueError: another form, or a network of which a part was replaced by something else.
        """
        from .slim_unetr_inference import InferenceNetwork  # it reads the classes of this file

        return InferenceNetwork(self, form)


def _stage(width: int, n_blocks: int, heads: int, r: int, attention: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(*(SlimBlock(width, heads, r, attention, expansion) for _ in range(n_blocks)))


class SlimBlock(nn.Module):
    """Local mixing, MLP, sparse attention, MLP; each with a residual. (B, C, D, H, W) -> the same."""

    def __init__(self, channels: int, heads: int, r: int, attention: int | None = None, expansion: int = 4) -> None:
        super().__init__()
        self.position1 = _depthwise(channels)
        self.local = nn.Sequential(
            nn.BatchNorm3d(channels),
            _pointwise(channels, channels),
            _depthwise(channels),
            nn.BatchNorm3d(channels),
            _pointwise(channels, channels),
        )
        self.mlp1 = _mlp(channels, expansion)
        self.position2 = _depthwise(channels)
        self.attention = SparseAttention(channels, heads, r, attention)
        self.diffusion = Diffusion(channels, r, attention)
        self.mlp2 = _mlp(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D, H, W)."""
        x = x + self.position1(x)
        x = x + self.local(x)
        x = x + self.mlp1(x)
        x = x + self.position2(x)
        x = x + self.diffusion(self.attention(x), x.shape[2:])
        return x + self.mlp2(x)  # type: ignore[no-any-return]


class SparseAttention(nn.Module):
    """Unscaled self-attention among every r-th voxel along each axis.

    (B, C, D, H, W) -> (B, A, D/r, H/r, W/r), A its own width. The projection's channels lie [head][q | k | v][A/heads].
    """

    fp32_in_training = True  # its logits have no bound, and rounded to bf16 they end a training

    def __init__(self, channels: int, heads: int, r: int, attention: int | None = None) -> None:
        super().__init__()
        self.heads, self.r = heads, r
        self.qkv = _pointwise(channels, 3 * (attention or channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, A, D/r, H/r, W/r)."""
        x = x[:, :, :: self.r, :: self.r, :: self.r]
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1)).chunk(3, dim=2)  # each (B, heads, A/heads, N)
        weights = (q.transpose(-2, -1) @ k).softmax(dim=-1)  # (B, heads, N queries, N keys)
        return (v @ weights.transpose(-2, -1)).reshape(len(x), -1, *x.shape[2:])  # type: ignore[no-any-return]


class Diffusion(nn.Module):
    """Spread the sampled voxels over their neighbourhoods: (B, A, D/r, H/r, W/r) -> (B, C, D, H, W).

    Of a cell that reaches beyond the map, what lies beyond is in the norm, and then cut off.
    """

    def __init__(self, channels: int, r: int, attention: int | None = None) -> None:
        super().__init__()
        width = attention or channels
        self.spread = nn.ConvTranspose3d(width, width, kernel_size=r, stride=r, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.mix = _pointwise(width, channels)

    def forward(self, x: Tensor, sides: Sequence[int] | None = None) -> Tensor:
        """(B, A, D/r, H/r, W/r) -> (B, C, D, H, W).

        Args:
            sides: (D, H, W) of the map; None: all that the cells cover.
        """
        return self.mix(cropped(self.norm(self.spread(x)), sides))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Convolution of kernel = stride, and a norm over all channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, kernel_size=stride, stride=stride)
        self.norm = nn.GroupNorm(1, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D/stride, H/stride, W/stride)."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Transposed convolution of kernel = stride, and a norm over all channels; the last one is the head."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(before, after, kernel_size=stride, stride=stride)
        self.norm = nn.GroupNorm(1, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, D, H, W) -> (B, after, D*stride, H*stride, W*stride)."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


def cropped(x: Tensor, sides: Sequence[int] | None) -> Tensor:
    """A map (B, C, D, H, W) without what is beyond these sides; None: as it is."""
    if sides is None or tuple(x.shape[2:]) == tuple(sides):
        return x
    return x[:, :, : sides[0], : sides[1], : sides[2]]


def _depthwise(channels: int) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)


def _pointwise(before: int, after: int) -> nn.Conv3d:
    return nn.Conv3d(before, after, kernel_size=1, bias=False)


def _mlp(channels: int, expansion: int) -> nn.Sequential:
    hidden = expansion * channels
    return nn.Sequential(_pointwise(channels, hidden), nn.GELU(), _pointwise(hidden, channels))


#: Pieces of the published key names and ours; a stage's number is counted from 1 there, from 0 here.
_PUBLISHED_TOP: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Encoder\.position_embeddings"), lambda m: "position_embedding"),
    (re.compile(r"Encoder\.DWconv(\d)\.depth_wise"), lambda m: f"downs.{int(m[1]) - 1}.conv"),
    (re.compile(r"Encoder\.DWconv(\d)\.norm"), lambda m: f"downs.{int(m[1]) - 1}.norm"),
    (re.compile(r"Encoder\.block(\d)\."), lambda m: f"encoder.{int(m[1]) - 1}."),
    (re.compile(r"Decoder\.block(\d)\."), lambda m: f"decoder.{int(m[1]) - 1}."),
    (re.compile(r"Decoder\.SegHead\.transposed"), lambda m: "ups.0.conv"),
    (re.compile(r"Decoder\.SegHead\.norm"), lambda m: "ups.0.norm"),
    (re.compile(r"Decoder\.TSconv(\d)\.transposed"), lambda m: f"ups.{4 - int(m[1])}.conv"),
    (re.compile(r"Decoder\.TSconv(\d)\.norm"), lambda m: f"ups.{4 - int(m[1])}.norm"),
)
_PUBLISHED_IN_BLOCK = {
    "patch1.positional_encoding": "position1",
    "LocalRC.bn1": "local.0",
    "LocalRC.pointwise_conv_0": "local.1",
    "LocalRC.depthwise_conv": "local.2",
    "LocalRC.bn2": "local.3",
    "LocalRC.pointwise_conv_1": "local.4",
    "LineConv1.line_conv_0": "mlp1.0",
    "LineConv1.line_conv_1": "mlp1.2",
    "patch2.positional_encoding": "position2",
    "GlobalST.qkv": "attention.qkv",
    "LocalRD.conv_trans": "diffusion.spread",
    "LocalRD.norm": "diffusion.norm",
    "LocalRD.pointwise_conv": "diffusion.mix",
    "LineConv2.line_conv_0": "mlp2.0",
    "LineConv2.line_conv_1": "mlp2.2",
}


def _own_key(published: str) -> str:
    key = published.removeprefix("module.")  # as saved from a data-parallel wrapper
    for pattern, ours in _PUBLISHED_TOP:
        if match := pattern.match(key):
            key = ours(match) + key[match.end() :]
            break
    stem, _, leaf = key.rpartition(".")
    part = re.fullmatch(r"((?:encoder|decoder)\.\d+\.\d+)\.(.+)", stem)
    if part and part[2] in _PUBLISHED_IN_BLOCK:
        return f"{part[1]}.{_PUBLISHED_IN_BLOCK[part[2]]}.{leaf}"
    return key


def load_published_weights(model: SlimUNETR, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights saved by the released code, by their published names.

    Args:
        model: built with the configuration of the weights.
        state_dict: published key -> tensor, as `torch.load(path, weights_only=True)` gives it.

    Raises:
        ValueError: a key is missing, left over, or of another shape; the first of each is named.
    """
    renamed = {_own_key(key): value for key, value in state_dict.items()}
    own = model.state_dict()
    if missing := own.keys() - renamed.keys():
        raise ValueError(f"{len(missing)} weights of Slim UNETR are not in the file, such as {min(missing)!r}")
    if extra := renamed.keys() - own.keys():
        raise ValueError(f"{len(extra)} entries of the file are not of Slim UNETR, such as {min(extra)!r}")
    for key, tensor in own.items():
        if renamed[key].shape != tensor.shape:
            raise ValueError(
                f"{key!r} has shape {tuple(renamed[key].shape)} in the file and {tuple(tensor.shape)} in this "
                "network: channels, heads or spatial differ"
            )
    model.load_state_dict(renamed)
