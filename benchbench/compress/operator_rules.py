"""Rules for channel tracing: what each operator does with the numbers of channels.

Operators that move values move the numbers, sums couple them, a convolution reads them with one axis of its weight and
makes new ones with another. An operator without a rule freezes all channels of its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from benchbench.compress.channel_tracer import (
    NONE,
    Channels,
    ChannelTracer,
    Numbers,
    Rule,
    as_list,
    both,
    reshaped,
    spread,
    varies,
)

aten = torch.ops.aten

RULES: dict[Any, Rule] = {}


def _rule(names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for name in names.split():
            if hasattr(aten, name):
                RULES[getattr(aten, name)] = rule
        return rule

    return add


_MOVES = (
    "permute transpose t expand unsqueeze squeeze select slice roll flip repeat "
    "unbind diagonal view_as index index_select movedim split split_with_sizes chunk tensor_split"
)
_COPIES = "clone detach alias _to_copy contiguous lift_fresh lift_fresh_copy"
_PIECES = tuple(getattr(aten, name) for name in ("split", "split_with_sizes", "chunk", "tensor_split"))


@_rule(_MOVES)
def _move(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Operators that move values. Equal pieces of an axis of channels have to lose the same channels."""
    rest = _index_arguments(tracer, func, args)
    if func.overloadpacket is aten.slice:
        _steps(tracer, *args, **kwargs)
    tracer.move(args[0], lambda numbers: func(numbers, *rest, **kwargs), out)
    if func.overloadpacket in _PIECES:
        _pieces(tracer, args[0], args[2] if len(args) > 2 else kwargs.get("dim", 0), out)


def _steps(
    tracer: ChannelTracer, source: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> None:
    """A slice with a step keeps its meaning only if the channels within a step are removed together."""
    numbers = tracer.of(source)
    if numbers is None or step == 1 or not varies(numbers, dim):
        return
    size = numbers.shape[dim]
    channels = tracer.channels(numbers, dim)
    if (start or 0) >= step or (end is not None and end < size):
        tracer.forest.freeze(channels)
        return
    firsts = channels[np.arange(size) // step * step]
    tracer.forest.join(channels, firsts)


class _MetaIndex(Exception):
    """An index on `meta`, which has no values."""


def _index_arguments(tracer: ChannelTracer, func: Any, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments after the first; an index on `meta` is replaced by zeros if channels do not vary along its axis."""
    rest = args[1:]
    indices = [leaf for leaf in tree_leaves(rest) if _is_meta(leaf)]
    if not indices:
        return rest
    numbers, axes = tracer.of(args[0]), list[int]()
    if func.overloadpacket is aten.index_select:
        axes = [args[1]]
    elif func.overloadpacket is aten.index:
        axes = [axis for axis, index in enumerate(args[1]) if index is not None]
    integers = all(value.dtype in (torch.int64, torch.int32) for value in indices)
    if not axes or not integers or (numbers is not None and any(varies(numbers, axis) for axis in axes)):
        raise _MetaIndex(f"{func} moves channels by an index that has no values")
    zeros: Sequence[Any] = tree_map(
        lambda value: torch.zeros_like(value, device="cpu") if _is_meta(value) else value, rest
    )
    return zeros


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _pieces(tracer: ChannelTracer, source: Any, axis: int, out: Sequence[Any]) -> None:
    numbers = tracer.of(source)
    if numbers is None or not varies(numbers, axis):
        return
    parts = [tracer.channels(numbers, axis) for value in out if (numbers := tracer.of(value)) is not None]
    if len({len(part) for part in parts}) == 1:
        for part in parts[1:]:
            tracer.forest.join(part, parts[0])
    else:
        tracer.forest.freeze(numbers.numpy())


@_rule(_COPIES)
def _copy(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    tracer.move(args[0], lambda numbers: numbers, out)


@_rule("view _unsafe_view reshape unflatten")
def _view(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """A new shape. If it splits an axis of channels into heads, all heads have to lose the same channels."""
    source = args[0]
    if (numbers := tracer.of(source)) is not None:
        for axis, inner in _splits(tuple(source.shape), tuple(out.shape)):
            if varies(numbers, axis):
                rows = tracer.channels(numbers, axis).reshape(-1, inner)
                tracer.forest.join(rows, np.broadcast_to(rows[:1], rows.shape))
    tracer.move(source, lambda numbers: reshaped(numbers, tuple(out.shape)), out)


def _splits(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """(axis of `before`, length of its innermost part) for each axis that a view splits."""
    pairs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        a, b, first, last = before[i], after[j], i, j
        while a != b:
            if a < b:
                i += 1
                a *= before[i]
            else:
                j += 1
                b *= after[j]
        parts = [n for n in after[last : j + 1] if n != 1]
        if i == first and len(parts) > 1:
            pairs.append((first, parts[-1]))
        i, j = i + 1, j + 1
    return pairs


@_rule("cat stack")
def _cat(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    parts = args[0]
    all_numbers = [tracer.of(part) for part in parts]
    if all(numbers is None for numbers in all_numbers):
        return
    filled = [
        torch.full((1,) * part.ndim, NONE).expand(part.shape) if numbers is None else numbers
        for part, numbers in zip(parts, all_numbers, strict=True)
    ]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    if func.overloadpacket is aten.cat:
        for other in range(out.ndim):
            if other != axis and all(numbers.stride(other) == 0 for numbers in filled):
                filled = [numbers.narrow(other, 0, 1) for numbers in filled]
    tracer.put(out, func(filled, *args[1:], **kwargs).expand(out.shape))


@_rule("empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full")
def _fill(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Only the shape comes from the source, not the values."""


@_rule("constant_pad_nd")
def _pad(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    if (numbers := tracer.of(args[0])) is not None:
        tracer.put(out, aten.constant_pad_nd(numbers, args[1], NONE))


@_rule(
    "relu relu_ leaky_relu leaky_relu_ gelu silu silu_ hardswish hardswish_ sigmoid sigmoid_ tanh tanh_ elu "
    "elu_ neg exp abs sqrt rsqrt pow clamp clamp_min hardtanh hardtanh_ native_dropout softplus hardsigmoid erf "
    "mish reciprocal log dropout_"
)
def _each(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    tracer.put(as_list(out)[0], tracer.of(args[0]))


@_rule(
    "add add_ sub sub_ rsub mul mul_ div div_ maximum minimum where masked_fill masked_fill_ _prelu_kernel "
    "addcmul _safe_softmax_mask"
)
def _together(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Values that are combined one by one: their channels are coupled, unless one is broadcast over channels."""
    shape = tuple(out.shape)
    values = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
    joined: Numbers | None = None
    for value in sorted(values, key=lambda value: -value.numel()):
        numbers = tracer.of(value)
        if numbers is None:
            continue
        full = numbers.expand(shape)
        if joined is None:
            joined = full
            continue
        if _is_spread_over(numbers, joined):  # a gate of one channel over many
            continue
        a, b = both(full, joined)
        tracer.forest.join(a.numpy(), b.numpy())
        joined = torch.maximum(a, b).expand(shape)
    if joined is not None:
        for value in values:
            if tracer.is_weight(value) and value.numel() > 1:
                tracer.bind_elements(value, joined)
    tracer.put(out, joined)


def _is_spread_over(numbers: Numbers, joined: Numbers) -> bool:
    """Whether a value is broadcast over an axis along which the other's channels vary."""
    padded = (1,) * (joined.ndim - numbers.ndim) + tuple(numbers.shape)
    return any(
        side == 1 < full and varies(joined, axis)
        for axis, (side, full) in enumerate(zip(padded, joined.shape, strict=True))
    )


@_rule("convolution _convolution")
def _convolution(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    numbers, width = tracer.of(x), out.shape[1]
    inputs = np.full(x.shape[1], NONE, np.int64) if numbers is None else tracer.channels(numbers, 1)
    depthwise = groups > 1 and groups == x.shape[1]
    if (groups > 1 and not depthwise) or not tracer.is_weight(weight):
        tracer.forest.freeze(inputs)
        channels = tracer.forest.new(width)
        tracer.forest.freeze(channels)
    elif depthwise:
        channels = np.repeat(inputs, width // groups)
        tracer.bind(weight, 0, inputs if transposed else channels)
    else:
        channels = tracer.forest.new(width)
        tracer.bind(weight, 0 if transposed else 1, inputs, tracer.reads)
        tracer.bind(weight, 1 if transposed else 0, channels, tracer.makes)
    tracer.bind(bias, 0, channels)
    tracer.put(out, spread(channels, out.shape, 1))


@_rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update"
)
def _batch_norm(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    if (numbers := tracer.of(args[0])) is None:
        return
    channels = tracer.channels(numbers, 1)
    for value in args[1:5]:
        tracer.bind(value, 0, channels)
    tracer.put(as_list(out)[0], numbers)


@_rule("native_group_norm")
def _group_norm(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers, groups = tracer.of(args[0]), args[6]
    if numbers is None:
        return
    channels = tracer.channels(numbers, 1)
    if groups == 1:
        tracer.forest.mix(channels)
    else:  # a group is removed as a whole, so that the others keep their statistics
        rows = channels.reshape(groups, -1)
        tracer.forest.join(rows, np.broadcast_to(rows[:, :1], rows.shape))
    for value in args[1:3]:
        tracer.bind(value, 0, channels)
    tracer.put(out[0], numbers)


@_rule("native_layer_norm")
def _layer_norm(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers, normed = tracer.of(args[0]), args[1]
    if numbers is None:
        return
    if len(normed) != 1:
        tracer.forest.freeze(numbers.numpy())
        return
    channels = tracer.channels(numbers, numbers.ndim - 1)
    tracer.forest.mix(channels)
    for value in args[2:4]:
        tracer.bind(value, 0, channels)
    tracer.put(out[0], numbers)


@_rule("mm bmm addmm baddbmm mv addmv")
def _product(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    bias = args[0] if func.overloadpacket in (aten.addmm, aten.baddbmm) else None
    a, b = args[1:3] if bias is not None else args[:2]
    if b.ndim < 2 or a.ndim < 2:
        for value in (a, b):
            if (numbers := tracer.of(value)) is not None:
                tracer.forest.freeze(numbers.numpy())
        return
    sides = ((a, a.ndim - 2, a.ndim - 1), (b, b.ndim - 1, b.ndim - 2))  # value, its remaining axis, its summed axis
    new_channels: list[Channels | None] = [None, None]  # channels of the rows, of the columns
    summed: list[Channels] = []
    for side, (value, axis, along) in enumerate(sides):
        if (numbers := tracer.of(value)) is not None:
            if varies(numbers, along):
                summed.append(tracer.channels(numbers, along))
            if varies(numbers, axis):
                new_channels[side] = tracer.channels(numbers, axis)
    if len(summed) == 2:
        tracer.forest.join(*summed)
        tracer.forest.multiply(summed[0])
    for side, (value, axis, along) in enumerate(sides):
        if tracer.is_weight(value):
            if summed:
                tracer.bind(value, along, summed[0], tracer.reads)
            new_channels[side] = new = tracer.forest.new(value.shape[axis])
            tracer.bind(value, axis, new, tracer.makes)
    rows, columns = new_channels
    if rows is not None and columns is not None:  # a value that belongs to two channels
        tracer.forest.freeze(rows)
        tracer.forest.freeze(columns)
    if rows is None and columns is None:
        return
    channels, axis = (columns, out.ndim - 1) if rows is None else (rows, out.ndim - 2)
    assert channels is not None
    if bias is not None:
        if tracer.is_weight(bias):
            tracer.bind(bias, bias.ndim - 1, channels)
        elif (numbers := tracer.of(bias)) is not None:
            tracer.forest.join(tracer.channels(numbers.expand(out.shape), axis), channels)
    tracer.put(out, spread(channels, out.shape, axis))


@_rule("_softmax _log_softmax _safe_softmax")
def _softmax(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers = tracer.of(args[0])
    if numbers is not None and varies(numbers, args[1] % numbers.ndim):
        tracer.forest.mix(numbers.numpy())
    tracer.put(out, numbers)


@_rule("mean sum amax amin max min var var_mean std linalg_vector_norm")
def _reduce(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """A reduction over space keeps the channels; one over channels has a value of no channel."""
    numbers = tracer.of(args[0])
    if numbers is None:
        return
    at = 2 if func.overloadpacket is aten.linalg_vector_norm else 1
    axes = args[at] if len(args) > at else kwargs.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes or range(numbers.ndim))
    if any(varies(numbers, axis) for axis in axes):
        tracer.forest.mix(numbers.numpy())
        return
    for value in as_list(out):
        first = numbers
        for axis in sorted((axis % numbers.ndim for axis in axes), reverse=True):
            first = first.narrow(axis, 0, 1)
        if isinstance(value, Tensor) and math.prod(value.shape) == first.numel():
            tracer.put(value, first.reshape(value.shape))


@_rule(
    "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d upsample_trilinear3d "
    "upsample_nearest3d _upsample_nearest_exact3d grid_sampler_3d max_pool3d adaptive_avg_pool3d"
)
def _resample(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    value = as_list(out)[0]
    if (numbers := tracer.of(args[0])) is not None:
        tracer.put(value, spread(tracer.channels(numbers, 1), value.shape, 1))
