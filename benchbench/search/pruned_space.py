"""Space of a parent's pruned versions: the share of its channels that each level keeps, and how they are ranked.

A network of the space is the parent without its least important channels, and begins with the parent's weights. The
network to beat is the parent itself, which is not trained again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchbench.compress import importance
from benchbench.compress.channel_groups import remove
from benchbench.compress.request import FINE_TUNING_RATE
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError
from benchbench.core.units import counted
from benchbench.search.inheritance import Parent
from benchbench.search.parent_channels import ParentChannels, read_channels
from benchbench.search.search_space import Chooser, Task
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

#: Shares of its channels that a level may keep.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CRITERIA = ("taylor", "magnitude")
_UNIFORM = (0.7, 0.5, 0.4, 0.3)  # first guesses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PrunedConfig:
    """One network of the space."""

    parent: str  # its name
    keep: tuple[float, ...]  # share of its channels that each level keeps, the finest first
    criterion: str = CRITERIA[0]

    @property
    def key(self) -> str:
        """Hash of the configuration."""
        return rec.content_hash(rec.to_json(self))

    @property
    def name(self) -> str:
        """Of the network."""
        return f"{checkpoint.file_name(self.parent)}-{self.key[:6]}"

    def fits(self, spatial: Sequence[int]) -> bool:
        """Any patch: a search has the parent's own."""
        return True

    def padding(self, spatial: Sequence[int]) -> float:
        """None that the parent does not have."""
        return 0.0


class PrunedSpace:
    """See `search_space.SearchSpace`."""

    baseline_title = "the parent"
    inheritance = "without whose least important channels every network begins"
    learning_rate = FINE_TUNING_RATE
    controls = ("scratch",)
    tries_inherited = False  # a Dice before fine-tuning says little of that after it

    def __init__(self, channels: ParentChannels) -> None:
        self.channels = channels

    @property
    def title(self) -> str:
        """`smaller versions of nnunet_small`."""
        return f"smaller versions of {self.channels.model.name}"

    @property
    def one(self) -> str:
        """`smaller version of nnunet_small`."""
        return f"smaller version of {self.channels.model.name}"

    # -- configurations

    @functools.cached_property
    def choices(self) -> tuple[tuple[float, ...], ...]:
        """Shares that each level may keep, of those by which it keeps equally many channels the largest."""
        found = []
        for level in range(len(self.channels.levels)):
            by_count = {tuple(_kept(width, share) for width in self.channels.widths(level)): share for share in SHARES}
            found.append(tuple(by_count.values()))
        return tuple(found)

    def suggest(self, trial: Chooser) -> PrunedConfig:
        """The parent itself is none: its finest level keeps less then."""
        keep = [trial.suggest_categorical(f"keep{level}", list(of)) for level, of in enumerate(self.choices, 1)]
        criterion = trial.suggest_categorical("criterion", list(CRITERIA))
        if all(share == SHARES[-1] for share in keep):
            number = next(number for number, of in enumerate(self.choices) if len(of) > 1)
            keep[number] = self.choices[number][-2]
        return self._config(keep, criterion)

    def _config(self, keep: Sequence[float], criterion: str = CRITERIA[0]) -> PrunedConfig:
        return PrunedConfig(parent=self.channels.model.name, keep=tuple(keep), criterion=criterion)

    def guesses(self, spatial: Sequence[int]) -> list[dict[str, Any]]:
        """The same share of all levels."""
        guesses = []
        for share in _UNIFORM:
            keep = {f"keep{n}": min(of, key=lambda s: abs(s - share)) for n, of in enumerate(self.choices, 1)}
            guesses.append({**keep, "criterion": CRITERIA[0]})
        return guesses

    def from_json(self, plain: Mapping[str, Any]) -> PrunedConfig:
        """The reverse of `records.to_json`."""
        return PrunedConfig(**{**plain, "keep": tuple(plain["keep"])})

    def describe(self) -> dict[str, Any]:
        """The parent's weights, and what each level may keep."""
        channels = self.channels
        levels = [
            {"voxels": voxels, "layers": len(widths), "channels": sum(widths), "keep": self.choices[level]}
            for level, voxels in enumerate(channels.levels)
            for widths in (channels.widths(level),)
        ]
        return {"parent": channels.sha256, "levels": levels, "criteria": CRITERIA}

    def published(self, spatial: Sequence[int]) -> PrunedConfig:
        """The parent."""
        return self._config([SHARES[-1]] * len(self.choices))

    def published_name(self, spatial: Sequence[int]) -> str:
        """The parent's."""
        return self.channels.model.name

    def is_published(self, config: PrunedConfig) -> bool:
        """Whether it is the parent."""
        return all(share == SHARES[-1] for share in config.keep)

    def text_of(self, config: PrunedConfig) -> str:
        """`624 of 816 channels, 70-70-80-70 % of the levels from fine to coarse, ranked by taylor`."""
        kept, widths = sum(self._counts(config)), self.channels.structure.width
        shares = "-".join(f"{100 * share:.0f}" for share in config.keep)
        return (
            f"{kept} of {widths} channels, {shares} % of the levels from fine to coarse, ranked by {config.criterion}"
        )

    # -- costs

    def _counts(self, config: PrunedConfig) -> list[int]:
        """How many channels each layer keeps."""
        channels = self.channels
        return [
            _kept(layer.width, config.keep[level])
            for layer, level in zip(channels.structure.layers, channels.level_of, strict=True)
        ]

    def count(self, config: PrunedConfig, task: Task) -> dict[str, float]:
        """See `ParentChannels.count`."""
        return self.channels.count(self._counts(config))

    def is_exact(self, config: PrunedConfig) -> bool:
        """Never for sure: see `ParentChannels.count`."""
        return False

    def corners(self, spatial: Sequence[int], *, bound: bool = False) -> Iterator[PrunedConfig]:
        """Every cost rises with each share."""
        yield self._config([of[0] for of in self.choices])

    def by_spec(self, config: PrunedConfig) -> PrunedConfig:
        """Itself: which channels stay is in no spec."""
        return config

    # -- networks

    def spec(self, config: PrunedConfig, task: Task, name: str) -> rec.ModelSpec:
        """The parent's, with the shapes of the weights that lose channels."""
        model = self.channels.model
        cut = self.channels.cut_shapes(self._counts(config))
        shapes = {**model.kwargs.get(zoo_build.PRUNED_SHAPES, {}), **cut}
        kwargs = {**model.kwargs, zoo_build.PRUNED_SHAPES: shapes} if shapes else model.kwargs
        return dataclasses.replace(model, name=name, kwargs=kwargs, checkpoint=None)

    def build(
        self, config: PrunedConfig, task: Task, parent: Parent | None, seed: int
    ) -> tuple[nn.Module, rec.ModelSpec, float]:
        """The parent without its least important channels: all of its parameters are inherited."""
        spec = self.spec(config, task, config.name)
        torch.manual_seed(seed)
        if parent is None:
            return zoo_build.build(spec, task.spatial), spec, 0.0
        layers = parent.structure.layers
        scores = parent.scores if config.criterion == "taylor" else importance.magnitude(parent.model, parent.structure)
        removed = [
            importance.least_important(of_layer, layer.width - count)
            for layer, of_layer, count in zip(layers, scores, self._counts(config), strict=True)
        ]
        return remove(parent.model, parent.structure, removed), spec, 1.0

    def check_parent(self, weights: Path, task: Task) -> None:
        """It has to be the one whose channels are known."""
        self._known(weights)

    def _known(self, weights: Path) -> checkpoint.CheckpointInfo:
        info = checkpoint.read_sidecar(weights)
        if info.sha256 != self.channels.sha256:
            raise CheckpointError(f"{weights} is not the parent that the search began with: give another --out")
        return info

    def parent(self, weights: Path, task: Task) -> Parent:
        """As it was ranked before the search."""
        info = self._known(weights)
        model = zoo_build.build_here(info.model, info.spatial).eval()
        checkpoint.load_weights(model, info.path)
        return Parent(
            model=model,
            structure=self.channels.structure,
            scores=self.channels.scores,
            sha256=info.sha256,
            name=info.model.name,
            root=self.channels.root,
            cases=tuple(info.train.get("cases", ())),
            imported=info.imported,
        )

    # -- the network to beat

    def known_weights(self, task: Task, given: Path | None) -> dict[Path, str]:
        """The parent's, as they are given."""
        return {} if given is None else {given: "as it was given"}

    def how_to_train(self, task: Task) -> str:
        """Nothing: a parent has weights."""
        return ""

    def notes(self, task: Task) -> list[str]:
        """What its levels are, and which controls mean nothing."""
        channels, lines = self.channels, []
        for level, voxels in enumerate(channels.levels):
            widths, least = channels.widths(level), self.choices[level][0]
            layers = f"{counted(len(widths), 'layer')} of {sum(widths)} channels"
            lines.append(f"  level {level + 1}: maps of {voxels} voxels, {layers}, of which {least:.0%} to all stay")
        if channels.structure.frozen:
            lines.append(f"  {channels.structure.frozen} channels, such as the outputs, always stay")
        lines.append("  the parent is not trained again, so --controls are the same from scratch and chance alone")
        return lines


def _kept(width: int, share: float) -> int:
    """Channels that a layer keeps: at least one."""
    return max(1, round(share * width))


@functools.lru_cache(maxsize=4)
def pruned_space(path: str) -> PrunedSpace:
    """The space of the parent whose channels a file has, which is read once.

    Raises:
        StoreError: it is not there, or damaged.
    """
    return PrunedSpace(read_channels(Path(path)))
