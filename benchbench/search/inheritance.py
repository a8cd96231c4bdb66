"""Inherited weights: a smaller network from the most important channels of a larger one.

A narrower child gets the parent's weights without the least important coupled channels of each layer. Layers of another
shape (another stem, another sampling) keep their random weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchbench.compress.channel_groups import ChannelGroup, ChannelGroups, cut, keep_indices
from benchbench.compress.importance import Scores, least_important
from benchbench.zoo.pruned import shapes_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A trained network from which others inherit."""

    model: nn.Module
    structure: ChannelGroups
    scores: tuple[Scores, ...]  # of each layer's channels
    sha256: str  # of its weights
    name: str = ""
    root: str = ""  # the network that it was pruned from, or itself; empty: that of the card of the one that inherits
    cases: tuple[str, ...] = ()  # that it was trained on
    imported: Mapping[str, Any] | None = None  # what is known of it, where another program trained it


def inherit(child: nn.Module, parent: Parent) -> float:
    """Copy the parent's weights into a network, where they fit; returns the share of its parameters that did.

    Args:
        child: of the same architecture, nowhere wider or deeper.
    """
    shapes = shapes_of(child)
    whole = shapes_of(parent.model)
    removed = [
        _removed_channels(layer, scores, shapes, whole)
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


def _removed_channels(
    layer: ChannelGroup, scores: Scores, shapes: dict[str, tuple[int, ...]], whole: dict[str, tuple[int, ...]]
) -> Sequence[int]:
    """Numbers of the parent's least important channels that a narrower child does not have."""
    for place in layer.channels[0]:
        if place.name in shapes and len(shapes[place.name]) > place.axis:
            stays = round(layer.width * shapes[place.name][place.axis] / whole[place.name][place.axis])
            if 0 < stays <= layer.width:
                return least_important(scores, layer.width - stays)
    return []
