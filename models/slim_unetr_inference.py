"""Slim UNETR for inference: the function of trained weights, written anew so that a CPU computes it faster.

What is gained, and why the function stays the same:

- A transposed convolution of kernel = stride is one matrix product whose columns are then moved to their places.
  The mean and variance that the norm behind it takes over the large map follow from the means and products of the
  channels of the small one, so the large map is written once, already normalised.
- BatchNorms in evaluation scale and shift channels: they go into the convolutions beside them. A shift before a
  zero-padded convolution becomes the bias of the pointwise convolution before it, since the padding must stay zero.
- `x + depthwise(x)` is one depthwise convolution with 1 added to its centre.

Weights are folded in float64 and stored in the precision of the network. Two forms share them: `eager` keeps maps as
rows of voxels (channels last), in which MLPs are matrix products written in place; `export` uses plain operators on
(B, C, D, H, W) that write nothing in place, for `torch.onnx.export` and the runtimes that read its files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import check_input, check_sides
from .slim_unetr import Diffusion, Downsample, SlimBlock, SlimUNETR, SparseAttention, Upsample, cropped
from .slim_unetr_fixed import PooledAttention, SlimUNETRFixed, cell_means, padded

Form = Literal["eager", "export"]
_T = TypeVar("_T", bound="_Frozen")

_CHUNK = 4096  # rows of an MLP's hidden layer that are computed at a time
_CHUNK_NUMBERS = 2**18  # of the head's matrix product at a time: 1 MB, which stays in a core's cache


# Reading a network: weights in float64 ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _NormWeights:
    """The statistics of a transposed convolution's output y, from its input x, and what a norm does with them.

    With w the weights and b the bias of one output at one place of the kernel, and m the channel means of x, y has mean
    E[w] m + E[b] and variance E[(w (x - m))^2] + E[((w - E[w]) m + b - E[b])^2], E over voxels, outputs and places.
    Both terms are sums of squares, |within (x - m)|^2 and |offset m + offset_bias|^2 + a constant, so that nothing
    cancels where x is far from zero. With s = 1 / deviation and t = -mean s, the norm's output, and what is pointwise
    behind, is y s + of_scale s + of_shift t + constant, y by weights that are scaled already.
    """

    mean: Tensor  # (in,), E[w]
    mean_bias: Tensor  # (), E[b]
    within: Tensor  # (in, in)
    offset: Tensor  # (in, in)
    offset_bias: Tensor  # (in,)
    eps: float  # of the norm, and the constant of the variance
    of_scale: Tensor  # (out,)
    of_shift: Tensor  # (out,)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _SpreadWeights:
    """A transposed convolution of kernel = stride, a norm over its whole output, and what is pointwise behind."""

    weight: Tensor  # (in, out, k, k, k)
    constant: Tensor  # (out,)
    norm: _NormWeights | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _AttentionWeights:
    """Rows of one projection for queries, keys and values; scaled, so that scores need no scale."""

    query: Tensor  # (heads * each, in)
    key: Tensor
    value: Tensor
    heads: int
    r: int
    pooled: bool  # the mean of each cell, not its first voxel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _BlockWeights:
    """A `SlimBlock` with its BatchNorms and first two residuals folded in."""

    position1: Tensor  # (C, 1, 3, 3, 3), 1 added to the centre
    before: Tensor  # (hidden, C)
    before_bias: Tensor  # (hidden,)
    local: Tensor  # (hidden, 1, 3, 3, 3)
    local_bias: Tensor
    after: Tensor  # (C, hidden)
    mlp1: tuple[Tensor, Tensor]  # (hidden, C) and (C, hidden)
    position2: Tensor
    attention: _AttentionWeights
    diffusion: _SpreadWeights
    mlp2: tuple[Tensor, Tensor]


def _block_weights(block: Any, where: str) -> _BlockWeights:
    _expect(block, where, SlimBlock)
    _expect_parts(block.local, f"{where}.local", nn.BatchNorm3d, nn.Conv3d, nn.Conv3d, nn.BatchNorm3d, nn.Conv3d)
    first_norm, pointwise, depthwise, second_norm, last = block.local
    scale, shift = _scale_and_shift(first_norm, f"{where}.local.0")
    before = _pointwise(pointwise, f"{where}.local.1")
    local = _depthwise(depthwise, f"{where}.local.2")
    later_scale, local_bias = _scale_and_shift(second_norm, f"{where}.local.3")
    return _BlockWeights(
        position1=_with_identity(_depthwise(block.position1, f"{where}.position1")),
        before=before * scale,
        before_bias=before @ shift,
        local=local * later_scale[:, None, None, None, None],
        local_bias=local_bias,
        after=_pointwise(last, f"{where}.local.4"),
        mlp1=_mlp_weights(block.mlp1, f"{where}.mlp1"),
        position2=_with_identity(_depthwise(block.position2, f"{where}.position2")),
        attention=_attention_weights(block.attention, f"{where}.attention"),
        diffusion=_diffusion_weights(block.diffusion, f"{where}.diffusion"),
        mlp2=_mlp_weights(block.mlp2, f"{where}.mlp2"),
    )


def _with_identity(depthwise: Tensor) -> Tensor:
    """Weights of x + depthwise(x)."""
    weight = depthwise.clone()
    weight[:, :, 1, 1, 1] += 1
    return weight


def _mlp_weights(mlp: Any, where: str) -> tuple[Tensor, Tensor]:
    _expect_parts(mlp, where, nn.Conv3d, nn.GELU, nn.Conv3d)
    first, gelu, second = mlp
    if gelu.approximate != "none":
        _refuse(f"{where}.1", "an exact GELU", gelu)
    return _pointwise(first, f"{where}.0"), _pointwise(second, f"{where}.2")


def _attention_weights(attention: Any, where: str) -> _AttentionWeights:
    pooled = type(attention) is PooledAttention
    if not pooled:
        _expect(attention, where, SparseAttention)
    weight = _pointwise(attention.qkv, f"{where}.qkv")
    if weight.shape[0] % attention.heads:
        _refuse(f"{where}.qkv", f"a projection of {attention.heads} equal heads", attention.qkv)
    parts = weight.reshape(attention.heads, -1, weight.shape[1]).chunk(3, dim=1)
    if len(parts) != 3 or parts[0].shape != parts[1].shape:
        _refuse(f"{where}.qkv", "a projection to queries, keys and values", attention.qkv)
    query, key, value = (part.flatten(0, 1) for part in parts)
    temperature = attention.temperature if pooled else 1.0
    return _AttentionWeights(
        query=query / temperature, key=key, value=value, heads=attention.heads, r=attention.r, pooled=pooled
    )


def _diffusion_weights(diffusion: Any, where: str) -> _SpreadWeights:
    _expect(diffusion, where, Diffusion)
    kernel = getattr(diffusion.spread, "stride", (1,))[0]
    each, bias = _convolution(
        diffusion.spread, f"{where}.spread", kernel=kernel, stride=kernel, depthwise=True, transposed=True
    )
    scale, shift, eps = _affine(diffusion.norm, f"{where}.norm")
    mix = _pointwise(diffusion.mix, f"{where}.mix")
    if each.shape[1] != 1:
        _refuse(f"{where}.spread", "one output for each channel", diffusion.spread)
    # An output depends on one input, so the products of the weights of two inputs are zero.
    means, squares = each.flatten(1).mean(1), each.flatten(1).square().mean(1)
    products = torch.diag(torch.cat((squares, bias.square().sum()[None])))
    products[-1, :-1] = products[:-1, -1] = means * bias
    width = len(each)
    return _SpreadWeights(
        weight=(mix * scale).T[:, :, None, None, None] * each,
        constant=mix @ shift,
        norm=_norm_weights(
            torch.cat((means / width, bias.mean()[None])), products / width, eps, mix @ (scale * bias), mix @ scale
        ),
    )


def _upsampling_weights(up: Any, where: str) -> _SpreadWeights:
    _expect(up, where, Upsample)
    kernel = getattr(up.conv, "stride", (1,))[0]
    weight, bias = _convolution(up.conv, f"{where}.conv", kernel=kernel, stride=kernel, transposed=True)
    if type(up.norm) is nn.Identity:  # the corrected network's head
        return _SpreadWeights(weight=weight, constant=bias, norm=None)
    scale, shift, eps = _affine(up.norm, f"{where}.norm")
    outputs = torch.cat((weight.flatten(2), bias[None, :, None].expand(1, -1, weight[0, 0].numel()))).flatten(1)
    return _SpreadWeights(
        weight=weight * scale[:, None, None, None],
        constant=shift,
        norm=_norm_weights(outputs.mean(1), outputs @ outputs.T / outputs.shape[1], eps, scale * bias, scale),
    )


def _downsampling_weights(down: Any, where: str) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Weight and bias of the convolution; scale, shift and eps of the norm."""
    _expect(down, where, Downsample)
    kernel = getattr(down.conv, "stride", (1,))[0]
    return *_convolution(down.conv, f"{where}.conv", kernel=kernel, stride=kernel), *_affine(down.norm, f"{where}.norm")


def _norm_weights(mean: Tensor, products: Tensor, eps: float, of_scale: Tensor, of_shift: Tensor) -> _NormWeights:
    """From the means of (w, b) over outputs and places of the kernel, (in + 1,), and of its products with itself."""
    offset = torch.linalg.qr(_root(products - mean[:, None] * mean)).R
    return _NormWeights(
        mean=mean[:-1],
        mean_bias=mean[-1],
        within=_root(products[:-1, :-1]),
        offset=offset[:-1, :-1],
        offset_bias=offset[:-1, -1],
        eps=eps + float(offset[-1, -1]) ** 2,
        of_scale=of_scale,
        of_shift=of_shift,
    )


def _root(square: Tensor) -> Tensor:
    """A matrix whose transpose times itself is this one, symmetric and without negative eigenvalues."""
    diagonal = square.diagonal()
    if torch.equal(square, torch.diag(diagonal)):
        return torch.diag(diagonal.sqrt())
    values, vectors = torch.linalg.eigh(square)
    root: Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root


def _convolution(
    conv: Any, where: str, *, kernel: int, stride: int = 1, depthwise: bool = False, transposed: bool = False
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution, the bias zeros where it has none; padded so that a stride of 1 keeps sides."""
    kind = nn.ConvTranspose3d if transposed else nn.Conv3d
    padding = kernel // 2 if stride < kernel else 0
    if (
        type(conv) is not kind
        or conv.kernel_size != (kernel,) * 3
        or conv.stride != (stride,) * 3
        or conv.padding != (padding,) * 3
        or conv.dilation != (1, 1, 1)
        or conv.output_padding != (0, 0, 0)
        or conv.padding_mode != "zeros"
        or conv.groups != (conv.weight.shape[0] if depthwise else 1)
    ):
        words = f"{'depthwise ' * depthwise}{'transposed ' * transposed}convolution"
        _refuse(where, f"a {words} of kernel {kernel} and stride {stride}", conv)
    weight = conv.weight.detach().double()
    outputs = conv.groups * weight.shape[1] if transposed else len(weight)
    return weight, weight.new_zeros(outputs) if conv.bias is None else conv.bias.detach().double()


def _pointwise(conv: Any, where: str) -> Tensor:
    """Weight (out, in) of a pointwise convolution without bias."""
    weight, _ = _convolution(conv, where, kernel=1)
    if conv.bias is not None:
        _refuse(where, "a convolution without bias", conv)
    return weight.flatten(1)


def _depthwise(conv: Any, where: str) -> Tensor:
    """Weight (C, 1, 3, 3, 3) of a depthwise convolution without bias."""
    weight, _ = _convolution(conv, where, kernel=3, depthwise=True)
    if conv.bias is not None:
        _refuse(where, "a convolution without bias", conv)
    return weight


def _affine(norm: Any, where: str) -> tuple[Tensor, Tensor, float]:
    """Scale, shift and eps of a norm over all channels together."""
    if type(norm) is not nn.GroupNorm or norm.num_groups != 1 or not norm.affine:
        _refuse(where, "a GroupNorm of one group", norm)
    return norm.weight.detach().double(), norm.bias.detach().double(), norm.eps


def _scale_and_shift(norm: Any, where: str) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does to each channel in evaluation."""
    if type(norm) is not nn.BatchNorm3d or norm.running_mean is None or norm.running_var is None or not norm.affine:
        _refuse(where, "a BatchNorm3d with running statistics", norm)
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _expect(module: Any, where: str, kind: type[nn.Module]) -> None:
    if type(module) is not kind:
        _refuse(where, f"a {kind.__name__}", module)


def _expect_parts(module: Any, where: str, *kinds: type[nn.Module]) -> None:
    if type(module) is not nn.Sequential or len(module) != len(kinds):
        _refuse(where, f"a sequence of {', '.join(kind.__name__ for kind in kinds)}", module)
    for i, (part, kind) in enumerate(zip(module, kinds, strict=True)):
        _expect(part, f"{where}.{i}", kind)


def _refuse(where: str, wanted: str, found: Any) -> NoReturn:
    raise ValueError(
        f"for_inference() expects {wanted} at {where!r}, and finds {' '.join(repr(found).split())[:120]}: use the "
        "network as it is"
    )


# Parts of both forms ----------------------------------------------------------------------------------------------


class _Frozen(nn.Module):
    """A module that holds copies of weights, and is always in evaluation."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.training = False

    def hold(self, name: str, weight: Tensor) -> None:
        """A copy of a weight, as a buffer."""
        self.register_buffer(name, weight.to(self._dtype).contiguous().clone())

    def train(self: _T, mode: bool = True) -> _T:
        """No effect: nothing in it behaves otherwise in training."""
        return self


# Eager: maps are rows of voxels, (B, D, H, W, C) -------------------------------------------------------------------


class _EagerColumns(_Frozen):
    """The columns whose product with the weights of a transposed convolution is already normalised."""

    weight: Tensor  # (in + 3, outputs), or (in + 1, outputs) without norm
    mean: Tensor
    mean_bias: Tensor
    within: Tensor
    offset: Tensor
    offset_bias: Tensor

    def __init__(self, weights: _SpreadWeights, dtype: torch.dtype, *, channels_last: bool) -> None:
        super().__init__(dtype)
        self.stride, self.out_channels = weights.weight.shape[-1], weights.weight.shape[1]
        self.normalises = weights.norm is not None
        rows = [weights.constant]
        if norm := weights.norm:
            rows = [norm.of_scale, norm.of_shift, weights.constant]
            self.eps = norm.eps
            for name in ("mean", "mean_bias", "within", "offset", "offset_bias"):
                self.hold(name, getattr(norm, name))
        places = torch.stack(rows)[:, :, None, None, None].expand(-1, -1, *weights.weight.shape[2:])
        weight = torch.cat((weights.weight, places))
        self.hold("weight", (weight.permute(0, 2, 3, 4, 1) if channels_last else weight).flatten(1))

    def columns(self, x: Tensor) -> Tensor:
        """(B, N, in) -> (B, N, in + 3): x s, s, t and 1, s and t the norm's scale and shift; without norm x and 1."""
        batch, voxels, width = x.shape
        if not self.normalises:
            return F.pad(x, (0, 1), value=1.0)
        means = x.mean(1)
        spread = F.linear(x - means[:, None], self.within)
        offset = F.linear(means, self.offset, self.offset_bias)
        variance = spread.square().sum((1, 2)) / voxels + offset.square().sum(1)
        scale = (variance + self.eps).rsqrt()
        columns = x.new_empty(batch, voxels, width + 3)
        torch.mul(x, scale[:, None, None], out=columns[..., :width])
        columns[..., width] = scale[:, None]
        columns[..., width + 1] = -(means @ self.mean + self.mean_bias)[:, None] * scale[:, None]
        columns[..., width + 2] = 1
        return columns


class _EagerSpread(_EagerColumns):
    """Rows (B, d, h, w, in) to maps that are `stride` times as large, added to others, as far as these reach."""

    def __init__(self, weights: _SpreadWeights, dtype: torch.dtype) -> None:
        super().__init__(weights, dtype, channels_last=True)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Add to `target`, (B, d k, h k, w k, out) or less, in place; x: (B, d, h, w, in)."""
        grid, k = x.shape[1:4], self.stride
        y = self.columns(x.flatten(1, 3)) @ self.weight
        y = y.view(-1, *grid, k, k, k, self.out_channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
        d, h, w = target.shape[1:4]
        if (d, h, w) == tuple(side * k for side in grid):
            target.view(y.shape).add_(y)
        else:
            target.add_(y.reshape(len(y), *(side * k for side in grid), -1)[:, :d, :h, :w])
        return target


class _EagerHead(_EagerColumns):
    """Rows to the logits."""

    def __init__(self, weights: _SpreadWeights, dtype: torch.dtype) -> None:
        super().__init__(weights, dtype, channels_last=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, h, w, in) -> (B, out, d k, h k, w k), some planes at a time."""
        batch, d, h, w, _ = x.shape
        k, out = self.stride, self.out_channels
        columns = self.columns(x.flatten(1, 3)).view(batch, d, h * w, -1)
        y = x.new_empty(batch, out, d, k, h, k, w, k)
        planes = max(1, _CHUNK_NUMBERS // (h * w * self.weight.shape[1]))
        for sample, from_rows in zip(y, columns, strict=True):
            for first in range(0, d, planes):
                part = from_rows[first : first + planes] @ self.weight
                part = part.view(-1, h, w, out, k, k, k).permute(3, 0, 4, 1, 5, 2, 6)
                sample[:, first : first + planes].copy_(part)
        return y.view(batch, out, d * k, h * k, w * k)


class _EagerDownsample(_Frozen):
    """The first takes maps, the others rows; all give rows."""

    weight: Tensor
    bias: Tensor
    norm_scale: Tensor
    norm_shift: Tensor

    def __init__(self, down: nn.Module, where: str, dtype: torch.dtype, *, from_maps: bool) -> None:
        super().__init__(dtype)
        weight, bias, scale, shift, self.eps = _downsampling_weights(down, where)
        self.stride, self.from_maps = weight.shape[-1], from_maps
        self.hold("weight", weight if from_maps else weight.permute(2, 3, 4, 1, 0).flatten(0, 3))
        self.hold("bias", bias)
        self.hold("norm_scale", scale)
        self.hold("norm_shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) or (B, D, H, W, in) -> (B, D/k, H/k, W/k, out), rounded up."""
        k = self.stride
        if self.from_maps:
            y = _as_rows(F.conv3d(padded(x, k), self.weight, self.bias, stride=k))
        else:
            if any(side % k for side in x.shape[1:4]):
                x = _as_rows(padded(_as_maps(x), k))
            batch, *sides, width = x.shape
            d, h, w = (side // k for side in sides)
            cells = x.view(batch, d, k, h, k, w, k, width).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, len(self.weight))
            y = torch.addmm(self.bias, cells, self.weight).view(batch, d, h, w, -1)
        y -= y.mean((1, 2, 3, 4), keepdim=True)
        variance = y.square().mean((1, 2, 3, 4), keepdim=True)
        return torch.addcmul(self.norm_shift, y, self.norm_scale * (variance + self.eps).rsqrt())


class _EagerBlock(_Frozen):
    """A `SlimBlock` on rows."""

    position1: Tensor
    before: Tensor
    before_bias: Tensor
    local: Tensor
    local_bias: Tensor
    after: Tensor
    mlp1_in: Tensor
    mlp1_out: Tensor
    position2: Tensor
    qkv: Tensor
    mlp2_in: Tensor
    mlp2_out: Tensor

    def __init__(self, block: nn.Module, where: str, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        weights = _block_weights(block, where)
        for name in ("position1", "before", "before_bias", "local", "local_bias", "after", "position2"):
            self.hold(name, getattr(weights, name))
        for name, pair in (("mlp1", weights.mlp1), ("mlp2", weights.mlp2)):
            for end, weight in zip(("in", "out"), pair, strict=True):
                self.hold(f"{name}_{end}", weight.T)
        attention = weights.attention
        self.heads, self.r, self.pooled = attention.heads, attention.r, attention.pooled
        self.hold("qkv", torch.cat((attention.query, attention.key, attention.value)))
        self.sizes = [len(attention.query), len(attention.key), len(attention.value)]
        self.diffusion = _EagerSpread(weights.diffusion, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> the same; x stays as it is."""
        x = _depthwise_rows(x, self.position1)
        rows = x.view(-1, x.shape[-1])
        hidden = F.linear(rows, self.before, self.before_bias).view(*x.shape[:4], -1)
        hidden = _depthwise_rows(hidden, self.local, self.local_bias)
        rows.addmm_(hidden.view(len(rows), -1), self.after.T)
        _add_mlp(rows, self.mlp1_in, self.mlp1_out)
        x = _depthwise_rows(x, self.position2)
        x = self.diffusion(self._attend(x), x)
        _add_mlp(x.view(-1, x.shape[-1]), self.mlp2_in, self.mlp2_out)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> (B, D/r, H/r, W/r, A)."""
        r = self.r
        x = _as_rows(cell_means(_as_maps(x), r)) if self.pooled and r > 1 else x[:, ::r, ::r, ::r]
        parts = F.linear(x.flatten(1, 3), self.qkv).split(self.sizes, dim=2)  # type: ignore[no-untyped-call]
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, heads, N, A/heads)
        return attended.transpose(1, 2).reshape(*x.shape[:4], -1)


def _as_maps(rows: Tensor) -> Tensor:
    """(B, D, H, W, C) -> a view (B, C, D, H, W)."""
    return rows.permute(0, 4, 1, 2, 3)


def _as_rows(maps: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, D, H, W, C), of its own memory where the channels of `maps` do not lie together."""
    return maps.permute(0, 2, 3, 4, 1).contiguous()


def _depthwise_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _as_rows(F.conv3d(_as_maps(x), weight, bias, padding=1, groups=len(weight)))


def _add_mlp(rows: Tensor, first: Tensor, second: Tensor) -> None:
    """Add a pointwise MLP to rows (N, C) in place; the hidden layer is made some rows at a time."""
    for part in rows.split(_CHUNK):  # type: ignore[no-untyped-call]
        part.addmm_(torch.ops.aten.gelu_(part @ first), second)


class _EagerPositions(_Frozen):
    """The published bottleneck: tokens (B, N, C) get their positions, and are read back as (B, C, D, H, W)."""

    embedding: Tensor

    def __init__(self, embedding: Tensor, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.hold("embedding", embedding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> the same shape."""
        batch, *grid, width = x.shape
        tokens = x.flatten(1, 3) + self.embedding
        return _as_rows(tokens.view(batch, width, *grid))


class _EagerMapPositions(_Frozen):
    """The corrected bottleneck: a map of positions, interpolated to the grid of the input."""

    embedding: Tensor  # (1, C, D, H, W)

    def __init__(self, embedding: Tensor, grid: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.hold("embedding", _positions_as_maps(embedding, grid))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) -> the same shape."""
        return x + _as_rows(_interpolated(self.embedding, x.shape[1:4]))


# Export: maps as they are, (B, C, D, H, W) -------------------------------------------------------------------------


class _ExportNorm(_Frozen):
    """The mean and the scale of the norm behind a transposed convolution."""

    mean: Tensor
    mean_bias: Tensor
    within: Tensor
    offset: Tensor
    offset_bias: Tensor
    of_scale: Tensor
    of_shift: Tensor

    def __init__(self, norm: _NormWeights, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.eps = norm.eps
        root = len(norm.mean) ** 0.5  # a mean over channels then is a sum
        diagonal = norm.within.diagonal()
        self.pointwise = torch.equal(norm.within, torch.diag(diagonal))
        self.hold("within", diagonal[:, None, None, None] * root if self.pointwise else _kernel(norm.within * root))
        self.hold("offset", _kernel(norm.offset * root))
        self.hold("offset_bias", norm.offset_bias * root)
        self.hold("mean", _kernel(norm.mean[None]))
        self.hold("mean_bias", norm.mean_bias[None])
        self.hold("of_scale", norm.of_scale[:, None, None, None])
        self.hold("of_shift", norm.of_shift[:, None, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in, d, h, w) -> the output's mean and the norm's scale, (B, 1, 1, 1, 1) each."""
        means = x.mean((2, 3, 4), keepdim=True)
        if self.pointwise:
            spread = (x - means) * self.within
        else:
            spread = F.conv3d(x, self.within) - F.conv3d(means, self.within)
        offset = F.conv3d(means, self.offset, self.offset_bias)
        squares = spread * spread + offset * offset
        if not self.pointwise:  # two means are faster on channels last, where convolutions write
            squares = squares.mean((2, 3, 4), keepdim=True)
        variance = squares.mean((1, 2, 3, 4), keepdim=True)
        return F.conv3d(means, self.mean, self.mean_bias), (variance + self.eps).rsqrt()


class _ExportSpread(_Frozen):
    """(B, in, d, h, w) to maps that are `stride` times as large, added to others."""

    weight: Tensor  # (k k k out, in, 1, 1, 1)
    constant: Tensor

    def __init__(self, weights: _SpreadWeights, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        assert weights.norm is not None
        self.norm = _ExportNorm(weights.norm, dtype)
        self.stride = weights.weight.shape[-1]
        self.hold("weight", _kernel(weights.weight.permute(2, 3, 4, 1, 0).flatten(0, 3)))
        self.hold("constant", weights.constant[:, None, None, None])

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(B, in, d, h, w) and (B, out, d k, h k, w k) or less -> their sum, as far as the latter reaches."""
        mean, scale = self.norm(x)
        y = cropped(_to_space(F.conv3d(x, self.weight), self.stride), target.shape[2:])
        total: Tensor = target + (y + (self.norm.of_scale - mean * self.norm.of_shift)) * scale + self.constant
        return total


class _ExportHead(_Frozen):
    """(B, in, d, h, w) to the logits, one channel after the other, each written to its place at once.

    Maps of the logits are large, so the norm's scale and shift are brought in before: the input is scaled, and widened
    by two channels, equal everywhere, that hold them.
    """

    weight: Tensor  # (out, k k k, in or in + 2, 1, 1, 1)
    bias: Tensor  # (out, 1)
    widen: Tensor  # (in + 2, in, 1, 1, 1)
    scale_place: Tensor  # (in + 2, 1, 1, 1), one where the scale is held
    shift_place: Tensor

    def __init__(self, weights: _SpreadWeights, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        weight = weights.weight.permute(1, 2, 3, 4, 0).flatten(1, 3)  # (out, k k k, in)
        self.stride = weights.weight.shape[-1]
        self.normalises = weights.norm is not None
        if norm := weights.norm:
            self.norm = _ExportNorm(norm, dtype)
            numbers = torch.stack((norm.of_scale, norm.of_shift), 1)[:, None].expand(-1, weight.shape[1], -1)
            weight = torch.cat((weight, numbers), 2)
            places = torch.eye(weight.shape[2], dtype=weight.dtype, device=weight.device)
            self.hold("widen", _kernel(places[:, :-2]))
            self.hold("scale_place", places[-2, :, None, None, None])
            self.hold("shift_place", places[-1, :, None, None, None])
        self.hold("weight", weight[..., None, None, None])
        self.hold("bias", weights.constant[:, None].expand(-1, weight.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, d, h, w) -> (B, out, d k, h k, w k)."""
        if self.normalises:
            mean, scale = self.norm(x)
            x = (F.conv3d(x, self.widen) + (self.scale_place - mean * self.shift_place)) * scale
        logits = [
            _to_space(F.conv3d(x, weight, bias), self.stride)
            for weight, bias in zip(self.weight, self.bias, strict=True)
        ]
        return torch.cat(logits, 1)


def _to_space(x: Tensor, k: int) -> Tensor:
    """(B, k k k out, d, h, w) -> (B, out, d k, h k, w k); by way of channels last, where runs of memory are moved."""
    batch, _, d, h, w = x.shape
    if k == 1:
        return x
    x = x.permute(0, 2, 3, 4, 1).reshape(batch, d, h, w, k, k, k, -1)
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, d * k, h * k, w * k, -1)
    return x.permute(0, 4, 1, 2, 3)


def _kernel(weight: Tensor) -> Tensor:
    """(out, in) -> the kernel of a pointwise convolution."""
    return weight[:, :, None, None, None]


class _ExportDownsample(_Frozen):
    weight: Tensor
    bias: Tensor
    norm_scale: Tensor
    norm_shift: Tensor

    def __init__(self, down: nn.Module, where: str, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        weight, bias, scale, shift, self.eps = _downsampling_weights(down, where)
        self.hold("weight", weight)
        self.hold("bias", bias)
        self.hold("norm_scale", scale[:, None, None, None])
        self.hold("norm_shift", shift[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, D, H, W) -> (B, out, D/k, H/k, W/k), rounded up."""
        stride = self.weight.shape[-1]
        y = F.conv3d(padded(x, stride), self.weight, self.bias, stride=stride)
        y = y - y.mean((1, 2, 3, 4), keepdim=True)
        variance = y.square().mean((1, 2, 3, 4), keepdim=True)
        return y * (self.norm_scale * (variance + self.eps).rsqrt()) + self.norm_shift


class _ExportBlock(_Frozen):
    """A `SlimBlock` of convolutions."""

    position1: Tensor
    before: Tensor
    before_bias: Tensor
    local: Tensor
    local_bias: Tensor
    after: Tensor
    mlp1_in: Tensor
    mlp1_out: Tensor
    position2: Tensor
    qkv: Tensor
    mlp2_in: Tensor
    mlp2_out: Tensor

    def __init__(self, block: nn.Module, where: str, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        weights = _block_weights(block, where)
        for name in ("position1", "before_bias", "local", "local_bias", "position2"):
            self.hold(name, getattr(weights, name))
        attention = weights.attention
        self.heads, self.r, self.pooled = attention.heads, attention.r, attention.pooled
        for name, weight in (
            ("before", weights.before),
            ("after", weights.after),
            ("mlp1_in", weights.mlp1[0]),
            ("mlp1_out", weights.mlp1[1]),
            ("qkv", torch.cat((attention.query, attention.key, attention.value))),
            ("mlp2_in", weights.mlp2[0]),
            ("mlp2_out", weights.mlp2[1]),
        ):
            self.hold(name, _kernel(weight))
        self.sizes = [len(attention.query), len(attention.key), len(attention.value)]
        self.diffusion = _ExportSpread(weights.diffusion, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same."""
        x = F.conv3d(x, self.position1, padding=1, groups=len(self.position1))
        hidden = F.conv3d(x, self.before, self.before_bias)
        hidden = F.conv3d(hidden, self.local, self.local_bias, padding=1, groups=len(self.local))
        x = x + F.conv3d(hidden, self.after)
        x = x + F.conv3d(F.gelu(F.conv3d(x, self.mlp1_in)), self.mlp1_out)
        x = F.conv3d(x, self.position2, padding=1, groups=len(self.position2))
        x = self.diffusion(self._attend(x), x)
        return x + F.conv3d(F.gelu(F.conv3d(x, self.mlp2_in)), self.mlp2_out)

    def _attend(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, A, D/r, H/r, W/r)."""
        r = self.r
        if self.pooled and r > 1:
            x = cell_means(x, r)
        elif r > 1:
            x = x[:, :, ::r, ::r, ::r]
        parts = F.conv3d(x, self.qkv).flatten(2).split(self.sizes, dim=1)  # type: ignore[no-untyped-call]
        query, key, value = (part.reshape(len(x), self.heads, -1, part.shape[2]) for part in parts)
        scores = (query.transpose(2, 3) @ key).softmax(dim=-1)  # (B, heads, N queries, N keys)
        attended: Tensor = value @ scores.transpose(2, 3)  # (B, heads, A/heads, N)
        return attended.reshape(len(x), -1, *x.shape[2:])


class _ExportPositions(_Frozen):
    """The published bottleneck: tokens (B, N, C) get their positions, and are read back as (B, C, D, H, W)."""

    embedding: Tensor

    def __init__(self, embedding: Tensor, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.hold("embedding", embedding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same shape."""
        return (x.flatten(2).transpose(1, 2) + self.embedding).reshape(x.shape)


class _ExportMapPositions(_Frozen):
    """The corrected bottleneck: a map of positions, interpolated to the grid of the input."""

    embedding: Tensor

    def __init__(self, embedding: Tensor, grid: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.hold("embedding", _positions_as_maps(embedding, grid))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same shape."""
        return x + _interpolated(self.embedding, x.shape[2:])


def _positions_as_maps(embedding: Tensor, grid: Sequence[int]) -> Tensor:
    """(1, N, C) -> (1, C, D, H, W)."""
    return embedding.transpose(1, 2).reshape(1, -1, *grid)


def _interpolated(maps: Tensor, grid: Sequence[int]) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, size=tuple(grid), mode="trilinear", align_corners=False)


# The network -------------------------------------------------------------------------------------------------------


class InferenceNetwork(_Frozen):
    """The function of a trained Slim UNETR, in one of its two forms."""

    def __init__(self, model: SlimUNETR, form: Form) -> None:
        """Take copies of the weights of `model`.

        Raises:
            ValueError: a part of it is not what `SlimUNETR` or `SlimUNETRFixed` builds.
        """
        if form not in ("eager", "export"):
            raise ValueError(f"a network for inference has the form 'eager' or 'export', not {form!r}")
        if type(model) not in (SlimUNETR, SlimUNETRFixed):
            _refuse("the network itself", "a SlimUNETR or SlimUNETRFixed", model)
        dtype = model.position_embedding.dtype
        super().__init__(dtype)
        self.form, self.in_channels, self.spatial = form, model.in_channels, model.spatial
        self.multiple_of = model.multiple_of if isinstance(model, SlimUNETRFixed) else None
        eager = form == "eager"
        downs, ups = (_parts(getattr(model, name), name) for name in ("downs", "ups"))
        self.downs = nn.ModuleList(
            _EagerDownsample(down, where, dtype, from_maps=where == "downs.0")
            if eager
            else _ExportDownsample(down, where, dtype)
            for where, down in downs
        )
        block = _EagerBlock if eager else _ExportBlock
        self.encoder, self.decoder = (
            nn.ModuleList(_stage(stage, where, block, dtype) for where, stage in _parts(getattr(model, name), name))
            for name in ("encoder", "decoder")
        )
        head, *spreads = (_upsampling_weights(up, where) for where, up in ups)
        self.head = _EagerHead(head, dtype) if eager else _ExportHead(head, dtype)
        self.ups = nn.ModuleList((_EagerSpread if eager else _ExportSpread)(weights, dtype) for weights in spreads)
        embedding = model.position_embedding.detach()
        self.positions: nn.Module
        if isinstance(model, SlimUNETRFixed):
            self.positions = (_EagerMapPositions if eager else _ExportMapPositions)(embedding, model.grid, dtype)
        else:
            self.positions = (_EagerPositions if eager else _ExportPositions)(embedding, dtype)
        for module in self.modules():
            module.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, out_channels, D, H, W); without gradients in the eager form.

        Raises:
            ValueError: an input that the network was not built for.
        """
        if self.form == "export":
            return self._logits(x)
        with torch.no_grad():  # its parts are written in place
            return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        sides = x.shape[2:]
        x = self._checked(x)
        skips = []
        for down, stage in zip(self.downs, self.encoder, strict=True):
            x = stage(down(x))
            skips.append(x)
        x = self.positions(skips.pop())
        for up, stage in zip(self.ups[::-1], self.decoder[:0:-1], strict=True):
            x = up(stage(x), skips.pop())
        x = self.head(self.decoder[0](x))
        return x if x.shape[2:] == sides else x[:, :, : sides[0], : sides[1], : sides[2]]

    def _checked(self, x: Tensor) -> Tensor:
        """The input, padded where the network takes any size."""
        if self.multiple_of is None:
            check_input("Slim UNETR", x.shape, self.in_channels, self.spatial)
            return x
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"this Slim UNETR (fixed) takes (B, {self.in_channels}, D, H, W), not {tuple(x.shape)}; "
                "build it with the channels of the input"
            )
        check_sides("Slim UNETR (fixed)", tuple(x.shape[2:]), 1)
        return padded(x, self.multiple_of)


def _parts(parts: Any, where: str) -> list[tuple[str, nn.Module]]:
    """The four parts of a list, with their names."""
    if type(parts) is not nn.ModuleList or len(parts) != 4:
        _refuse(where, "four parts", parts)
    return [(f"{where}.{i}", part) for i, part in enumerate(parts)]


def _stage(stage: Any, where: str, block: type[_EagerBlock] | type[_ExportBlock], dtype: torch.dtype) -> nn.Module:
    _expect(stage, where, nn.Sequential)
    blocks: list[nn.Module] = [block(part, f"{where}.{i}", dtype) for i, part in enumerate(stage)]
    return nn.Sequential(*blocks)
