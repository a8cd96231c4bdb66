"""Coupled channel groups of a network, found by tracing every channel through one forward.

A channel can only be removed together with the rows of the weights that make it, the columns of those that read it, its
norms, and the channels that it is added to. Each value of an activation carries the number of its channel, and
operators that move values (views, slices, concatenations) move the numbers too, so no network has to declare anything.
A network may split a channel axis into heads, chunk it, or shuffle it with space. Channels without which a weight would
not be rectangular are frozen.

The forward runs on `meta` if the network allows it, so only the numbers are computed. Widths that are
constants in the network's code are found by changing them, and frozen too.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchbench.compress.channel_tracer import ChannelTracer, FastNorms, UnionFind
from benchbench.compress.operator_rules import RULES
from benchbench.core.errors import ShapeError, UsageError, first_line
from benchbench.measure.flops.meta_device import copied
from benchbench.measure.flops.tracer import graph_settings
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.pruned import resize, shapes_of

log = logging.getLogger(__name__)

_UNLIKE = 7  # different numbers of channels that are removed in a trial, before they repeat


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class WeightIndex:
    """Place of a channel in a parameter or buffer."""

    name: str
    axis: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Prunable channels of one axis and of all axes that are coupled with it."""

    name: str  # of the first weight that holds them
    channels: tuple[tuple[WeightIndex, ...], ...]  # all places of each channel
    mixed: bool  # whether a norm or sum combines them: then removing a channel is not the same as setting it to zero
    multiplied: bool = False  # whether they are multiplied with each other, as queries and keys are

    @property
    def width(self) -> int:
        """How many channels there are."""
        return len(self.channels)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroups:
    """The prunable channels of a network."""

    layers: tuple[ChannelGroup, ...]
    frozen: int  # channels that are not prunable: the outputs, and widths that are fixed in the network's code
    reads: frozenset[tuple[str, int]] = frozenset()  # (weight, axis) that sum over channels
    makes: frozenset[tuple[str, int]] = frozenset()  # (weight, axis) along which channels begin
    unknown: tuple[str, ...]  # operators without a rule, whose channels are frozen

    @property
    def width(self) -> int:
        """How many channels there are, in all layers together."""
        return sum(layer.width for layer in self.layers)


def find_structure(model: nn.Module, shape: Sequence[int]) -> ChannelGroups:
    """Find the prunable channels of a network on the CPU.

    Args:
        shape: (B, C, D, H, W) of an input that it takes.

    Raises:
        UsageError: there are none, or the forward fails.
    """
    with graph_settings():  # attention as products and a softmax, which have rules
        try:
            trace = _trace(_on_meta(model), shape)
        except Exception as error:  # a forward that reads the values of tensors
            log.debug("traced with values, since it cannot be without: %s", error)
            trace = _trace_with_values(model, shape)
        structure = _without_fixed_widths(trace, _structure(trace.tracer))
    if not structure.layers:
        raise UsageError("no channel of this network can be removed without changing what its code does")
    return structure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """A traced network."""

    tracer: ChannelTracer
    model: nn.Module  # the traced copy, on `meta` if it runs there
    runs: tuple[tuple[bool, Tensor], ...]  # (training mode, input) of forwards with different outputs


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy on `meta` in which a weight with several names stays one, unlike with `Module.to`."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copied(model, memo)


def _trace_with_values(model: nn.Module, shape: Sequence[int]) -> _Trace:
    try:
        return _trace(copied(model), shape)
    except Exception as error:  # whatever its forward raises
        why = first_line(error)
        raise UsageError(f"its channels cannot be traced, since a forward of it fails: {why}") from error


def _trace(model: nn.Module, shape: Sequence[int]) -> _Trace:
    """Trace a forward in eval mode and one in training mode, in which some networks have more outputs."""
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    device = next((value.device for value in held.values()), torch.device("cpu"))
    x = torch.zeros(tuple(shape), device=device)
    tracer = ChannelTracer(held, RULES)
    with tracer:
        outputs = zoo_logits.tensors(model.eval()(x))
        batch = x
        try:
            train_outputs = zoo_logits.tensors(model.train()(batch))
        except ValueError:  # BatchNorm refuses a single voxel per channel
            batch = torch.zeros((2, *shape[1:]), device=device)
            train_outputs = zoo_logits.tensors(model.train()(batch))
    for value in outputs + train_outputs:
        if (numbers := tracer.of(value)) is not None:
            tracer.forest.freeze(numbers.numpy())
    alike = [value.shape[1:] for value in train_outputs] == [value.shape[1:] for value in outputs]
    return _Trace(tracer=tracer, model=model, runs=((False, x),) if alike else ((False, x), (True, batch)))


def _structure(tracer: ChannelTracer) -> ChannelGroups:
    forest = tracer.forest
    frozen, mixed, multiplied = (
        {forest.find(channel) for channel in channels} for channels in (forest.frozen, forest.mixed, forest.multiplied)
    )
    places: dict[int, list[WeightIndex]] = {}
    for (name, axis), channels in sorted(tracer.places.items()):
        for index, channel in enumerate(channels.tolist()):
            if channel >= 0:
                places.setdefault(forest.find(channel), []).append(WeightIndex(name, axis, index))
    held_in = {root: tuple(sorted((p.name, p.axis) for p in members)) for root, members in places.items()}
    layer_of = UnionFind()
    numbers = dict(zip(places, layer_of.new(len(places)).tolist(), strict=True))
    for roots in _by_axis(places).values():
        first: dict[Any, int] = {}  # of each kind, since two layers may lie in one axis after a concatenation
        for root in roots:
            if root not in frozen:
                layer_of.unite(numbers[root], numbers[first.setdefault(held_in[root], root)])
    layers: dict[int, list[int]] = {}
    for root in places:
        if root not in frozen:
            layers.setdefault(layer_of.find(numbers[root]), []).append(root)
    prunable = [
        ChannelGroup(
            name=min(place.name for place in places[roots[0]]),
            channels=tuple(tuple(places[root]) for root in sorted(roots, key=lambda root: places[root][0])),
            mixed=any(root in mixed for root in roots),
            multiplied=any(root in multiplied for root in roots),
        )
        for roots in layers.values()
        if len(roots) > 1
    ]
    return ChannelGroups(
        layers=tuple(sorted(prunable, key=lambda layer: layer.channels[0][0])),
        frozen=sum(root in frozen for root in places) + sum(len(r) for r in layers.values() if len(r) == 1),
        reads=frozenset(tracer.reads),
        makes=frozenset(tracer.makes),
        unknown=tuple(sorted(tracer.unknown)),
    )


def _by_axis(places: Mapping[int, Sequence[WeightIndex]]) -> dict[tuple[str, int], list[int]]:
    """(name, axis) -> the channels along it, in order."""
    by_axis: dict[tuple[str, int], dict[int, int]] = {}
    for root, members in places.items():
        for place in members:
            by_axis.setdefault((place.name, place.axis), {})[place.index] = root
    return {key: list(dict.fromkeys(members[index] for index in sorted(members))) for key, members in by_axis.items()}


def _without_fixed_widths(trace: _Trace, structure: ChannelGroups) -> ChannelGroups:
    """The structure without layers whose width is a number in the network's code: it fails without a channel."""
    shapes = shapes_of(trace.model)

    def works(layers: Sequence[ChannelGroup]) -> bool:
        """Whether it runs without some channels of each (different numbers, as code may need equal ones) and half."""
        some = [range(1 + n % min(layer.width - 1, _UNLIKE)) for n, layer in enumerate(layers)]
        half = [range(layer.width // 2) for layer in layers]
        for removed in (some, half):
            pruned = copied(trace.model)
            try:
                resize(pruned, cut_shapes(shapes, keep_indices(layers, removed, shapes)))
                with FastNorms():  # type: ignore[no-untyped-call]
                    for training, x in trace.runs:
                        pruned.train(training)(x)
            except Exception as error:
                if len(layers) == 1:
                    log.debug("%s keeps its %d channels: %s", layers[0].name, layers[0].width, error)
                return False
        return True

    def free(layers: Sequence[ChannelGroup]) -> list[ChannelGroup]:
        if not layers or works(layers):
            return list(layers)
        half = len(layers) // 2
        if not half:
            return []
        first, second = free(layers[:half]), free(layers[half:])
        if works([*first, *second]):
            return [*first, *second]
        for layer in second:  # those that work together with the others
            if works([*first, layer]):
                first.append(layer)
        return first

    prunable = free(structure.layers)
    fixed = structure.width - sum(layer.width for layer in prunable)
    return dataclasses.replace(structure, layers=tuple(prunable), frozen=structure.frozen + fixed)


Keep = dict[tuple[str, int], Tensor]


def keep_indices(
    layers: Sequence[ChannelGroup], removed: Sequence[Collection[int]], shapes: Mapping[str, Sequence[int]]
) -> Keep:
    """(name, axis) -> the remaining indices, for every axis that loses some.

    Args:
        removed: for each layer, the numbers of its channels to remove.

    Raises:
        ShapeError: a layer would be left without a channel.
    """
    gone: dict[tuple[str, int], set[int]] = {}
    for layer, numbers in zip(layers, removed, strict=True):
        if len(set(numbers)) >= layer.width:
            raise ShapeError(f"all {layer.width} channels of {layer.name} would be removed; at least one must remain")
        for number in numbers:
            for place in layer.channels[number]:
                gone.setdefault((place.name, place.axis), set()).add(place.index)
    return {
        (name, axis): torch.from_numpy(np.setdiff1d(np.arange(shapes[name][axis]), sorted(indices)))
        for (name, axis), indices in gone.items()
    }


def cut_shapes(shapes: Mapping[str, Sequence[int]], keep: Keep) -> dict[str, list[int]]:
    """The new shapes of the weights that lose channels."""
    result: dict[str, list[int]] = {}
    for (name, axis), indices in keep.items():
        result.setdefault(name, list(shapes[name]))[axis] = len(indices)
    return result


def cut(state: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """A state dict without the removed channels."""
    result = dict(state)
    for (name, axis), indices in keep.items():
        result[name] = result[name].index_select(axis, indices.to(result[name].device))
    return result


def mask(state: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """A state dict in which the removed channels are zero."""
    result = dict(state)
    for (name, axis), indices in keep.items():
        if result[name].is_floating_point():
            kept = torch.zeros(result[name].shape[axis])
            kept[indices] = 1
            result[name] = result[name] * kept.reshape([-1 if a == axis else 1 for a in range(result[name].ndim)])
    return result


def remove(model: nn.Module, structure: ChannelGroups, removed: Sequence[Collection[int]]) -> nn.Module:
    """A copy of the network without some channels.

    Args:
        removed: for each layer, the numbers of its channels to remove.

    Raises:
        ShapeError: a layer would be left without a channel.
    """
    shapes = shapes_of(model)
    keep = keep_indices(structure.layers, removed, shapes)
    pruned = copied(model)
    state = {name: value.detach() for name, value in pruned.state_dict().items()}
    small = cut(state, keep)
    resize(pruned, cut_shapes(shapes, keep))
    with torch.no_grad():
        parameters: dict[str, Any] = pruned.state_dict()
        for name in {name for name, _ in keep}:
            parameters[name].copy_(small[name])
    return pruned
