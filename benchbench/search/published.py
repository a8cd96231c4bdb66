"""The published network as what a search is compared with: weights that there are for it, never trained anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core.errors import CheckpointError, command, data_flags
from benchbench.core.units import format_shape
from benchbench.search import space
from benchbench.search.problem import SearchProblem, published_spec
from benchbench.search.trial import accuracy_on, dice_of, dice_on_test
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint, places


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """Weights of the published network, evaluated on the cases of the search."""

    info: checkpoint.CheckpointInfo
    origin: str  # where they come from
    dice_val: float
    test: Mapping[str, Any]  # `dice`, `values`, `ids`


def bundled_parent(source: str, fold: int | None = None, spatial: tuple[int, ...] | None = None) -> Path:
    """Weights of the published network that come with benchbench, for a data set and a search's patch (D, H, W).

    Raises:
        CheckpointError: there are none.
    """
    plan = data.get_plan(source, fold=fold)
    sides = spatial or plan.patch
    for variant in space.VARIANTS:
        spec = published_spec(plan, variant)
        if path := places.find(spec.name, spec.in_channels, spec.out_channels, sides, plan):
            return path
    raise CheckpointError(
        f"no weights of the published network come with benchbench for {plan.key} and a patch of "
        f"{format_shape(tuple(sides))}: give --parent a file, train or none"
    )


def evaluate_published(problem: SearchProblem, given: Path | None) -> PublishedWeights | None:
    """The best weights on `val` that there are for the published network, in either variant and at its own patch.

    Args:
        given: weights that the user names, beside those that come with benchbench.
    """
    plan = data.get_plan(problem.data)
    found: dict[Path, str] = {}
    for variant in space.VARIANTS:
        spec = published_spec(problem, variant)
        sides = zoo_build.fitting_sides(spec, problem.spatial)
        if path := places.find(spec.name, spec.in_channels, spec.out_channels, sides, plan):
            found[path.resolve()] = "weights that come with benchbench"
    if given:
        found.setdefault(given.resolve(), "weights given by --parent")
    evaluated = []
    for path, origin in found.items():
        info = checkpoint.read_sidecar(path)
        model = zoo_build.build_model(str(path)).eval()
        evaluated.append((dice_of(accuracy_on("val", problem, model, info.spatial)), info, origin))
    if not evaluated:
        return None
    dice_val, info, origin = max(evaluated, key=lambda one: one[0])
    return PublishedWeights(info=info, origin=origin, dice_val=dice_val, test=dice_on_test(problem, info.path))


def how_to_train(problem: SearchProblem) -> str:
    """The commands that give the published network a Dice on this data."""
    variant = problem.published.variant
    train = command("train", variant, *data_flags(problem.key), "--spatial", *problem.spatial)
    return f"{train}; then give its weights by --parent"
