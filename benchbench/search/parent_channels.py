"""Channels of a parent: which groups of layers can lose some, what that saves, and which matter least.

Tracing takes seconds to a minute, and the importance by gradients as long, so both are kept in a file, from which all
workers of a search and its later sittings read them. A level is all layers whose maps have equally many voxels, such as
a stage of a U-Net with that of its decoder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchbench.compress import importance
from benchbench.compress.channel_groups import ChannelGroup, ChannelGroups, WeightIndex
from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.core import records as rec
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.results import write_whole
from benchbench.measure.flops.by_weight import WeightCost, costs_by_weight
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.memory import weights_bytes
from benchbench.search.search_space import FLOAT
from benchbench.zoo.checkpoint import CheckpointInfo
from benchbench.zoo.pruned import shapes_of

_TRIED = 0.5  # share of each layer's channels without which the tracing is verified


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParentChannels:
    """What a search of a parent's pruned versions knows of it, without the values of its weights."""

    model: rec.ModelSpec
    root: str  # the network that it was pruned from, or its own name
    sha256: str  # of its weights
    structure: ChannelGroups
    voxels: tuple[int, ...]  # of the map of each layer of the structure
    scores: tuple[importance.Scores, ...]  # importance by gradients, of each layer's channels
    shapes: Mapping[str, tuple[int, ...]]  # of its state dict
    parameters: tuple[str, ...]  # names of its parameters, each tensor once
    others: Mapping[str, str]  # further names of weights that have several -> the first
    buffers: int  # values that it holds beside them
    uses: tuple[WeightCost, ...]  # of one forward
    activation_bytes: int  # the most that one forward holds beside the weights

    @functools.cached_property
    def levels(self) -> tuple[int, ...]:
        """Voxels of the maps of each level, the finest first."""
        return tuple(sorted(set(self.voxels), reverse=True))

    @functools.cached_property
    def level_of(self) -> tuple[int, ...]:
        """Number of each layer's level."""
        return tuple(self.levels.index(voxels) for voxels in self.voxels)

    def widths(self, level: int) -> tuple[int, ...]:
        """Channels of each layer of a level."""
        layers = zip(self.structure.layers, self.level_of, strict=True)
        return tuple(layer.width for layer, its in layers if its == level)

    @functools.cached_property
    def _cuts(self) -> dict[str, list[tuple[int, int, int]]]:
        """Name of a weight -> (axis, number of a layer, how many indices a channel of it takes there)."""
        cuts: dict[str, list[tuple[int, int, int]]] = {}
        for number, layer in enumerate(self.structure.layers):
            counts: dict[tuple[str, int], int] = {}
            for place in layer.channels[0]:  # all channels of a layer lie in the same weights
                counts[place.name, place.axis] = counts.get((place.name, place.axis), 0) + 1
            for (name, axis), count in counts.items():
                cuts.setdefault(name, []).append((axis, number, count))
        return cuts

    def cut_shapes(self, kept: Sequence[int]) -> dict[str, list[int]]:
        """Shapes of the weights that lose channels if each layer keeps so many, under each of their names."""
        shapes = self._cut_shapes(kept)
        return shapes | {other: shapes[name] for other, name in self.others.items() if name in shapes}

    def _cut_shapes(self, kept: Sequence[int]) -> dict[str, list[int]]:
        lost = [layer.width - count for layer, count in zip(self.structure.layers, kept, strict=True)]
        shapes = {}
        for name, cuts in self._cuts.items():
            shape = list(self.shapes[name])
            for axis, number, count in cuts:
                shape[axis] -= count * lost[number]
            if tuple(shape) != self.shapes[name]:
                shapes[name] = shape
        return shapes

    def count(self, kept: Sequence[int]) -> dict[str, float]:
        """Costs if each layer keeps so many channels: `params`, `macs`, `file_bytes`, `tensor_bytes`.

        Parameters and file are exact, and so are MACs where each grows with one weight, as those of convolutions do;
        otherwise they are lower bounds, and so are the bytes that the tensors of a forward take.
        """
        share = {
            name: math.prod(shape) / math.prod(self.shapes[name]) for name, shape in self._cut_shapes(kept).items()
        }
        lost = {name: round((1 - part) * math.prod(self.shapes[name])) for name, part in share.items()}
        params = sum(math.prod(self.shapes[name]) - lost.get(name, 0) for name in self.parameters)
        buffers = self.buffers - sum(values for name, values in lost.items() if name not in self.parameters)
        least = min(count / layer.width for layer, count in zip(self.structure.layers, kept, strict=True))
        macs = sum(use.macs * (share.get(use.weight, 1.0) if use.weight else least**2) for use in self.uses)
        file_bytes = float(FLOAT * (params + buffers))
        return {
            "params": float(params),
            "macs": float(round(macs)),
            "file_bytes": file_bytes,
            "tensor_bytes": file_bytes + least * self.activation_bytes,
        }


def find_channels(
    model: nn.Module, info: CheckpointInfo, batches: importance.Batches, loss: importance.Loss
) -> ParentChannels:
    """Trace the channels of a trained network, verify that they can go, and rank them.

    Args:
        model: with its weights, in eval mode.
        batches: of training cases, for the importance.
        loss: of the training.

    Raises:
        UsageError: no channel can be removed, or no gradient is finite.
        UnsupportedError: its MACs cannot be counted.
    """
    shape = (1, info.model.in_channels, *info.spatial)
    structure = prune(model, shape, PruneRecipe(ratio=_TRIED, criterion="magnitude")).structure
    cost, uses = measure_cost(model, shape), costs_by_weight(model, shape)
    return ParentChannels(
        model=info.model,
        root=str((info.compression or {}).get("root", info.model.name)),
        sha256=info.sha256,
        structure=structure,
        voxels=_voxels(structure, uses, model),
        scores=tuple(importance.taylor(model, structure, batches, loss)),
        shapes=shapes_of(model),
        parameters=tuple(name for name, _ in model.named_parameters()),
        others=_others(model),
        buffers=cost.buffer_elements,
        uses=tuple(uses),
        activation_bytes=cost.tensor_memory_bytes - weights_bytes(model),
    )


def _others(model: nn.Module) -> dict[str, str]:
    """Further name of a weight -> its first."""
    first = dict[int, str]()
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first[id(value)] for name, value in held if first.setdefault(id(value), name) != name}


def _voxels(structure: ChannelGroups, uses: Sequence[WeightCost], model: nn.Module) -> tuple[int, ...]:
    """Voxels of the map that each layer makes: the most, if it makes several; those of the coarsest, if unknown."""
    shapes, outputs = shapes_of(model), {use.weight: use.output_values for use in uses}
    found = []
    for layer in structure.layers:
        made = [
            outputs[place.name] // shapes[place.name][place.axis]
            for place in layer.channels[0]
            if place.name in outputs and (place.name, place.axis) in structure.makes
        ]
        found.append(max(made, default=0))
    least = min((voxels for voxels in found if voxels), default=1)
    return tuple(voxels or least for voxels in found)


def read_channels(path: Path) -> ParentChannels:
    """What `write_channels` has kept.

    Raises:
        StoreError: it is not there, or damaged.
    """
    plain = read_json(path, "the channels of a parent", StoreError)
    try:
        names = plain["weights"]
        layers = tuple(
            ChannelGroup(
                name=layer["name"],
                channels=tuple(
                    tuple(WeightIndex(names[number], axis, index) for number, axis, index in channel)
                    for channel in layer["channels"]
                ),
                mixed=layer["mixed"],
                multiplied=layer["multiplied"],
            )
            for layer in plain["layers"]
        )
        return ParentChannels(
            model=rec.from_json(rec.ModelSpec, plain["model"]),
            root=plain["root"],
            sha256=plain["sha256"],
            structure=ChannelGroups(layers=layers, frozen=plain["frozen"], unknown=tuple(plain["unknown"])),
            voxels=tuple(plain["voxels"]),
            scores=tuple(np.array(scores) for scores in plain["scores"]),
            shapes={name: tuple(shape) for name, shape in plain["shapes"].items()},
            parameters=tuple(plain["parameters"]),
            others=plain["others"],
            buffers=plain["buffers"],
            uses=tuple(WeightCost(**use) for use in plain["uses"]),
            activation_bytes=plain["activation_bytes"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(
            f"{path} does not hold the channels of a parent: delete it, and run the command again"
        ) from error


def write_channels(path: Path, channels: ParentChannels) -> None:
    """Keep what is known of a parent for `read_channels`; what only the importance by gradients reads is left out."""
    structure = channels.structure
    names = sorted({place.name for layer in structure.layers for channel in layer.channels for place in channel})
    number_of = {name: number for number, name in enumerate(names)}
    plain: dict[str, Any] = {
        **{key: rec.to_json(getattr(channels, key)) for key in _PLAIN},
        "weights": names,
        "layers": [
            {
                "name": layer.name,
                "mixed": layer.mixed,
                "multiplied": layer.multiplied,
                "channels": [
                    [[number_of[place.name], place.axis, place.index] for place in channel]
                    for channel in layer.channels
                ],
            }
            for layer in structure.layers
        ],
        "frozen": structure.frozen,
        "unknown": list(structure.unknown),
        "scores": [scores.tolist() for scores in channels.scores],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(plain, separators=(",", ":")).encode())


_PLAIN = ("model", "root", "sha256", "voxels", "shapes", "parameters", "others", "buffers", "uses", "activation_bytes")
