"""The mean over mirror images, of a module and of a forward of arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchbench.core.errors import UnsupportedError
from benchbench.zoo.mirrored import images, mirrored_arrays, mirrored_module, mirroring_text

SHAPE = (2, 3, 4, 5, 6)


class Counting(nn.Module):
    """A convolution that is no mirror image of itself, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 3, padding=1)
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        self.calls += 1
        return self.conv(x), "and something else"


def test_every_combination_of_axes_is_one_image() -> None:
    assert images(()) == [()]
    assert images((0, 2)) == [(), (2,), (4,), (2, 4)]
    assert len(images((0, 1, 2))) == 8
    assert mirroring_text((0,)) == "mean over 2 mirror images (axis D)"
    assert mirroring_text((0, 2)) == "mean over 4 mirror images (axes D,W)"


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_the_mean_is_that_of_the_answers_mirrored_back(axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, x = Counting().eval(), torch.randn(SHAPE)
    with torch.no_grad():
        expected = torch.stack(
            [
                network(x.flip([axis + 2 for axis in some]))[0].flip([axis + 2 for axis in some])
                for n in range(len(axes) + 1)
                for some in itertools.combinations(axes, n)
            ]
        ).mean(0)
        network.calls = 0
        of_tensors = mirrored_module(network, axes)(x)
        assert network.calls == 2 ** len(axes)
        of_arrays = mirrored_arrays(lambda a: network(torch.from_numpy(a))[0].numpy(), axes)(x.numpy())
    torch.testing.assert_close(of_tensors, expected)
    torch.testing.assert_close(torch.from_numpy(of_arrays), expected)


def test_the_mean_does_not_change_if_the_input_is_mirrored() -> None:
    torch.manual_seed(0)
    network, x = mirrored_module(Counting().eval(), (1,)), torch.randn(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(network(x.flip(3)).flip(3), network(x))


def test_without_axes_it_is_the_network_itself() -> None:
    network = Counting()
    assert mirrored_module(network, ()) is network
    assert mirrored_arrays(np.negative, ()) is np.negative


def test_an_answer_that_is_not_dense_cannot_be_mirrored_back() -> None:
    with pytest.raises(UnsupportedError, match="not dense"):
        mirrored_arrays(lambda x: x.mean((2, 3, 4)), (0,))(np.zeros(SHAPE, np.float32))
    with pytest.raises(UnsupportedError, match="no dense output"):
        mirrored_module(nn.Flatten(), (0,))(torch.zeros(SHAPE))


def test_a_network_in_evaluation_stays_in_it() -> None:
    assert not mirrored_module(Counting().eval(), (0,)).training
