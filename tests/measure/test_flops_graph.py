"""The headline counter against counts made by hand, and the tracer against the headline."""

import pytest
import torch
from torch import nn

from benchbench.core.errors import ShapeError, UnsupportedError
from benchbench.measure.flops.graph import layers, measure_cost


class Attend(nn.Module):
    def forward(self, x):
        q = x.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q)


class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        q = x.flatten(2).transpose(1, 2)
        return self.attention(q, q, q, need_weights=False)[0]


class Einsum(nn.Module):
    def forward(self, x):
        q = x.flatten(2)
        return torch.einsum("bcn,bdn->bcd", q, q)


N = 4**3
BY_HAND = {
    "conv 3^3": (nn.Conv3d(8, 16, 3, padding=1), N * 16 * 8 * 27),
    "strided conv": (nn.Conv3d(8, 16, 2, stride=2), 8 * 16 * 8 * 8),
    "grouped conv": (nn.Conv3d(8, 16, 3, padding=1, groups=4), N * 16 * 2 * 27),
    "depthwise conv": (nn.Conv3d(8, 8, 3, padding=1, groups=8), N * 8 * 27),
    "dilated conv": (nn.Conv3d(8, 4, 3, padding=2, dilation=2), N * 4 * 8 * 27),
    "transposed conv": (nn.ConvTranspose3d(8, 16, 2, stride=2), N * 8 * 16 * 8),
    "grouped transposed conv": (nn.ConvTranspose3d(8, 8, 4, stride=4, groups=8), N * 8 * 64),
    "linear on tokens": (nn.Linear(4, 10), 8 * 4 * 4 * 4 * 10),
    "attention": (Attend(), 2 * N * N * 8),
    "multihead attention in eval": (Multihead(), N * 8 * 24 + 2 * N * N * 8 + N * 8 * 8),
    "einsum": (Einsum(), 8 * 8 * N),
    "norm": (nn.InstanceNorm3d(8, affine=True), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_macs_equal_the_count_by_hand_and_the_sum_over_operators(name):
    module, macs = BY_HAND[name]
    cost = measure_cost(module, (1, 8, 4, 4, 4))
    assert cost.macs == macs
    assert sum(o.macs for o in cost.operators) == macs
    assert cost.flops == 2 * macs


def test_the_network_that_is_counted_is_left_as_it_was():
    module = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    measure_cost(module, (1, 1, 8, 8, 8))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(v.device.type == "cpu" for v in module.state_dict().values())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_shared_weights_count_once_and_bare_parameters_count():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv3d(2, 2, 1, bias=False)
            self.b = self.a
            self.bare = nn.Parameter(torch.zeros(7))
            self.plain = [torch.ones(2, 2)]

        def forward(self, x):
            return self.b(self.a(x)) * self.bare.sum() * self.plain[0].sum()

    module = Shared()
    cost = measure_cost(module, (1, 2, 4, 4, 4))
    assert cost.params == 4 + 7
    assert cost.macs == 2 * 64 * 4
    table = layers(cost, module)
    assert sum(layer.params for layer in table) == cost.params
    assert sum(layer.macs for layer in table) == cost.macs


def test_layers_name_the_module_that_does_the_work():
    module = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv3d(2, 3, 1)))
    table = {layer.module: layer for layer in layers(measure_cost(module, (1, 1, 2, 2, 2)), module)}
    assert table["0"].macs == 8 * 2
    assert table["1.1"].macs == 8 * 6
    assert table["1.1"].params == 9
    assert table["1.1"].kind == "conv"


def test_tensor_memory_is_weights_and_the_most_that_lives_at_once():
    side = 16
    volume = 4 * side**3  # bytes of one fp32 channel
    chain = nn.Sequential(
        nn.Conv3d(1, 8, 1, bias=False), nn.Conv3d(8, 8, 1, bias=False), nn.Conv3d(8, 1, 1, bias=False)
    )
    cost = measure_cost(chain, (1, 1, side, side, side))
    weights = 4 * (8 + 64 + 8)
    assert cost.tensor_memory_bytes == weights + (1 + 8 + 8) * volume  # input, and two tensors of eight channels
    assert cost.peak_at == "convolution in 1"
    found = {m.metric: m for m in cost.measurements()}
    assert found["tensor_memory_bytes"].method.endswith("fake tensors, at convolution in 1")


def test_the_peak_of_a_network_without_modules_is_its_own():
    class Doubles(nn.Module):
        def forward(self, x):
            return torch.cat([x, x])

    assert measure_cost(Doubles(), (1, 1, 4, 4, 4)).peak_at == "cat in the network itself"


def test_a_reduced_dtype_moves_fewer_bytes_for_the_same_macs():
    module = nn.Sequential(nn.Conv3d(4, 16, 3), nn.Conv3d(16, 16, 3))
    full, half = (measure_cost(module, (1, 4, 16, 16, 16), dtype) for dtype in ("fp32", "bf16"))
    assert half.macs == full.macs
    assert sum(o.macs for o in half.operators) == full.macs
    convolutions = [sum(o.written_bytes for o in c.operators if o.operator == "convolution") for c in (full, half)]
    assert convolutions[0] == 2 * convolutions[1]


def test_operators_say_what_they_read_and_write():
    cost = measure_cost(nn.Conv3d(2, 4, 1, bias=False), (1, 2, 4, 4, 4))
    (conv,) = [o for o in cost.operators if o.operator == "convolution"]
    assert conv.read_bytes == 4 * (2 * 64 + 8)
    assert conv.written_bytes == 4 * 4 * 64
    assert conv.output_shape == (1, 4, 4, 4, 4)
    moved = {m.metric: m for m in cost.measurements()}["moved_bytes"]
    assert (moved.value, moved.origin) == (conv.read_bytes + conv.written_bytes, "analytic")


def test_control_flow_that_depends_on_values_is_counted_by_running_where_that_is_small_and_else_said_to_be_so():
    class Peeks(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    assert "random values" in measure_cost(Peeks(), (1, 1, 2, 2, 2)).how
    with pytest.raises(UnsupportedError, match=r"depends on values.*too large to run"):
        measure_cost(Peeks(), (1, 1, 128, 128, 128))


def test_an_input_that_does_not_fit_is_the_networks_own_error():
    with pytest.raises(RuntimeError):
        measure_cost(nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv3d(3, 4, 3)), (1, 3, 8, 8, 8))
    with pytest.raises(ShapeError, match="takes 4 channels, and 3 were fed"):
        measure_cost(nn.Conv3d(4, 4, 3), (1, 3, 8, 8, 8))
