"""Trial of one configuration: built, given what it can inherit, trained, and evaluated on `val`.

Costs are first computed by formula; what a formula cannot give (latency, the result of pruning across layers) is
checked on the built network, before any training. A trial that is promoted is not trained anew: its training goes on
from the state that the shorter one left.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchbench import data
from benchbench.compress import importance
from benchbench.compress.channel_groups import find_structure
from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UnsupportedError, UsageError, command, data_flags
from benchbench.runtimes.catalogue import get_runtime
from benchbench.search import space
from benchbench.search.inheritance import Parent, inherit
from benchbench.search.problem import Infeasible, SearchProblem, counted_costs, spec_of, timed_costs
from benchbench.search.space import Config
from benchbench.training.evaluate import AccuracyResult, measure_dice
from benchbench.training.loop import InitialWeights, Progress, train
from benchbench.training.patch_loader import CachedPatchLoader, PatchLoader, prepared_plan
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo.pruned import differing_shapes, shapes_of

PARENT_BATCHES, CHILD_BATCHES = 16, 4  # for the ranking of channels
LEAST_INHERITED = 0.5  # share of its parameters from which a network inherits at all

#: By how much the untrained Dice of a network with inherited weights is too low to train it, given its costs; else 0.
Hopeless = Callable[[float, Mapping[str, float]], float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of a trial."""

    dice: float  # on `val`
    costs: Mapping[str, float]  # params, macs, file_bytes, memory_bytes (lower bound), latency_s (of a few forwards)
    inherited: float  # share of its parameters
    untrained: float | None = None  # Dice on `val` before training, of a network that inherits
    train_s: float  # of all the steps that its training has had
    val_s: float = 0.0  # of this training beside its steps, nearly all of it the evaluation on `val`
    measure_s: float = 0.0  # counting, timing, and evaluation before training
    total_s: float  # here
    steps: int  # of all that its training has had
    path: Path  # of its weights


def load_parent(weights: Path, problem: SearchProblem) -> tuple[checkpoint.CheckpointInfo, nn.Module]:
    """A trained Slim UNETR of the published size, in eval mode, that a search can start from.

    Raises:
        CheckpointError: the weights are of another network, size, patch or data set, were trained on test cases, or are
            missing or damaged.
    """
    info = checkpoint.read_sidecar(weights)
    spec = info.model
    cards = [card for card in map(zoo_cards.get_card, space.VARIANTS) if card.arch == spec.arch]
    if not cards or info.compression:
        smaller = ["--prune", 0.5, "--criterion", "taylor", "--finetune", "20min", *data_flags(problem.key)]
        raise CheckpointError(
            f"{weights} holds {spec.name!r}: the parent of a search is a whole {' or '.join(space.VARIANTS)}, whose "
            f"variants it tries; another network is made smaller by: {command('compress', weights, *smaller)}"
        )
    card = cards[0]
    theirs = (spec.in_channels, spec.out_channels, tuple(info.spatial))
    if theirs != (problem.in_channels, problem.out_channels, problem.spatial):
        raise CheckpointError(
            f"{weights} is for {theirs[0]} channels in, {theirs[1]} out and a patch of {theirs[2]}, and the search for "
            f"{problem.in_channels}, {problem.out_channels} and {problem.spatial}: train one by "
            f"{command('train', card.name, *data_flags(problem.key), '--spatial', *problem.spatial)}"
        )
    plan = data.get_plan(problem.data)
    if not plan.is_named_by(info.data):
        raise CheckpointError(
            f"{weights} was trained on {info.data.partition(':')[0]}, and the search is of {plan.name}: then nobody "
            "could tell which patients it has seen; give that data"
        )
    if seen := checkpoint.leaks(info, plan):
        raise CheckpointError(f"{weights} was trained with test cases of {plan.name}, such as {seen[0]}")
    whole = card.spec(in_channels=problem.in_channels, out_channels=problem.out_channels)
    expected, given = rec.to_json(whole.kwargs), rec.to_json(spec.kwargs)
    other = sorted(key for key in expected if key in given and given[key] != expected[key])
    model = zoo_build.build(spec, info.spatial).eval()
    if other or shapes_of(model) != shapes_of(zoo_build.build(whole, info.spatial)):
        what = f" (its {', '.join(other)} differ)" if other else ""
        raise CheckpointError(
            f"{weights} holds a {card.name} of another size{what}: the parent of a search is of the published one"
        )
    checkpoint.load_weights(model, info.path)
    return info, model


def parent_of(weights: Path, problem: SearchProblem) -> Parent:
    """A trained network with the importance of each of its channels; see `load_parent`."""
    info, model = load_parent(weights, problem)
    structure = find_structure(model, (1, problem.in_channels, *problem.spatial))
    scores = importance.taylor(model, structure, *problem.gradients(PARENT_BATCHES))
    return Parent(
        model=model,
        structure=structure,
        scores=tuple(scores),
        sha256=info.sha256,
        name=info.model.name,
        cases=tuple(info.train.get("cases", ())),
    )


def build(
    problem: SearchProblem, config: Config, parent: Parent | None, seed: int
) -> tuple[nn.Module, rec.ModelSpec, float]:
    """The network of a configuration, its spec, and the share of its parameters that is inherited.

    Only a network with the parent's stem inherits, and only if half of its parameters fit: a few layers that were
    trained for others help no training.
    """
    spec = spec_of(problem, config, name_of(config))
    torch.manual_seed(seed)
    model, share = zoo_build.build(spec, problem.spatial), 0.0
    if parent and config.stem == space.PUBLISHED.stem:
        share = inherit(model, parent)
        if share < LEAST_INHERITED:
            torch.manual_seed(seed)
            model, share = zoo_build.build(spec, problem.spatial), 0.0
    if config.prune:
        recipe = PruneRecipe(
            ratio=config.prune,
            criterion=config.criterion,  # type: ignore[arg-type]
            scope=config.scope,  # type: ignore[arg-type]
            seed=seed,
        )
        batches, loss = problem.gradients(CHILD_BATCHES) if config.criterion == "taylor" else (None, None)
        pruned = prune(model, (1, problem.in_channels, *problem.spatial), recipe, batches=batches, loss=loss)
        shapes = differing_shapes(pruned.model, model)
        model = pruned.model
        spec = dataclasses.replace(spec, kwargs={**spec.kwargs, zoo_build.PRUNED_SHAPES: shapes})
    return model, spec, share


def name_of(config: Config) -> str:
    """Name of the network of a configuration."""
    return f"{config.variant}-{config.key[:6]}"


def origin_of(config: Config, parent: Parent, share: float) -> InitialWeights:
    """Where the weights of a network come from that inherits a share of its parameters."""
    compression = {
        "root": config.variant,
        "parent": parent.name,
        "parent_sha256": parent.sha256,
        "inherited": round(share, 4),
        "search": rec.to_json(config),
    }
    return _initial_weights(compression, parent.cases)


def _initial_weights(compression: Mapping[str, Any], cases: Sequence[str]) -> InitialWeights:
    """Initial weights as the sidecar of their network says; `cases`: that the parent was trained on."""
    digest = f"{compression['parent_sha256']}:{space.from_json(compression['search']).key}"
    return InitialWeights(digest=digest, cases=tuple(cases), compression=compression)


def shared_loader(problem: SearchProblem, budget: TrainingBudget, seed: int, *, most_bytes: float) -> CachedPatchLoader:
    """A loader whose batches are cached for the trainings of several configurations; end it afterwards."""
    recipe = problem.recipe(budget, seed)
    return CachedPatchLoader(PatchLoader(prepared_plan(recipe.data), recipe), most_bytes=most_bytes)


def evaluate(
    problem: SearchProblem,
    config: Config,
    parent: Parent | None,
    budget: TrainingBudget,
    seed: int,
    out: Path,
    *,
    hopeless: Hopeless | None = None,
    loader: CachedPatchLoader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a new configuration, train it, and evaluate it on `val`.

    Args:
        parent: that it inherits from, if it fits.
        out: `<name>.safetensors`, of its weights; beside it is `<name>.state`, from which its training goes on.
        hopeless: asked before a network with inherited weights is trained.
        loader: of batches that other configurations use, too.

    Raises:
        Infeasible: it is above the budget, or hopeless; nothing was trained.
        UnsupportedError: it cannot be run in the runtime of the search; nothing was trained.
        UsageError: it has no Dice on `val`.
    """
    start = time.monotonic()
    costs = problem.costs(config)
    problem.check(costs)
    model, spec, share = build(problem, config, parent, seed)
    built = time.monotonic()
    if progress and problem.is_timed_in_worker:
        progress(0.0, f"timing it in {get_runtime(problem.runtime).title}")
    costs = _with_measured(costs, problem, config, model, spec)
    untrained, origin = None, None
    if parent and share:
        origin = origin_of(config, parent, share)
        untrained = dice_of(accuracy_on("val", problem, model, problem.spatial))
        if gap := hopeless and hopeless(untrained, costs):
            raise Infeasible({"untrained Dice": gap}, f"its inherited weights have Dice {untrained:.3f} on val")
    measured_s = time.monotonic() - built
    recipe = problem.recipe(budget, seed)
    trained = train_network(recipe, model, spec, out, origin=origin, loader=loader, progress=progress)
    return dataclasses.replace(
        trained,
        costs=costs,
        inherited=share,
        untrained=untrained,
        measure_s=measured_s,
        total_s=time.monotonic() - start,
    )


def _with_measured(
    costs: dict[str, float], problem: SearchProblem, config: Config, model: nn.Module, spec: rec.ModelSpec
) -> dict[str, float]:
    """Costs by formula, and those that need the network, as far as the search needs them before it trains.

    Raises:
        Infeasible: it is above the budget.
        UnsupportedError: it cannot be run in the runtime of the search.
    """
    if problem.profile or (config.prune and config.scope == "global"):  # no formula gives these costs
        costs = costs | counted_costs(problem, model)
        problem.check(costs)
    return costs | timed_costs(problem, model, spec)


def published_cost(problem: SearchProblem) -> float | None:
    """The objective of the published network, found as that of a proposal is; None if it is above the budget."""
    config = problem.published
    costs = problem.costs(config)
    try:
        problem.check(costs)
        model, spec, _ = build(problem, config, None, 0)
        return _with_measured(costs, problem, config, model, spec)[problem.metric]
    except (Infeasible, UnsupportedError):
        return None


def go_on(
    problem: SearchProblem,
    earlier: Path,
    budget: TrainingBudget,
    seed: int,
    out: Path,
    *,
    loader: CachedPatchLoader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Train a network further: with its weights, optimizer and average, on a schedule over the whole longer budget.

    Args:
        earlier: weights of the shorter training, with its state beside it.
    """
    info = checkpoint.read_sidecar(earlier)
    model = zoo_build.build(info.model, problem.spatial)
    origin = _initial_weights(dict(info.compression), info.train.get("cases", ())) if info.compression else None
    return train_network(
        problem.recipe(budget, seed),
        model,
        info.model,
        out,
        origin=origin,
        earlier=info,
        loader=loader,
        progress=progress,
    )


def train_network(
    recipe: TrainRecipe,
    model: nn.Module,
    spec: rec.ModelSpec,
    out: Path,
    *,
    origin: InitialWeights | None = None,
    earlier: checkpoint.CheckpointInfo | None = None,
    loader: CachedPatchLoader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Train a network, from the state of an earlier training if it has one, and evaluate it on `val`.

    Its costs are not looked at.
    """
    begin = time.monotonic()
    result = train(
        model,
        spec,
        recipe,
        out=out,
        start=origin,
        progress=progress,
        loader=loader,
        keep_state=True,
        continue_from=earlier.path.with_suffix(checkpoint.STATE) if earlier else None,
    )
    here_s = time.monotonic() - begin
    if not result.validation:
        raise UsageError(f"{spec.name} has no Dice on val: its answers are not finite, or no case can be read")
    before_s = float(earlier.train.get("seconds", 0.0)) if earlier else 0.0
    return Evaluation(
        dice=result.validation[-1][1],
        costs={},
        inherited=float((origin.compression or {}).get("inherited", 0.0)) if origin else 0.0,
        train_s=result.seconds,
        val_s=max(0.0, here_s - (result.seconds - before_s)),
        total_s=here_s,
        steps=result.steps,
        path=out,
    )


def accuracy_on(split: str, problem: SearchProblem, model: nn.Module, spatial: Sequence[int]) -> AccuracyResult:
    """Dice of a network on the cases of a split, in windows of its patch (D, H, W)."""
    return measure_dice(model, data=problem.data, split=split, spatial=spatial, surfaces=False)


def dice_of(accuracy: AccuracyResult) -> float:
    """The mean Dice over regions and cases; 0 if no region of any case counts."""
    return float(accuracy.measurements[0].value or 0.0)


def dice_on_test(problem: SearchProblem, weights: Path) -> dict[str, Any]:
    """Dice on `test` of trained weights: `dice`, `values` and `ids` of the cases."""
    info = checkpoint.read_sidecar(weights)
    model = zoo_build.build_model(str(weights)).eval()
    accuracy = accuracy_on("test", problem, model, info.spatial)
    dice = accuracy.measurements[0]
    return {"dice": dice.value, "values": list(dice.values), "ids": accuracy.cases["ids"]}
