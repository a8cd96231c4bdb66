"""`bench compress`: pruning of a trained network, fine-tuning, and what both did to its Dice.

What comes out is a checkpoint like any other, of a network with a name of its own: its sidecar holds what was done and
from which weights. The Dice that is told on the way is of `val`, which training watches; `test` is for `bench run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchbench import data
from benchbench.compress import importance
from benchbench.compress.prune import Pruned, prune
from benchbench.compress.request import Compression, PruneRecipe
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, DataError, UnsupportedError, UsageError
from benchbench.core.overwrite import check_output
from benchbench.core.results import held
from benchbench.measure.flops.graph import measure_cost
from benchbench.training.evaluate import AccuracyError, measure_dice
from benchbench.training.loop import InitialWeights, Progress, train
from benchbench.training.recipe import TrainingBudget, TrainRecipe, default_batch
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo.pruned import differing_shapes

log = logging.getLogger(__name__)

_GRADIENT_BATCHES = 16  # that `taylor` takes the mean over


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The network at one time: whole, cut, trained on."""

    title: str
    params: int
    macs: int | None  # None where they cannot be counted
    at_least: bool  # whether some operators have no rule
    dice: float | None  # on `val`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What came out."""

    checkpoint: checkpoint.CheckpointInfo
    stages: tuple[Stage, ...]
    layers: int  # that lost channels
    channels: tuple[int, int]  # that could go: before, after
    agreement: float | None  # with the whole network with zeros; see `prune.compare_with_zeros`
    unranked: int  # layers that the criterion says nothing of, and that keep all
    val_cases: int
    parent_path: Path
    earlier: bool = False  # the same was asked for before, and had ended


def compress(asked: Compression, out: Path, *, progress: Progress | None = None, fresh: bool = False) -> Compressed:
    """Prune a trained network and train it on.

    Args:
        out: folder for the weights, this one's alone meanwhile; the same one again goes on with a training that was
            interrupted, or tells of one that was finished.
        fresh: set aside what is there of the new network, and start over.

    Raises:
        CheckpointError: weights of another network, or damaged; or what is there is of another compression.
        StoreError: the folder cannot be used.
        UsageError: a share that empties a layer, or a criterion or training that needs data where there is none.
    """
    with threads(asked.threads), held(out):
        return _compress(asked, out, progress, fresh)


def _compress(asked: Compression, out: Path, progress: Progress | None, fresh: bool) -> Compressed:
    info = checkpoint.read_sidecar(asked.weights)
    cards = zoo_cards.find_cards(asked.model, trust=asked.trust)
    if len(cards) != 1 or not (zoo_cards.is_of(info.model, cards[0]) or cards[0].checkpoint == str(info.path)):
        raise CheckpointError(
            f"{asked.weights} holds {info.model.name!r}, not {asked.model!r}: name {zoo_cards.name_for(info)} in its "
            "place"
        )
    plan = _plan(asked, info)
    name = asked.name or _name(info.model.name, asked.recipe)
    path = out / f"{checkpoint.file_name(name)}.safetensors"
    check_output(path, inputs=[info.path], is_ours=lambda _: True, kind=CheckpointError)
    if fresh:
        checkpoint.set_aside(path)
    done = _done(asked, info)
    _refuse_another(path, done)
    whole = zoo_build.build_here(info.model, info.spatial).eval()
    checkpoint.load_weights(whole, asked.weights)
    shape = (1, info.model.in_channels, *info.spatial)

    def tell(text: str) -> None:
        if progress:
            progress(0.0, text)

    tell("finding which channels hang together")
    batches, loss = _batches(plan, info, asked) if plan and asked.recipe.criterion == "taylor" else (None, None)
    pruned = prune(whole, shape, asked.recipe, batches=batches, loss=loss)
    spec = _spec(info, pruned, name)
    done["channels"] = [pruned.structure.width, pruned.stays]
    stages = []

    def look(title: str, model: nn.Module) -> None:
        tell(f"Dice of the network, {title}")
        params = sum(p.numel() for p in model.parameters())
        macs, at_least = _macs(model, shape)
        stages.append(Stage(title=title, params=params, macs=macs, at_least=at_least, dice=_dice(model, plan, info)))

    look("whole", whole)
    look("cut", pruned.model)
    if asked.finetune is None:
        saved, earlier = _save(path, pruned.model, spec, info, done)
    else:
        assert plan is not None
        saved, earlier = _train_on(asked, plan, info, spec, pruned.model, whole, done, path, progress)
        look("trained on", pruned.model.to("cpu"))
    return Compressed(
        checkpoint=saved,
        stages=tuple(stages),
        layers=sum(map(bool, pruned.removed)),
        channels=(pruned.structure.width, pruned.stays),
        agreement=pruned.agreement,
        unranked=pruned.unranked,
        val_cases=plan.splits.get("val", 0) if plan else 0,
        parent_path=asked.weights,
        earlier=earlier,
    )


def _macs(model: nn.Module, shape: Sequence[int]) -> tuple[int | None, bool]:
    """MACs of one forward, and whether they are a lower bound; what cannot be counted is compressed all the same."""
    try:
        cost = measure_cost(model, shape)
    except UnsupportedError as error:
        log.warning("%s", error)
        return None, False
    return cost.macs, cost.bound is not None


def _done(asked: Compression, info: checkpoint.CheckpointInfo) -> dict[str, Any]:
    """What is done to which network, for the new sidecar."""
    done = {
        "root": str((info.compression or {}).get("root", info.model.name)),  # of the zoo, or a user's own
        "parent": info.model.name,
        "parent_sha256": info.sha256,
        "prune": asked.recipe.ratio,
        "criterion": asked.recipe.criterion,
        "scope": asked.recipe.scope,
        "seed": asked.recipe.seed,
    }
    if info.compression:
        done["before"] = rec.to_json(info.compression)
    if asked.recipe.multiple_of > 1:
        done["multiple_of"] = asked.recipe.multiple_of
    if asked.finetune:
        done |= {"finetune": str(asked.finetune), "distil": asked.distil}
    return done


def _refuse_another(path: Path, done: Mapping[str, Any]) -> None:
    """Before anything is computed: what is there is of this very compression, or stays."""
    weights, sidecar, _ = checkpoint.files_of(path)
    if not weights.exists() and not sidecar.exists():
        return
    there: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # somebody else's
        there = checkpoint.read_sidecar(path).compression or {}
    if {key: value for key, value in there.items() if key != "channels"} != done:
        raise _another(weights if weights.exists() else sidecar)


def _another(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is there already and is not what was asked for: choose another --out or --name, or --fresh, which "
        "sets it aside"
    )


def _save(
    path: Path,
    model: nn.Module,
    spec: rec.ModelSpec,
    info: checkpoint.CheckpointInfo,
    done: Mapping[str, Any],
) -> tuple[checkpoint.CheckpointInfo, bool]:
    """The cut network's checkpoint, and whether it was there before."""
    state = model.state_dict()
    if path.exists():
        earlier = checkpoint.read_sidecar(path)
        if earlier.sha256 != hashlib.sha256(checkpoint.serialised(state)).hexdigest():
            raise _another(path)
        return earlier, True
    saved = checkpoint.save(
        path,
        state,
        model=spec,
        data=info.data,
        spatial=info.spatial,
        train={key: info.train[key] for key in ("cases", "fold", "seed") if key in info.train},
        plan=info.plan,
        compression=done,
    )
    return saved, False


def _plan(asked: Compression, info: checkpoint.CheckpointInfo) -> data.DataPlan | None:
    """The data set of the weights, in the fold that they were trained in."""
    source = asked.data or (info.data if data.is_bundled(info.data) else None)
    needs = [f"the criterion {asked.recipe.criterion} needs gradients"] if asked.recipe.criterion == "taylor" else []
    needs += ["--finetune trains"] if asked.finetune else []
    if source in (None, "none"):
        if needs:
            raise UsageError(
                f"{' and '.join(needs)}, so data: give --data with the folder of {info.data.partition(':')[0]}"
                + ("" if asked.finetune else ", or take --criterion magnitude")
            )
        return None
    fold = _fold(info)
    plan = data.get_plan(str(source), fold=fold if asked.data and not data.is_bundled(asked.data) else None)
    channels, its = (info.model.in_channels, info.model.out_channels), (plan.in_channels, plan.out_channels)
    if channels != its:
        raise UsageError(
            f"{plan.name} needs a network of {its[0]} channels in and {its[1]} out, and these weights have "
            f"{channels[0]} and {channels[1]}: give the data that they were trained on, {info.data.partition(':')[0]}"
        )
    same = info.plan is not None and info.plan.digest == plan.digest != ""
    if not plan.is_named_by(info.data) and not same:
        raise UsageError(
            f"{plan.name} is not what these weights were trained on, {info.data.partition(':')[0]}: then nobody could "
            "tell which patients they have seen; give that data"
        )
    if seen := checkpoint.leaks(info, plan):
        raise CheckpointError(f"{info.path} was trained with test cases of {plan.name}, such as {seen[0]}")
    return plan


def _fold(info: checkpoint.CheckpointInfo) -> int:
    """In which the weights were trained."""
    return int(info.train.get("fold", 0))


def _name(parent: str, recipe: PruneRecipe) -> str:
    percent = re.sub(r"\W", "_", f"{100 * recipe.ratio:g}")
    name = f"{parent}-{recipe.criterion}{percent}" + ("g" if recipe.scope == "global" else "")
    return name + (f"-seed{recipe.seed}" if recipe.seed else "")


def _spec(info: checkpoint.CheckpointInfo, pruned: Pruned, name: str) -> rec.ModelSpec:
    kwargs = {key: value for key, value in info.model.kwargs.items() if key != zoo_build.PRUNED_SHAPES}
    plain = zoo_build.build(dataclasses.replace(info.model, kwargs=kwargs), info.spatial)
    shapes = differing_shapes(pruned.model, plain)
    return dataclasses.replace(
        info.model, name=name, kwargs=kwargs | {zoo_build.PRUNED_SHAPES: shapes}, checkpoint=None
    )


def _recipe(plan: data.DataPlan, info: checkpoint.CheckpointInfo, asked: Compression) -> TrainRecipe:
    return TrainRecipe(
        data=plan.where,
        patch=info.spatial,
        budget=asked.finetune or TrainingBudget(steps=_GRADIENT_BATCHES),
        batch=asked.batch or default_batch(info.spatial),
        seed=asked.recipe.seed,
        lr=asked.lr,
        distil=asked.distil,
        threads=asked.threads,
        bf16={"auto": None, "fp32": False, "bf16": True}[asked.dtype],
    )


def _batches(
    plan: data.DataPlan, info: checkpoint.CheckpointInfo, asked: Compression
) -> tuple[importance.Batches, importance.Loss]:
    """Batches of training cases, and the loss of the training."""
    if not plan.splits.get("train"):
        raise UsageError(f"{plan.key} has no training case to take gradients from: take --criterion magnitude")
    return importance.of_training(plan, _recipe(plan, info, asked), _GRADIENT_BATCHES)


def _dice(model: nn.Module, plan: data.DataPlan | None, info: checkpoint.CheckpointInfo) -> float | None:
    """On `val`; None where there is no such case, or the answers are of no use."""
    if plan is None or not plan.splits.get("val"):
        return None
    try:
        scores = measure_dice(model, data=plan.where, split="val", spatial=info.spatial, surfaces=False)
    except (DataError, AccuracyError) as error:
        log.warning("no Dice on val: %s", error)
        return None
    value = scores.measurements[0].value
    return None if value is None else float(value)


def _train_on(
    asked: Compression,
    plan: data.DataPlan,
    info: checkpoint.CheckpointInfo,
    spec: rec.ModelSpec,
    model: nn.Module,
    teacher: nn.Module,
    done: dict[str, Any],
    path: Path,
    progress: Progress | None,
) -> tuple[checkpoint.CheckpointInfo, bool]:
    """The checkpoint of the network that was trained on, and whether it was there before."""
    start = InitialWeights(
        digest=hashlib.sha256(checkpoint.serialised(model.state_dict())).hexdigest(),
        cases=tuple(info.train.get("cases", ())),
        compression=done,
        teacher=teacher if asked.distil else None,
    )
    torch.manual_seed(asked.recipe.seed)
    result = train(
        model,
        spec,
        _recipe(plan, info, asked),
        out=path,
        device=asked.device,
        progress=progress,
        start=start,
        replace=False,
    )
    return result.checkpoint, result.earlier
