"""Rules for channel tracing: where each operator takes the numbers of channels.

Moves take them along, sums join them, a convolution ends them at the axis of its weight that reads and begins new ones
at the axis that makes. An operator without a rule freezes what it touches.
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
def _move(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Operators that move values: the numbers go along. Equal pieces of channels lose the same."""
    rest = _where(follower, func, args)
    if func.overloadpacket is aten.slice:
        _steps(follower, *args, **kwargs)
    follower.move(args[0], lambda numbers: func(numbers, *rest, **kwargs), out)
    if func.overloadpacket in _PIECES:
        _pieces(follower, args[0], args[2] if len(args) > 2 else kwargs.get("dim", 0), out)


def _steps(
    follower: ChannelTracer, source: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> None:
    """Every second channel stays every second one only if the channels of a step go together."""
    numbers = follower.of(source)
    if numbers is None or step == 1 or not varies(numbers, dim):
        return
    size = numbers.shape[dim]
    channels = follower.channels(numbers, dim)
    if (start or 0) >= step or (end is not None and end < size):
        follower.forest.freeze(channels)
        return
    firsts = channels[np.arange(size) // step * step]
    follower.forest.join(channels, firsts)


class _Unreal(Exception):
    """An index without values."""


def _where(follower: ChannelTracer, func: Any, args: Sequence[Any]) -> Sequence[Any]:
    """The arguments after the first. An index without values may be any, where channels do not vary along its axis.

    Raises:
        _Unreal: they do: then the network has to be followed with values.
    """
    rest = args[1:]
    unreal = [leaf for leaf in tree_leaves(rest) if _is_unreal(leaf)]
    if not unreal:
        return rest
    numbers, axes = follower.of(args[0]), list[int]()
    if func.overloadpacket is aten.index_select:
        axes = [args[1]]
    elif func.overloadpacket is aten.index:
        axes = [axis for axis, one in enumerate(args[1]) if one is not None]
    whole = all(one.dtype in (torch.int64, torch.int32) for one in unreal)
    if not axes or not whole or (numbers is not None and any(varies(numbers, axis) for axis in axes)):
        raise _Unreal(f"{func} moves channels by an index that has no values")
    found: Sequence[Any] = tree_map(lambda one: torch.zeros_like(one, device="cpu") if _is_unreal(one) else one, rest)
    return found


def _is_unreal(one: Any) -> bool:
    return isinstance(one, Tensor) and one.is_meta


def _pieces(follower: ChannelTracer, source: Any, axis: int, out: Sequence[Any]) -> None:
    numbers = follower.of(source)
    if numbers is None or not varies(numbers, axis):
        return
    parts = [follower.channels(own, axis) for value in out if (own := follower.of(value)) is not None]
    if len({len(part) for part in parts}) == 1:
        for part in parts[1:]:
            follower.forest.join(part, parts[0])
    else:
        follower.forest.freeze(numbers.numpy())


@_rule(_COPIES)
def _copy(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    follower.move(args[0], lambda numbers: numbers, out)


@_rule("view _unsafe_view reshape unflatten")
def _view(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """A new shape. An axis of channels that is split into heads stays a rectangle only if all heads lose the same."""
    source = args[0]
    if (numbers := follower.of(source)) is not None:
        for axis, inner in _splits(tuple(source.shape), tuple(out.shape)):
            if varies(numbers, axis):
                rows = follower.channels(numbers, axis).reshape(-1, inner)
                follower.forest.join(rows, np.broadcast_to(rows[:1], rows.shape))
    follower.move(source, lambda numbers: reshaped(numbers, tuple(out.shape)), out)


def _splits(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """(axis of `before` that is split, the length of the innermost part), where a view splits an axis."""
    found, i, j = [], 0, 0
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
            found.append((first, parts[-1]))
        i, j = i + 1, j + 1
    return found


@_rule("cat stack")
def _cat(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    parts = args[0]
    known = [follower.of(part) for part in parts]
    if all(numbers is None for numbers in known):
        return
    filled = [
        torch.full((1,) * part.ndim, NONE).expand(part.shape) if numbers is None else numbers
        for part, numbers in zip(parts, known, strict=True)
    ]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    if func.overloadpacket is aten.cat:
        for other in range(out.ndim):
            if other != axis and all(one.stride(other) == 0 for one in filled):
                filled = [one.narrow(other, 0, 1) for one in filled]
    follower.put(out, func(filled, *args[1:], **kwargs).expand(out.shape))


@_rule("empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full")
def _fill(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Values that do not come from their source, only its shape does."""


@_rule("constant_pad_nd")
def _pad(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    if (numbers := follower.of(args[0])) is not None:
        follower.put(out, aten.constant_pad_nd(numbers, args[1], NONE))


@_rule(
    "relu relu_ leaky_relu leaky_relu_ gelu silu silu_ hardswish hardswish_ sigmoid sigmoid_ tanh tanh_ elu "
    "elu_ neg exp abs sqrt rsqrt pow clamp clamp_min hardtanh hardtanh_ native_dropout softplus hardsigmoid erf "
    "mish reciprocal log dropout_"
)
def _each(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    follower.put(as_list(out)[0], follower.of(args[0]))


@_rule(
    "add add_ sub sub_ rsub mul mul_ div div_ maximum minimum where masked_fill masked_fill_ _prelu_kernel "
    "addcmul _safe_softmax_mask"
)
def _together(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Values that are combined one by one: their channels are one; one that is broadcast over channels is not."""
    shape = tuple(out.shape)
    values = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
    found: Numbers | None = None
    for value in sorted(values, key=lambda value: -value.numel()):
        numbers = follower.of(value)
        if numbers is None:
            continue
        full = numbers.expand(shape)
        if found is None:
            found = full
            continue
        if _is_spread_over(numbers, found):  # a gate of one channel over many
            continue
        a, b = both(full, found)
        follower.forest.join(a.numpy(), b.numpy())
        found = torch.maximum(a, b).expand(shape)
    if found is not None:
        for value in values:
            if follower.is_weight(value) and value.numel() > 1:
                follower.bind_elements(value, found)
    follower.put(out, found)


def _is_spread_over(numbers: Numbers, found: Numbers) -> bool:
    """Whether a value is broadcast over an axis along which the other's channels vary."""
    padded = (1,) * (found.ndim - numbers.ndim) + tuple(numbers.shape)
    return any(
        own == 1 < full and varies(found, axis)
        for axis, (own, full) in enumerate(zip(padded, found.shape, strict=True))
    )


@_rule("convolution _convolution")
def _convolution(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    numbers, width = follower.of(x), out.shape[1]
    inputs = np.full(x.shape[1], NONE, np.int64) if numbers is None else follower.channels(numbers, 1)
    depthwise = groups > 1 and groups == x.shape[1]
    if (groups > 1 and not depthwise) or not follower.is_weight(weight):
        follower.forest.freeze(inputs)
        channels = follower.forest.new(width)
        follower.forest.freeze(channels)
    elif depthwise:
        channels = np.repeat(inputs, width // groups)
        follower.bind(weight, 0, inputs if transposed else channels)
    else:
        channels = follower.forest.new(width)
        follower.bind(weight, 0 if transposed else 1, inputs, follower.reads)
        follower.bind(weight, 1 if transposed else 0, channels, follower.makes)
    follower.bind(bias, 0, channels)
    follower.put(out, spread(channels, out.shape, 1))


@_rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update"
)
def _batch_norm(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    if (numbers := follower.of(args[0])) is None:
        return
    channels = follower.channels(numbers, 1)
    for value in args[1:5]:
        follower.bind(value, 0, channels)
    follower.put(as_list(out)[0], numbers)


@_rule("native_group_norm")
def _group_norm(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers, groups = follower.of(args[0]), args[6]
    if numbers is None:
        return
    channels = follower.channels(numbers, 1)
    if groups == 1:
        follower.forest.mix(channels)
    else:  # a group goes as one: so the others keep their statistics
        rows = channels.reshape(groups, -1)
        follower.forest.join(rows, np.broadcast_to(rows[:, :1], rows.shape))
    for value in args[1:3]:
        follower.bind(value, 0, channels)
    follower.put(out[0], numbers)


@_rule("native_layer_norm")
def _layer_norm(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers, normed = follower.of(args[0]), args[1]
    if numbers is None:
        return
    if len(normed) != 1:
        follower.forest.freeze(numbers.numpy())
        return
    channels = follower.channels(numbers, numbers.ndim - 1)
    follower.forest.mix(channels)
    for value in args[2:4]:
        follower.bind(value, 0, channels)
    follower.put(out[0], numbers)


@_rule("mm bmm addmm baddbmm mv addmv")
def _product(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    bias = args[0] if func.overloadpacket in (aten.addmm, aten.baddbmm) else None
    a, b = args[1:3] if bias is not None else args[:2]
    if b.ndim < 2 or a.ndim < 2:
        for value in (a, b):
            if (numbers := follower.of(value)) is not None:
                follower.forest.freeze(numbers.numpy())
        return
    sides = ((a, a.ndim - 2, a.ndim - 1), (b, b.ndim - 1, b.ndim - 2))  # value, its own axis, the axis that is summed
    made: list[Channels | None] = [None, None]  # channels of the rows, of the columns
    summed: list[Channels] = []
    for side, (value, own, along) in enumerate(sides):
        if (numbers := follower.of(value)) is not None:
            if varies(numbers, along):
                summed.append(follower.channels(numbers, along))
            if varies(numbers, own):
                made[side] = follower.channels(numbers, own)
    if len(summed) == 2:
        follower.forest.join(*summed)
        follower.forest.multiply(summed[0])
    for side, (value, own, along) in enumerate(sides):
        if follower.is_weight(value):
            if summed:
                follower.bind(value, along, summed[0], follower.reads)
            made[side] = new = follower.forest.new(value.shape[own])
            follower.bind(value, own, new, follower.makes)
    rows, columns = made
    if rows is not None and columns is not None:  # a value of two channels
        follower.forest.freeze(rows)
        follower.forest.freeze(columns)
    if rows is None and columns is None:
        return
    found, axis = (columns, out.ndim - 1) if rows is None else (rows, out.ndim - 2)
    assert found is not None
    if bias is not None:
        if follower.is_weight(bias):
            follower.bind(bias, bias.ndim - 1, found)
        elif (numbers := follower.of(bias)) is not None:
            follower.forest.join(follower.channels(numbers.expand(out.shape), axis), found)
    follower.put(out, spread(found, out.shape, axis))


@_rule("_softmax _log_softmax _safe_softmax")
def _softmax(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    numbers = follower.of(args[0])
    if numbers is not None and varies(numbers, args[1] % numbers.ndim):
        follower.forest.mix(numbers.numpy())
    follower.put(out, numbers)


@_rule("mean sum amax amin max min var var_mean std linalg_vector_norm")
def _reduce(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Over space a channel stays itself; over channels it becomes a value of none."""
    numbers = follower.of(args[0])
    if numbers is None:
        return
    at = 2 if func.overloadpacket is aten.linalg_vector_norm else 1
    axes = args[at] if len(args) > at else kwargs.get("dim")
    axes = [axes] if isinstance(axes, int) else list(axes or range(numbers.ndim))
    if any(varies(numbers, axis) for axis in axes):
        follower.forest.mix(numbers.numpy())
        return
    for value in as_list(out):
        first = numbers
        for axis in sorted((axis % numbers.ndim for axis in axes), reverse=True):
            first = first.narrow(axis, 0, 1)
        if isinstance(value, Tensor) and math.prod(value.shape) == first.numel():
            follower.put(value, first.reshape(value.shape))


@_rule(
    "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d upsample_trilinear3d "
    "upsample_nearest3d _upsample_nearest_exact3d grid_sampler_3d max_pool3d adaptive_avg_pool3d"
)
def _resample(follower: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    value = as_list(out)[0]
    if (numbers := follower.of(args[0])) is not None:
        follower.put(value, spread(follower.channels(numbers, 1), value.shape, 1))
