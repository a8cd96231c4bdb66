"""Mirrored patches of a training, and the mirror images of a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from benchbench import data
from benchbench.cli import main as cli_main
from benchbench.cli.parser import parse, values_of
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.records import ModelSpec
from benchbench.data.folder import plan_folder
from benchbench.training import patch_loader, predict
from benchbench.training.patch_loader import PatchLoader
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import checkpoint
from tests import data_sets
from tests.tiny_nets import Reads
from tests.toy import SHAPE, use_toy_data
from tests.training.test_loop import recipe, run


@pytest.fixture(autouse=True)
def toy_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    use_toy_data(monkeypatch)


@pytest.mark.parametrize(
    ("text", "mirror"), [("none", ()), ("D", (0,)), ("w,D", (0, 2)), ("D,H,W", (0, 1, 2)), ("auto", "auto")]
)
def test_axes_of_mirroring_are_named_on_the_command_line(text: str, mirror: Any) -> None:
    options = parse(["train", "unet_small", "--mirror", text])
    assert values_of(TrainRecipe, options) == {"mirror": mirror}


@pytest.mark.parametrize("text", ["X", "D,D", "", "D,,H", "0"])
def test_what_is_no_axis_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is none of auto, none, and axes out of D,H,W"):
        parse(["train", "unet_small", "--mirror", text])
    with pytest.raises(UsageError, match="different axes out of 0, 1 and 2"):
        recipe(mirror=(0, 3))


def test_patches_are_mirrored_along_the_axes_alone() -> None:
    plan = data.get_plan("toy")
    still = PatchLoader(plan, recipe(batch=30, patch=SHAPE, mirror=(), foreground=0.0)).make(0, SHAPE).target
    case = torch.stack([still[i] for i in range(30)])
    for axis in range(3):
        loader = PatchLoader(plan, recipe(batch=30, patch=SHAPE, mirror=(axis,), foreground=0.0))
        seen = loader.make(0, SHAPE).target
        flipped = [i for i in range(30) if any(torch.equal(seen[i], c.flip(axis + 1)) for c in case)]
        assert 5 < len(flipped) < 30
        assert all(any(torch.equal(s, c) or torch.equal(s, c.flip(axis + 1)) for c in case) for s in seen)


def test_axes_that_the_data_choose_are_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(patch_loader, "mirror_axes", lambda plan: asked.append(plan.name) or (1, 2))
    assert TrainRecipe(data="toy", patch=(16, 16, 16), budget=TrainingBudget(steps=1)).mirror == "auto"
    chosen = run(tmp_path / "auto.safetensors", recipe(mirror="auto"))
    named = run(tmp_path / "named.safetensors", recipe(mirror=(1, 2)))
    assert asked == ["toy"]
    assert chosen.checkpoint.mirror == (1, 2)
    assert chosen.checkpoint.sha256 == named.checkpoint.sha256
    assert chosen.checkpoint.train["identity"] == named.checkpoint.train["identity"]


@pytest.mark.parametrize("mirror", [None, [], [0]])
def test_mirror_images_of_a_prediction_are_those_of_the_training(
    tmp_path: Path, mirror: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = data_sets.decathlon(tmp_path / "Task99_Toy", count=6), []
    plan = plan_folder(folder)
    spec = ModelSpec(name="reads", arch="tests.tiny_nets:Reads", kwargs={}, in_channels=1, out_channels=3)
    path = tmp_path / "w.safetensors"
    state = Reads(1, 3).state_dict()
    trained = {} if mirror is None else {"recipe": {"mirror": mirror}}
    checkpoint.save(path, state, model=spec, data=plan.key, spatial=(16, 16, 16), train=trained, plan=plan)
    forward = Reads.forward
    monkeypatch.setattr(Reads, "forward", lambda self, x: calls.append(1) or forward(self, x))
    source, out = next(iter(sorted(folder.glob("imagesTr/*.nii.gz")))), tmp_path / "seg.nii.gz"
    ask = ["predict", "tests.tiny_nets:Reads", "--checkpoint", str(path), "--output", str(out), "--input", str(source)]
    assert cli_main.main(ask) == 0
    plain, once = np.asarray(nib.load(out).dataobj), len(calls)
    if not mirror:
        with pytest.raises(CheckpointError, match="leave --test-time-mirroring out"):
            predict.predict_files(ask[1], path, source, out, test_time_mirroring=True)
        return
    calls.clear()
    assert cli_main.main([*ask, "--test-time-mirroring"]) == 0
    assert len(calls) == 2 * once > 0
    assert np.array_equal(np.asarray(nib.load(out).dataobj), plain)  # of a network that sees no side
