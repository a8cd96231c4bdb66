"""Trial of one configuration: built, given its parent's weights, trained a little, and judged on `val`.

Fidelities differ in their budget of training alone. What a configuration costs is known before it is built, by formula;
what the formula cannot know (the exact memory, the latency, what a cut across layers leaves) is looked at when it is
built, so nothing is ever trained that the budget refuses.
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
from benchbench.search import space
from benchbench.search.inheritance import Parent, inherit
from benchbench.search.problem import SearchProblem, count, measure_in_passing, spec_of
from benchbench.search.space import Config
from benchbench.training.loop import InitialWeights, Progress, readable_plan, train
from benchbench.training.patch_loader import CachedPatchLoader, PatchLoader
from benchbench.training.recipe import TrainingBudget as TrainBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo import logits as zoo_logits
from benchbench.zoo.pruned import differing_shapes, shapes_of

PARENT_BATCHES, CHILD_BATCHES = 16, 4  # that channels are ranked by


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of a configuration."""

    dice: float  # on `val`
    costs: Mapping[str, float]  # params, macs, file_bytes, memory_bytes (at least), latency_s (in passing)
    inherited: float  # share of its parameters
    train_s: float  # with looking at `val`
    measure_s: float  # counting and timing
    total_s: float
    steps: int
    path: Path  # of its weights


def check_parent(weights: Path, task: SearchProblem) -> checkpoint.CheckpointInfo:
    """What is said beside weights that a search is to start from.

    Args:
        weights: of a Slim UNETR of the published size for the task's patch and channels.

    Raises:
        CheckpointError: they are of another network, for other data, or of test cases.
    """
    info = checkpoint.read_sidecar(weights)
    spec = info.model
    names = [name for name in space.VARIANTS if zoo_cards.get_card(name).arch == spec.arch]
    if not names or info.compression:
        raise CheckpointError(
            f"{weights} holds {spec.name!r}: the parent of a search is a whole {' or '.join(space.VARIANTS)}"
        )
    theirs = (spec.in_channels, spec.out_channels, tuple(info.spatial))
    if theirs != (task.in_channels, task.out_channels, task.spatial):
        raise CheckpointError(
            f"{weights} is for {theirs[0]} channels in, {theirs[1]} out and a patch of {theirs[2]}, and the search for "
            f"{task.in_channels}, {task.out_channels} and {task.spatial}: train one by "
            f"{command('train', names[0], *data_flags(task.key), '--spatial', *task.spatial)}"
        )
    plan = data.get_plan(task.data)
    if not plan.is_named_by(info.data):
        raise CheckpointError(
            f"{weights} was trained on {info.data.partition(':')[0]}, and the search is of {plan.name}: then nobody "
            "could tell which patients it has seen; give that data"
        )
    if seen := checkpoint.leaks(info, plan):
        raise CheckpointError(f"{weights} was trained with test cases of {plan.name}, such as {seen[0]}")
    return info


def load_parent(weights: Path, task: SearchProblem) -> tuple[checkpoint.CheckpointInfo, nn.Module]:
    """A trained network that a search can start from: of the published size, with its weights.

    Args:
        weights: of a Slim UNETR of the published size for the task's patch and channels.

    Raises:
        CheckpointError: they are of another network or another size, for other data, or of test cases; or they are
            missing or damaged.
    """
    info = check_parent(weights, task)
    spec = info.model
    card = next(zoo_cards.get_card(name) for name in space.VARIANTS if zoo_cards.get_card(name).arch == spec.arch)
    whole = card.spec(in_channels=task.in_channels, out_channels=task.out_channels)
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


def parent_of(weights: Path, task: SearchProblem) -> Parent:
    """A trained network, and how much each of its channels matters.

    Args:
        weights: of a Slim UNETR of the published size for the task's patch and channels.

    Raises:
        CheckpointError: they are of another network, for other data, or of test cases.
    """
    info, model = load_parent(weights, task)
    spec = info.model
    structure = find_structure(model, (1, task.in_channels, *task.spatial))
    scores = importance.taylor(model, structure, *task.gradients(PARENT_BATCHES))
    return Parent(
        model=model,
        structure=structure,
        scores=tuple(scores),
        sha256=info.sha256,
        name=spec.name,
        cases=tuple(info.train.get("cases", ())),
    )


def without_ranking(parent: Parent, seed: int) -> Parent:
    """The same parent with channels that matter by chance: the control of its ranking."""
    scores = importance.random(parent.structure, seed)
    return dataclasses.replace(parent, scores=tuple(scores))


def build(
    task: SearchProblem,
    config: Config,
    parent: Parent | None,
    seed: int,
    *,
    criterion: Criterion | None = None,
) -> tuple[nn.Module, rec.ModelSpec, float]:
    """The network of a configuration, its spec, and the share of its parameters that it has inherited.

    Args:
        config: within the budget.
        parent: whose weights it gets; None: it begins at random.
        seed: of what begins at random.
        criterion: that it is pruned by; None: the configuration's own.

    Raises:
        Infeasible: it turns out to be above the budget; nothing was trained.
    """
    spec = spec_of(task, config, name_of(config))
    torch.manual_seed(seed)
    model = zoo_build.build(spec, task.spatial)
    share = inherit(model, parent) if parent else 0.0
    if config.prune:
        how = criterion or config.criterion
        recipe = PruneRecipe(
            ratio=config.prune,
            criterion=how,  # type: ignore[arg-type]
            scope=config.scope,  # type: ignore[arg-type]
            seed=seed,
        )
        batches, loss = task.gradients(CHILD_BATCHES) if how == "taylor" else (None, None)
        pruned = prune(model, (1, task.in_channels, *task.spatial), recipe, batches=batches, loss=loss)
        shapes = differing_shapes(pruned.model, model)
        model = pruned.model
        spec = dataclasses.replace(spec, kwargs={**spec.kwargs, zoo_build.PRUNED_SHAPES: shapes})
    return model, spec, share


def name_of(config: Config) -> str:
    """What its network is called."""
    return f"{config.variant}-{config.key[:6]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a configuration is tried."""

    budget: TrainBudget
    seed: int
    spec: rec.ModelSpec | None = None  # of a network to train from scratch; None: it is made from the configuration
    criterion: Criterion | None = None  # that it is pruned by; None: its own
    loader: CachedPatchLoader | None = None  # of batches that other trials see, too
    teacher: nn.Module | None = None  # the parent, where it remembers its answers to them


class CachedTeacher(nn.Module):
    """A network that answers what it was asked before from memory."""

    def __init__(self, model: nn.Module, *, most_bytes: float) -> None:
        """Nothing is remembered yet.

        Args:
            model: in eval mode, on the CPU; its weights stay as they are.
            most_bytes: of answers that are remembered.
        """
        super().__init__()
        self.model = model
        self._known: BoundedCache[bytes, torch.Tensor] = BoundedCache(
            most_bytes=most_bytes, size=lambda answer: answer.nbytes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the network's own; its first output alone."""
        key = hashlib.blake2b(x.detach().contiguous().numpy().tobytes(), digest_size=16).digest()
        return self._known.get(key, lambda: zoo_logits.logits(self.model(x), x.shape[2:]))


def sharing(task: SearchProblem, parent: Parent, budget: TrainBudget, seed: int, *, most_bytes: float) -> Trial:
    """How to try one configuration after another on the same batches: they, and the parent's answers, are made once.

    Args:
        budget: of a training; with another one the same batches do.
        most_bytes: of batches that are kept, and of answers as many; end the loader when it is done with.
    """
    recipe = task.recipe(budget, seed)
    loader = CachedPatchLoader(PatchLoader(readable_plan(recipe), recipe), most_bytes=most_bytes)
    return Trial(budget=budget, seed=seed, loader=loader, teacher=CachedTeacher(parent.model, most_bytes=most_bytes))


def evaluate(
    task: SearchProblem,
    config: Config,
    parent: Parent | None,
    trial: Trial,
    out: Path,
    progress: Progress | None = None,
) -> Evaluation:
    """Train a configuration and judge it.

    Args:
        parent: whose weights it begins with, and whose answers it learns; None: neither.
        out: `<name>.safetensors`, of its weights.

    Raises:
        Infeasible: the budget refuses it; nothing was trained.
    """
    start = time.monotonic()
    task.check(task.costs(config))
    if trial.spec:
        torch.manual_seed(trial.seed)
        model, spec, share = zoo_build.build(trial.spec, task.spatial), trial.spec, 0.0
    else:
        model, spec, share = build(task, config, parent, trial.seed, criterion=trial.criterion)
    looked = time.monotonic()
    costs = count(task, model)
    task.check(costs)
    if task.times_count and any(limit.metric == "latency_s" for limit in task.budget.limits):
        task.check(measure_in_passing(task, model, quick=True))
    measured_s = time.monotonic() - looked
    taught = task.distil if parent else 0.0
    begun = None
    if parent:
        done: dict[str, Any] = {
            "root": config.variant,
            "parent": parent.name,
            "parent_sha256": parent.sha256,
            "inherited": round(share, 4),
            "search": rec.to_json(config),
        }
        begun = InitialWeights(
            digest=f"{parent.sha256}:{config.key}:{trial.criterion}",
            cases=parent.cases,
            compression=done,
            teacher=(trial.teacher or parent.model) if taught else None,
        )
    recipe = task.recipe(trial.budget, trial.seed, distil=taught)
    trained = time.monotonic()
    result = train(model, spec, recipe, out=out, start=begun, progress=progress, loader=trial.loader)
    looked = time.monotonic()
    train_s = max(looked - trained, result.seconds)  # the latter has earlier sittings
    if not result.validation:
        raise UsageError(f"{spec.name} has no Dice on val: its answers are not finite, or no case can be read")
    costs = costs | measure_in_passing(task, model)
    measured_s += time.monotonic() - looked
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
