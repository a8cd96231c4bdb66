"""A training step: what it does to the weights, what it is forecast to hold, and what cannot be trained."""

import math

import pytest
import torch
from torch import nn

from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import get_protocol
from benchbench.measure import latency, training_step
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.memory import PeakMemory
from benchbench.training.losses import dice_bce
from tests import tiny_nets

SIDE = 16
VOLUME = 4 * SIDE**3  # bytes of one fp32 channel


def conv(i, o):
    return nn.Conv3d(i, o, 1, bias=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_step_changes_every_weight_and_leaves_the_network_in_training_mode(dtype):
    module = tiny_nets.Tiny().eval()
    before = [p.detach().clone() for p in module.parameters()]
    step = training_step.TrainingStep(module, torch.randn(1, 4, 8, 8, 8), dtype=dtype)
    with step.ready() as one:
        one()
        one()
    assert module.training
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert step.is_finite()
    assert not module.body[0]._forward_hooks


def test_a_loss_that_is_no_number_is_noticed():
    step = training_step.TrainingStep(tiny_nets.Broken(), torch.randn(1, 4, 8, 8, 8))
    step()
    assert not step.is_finite()


def test_the_loss_of_several_outputs_is_their_mean_and_those_that_nothing_trains_are_left_out():
    module = tiny_nets.Lists()
    out = training_step.trained_outputs(module(torch.randn(1, 4, 4, 4, 4)))
    assert [tuple(t.shape) for t in out] == [(1, 3, 4, 4, 4)]  # the input, which it returns too, is not trained
    targets = [training_step.random_target(out[0]), training_step.random_target(out[0])]
    single = [dice_bce(out[0], t) for t in targets]
    assert training_step.step_loss([out[0], out[0]], targets).item() == pytest.approx(sum(single).item() / 2)


def test_a_classifier_is_trained_by_cross_entropy_and_anything_else_by_mean_square():
    logits = torch.zeros(2, 5, requires_grad=True)
    target = training_step.random_target(logits)
    assert target.shape == (2,)
    assert training_step.step_loss([logits], [target]).item() == pytest.approx(math.log(5))
    line = torch.zeros(2, 5, 7, requires_grad=True)
    target = training_step.random_target(line)
    assert training_step.step_loss([line], [target]).item() == pytest.approx(float(target.square().mean()))


def test_what_cannot_be_trained_says_so():
    x = torch.randn(1, 4, 4, 4, 4)
    with pytest.raises(UnsupportedError, match="fp16 needs a GPU"):
        training_step.TrainingStep(tiny_nets.Tiny(), x, dtype="fp16")
    with pytest.raises(UnsupportedError, match="no parameter"):
        training_step.TrainingStep(nn.Identity(), x)
    with pytest.raises(UnsupportedError, match="no output"):
        training_step.trained_outputs({"a": x})


def test_the_forecast_of_a_step_is_the_count_by_hand():
    chain = nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 1))
    weights = 4 * (8 + 64 + 8)
    found = training_step.forecast_step(chain, (1, 1, SIDE, SIDE, SIDE))
    assert found.peak_at == "threshold_backward in 3"
    # Weights and AdamW's two moments; the input, both ReLUs' outputs, and in the second ReLU's backward the gradient
    # that comes in and the one that goes out; besides the output, its target and the last convolution's gradient.
    least = 3 * weights + (1 + 8 + 8 + 8 + 8) * VOLUME
    assert least < found.tensor_memory_bytes < least + 3 * VOLUME + weights
    m = found.measurement()
    assert (m.metric, m.origin, m.bound) == ("train_tensor_memory_bytes", "analytic", "at_least")


def test_a_step_is_forecast_to_need_more_than_a_forward_and_nothing_is_left_behind():
    module = tiny_nets.Tiny().eval()
    shape = (2, 4, SIDE, SIDE, SIDE)
    assert (
        training_step.forecast_step(module, shape).tensor_memory_bytes > measure_cost(module, shape).tensor_memory_bytes
    )
    assert not module.training
    assert all(p.grad is None for p in module.parameters())


def test_a_step_that_depends_on_values_cannot_be_forecast():
    class Peeks(tiny_nets.Tiny):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else super().forward(-x)

    with pytest.raises(UnsupportedError, match="depends on values"):
        training_step.forecast_step(Peeks(), (1, 4, 4, 4, 4))


def test_measurements_speak_of_steps():
    step = training_step.TrainingStep(tiny_nets.Tiny(), torch.randn(1, 4, 8, 8, 8))
    peak = PeakMemory("cpu")
    timed = latency.time_forwards(step, get_protocol("quick,min_samples=2,max_samples=2,warmup_s=0"))
    found = {m.metric: m for m in [*training_step.train_time(timed, "fp32"), *training_step.train_memory(peak, 1)]}
    assert set(found) == {"train_step_s", "warmup_s", "train_peak_memory_bytes", "base_memory_bytes"}
    assert len(found["train_step_s"].values) == 2
    assert "AdamW" in found["train_step_s"].method
    assert "training step" in found["train_peak_memory_bytes"].method
