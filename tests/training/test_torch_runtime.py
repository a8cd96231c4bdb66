"""What is done about wrong kernels: the gradient of a tiny map is that of fp32, and nothing else changes."""

import pytest
import torch
from torch import nn

from benchbench.training.torch_runtime import exact_small_convolutions


def gradient(conv, x, *, autocast):
    conv.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(x)
    y.float().square().sum().backward()
    return y, conv.weight.grad.clone()


@pytest.mark.parametrize("sides", [(2, 2, 2), (1, 2, 4), (2, 2, 8)])
def test_the_weight_gradient_of_a_tiny_map_under_autocast_is_that_of_fp32(sides):
    torch.manual_seed(0)
    conv = nn.Conv3d(64, 64, 3, padding=1)
    x = torch.randn(1, 64, *sides)
    _, exact = gradient(conv, x, autocast=False)
    with exact_small_convolutions(conv):
        for _ in range(5):
            junk = torch.full((64 * 64 * 27,), 1e30)  # what uninitialised memory may hold
            del junk
            y, found = gradient(conv, x.bfloat16().float(), autocast=True)
            assert y.dtype == torch.float32
            assert (found - exact).norm() < 0.02 * exact.norm()


def test_larger_maps_stay_in_bf16_and_the_hooks_go():
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with exact_small_convolutions(conv), torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 2, 2, 2)).dtype == torch.float32
        assert conv(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 2, 2, 2)).dtype == torch.bfloat16


def test_autocast_is_on_again_after_a_convolution_that_raises():
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with exact_small_convolutions(conv), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            conv(torch.randn(1, 3, 2, 2, 2))
        assert torch.is_autocast_enabled("cpu")
        assert conv(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16
