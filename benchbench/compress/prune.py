"""Pruning of a network: its channels are ranked, the least important removed, and the result is verified.

Each call checks that the whole network with the same channels set to zero has the output of the pruned one, in all
layers where no norm combines channels. A network whose use of channels the tracer does not understand is refused.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchbench.compress import importance
from benchbench.compress.channel_groups import ChannelGroups, find_structure, keep_indices, mask, remove
from benchbench.compress.request import PruneRecipe
from benchbench.core.errors import UsageError, first_line
from benchbench.measure.flops.meta_device import copied
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.checkpoint import unique_tensors
from benchbench.zoo.pruned import shapes_of

log = logging.getLogger(__name__)

AGREEMENT = 1e-4  # most that the outputs of the pruned network and of the whole one with zeros may differ, relative


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A pruned network."""

    model: nn.Module
    structure: ChannelGroups  # of the whole network
    removed: tuple[tuple[int, ...], ...]  # for each layer, the numbers of its removed channels
    agreement: float | None  # see `compare_with_zeros`
    unranked: int  # layers that the criterion does not rank, which keep all channels

    @property
    def stays(self) -> int:
        """How many of the prunable channels remain."""
        return self.structure.width - sum(map(len, self.removed))


def prune(
    model: nn.Module,
    shape: Sequence[int],
    recipe: PruneRecipe,
    *,
    batches: importance.Batches | None = None,
    loss: importance.Loss | None = None,
) -> Pruned:
    """A copy of a network without its least important channels.

    Args:
        model: on the CPU.
        shape: (B, C, D, H, W) of an input that it takes.
        batches: images and targets, for the criterion `taylor`.
        loss: of logits and a target, likewise.

    Raises:
        UsageError: a share that would empty a layer, `taylor` without data, or a network that cannot be traced.
    """
    structure = find_structure(model, shape)
    scores: Sequence[importance.Scores | None]
    if recipe.criterion == "taylor":
        if batches is None or loss is None:
            raise UsageError("the criterion taylor needs gradients, so data: take magnitude where there is none")
        scores = importance.taylor(model, structure, batches, loss)
    elif recipe.criterion == "magnitude":
        scores = importance.magnitude(model, structure)
    elif recipe.criterion == "batchnorm":
        scores = importance.batchnorm(model, structure)
    else:
        scores = importance.random(structure, recipe.seed)
    scores = list(scores)
    removed, agreement, fault = _choose(model, structure, scores, recipe, shape)
    if fault:
        bad = _disagreeing(model, structure, removed, shape)
        log.warning(
            "%d layers keep all their channels, such as %s: without them the output differs from that with zeros in "
            "their place",
            len(bad),
            structure.layers[min(bad, default=0)].name,
        )
        good = [number for number in range(len(structure.layers)) if number not in bad]
        structure = dataclasses.replace(structure, layers=tuple(structure.layers[number] for number in good))
        scores = [scores[number] for number in good]
        if good:
            removed, agreement, fault = _choose(model, structure, scores, recipe, shape)
        if not good or fault:
            raise UsageError(fault)
    return Pruned(
        model=remove(model, structure, removed),
        structure=structure,
        removed=tuple(tuple(numbers) for numbers in removed),
        agreement=agreement,
        unranked=sum(values is None for values in scores),
    )


def _choose(
    model: nn.Module,
    structure: ChannelGroups,
    scores: Sequence[importance.Scores | None],
    recipe: PruneRecipe,
    shape: Sequence[int],
) -> tuple[list[list[int]], float | None, str]:
    """The channels to remove, the agreement without them, and the fault of the network, if it has one."""
    removed = importance.choose(structure, scores, recipe.ratio, scope=recipe.scope, multiple_of=recipe.multiple_of)
    return removed, *_verify(model, structure, removed, shape)


def _verify(
    model: nn.Module, structure: ChannelGroups, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> tuple[float | None, str]:
    """Agreement of a pruned network with the whole one with zeros, and its fault; empty if there is none."""
    try:
        agreement = compare_with_zeros(model, structure, removed, shape)
        if any(layer.mixed and numbers for layer, numbers in zip(structure.layers, removed, strict=True)):
            with torch.no_grad():  # layers that cannot be compared must run at least
                remove(model, structure, removed).eval()(torch.zeros(*shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return None, f"without these channels its forward fails, so it is not pruned: {first_line(error)}"
    if agreement is None or agreement <= AGREEMENT:
        return agreement, ""
    return agreement, (
        f"without the channels its output differs by {agreement:.2g} of its norm from that with zeros in their "
        "place: this network uses its channels in a way that cannot be traced, so it is not pruned"
    )


def _disagreeing(
    model: nn.Module, structure: ChannelGroups, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> set[int]:
    """The layers that have a fault if they alone are pruned."""

    def has_fault(number: int) -> bool:
        alone = [numbers if layer == number else [] for layer, numbers in enumerate(removed)]
        return bool(_verify(model, structure, alone, shape)[1])

    return set(filter(has_fault, range(len(structure.layers))))


def compare_with_zeros(
    model: nn.Module, structure: ChannelGroups, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> float | None:
    """Difference of the outputs without some channels and with zeros in their place, relative to the output's norm.

    Only layers count whose channels no norm or sum combines; None if none of them loses any.

    Args:
        removed: for each layer, the numbers of its channels.
        shape: (B, C, D, H, W) of an input that it takes.
    """
    chosen = [() if layer.mixed else tuple(numbers) for layer, numbers in zip(structure.layers, removed, strict=True)]
    if not any(chosen):
        return None
    keep = keep_indices(structure.layers, chosen, shapes_of(model))
    whole = copied(model)
    parameters = unique_tensors(whole.state_dict())
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, value in mask(parameters, keep).items():
            parameters[name].copy_(value)
        expected = _output(whole, x)
        output = _output(remove(model, structure, chosen), x)
    return float((expected - output).norm() / expected.norm().clamp_min(1e-12))


def _output(model: nn.Module, x: Tensor) -> Tensor:
    return zoo_logits.main(model.eval()(x), x.shape[2:]).double()
