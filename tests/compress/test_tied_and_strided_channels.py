"""Weights under several names and slices with a step: pruned as the whole network with zeros answers, or one line."""

import threading

import pytest
import torch
from torch import nn

from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.measure.flops.graph import measure_cost
from benchbench.zoo.pruned import shapes_of

SHAPE = (1, 2, 4, 4, 4)


class Chain(nn.Module):
    def __init__(self, kept=8):
        super().__init__()
        self.a = nn.Conv3d(2, 8, 3, padding=1)
        self.b = nn.Conv3d(8, 8, 3, padding=1)
        self.out = nn.Conv3d(kept, 3, 1)
        self.lock = threading.Lock()

    def forward(self, x):
        return self.out(self.b(torch.relu(self.a(x))))


class Tied(Chain):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv3d(8, 8, 3, padding=1)
        self.c.weight, self.c.bias = self.b.weight, self.b.bias

    def forward(self, x):
        return self.out(self.c(torch.relu(self.b(torch.relu(self.a(x))))))


class TiedNorms(Chain):
    def __init__(self):
        super().__init__()
        self.n, self.m = nn.BatchNorm3d(8), nn.BatchNorm3d(8)
        self.m.weight = self.n.weight

    def forward(self, x):
        return self.out(self.m(self.b(torch.relu(self.n(self.a(x))))))


class Strided(Chain):
    def __init__(self, start=0, step=2, kept=4):
        super().__init__(kept)
        self.start, self.step = start, step

    def forward(self, x):
        return self.out(self.b(torch.relu(self.a(x)))[:, self.start :: self.step])


class StridedAndAdded(Chain):
    def __init__(self):
        super().__init__(4)
        self.b = nn.Conv3d(8, 4, 3, padding=1)

    def forward(self, x):
        y = self.a(x)
        return self.out(self.b(y) + y[:, ::2])


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize(
    "make",
    [Chain, Tied, TiedNorms, Strided, lambda: Strided(1), lambda: Strided(2, 3, 2), lambda: Strided(0, 3, 3),
     StridedAndAdded],
)  # fmt: skip
def test_a_network_is_cut_where_it_answers_as_with_zeros(make, ratio):
    torch.manual_seed(0)
    model = make().eval()
    for seed in range(3):
        pruned = prune(model, SHAPE, PruneRecipe(ratio=ratio, criterion="random", scope="global", seed=seed))
        assert pruned.agreement is None or pruned.agreement <= 1e-4
        assert pruned.model(torch.randn(SHAPE)).shape == (1, 3, 4, 4, 4)
        assert measure_cost(pruned.model, SHAPE).macs < measure_cost(model, SHAPE).macs


def test_a_weight_of_two_names_stays_one():
    pruned = prune(Tied().eval(), SHAPE, PruneRecipe(ratio=0.5, criterion="magnitude")).model
    assert pruned.b.weight is pruned.c.weight
    shapes = shapes_of(pruned)
    assert shapes["b.weight"] == shapes["c.weight"] == (4, 4, 3, 3, 3)
