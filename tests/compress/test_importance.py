"""Channels are ranked by what they are worth, and chosen so that no layer is left without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchbench.compress import importance
from benchbench.compress.channel_groups import ChannelGroup, ChannelGroups, WeightIndex, find_structure
from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.core.errors import UsageError

SHAPE = (1, 1, 2, 2, 2)


class Net(nn.Module):
    """Channel 2 of the first layer is the weakest; channel 1 is strong, but the second layer does not read it."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 1, bias=False), nn.Conv3d(4, 2, 1, bias=False)
        self.norm = nn.BatchNorm3d(4) if norm else nn.Identity()
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([3.0, 4.0, 0.1, 2.0]).reshape(4, 1, 1, 1, 1))
            self.b.weight.copy_(torch.tensor([[2.0, 0.0, 0.1, 1.0], [1.0, 0.0, 0.1, 2.0]]).reshape(2, 4, 1, 1, 1))
            if norm:
                self.norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 0.01]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))  # type: ignore[no-any-return]


def squared(logits: Tensor, target: Tensor) -> Tensor:
    return ((logits - target) ** 2).mean()


def test_magnitude_is_of_what_makes_and_what_reads_a_channel() -> None:
    net = Net()
    (found,) = importance.magnitude(net, find_structure(net, SHAPE))
    assert np.argsort(found).tolist() == [2, 1, 3, 0]  # the strong one that nobody reads comes second
    assert found.shape == (4,)


def test_taylor_sees_that_nobody_reads_a_channel() -> None:
    net = Net()
    structure = find_structure(net, SHAPE)
    batches = [(torch.randn(SHAPE), torch.zeros(1, 2, 2, 2, 2)) for _ in range(3)]
    (found,) = importance.taylor(net, structure, batches, squared)
    assert found[1] == 0
    assert np.argmin(np.delete(found, 1)) == 1  # of the others, the weakest
    assert all(parameter.grad is None for parameter in net.parameters())
    # it is the first order of what the loss changes by: here, of scaling a channel down a little
    x, target = batches[0]
    (one,) = importance.taylor(net, structure, batches[:1], squared)
    before = squared(net(x), target)
    with torch.no_grad():
        net.a.weight[0] *= 1 - 1e-3
    change = (squared(net(x), target) - before).item() / 1e-3
    assert one[0] == pytest.approx(change**2, rel=0.01)


class Stream(nn.Module):
    """A residual stream with biases and norms, read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.first = nn.Conv3d(1, 5, 1), nn.BatchNorm3d(5)
        self.b, self.norm, self.c = nn.Conv3d(5, 5, 1), nn.InstanceNorm3d(5, affine=True), nn.Conv3d(5, 2, 1)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        x = torch.relu(self.first(self.a(x)))
        y = x if gate is None else x * gate
        x = self.norm(x + self.b(y))
        return self.c(x if gate is None else x * gate)  # type: ignore[no-any-return]


def test_taylor_is_the_first_order_of_a_gate_before_all_that_reads() -> None:
    torch.manual_seed(0)
    net = Stream().eval()
    shape = (1, 1, 3, 3, 3)
    structure = find_structure(net, shape)
    x, target = torch.randn(shape), torch.randn(1, 2, 3, 3, 3)
    (found,) = importance.taylor(net, structure, [(x, target)], squared)
    gate = torch.ones(1, 5, 1, 1, 1, requires_grad=True)
    squared(net(x, gate), target).backward()
    assert gate.grad is not None
    order = [next(p.index for p in c if p.name == "c.weight") for c in structure.layers[0].channels]
    assert np.allclose(found, (gate.grad.flatten()[order] ** 2).numpy(), rtol=1e-4)


class Attention(nn.Module):
    """One head of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 12, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if gate is not None:
            q, v = q * gate, v * gate
        return self.out((q @ k.transpose(-2, -1)).softmax(-1) @ v)  # type: ignore[no-any-return]


def test_taylor_counts_queries_and_keys_once() -> None:
    torch.manual_seed(0)
    net = Attention()
    structure = find_structure(net, (1, 6, 3))
    assert structure.layers[0].multiplied
    x, target = torch.randn(1, 6, 3), torch.randn(1, 6, 2)
    (found,) = importance.taylor(net, structure, [(x, target)], squared)
    gate = torch.ones(4, requires_grad=True)
    squared(net(x, gate), target).backward()
    assert gate.grad is not None
    assert np.allclose(found, (gate.grad**2).numpy(), rtol=1e-4)


def test_magnitude_does_not_look_at_statistics() -> None:
    net = Net(norm=True)
    structure = find_structure(net, SHAPE)
    (before,) = importance.magnitude(net, structure)
    with torch.no_grad():
        net.norm.running_mean.fill_(10.0)
        net.norm.running_var[0] = 100.0
    (after,) = importance.magnitude(net, structure)
    assert np.array_equal(before, after)


def test_batchnorm_goes_by_the_scales() -> None:
    net = Net(norm=True)
    (found,) = importance.batchnorm(net, find_structure(net, SHAPE))
    assert found is not None
    assert np.argsort(found).tolist() == [3, 0, 1, 2]
    with pytest.raises(UsageError, match="needs norms with scales"):
        importance.batchnorm(Net(), find_structure(Net(), SHAPE))


def test_chance_follows_its_seed() -> None:
    structure = find_structure(Net(), SHAPE)
    first, again, other = (importance.random(structure, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pruning_keeps_what_matters() -> None:
    made = prune(Net().eval(), SHAPE, PruneRecipe(ratio=0.25, criterion="magnitude"))
    assert made.removed == ((2,),)
    assert made.model.a.weight.flatten().tolist() == [3.0, 4.0, 2.0]
    assert made.agreement is not None
    assert made.agreement < 1e-6
    with pytest.raises(UsageError, match="needs gradients, so data"):
        prune(Net(), SHAPE, PruneRecipe(ratio=0.25, criterion="taylor"))


def test_no_finite_gradient_is_said() -> None:
    net = Net()
    bad = [(torch.full(SHAPE, float("nan")), torch.zeros(1, 2, 2, 2, 2))]
    with pytest.raises(UsageError, match="no finite gradient"):
        importance.taylor(net, find_structure(net, SHAPE), bad, squared)


# -- choosing


def layers(*widths: int) -> ChannelGroups:
    made = tuple(
        ChannelGroup(
            name="l0",  # two layers may lie in one weight
            channels=tuple((WeightIndex("l0", n, i),) for i in range(width)),
            mixed=False,
        )
        for n, width in enumerate(widths)
    )
    return ChannelGroups(layers=made, frozen=0, unknown=())


def test_a_share_of_each_layer_goes() -> None:
    structure = layers(4, 10)
    scores = [np.array([4.0, 1, 3, 2]), np.arange(10.0)]
    assert importance.choose(structure, scores, 0.5) == [[1, 3], [0, 1, 2, 3, 4]]
    assert importance.choose(structure, scores, 0.5, multiple_of=4) == [[], [0, 1]]
    assert importance.choose(structure, [None, scores[1]], 0.5) == [[], [0, 1, 2, 3, 4]]


def test_all_layers_are_ranked_together() -> None:
    structure = layers(10, 10)
    weak, strong = np.linspace(0.1, 0.2, 10), np.linspace(1, 2, 10)
    removed = importance.choose(structure, [weak, strong], 0.5, scope="global")
    assert removed == [list(range(9)), [0]]  # a tenth of the weak layer stays
    with pytest.raises(UsageError, match=r"each keeps a tenth, so at most 0\.9 can go"):
        importance.choose(structure, [weak, strong], 0.95, scope="global")


def test_a_layer_that_would_be_empty_is_named() -> None:
    with pytest.raises(UsageError, match=r"0\.9 of the 4 channels of l0 leaves none; .* can give is 0\.75"):
        importance.choose(layers(4, 40), [np.arange(4.0), np.arange(40.0)], 0.9)
    with pytest.raises(UsageError, match="none in every layer"):
        importance.choose(layers(4), [np.arange(4.0)], 0.05)
    with pytest.raises(UsageError, match="from 0 to below 1"):
        importance.choose(layers(4), [np.arange(4.0)], 1.0)


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=6),
    st.floats(0, 0.95),
    st.sampled_from(["layer", "global"]),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_every_layer_keeps_some_and_the_best(
    widths: list[int], ratio: float, scope: str, multiple_of: int, seed: int
) -> None:
    structure = layers(*widths)
    scores = importance.random(structure, seed)
    try:
        removed = importance.choose(structure, scores, ratio, scope=scope, multiple_of=multiple_of)  # type: ignore[arg-type]
    except UsageError:
        return
    for layer, own, gone in zip(structure.layers, scores, removed, strict=True):
        stays = np.setdiff1d(np.arange(layer.width), gone)
        assert len(stays) >= 1
        assert len(stays) == layer.width or len(stays) % multiple_of == 0
        assert not gone or own[gone].max() <= own[stays].min()
