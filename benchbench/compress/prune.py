"""Pruning of a network: its channels are ranked, the least removed, and the rest shown to be unchanged.

The proof is in each call: with the same channels set to zero, the whole network must answer as the smaller one does,
wherever no norm takes channels together. A network that does with its channels what was not understood is refused.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchbench.compress import importance
from benchbench.compress.channel_groups import Structure, find_structure, keep_indices, mask, remove
from benchbench.compress.request import PruneRecipe
from benchbench.core.errors import UsageError, first_line
from benchbench.measure.flops.meta_device import copied
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.checkpoint import unique_tensors
from benchbench.zoo.pruned import shapes_of

log = logging.getLogger(__name__)

AGREEMENT = 1e-4  # most that the smaller network may differ from the whole one with zeros, of the output's norm


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A network without some of its channels."""

    model: nn.Module
    structure: Structure  # of the network that it was made from
    removed: tuple[tuple[int, ...], ...]  # for each layer, the numbers of its channels that went
    agreement: float | None  # with the whole network with zeros, where no norm takes channels together; None: nowhere
    unranked: int  # layers that the criterion says nothing of, and that keep all

    @property
    def stays(self) -> int:
        """How many of the channels that could go did not."""
        return self.structure.width - sum(map(len, self.removed))


def prune(
    model: nn.Module,
    shape: Sequence[int],
    recipe: PruneRecipe,
    *,
    batches: importance.Batches | None = None,
    loss: importance.Loss | None = None,
) -> Pruned:
    """Remove channels from a network; it itself is left as it was.

    Args:
        model: on the CPU.
        shape: (B, C, D, H, W) of an input that it takes.
        batches: images and targets, for the criterion `taylor`.
        loss: of logits and a target, likewise.

    Raises:
        UsageError: a share that would empty a layer, `taylor` without data, or a network that cannot be followed.
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
    removed, agreement, why = _chosen(model, structure, scores, recipe, shape)
    if why:
        bad = _disagreeing(model, structure, removed, shape)
        log.warning(
            "%d layers keep all their channels: the network answers otherwise without them than with zeros in their "
            "place, such as %s",
            len(bad),
            structure.layers[min(bad, default=0)].name,
        )
        kept = [number for number in range(len(structure.layers)) if number not in bad]
        structure = dataclasses.replace(structure, layers=tuple(structure.layers[number] for number in kept))
        scores = [scores[number] for number in kept]
        if kept:
            removed, agreement, why = _chosen(model, structure, scores, recipe, shape)
        if not kept or why:
            raise UsageError(why)
    return Pruned(
        model=remove(model, structure, removed),
        structure=structure,
        removed=tuple(tuple(numbers) for numbers in removed),
        agreement=agreement,
        unranked=sum(worth is None for worth in scores),
    )


def _chosen(
    model: nn.Module,
    structure: Structure,
    scores: Sequence[importance.Scores | None],
    recipe: PruneRecipe,
    shape: Sequence[int],
) -> tuple[list[list[int]], float | None, str]:
    """What goes, how far the network without it is from that with zeros, and what is wrong with it, if so."""
    removed = importance.choose(structure, scores, recipe.ratio, scope=recipe.scope, multiple_of=recipe.multiple_of)
    return removed, *_judged(model, structure, removed, shape)


def _judged(
    model: nn.Module, structure: Structure, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> tuple[float | None, str]:
    """How far a network is from that with zeros, and what is wrong with it; empty if nothing is."""
    try:
        agreement = compare_with_zeros(model, structure, removed, shape)
        if any(layer.mixed and numbers for layer, numbers in zip(structure.layers, removed, strict=True)):
            with torch.no_grad():  # what was left out of the comparison must run at least
                remove(model, structure, removed).eval()(torch.zeros(*shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return None, f"without these channels its forward fails, so it is not pruned: {first_line(error)}"
    if agreement is None or agreement <= AGREEMENT:
        return agreement, ""
    return agreement, (
        f"without the channels its output differs by {agreement:.2g} of its norm from that with zeros in their "
        "place: this network does with its channels what is not followed here, so it is not pruned"
    )


def _disagreeing(
    model: nn.Module, structure: Structure, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> set[int]:
    """The layers without whose channels alone the network answers otherwise than with zeros."""
    disagreeing = set()
    for number in range(len(structure.layers)):
        alone = [numbers if layer == number else [] for layer, numbers in enumerate(removed)]
        if _judged(model, structure, alone, shape)[1]:
            disagreeing.add(number)
    return disagreeing


def compare_with_zeros(
    model: nn.Module, structure: Structure, removed: Sequence[Sequence[int]], shape: Sequence[int]
) -> float | None:
    """How far the network without some channels is from the whole one with zeros in their place.

    Only layers count that no norm or sum takes together, since there zeros are as good as nothing.

    Args:
        removed: for each layer, the numbers of its channels.
        shape: (B, C, D, H, W) of an input that it takes.

    Returns:
        The norm of the difference, as a share of the output's; None where no such layer loses anything.
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
        wanted = _output(whole, x)
        answer = _output(remove(model, structure, chosen), x)
    return float((wanted - answer).norm() / wanted.norm().clamp_min(1e-12))


def _output(model: nn.Module, x: Tensor) -> Tensor:
    return zoo_logits.main(model.eval()(x), x.shape[2:]).double()
