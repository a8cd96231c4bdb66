"""The moving average of the weights: over a share of the training, however long that is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchbench.training.weight_average import WeightAverage


def average_of(values: list[float], share: float) -> float:
    """The average of a single weight that takes these values in turn."""
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, share)
    for n, value in enumerate(values, 1):
        nn.init.constant_(network.weight, value)
        average.update(n)
    return average.tensors["weight"].item()


@pytest.mark.parametrize("steps", [50, 2000])
def test_it_covers_the_same_share_of_a_short_and_a_long_training(steps: int) -> None:
    values = [n / steps for n in range(1, steps + 1)]
    assert average_of(values, 0.1) == pytest.approx(10 / 11, abs=0.01)  # the mean of x under x^9
    assert average_of(values, 0.25) == pytest.approx(4 / 5, abs=0.01)


def test_how_a_training_began_is_forgotten() -> None:
    assert average_of([1000.0] * 20 + [1.0] * 180, 0.1) == pytest.approx(1.0, abs=1e-3)


def test_without_a_share_it_is_the_present_weights() -> None:
    assert average_of([3.0, 5.0, 4.0], 0.0) == 4.0


def test_counts_are_copied_and_statistics_averaged() -> None:
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.5)
    for n in (1, 2):
        network(torch.full((4, 2), 10.0 * n))
        average.update(n)
    assert average.tensors["num_batches_tracked"].item() == 2
    first, second = 1.0, 0.9 * 1.0 + 2.0  # running means at momentum 0.1
    assert average.tensors["running_mean"][0].item() == pytest.approx(first / 4 + second * 3 / 4)


def test_applied_weights_are_taken_back() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, 0.5)
    before = average.tensors["weight"].clone()
    nn.init.constant_(network.weight, 7.0)
    with average.applied():
        assert torch.equal(network.weight, before)
    assert network.weight.item() == 7.0
