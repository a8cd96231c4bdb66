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

from torch import nn

from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError, UsageError
from benchbench.runtimes.catalogue import get_runtime
from benchbench.search.inheritance import Parent
from benchbench.search.problem import Infeasible, SearchProblem, counted_costs, timed_costs
from benchbench.search.search_space import Candidate
from benchbench.training.evaluate import AccuracyResult, measure_dice
from benchbench.training.loop import InitialWeights, Progress, train
from benchbench.training.patch_loader import CachedPatchLoader, PatchLoader, prepared_plan
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

#: By how much the untrained Dice of a network with inherited weights is too low to train it, given its costs; else 0.
Hopeless = Callable[[float, Mapping[str, float]], float]


#: Times the network to beat, above which a proposal is not trained: of the objective; and of MACs, by which a time or
#: an energy is known before it is measured.
_FAR, _FAR_MACS = 2.0, 4.0
_OF_ARITHMETIC = ("latency_s", "energy_j", "macs")


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


def parent_of(weights: Path, problem: SearchProblem) -> Parent:
    """A trained network with the importance of each of its channels; see `SearchSpace.parent`."""
    return problem.space.parent(weights, problem)


def build(
    problem: SearchProblem, config: Candidate, parent: Parent | None, seed: int
) -> tuple[nn.Module, rec.ModelSpec, float]:
    """The network of a configuration, its spec, and the share of its parameters that is inherited."""
    return problem.space.build(config, problem, parent, seed)


def origin_of(config: Candidate, parent: Parent, share: float) -> InitialWeights:
    """Where the weights of a network come from that inherits a share of its parameters."""
    plain = rec.to_json(config)
    compression = {
        "root": parent.root or plain["variant"],
        "parent": parent.name,
        "parent_sha256": parent.sha256,
        "inherited": round(share, 4),
        "search": plain,
    }
    return _initial_weights(compression, config, parent.cases, parent.imported)


def _initial_weights(
    compression: Mapping[str, Any], config: Candidate, cases: Sequence[str], imported: Mapping[str, Any] | None
) -> InitialWeights:
    """Initial weights as the sidecar of their network says; `cases`: that the parent was trained on."""
    digest = f"{compression['parent_sha256']}:{config.key}"
    return InitialWeights(digest=digest, cases=tuple(cases), imported=imported, compression=compression)


def shared_loader(problem: SearchProblem, budget: TrainingBudget, seed: int, *, most_bytes: float) -> CachedPatchLoader:
    """A loader whose batches are cached for the trainings of several configurations; end it afterwards."""
    recipe = problem.recipe(budget, seed)
    return CachedPatchLoader(PatchLoader(prepared_plan(recipe.data), recipe), most_bytes=most_bytes)


def evaluate(
    problem: SearchProblem,
    config: Candidate,
    parent: Parent | None,
    budget: TrainingBudget,
    seed: int,
    out: Path,
    *,
    to_beat: float | None = None,
    hopeless: Hopeless | None = None,
    loader: CachedPatchLoader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a new configuration, train it, and evaluate it on `val`.

    Args:
        parent: that it inherits from, if it fits.
        out: `<name>.safetensors`, of its weights; beside it is `<name>.state`, from which its training goes on.
        to_beat: objective of the network to beat; what costs far more is not trained. None: whatever costs it has.
        hopeless: asked before a network with inherited weights is trained, with their Dice; None: none is measured.
        loader: of batches that other configurations use, too.

    Raises:
        Infeasible: it is above the budget, costs far more than the network to beat, or is hopeless; nothing was
            trained.
        UnsupportedError: it cannot be run in the runtime of the search; nothing was trained.
        UsageError: it has no Dice on `val`.
    """
    start = time.monotonic()
    costs = problem.costs(config)
    problem.check(costs)
    if to_beat is not None and problem.metric in _OF_ARITHMETIC:  # before it is timed, which takes seconds
        _check_far(costs["macs"], _FAR_MACS * problem.costs(problem.published)["macs"])
    model, spec, share = build(problem, config, parent, seed)
    built = time.monotonic()
    if progress and problem.is_timed_in_worker:
        progress(0.0, f"timing it in {get_runtime(problem.runtime).title}")
    costs = _with_measured(costs, problem, config, model, spec)
    if to_beat is not None:
        _check_far(costs[problem.metric], _FAR * to_beat)
    untrained, origin = None, None
    if parent and share:
        origin = origin_of(config, parent, share)
    if origin and hopeless:
        untrained = dice_of(accuracy_on("val", problem, model, problem.spatial))
        if gap := hopeless(untrained, costs):
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


def _check_far(cost: float, most: float) -> None:
    """Refuse what costs so much more than the network to beat that a search for cheaper ones should not train it."""
    if cost > most:
        raise Infeasible(
            {"far above the network to beat": cost / most - 1}, "it costs far more than the network to beat"
        )


def _with_measured(
    costs: dict[str, float], problem: SearchProblem, config: Candidate, model: nn.Module, spec: rec.ModelSpec
) -> dict[str, float]:
    """Costs by formula, and those that need the network, as far as the search needs them before it trains.

    Raises:
        Infeasible: it is above the budget.
        UnsupportedError: it cannot be run in the runtime of the search.
    """
    if problem.profile or not problem.space.is_exact(config):  # no formula gives these costs
        costs = costs | counted_costs(problem, model)
        problem.check(costs)
    return costs | timed_costs(problem, model, spec)


def published_cost(problem: SearchProblem) -> float | None:
    """The objective of the network to beat, found as that of a proposal is; None if it is above the budget."""
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
    origin = None
    if info.compression:
        config = problem.space.from_json(info.compression["search"])
        cases = info.train.get("cases", ())
        origin = _initial_weights(dict(info.compression), config, cases, info.imported)
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
