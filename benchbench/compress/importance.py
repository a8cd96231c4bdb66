"""Importance of channels, by four criteria, and the choice of those to remove.

A channel lies in several weights. `magnitude` uses all of them, each relative to its layer. `taylor` uses only the
weights that read the channel, since they are removed with it; those that make it say less, as behind a norm their scale
has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from benchbench.compress.channel_groups import ChannelGroup, ChannelGroups, WeightIndex
from benchbench.compress.request import Criterion
from benchbench.core.errors import UsageError
from benchbench.data import DataPlan
from benchbench.training.losses import make_loss
from benchbench.training.patch_loader import PatchLoader
from benchbench.training.recipe import TrainRecipe
from benchbench.zoo import logits as zoo_logits

CRITERIA: tuple[str, ...] = get_args(Criterion)

Scores = npt.NDArray[np.float64]  # one for each channel of a layer
Batches = Iterable[tuple[Tensor, Tensor]]  # images and targets
Loss = Callable[[Tensor, Tensor], Tensor]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def of_training(plan: DataPlan, recipe: TrainRecipe, count: int) -> tuple[Batches, Loss]:
    """The first batches of a training, each made when it is needed, and its loss, for `taylor`."""
    loader = PatchLoader(plan, recipe)
    batches = (loader.make(step, recipe.patch) for step in range(count))
    return ((batch.image, batch.target) for batch in batches), make_loss(recipe.loss, exclusive=plan.exclusive)


def magnitude(model: nn.Module, structure: ChannelGroups) -> list[Scores]:
    """The norm of a channel's weights, relative to the mean of its layer.

    Source: Li et al. 2017, "Pruning filters for efficient convnets"; over all weights that hold the channel.
    """
    held = {name: p.detach() ** 2 for name, p in model.named_parameters()}
    kernels = {name for name, value in held.items() if value.ndim > 1}
    scores = []
    for layer in structure.layers:
        members = _places(layer, lambda place: place.name in kernels) or _places(
            layer, lambda place: place.name in held
        )
        scores.append(np.sqrt(_mean(layer.width, members, lambda name, axis: _relative(_sums(held[name], axis)))))
    return scores


def batchnorm(model: nn.Module, structure: ChannelGroups) -> list[Scores | None]:
    """The scale of a channel in its norm, relative to the mean of its layer; None for a layer without such a norm.

    Raises:
        UsageError: the network has no norm with scales.

    Source: Liu et al. 2017, "Learning efficient convolutional networks through network slimming".
    """
    scales = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS) and isinstance(module.weight, Tensor)
    }
    state = model.state_dict()
    scores: list[Scores | None] = []
    for layer in structure.layers:
        members = _places(layer, lambda place: place.name in scales)
        mean = _mean(layer.width, members, lambda name, axis: _relative(_sums(state[name].abs(), axis)))
        scores.append(mean if members else None)
    if all(score is None for score in scores):
        raise UsageError(
            "the criterion batchnorm needs norms with scales on channels that can go, and this network has none: "
            "take magnitude or taylor"
        )
    return scores


def random(structure: ChannelGroups, seed: int) -> list[Scores]:
    """Random importance, as a control."""
    rng = np.random.default_rng(seed)
    return [rng.random(layer.width) for layer in structure.layers]


def taylor(model: nn.Module, structure: ChannelGroups, batches: Batches, loss: Loss) -> list[Scores]:
    """The square of the first-order change of the loss if a channel were zero, the mean over batches.

    Args:
        model: evaluated in eval mode; it is not changed.

    Raises:
        UsageError: no gradient is finite.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", equation 8.
    """
    total = [np.zeros(layer.width) for layer in structure.layers]
    was_training, count = model.training, 0
    model.eval()
    try:
        for image, target in batches:
            model.zero_grad(set_to_none=True)
            logits = zoo_logits.main(model(image), image.shape[2:])
            loss(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            grads = {name: p.detach() * p.grad for name, p in model.named_parameters() if p.grad is not None}
            change = [_first_order(layer, structure, grads) for layer in structure.layers]
            if all(np.isfinite(values).all() for values in change):
                count += 1
                total = [sum_ + values**2 for sum_, values in zip(total, change, strict=True)]
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    if not count:
        raise UsageError("the criterion taylor found no finite gradient: take magnitude")
    return [sum_ / count for sum_ in total]


def _first_order(layer: ChannelGroup, structure: ChannelGroups, change: Mapping[str, Tensor]) -> Scores:
    """First-order change of the loss without each channel of a layer.

    It is the sum of weight x gradient over all weights that read the channel. Queries and keys read each other: the
    weights that make them count them twice, and the values with them once, so it is half of makers and readers.
    """
    reading = _places(layer, lambda place: (place.name, place.axis) in structure.reads and place.name in change)
    read = _total(layer.width, reading, lambda name, axis: _sums(change[name], axis))
    if not layer.multiplied:
        return read
    making = _places(layer, lambda place: (place.name, place.axis) in structure.makes and place.name in change)
    return (read + _total(layer.width, making, lambda name, axis: _sums(change[name], axis))) / 2


_Pairs = dict[tuple[str, int], list[tuple[int, int]]]  # (weight, axis) -> numbers of channels, and their indices there


def _places(layer: ChannelGroup, wanted: Callable[[WeightIndex], bool]) -> _Pairs:
    places: _Pairs = {}
    for number, channel in enumerate(layer.channels):
        for place in channel:
            if wanted(place):
                places.setdefault((place.name, place.axis), []).append((number, place.index))
    return places


def _total(width: int, places: _Pairs, of: Callable[[str, int], Scores]) -> Scores:
    """Sum of `of` over all places of each channel."""
    total = np.zeros(width)
    for (name, axis), pairs in places.items():
        numbers, indices = np.array(pairs).T
        np.add.at(total, numbers, of(name, axis)[indices])
    return total


def _mean(width: int, places: _Pairs, of: Callable[[str, int], Scores]) -> Scores:
    """Mean of `of` over all places of each channel."""
    count = _total(width, places, lambda name, axis: np.ones(1 + max(index for _, index in places[name, axis])))
    return _total(width, places, of) / np.maximum(count, 1)


def _sums(value: Tensor, axis: int) -> Scores:
    """Sum of a tensor over all axes but one."""
    return value.double().movedim(axis, 0).reshape(value.shape[axis], -1).sum(1).cpu().numpy()


def _relative(values: Scores) -> Scores:
    mean = values.mean()
    return values / mean if mean > 0 else values


def choose(
    structure: ChannelGroups,
    scores: Sequence[Scores | None],
    ratio: float,
    *,
    scope: Literal["layer", "global"] = "layer",
    multiple_of: int = 1,
) -> list[list[int]]:
    """The channels to remove: for each layer, their numbers.

    Args:
        scores: of each layer's channels; a layer with None keeps all.
        ratio: share of the channels to remove, 0 to below 1.
        scope: `layer`: that share of each layer; `global`: of all together, though every layer keeps at least a tenth.
        multiple_of: the remaining channels of a layer are rounded up to a multiple of it, if there are as many.

    Raises:
        UsageError: a layer would be empty, or nothing would be removed.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"the share of channels that goes must be from 0 to below 1, not {ratio}")
    if multiple_of < 1:
        raise UsageError(f"what stays can be a multiple of 1 or more, not of {multiple_of}")
    ranked = [(layer, values) for layer, values in zip(structure.layers, scores, strict=True) if values is not None]
    if scope == "layer":
        remaining = [layer.width - round(ratio * layer.width) for layer, _ in ranked]
    else:
        remaining = _remaining_globally(ranked, ratio)
    for (layer, _), count in zip(ranked, remaining, strict=True):
        if count < 1:
            most = min((layer.width - 1) / layer.width for layer, _ in ranked)
            raise UsageError(
                f"{ratio:g} of the {layer.width} channels of {layer.name} leaves none; "
                f"the most that every layer of this network can give is {int(most * 100) / 100:g}"
            )
    counts = iter(remaining)
    removed: list[list[int]] = []
    for layer, values in zip(structure.layers, scores, strict=True):
        if values is None:
            removed.append([])
            continue
        keep = min(layer.width, -(-next(counts) // multiple_of) * multiple_of)
        removed.append(least_important(values, layer.width - keep))
    if ratio and not any(removed):
        raise UsageError(f"{ratio:g} of its channels is none in every layer: take a larger share")
    return removed


def least_important(scores: Scores, count: int) -> list[int]:
    """The numbers of so many channels of a layer that matter least, in order."""
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())


def _remaining_globally(ranked: Sequence[tuple[ChannelGroup, Scores]], ratio: float) -> list[int]:
    """How many channels of each layer remain if all channels are ranked together."""
    least = [-(-layer.width // 10) for layer, _ in ranked]
    total = sum(layer.width for layer, _ in ranked)
    count, most = round(ratio * total), total - sum(least)
    if count > most:
        raise UsageError(
            f"{ratio:g} of all channels would empty layers: each keeps a tenth, so at most "
            f"{int(most / total * 100) / 100:g} can go"
        )
    candidates = [  # without the most important tenth of each layer
        (float(value), number)
        for number, (layer, values) in enumerate(ranked)
        for value in np.sort(values)[: layer.width - least[number]]
    ]
    removed = [number for _, number in sorted(candidates)[:count]]
    return [layer.width - removed.count(number) for number, (layer, _) in enumerate(ranked)]
