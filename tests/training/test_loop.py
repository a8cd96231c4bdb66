"""One recipe: it learns, the same seed gives the same weights, and an interrupted training ends the same."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchbench import data
from benchbench.core.errors import CheckpointError, DataError, UsageError
from benchbench.training import evaluate as training_evaluate
from benchbench.training.loop import TrainResult, train
from benchbench.training.losses import deep_supervision, dice_bce, make_loss, set_prior
from benchbench.training.patch_loader import CachedCase, PatchLoader, cached_case, cut, patch_middle
from benchbench.training.recipe import TrainingBudget, TrainRecipe, parse_budget, rate
from benchbench.zoo.checkpoint import load_weights, read_sidecar
from tests.toy import SHAPE, SPEC, Tiny, use_toy_data


@pytest.fixture(autouse=True)
def toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_data(monkeypatch)


def recipe(steps: int = 6, **changes: Any) -> TrainRecipe:
    usual = {"data": "toy", "patch": (16, 16, 16), "budget": TrainingBudget(steps=steps), "lr": 1e-2, "bf16": False}
    return TrainRecipe(**(usual | {"validations": 0, "threads": 1, "augment": False} | changes))


def run(out: Path, asked: TrainRecipe, progress: Any = None) -> TrainResult:
    torch.manual_seed(0)
    return train(Tiny(), SPEC, asked, out=out, progress=progress)


def test_training_learns_an_easy_task(tmp_path: Path) -> None:
    result = run(tmp_path / "toy.safetensors", recipe(steps=120, lr=3e-2, validations=3))
    losses = [loss for _, loss in result.curve]
    assert losses[-1] < 0.5 * losses[0]
    seen = [step for step, _ in result.validation]
    assert (seen[0], seen[-1]) == (40, 120)  # the one between may have been too dear
    assert result.validation[-1][1] > 0.7
    network = Tiny()
    load_weights(network, result.checkpoint.path)
    again = training_evaluate.measure_dice(network, data="toy", split="val", spatial=(16, 16, 16))
    assert again.measurements[0].value == pytest.approx(result.validation[-1][1], abs=1e-5)
    assert result.checkpoint.train["validation"] == [list(point) for point in result.validation]


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, second = (run(tmp_path / f"{i}.safetensors", recipe()).checkpoint.sha256 for i in range(2))
    other = run(tmp_path / "other.safetensors", recipe(seed=1)).checkpoint.sha256
    assert first == second != other


@pytest.mark.parametrize("augment", [False, True])
def test_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path, augment: bool) -> None:
    asked = recipe(checkpoint_every_s=0.0, augment=augment, patch_schedule=(((8, 8, 8), 0.5), ((16, 16, 16), 0.5)))
    whole = run(tmp_path / "whole.safetensors", asked)

    def interrupt(used: float, line: str) -> None:
        if "step 5" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn.safetensors", asked, interrupt)
    assert (tmp_path / "torn.resume").exists()
    assert not (tmp_path / "torn.safetensors").exists()
    steps: list[str] = []
    resumed = run(tmp_path / "torn.safetensors", asked, lambda used, line: steps.append(line.split(",")[0]))
    assert steps == ["step 5", "step 6"]  # the fifth was not kept: it was cut off before
    assert resumed.checkpoint.sha256 == whole.checkpoint.sha256
    assert not (tmp_path / "torn.resume").exists()


def test_precision_is_chosen_by_the_first_steps_and_kept_by_an_interrupted_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbench.training.loop.has_fast_bf16", lambda device: True)
    monkeypatch.setattr("benchbench.training.precision.PrecisionChoice.is_bf16_faster", lambda self: True)
    asked = recipe(steps=12, bf16=None, checkpoint_every_s=0.0)

    def interrupt(used: float, line: str) -> None:
        if "step 10" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn.safetensors", asked, interrupt)
    monkeypatch.setattr("benchbench.training.precision.PrecisionChoice.is_bf16_faster", lambda self: False)
    resumed = run(tmp_path / "torn.safetensors", asked).checkpoint.train
    assert resumed["dtype"] == "bf16 autocast"
    timed = run(tmp_path / "timed.safetensors", asked).checkpoint.train
    assert timed["dtype"] == "fp32"
    assert set(timed["step_seconds"]) == {"fp32", "bf16"}
    short = run(tmp_path / "short.safetensors", recipe(steps=4, bf16=None)).checkpoint.train
    assert short["dtype"] == "fp32 and bf16 autocast in turn"


class TestGoingOn:
    """A longer training that goes on from the state of a finished one."""

    def longer(self, tmp_path: Path, name: str = "long", **changes: Any) -> TrainResult:
        torch.manual_seed(1)  # the weights that it is called with do not count
        asked = recipe(**({"steps": 12} | changes))
        state = tmp_path / "short.state"
        return train(Tiny(), SPEC, asked, out=tmp_path / f"{name}.safetensors", continue_from=state)

    def short(self, tmp_path: Path) -> TrainResult:
        torch.manual_seed(0)
        return train(Tiny(), SPEC, recipe(steps=6), out=tmp_path / "short.safetensors", keep_state=True)

    def test_steps_time_and_curve_go_on(self, tmp_path: Path) -> None:
        short = self.short(tmp_path)
        long = self.longer(tmp_path)
        assert (short.steps, long.steps) == (6, 12)
        assert long.curve[: len(short.curve)] == short.curve
        assert long.seconds > short.seconds
        assert self.longer(tmp_path).earlier
        assert self.longer(tmp_path, "again").checkpoint.sha256 == long.checkpoint.sha256

    def test_a_constant_rate_gives_the_weights_of_one_whole_training(self, tmp_path: Path) -> None:
        flat = {"warmup": 0.0, "lr_floor": 1.0}
        torch.manual_seed(0)
        train(Tiny(), SPEC, recipe(steps=6, **flat), out=tmp_path / "short.safetensors", keep_state=True)
        long = self.longer(tmp_path, **flat)
        assert long.checkpoint.sha256 == run(tmp_path / "whole.safetensors", recipe(steps=12, **flat)).checkpoint.sha256

    def test_the_schedule_is_over_the_longer_budget(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.short(tmp_path)
        rates: list[float] = []
        rate_at = TrainRecipe.rate_at
        monkeypatch.setattr(TrainRecipe, "rate_at", lambda self, used: rates.append(used) or rate_at(self, used))
        self.longer(tmp_path)
        assert list(dict.fromkeys(rates)) == [step / 12 for step in range(6, 12)]  # once for each group of parameters

    def test_an_interruption_ends_as_if_it_had_not_been(self, tmp_path: Path) -> None:
        self.short(tmp_path)
        whole = self.longer(tmp_path)

        def interrupt(used: float, line: str) -> None:
            if "step 9" in line:
                raise KeyboardInterrupt

        asked, out, state = recipe(steps=12, checkpoint_every_s=0.0), tmp_path / "torn", tmp_path / "short.state"
        with pytest.raises(KeyboardInterrupt):
            train(Tiny(), SPEC, asked, out=out.with_suffix(".safetensors"), progress=interrupt, continue_from=state)
        resumed = train(Tiny(), SPEC, asked, out=out.with_suffix(".safetensors"), continue_from=state)
        assert resumed.checkpoint.sha256 == whole.checkpoint.sha256

    @pytest.mark.parametrize("changes", [{"lr": 2e-2}, {"seed": 1}, {"augment": True}], ids=str)
    def test_a_state_of_another_training_is_refused(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        self.short(tmp_path)
        with pytest.raises(CheckpointError, match=r"short\.state is of a training with another recipe"):
            self.longer(tmp_path, **changes)

    def test_a_missing_state_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"cannot read .*short\.state: No such file"):
            self.longer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no torch file", None])
def test_resume_file_that_cannot_be_used_is_said(tmp_path: Path, content: bytes | None) -> None:
    resume = tmp_path / "toy.resume"
    if content is None:
        torch.save({"identity": "another"}, resume)
    else:
        resume.write_bytes(content)
    with pytest.raises(CheckpointError, match="remove it to start over"):
        run(tmp_path / "toy.safetensors", recipe())


def test_patches_follow_the_schedule(tmp_path: Path) -> None:
    seen: list[str] = []
    asked = recipe(steps=10, patch_schedule=(((8, 8, 8), 0.7), ((16, 16, 16), 0.3)))
    run(tmp_path / "toy.safetensors", asked, lambda used, line: seen.append(line.split(", ")[1]))
    assert seen == ["patch 8x8x8"] * 7 + ["patch 16x16x16"] * 3


def test_sidecar_tells_recipe_budget_and_curve(tmp_path: Path) -> None:
    run(tmp_path / "toy.safetensors", recipe(steps=20))
    told = json.loads((tmp_path / "toy.json").read_text())
    assert (told["model"]["name"], told["data"], told["spatial"]) == ("toy", "toy", [16, 16, 16])
    assert told["train"]["recipe"]["lr"] == 1e-2
    assert told["train"]["budget"] == "20 steps"
    assert (told["train"]["steps_done"], told["train"]["dtype"]) == (20, "fp32")
    assert [step for step, _ in told["train"]["curve"]] == list(range(1, 21))
    assert told["train"]["seconds"] > 0
    assert read_sidecar(tmp_path / "toy.json").model == SPEC


def test_time_budget_ends_the_training_early(tmp_path: Path) -> None:
    result = run(tmp_path / "toy.safetensors", recipe(budget=TrainingBudget(seconds=0.05)))
    assert result.steps >= 1
    assert result.checkpoint.train["budget"] == "0.05 s"


def test_epochs_are_counted_in_cases(tmp_path: Path) -> None:
    assert run(tmp_path / "toy.safetensors", recipe(budget=TrainingBudget(epochs=2), batch=4)).steps == 4  # 6 cases


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20min", TrainingBudget(seconds=1200)),
        ("90s", TrainingBudget(seconds=90)),
        ("1000steps", TrainingBudget(steps=1000)),
        ("1 step", TrainingBudget(steps=1)),
        ("300epochs", TrainingBudget(epochs=300)),
    ],
)
def test_budgets(text: str, budget: TrainingBudget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "20", "0steps", "-3min", "5 miles", "0s", "1.5epochs"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        parse_budget(text)


def test_gradient_that_overflows_leaves_the_weights_and_is_counted(tmp_path: Path) -> None:
    class Sometimes(Tiny):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) * (float("inf") if self.calls == 3 else 1.0)

    torch.manual_seed(0)
    result = train(Sometimes(), SPEC, recipe(), out=tmp_path / "toy.safetensors")
    assert result.checkpoint.train["steps_skipped"] == 1
    assert all(math.isfinite(loss) for _, loss in result.curve)


def test_network_that_never_has_a_gradient_is_given_up(tmp_path: Path) -> None:
    class Never(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    with pytest.raises(UsageError, match=r"not finite in .* steps; a lower lr"):
        train(Never(), SPEC, recipe(steps=50), out=tmp_path / "toy.safetensors")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"data": "nothing"}, DataError, "unknown data set"),
        ({"patch_schedule": (((8, 8, 8), 1.0),)}, UsageError, "must end on the patch"),
        ({"patch_schedule": (((16, 16, 16), 0.5),)}, UsageError, "shares that sum to 1"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(tmp_path / "toy.safetensors", recipe(**changes))


def test_training_leaves_threads_and_random_state_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    network = Tiny()
    torch.manual_seed(5)
    train(network, SPEC, recipe(), out=tmp_path / "toy.safetensors")
    assert torch.equal(torch.rand(1), wanted)
    assert torch.get_num_threads() == threads


def test_loss_is_zero_for_the_truth_and_counts_an_empty_region() -> None:
    target = torch.zeros(1, 2, 4, 4, 4)
    target[0, 0, :2] = 1
    assert dice_bce(target * 200 - 100, target).item() == pytest.approx(0, abs=1e-5)
    assert dice_bce(100 - target * 200, target).item() > 50


def test_each_output_counts_half_as_much_as_the_one_before() -> None:
    def wrong(logits: Tensor, target: Tensor) -> Tensor:
        assert logits.shape == target.shape
        return (logits - target).abs().mean()

    target = torch.ones(1, 1, 8, 8, 8)
    outputs = [target + error for error in (0.0, 0.0, 7.0)]
    outputs[2] = outputs[2][..., ::2, ::2, ::2]
    assert deep_supervision(outputs, target, wrong).item() == pytest.approx(7 / 4 / (1 + 1 / 2 + 1 / 4))
    assert deep_supervision([target + 3], target, wrong).item() == pytest.approx(3)


def test_rate_rises_then_falls_to_its_floor() -> None:
    rates = [rate(used / 100, 0.1, 0.05) for used in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert rates[0] < 0.05
    assert rates[-1] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    poly = [rate(used / 100, 0.0, 0.0, "poly") for used in range(101)]
    assert poly[0] == 1.0
    assert poly[50] == pytest.approx(0.5**0.9)
    assert poly[-1] == 0.0


def test_prior_is_the_probability_that_training_starts_from() -> None:
    network = Tiny()
    plan = data.get_plan("toy")
    set_prior(network, plan, 0.01)
    assert torch.allclose(network.head.bias.sigmoid(), torch.full((3,), 0.01))
    assert not torch.allclose(network.body.bias.sigmoid(), torch.full((8,), 0.01))
    group_norm = nn.Sequential(nn.Conv3d(4, 3, 1), nn.GroupNorm(1, 3))
    set_prior(group_norm, plan, 0.01)
    assert torch.allclose(group_norm[1].bias.sigmoid(), torch.full((3,), 0.01))
    set_prior(nn.Conv3d(4, 3, 1, bias=False), plan, 0.01)
    two = dataclasses.replace(plan, regions={"a": (1,), "b": (2,)}, exclusive=True)
    set_prior(network, two, 0.01)
    assert torch.allclose(network.head.bias.softmax(0), torch.tensor([0.98, 0.01, 0.01]))


def test_patch_comes_near_what_it_is_asked_to_be_near() -> None:
    near = np.zeros((40, 40, 40), bool)
    near[30, 5, 20] = True
    for seed in range(20):
        middle = patch_middle(np.random.default_rng(seed), np.flatnonzero(near), near.shape, (16, 16, 16))
        start = [m - 8 for m in middle]
        assert all(0 <= s <= 24 for s in start)
        assert cut(near, start, (16, 16, 16)).any()


def test_patch_larger_than_the_volume_holds_it_as_evaluation_does() -> None:
    volume = np.arange(1, 5 * 6 * 7 + 1, dtype=np.float32).reshape(1, 5, 6, 7)
    middle = patch_middle(np.random.default_rng(0), np.flatnonzero(volume[0]), (5, 6, 7), (8, 9, 7))
    start = [m - side // 2 for m, side in zip(middle, (8, 9, 7), strict=True)]
    patch = cut(volume, start, (8, 9, 7))
    before = [(8 - 5) // 2, (9 - 6) // 2, 0]  # as measure.segment pads
    assert patch.shape == (1, 8, 9, 7)
    assert np.array_equal(patch[:, before[0] : before[0] + 5, before[1] : before[1] + 6], volume)
    assert patch.sum() == volume.sum()


def test_a_cut_that_lies_outside_is_empty() -> None:
    assert not cut(np.ones((1, 4, 4, 4)), [-9, 0, 0], (4, 4, 4)).any()
    assert not cut(np.ones((1, 4, 4, 4)), [0, 7, 0], (4, 4, 4)).any()


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_follows_from_seed_step_and_process(augment: bool) -> None:
    plan = data.get_plan("toy")

    def batch(process: int = 0, step: int = 3, seed: int = 0) -> Tensor:
        loader = PatchLoader(plan, recipe(seed=seed, augment=augment, batch=2), process=process)
        found = loader.batch(step, (16, 16, 16))
        assert found.image.shape == (2, 4, 16, 16, 16)
        assert found.target.shape == (2, 3, 16, 16, 16)
        assert set(found.target.unique().tolist()) <= {0.0, 1.0}
        loader.close()
        return found.image

    assert torch.equal(batch(), batch())
    for other in (batch(process=1), batch(step=4), batch(seed=1)):
        assert not torch.equal(batch(), other)


def test_the_next_batch_is_made_meanwhile_and_is_the_same() -> None:
    loader = PatchLoader(data.get_plan("toy"), recipe(augment=True))
    loader.batch(0, (16, 16, 16), following=(16, 16, 16))
    ahead = loader.batch(1, (16, 16, 16)).image
    assert torch.equal(ahead, loader.make(1, (16, 16, 16)).image)
    loader.batch(2, (16, 16, 16), following=(16, 16, 16))
    assert loader.batch(3, (8, 8, 8)).image.shape[2:] == (8, 8, 8)  # another patch than was expected
    loader.close()


def test_memory_holds_as_many_cases_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = PatchLoader(data.get_plan("toy"), recipe())
    loader._cases.most_bytes = 40_000  # of some 15 kB each
    for step in range(20):
        loader.make(step, (8, 8, 8))
    assert 15_000 < loader._cases.bytes <= 40_000


class TestExclusive:
    """Labels of which a voxel has one: a softmax with the background."""

    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(1)).float()

    @pytest.mark.parametrize("name", ["dice_ce", "dice_focal"])
    def test_the_truth_is_better_than_chance(self, name: str) -> None:
        loss = make_loss(name, exclusive=True)
        truth = nn.functional.one_hot(self.classes[:, 0].long(), 3).movedim(-1, 1).float() * 40 - 20
        assert loss(truth, self.classes).item() < 1e-3 < loss(self.logits, self.classes).item()

    def test_regions_have_their_own(self) -> None:
        assert make_loss("dice_ce", exclusive=False) is dice_bce
        target = (self.logits > 0.3).float()
        focal = make_loss("dice_focal", exclusive=False)
        assert focal(target * 40 - 20, target).item() < 1e-3 < focal(self.logits, target).item()


def test_a_full_disk_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchbench.core import results as core_results
    from benchbench.training import loop as training

    written = []

    def full(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(content)
        core_results.write_whole(path, content)

    monkeypatch.setattr(training, "write_whole", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; make room and run again: it goes on"):
        run(tmp_path / "toy.safetensors", recipe(checkpoint_every_s=0.0))
    assert (tmp_path / "toy.resume").read_bytes() == written[1]
    monkeypatch.undo()


class Turned(PatchLoader):
    """A loader of one case in which each voxel knows its place along the second axis, label and image alike."""

    sides = (40, 71, 38)

    def _case(self, index: int) -> CachedCase:
        places = np.broadcast_to(np.arange(self.sides[1])[None, :, None], self.sides) + 1
        image = np.repeat(places[None].astype(np.float32), 4, axis=0)
        case = data.Case(id="x", image=image, label=places.astype(np.uint8).copy(), affine=np.eye(4))
        return cached_case(case)

    def _target(self, label: np.ndarray) -> np.ndarray:
        return label[None].astype(np.float32)


class Still:
    """No change of intensities."""

    def set_random_state(self, seed: int) -> Still:
        return self

    def __call__(self, item: Any) -> Any:
        return item


@pytest.mark.parametrize("patch", [(16, 16, 16), (17, 25, 19), (24, 40, 24)], ids=str)
def test_an_augmented_label_lies_over_its_image(patch: tuple[int, int, int]) -> None:
    """Whether it is turned or not, and whatever is odd or even: a label is where its voxel went, not half beside it."""
    loader = Turned(data.get_plan("toy"), recipe(augment=True, patch=patch, batch=40, mirror=()))
    loader._intensities = Still()
    batch = loader.make(0, patch)
    assert tuple(batch.image.shape) == (40, 4, *patch)
    middle = (..., *(slice(side // 4, -(side // 4)) for side in patch))  # where no edge of the volume comes in
    apart = (batch.image[:, :1] - batch.target)[middle]
    assert apart.abs().max() <= 0.75  # half a voxel of the nearest one, times the scale
    assert abs(apart.mean().item()) < 0.05
    still = [i for i in range(40) if (batch.image[i, 0] == batch.target[i, 0]).all()]
    assert 15 < len(still) < 39  # those that were not turned are exact


def test_a_turned_label_keeps_a_smooth_edge() -> None:
    """Of a ball, turned and scaled, fewer voxels are wrong than if each took the nearest voxel's label."""
    from benchbench.training.patch_loader import random_affine

    sides, patch, values = (32, 32, 32), (24, 24, 24), np.arange(3)
    axes = np.meshgrid(*(np.arange(side) - 15.5 for side in sides), indexing="ij")
    distance = torch.from_numpy(np.sqrt(sum(axis**2 for axis in axes)).astype(np.float32))[None]
    truth = torch.where(distance < 5, 2, torch.where(distance < 9, 1, 0))
    one_hot = (truth == torch.from_numpy(values)[:, None, None, None]).float()
    wrong = {"linear": 0, "nearest": 0}
    for seed in range(5):
        item = {"image": distance, "label": one_hot, "inside": truth.float()}
        turned = random_affine(patch).set_random_state(seed=seed)(item)
        expected = torch.where(turned["image"] < 5, 2, torch.where(turned["image"] < 9, 1, 0))[0]
        wrong["linear"] += int((turned["label"].argmax(0) != expected).sum())
        wrong["nearest"] += int((turned["inside"][0] != expected).sum())
    assert wrong["linear"] < 0.7 * wrong["nearest"]


def test_a_patch_larger_than_its_volume_is_zero_around_it() -> None:
    loader = PatchLoader(data.get_plan("toy"), recipe(augment=True, patch=(32, 32, 32), batch=12))
    image = loader.make(0, (32, 32, 32)).image
    low = [(32 - side) // 2 - 3 for side in SHAPE]  # two voxels around, and one where the sides are odd
    inner = image[:, :, low[0] : -low[0], low[1] : -low[1], low[2] : -low[2]]
    assert (image != 0).sum() == (inner != 0).sum() > 0
