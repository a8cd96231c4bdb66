"""Convolutions that are computed otherwise on a CPU: the same outputs and gradients, for these kinds alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchbench.training.cpu_convolutions import fast_convolutions


def gradients(module: nn.Module, x: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """Output, gradient of the input, and gradients of the parameters."""
    module.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    generator = torch.Generator().manual_seed(1)
    (y.float() * torch.randn(y.shape, generator=generator)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def depthwise(**changes: Any) -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(**({"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6} | changes))


SERVED: dict[str, nn.Module] = {
    "depthwise": depthwise(),
    "depthwise without a bias": depthwise(bias=False),
    "depthwise, sides that differ": depthwise(kernel_size=(1, 3, 5), padding=(0, 1, 2)),
    "depthwise, padding by name": depthwise(padding="same"),
    "pointwise": depthwise(kernel_size=1, padding=0, groups=1, out_channels=9),
    "pointwise without a bias": depthwise(kernel_size=1, padding=0, groups=1, out_channels=4, bias=False),
    "spread": nn.ConvTranspose3d(6, 6, (2, 3, 1), stride=(2, 3, 1), groups=6),
    "spread without a bias": nn.ConvTranspose3d(6, 6, 2, stride=2, groups=6, bias=False),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kind", SERVED)
def test_outputs_and_gradients_in_fp32_are_pytorchs(kind: str, layout: torch.memory_format) -> None:
    module = SERVED[kind]
    x = torch.randn(2, 6, 7, 8, 5).contiguous(memory_format=layout)
    expected = gradients(module, x)
    with fast_convolutions(module, "cpu"):
        assert "forward" in vars(module)
        found = gradients(module, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", SERVED)
def test_in_bf16_they_are_near(kind: str) -> None:
    module = SERVED[kind]
    x = torch.randn(2, 6, 12, 12, 12)
    exact = gradients(module, x)
    with fast_convolutions(module, "cpu"):
        found = gradients(module, x, bf16=True)
    assert found[0].dtype == torch.bfloat16
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours.float() - theirs).abs().max() / theirs.abs().max()) < 0.02
    assert all(gradient.dtype == torch.float32 for gradient in found[1:])


OTHERS = {
    "a stride": depthwise(stride=2),
    "a dilation": depthwise(dilation=2, padding=2),
    "two channels a group": depthwise(groups=3),
    "no groups": depthwise(groups=1),
    "more channels out": depthwise(out_channels=12),
    "a smaller map": depthwise(padding=0),
    "an even kernel": depthwise(kernel_size=2, padding=1),
    "mirrored padding": depthwise(padding_mode="reflect"),
    "a transposed one of all channels": nn.ConvTranspose3d(6, 6, 2, stride=2),
    "a transposed one that overlaps": nn.ConvTranspose3d(6, 6, 3, stride=2, groups=6),
    "a pointwise one in groups": depthwise(kernel_size=1, padding=0, groups=2),
    "a pointwise one with padding": depthwise(kernel_size=1, groups=1),
}


@pytest.mark.parametrize("module", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_stay_as_they_are(module: nn.Module) -> None:
    with fast_convolutions(nn.Sequential(module), "cpu"):
        assert "forward" not in vars(module)


def test_afterwards_a_network_is_as_before_even_after_an_error() -> None:
    network = nn.Sequential(depthwise(), nn.Conv3d(6, 2, 1))

    def interrupted() -> None:
        with fast_convolutions(network, "cpu"):
            assert "forward" in vars(network[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "forward" not in vars(network[0])
    copy.deepcopy(network)(torch.randn(1, 6, 4, 4, 4))


def test_a_frozen_weight_gets_no_gradient() -> None:
    module = depthwise(bias=False)
    module.weight.requires_grad_(False)
    with fast_convolutions(module, "cpu"):
        assert len(gradients(module, torch.randn(1, 6, 4, 4, 4))) == 2


def test_on_a_gpu_nothing_changes() -> None:
    module = depthwise()
    with fast_convolutions(module, "cuda:0"):
        assert "forward" not in vars(module)
