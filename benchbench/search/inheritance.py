"""Inherited weights: a smaller network from the most important channels of a larger one.

A child of another width is the parent without some channels, and which hang together is known of the parent; so the
child gets what the parent's layers have at the places that the child has, the best channels of each. What the child has
otherwise (another stem, another sampling) begins at random, and how much that is, is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from benchbench.compress.channel_groups import PrunableLayer, Structure, cut, keep_indices
from benchbench.compress.importance import Scores
from benchbench.zoo.pruned import shapes_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A trained network that others inherit from."""

    model: nn.Module
    structure: Structure
    scores: tuple[Scores, ...]  # of each layer's channels
    sha256: str  # of its weights
    name: str = ""
    cases: tuple[str, ...] = ()  # that it was trained on


def inherit(child: nn.Module, parent: Parent) -> float:
    """Give a network what fits of its parent's weights, in place.

    Args:
        child: of the same architecture, nowhere wider or deeper.

    Returns:
        The share of the child's parameters that it has from its parent.
    """
    shapes = shapes_of(child)
    whole = shapes_of(parent.model)
    removed = [
        _losers(layer, scores, shapes, whole)
        for layer, scores in zip(parent.structure.layers, parent.scores, strict=True)
    ]
    state = cut(parent.model.state_dict(), keep_indices(parent.structure.layers, removed, whole))
    total = inherited = 0
    parameters = {name for name, _ in child.named_parameters()}
    with torch.no_grad():
        for name, value in child.state_dict().items():
            given = state.get(name)
            fits = given is not None and given.shape == value.shape
            if fits:
                assert given is not None
                value.copy_(given)
            if name in parameters:
                total += value.numel()
                inherited += value.numel() if fits else 0
    return inherited / max(1, total)


def _losers(
    layer: PrunableLayer, scores: Scores, shapes: dict[str, tuple[int, ...]], whole: dict[str, tuple[int, ...]]
) -> Sequence[int]:
    """The numbers of a parent's channels that a child has no place for: those that matter least."""
    for channel in layer.channels[:1]:
        for place in channel:
            if place.name in shapes and len(shapes[place.name]) > place.axis:
                stays = round(layer.width * shapes[place.name][place.axis] / whole[place.name][place.axis])
                if 0 < stays <= layer.width:
                    order = np.argsort(scores, kind="stable")
                    return sorted(order[: layer.width - stays].tolist())
    return []
