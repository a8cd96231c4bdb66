"""Search space: what a search proposes, builds, and is to beat.

Slim UNETR's variants are one space, the pruned versions of a trained parent another. A space knows configurations and
networks; what is asked of all of them (budget, data, device) is the problem's, and how they are proposed and trained is
the same for every space.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from benchbench.compress import importance
from benchbench.core import records as rec
from benchbench.search.inheritance import Parent

FLOAT = 4  # bytes of a weight


class Chooser(Protocol):
    """An Optuna trial, or `RandomChooser`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


class RandomChooser:
    """A trial that chooses at random."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._rng.choice(list(choices))


class Candidate(Protocol):
    """One network of a space, as a frozen dataclass of JSON values."""

    @property
    def key(self) -> str:
        """Hash, equal for all configurations that build one network."""

    @property
    def name(self) -> str:
        """Of the network."""

    def fits(self, spatial: Sequence[int]) -> bool:
        """Whether it takes a patch (D, H, W)."""

    def padding(self, spatial: Sequence[int]) -> float:
        """The share of padding among the voxels that it computes on for a patch (D, H, W)."""


_C = TypeVar("_C", bound=Candidate)


class Task(Protocol):
    """What a space is told of a search."""

    @property
    def data(self) -> str:
        """Name or folder of the data set on this machine."""

    @property
    def key(self) -> str:
        """Of the data set, the same on all machines."""

    @property
    def spatial(self) -> tuple[int, int, int]:
        """(D, H, W) of the patch, voxels."""

    @property
    def in_channels(self) -> int:
        """Channels of the image."""

    @property
    def out_channels(self) -> int:
        """Channels of the answer."""

    def gradients(self, batches: int) -> tuple[importance.Batches, importance.Loss]:
        """A number of batches of training cases, and the loss of the training."""


class SearchSpace(Protocol[_C]):
    """What a search proposes, builds, and is to beat.

    The network to beat is called `published` in code and records: the published Slim UNETR, or the parent.
    """

    @property
    def title(self) -> str:
        """What its networks are, `Slim UNETR`."""

    @property
    def one(self) -> str:
        """What one of its networks is, `Slim UNETR`."""

    @property
    def baseline_title(self) -> str:
        """What the network to beat is called, `the published network`."""

    @property
    def inheritance(self) -> str:
        """What becomes of a parent's weights, after its name: `whose weights networks of its stem inherit`."""

    @property
    def learning_rate(self) -> float:
        """Highest one of a training."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Kinds of control trainings that mean something for it, of `search_result.COMPARED`."""

    @property
    def tries_inherited(self) -> bool:
        """Whether the Dice of inherited weights before any training says if a network is worth one."""

    # -- configurations

    def suggest(self, trial: Chooser) -> _C:
        """A configuration from the choices of a trial."""

    def guesses(self, spatial: Sequence[int]) -> list[dict[str, Any]]:
        """The choices that give the first proposals."""

    def from_json(self, plain: Mapping[str, Any]) -> _C:
        """A configuration from the JSON values of its fields."""

    def describe(self) -> dict[str, Any]:
        """The space as JSON values, by which trials of another space are refused."""

    def published(self, spatial: Sequence[int]) -> _C:
        """The network to beat, for a patch (D, H, W)."""

    def published_name(self, spatial: Sequence[int]) -> str:
        """Name of the network to beat."""

    def is_published(self, config: _C) -> bool:
        """Whether a configuration is the network to beat."""

    def text_of(self, config: _C) -> str:
        """What differs from the network to beat, in words."""

    # -- costs

    def count(self, config: _C, task: Task) -> dict[str, float]:
        """`params`, `macs`, `file_bytes` and `tensor_bytes` by formula, exact or lower bounds."""

    def is_exact(self, config: _C) -> bool:
        """Whether all of these but `tensor_bytes` are exact, so that a network need not be counted."""

    def corners(self, spatial: Sequence[int], *, bound: bool = False) -> Iterator[_C]:
        """Networks of which each cost's least is one's.

        Args:
            bound: include those whose formulas give lower bounds where others' are exact.
        """

    def by_spec(self, config: _C) -> _C:
        """The configuration whose network its spec alone describes, without what values of weights decide."""

    # -- networks

    def spec(self, config: _C, task: Task, name: str) -> rec.ModelSpec:
        """The network of a configuration; see `by_spec`."""

    def build(self, config: _C, task: Task, parent: Parent | None, seed: int) -> tuple[nn.Module, rec.ModelSpec, float]:
        """The network of a configuration, its spec, and the share of its parameters that is inherited.

        Args:
            parent: that it inherits from; None: random weights.
        """

    def check_parent(self, weights: Path, task: Task) -> None:
        """Refuse weights that cannot be a parent of this search, before anything is measured.

        Raises:
            CheckpointError: with the reason.
        """

    def parent(self, weights: Path, task: Task) -> Parent:
        """A trained network with the importance of each of its channels.

        Raises:
            CheckpointError: it cannot be a parent of this search.
        """

    # -- the network to beat

    def known_weights(self, task: Task, given: Path | None) -> dict[Path, str]:
        """Weights of the network to beat, and where they come from.

        Args:
            given: that the user names.
        """

    def how_to_train(self, task: Task) -> str:
        """The command that gives the network to beat a Dice on this data, where no weights are known."""

    def notes(self, task: Task) -> list[str]:
        """What else the plan says of the space."""
