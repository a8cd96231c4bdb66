"""Each defect of the published Slim UNETR: seen in the faithful network, gone from the corrected one."""

from pathlib import Path

import pytest
import torch

import benchbench
from benchbench.models.slim_unetr import SlimUNETR, SparseAttention
from benchbench.models.slim_unetr_fixed import PooledAttention, SlimUNETRFixed, cell_means
from benchbench.zoo import checkpoint

SMALL = {"channels": (4, 4, 8), "embed_dim": 8, "blocks": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "dropout": 0.0}
BOTH = pytest.mark.parametrize(("network", "corrected"), [(SlimUNETR, False), (SlimUNETRFixed, True)])
ATTENTIONS = pytest.mark.parametrize(("attention", "corrected"), [(SparseAttention, False), (PooledAttention, True)])


def small(network, spatial=(32, 64, 64), out_channels=2, **more):
    torch.manual_seed(0)
    return network(1, out_channels, spatial, **{**SMALL, **more}).eval()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def test_holds_the_published_parameters_but_for_the_norm_over_the_logits():
    own, published = benchbench.build_model("slim_unetr_fixed"), benchbench.build_model("slim_unetr")
    shapes = {name: tuple(p.shape) for name, p in published.named_parameters()}
    norm = {"ups.0.norm.weight": (3,), "ups.0.norm.bias": (3,)}
    assert {name: tuple(p.shape) for name, p in own.named_parameters()} | norm == shapes
    assert not norm.keys() & own.state_dict().keys()


def test_every_parameter_is_used():
    model = small(SlimUNETRFixed).train()
    with torch.enable_grad():
        model(torch.randn(2, 1, 32, 64, 64)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@ATTENTIONS
def test_attention_is_scaled_by_the_width_of_a_head(attention, corrected):
    torch.manual_seed(0)
    module = attention(8, 2, 1)
    x = torch.randn(1, 8, 2, 3, 4)
    q, k, v = module.qkv(x).flatten(2).view(1, 2, 12, 24).split(4, dim=2)
    scaled = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(2, 3) for t in (q, k, v)))
    assert torch.allclose(module(x), scaled.transpose(2, 3).reshape(x.shape), atol=1e-6) is corrected


@ATTENTIONS
def test_every_voxel_reaches_the_attention(attention, corrected):
    torch.manual_seed(0)
    module = attention(4, 1, 4)
    x = torch.randn(1, 4, 8, 8, 8)
    with torch.enable_grad():
        x.requires_grad_()
        module(x).square().sum().backward()
    reached = (x.grad != 0).any(dim=1).sum()
    assert reached == (8**3 if corrected else 8)


@BOTH
def test_the_bottleneck_keeps_channels_and_places_in_order(network, corrected):
    """With a deepest stage that passes on what it gets, the decoder must see the encoder's map."""
    model = small(network)
    model.encoder[3], model.decoder[3] = torch.nn.Identity(), torch.nn.Identity()
    seen = []
    model.downs[3].register_forward_hook(lambda m, args, out: seen.append(out))
    model.ups[3].register_forward_hook(lambda m, args, out: seen.append(args[0]))
    model(torch.randn(1, 1, 32, 64, 64))
    assert torch.equal(seen[0], seen[1]) is corrected


@BOTH
def test_logits_are_not_normalised(network, corrected):
    """Twice the last weights are twice the logits, unless a norm takes it back."""
    model = small(network)
    x = torch.randn(1, 1, 32, 64, 64)
    before = model(x)
    model.ups[0].conv.weight *= 2
    model.ups[0].conv.bias *= 2
    assert torch.allclose(model(x), 2 * before, rtol=1e-4, atol=1e-5) is corrected


@BOTH
def test_weights_of_one_size_serve_another(network, corrected):
    trained = small(network, (32, 64, 64))
    trained.position_embedding.normal_()
    weights = trained.state_dict()
    if not corrected:
        with pytest.raises(ValueError, match="build it with the size"):
            trained(torch.zeros(1, 1, 64, 64, 96))
        return
    assert trained(torch.randn(1, 1, 64, 64, 96)).shape == (1, 2, 64, 64, 96)
    twin = small(network, (32, 64, 64), channels=(4, 4, 8))
    twin.load_state_dict(weights)
    x = torch.randn(1, 1, 32, 64, 64)
    assert torch.equal(twin(x), trained(x))


def test_the_position_embedding_is_read_in_the_order_of_the_voxels_and_interpolated_between():
    model = small(SlimUNETRFixed, (64, 32, 32))
    model.position_embedding.copy_(torch.tensor([0.0, 1.0])[None, :, None])  # 2 x 1 x 1 voxels
    own = model._positions((2, 1, 1))
    assert own[0, :, :, 0, 0].tolist() == [[0.0, 1.0]] * 8
    longer = model._positions((4, 1, 2))
    assert longer[0, 0, :, 0, 1].tolist() == [0.0, 0.25, 0.75, 1.0]


@BOTH
def test_any_size_is_padded_and_cropped(network, corrected):
    if not corrected:
        with pytest.raises(ValueError, match="multiple of 32"):
            small(network, (33, 50, 7))
        return
    model = small(network, (33, 50, 7))
    assert model.spatial == (64, 64, 32)
    x = torch.randn(2, 1, 33, 50, 7)
    padded = torch.zeros(2, 1, 64, 64, 32)
    padded[:, :, :33, :50, :7] = x
    assert torch.equal(model(x), model(padded)[:, :, :33, :50, :7])


def test_cells_of_the_deepest_stage_are_padded_to_as_well():
    model = small(SlimUNETRFixed, (32, 40, 64), r=(4, 2, 2, 2))
    assert model.spatial == (64, 64, 64)
    assert model(torch.zeros(1, 1, 32, 40, 64)).shape == (1, 2, 32, 40, 64)


PATCH = (40, 56, 40)  # of the hippocampus


@pytest.mark.parametrize("stem", [1, 2, 4, 8])
def test_each_stage_is_padded_only_as_far_as_its_own_stride_needs(stem):
    model = small(SlimUNETRFixed, PATCH, stem=stem, padding="stages")
    maps = []
    for stage in model.encoder:
        stage.register_forward_hook(lambda m, args, out: maps.append(tuple(out.shape[2:])))
    assert model(torch.randn(1, 1, *PATCH)).shape == (1, 2, *PATCH)
    strides = [stem, 2 * stem, 4 * stem, 8 * stem]
    assert maps == [tuple(-(-side // stride) for side in PATCH) for stride in strides]


@pytest.mark.parametrize(("stem", "r"), [(4, (4, 2, 2, 1)), (2, (4, 2, 2, 1)), (1, (8, 4, 2, 1))])
def test_where_nothing_has_to_be_padded_both_paddings_are_one_network(stem, r):
    sides = (64, 32, 32)
    whole, stages = (small(SlimUNETRFixed, sides, stem=stem, r=r, padding=how) for how in ("whole", "stages"))
    whole.position_embedding.normal_()
    stages.load_state_dict(whole.state_dict())
    x = torch.randn(1, 1, *sides)
    assert torch.equal(stages(x), whole(x))
    for norm in (m for m in whole.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.bias.normal_()
    stages.load_state_dict(whole.state_dict())
    x = torch.randn(1, 1, 33, 30, 32)  # the larger padding is in the norms
    assert not torch.allclose(stages(x), whole(x), atol=1e-4)


def test_padding_is_part_of_no_cell_and_no_answer():
    x = torch.randn(2, 3, 5, 7, 4)
    means = cell_means(x, 4)
    assert means.shape == (2, 3, 2, 2, 1)
    torch.testing.assert_close(means[:, :, 1, 1, 0], x[:, :, 4:, 4:, :4].mean((2, 3, 4)))
    torch.testing.assert_close(means[:, :, 0, 1, 0], x[:, :, :4, 4:, :4].mean((2, 3, 4)))
    assert torch.equal(cell_means(x[:, :, :4, :4], 4), torch.nn.functional.avg_pool3d(x[:, :, :4, :4], 4))


def test_padded_stages_take_any_size_and_train():
    model = small(SlimUNETRFixed, (9, 20, 7), stem=2, padding="stages").train()
    with torch.enable_grad():
        model(torch.randn(2, 1, 9, 20, 7)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.spatial == (9, 20, 7)
    assert model.eval()(torch.randn(1, 1, 33, 18, 40)).shape == (1, 2, 33, 18, 40)


def test_trained_weights_answer_as_they_did_when_they_were_measured():
    """On a patch that is padded, as their Dice was."""
    weights = "models/checkpoints/slim_unetr_fixed-hippocampus.safetensors"
    info = checkpoint.read_sidecar(Path(__file__).parents[2] / weights)
    model = benchbench.build_model(str(info.path)).eval()
    x = torch.linspace(-1, 1, 40 * 56 * 40).reshape(1, 1, *PATCH).sin()
    assert info.spatial == PATCH
    middle = torch.tensor([7.40414, -5.92301, -10.76655])
    torch.testing.assert_close(model(x)[0, :, 20, 28, 20], middle, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"padding": "none"}, "'whole' or 'stages', not 'none'"),
        ({"spatial": (128, 0, 128)}, r"128x0x128"),
        ({"spatial": (128, 128)}, r"three whole sides"),
        ({"heads": (1, 2, 7, 4)}, r"stage 3.*7 does not divide 60"),
        ({"r": (4, 2, 2)}, r"4 positive r, not \(4, 2, 2\)"),
        ({"r": (4, 2, 2, 0)}, r"4 positive r, not \(4, 2, 2, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule_and_the_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SlimUNETRFixed(**kwargs)


def test_other_channels_than_it_was_built_with_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 1, D, H, W\), not \(1, 4, 32, 64, 64\)"):
        small(SlimUNETRFixed)(torch.zeros(1, 4, 32, 64, 64))
