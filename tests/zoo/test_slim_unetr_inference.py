"""The forms of Slim UNETR for inference: the function of the network they are made from, whatever its settings."""

import copy

import pytest
import torch
from torch import nn

from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.models.slim_unetr import SlimUNETR
from benchbench.models.slim_unetr_fixed import SlimUNETRFixed

SMALL = {"channels": (4, 6, 8), "embed_dim": 8, "blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4)}
BOTH = pytest.mark.parametrize("network", [SlimUNETR, SlimUNETRFixed])
FORMS = pytest.mark.parametrize("form", ["eager", "export"])
SETTINGS = {
    "not cubic": ((32, 64, 32), {}),
    "stem 1": ((16, 8, 16), {"stem": 1}),
    "stem 2": ((16, 32, 16), {"stem": 2}),
    "stem 8": ((64, 64, 64), {"stem": 8, "r": (2, 2, 2, 1)}),
    "every voxel attends": ((32, 32, 32), {"r": (1, 1, 1, 1)}),
    "other samples": ((32, 32, 64), {"r": (2, 4, 1, 1)}),
    "widths of attention and MLPs": ((32, 32, 32), {"attention": (2, 8, 4, 12), "expansion": (1, 3, 2, 4)}),
    "one channel": ((32, 32, 64), {"channels": (1, 1, 1), "embed_dim": 1, "heads": (1, 1, 1, 1)}),
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def trained(network, spatial=(32, 32, 32), *, in_channels=2, out_channels=3, seed=0, **more):
    """A network in which no norm, bias or position is what it begins with."""
    torch.manual_seed(seed)
    model = network(in_channels, out_channels, spatial, **{**SMALL, **more})
    return lived_in(model)


def lived_in(model):
    model.position_embedding.normal_()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm3d, nn.GroupNorm)):
            module.weight.uniform_(0.5, 2.0)
            module.bias.normal_()
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3.0)
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.bias is not None:
            module.bias.normal_()
    return model.eval()


def image(model, batch=1, spatial=None, offset=0.0):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.in_channels, *(spatial or model.spatial), generator=generator) + offset


def difference(output, expected):
    """The largest, as a share of the range of the expected logits."""
    assert output.shape == expected.shape
    return float((output - expected).abs().max() / (expected.max() - expected.min()))


@FORMS
@BOTH
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_logits_are_those_of_the_network(setting, network, form):
    spatial, more = SETTINGS[setting]
    model = trained(network, spatial, **more)
    x = image(model)
    assert difference(model.for_inference(form)(x), model(x)) < 1e-5


@FORMS
@BOTH
def test_each_image_of_a_batch_has_norms_of_its_own(network, form):
    model = trained(network)
    x = image(model, batch=3)
    x[1] = x[1] * 5 + 3
    expected = torch.cat([model(sample[None]) for sample in x])
    assert difference(model.for_inference(form)(x), expected) < 1e-5


@FORMS
@BOTH
def test_variances_hold_far_from_zero(network, form):
    """Means of channels that are large beside their deviations, before every norm and in the input."""
    model = trained(network)
    for up in model.ups:
        up.conv.bias += 300.0
    for block in model.modules():
        if hasattr(block, "spread"):
            block.spread.bias += 300.0
    for block in (model.decoder[0][-1], model.decoder[1][-1]):  # before the last two transposed convolutions
        block.diffusion.norm.bias += 1000.0
    x = image(model, offset=1000.0)
    expected = copy.deepcopy(model).double()(x.double()).float()
    assert difference(model(x), expected) < 1e-3, "the network itself must bear this"
    assert difference(model.for_inference(form)(x), expected) < 1e-4


@FORMS
@pytest.mark.parametrize(("stem", "r"), [(1, (8, 4, 2, 1)), (2, (4, 2, 2, 1)), (4, (4, 4, 2, 1)), (8, (2, 1, 1, 1))])
@pytest.mark.parametrize("spatial", [(32, 32, 32), (20, 33, 7), (40, 56, 40)])
def test_stages_that_are_padded_give_the_same_logits(spatial, stem, r, form):
    model = trained(SlimUNETRFixed, (20, 33, 7), stem=stem, r=r, padding="stages")
    x = image(model, batch=2, spatial=spatial)
    assert difference(model.for_inference(form)(x), model(x)) < 1e-5


@FORMS
@pytest.mark.parametrize("spatial", [(32, 32, 32), (20, 33, 7), (40, 32, 65)])
def test_the_corrected_network_takes_any_size(spatial, form):
    model = trained(SlimUNETRFixed, (32, 32, 32))
    x = image(model, spatial=spatial)
    assert difference(model.for_inference(form)(x), model(x)) < 1e-5


@FORMS
@BOTH
def test_a_pruned_network_is_read_by_its_shapes(network, form):
    model = trained(network, channels=(8, 8, 12), embed_dim=12)
    recipe = PruneRecipe(ratio=0.4, criterion="random", scope="layer", multiple_of=1)
    pruned = lived_in(prune(model, (1, 2, 32, 32, 32), recipe).model)
    shapes = {name: value.shape for name, value in pruned.state_dict().items()}
    assert shapes != {name: value.shape for name, value in model.state_dict().items()}
    x = image(model)
    assert difference(pruned.for_inference(form)(x), pruned(x)) < 1e-5


@FORMS
@BOTH
def test_weights_are_copies(network, form):
    model = trained(network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = image(model)
    fast = model.for_inference(form)
    expected = fast(x).clone()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for tensor in model.state_dict().values():
        tensor.add_(1)
    assert torch.equal(fast(x), expected)
    assert not any(p.requires_grad for p in fast.parameters())


@FORMS
def test_the_input_stays_as_it_is_and_calls_are_independent(form):
    model = trained(SlimUNETR)
    fast = model.for_inference(form)
    x = image(model)
    kept = x.clone()
    first = fast(x)
    expected = first.clone()
    fast(x + 1)
    assert torch.equal(x, kept)
    assert torch.equal(first, expected)


@FORMS
@BOTH
def test_training_has_no_effect_on_it(network, form):
    model = trained(network)
    x = image(model)
    expected = model(x)
    model.train()
    fast = model.for_inference(form).train()
    assert not any(module.training for module in fast.modules())
    assert difference(fast(x), expected) < 1e-5


@FORMS
def test_memory_formats_are_only_a_matter_of_speed(form):
    model = trained(SlimUNETR)
    x = image(model, batch=2)
    fast = model.for_inference(form)
    assert difference(fast(x.contiguous(memory_format=torch.channels_last_3d)), fast(x)) < 1e-5
    assert difference(fast(x.transpose(2, 4)), fast(x.transpose(2, 4).contiguous())) < 1e-5


FINE = {"r": (8, 4, 2, 1), "stem": 1}


@pytest.mark.parametrize(
    ("network", "spatial", "more", "form"),
    [
        (SlimUNETR, (32, 32, 32), {}, "export"),
        (SlimUNETRFixed, (32, 20, 40), {}, "export"),
        (SlimUNETRFixed, (10, 14, 9), {"stem": 2, "padding": "stages"}, "export"),
        (SlimUNETRFixed, (10, 14, 9), FINE | {"padding": "stages"}, "export"),
        (SlimUNETRFixed, (10, 14, 9), FINE | {"padding": "stages"}, "itself"),  # as int8 is made of it
        (SlimUNETR, (8, 16, 8), FINE, "export"),
    ],
)
def test_what_is_exported_gives_the_same_by_onnx(network, spatial, more, form, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained(network, **{"spatial": (32, 32, 32) if not more else spatial, "blocks": (1, 1, 1, 1), **more})
    x = image(model, batch=2, spatial=spatial)
    exported = model if form == "itself" else model.for_inference(form)
    program = torch.onnx.export(exported, (x,), dynamo=True, opset_version=20, verbose=False)
    program.save(str(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    output = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert difference(torch.from_numpy(output), model(x)) < 1e-5


def test_the_export_form_writes_nothing_in_place():
    model = trained(SlimUNETR, blocks=(1, 1, 1, 1)).for_inference("export")
    graph = torch.export.export(model, (image(model),)).graph
    operators = [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert operators
    assert [str(operator) for operator in operators if operator._schema.is_mutable] == []


@FORMS
def test_an_input_of_another_size_or_channels_is_refused(form):
    fast = trained(SlimUNETR).for_inference(form)
    with pytest.raises(ValueError, match="build it with the size"):
        fast(torch.zeros(1, 2, 32, 32, 64))
    fixed = trained(SlimUNETRFixed).for_inference(form)
    with pytest.raises(ValueError, match="build it with the channels"):
        fixed(torch.zeros(1, 3, 32, 32, 32))
    with pytest.raises(ValueError, match="build it with the channels"):
        fixed(torch.zeros(2, 32, 32, 32))


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="'eager' or 'export', not 'fast'"):
        trained(SlimUNETR).for_inference("fast")


REPLACED = {
    "ups.0.conv": nn.Conv3d(4, 3, 1),
    "ups.1.norm": nn.InstanceNorm3d(4),
    "downs.2.norm": nn.GroupNorm(2, 8),
    "decoder.1": nn.Identity(),
    "encoder.1.0": nn.Conv3d(6, 6, 1),
    "encoder.1.1.local.0": nn.Identity(),
    "encoder.1.1.local.3": nn.BatchNorm3d(6, track_running_stats=False),
    "encoder.0.0.mlp1.1": nn.GELU(approximate="tanh"),
    "encoder.0.0.mlp2.0": nn.Conv3d(4, 16, 1, bias=True),
    "encoder.0.0.position1": nn.Conv3d(4, 4, 3, padding=1, bias=False),
    "encoder.0.0.attention": nn.Identity(),
    "encoder.0.0.diffusion.spread": nn.ConvTranspose3d(4, 4, 4, stride=4),
}


@FORMS
@pytest.mark.parametrize("where", REPLACED)
def test_a_network_of_which_a_part_was_replaced_is_refused_with_its_name(where, form):
    model = trained(SlimUNETR)
    model.set_submodule(where, REPLACED[where])
    with pytest.raises(ValueError, match=f"'{where}'") as refused:
        model.for_inference(form)
    assert "\n" not in str(refused.value)


@FORMS
def test_a_class_of_ones_own_is_refused(form):
    class Mine(SlimUNETR):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(ValueError, match="SlimUNETR or SlimUNETRFixed"):
        trained(Mine).for_inference(form)
