"""Coupled channel groups of a network, found by following every channel through one forward.

A channel can only be removed together with everything that holds it: the rows of the weights that make it, the
columns of those that read it, its norms, and the channels that it is added to. Each value of an activation carries
the number of its channel, and operators that move values (views, slices, concatenations) move the numbers alike, so
no network has to declare anything. A network may split a channel axis into heads, chunk it, or shuffle it with space.
What stays rectangular after a removal is kept; what cannot be, is frozen.

Nothing is computed: the forward runs on `meta` where the network can, and only the numbers are real. What the
network's own code holds fixed (a width that its forward has as a number) shows when it is tried, and is frozen too.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchbench.compress.channel_tracer import ChannelTracer, Quick
from benchbench.compress.operator_rules import RULES
from benchbench.core.errors import ShapeError, UsageError, first_line
from benchbench.measure.flops.meta_device import copied
from benchbench.measure.flops.tracer import graph_settings
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.pruned import resize, shapes_of

log = logging.getLogger(__name__)

_UNLIKE = 7  # numbers of channels that are removed to try, before they repeat


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class WeightIndex:
    """Where a channel lies in one parameter or buffer."""

    name: str
    axis: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrunableLayer:
    """Channels among which one may choose: those of one axis, and of all that it is tied to."""

    name: str  # of the first weight that holds them
    channels: tuple[tuple[WeightIndex, ...], ...]  # of each channel, every place
    mixed: bool  # whether a norm or sum takes them together: then a channel of zeros is not the same as none
    multiplied: bool = False  # whether they are multiplied with each other, as queries and keys are

    @property
    def width(self) -> int:
        """How many channels there are."""
        return len(self.channels)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The channels of a network that may be removed."""

    layers: tuple[PrunableLayer, ...]
    frozen: int  # channels that may not: the outputs, and what the network's code holds fixed
    reads: frozenset[tuple[str, int]] = frozenset()  # (weight, axis) that sum over channels
    makes: frozenset[tuple[str, int]] = frozenset()  # (weight, axis) along which channels begin
    unknown: tuple[str, ...]  # operators without a rule; what they touched is frozen

    @property
    def width(self) -> int:
        """How many channels there are to choose among, in all layers together."""
        return sum(layer.width for layer in self.layers)


def find_structure(model: nn.Module, shape: Sequence[int]) -> Structure:
    """Find the channels of a network that may be removed together.

    Args:
        model: on the CPU; it is left as it was.
        shape: (B, C, D, H, W) of an input that it takes.

    Raises:
        UsageError: nothing can be removed, or its forward fails.
    """
    with graph_settings():  # attention as products and a softmax, which have rules
        try:
            seen = _follow(_on_meta(model), shape)
        except Exception as error:  # a forward that reads the values of tensors
            log.debug("followed with values, since it cannot be without: %s", error)
            seen = _follow_with_values(model, shape)
        structure = _without_what_is_held(seen, _structure(seen.tracer))
    if not structure.layers:
        raise UsageError("no channel of this network can be removed without changing what its code does")
    return structure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """A network that was followed."""

    tracer: ChannelTracer
    model: nn.Module  # that it was done with: a copy, on `meta` if it runs there
    runs: tuple[tuple[bool, Tensor], ...]  # (training, input) of forwards with unlike outputs


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy on `meta` in which a weight with several names stays one: `Module.to` would make several of it."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copied(model, memo)


def _follow_with_values(model: nn.Module, shape: Sequence[int]) -> _Traced:
    try:
        return _follow(copied(model), shape)
    except Exception as error:  # whatever its forward raises
        why = first_line(error)
        raise UsageError(f"its channels cannot be followed, since a forward of it fails: {why}") from error


def _follow(model: nn.Module, shape: Sequence[int]) -> _Traced:
    """Through a forward as it is used, and one as it is trained: some have outputs for training alone."""
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    device = next((value.device for value in held.values()), torch.device("cpu"))
    x = torch.zeros(tuple(shape), device=device)
    tracer = ChannelTracer(held, RULES)
    with tracer:
        used = zoo_logits.tensors(model.eval()(x))
        batch = x
        try:
            trained = zoo_logits.tensors(model.train()(batch))
        except ValueError:  # a norm of batches refuses a map of one voxel, unless there are several
            batch = torch.zeros((2, *shape[1:]), device=device)
            trained = zoo_logits.tensors(model.train()(batch))
    for value in used + trained:
        if (numbers := tracer.of(value)) is not None:
            tracer.forest.freeze(numbers.numpy())
    alike = [value.shape[1:] for value in trained] == [value.shape[1:] for value in used]
    return _Traced(tracer=tracer, model=model, runs=((False, x),) if alike else ((False, x), (True, batch)))


def _structure(tracer: ChannelTracer) -> Structure:
    forest = tracer.forest
    frozen = {forest.find(channel) for channel in forest.frozen}
    mixed = {forest.find(channel) for channel in forest.mixed}
    multiplied = {forest.find(channel) for channel in forest.multiplied}
    places: dict[int, list[WeightIndex]] = {}
    beside: dict[int, int] = {}  # channel -> a channel of its layer

    def layer_of(channel: int) -> int:
        root = channel
        while beside.setdefault(root, root) != root:
            root = beside[root]
        beside[channel] = root
        return root

    for (name, axis), channels in sorted(tracer.places.items()):
        for index, channel in enumerate(channels.tolist()):
            if channel >= 0:
                places.setdefault(forest.find(channel), []).append(WeightIndex(name, axis, index))
    held_in = {root: tuple(sorted((p.name, p.axis) for p in members)) for root, members in places.items()}
    for roots in _by_axis(places).values():
        first: dict[Any, int] = {}  # one of each kind: two layers may lie in one axis, after a concatenation
        for root in roots:
            if root not in frozen:
                beside[layer_of(root)] = layer_of(first.setdefault(held_in[root], root))
    layers: dict[int, list[int]] = {}
    for root in places:
        if root not in frozen:
            layers.setdefault(layer_of(root), []).append(root)
    prunable = [
        PrunableLayer(
            name=min(place.name for place in places[roots[0]]),
            channels=tuple(tuple(places[root]) for root in sorted(roots, key=lambda root: places[root][0])),
            mixed=any(root in mixed for root in roots),
            multiplied=any(root in multiplied for root in roots),
        )
        for roots in layers.values()
        if len(roots) > 1
    ]
    return Structure(
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


def _without_what_is_held(seen: _Traced, structure: Structure) -> Structure:
    """The structure without layers whose width the network's own code has as a number: it fails without a channel."""
    shapes = shapes_of(seen.model)

    def works(layers: Sequence[PrunableLayer]) -> bool:
        """Without some channels of each, unlike numbers since code may hold two widths equal; and without half."""
        some = [range(1 + n % min(layer.width - 1, _UNLIKE)) for n, layer in enumerate(layers)]
        half = [range(layer.width // 2) for layer in layers]
        for removed in (some, half):
            tried = copied(seen.model)
            try:
                resize(tried, cut_shapes(shapes, keep_indices(layers, removed, shapes)))
                with Quick():  # type: ignore[no-untyped-call]
                    for training, x in seen.runs:
                        tried.train(training)(x)
            except Exception as error:
                if len(layers) == 1:
                    log.debug("%s keeps its %d channels: %s", layers[0].name, layers[0].width, error)
                return False
        return True

    def free(layers: Sequence[PrunableLayer]) -> list[PrunableLayer]:
        if not layers or works(layers):
            return list(layers)
        half = len(layers) // 2
        if not half:
            return []
        structure = free(layers[:half])
        for part in _parts(free(layers[half:]), structure, works):
            structure += part
        return structure

    kept = free(structure.layers)
    held = structure.width - sum(layer.width for layer in kept)
    return dataclasses.replace(structure, layers=tuple(kept), frozen=structure.frozen + held)


def _parts(
    layers: list[PrunableLayer], before: list[PrunableLayer], works: Callable[[Sequence[PrunableLayer]], bool]
) -> Iterator[list[PrunableLayer]]:
    """Those of some layers that also work beside others: all at once, or one by one."""
    if works([*before, *layers]):
        yield layers
        return
    together = list(before)
    for layer in layers:
        if works([*together, layer]):
            together.append(layer)
            yield [layer]


Keep = dict[tuple[str, int], Tensor]


def keep_indices(
    layers: Sequence[PrunableLayer], removed: Sequence[Collection[int]], shapes: Mapping[str, Sequence[int]]
) -> Keep:
    """(name, axis) -> the indices that stay, for every axis that loses something.

    Args:
        removed: for each layer, the numbers of its channels that go.

    Raises:
        ShapeError: a layer would be left without a channel.
    """
    gone: dict[tuple[str, int], set[int]] = {}
    for layer, numbers in zip(layers, removed, strict=True):
        if len(set(numbers)) >= layer.width:
            raise ShapeError(f"all {layer.width} channels of {layer.name} would go; at least one must stay")
        for number in numbers:
            for place in layer.channels[number]:
                gone.setdefault((place.name, place.axis), set()).add(place.index)
    return {
        (name, axis): torch.from_numpy(np.setdiff1d(np.arange(shapes[name][axis]), sorted(indices)))
        for (name, axis), indices in gone.items()
    }


def cut_shapes(shapes: Mapping[str, Sequence[int]], keep: Keep) -> dict[str, list[int]]:
    """The shapes of what loses something, after it has."""
    result: dict[str, list[int]] = {}
    for (name, axis), indices in keep.items():
        result.setdefault(name, list(shapes[name]))[axis] = len(indices)
    return result


def cut(state: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """A state dict without the channels that go."""
    result = dict(state)
    for (name, axis), indices in keep.items():
        result[name] = result[name].index_select(axis, indices.to(result[name].device))
    return result


def mask(state: Mapping[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """A state dict in which the channels that go are zero; of the same shapes."""
    result = dict(state)
    for (name, axis), indices in keep.items():
        if result[name].is_floating_point():
            stays = torch.zeros(result[name].shape[axis])
            stays[indices] = 1
            result[name] = result[name] * stays.reshape([-1 if a == axis else 1 for a in range(result[name].ndim)])
    return result


def remove(model: nn.Module, structure: Structure, removed: Sequence[Collection[int]]) -> nn.Module:
    """The network without some channels, as a copy; what stays has the values that it had.

    Args:
        removed: for each layer, the numbers of its channels that go.

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
