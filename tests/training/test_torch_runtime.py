"""What is done about wrong kernels: the gradient of a tiny map is that of fp32, and nothing else changes."""

import contextlib

import pytest
import torch
from torch import nn

from benchbench.models.slim_unetr import SlimBlock
from benchbench.models.slim_unetr_fixed import PooledAttention
from benchbench.training.torch_runtime import fp32_where_bf16_is_wrong


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
    with fp32_where_bf16_is_wrong(conv):
        for _ in range(5):
            junk = torch.full((64 * 64 * 27,), 1e30)  # what uninitialised memory may hold
            del junk
            y, found = gradient(conv, x.bfloat16().float(), autocast=True)
            assert y.dtype == torch.float32
            assert (found - exact).norm() < 0.02 * exact.norm()


def test_larger_maps_stay_in_bf16_and_the_hooks_go():
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with fp32_where_bf16_is_wrong(conv), torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 2, 2, 2)).dtype == torch.float32
        assert conv(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 2, 2, 2)).dtype == torch.bfloat16


def test_autocast_is_on_again_after_a_convolution_that_raises():
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with fp32_where_bf16_is_wrong(conv), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            conv(torch.randn(1, 3, 2, 2, 2))
        assert torch.is_autocast_enabled("cpu")
        assert conv(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16


def test_attention_is_computed_in_fp32_and_the_layers_around_it_in_bf16():
    block = SlimBlock(8, 1, 1)
    seen = {}
    for name, part in (("attention", block.attention), ("qkv", block.attention.qkv), ("mlp", block.mlp2)):
        part.register_forward_hook(lambda _, __, y, name=name: seen.update({name: y.dtype}))
    x = torch.randn(1, 8, 4, 4, 4)
    with fp32_where_bf16_is_wrong(block), torch.autocast("cpu", torch.bfloat16):
        block(x)
        assert torch.is_autocast_enabled("cpu")
    assert seen == {"attention": torch.float32, "qkv": torch.float32, "mlp": torch.bfloat16}


def test_large_logits_of_slim_unetrs_attention_have_the_gradient_of_fp32():
    """As they are after some hundred steps: rounded to bf16, the largest of a row is often another one."""
    torch.manual_seed(0)
    attention = PooledAttention(16, 1, 1)
    x = torch.randn(1, 16, 4, 4, 4) * 30

    def gradient_of(*, autocast, wrap):
        given = x.clone().requires_grad_()
        with wrap(attention), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = attention(given).float().square().sum()
        loss.backward()
        return given.grad

    exact = gradient_of(autocast=False, wrap=contextlib.nullcontext)
    rounded = gradient_of(autocast=True, wrap=contextlib.nullcontext)
    held = gradient_of(autocast=True, wrap=fp32_where_bf16_is_wrong)
    assert (rounded - exact).norm() > 0.1 * exact.norm()
    assert (held - exact).norm() < 1e-5 * exact.norm()
