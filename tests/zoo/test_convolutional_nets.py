"""The convolutional networks of the zoo: what each takes, refuses and returns, besides its counts."""

import pytest
import torch

import benchbench
from benchbench.core.errors import ShapeError
from benchbench.models.e1d3 import E1D3
from benchbench.models.mednext import MedNeXt
from benchbench.models.nnunet_resenc import NNUNetResEnc
from benchbench.models.nnunet_v1 import NNUNetV1
from benchbench.models.unet3d import UNet3D

NETWORKS = (
    "attention_unet",
    "e1d3",
    "mednext_b",
    "mednext_s",
    "nnunet_resenc_m",
    "nnunet_v1",
    "segresnet",
    "transvw",
    "unet3d",
    "unet_small",
    "vnet",
)
#: Keywords that make each network small enough to run in a moment.
NARROW = {
    "attention_unet": {"feature_scale": 16},
    "e1d3": {"base_filters": 2},
    "mednext_b": {"base_filters": 2},
    "mednext_s": {"base_filters": 2},
    "nnunet_resenc_m": {"filters": (2, 2, 4, 4, 4, 4), "blocks": (1,) * 6},
    "nnunet_v1": {"base_filters": 2},
    "segresnet": {"init_filters": 8},
    "transvw": {"base_filters": 2},
    "unet3d": {"base_filters": 2},
    "unet_small": {"channels": (2, 2, 2, 2, 2)},
    "vnet": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_without_memory_for_other_channels_and_sides(name):
    with torch.device("meta"):
        network = benchbench.build_model(name, in_channels=1, out_channels=2, spatial=(96, 96, 96)).eval()
        assert network(torch.empty(1, 1, 96, 96, 96)).shape == (1, 2, 96, 96, 96)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_a_round_trip_and_a_batch_comes_back_whole(name, tmp_path):
    torch.manual_seed(0)
    spatial = (64, 32, 32)
    build = {"in_channels": 2, "out_channels": 5, "spatial": spatial, **NARROW[name]}
    first, second = (benchbench.build_model(name, **build).eval() for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(2, 2, *spatial)
    with torch.no_grad():
        logits = first(x)
        assert torch.equal(logits, second(x))
    assert logits.shape == (2, 5, *spatial)
    assert logits.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_training_returns_one_tensor_and_learns_with_all_that_it_uses(name):
    network = benchbench.build_model(name, in_channels=1, out_channels=1, spatial=(64, 32, 32), **NARROW[name])
    logits = network(torch.randn(2, 1, 64, 32, 32))
    assert logits.shape == (2, 1, 64, 32, 32)
    logits.square().mean().backward()
    unused = {key.split(".")[0] for key, p in network.named_parameters() if p.grad is None}
    assert unused <= ({"heads"} if name == "nnunet_v1" else set())  # its coarser heads are run, and thrown away


@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrong_size_is_refused_when_it_comes_as_well(name):
    network = benchbench.build_model(name, spatial=(64, 32, 32), **NARROW[name])
    with pytest.raises(ValueError, match=r"cannot take 40x34x32: every side must be a multiple of"):
        network(torch.zeros(1, 4, 40, 34, 32))


@pytest.mark.parametrize(
    ("name", "side", "nearest"),
    [
        ("e1d3", 16, "16x16x32"),
        ("mednext_s", 16, "16x16x32"),
        ("nnunet_v1", 16, "16x16x32"),
        ("nnunet_resenc_m", 32, "32x32x64"),
        ("unet3d", 8, "8x8x16"),
        ("unet_small", 16, "16x16x32"),
    ],
)
def test_a_size_whose_deepest_stage_has_nothing_to_normalise_over_is_refused(name, side, nearest):
    with pytest.raises(ShapeError, match=f"deepest stage would hold 1 of the 2 voxels .* nearest: {nearest}"):
        benchbench.build_model(name, spatial=(side,) * 3)
    sides = tuple(map(int, nearest.split("x")))
    network = benchbench.build_model(name, spatial=sides, **NARROW[name]).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 4, *sides)).shape == (1, 3, *sides)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("attention_unet", {"feature_scale": 5}, "must divide 64; 5 does not"),
        ("attention_unet", {"spatial": (32, 32, 1)}, "last side must be 2 or more, not 1"),
        ("e1d3", {"base_filters": 15}, "base_filters must be even, not 15"),
        ("e1d3", {"out_channels": 0}, "whole numbers from 1, not out_channels=0"),
        ("mednext_s", {"blocks": (2, 2)}, r"needs 9 blocks, all from 1, not \(2, 2\)"),
        ("mednext_s", {"kernel_size": 4}, "odd kernel_size from 3, not 4"),
        ("nnunet_resenc_m", {"blocks": (1, 2)}, r"one decoder_convs less.*blocks \(1, 2\)"),
        ("nnunet_v1", {"poolings": 0}, "poolings=0"),
        ("segresnet", {"init_filters": 12}, "its 8 groups divide, not 12"),
        ("segresnet", {"blocks_up": (1, 1)}, "one more blocks_down than blocks_up"),
        ("unet3d", {"in_channels": 0}, "in_channels=0"),
        ("unet_small", {"strides": (2, 2)}, r"one stride less.*strides \(2, 2\)"),
        ("unet_small", {"residual_units": -1}, "not -1"),
        ("vnet", {"in_channels": 3}, "in_channels must divide that; 3 does not"),
        ("vnet", {"dropout_prob_up": (0.5,)}, "two dropout_prob_up"),
    ],
)
def test_a_keyword_that_does_not_fit_is_refused_with_the_rule_and_the_value(name, wrong, message):
    with pytest.raises(ShapeError, match=message):
        benchbench.build_model(name, **wrong)


@pytest.mark.parametrize("out_channels", [1, 2, 3, 4, 7])
def test_e1d3_runs_three_decoders_whatever_the_number_of_outputs(out_channels):
    torch.manual_seed(0)
    network = E1D3(1, out_channels, (32, 32, 16), base_filters=2).eval()
    assert len(network.decoders) == 3
    assert sorted({output for outputs in network.dealt for output in outputs}) == list(range(out_channels))
    x = torch.randn(1, 1, 32, 32, 16)
    with torch.no_grad():
        before = network(x)
        for decoder in network.decoders:
            decoder.head.bias[1::2] += 1  # all that is foreground becomes likelier by one
        after = network(x)
    assert torch.allclose(after, before + 1, atol=1e-5)


def test_an_output_of_e1d3_is_foreground_minus_background_of_its_own_decoder():
    network = E1D3(1, 3, (32, 32, 16), base_filters=2).eval()
    x = torch.randn(1, 1, 32, 32, 16)
    with torch.no_grad():
        before = network(x)
        network.decoders[1].head.bias[0] += 2  # background
        after = network(x)
    assert torch.allclose(after - before, torch.tensor([0.0, -2.0, 0.0]).reshape(1, 3, 1, 1, 1), atol=1e-5)


def test_unet3d_normalises_by_the_batch_at_hand_unless_told_to_keep_statistics():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 16, 8)
    with torch.no_grad():
        as_published = UNet3D(1, 1, (16, 16, 8), base_filters=2).eval()
        assert not torch.allclose(as_published(x)[:1], as_published(x[:1]))
        usual = UNet3D(1, 1, (16, 16, 8), base_filters=2, running_statistics=True).eval()
        assert torch.allclose(usual(x)[:1], usual(x[:1]), atol=1e-5)


def test_nnunet_v1_counts_all_its_heads_and_returns_the_finest():
    network = NNUNetV1(1, 2, (32, 32, 32), base_filters=2).eval()
    ran = []
    for head in network.heads:
        head.register_forward_hook(lambda module, inputs, output: ran.append(output))
    with torch.no_grad():
        logits = network(torch.zeros(1, 1, 32, 32, 32))
    assert [output.shape[2] for output in ran] == [4, 8, 16, 32]
    assert logits is ran[-1]


def test_a_block_of_resenc_starts_as_its_residual_alone():
    torch.manual_seed(0)
    block = NNUNetResEnc(1, 1, (64, 32, 32)).encoder[0][0].eval()
    x = torch.rand(1, 32, 4, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(x), x)


def test_mednext_fills_the_first_voxel_of_each_axis_on_the_way_up_with_zeros():
    up = MedNeXt(1, 1, (32, 32, 32), base_filters=2).resample[-1]
    y = up(torch.randn(1, 4, 3, 3, 3))
    assert y.shape == (1, 2, 6, 6, 6)
    assert not y[..., 0].any()
    assert not y[:, :, 0].any()
    assert y[..., 1:, 1:, 1:].all()
