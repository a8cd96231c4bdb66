"""`bench compress`: pruning of a trained network, fine-tuning, and the Dice after both.

The result is a checkpoint of a network with its own name, whose sidecar holds the recipe and the weights that it was
made from. The Dice of each stage is on `val`; `bench run` measures that on `test`.
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
from benchbench.compress.request import CompressRequest, PruneRecipe
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, DataError, UnsupportedError, UsageError
from benchbench.core.overwrite import check_output
from benchbench.core.results import held
from benchbench.measure.flops.graph import measure_cost
from benchbench.training.evaluate import measure_dice
from benchbench.training.loop import InitialWeights, Progress, train
from benchbench.training.recipe import TrainingBudget, TrainRecipe, default_batch
from benchbench.training.sliding_window import AccuracyError
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo.nnunet_folder import KIND as NNUNET
from benchbench.zoo.pruned import differing_shapes

log = logging.getLogger(__name__)

_GRADIENT_BATCHES = 16  # of the criterion `taylor`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The network whole, pruned, or fine-tuned."""

    title: str
    params: int
    macs: int | None  # None if they cannot be counted
    at_least: bool  # whether the MACs are a lower bound
    dice: float | None  # on `val`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """Result of a compression."""

    checkpoint: checkpoint.CheckpointInfo
    stages: tuple[Stage, ...]
    layers: int  # that lost channels
    channels: tuple[int, int]  # prunable ones: before, after
    agreement: float | None  # see `prune.compare_with_zeros`
    unranked: int  # layers that the criterion does not rank, which keep all channels
    val_cases: int
    val_trained_on: int  # of these cases, where nnU-Net trained the network, which has no such part
    parent_path: Path
    earlier: bool = False  # an equal call had finished before


def compress(
    request: CompressRequest, out: Path, *, progress: Progress | None = None, fresh: bool = False
) -> Compressed:
    """Prune a trained network, and fine-tune it.

    Args:
        out: folder of the new weights; an equal call goes on with an interrupted fine-tuning in it, or returns the
            finished result.
        fresh: set the files of the new network aside, and start over.

    Raises:
        CheckpointError: weights of another network, or damaged; or the folder holds those of another compression.
        StoreError: the folder cannot be used.
        UsageError: a share that empties a layer, or missing data for the criterion or the fine-tuning.
    """
    with threads(request.threads), held(out):
        return _compress(request, out, progress, fresh)


def _compress(request: CompressRequest, out: Path, progress: Progress | None, fresh: bool) -> Compressed:
    weights = request.weights
    if weights is None:
        if not zoo_cards.names_weights(request.model):
            raise UsageError(f"give the weights of {request.model} with --checkpoint, or their path in its place")
        weights = checkpoint.located(Path(request.model))
    info = checkpoint.read_sidecar(weights)
    cards = zoo_cards.find_cards(request.model, trust=request.trust)
    if len(cards) != 1 or not (zoo_cards.is_of(info.model, cards[0]) or cards[0].checkpoint == str(info.path)):
        raise CheckpointError(
            f"{weights} holds {info.model.name!r}, not {request.model!r}: name {zoo_cards.name_for(info)} in its place"
        )
    plan = _plan(request, info)
    name = request.name or _name(info.model.name, request.recipe)
    path = out / f"{checkpoint.file_name(name)}.safetensors"
    check_output(path, inputs=[info.path], is_ours=lambda _: True, kind=CheckpointError)
    if fresh:
        checkpoint.set_aside(path)
    provenance = _provenance(request, info)
    _check_replaceable(path, provenance)
    whole = zoo_build.build_here(info.model, info.spatial).eval()
    checkpoint.load_weights(whole, info.path)
    shape = (1, info.model.in_channels, *info.spatial)

    def report(text: str) -> None:
        if progress:
            progress(0.0, text)

    report("finding coupled channels")
    batches, loss = _batches(plan, info, request) if plan and request.recipe.criterion == "taylor" else (None, None)
    pruned = prune(whole, shape, request.recipe, batches=batches, loss=loss)
    spec = _spec(info, pruned, name)
    provenance["channels"] = [pruned.structure.width, pruned.stays]
    stages = []

    def add_stage(title: str, model: nn.Module) -> None:
        report(f"Dice of the network, {title}")
        params = sum(p.numel() for p in model.parameters())
        macs, at_least = _macs(model, shape)
        stages.append(Stage(title=title, params=params, macs=macs, at_least=at_least, dice=_dice(model, plan, info)))

    add_stage("whole", whole)
    add_stage("pruned", pruned.model)
    if request.finetune is None:
        saved, earlier = _save(path, pruned.model, spec, info, provenance)
    else:
        assert plan is not None
        saved, earlier = _finetune(request, plan, info, spec, pruned.model, whole, provenance, path, progress)
        add_stage("fine-tuned", pruned.model.to("cpu"))
    return Compressed(
        checkpoint=saved,
        stages=tuple(stages),
        layers=sum(map(bool, pruned.removed)),
        channels=(pruned.structure.width, pruned.stays),
        agreement=pruned.agreement,
        unranked=pruned.unranked,
        val_cases=plan.splits.get("val", 0) if plan else 0,
        val_trained_on=val_trained_on(plan, info),
        parent_path=info.path,
        earlier=earlier,
    )


def _macs(model: nn.Module, shape: Sequence[int]) -> tuple[int | None, bool]:
    """MACs of one forward, and whether they are a lower bound; None if they cannot be counted."""
    try:
        cost = measure_cost(model, shape)
    except UnsupportedError as error:
        log.warning("%s", error)
        return None, False
    return cost.macs, cost.bound is not None


def _provenance(request: CompressRequest, info: checkpoint.CheckpointInfo) -> dict[str, Any]:
    """What is done to which weights, for the new sidecar."""
    provenance = {
        "root": str((info.compression or {}).get("root", info.model.name)),
        "parent": info.model.name,
        "parent_sha256": info.sha256,
        "prune": request.recipe.ratio,
        "criterion": request.recipe.criterion,
        "scope": request.recipe.scope,
        "seed": request.recipe.seed,
    }
    if info.compression:
        provenance["before"] = rec.to_json(info.compression)
    if request.recipe.multiple_of > 1:
        provenance["multiple_of"] = request.recipe.multiple_of
    if request.finetune:
        provenance |= {"finetune": str(request.finetune), "distil": request.distil}
    return provenance


def _check_replaceable(path: Path, provenance: Mapping[str, Any]) -> None:
    """Refuse to replace files that are not of this compression."""
    weights, sidecar, _ = checkpoint.files_of(path)
    if not weights.exists() and not sidecar.exists():
        return
    stored: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # damaged, or not a sidecar
        stored = checkpoint.read_sidecar(path).compression or {}
    if {key: value for key, value in stored.items() if key != "channels"} != provenance:
        raise _other_content(weights if weights.exists() else sidecar)


def _other_content(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is there already and is not of this compression: choose another --out or --name, or --fresh, which "
        "sets it aside"
    )


def _save(
    path: Path,
    model: nn.Module,
    spec: rec.ModelSpec,
    info: checkpoint.CheckpointInfo,
    provenance: Mapping[str, Any],
) -> tuple[checkpoint.CheckpointInfo, bool]:
    """The pruned network's checkpoint, and whether it existed before."""
    state = model.state_dict()
    if path.exists():
        earlier = checkpoint.read_sidecar(path)
        if earlier.sha256 != hashlib.sha256(checkpoint.serialised(state)).hexdigest():
            raise _other_content(path)
        return earlier, True
    saved = checkpoint.save(
        path,
        state,
        model=spec,
        data=info.data,
        spatial=info.spatial,
        train={key: info.train[key] for key in _kept(info) if key in info.train},
        plan=info.plan,
        compression=provenance,
    )
    return saved, False


def _kept(info: checkpoint.CheckpointInfo) -> tuple[str, ...]:
    """What of a training is true of the network without some of its channels, too."""
    imported = ("imported", "recipe") if info.imported else ()  # of which the recipe has the axes of mirroring alone
    return ("cases", "fold", "seed", *imported)


def _plan(request: CompressRequest, info: checkpoint.CheckpointInfo) -> data.DataPlan | None:
    """The data set of the weights, in the fold that they were trained in."""
    source = request.data or (info.data if data.is_bundled(info.data) else None)
    needs = ["the criterion taylor needs gradients"] if request.recipe.criterion == "taylor" else []
    needs += ["--finetune trains"] if request.finetune else []
    if source in (None, "none"):
        if needs:
            raise UsageError(
                f"{' and '.join(needs)}, so data: give --data with the folder of {info.data.partition(':')[0]}"
                + ("" if request.finetune else ", or take --criterion magnitude")
            )
        return None
    fold = int(info.train.get("fold", 0)) if request.data and not data.is_bundled(request.data) else None
    return data_of(info, data.get_plan(str(source), fold=fold))


def data_of(info: checkpoint.CheckpointInfo, plan: data.DataPlan) -> data.DataPlan:
    """A data set as some weights see it, if they can be trained on with it.

    Raises:
        CheckpointError: they were trained with its test cases.
        DataError: it has other channels or labels than the network, which prepares images in its own way.
        UsageError: it has other channels or labels, or is not what the weights were trained on.
    """
    channels, needed = (info.model.in_channels, info.model.out_channels), (plan.in_channels, plan.out_channels)
    if channels != needed:
        raise UsageError(
            f"{plan.name} needs a network of {needed[0]} channels in and {needed[1]} out, and these weights have "
            f"{channels[0]} and {channels[1]}: give the data that they were trained on, {info.data.partition(':')[0]}"
        )
    same = info.plan is not None and info.plan.digest == plan.digest != ""
    if not plan.is_named_by(info.data) and not same and info.knows_its_cases:  # else `leaks` warns
        raise UsageError(
            f"{plan.name} is not what these weights were trained on, {info.data.partition(':')[0]}, so its test cases "
            "may be among their training cases: give that data"
        )
    if seen := checkpoint.leaks(info, plan):
        raise CheckpointError(f"{info.path} was trained with test cases of {plan.name}, such as {seen[0]}")
    return plan.as_seen_by(info.plan)


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


def val_trained_on(plan: data.DataPlan | None, info: checkpoint.CheckpointInfo) -> int:
    """How many of the validation cases are training cases: of a fold of nnU-Net all that it did not hold out are."""
    if plan is None or not info.imported or info.imported.get("from") != NNUNET:
        return 0
    return len({*info.train.get("cases", ())} & {*plan.ids.get("val", ())})


def _recipe(plan: data.DataPlan, info: checkpoint.CheckpointInfo, request: CompressRequest) -> TrainRecipe:
    return TrainRecipe(
        data=plan.where,
        patch=info.spatial,
        budget=request.finetune or TrainingBudget(steps=_GRADIENT_BATCHES),
        batch=request.batch or default_batch(info.spatial),
        seed=request.recipe.seed,
        lr=request.lr,
        distil=request.distil,
        threads=request.threads,
        bf16={"auto": None, "fp32": False, "bf16": True}[request.dtype],
    )


def _batches(
    plan: data.DataPlan, info: checkpoint.CheckpointInfo, request: CompressRequest
) -> tuple[importance.Batches, importance.Loss]:
    """Batches of training cases, and the loss of the training."""
    if not plan.splits.get("train"):
        raise UsageError(f"{plan.key} has no training case to take gradients from: take --criterion magnitude")
    return importance.of_training(plan, _recipe(plan, info, request), _GRADIENT_BATCHES)


def _dice(model: nn.Module, plan: data.DataPlan | None, info: checkpoint.CheckpointInfo) -> float | None:
    """Dice on `val`; None without such cases, or if the outputs cannot be evaluated."""
    if plan is None or not plan.splits.get("val"):
        return None
    try:
        accuracy = measure_dice(model, data=plan.where, split="val", spatial=info.spatial, surfaces=False)
    except (DataError, AccuracyError) as error:
        log.warning("no Dice on val: %s", error)
        return None
    value = accuracy.measurements[0].value
    return None if value is None else float(value)


def _finetune(
    request: CompressRequest,
    plan: data.DataPlan,
    info: checkpoint.CheckpointInfo,
    spec: rec.ModelSpec,
    model: nn.Module,
    teacher: nn.Module,
    provenance: dict[str, Any],
    path: Path,
    progress: Progress | None,
) -> tuple[checkpoint.CheckpointInfo, bool]:
    """The fine-tuned network's checkpoint, and whether it existed before."""
    start = InitialWeights(
        digest=hashlib.sha256(checkpoint.serialised(model.state_dict())).hexdigest(),
        cases=tuple(info.train.get("cases", ())),
        imported=info.imported,
        compression=provenance,
        teacher=teacher if request.distil else None,
    )
    torch.manual_seed(request.recipe.seed)
    result = train(
        model,
        spec,
        _recipe(plan, info, request),
        out=path,
        device=request.device,
        progress=progress,
        start=start,
        replace=False,
    )
    return result.checkpoint, result.earlier
