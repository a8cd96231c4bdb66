"""`bench compress`: a trained network to a smaller one, which is then a checkpoint like any other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import benchbench
from benchbench import data
from benchbench.cli import main as cli_main
from benchbench.cli.commands.compress import rows, summary
from benchbench.compress.request import CompressRequest, PruneRecipe
from benchbench.compress.run import compress
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.records import to_json
from benchbench.core.results import read_records
from benchbench.runner import plan as runner_plan
from benchbench.training.loop import InitialWeights, train
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places
from tests.toy import SPEC, Tiny, use_toy_data

PATCH = (16, 16, 16)


@pytest.fixture(autouse=True)
def toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_data(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that has learned the toy task."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("trained") / "toy.safetensors"
    recipe = TrainRecipe(
        data="toy",
        patch=PATCH,
        budget=TrainingBudget(steps=40),
        lr=1e-2,
        bf16=False,
        validations=1,
        threads=1,
        augment=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        use_toy_data(patch)
        train(Tiny(), SPEC, recipe, out=out)
    return out


@pytest.fixture
def weights(trained: Path, tmp_path: Path) -> Path:
    """A copy of that network's files, which a test may change."""
    return Path(shutil.copytree(trained.parent, tmp_path / "trained")) / trained.name


def ask(weights: Path, **changes: object) -> CompressRequest:
    recipe = PruneRecipe(ratio=float(changes.pop("ratio", 0.5)), criterion=changes.pop("criterion", "taylor"))  # type: ignore[arg-type]
    usual = {"model": SPEC.arch, "weights": weights, "data": "toy", "threads": 1, "dtype": "fp32", "lr": 1e-2}
    return CompressRequest(recipe=recipe, **(usual | changes))  # type: ignore[arg-type]


def test_what_comes_out_is_smaller_and_as_good_after_training_on(weights: Path, tmp_path: Path) -> None:
    made = compress(ask(weights, finetune=TrainingBudget(steps=40)), tmp_path / "out")
    whole, cut, trained = made.stages
    assert [stage.title for stage in made.stages] == ["whole", "pruned", "fine-tuned"]
    assert cut.params == trained.params < 0.6 * whole.params
    assert cut.macs < 0.6 * whole.macs
    assert None not in (whole.dice, cut.dice, trained.dice)
    assert trained.dice > cut.dice  # type: ignore[operator]
    assert trained.dice > whole.dice - 0.1  # type: ignore[operator]
    assert made.channels == (8, 4)
    assert made.agreement is not None
    assert made.agreement < 1e-5

    info = made.checkpoint
    assert info.model.name == "toy-taylor50"
    assert info.compression is not None
    before = checkpoint.read_sidecar(weights)
    assert info.compression["parent_sha256"] == before.sha256
    assert (info.compression["prune"], info.compression["criterion"]) == (0.5, "taylor")
    assert info.compression["finetune"] == "40 steps"
    assert info.train["recipe"]["distil"] == 0.5
    assert set(before.train["cases"]) <= set(info.train["cases"])


def test_the_file_is_enough_to_build_it(weights: Path, tmp_path: Path) -> None:
    made = compress(ask(weights), tmp_path / "out")
    network = benchbench.build_model(str(made.checkpoint.path)).eval()
    assert network.body.out_channels == 4
    x = torch.randn(1, 4, *PATCH)
    again = zoo_build.build(made.checkpoint.model, PATCH)
    checkpoint.load_weights(again, made.checkpoint.path)
    assert torch.equal(network(x), again.eval()(x))
    sidecar = made.checkpoint.path.with_suffix(".json")
    assert json.loads(sidecar.read_text())["model"]["kwargs"]["pruned_shapes"]["body.weight"] == [4, 4, 3, 3, 3]
    with pytest.raises(CheckpointError, match="out_channels cannot be set"):
        benchbench.build_model(str(made.checkpoint.path), out_channels=2)


def test_a_pruned_network_can_be_pruned_again(weights: Path, tmp_path: Path) -> None:
    once = compress(ask(weights, criterion="magnitude"), tmp_path / "out")
    twice = compress(
        ask(once.checkpoint.path, criterion="magnitude", model=str(once.checkpoint.path)), tmp_path / "again"
    )
    assert twice.channels == (4, 2)
    assert twice.checkpoint.compression is not None
    assert twice.checkpoint.compression["parent"] == "toy-magnitude50"
    assert twice.checkpoint.compression["root"] == SPEC.name
    assert twice.checkpoint.compression["before"]["prune"] == 0.5


def test_interrupted_training_on_goes_on(weights: Path, tmp_path: Path) -> None:
    request = ask(weights, finetune=TrainingBudget(steps=12), criterion="magnitude")

    def stop(used: float, line: str) -> None:
        if "step 7" in line:
            raise KeyboardInterrupt

    def often(model, spec, recipe, **more):  # type: ignore[no-untyped-def]
        return train(model, spec, dataclasses.replace(recipe, checkpoint_every_s=1e-9), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchbench.compress.run.train", often)
        with pytest.raises(KeyboardInterrupt):
            compress(request, tmp_path / "out", progress=stop)
        assert list((tmp_path / "out").glob("*.resume"))
        assert not list((tmp_path / "out").glob("*.safetensors"))  # what is not trained on is not left as if it were
        broken = compress(request, tmp_path / "out")
        plain = compress(request, tmp_path / "plain")
    assert broken.checkpoint.sha256 == plain.checkpoint.sha256


def test_what_is_only_cut_has_no_training_of_its_own(weights: Path, tmp_path: Path) -> None:
    made = compress(ask(weights), tmp_path / "out")
    assert not {"curve", "validation", "budget"} & set(made.checkpoint.train)
    assert made.checkpoint.train["cases"] == checkpoint.read_sidecar(weights).train["cases"]


def test_other_data_than_the_weights_own_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="phantom is not what these weights were trained on, toy"):
        compress(ask(weights, data="phantom"), tmp_path / "out")


def test_weights_are_named_once(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = compress(ask(weights), tmp_path / "out")
    run = ["run", "--models", str(made.checkpoint.path), "--checkpoint", str(weights), "--out", str(tmp_path / "run")]
    assert cli_main.main(run) == 2
    assert "leave --checkpoint out" in capsys.readouterr().err
    assert cli_main.main(["train", str(made.checkpoint.path), "--data", "toy"]) == 2
    assert "is trained already: --init" in capsys.readouterr().err
    twice = ["run", "--models", f"{made.checkpoint.path},{weights}", "--checkpoint", str(weights)]
    assert cli_main.main(twice) == 2
    assert "--checkpoint is of one network" in capsys.readouterr().err


def test_a_compressed_checkpoint_of_a_users_own_card_keeps_its_folder(weights: Path, tmp_path: Path) -> None:
    made = compress(ask(weights), tmp_path / "out")
    card = zoo_cards.Card(name="toy", title="Toy", arch=SPEC.arch, folder=str(tmp_path), task="segmentation")
    found = runner_plan._with_weights([card], made.checkpoint.path)
    assert (found.folder, found.name) == (str(tmp_path), "toy-taylor50")


def test_random_channels_are_the_control(weights: Path, tmp_path: Path) -> None:
    by_chance = compress(ask(weights, criterion="random"), tmp_path / "out")
    by_worth = compress(ask(weights, criterion="taylor"), tmp_path / "out")
    assert by_chance.stages[1].params == by_worth.stages[1].params
    assert by_worth.stages[1].dice >= by_chance.stages[1].dice  # type: ignore[operator]


def test_what_needs_data_says_so(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compress(ask(weights, data=None), tmp_path / "out")
    with pytest.raises(UsageError, match="--finetune trains, so data"):
        compress(ask(weights, data="none", criterion="magnitude", finetune=TrainingBudget(steps=1)), tmp_path / "out")
    alone = compress(ask(weights, data="none", criterion="magnitude"), tmp_path / "out")
    assert alone.stages[0].dice is None
    assert "—" in rows(alone, plain=False)[0].values()


def test_bad_shares_and_weights_of_another(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compress(ask(weights, ratio=0.99), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds 'toy', not 'slim_unetr': name /.*toy\.safetensors in its place"):
        compress(ask(weights, model="slim_unetr"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["compress", SPEC.arch, "--checkpoint", str(weights), "--prune", "0.5", "--data", "toy"]
    assert cli_main.main([*flags, "--out", str(tmp_path / "out"), "--name", "half"]) == 0
    out = capsys.readouterr().out
    assert "removed 4 of 8 channels, in 1 layers" in out
    assert "has the same output" in out
    assert f"bench run --models {tmp_path / 'out' / 'half.safetensors'},{weights} --data toy" in out
    assert cli_main.main([*flags, "--out", str(tmp_path / "out"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["network"] for row in found] == ["whole", "pruned"]
    assert found[1]["file"].endswith("toy-magnitude50.safetensors")
    assert cli_main.main([*flags[:-3], "1.5"]) == 2
    assert "from 0 to below 1" in capsys.readouterr().err


class Deeper(Tiny):
    """A layer more, behind which no norm stands."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Conv3d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more(x))


def test_layers_without_a_norm_keep_all(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, arch="tests.compress.test_run:Deeper", name="deeper")
    path = tmp_path / "deeper.safetensors"
    checkpoint.save(path, Deeper().state_dict(), model=spec, data="toy", spatial=PATCH, train={})
    made = compress(ask(path, model=spec.arch, criterion="batchnorm"), tmp_path / "out")
    assert "removed 4 of 12 channels, in 1 layers" in summary(made, None)
    assert any("1 layers keep all their channels" in line for line in summary(made, None))
    assert summary(made, None)[-1].endswith(" --trust")  # as its weights name a class of the user's own


@pytest.mark.parametrize(("dice", "told"), [((0.9, 0.8, 0.7), True), ((0.9, 0.7, 0.8), False), ((0.9, 0.8), False)])
def test_a_fine_tuning_that_costs_dice_is_told(
    weights: Path, tmp_path: Path, dice: tuple[float, ...], told: bool
) -> None:
    made = compress(ask(weights), tmp_path / "out")
    stages = tuple(dataclasses.replace(made.stages[-1], dice=one) for one in dice)
    lines = summary(dataclasses.replace(made, stages=stages), None)
    assert any("made it worse, from 0.800 to 0.700" in line for line in lines) == told


def test_a_run_measures_it_beside_the_whole_one(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = compress(ask(weights), tmp_path / "out")
    flags = ["--data", "none", "--protocol", "quick,half_width=1000", "--no-noise", "--threads", "1"]
    models = f"{made.checkpoint.path},{weights}"
    assert cli_main.main(["run", "--models", models, *flags, "--out", str(tmp_path / "run")]) == 0
    assert "toy-taylor50" in capsys.readouterr().out
    found = {r.model.name: r for r in read_records(tmp_path / "run")}
    small, whole = found["toy-taylor50"], found["toy"]
    assert small.recipe is not None
    assert small.recipe["criterion"] == "taylor"
    assert whole.recipe is None
    assert small.model.checkpoint == made.checkpoint.sha256
    assert small.value("params") == made.stages[1].params < whole.value("params")  # type: ignore[operator]
    assert small.value("macs") == made.stages[1].macs
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Pruned from toy, weights" in page
    assert "4 of 8 channels went (50% of each layer" in page
    assert "pruned_shapes" in page
    assert "running_mean" not in page  # not each shape


# -- training on from weights


def test_a_start_keeps_its_weights_and_cases(tmp_path: Path) -> None:
    model = Tiny()
    bias = model.head.bias.detach().clone()
    request = TrainRecipe(
        data="toy",
        patch=PATCH,
        budget=TrainingBudget(steps=1),
        lr=1e-12,
        bf16=False,
        validations=0,
        threads=1,
        augment=False,
        weight_decay=0,
    )
    start = InitialWeights(digest="d", cases=("elsewhere",), compression={"prune": 0.5})
    made = train(model, SPEC, request, out=tmp_path / "a.safetensors", start=start)
    assert torch.allclose(model.head.bias, bias, atol=1e-6)  # not set to the prior
    assert "elsewhere" in made.checkpoint.train["cases"]
    assert made.checkpoint.compression == {"prune": 0.5}
    assert made.checkpoint.train["start"] == "d"


def test_a_teacher_is_followed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = Tiny().eval()
    x = torch.randn(1, 4, *PATCH)

    def distance(distil: float) -> float:
        torch.manual_seed(1)
        model = Tiny()
        request = TrainRecipe(
            data="toy",
            patch=PATCH,
            budget=TrainingBudget(steps=30),
            lr=1e-2,
            bf16=False,
            validations=0,
            threads=1,
            augment=False,
            distil=distil,
        )
        start = InitialWeights(digest="d", teacher=teacher)
        train(model, SPEC, request, out=tmp_path / f"{distil}.safetensors", start=start)
        with torch.no_grad():
            return float((model.eval()(x).sigmoid() - teacher(x).sigmoid()).abs().mean())

    assert distance(0.95) < 0.5 * distance(0.0)


def test_compressed_weights_are_not_taken_for_the_networks_own(weights: Path, tmp_path: Path) -> None:
    made = compress(ask(weights, name=SPEC.name), tmp_path / "out")
    found = places.find(SPEC.name, 4, 3, PATCH, data.get_plan("toy"), [tmp_path / "out", tmp_path / "trained"])
    assert found == weights
    assert to_json(made.checkpoint.model.kwargs) != {}
