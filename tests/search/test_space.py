"""What a network may cost, what can be searched, what it costs by formula, and which points nothing beats."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbench.compress import importance
from benchbench.compress.channel_groups import find_structure, remove
from benchbench.core.errors import UsageError
from benchbench.core.statistics import dominates
from benchbench.measure.flops.graph import measure_cost
from benchbench.search import analytic_cost, slim_unetr_configs
from benchbench.search.budget import parse_budget, parse_limit
from benchbench.search.inheritance import Parent, inherit
from benchbench.search.pareto import hypervolume, ranks
from benchbench.search.search_space import RandomChooser
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards

SIDES = (64, 64, 64)
ODD = (40, 56, 40)  # a patch that only a corrected network, or a stem of 1, takes


# -- the budget


@pytest.mark.parametrize(
    ("text", "metric", "most"),
    [
        ("2GB", "memory_bytes", 2e9),
        ("1.5GiB", "memory_bytes", 1.5 * 2**30),
        ("50ms", "latency_s", 0.05),
        ("2s", "latency_s", 2.0),
        ("1GMACs", "macs", 1e9),
        ("2GFLOPs", "macs", 1e9),
        ("0.5Mparams", "params", 5e5),
        ("5MBfile", "file_bytes", 5e6),
    ],
)
def test_the_unit_says_what_is_meant(text: str, metric: str, most: float) -> None:
    limit = parse_limit(text)
    assert (limit.metric, limit.most) == (metric, pytest.approx(most))


@pytest.mark.parametrize("text", ["2 bananas", "-1GB", "0", "0GB", "GB", "", "1e999GB", "nanMACs", "2GBs"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"budget.*write 2GB"):
        parse_limit(text)


def test_two_budgets_of_one_metric_contradict() -> None:
    with pytest.raises(UsageError, match="'2GB' and '1GiB' are both budgets of the peak memory"):
        parse_budget(["2GB", "1GiB"])
    assert len(parse_budget(["2GB", "50ms"]).limits) == 2


def test_an_excess_says_by_how_much() -> None:
    budget = parse_budget(["1GMACs", "1Mparams"])
    assert budget.excesses({"macs": 1e9, "params": 1e6}) == []
    (over,) = budget.excesses({"macs": 3e9})
    assert str(over) == "MACs of one patch of 3 GMAC is above the budget of 1 GMAC"
    assert budget.use({"macs": 5e8}) == {"1GMACs": 0.5}


# -- the front


points = st.lists(st.tuples(*(st.integers(0, 9).map(float),) * 2), max_size=12)


@given(points)
def test_hypervolume_is_optunas(found: list[tuple[float, float]]) -> None:
    from optuna._hypervolume import compute_hypervolume

    reference = (8.0, 7.0)
    inside = [p for p in found if all(x < r for x, r in zip(p, reference, strict=True))]
    theirs = compute_hypervolume(np.array(inside), np.array(reference)) if inside else 0.0
    assert hypervolume(found, reference) == pytest.approx(theirs)


@given(points)
def test_ranks_peel_fronts(found: list[tuple[float, ...]]) -> None:
    ranked = ranks(found)
    for (p, a), (q, b) in itertools.product(zip(found, ranked, strict=True), repeat=2):
        if dominates(p, q):
            assert a < b
    assert not found or min(ranked) == 0


# -- the space


def some(
    count: int, *, seed: int = 0, pruned: bool | None = None, sides: tuple[int, ...] = SIDES
) -> list[slim_unetr_configs.Config]:
    chooser, found = RandomChooser(seed), []
    while len(found) < count:
        config = slim_unetr_configs.suggest(chooser)
        if config.fits(sides) and (pruned is None or bool(config.prune) == pruned):
            found.append(config)
    return found


def build(config: slim_unetr_configs.Config, sides: tuple[int, ...] = SIDES) -> torch.nn.Module:
    spec = zoo_cards.get_card(config.variant).spec()
    torch.manual_seed(0)
    return zoo_build.build(dataclasses.replace(spec, kwargs=config.kwargs()), sides).eval()


@pytest.mark.parametrize(("variant", "sides"), [("slim_unetr", SIDES), ("slim_unetr_fixed", ODD)])
def test_the_published_network_is_in_it_as_it_ships(variant: str, sides: tuple[int, ...]) -> None:
    card = zoo_cards.get_card(variant)
    plain = zoo_build.build(card.spec(), sides).eval()
    built = build(dataclasses.replace(slim_unetr_configs.PUBLISHED, variant=variant), sides)
    built.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, *sides)
    with torch.no_grad():
        assert torch.equal(built(x), plain(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_suggested_fits_or_says_that_it_does_not(seed: int) -> None:
    config = slim_unetr_configs.suggest(RandomChooser(seed))
    again = slim_unetr_configs.suggest(_Replay(slim_unetr_configs.parameters(config)))
    assert again == config
    if config.fits(SIDES):
        with torch.device("meta"):
            zoo_build.build(
                dataclasses.replace(zoo_cards.get_card(config.variant).spec(), kwargs=config.kwargs()), SIDES
            )


class _Replay:
    def __init__(self, chosen: dict[str, object]) -> None:
        self.chosen = chosen

    def suggest_categorical(self, name: str, choices: list[object]) -> object:
        assert self.chosen[name] in choices
        return self.chosen[name]


def test_what_builds_the_same_is_one() -> None:
    plain = slim_unetr_configs.Config()
    assert plain.key == dataclasses.replace(plain, criterion="taylor", scope="global").key
    assert plain.key != dataclasses.replace(plain, stem=8).key


@pytest.mark.parametrize("sides", [SIDES, ODD, (128, 128, 128)])
def test_the_first_proposals_are_few_and_a_fine_stem_comes_first(sides: tuple[int, ...]) -> None:
    points = list(slim_unetr_configs.starting_points())
    assert len({point.key for point in points}) == len(points) <= 8
    assert slim_unetr_configs.PUBLISHED in points
    fitting = [point for point in points if point.fits(sides)]
    assert fitting[0] == slim_unetr_configs.FINE
    assert {point.stem for point in fitting} == {1, 2, 4}
    assert all(slim_unetr_configs.suggest(_Replay(slim_unetr_configs.parameters(point))) == point for point in points)


def test_the_network_with_a_fine_stem_has_few_parameters_and_pads_nothing() -> None:
    counted = analytic_cost.count(slim_unetr_configs.FINE, 1, 3, ODD)
    assert counted["params"] == pytest.approx(304e3, rel=0.01)
    assert counted["macs"] < 300e6
    assert slim_unetr_configs.FINE.padding(ODD) == 0


def test_a_choice_of_cells_means_no_more_tokens_with_a_fine_stem() -> None:
    """Nor are the kernels that spread the attention's output larger: they have a parameter for each voxel of a cell."""
    for stem in slim_unetr_configs.STEMS:
        assert all(max(of) <= 8 for of in slim_unetr_configs.samplings(stem))
    for config in some(60, sides=ODD) + some(60, seed=1, sides=(128, 128, 128)):
        sides = ODD if config.fits(ODD) else (128, 128, 128)
        assert max(config.tokens(sides)) <= slim_unetr_configs.MOST_TOKENS
    fine = dataclasses.replace(slim_unetr_configs.FINE, stem=1)  # cells of 4 voxels
    assert not fine.fits(ODD)
    assert dataclasses.replace(fine, sampling=(8, 4, 2, 1)).fits(ODD)
    large = dataclasses.replace(slim_unetr_configs.FINE, sampling=(4, 2, 1, 1))
    assert large.fits((128, 128, 128))
    assert not large.fits((160, 160, 160))


@pytest.mark.parametrize("stem", slim_unetr_configs.STEMS)
def test_the_space_of_each_stem_has_its_cost_bounded(stem: int) -> None:
    """As a multiple of the published MACs on a patch that needs no padding."""
    widest = dataclasses.replace(
        slim_unetr_configs.PUBLISHED,
        stem=stem,
        sampling=tuple(min(of) for of in slim_unetr_configs.samplings(stem)),
        variant="slim_unetr_fixed",
    )
    again = slim_unetr_configs.suggest(_Replay(slim_unetr_configs.parameters(widest)))
    most = analytic_cost.count(again, 4, 3, (128, 128, 128))["macs"]
    published = analytic_cost.count(slim_unetr_configs.PUBLISHED, 4, 3, (128, 128, 128))["macs"]
    assert most / published < {1: 30, 2: 15, 4: 5, 8: 1}[stem]


def test_what_is_no_multiple_of_the_strides_is_for_the_corrected_network() -> None:
    assert not slim_unetr_configs.PUBLISHED.fits(ODD)
    assert slim_unetr_configs.PUBLISHED.patch(ODD) == (64, 64, 64)
    assert slim_unetr_configs.PUBLISHED.padding(ODD) == pytest.approx(1 - math.prod(ODD) / 64**3)
    assert slim_unetr_configs.CORRECTED.fits(ODD)
    assert slim_unetr_configs.CORRECTED.patch(ODD) == ODD
    assert slim_unetr_configs.CORRECTED.padding(ODD) == slim_unetr_configs.PUBLISHED.padding(ODD)
    narrower = slim_unetr_configs.scaled(0.75, "slim_unetr_fixed")
    assert narrower.padding(ODD) == 0
    assert narrower.padding((39, 56, 40)) == pytest.approx(1 / 40)
    wide = analytic_cost.count(narrower, 1, 3, (64, 64, 64))["macs"]
    assert analytic_cost.count(narrower, 1, 3, ODD)["macs"] < wide / 2


COSTS = [
    *((config, SIDES) for config in some(6, pruned=False)),
    *((config, ODD) for config in some(8, pruned=False, sides=ODD)),
    (slim_unetr_configs.CORRECTED, ODD),  # pads to 64x64x64
]


@pytest.mark.parametrize(
    ("config", "sides"), COSTS, ids=lambda c: c.key[:6] if isinstance(c, slim_unetr_configs.Config) else ""
)
def test_costs_by_formula_are_those_of_the_network(config: slim_unetr_configs.Config, sides: tuple[int, ...]) -> None:
    counted = measure_cost(build(config, sides), (1, 4, *sides))
    found = analytic_cost.count(config, 4, 3, sides)
    assert (found["params"], found["macs"]) == (counted.params, counted.macs)
    assert 0.6 * counted.tensor_memory_bytes < found["tensor_bytes"] <= counted.tensor_memory_bytes


PRUNED = [(config, SIDES) for config in some(4, seed=1, pruned=True)] + [
    (config, ODD) for config in some(4, seed=2, pruned=True, sides=ODD)
]


@pytest.mark.parametrize(
    ("config", "sides"),
    PRUNED,
    ids=lambda c: f"{c.scope}-{c.key[:6]}" if isinstance(c, slim_unetr_configs.Config) else "",
)
def test_costs_of_what_is_pruned_are_exact_or_a_bound(
    config: slim_unetr_configs.Config, sides: tuple[int, ...]
) -> None:
    model = build(config, sides)
    structure = find_structure(model, (1, 4, *sides))
    scores = importance.magnitude(model, structure)
    removed = importance.choose(structure, scores, config.prune, scope=config.scope)  # type: ignore[arg-type]
    counted = measure_cost(remove(model, structure, removed), (1, 4, *sides))
    found = analytic_cost.count(config, 4, 3, sides)
    if config.scope == "layer":
        assert (found["params"], found["macs"]) == (counted.params, counted.macs)
    assert found["params"] <= counted.params
    assert found["macs"] <= counted.macs
    assert found["tensor_bytes"] <= counted.tensor_memory_bytes


# -- inheritance


@pytest.fixture(scope="module")
def parent() -> Parent:
    model = build(slim_unetr_configs.PUBLISHED)
    structure = find_structure(model, (1, 4, *SIDES))
    return Parent(
        model=model, structure=structure, scores=tuple(importance.magnitude(model, structure)), sha256="parent"
    )


def test_a_child_of_equal_shape_answers_as_its_parent(parent: Parent) -> None:
    child = build(slim_unetr_configs.PUBLISHED)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    assert inherit(child, parent) == 1.0
    x = torch.randn(1, 4, *SIDES)
    with torch.no_grad():
        assert torch.equal(child(x), parent.model(x))


def test_a_narrower_child_has_the_channels_that_matter(parent: Parent) -> None:
    child = build(slim_unetr_configs.scaled(0.5))
    assert inherit(child, parent) > 0.9  # all but the last stage, which reads tokens as channels
    (layer, scores) = next(
        (layer, scores)
        for layer, scores in zip(parent.structure.layers, parent.scores, strict=True)
        if any(place.name == "downs.0.conv.weight" and place.axis == 0 for place in layer.channels[0])
    )
    kept = sorted(np.argsort(scores, kind="stable")[-12:].tolist())
    rows = [
        next(p.index for p in layer.channels[number] if p.name == "downs.0.conv.weight" and p.axis == 0)
        for number in kept
    ]
    assert torch.equal(child.downs[0].conv.weight, parent.model.downs[0].conv.weight[sorted(rows)])


def test_what_has_another_shape_begins_at_random(parent: Parent) -> None:
    child = build(dataclasses.replace(slim_unetr_configs.PUBLISHED, stem=8))
    before = child.downs[0].conv.weight.clone()
    assert 0.5 < inherit(child, parent) < 1.0
    assert torch.equal(child.downs[0].conv.weight, before)
    assert torch.equal(child.encoder[0][0].mlp1[0].weight, parent.model.encoder[0][0].mlp1[0].weight)
