"""What a network's logits are, whatever it returns: in training, in evaluation, and where they are compared."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchbench.core.errors import UnsupportedError
from benchbench.core.records import ModelSpec
from benchbench.data.plan import DataPlan
from benchbench.measure.training_step import trained_outputs
from benchbench.measure.volume import Inference, Plan
from benchbench.measure.volume_torch import forward_of_arrays
from benchbench.training.loop import _Training
from benchbench.training.patch_loader import Batch
from benchbench.training.processes import TrainingGroup
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.training.sliding_window import AccuracyError, logits_of
from benchbench.training.torch_runtime import channels_last
from benchbench.zoo import logits as zoo_logits

SIDES = (8, 8, 8)
PLAN = DataPlan(
    name="toy",
    title="toy",
    channels=("T1",),
    regions={"a": (1,), "b": (2,)},
    labels={0: "background", 1: "a", 2: "b"},
    patch=SIDES,
    spacing_mm=(1.0, 1.0, 1.0),
    splits={"train": 1, "val": 0, "test": 1},
    semi_synthetic=True,
    licence="none",
    exclusive=True,
)


@dataclasses.dataclass
class Told:
    loss: Tensor | None
    logits: Tensor


def full(channels: int = 3) -> Tensor:
    return torch.zeros(2, channels, *SIDES)


def half(channels: int = 3) -> Tensor:
    return torch.zeros(2, channels, 4, 4, 4)


WANTED = full()
FORMS = {
    "tensor": WANTED,
    "full size first": [WANTED, half()],
    "coarse first": [half(), WANTED],
    "nested": ([half()], {"x": WANTED}),
    "logits and loss": (WANTED, torch.tensor(1.0)),
    "loss and logits": (torch.tensor(1.0), WANTED),
    "logits and None": (WANTED, None),
    "with a reconstruction": (full(1), WANTED),
    "dict with None": {"aux": None, "out": WANTED},
    "dict, another answer first": {"aux": full(), "out": WANTED},
    "dataclass": Told(None, WANTED),
    "with hidden states": [torch.zeros(2, 5, 7), WANTED],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_found_whatever_they_come_in(form: str) -> None:
    assert zoo_logits.logits(FORMS[form], SIDES, 3) is WANTED


def test_stacked_deep_supervision_is_several_answers_and_the_first_is_the_logits() -> None:
    stacked = torch.randn(2, 3, 4, *SIDES)
    assert zoo_logits.logits(stacked, SIDES).equal(stacked[:, 0])
    assert len(zoo_logits.segmentations([stacked], SIDES, 4)) == 3


def test_what_is_no_segmentation_of_the_patch_is_said_with_its_shape() -> None:
    with pytest.raises(UnsupportedError, match=r"2x3x5"):
        zoo_logits.logits([torch.zeros(2, 3, 5)], SIDES)
    with pytest.raises(UnsupportedError, match="4x4x4 voxels to a patch of 8x8x8"):
        zoo_logits.logits(half(), SIDES)
    with pytest.raises(UnsupportedError, match="no tensor"):
        zoo_logits.main({"a": None}, SIDES)
    assert zoo_logits.main(torch.zeros(2, 7), SIDES).shape == (2, 7)


class Net(nn.Module):
    """A convolution whose answer comes in a form of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv3d(1, 3, 1), form

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        small = nn.functional.avg_pool3d(y, 2)
        return {
            "dict": {"aux": None, "out": y},
            "loss": (y, (y**2).mean()),
            "stack": torch.stack([y, y + 1], 1),
            "coarse first": [small, y],
            "half": small,
            "flat": y.mean((2, 3, 4)),
            "none": None,
            "channels": y[:, :1],
        }[self.form]


def training(model: nn.Module) -> _Training:
    spec = ModelSpec(name="toy", arch="tests:Net", kwargs={}, in_channels=1, out_channels=3)
    recipe = TrainRecipe(data="toy", patch=SIDES, budget=TrainingBudget(steps=1), batch=2, mirror=(), bf16=False)
    return _Training(model.train(), spec, recipe, PLAN, Path("toy.safetensors"), "cpu", TrainingGroup())


def step(model: nn.Module, n: int = 2, sides: tuple[int, ...] = SIDES) -> float:
    batch = Batch(image=torch.ones(n, 1, *sides), target=torch.ones(n, 1, *sides))
    return training(model).train_step(batch)


@pytest.mark.parametrize("form", ["dict", "loss", "stack", "coarse first", "half"])
def test_every_form_of_output_is_trained(form: str) -> None:
    assert math.isfinite(step(Net(form)))


@pytest.mark.parametrize("form", ["flat", "none", "channels"])
def test_an_output_that_cannot_be_trained_is_one_line(form: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        step(Net(form))
    assert "\n" not in str(caught.value)


def test_a_norm_over_one_voxel_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match="--batch-size 2"):
        step(nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3)), n=1)


def test_whatever_a_network_raises_in_training_is_one_line() -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> object:
            raise KeyError("weights")

    with pytest.raises(UnsupportedError, match="toy cannot be trained on a batch of 2x1x8x8x8: KeyError"):
        step(Broken("dict"))


def test_weights_of_four_axes_are_laid_out_beside_those_of_five() -> None:
    model = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3)])
    assert channels_last(model, "cpu")
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("form", ["dict", "loss", "stack", "coarse first"])
def test_every_form_of_output_is_evaluated_and_timed_on_volumes(form: str) -> None:
    net, image = Net(form).eval(), np.ones((1, 8, 10, 8), np.float32)
    with torch.no_grad():
        wanted = net.conv(torch.from_numpy(image)[None])[0]
    assert torch.allclose(logits_of(net, image, PLAN, SIDES), wanted, atol=1e-5)
    assert len(Inference(forward_of_arrays(net), image, Plan(patch=SIDES, overlap=0.5))()) == 3
    assert trained_outputs(net.train()(torch.ones(2, 1, *SIDES)))


@pytest.mark.parametrize(
    ("form", "told"), [("half", "4x4x4 voxels to a patch of 8x8x8"), ("flat", "1x3"), ("none", "none")]
)
def test_an_answer_of_another_size_has_no_dice_and_its_shape_is_said(form: str, told: str) -> None:
    with pytest.raises(AccuracyError, match=f"no Dice can be had.*{told}") as caught:
        logits_of(Net(form).eval(), np.ones((1, *SIDES), np.float32), PLAN, SIDES)
    assert "\n" not in str(caught.value)


def test_a_network_that_raises_has_no_dice_and_the_reason_is_one_line() -> None:
    with pytest.raises(AccuracyError, match="cannot take a patch of 1x1x8x8x8: RuntimeError"):
        logits_of(nn.Conv3d(4, 3, 1), np.ones((1, *SIDES), np.float32), PLAN, SIDES)
