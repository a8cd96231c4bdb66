"""`bench train`: a network, a data set and a recipe from a request; all is checked before training."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.results import held
from benchbench.devices import cuda
from benchbench.training.loop import InitialWeights, Progress, TrainResult, train
from benchbench.training.processes import is_main_process
from benchbench.training.recipe import TrainRecipe, TrainRequest, default_batch
from benchbench.training.torch_runtime import keep_freed_memory
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTraining:
    """A training whose arguments were checked."""

    request: TrainRequest
    plan: data.DataPlan
    spec: rec.ModelSpec
    recipe: TrainRecipe
    init: checkpoint.CheckpointInfo | None = None  # weights to begin with; None: random ones

    def run(self, out: Path, progress: Progress | None = None, *, fresh: bool = False) -> TrainResult:
        """Train into a folder, go on with its interrupted training, or return the result of its finished one.

        Args:
            fresh: set the files of this network aside, and start over.

        Raises:
            StoreError: the folder cannot be used.
            CheckpointError: it holds another training of this network.
        """
        weights = self.weights(out)
        with held(out) if is_main_process() else contextlib.nullcontext():
            if fresh and is_main_process():
                checkpoint.set_aside(weights)
            torch.manual_seed(self.recipe.seed)
            model = zoo_build.build_here(self.spec, self.recipe.patch)
            start = None
            if self.init:
                checkpoint.load_weights(model, self.init.path)
                start = InitialWeights(
                    digest=self.init.sha256,
                    cases=tuple(self.init.train.get("cases", ())),
                    imported=self.init.imported,
                    compression=_trained_on(self.init.compression, request=self.request),
                )
            keep_freed_memory()
            return train(
                model,
                self.spec,
                self.recipe,
                out=weights,
                device=self.request.device,
                progress=progress,
                start=start,
                replace=False,
            )

    def weights(self, out: Path) -> Path:
        """Path of the weights."""
        return out / f"{checkpoint.file_name(self.spec.name)}.safetensors"


def _trained_on(compression: Mapping[str, Any] | None, *, request: TrainRequest) -> Mapping[str, Any] | None:
    """What was done to a larger network, and that it is trained from there."""
    return compression and {**compression, "finetune": str(request.budget)}


def prepare(request: TrainRequest) -> PreparedTraining:
    """A training from its request.

    Raises:
        UsageError: several networks, a trained one or one without a dense output, an unknown network or data set, a
            patch that the network cannot take, a missing device.
    """
    plan = data.get_plan(request.data, fold=request.fold)
    init = checkpoint.read_sidecar(request.init) if request.init else None
    card = _card(request, init)
    if card.task != "segmentation":
        raise UsageError(f"{card.name} is made for {card.task}: it has no dense output to train on {plan.name}")
    if request.device == "cuda":
        cuda.require()
    zoo_cards.check_channels(plan, request.in_channels, request.out_channels)
    sides: tuple[int, ...]
    if init:
        plan = plan.as_seen_by(init.plan)
        spec, sides = _initial(init, plan), request.patch or init.spatial
    else:
        spec = card.on(plan, request.patch).spec(in_channels=plan.in_channels, out_channels=plan.out_channels)
        sides = request.patch or zoo_build.fitting_sides(spec, plan.patch)
    d, h, w = sides
    patch = (d, h, w)
    of_card = {} if card.learning_rate is None else {"lr": card.learning_rate}
    recipe = TrainRecipe(
        data=plan.where,
        patch=patch,
        budget=request.budget,
        seed=request.seed,
        batch=request.batch or default_batch(patch),
        **{**of_card, **request.more},
    )
    return PreparedTraining(request=request, plan=plan, spec=spec, recipe=recipe, init=init)


def _card(request: TrainRequest, init: checkpoint.CheckpointInfo | None) -> zoo_cards.Card:
    """The card of the network that is asked for."""
    if request.model is None:
        if init is None:
            raise UsageError("name a MODEL to train, or weights to begin with by --init")
        if not classes.may_import(init.model.arch):
            raise UsageError(
                f"{init.path} names its class {init.model.arch!r}, which is not part of benchbench, so its code is not "
                "run: name the class yourself, as MODEL"
            )
        return zoo_cards.card_of(init)
    cards = [] if zoo_cards.names_weights(request.model) else zoo_cards.find_cards(request.model)
    if not cards or cards[0].checkpoint:  # weights are not read, and no class that they name is imported
        raise UsageError(
            f"{request.model} is trained already: --init trains weights on, 'bench compress' makes them smaller, and a "
            "name from 'bench list models' begins anew"
        )
    if len(cards) != 1:
        raise UsageError(f"{request.model!r} names {len(cards)} networks; train one at a time")
    if init and not zoo_cards.is_of(init.model, cards[0]):
        raise CheckpointError(f"{init.path} holds {init.model.name!r}, not {request.model!r}: leave MODEL out")
    return cards[0]


def _initial(init: checkpoint.CheckpointInfo, plan: data.DataPlan) -> rec.ModelSpec:
    """The network of weights to begin with, which the data set has to suit."""
    has, needed = (init.model.in_channels, init.model.out_channels), (plan.in_channels, plan.out_channels)
    if has != needed:
        raise UsageError(
            f"{plan.name} needs a network of {needed[0]} channels in and {needed[1]} out, and {init.path} has {has[0]} "
            f"and {has[1]}"
        )
    if seen := checkpoint.leaks(init, plan):
        raise CheckpointError(f"{init.path} was trained with test cases of {plan.name}, such as {seen[0]}")
    return init.model
