"""`bench train`: a network, a data set and a recipe from a request; all is checked before training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import UsageError
from benchbench.core.results import held
from benchbench.devices import cuda
from benchbench.training.loop import Progress, TrainResult, train
from benchbench.training.recipe import TrainRecipe, TrainRequest, default_batch
from benchbench.training.torch_runtime import keep_freed_memory
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTraining:
    """A training that can begin."""

    asked: TrainRequest
    plan: data.DataPlan
    spec: rec.ModelSpec
    recipe: TrainRecipe

    def run(self, out: Path, progress: Progress | None = None, *, fresh: bool = False) -> TrainResult:
        """Train into a folder, go on with what was begun there, or tell what was finished there.

        Args:
            out: made if it is not there; this training's alone meanwhile.
            fresh: set aside what is there of this network, and start over.

        Raises:
            StoreError: the folder cannot be used.
            CheckpointError: it holds another training of this network.
        """
        weights = self.weights(out)
        with held(out) if is_main_process() else contextlib.nullcontext():  # the others wait in `train` for rank 0
            if fresh and is_main_process():
                checkpoint.set_aside(weights)
            torch.manual_seed(self.recipe.seed)
            model = zoo_build.build_here(self.spec, self.recipe.patch)
            keep_freed_memory()
            return train(
                model,
                self.spec,
                self.recipe,
                out=weights,
                device=self.asked.device,
                progress=progress,
                replace=False,
            )

    def weights(self, out: Path) -> Path:
        """Where the weights are kept."""
        return out / f"{checkpoint.file_name(self.spec.name)}.safetensors"


def prepare(asked: TrainRequest) -> PreparedTraining:
    """A training from what is asked.

    Raises:
        UsageError: several networks, one that is trained already or has no dense output, a network or data set that is
            not known, a patch that the network cannot take, a device that is not there.
    """
    plan = data.get_plan(asked.data, fold=asked.fold)
    cards = [] if asked.model.endswith(".safetensors") else zoo_cards.find_cards(asked.model)
    if not cards or cards[0].checkpoint:  # of weights nothing is read, and no class that they name is imported
        raise UsageError(
            f"{asked.model} is trained already: 'bench compress' trains weights on, and a name from "
            "'bench list models' begins anew"
        )
    card = _one(cards, asked.model)
    if card.task != "segmentation":
        raise UsageError(f"{card.name} is made for {card.task}: it has no dense output to train on {plan.name}")
    if asked.device == "cuda":
        cuda.require()
    zoo_cards.check_channels(plan, asked.in_channels, asked.out_channels)
    spec = card.on(plan, asked.patch).spec(in_channels=plan.in_channels, out_channels=plan.out_channels)
    d, h, w = asked.patch or zoo_build.fitting_sides(spec, plan.patch)
    patch = (d, h, w)
    recipe = TrainRecipe(
        data=plan.where,
        patch=patch,
        budget=asked.budget,
        seed=asked.seed,
        batch=asked.batch or default_batch(patch),
        **asked.more,
    )
    return PreparedTraining(asked=asked, plan=plan, spec=spec, recipe=recipe)


def is_one_of_several() -> bool:
    """Whether this process trains together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Whether this process speaks for those that it trains with."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def _one(cards: Sequence[zoo_cards.Card], model: str) -> zoo_cards.Card:
    if len(cards) != 1:
        raise UsageError(f"{model!r} names {len(cards)} networks; train one at a time")
    return cards[0]
