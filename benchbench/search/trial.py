"""Trial of one configuration: built, given its parent's weights, trained for a short time, and evaluated on `val`.

Fidelities differ only in their training budget. Costs are first computed by formula; what a formula cannot give (exact
memory, latency, the result of pruning across layers) is checked on the built network, before any training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchbench import data
from benchbench.compress import importance
from benchbench.compress.channel_groups import find_structure
from benchbench.compress.prune import prune
from benchbench.compress.request import Criterion, PruneRecipe
from benchbench.core import records as rec
from benchbench.core.cache import BoundedCache
from benchbench.core.errors import CheckpointError, UsageError, command, data_flags
from benchbench.runtimes.catalogue import get_runtime
from benchbench.search import space
from benchbench.search.inheritance import Parent, inherit
from benchbench.search.problem import SearchProblem, counted_costs, spec_of, timed_costs
from benchbench.search.space import Config
from benchbench.training.loop import InitialWeights, Progress, train
from benchbench.training.patch_loader import CachedPatchLoader, PatchLoader, prepared_plan
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.pruned import differing_shapes, shapes_of

PARENT_BATCHES, CHILD_BATCHES = 16, 4  # for the ranking of channels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of a trial."""

    dice: float  # on `val`
    costs: Mapping[str, float]  # params, macs, file_bytes, memory_bytes (lower bound), latency_s (of a few forwards)
    inherited: float  # share of its parameters
    train_s: float  # evaluation on `val` included
    measure_s: float  # counting and timing
    total_s: float
    steps: int
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
        raise CheckpointError(
            f"{weights} holds {spec.name!r}: the parent of a search is a whole {' or '.join(space.VARIANTS)}"
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


def with_random_ranking(parent: Parent, seed: int) -> Parent:
    """The same parent with random importance of channels, as the control of its ranking."""
    return dataclasses.replace(parent, scores=tuple(importance.random(parent.structure, seed)))


def build(
    problem: SearchProblem,
    config: Config,
    parent: Parent | None,
    seed: int,
    *,
    criterion: Criterion | None = None,
) -> tuple[nn.Module, rec.ModelSpec, float]:
    """The network of a configuration, its spec, and the share of its parameters that is inherited.

    Args:
        parent: whose weights it gets; None: all are random.
        criterion: that it is pruned by; None: the configuration's own.
    """
    spec = spec_of(problem, config, name_of(config))
    torch.manual_seed(seed)
    model = zoo_build.build(spec, problem.spatial)
    share = inherit(model, parent) if parent else 0.0
    if config.prune:
        how = criterion or config.criterion
        recipe = PruneRecipe(
            ratio=config.prune,
            criterion=how,  # type: ignore[arg-type]
            scope=config.scope,  # type: ignore[arg-type]
            seed=seed,
        )
        batches, loss = problem.gradients(CHILD_BATCHES) if how == "taylor" else (None, None)
        pruned = prune(model, (1, problem.in_channels, *problem.spatial), recipe, batches=batches, loss=loss)
        shapes = differing_shapes(pruned.model, model)
        model = pruned.model
        spec = dataclasses.replace(spec, kwargs={**spec.kwargs, zoo_build.PRUNED_SHAPES: shapes})
    return model, spec, share


def name_of(config: Config) -> str:
    """Name of the network of a configuration."""
    return f"{config.variant}-{config.key[:6]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a configuration is trained."""

    budget: TrainingBudget
    seed: int
    spec: rec.ModelSpec | None = None  # of a network to train from scratch; None: it is made from the configuration
    criterion: Criterion | None = None  # of pruning; None: that of the configuration
    loader: CachedPatchLoader | None = None  # of batches that other trials use, too
    teacher: nn.Module | None = None  # the parent with cached outputs for them; None: the parent itself


class CachedTeacher(nn.Module):
    """A network in eval mode on the CPU whose outputs are cached by input, up to `most_bytes`."""

    def __init__(self, model: nn.Module, *, most_bytes: float) -> None:
        super().__init__()
        self.model = model
        self._outputs: BoundedCache[bytes, torch.Tensor] = BoundedCache(
            most_bytes=most_bytes, size=lambda output: output.nbytes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of the network, without further outputs."""
        key = hashlib.blake2b(x.detach().contiguous().numpy().tobytes(), digest_size=16).digest()
        return self._outputs.get(key, lambda: zoo_logits.logits(self.model(x), x.shape[2:]))


def shared_trial(
    problem: SearchProblem, parent: Parent, budget: TrainingBudget, seed: int, *, most_bytes: float
) -> Trial:
    """A trial whose batches, and the parent's outputs for them, are cached for other configurations.

    Args:
        most_bytes: of batches, and as many of outputs; end the loader afterwards.
    """
    recipe = problem.recipe(budget, seed)
    loader = CachedPatchLoader(PatchLoader(prepared_plan(recipe.data), recipe), most_bytes=most_bytes)
    return Trial(budget=budget, seed=seed, loader=loader, teacher=CachedTeacher(parent.model, most_bytes=most_bytes))


def evaluate(
    problem: SearchProblem,
    config: Config,
    parent: Parent | None,
    trial: Trial,
    out: Path,
    progress: Progress | None = None,
) -> Evaluation:
    """Train a configuration and evaluate it on `val`.

    Args:
        parent: whose weights it begins with, and which is its teacher; None: neither.
        out: `<name>.safetensors`, of its weights.

    Raises:
        Infeasible: it is above the budget; nothing was trained.
        UnsupportedError: it cannot be run in the runtime of the search; nothing was trained.
        UsageError: it has no Dice on `val`.
    """
    start = time.monotonic()
    problem.check(problem.costs(config))
    if trial.spec:
        torch.manual_seed(trial.seed)
        model, spec, share = zoo_build.build(trial.spec, problem.spatial), trial.spec, 0.0
    else:
        model, spec, share = build(problem, config, parent, trial.seed, criterion=trial.criterion)
    built = time.monotonic()
    costs = counted_costs(problem, model)
    problem.check(costs)
    limited = problem.times_count and any(limit.metric == "latency_s" for limit in problem.budget.limits)
    if limited or problem.is_timed_in_worker:  # nor is a network trained that its runtime cannot take
        if progress and problem.is_timed_in_worker:
            progress(0.0, f"timing it in {get_runtime(problem.runtime).title}")
        times = timed_costs(problem, model, spec, quick=True)
        if limited:
            problem.check(times)
    measured_s = time.monotonic() - built
    distil = problem.distil if parent else 0.0
    weights = None
    if parent:
        compression: dict[str, Any] = {
            "root": config.variant,
            "parent": parent.name,
            "parent_sha256": parent.sha256,
            "inherited": round(share, 4),
            "search": rec.to_json(config),
        }
        weights = InitialWeights(
            digest=f"{parent.sha256}:{config.key}:{trial.criterion}",
            cases=parent.cases,
            compression=compression,
            teacher=(trial.teacher or parent.model) if distil else None,
        )
    recipe = problem.recipe(trial.budget, trial.seed, distil=distil)
    begin = time.monotonic()
    result = train(model, spec, recipe, out=out, start=weights, progress=progress, loader=trial.loader)
    end = time.monotonic()
    train_s = max(end - begin, result.seconds)  # the latter includes interrupted trainings before
    if not result.validation:
        raise UsageError(f"{spec.name} has no Dice on val: its answers are not finite, or no case can be read")
    costs = costs | timed_costs(problem, model, spec)
    measured_s += time.monotonic() - end
    return Evaluation(
        dice=result.validation[-1][1],
        costs=costs,
        inherited=share,
        train_s=train_s,
        measure_s=measured_s,
        total_s=time.monotonic() - start,
        steps=result.steps,
        path=out,
    )
