"""The network to beat, with weights that there are for it: the published one, or the parent; never trained anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.search.problem import SearchProblem
from benchbench.search.trial import accuracy_on, dice_of, dice_on_test
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """Weights of the network to beat, evaluated on the cases of the search."""

    info: checkpoint.CheckpointInfo
    origin: str  # where they come from
    dice_val: float
    test: Mapping[str, Any]  # `dice`, `values`, `ids`

    @property
    def train_s(self) -> float | None:
        """Seconds of its training; None: another program trained it."""
        seconds = self.info.train.get("seconds")
        return None if seconds is None else float(seconds)


def evaluate_published(problem: SearchProblem, given: Path | None) -> PublishedWeights | None:
    """The best weights on `val` that there are for the network to beat.

    Args:
        given: weights that the user names.
    """
    evaluated = []
    for path, origin in problem.space.known_weights(problem, given).items():
        info = checkpoint.read_sidecar(path)
        model = zoo_build.build_model(str(path)).eval()
        evaluated.append((dice_of(accuracy_on("val", problem, model, info.spatial)), info, origin))
    if not evaluated:
        return None
    dice_val, info, origin = max(evaluated, key=lambda one: one[0])
    return PublishedWeights(info=info, origin=origin, dice_val=dice_val, test=dice_on_test(problem, info.path))
