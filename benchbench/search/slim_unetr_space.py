"""Space of Slim UNETR's variants, which are built from their configuration, and may inherit from the published network.

The network to beat is the published one, in the variant that takes the patch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
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
from benchbench.core.errors import CheckpointError, command, data_flags
from benchbench.core.units import format_shape
from benchbench.search import analytic_cost
from benchbench.search import slim_unetr_configs as configs
from benchbench.search.inheritance import Parent, inherit
from benchbench.search.search_space import Chooser, Task
from benchbench.search.slim_unetr_configs import PUBLISHED, VARIANTS, Config
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places
from benchbench.zoo.pruned import differing_shapes, shapes_of

PARENT_BATCHES, CHILD_BATCHES = 16, 4  # for the ranking of channels
LEAST_INHERITED = 0.5  # share of its parameters from which a network inherits at all
_CUTS = ((max(configs.RATIOS), "layer"), (0.0, "layer"), (max(configs.RATIOS), "global"))


class SlimUnetrSpace:
    """See `search_space.SearchSpace`."""

    title = one = "Slim UNETR"
    baseline_title = "the published network"
    inheritance = "whose weights networks of its variant and stem inherit"
    controls = ("scratch", "published", "scaled")
    tries_inherited = True

    @property
    def learning_rate(self) -> float:
        """That of the corrected Slim UNETR's card."""
        rate = zoo_cards.get_card(VARIANTS[-1]).learning_rate
        assert rate is not None  # a card of benchbench itself
        return rate

    # -- configurations

    def suggest(self, trial: Chooser) -> Config:
        """See `slim_unetr_configs.suggest`."""
        return configs.suggest(trial)

    def guesses(self, spatial: Sequence[int]) -> list[dict[str, Any]]:
        """Those that take the patch, but for the published network."""
        fitting = (config for config in configs.starting_points() if config.fits(spatial))
        return [configs.parameters(config) for config in fitting if not self.is_published(config)]

    def from_json(self, plain: Mapping[str, Any]) -> Config:
        """The reverse of `records.to_json`."""
        return configs.from_json(plain)

    def describe(self) -> dict[str, Any]:
        """All choices."""
        return configs.description()

    def published(self, spatial: Sequence[int]) -> Config:
        """In the variant that takes the patch: the corrected one takes any."""
        return PUBLISHED if PUBLISHED.fits(spatial) else configs.published(VARIANTS[-1])

    def published_name(self, spatial: Sequence[int]) -> str:
        """That of its card."""
        return self.published(spatial).variant

    def is_published(self, config: Config) -> bool:
        """In either variant."""
        return config == configs.published(config.variant)

    def text_of(self, config: Config) -> str:
        """`widths 12-24-32-48, depths 1-1-2-1`."""
        return configs.text_of(config)

    # -- costs

    def count(self, config: Config, task: Task) -> dict[str, float]:
        """See `analytic_cost.count`."""
        return analytic_cost.count(config, task.in_channels, task.out_channels, task.spatial)

    def is_exact(self, config: Config) -> bool:
        """But where channels of all layers are ranked together."""
        return not config.prune or config.scope != "global"

    def corners(self, spatial: Sequence[int], *, bound: bool = False) -> Iterator[Config]:
        """Every cost rises with each width, depth and expansion.

        The stem and the sampling raise some costs and lower others, so all their choices are tried. For pruning across
        layers the formulas give lower bounds.
        """
        for variant, stem, sampling, (prune_share, scope) in itertools.product(
            VARIANTS, configs.STEMS, itertools.product(*configs.SAMPLING), _CUTS
        ):
            config = Config(
                variant=variant,
                widths=tuple(min(of) for of in configs.WIDTHS),  # type: ignore[arg-type]
                depths=tuple(min(of) for of in configs.DEPTHS),  # type: ignore[arg-type]
                attention=tuple(min(of) for of in configs.ATTENTION),  # type: ignore[arg-type]
                heads=(1, 1, 1, 1),
                sampling=sampling,
                expansion=(min(configs.EXPANSION),) * 4,
                stem=stem,
                prune=prune_share,
                scope=scope,
            ).canonical()
            if config.fits(spatial) and (bound or config.scope == "layer"):
                yield config

    def by_spec(self, config: Config) -> Config:
        """Not pruned."""
        return dataclasses.replace(config, prune=0.0).canonical()

    # -- networks

    def spec(self, config: Config, task: Task, name: str) -> rec.ModelSpec:
        """Before it is pruned."""
        card = zoo_cards.get_card(config.variant)
        spec = card.spec(in_channels=task.in_channels, out_channels=task.out_channels)
        return dataclasses.replace(spec, kwargs=config.kwargs(), name=name)

    def build(
        self, config: Config, task: Task, parent: Parent | None, seed: int
    ) -> tuple[nn.Module, rec.ModelSpec, float]:
        """Only a network of the parent's variant and stem inherits, and only if half of its parameters fit.

        A few layers that were trained for others help no training, nor do weights of the published attention, whose
        logits are not scaled, in the corrected one: their loss is above that of random weights.
        """
        spec = self.spec(config, task, config.name)
        torch.manual_seed(seed)
        model, share = zoo_build.build(spec, task.spatial), 0.0
        if parent and config.stem == PUBLISHED.stem and type(parent.model) is type(model):
            share = inherit(model, parent)
            if share < LEAST_INHERITED:
                torch.manual_seed(seed)
                model, share = zoo_build.build(spec, task.spatial), 0.0
        if config.prune:
            recipe = PruneRecipe(
                ratio=config.prune,
                criterion=config.criterion,  # type: ignore[arg-type]
                scope=config.scope,  # type: ignore[arg-type]
                seed=seed,
            )
            batches, loss = task.gradients(CHILD_BATCHES) if config.criterion == "taylor" else (None, None)
            pruned = prune(model, (1, task.in_channels, *task.spatial), recipe, batches=batches, loss=loss)
            shapes = differing_shapes(pruned.model, model)
            model = pruned.model
            spec = dataclasses.replace(spec, kwargs={**spec.kwargs, zoo_build.PRUNED_SHAPES: shapes})
        return model, spec, share

    def check_parent(self, weights: Path, task: Task) -> None:
        """See `load_parent`."""
        load_parent(weights, task)

    def parent(self, weights: Path, task: Task) -> Parent:
        """See `load_parent`."""
        info, model = load_parent(weights, task)
        structure = find_structure(model, (1, task.in_channels, *task.spatial))
        scores = importance.taylor(model, structure, *task.gradients(PARENT_BATCHES))
        return Parent(
            model=model,
            structure=structure,
            scores=tuple(scores),
            sha256=info.sha256,
            name=info.model.name,
            cases=tuple(info.train.get("cases", ())),
        )

    # -- the network to beat

    def known_weights(self, task: Task, given: Path | None) -> dict[Path, str]:
        """In either variant and at its own patch: those that come with benchbench, and the given ones."""
        plan, found = data.get_plan(task.data), dict[Path, str]()
        for variant in VARIANTS:
            spec = published_spec(task, variant)
            sides = zoo_build.fitting_sides(spec, task.spatial)
            if path := places.find(spec.name, spec.in_channels, spec.out_channels, sides, plan):
                found[path.resolve()] = "weights that come with benchbench"
        if given:
            found.setdefault(given.resolve(), "weights given by --parent")
        return found

    def how_to_train(self, task: Task) -> str:
        """By the common recipe, at the patch of the search."""
        train = command("train", self.published_name(task.spatial), *data_flags(task.key), "--spatial", *task.spatial)
        return f"{train}; then give its weights by --parent"

    def notes(self, task: Task) -> list[str]:
        """How much of what the published network computes on is padding; nothing where none is."""
        share = PUBLISHED.padding(task.spatial)
        sides = format_shape(PUBLISHED.patch(task.spatial))
        return [f"  the published network takes this patch as {sides}: {share:.0%} of it is padding"] if share else []


def published_spec(of: Task | data.DataPlan, variant: str = VARIANTS[0]) -> rec.ModelSpec:
    """The published network, not pruned, with the channels of a search or a data set."""
    return zoo_cards.get_card(variant).spec(in_channels=of.in_channels, out_channels=of.out_channels)


def bundled_parent(source: str, fold: int | None = None, spatial: tuple[int, ...] | None = None) -> Path:
    """Weights of the published network that come with benchbench, for a data set and a search's patch (D, H, W).

    Raises:
        CheckpointError: there are none.
    """
    plan = data.get_plan(source, fold=fold)
    sides = spatial or plan.patch
    for variant in VARIANTS:
        spec = published_spec(plan, variant)
        if path := places.find(spec.name, spec.in_channels, spec.out_channels, sides, plan):
            return path
    raise CheckpointError(
        f"no weights of the published network come with benchbench for {plan.key} and a patch of "
        f"{format_shape(tuple(sides))}: give --parent a file, train or none"
    )


def is_published_network(info: checkpoint.CheckpointInfo) -> bool:
    """Whether weights are of a Slim UNETR of the published size, whose variants can inherit from it."""
    card = _card_of(info)
    if card is None:
        return False
    whole = card.spec(in_channels=info.model.in_channels, out_channels=info.model.out_channels)
    return not _differing(whole, info.model)


def _card_of(info: checkpoint.CheckpointInfo) -> zoo_cards.Card | None:
    """The card of a Slim UNETR that was not pruned; None: it is another network."""
    cards = [card for card in map(zoo_cards.get_card, VARIANTS) if card.arch == info.model.arch]
    return cards[0] if cards and not info.compression else None


def _differing(whole: rec.ModelSpec, spec: rec.ModelSpec) -> list[str]:
    """Keywords of the published network that another one has otherwise."""
    expected, given = rec.to_json(whole.kwargs), rec.to_json(spec.kwargs)
    return sorted(key for key in expected if key in given and given[key] != expected[key])


def load_parent(weights: Path, task: Task) -> tuple[checkpoint.CheckpointInfo, nn.Module]:
    """A trained Slim UNETR of the published size, in eval mode, that a search can start from.

    Raises:
        CheckpointError: the weights are of another network, size, patch or data set, were trained on test cases, or are
            missing or damaged.
    """
    info = checkpoint.read_sidecar(weights)
    spec, card = info.model, _card_of(info)
    if card is None:
        raise CheckpointError(f"{weights} holds {spec.name!r}, which is no whole {' or '.join(VARIANTS)}")
    theirs = (spec.in_channels, spec.out_channels, tuple(info.spatial))
    if theirs != (task.in_channels, task.out_channels, task.spatial):
        raise CheckpointError(
            f"{weights} is for {theirs[0]} channels in, {theirs[1]} out and a patch of {theirs[2]}, and the search for "
            f"{task.in_channels}, {task.out_channels} and {task.spatial}: train one by "
            f"{command('train', card.name, *data_flags(task.key), '--spatial', *task.spatial)}"
        )
    plan = data.get_plan(task.data)
    if not plan.is_named_by(info.data):
        raise CheckpointError(
            f"{weights} was trained on {info.data.partition(':')[0]}, and the search is of {plan.name}: then nobody "
            "could tell which patients it has seen; give that data"
        )
    if seen := checkpoint.leaks(info, plan):
        raise CheckpointError(f"{weights} was trained with test cases of {plan.name}, such as {seen[0]}")
    whole = card.spec(in_channels=task.in_channels, out_channels=task.out_channels)
    other = _differing(whole, spec)
    model = zoo_build.build(spec, info.spatial).eval()
    if other or shapes_of(model) != shapes_of(zoo_build.build(whole, info.spatial)):
        what = f" (its {', '.join(other)} differ)" if other else ""
        raise CheckpointError(
            f"{weights} holds a {card.name} of another size{what}: the parent of a search is of the published one"
        )
    checkpoint.load_weights(model, info.path)
    return info, model
