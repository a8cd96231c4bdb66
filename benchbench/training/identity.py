"""Identity of a training: a hash of all that its weights depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench import data
from benchbench.core import records as rec
from benchbench.training.recipe import TrainRecipe

_NO_PART = ("checkpoint_every_s", "threads")  # of a recipe: the weights do not depend on them
_LENGTH = ("budget", "validations")


def identity(
    recipe: TrainRecipe, spec: rec.ModelSpec, plan: data.DataPlan, *, processes: int, origins: Sequence[str]
) -> str:
    """Hash of a whole training.

    Args:
        processes: that train together.
        origins: hashes of what it starts from.
    """
    return _hash(recipe, spec, plan, processes, origins, _NO_PART)


def lineage(
    recipe: TrainRecipe, spec: rec.ModelSpec, plan: data.DataPlan, *, processes: int, origins: Sequence[str]
) -> str:
    """Hash of what equal trainings of different lengths have in common; arguments as of `identity`."""
    return _hash(recipe, spec, plan, processes, origins, (*_NO_PART, *_LENGTH))


def _hash(
    recipe: TrainRecipe,
    spec: rec.ModelSpec,
    plan: data.DataPlan,
    processes: int,
    origins: Sequence[str],
    without: Sequence[str],
) -> str:
    fields = dataclasses.asdict(recipe) | {"data": plan.key, "processes": processes}
    fields["cases"] = [list(plan.ids.get(split, ())) for split in ("train", "val")]
    lasting = {key: value for key, value in fields.items() if key not in without}
    return rec.content_hash([rec.to_json(lasting), rec.to_json(spec), *origins])
