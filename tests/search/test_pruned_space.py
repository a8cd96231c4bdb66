"""A search of a parent's smaller versions: what they are, what they cost by formula, what is refused, what is left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import benchbench
from benchbench import data
from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, StoreError, UsageError
from benchbench.measure.flops.by_weight import costs_by_weight
from benchbench.measure.flops.graph import measure_cost
from benchbench.report import render_search
from benchbench.search import export as search_export
from benchbench.search import finish as search_finish
from benchbench.search import measuring as search_measuring
from benchbench.search import parent_to_prune, proposals
from benchbench.search.budget import parse_budget
from benchbench.search.inheritance import Parent
from benchbench.search.parent_channels import ParentChannels, find_channels, read_channels, write_channels
from benchbench.search.problem import SearchProblem
from benchbench.search.pruned_space import SHARES, PrunedConfig, PrunedSpace
from benchbench.search.request import SearchRequest
from benchbench.search.search_space import RandomChooser
from benchbench.search.slim_unetr_space import is_published_network
from benchbench.training.evaluate import measure_dice
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places
from benchbench.zoo.pruned import shapes_of
from tests.data_sets import decathlon
from tests.forked import fork_workers
from tests.search.quick_machine import quicken

SIDES = (32, 32, 32)
SHAPE = (1, 1, *SIDES)
FILTERS = (8, 12, 16)


def spec(filters: tuple[int, ...] = FILTERS, in_channels: int = 1) -> rec.ModelSpec:
    """A small nnU-Net, whose blocks have several names."""
    card = zoo_cards.get_card("nnunet_small").spec(in_channels=in_channels, out_channels=3)
    kwargs = {"filters": list(filters), "strides": [1] + [2] * (len(filters) - 1), "kernel_size": 3}
    return dataclasses.replace(card, name="small", kwargs=kwargs)


def write(path: Path, model: rec.ModelSpec, plan: data.DataPlan | None = None, **train: object) -> Path:
    """Weights that somebody has trained, as their description says."""
    torch.manual_seed(0)
    state = zoo_build.build(model, SIDES).state_dict()
    key = plan.weights_key if plan else "x"
    cases = {"cases": list(plan.ids["train"]) if plan else [], "seconds": 60.0}
    checkpoint.save(path, state, model=model, data=key, spatial=SIDES, train=cases | train, plan=plan)
    return path


def squares(logits: Tensor, target: Tensor) -> Tensor:
    return (logits - target).square().mean()


def batches() -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(*SHAPE, generator=random), torch.randn(1, 3, *SIDES, generator=random))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parent") / "small.safetensors", spec())


def network(weights: Path) -> nn.Module:
    info = checkpoint.read_sidecar(weights)
    model = zoo_build.build(info.model, SIDES).eval()
    checkpoint.load_weights(model, info.path)
    return model


@pytest.fixture(scope="module")
def channels(weights: Path) -> ParentChannels:
    return find_channels(network(weights), checkpoint.read_sidecar(weights), batches(), squares)


def problem(**changes: object) -> SearchProblem:
    plain = {"data": "x", "key": "x", "spatial": SIDES, "in_channels": 1, "out_channels": 3, "budget": parse_budget([])}
    return SearchProblem(**(plain | changes))  # type: ignore[arg-type]


def some(space: PrunedSpace, count: int) -> list[PrunedConfig]:
    chooser = RandomChooser(0)
    return [space.suggest(chooser) for _ in range(count)]


# -- the space


def test_levels_are_those_of_the_network(channels: ParentChannels) -> None:
    assert channels.levels == (32**3, 16**3, 8**3)
    widths = {level: set(channels.widths(level)) for level in range(3)}
    assert widths == {0: {8}, 1: {12}, 2: {16}}
    assert channels.structure.width == sum(layer.width for layer in channels.structure.layers)


def test_costs_by_formula_are_those_of_the_network(channels: ParentChannels, weights: Path) -> None:
    space, task = PrunedSpace(channels), problem()
    parent = Parent(model=network(weights), structure=channels.structure, scores=channels.scores, sha256="0" * 64)
    for config in [*some(space, 4), space.published(SIDES), *space.corners(SIDES)]:
        model, described, share = space.build(config, task, parent, 0)
        assert share == 1.0
        counted, by_formula = measure_cost(model, SHAPE), space.count(config, task)
        assert by_formula["params"] == counted.params
        assert by_formula["macs"] == pytest.approx(counted.macs, rel=1e-9)
        assert by_formula["file_bytes"] == 4 * (counted.params + counted.buffer_elements)
        assert by_formula["tensor_bytes"] <= counted.tensor_memory_bytes
        assert shapes_of(zoo_build.build(described, SIDES)) == shapes_of(model)


class _Attention(nn.Module):
    """Products of activations beside layers with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(1, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        tokens = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.out(tokens).transpose(1, 2).reshape(x.shape[0], 3, *x.shape[2:])


def test_products_of_activations_grow_with_no_weight() -> None:
    found = {use.weight: use.macs for use in costs_by_weight(_Attention(), (1, 1, 4, 4, 4))}
    assert found == {"qkv.weight": 64 * 24, "out.weight": 64 * 8 * 3, "": 2 * 64 * 64 * 8}


def test_costs_of_attention_are_lower_bounds() -> None:
    torch.manual_seed(0)
    model = _Attention().eval()
    described = rec.ModelSpec(name="a", arch="x:Y", in_channels=1, out_channels=3, kwargs={})
    info = checkpoint.CheckpointInfo(
        model=described, data="x", spatial=(4, 4, 4), sha256="0" * 64, train={}, path=Path("a.safetensors")
    )
    found = find_channels(model, info, [(torch.randn(1, 1, 4, 4, 4), torch.randn(1, 3, 4, 4, 4))], squares)
    space, task = PrunedSpace(found), problem(spatial=(4, 4, 4))
    parent = Parent(model=model, structure=found.structure, scores=found.scores, sha256="0" * 64)
    for share in (0.5, 0.3):
        keep = tuple(min(of, key=lambda one: abs(one - share)) for of in space.choices)
        config = PrunedConfig(parent="a", keep=keep)
        counted, by_formula = (
            measure_cost(space.build(config, task, parent, 0)[0], (1, 1, 4, 4, 4)),
            space.count(config, task),
        )
        assert by_formula["params"] == counted.params
        assert by_formula["macs"] <= counted.macs
        assert by_formula["tensor_bytes"] <= counted.tensor_memory_bytes


def test_what_is_known_of_a_parent_survives_its_file(channels: ParentChannels, tmp_path: Path) -> None:
    write_channels(tmp_path / "a.json", channels)
    again = read_channels(tmp_path / "a.json")
    assert again.structure.layers == channels.structure.layers
    assert PrunedSpace(again).describe() == PrunedSpace(channels).describe()
    for config in some(PrunedSpace(channels), 5):
        assert PrunedSpace(again).count(config, problem()) == PrunedSpace(channels).count(config, problem())
    (tmp_path / "a.json").write_text('{"weights": 3}')
    with pytest.raises(StoreError, match="does not hold the channels of a parent"):
        read_channels(tmp_path / "a.json")


class _Last:
    """A chooser of the largest of everything, or of what a guess says."""

    def __init__(self, chosen: dict[str, object] | None = None) -> None:
        self.chosen = chosen

    def suggest_categorical(self, name: str, choices: list[object]) -> object:
        if self.chosen is None:
            return choices[-1]
        assert self.chosen[name] in choices
        return self.chosen[name]


def test_the_parent_is_not_proposed(channels: ParentChannels) -> None:
    space = PrunedSpace(channels)
    largest = space.suggest(_Last())
    assert not space.is_published(largest)
    assert largest.keep == (SHARES[-2], 1.0, 1.0)
    assert space.is_published(space.published(SIDES))
    for guess in space.guesses(SIDES):
        keep = space.suggest(_Last(guess)).keep  # as near to each other as the widths allow
        assert max(keep) - min(keep) <= 0.2


def test_a_configuration_survives_json_and_names_its_network(channels: ParentChannels) -> None:
    space = PrunedSpace(channels)
    for config in some(space, 5):
        again = space.from_json(json.loads(json.dumps(rec.to_json(config))))
        assert (again, again.key) == (config, config.key)
        assert config.name == f"small-{config.key[:6]}"


def test_shares_that_keep_equally_many_channels_are_one_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "narrow.safetensors", spec((2, 4, 8)))
    found = find_channels(network(path), checkpoint.read_sidecar(path), batches(), squares)
    fine, coarse, _ = PrunedSpace(found).choices
    assert len(fine) == 2
    assert len(coarse) == 4
    assert fine[-1] == coarse[-1] == 1.0


def test_the_smallest_is_smaller_than_anything_drawn(channels: ParentChannels) -> None:
    space, task = PrunedSpace(channels), problem()
    (least,) = space.corners(SIDES)
    floor = space.count(least, task)
    for config in some(space, 50):
        assert all(space.count(config, task)[metric] >= value for metric, value in floor.items())


# -- networks


def test_the_parent_with_all_of_its_channels_answers_as_it_is(channels: ParentChannels, weights: Path) -> None:
    space, whole = PrunedSpace(channels), network(weights)
    parent = space.parent(weights, problem())
    model = space.build(space.published(SIDES), problem(), parent, 0)[0].eval()
    x = torch.randn(*SHAPE)
    with torch.no_grad():
        assert torch.equal(model(x), whole(x))


def test_the_most_important_channels_stay_by_either_criterion(channels: ParentChannels, weights: Path) -> None:
    space, task = PrunedSpace(channels), problem()
    parent = space.parent(weights, task)
    by_taylor, by_magnitude = (
        space.build(PrunedConfig(parent="small", keep=(0.5, 0.5, 0.5), criterion=criterion), task, parent, 0)[0]
        for criterion in ("taylor", "magnitude")
    )
    layer, scores = next(
        (layer, scores)
        for layer, scores in zip(channels.structure.layers, channels.scores, strict=True)
        if layer.name == "input_block.conv1.conv.weight"
    )
    kept = sorted(range(layer.width), key=lambda number: -scores[number])[: layer.width // 2]
    whole = network(weights).state_dict()
    bias = next(place.name for place in layer.channels[0] if place.name.endswith("norm1.weight"))
    assert by_taylor.state_dict()[bias].tolist() == whole[bias][sorted(kept)].tolist()
    assert any(
        not torch.equal(value, by_magnitude.state_dict()[name]) for name, value in by_taylor.state_dict().items()
    )


def test_a_parent_that_was_pruned_is_pruned_again(channels: ParentChannels, weights: Path, tmp_path: Path) -> None:
    space, task = PrunedSpace(channels), problem()
    config = PrunedConfig(parent="small", keep=(0.5, 0.5, 0.5))
    once, described, _ = space.build(config, task, space.parent(weights, task), 0)
    path = tmp_path / "once.safetensors"
    compression = {"root": "small", "parent": "small", "parent_sha256": "0" * 64}
    checkpoint.save(
        path, once.state_dict(), model=described, data="x", spatial=SIDES, train={}, compression=compression
    )
    found = find_channels(network(path), checkpoint.read_sidecar(path), batches(), squares)
    assert found.root == "small"
    again = PrunedSpace(found)
    model, twice, _ = again.build(
        PrunedConfig(parent=config.name, keep=(0.5, 0.5, 0.5)), task, again.parent(path, task), 0
    )
    assert shapes_of(zoo_build.build(twice, SIDES)) == shapes_of(model)
    assert measure_cost(model, SHAPE).params < 0.5 * measure_cost(once, SHAPE).params


def test_weights_that_changed_are_not_the_parent_any_more(channels: ParentChannels, tmp_path: Path) -> None:
    other = write(tmp_path / "other.safetensors", spec((8, 12, 12)))
    with pytest.raises(CheckpointError, match="is not the parent that the search began with"):
        PrunedSpace(channels).parent(other, problem())


def test_only_the_published_slim_unetr_has_variants() -> None:
    published = {path.stem: is_published_network(checkpoint.read_sidecar(path)) for path in places.shipped_weights()}
    assert published == {
        "nnunet_small-hippocampus": False,
        "slim_unetr-hippocampus": True,
        "slim_unetr-phantom-128": True,
        "slim_unetr_fixed-hippocampus": True,
        "slim_unetr_s2-hippocampus": False,
    }


def test_two_searches_are_of_one_space_only_with_equal_parents(channels: ParentChannels, tmp_path: Path) -> None:
    write_channels(tmp_path / "a.json", channels)
    write_channels(tmp_path / "b.json", dataclasses.replace(channels, sha256="1" * 64))
    one, other = (proposals.identity(problem(parent_channels=str(tmp_path / name))) for name in ("a.json", "b.json"))
    assert one["space"] != other["space"]
    assert {**one, "space": 0} == {**other, "space": 0}


# -- what is refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=12, sides=SIDES)


def refused(capsys: pytest.CaptureFixture[str], code: int, *flags: object) -> str:
    assert cli_main.main(["search", *map(str, flags)]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_a_name_without_weights_says_how_to_train_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, 2, "--parent", "unetr", "--data", folder, "--out", tmp_path / "out")
    assert "unetr is a network without weights for Task99_Boxes" in error
    assert "bench train unetr" in error


def test_a_name_finds_the_weights_that_come_along(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = data.get_plan("phantom")
    there = dataclasses.replace(
        plan, name="Task04_Hippocampus", channels=("MRI",), regions={"a": (1,), "b": (2,)}, exclusive=True, digest="1"
    )
    monkeypatch.setattr(parent_to_prune.data, "get_plan", lambda source, **more: there)
    found = parent_to_prune.weights_of("nnunet_small", SearchRequest(budget=parse_budget([])))
    assert found.name == "nnunet_small-hippocampus.safetensors"


@pytest.mark.parametrize(
    ("model", "wrong", "flags", "message"),
    [
        (spec(in_channels=2), {}, [], "needs a network of 1 channels in and 3 out, and these weights have 2 and 3"),
        (spec(), {"data": "Task98_Other:1"}, [], "is not what these weights were trained on, Task98_Other"),
        (spec(), {"cases": "test"}, [], "was trained with test cases of Task99_Boxes, such as"),
        (spec(), {}, ["--spatial", "64", "64", "64"], "was trained for a patch of 32x32x32"),
    ],
)
def test_a_parent_that_does_not_fit_is_a_line(
    model: rec.ModelSpec,
    wrong: dict[str, str],
    flags: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = data.get_plan(str(folder))
    path = write(
        tmp_path / "net.safetensors", model, plan, **({"cases": list(plan.ids["test"])} if "cases" in wrong else {})
    )
    if "data" in wrong:
        info = checkpoint.read_sidecar(path)
        state = zoo_build.build(model, SIDES).state_dict()
        checkpoint.save(path, state, model=info.model, data=wrong["data"], spatial=SIDES, train={"cases": []})
    error = refused(capsys, 2, "--parent", path, *flags, "--data", folder, "--out", tmp_path / "out")
    assert message in error


class OneChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(1, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def test_a_network_that_has_no_channel_to_give_is_a_line(tmp_path: Path) -> None:
    described = rec.ModelSpec(name="one", arch=f"{__name__}:OneChannel", in_channels=1, out_channels=3, kwargs={})
    info = checkpoint.save(
        tmp_path / "one.safetensors", OneChannel().state_dict(), model=described, data="x", spatial=SIDES, train={}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parent_to_prune.zoo_build, "build_here", lambda model, sides: OneChannel())
        patch.setattr(SearchProblem, "gradients", lambda own, count: (batches(), squares))
        with pytest.raises(UsageError, match="cannot be made smaller: no channel of this network can be removed"):
            parent_to_prune.with_channels(problem(), info, tmp_path / "before", lambda text: None)


def test_a_budget_that_nothing_keeps_says_the_smallest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "net.safetensors", spec((4, 6, 8)), data.get_plan(str(folder)))
    flags = ["--parent", path, "--budget", "1kMACs", "--data", folder, "--out", tmp_path / "out"]
    assert cli_main.main(["search", *map(str, flags)]) == 1
    error = capsys.readouterr().err
    assert "no network of the space can keep 1kMACs: MACs of one patch of the smallest one is" in error
    assert not (tmp_path / "out" / "points").exists()


# -- a whole search


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole search of a parent's smaller versions, and the parent."""
    out = tmp_path_factory.mktemp("search") / "small"
    path = write(tmp_path_factory.mktemp("net") / "small.safetensors", spec((4, 6, 8)), data.get_plan(str(folder)))
    flags = ["--time", "8s", "--trials", "4", "--steps", "2", "--protocol", "quick,half_width=1000,timed_s=0.3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(search_export, "write_onnx", lambda weights, out: ("not looked at here", None))
        patch.setattr(search_finish, "ONNX_S", float("-inf"))
        patch.setattr(search_measuring, "_LEAST_LIMIT_S", 600.0)
        quicken(patch.setattr)
        fork_workers(patch)
        asked = ["search", "--parent", str(path), "--budget", "2GB", "--data", str(folder), *flags, "--out", str(out)]
        assert cli_main.main(asked) == 0
    return out, path


@pytest.mark.slow
def test_a_search_leaves_smaller_versions_that_can_be_used(done: tuple[Path, Path], folder: Path) -> None:
    out, parent = done
    record = json.loads((out / "search.json").read_text())
    sha256 = checkpoint.read_sidecar(parent).sha256
    front = [point for point in record["points"] if point["front"]]
    assert front
    for point in front:
        place = out / point["files"]["weights"]
        info = checkpoint.read_sidecar(place)
        assert info.compression is not None
        assert (info.compression["parent_sha256"], info.compression["root"]) == (sha256, "small")
        assert point["costs"]["params"] < record["baseline"]["costs"]["params"]
        model = benchbench.build_model(str(place)).eval()
        again = measure_dice(model, data=str(folder), split="test", spatial=SIDES, surfaces=False)
        assert again.measurements[0].value == pytest.approx(point["dice_test"]["best"], abs=1e-3)
    proposed = {one["key"]: one for one in record["trials"] if one["dice"] is not None and one["same_as"] is None}
    assert all(one["spent"]["inherited"] == 1.0 for one in proposed.values())
    assert all(final["steps"] > proposed[final["key"]]["spent"]["steps"] for final in record["finals"])


@pytest.mark.slow
def test_the_parent_is_to_beat_and_is_not_trained(done: tuple[Path, Path]) -> None:
    out, parent = done
    text = (out / "search.json").read_text()
    record = json.loads(text)
    assert record["baseline"]["sha256"] == checkpoint.read_sidecar(parent).sha256
    assert record["baseline"]["dice_val"] is not None
    assert not any(one["published"] for one in record["trials"])
    assert {row["kind"] for row in record["comparisons"]} == {"published weights"}
    assert all(" against the parent (small, as it was given): " in line for line in record["verdicts"])
    assert len(record["not_run"]) == 2
    assert str(parent.parent) not in text
    page = (out / "report.html").read_text()
    assert page == render_search(record)
    assert "Smaller versions of small for" in page
    assert "published network" not in page
