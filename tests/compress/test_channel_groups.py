"""Channels that hang together are found, in every network of the zoo and in the ways that networks use them."""

from __future__ import annotations

import copy
import math
import random
import warnings

import pytest
import torch
from torch import Tensor, nn

from benchbench.compress import channel_groups
from benchbench.compress.channel_groups import ChannelGroups, find_structure, keep_indices, remove
from benchbench.compress.channel_tracer import FastNorms, reshaped
from benchbench.compress.operator_rules import _MetaIndex
from benchbench.compress.prune import compare_with_zeros, prune
from benchbench.compress.request import PruneRecipe
from benchbench.core.errors import ShapeError, UsageError
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo.pruned import differing_shapes, resize, shapes_of
from tests.small_zoo import small_spec

SEGMENT = [name for name in zoo_cards.list_models() if zoo_cards.get_card(name).task == "segmentation"]
LARGER = {"nnunet": 64, "nnunet_small": 64, "nnunet_resenc_m": 64, "swin_unetr": 64}  # deeper than 32 voxels allow


def shape_of(name: str) -> tuple[int, ...]:
    return (1, 4, *(LARGER.get(name, 32),) * 3)


def lived_in(model: nn.Module) -> nn.Module:
    """Norms as after some training: with them as they begin, a lost scale or mean would go unseen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def third(structure: ChannelGroups, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.sample(range(layer.width), max(1, layer.width // 3)) for layer in structure.layers]


@pytest.mark.parametrize("name", SEGMENT)
def test_a_pruned_network_of_the_zoo_answers_as_the_whole_one_with_zeros(name: str) -> None:
    shape = shape_of(name)
    spec = small_spec(name)
    model = lived_in(zoo_build.build(spec, shape[2:]))
    structure = find_structure(model, shape)
    assert structure.unknown == ()
    assert structure.width > 80
    removed = third(structure)
    agreement = compare_with_zeros(model, structure, removed, shape)
    assert agreement is not None
    assert agreement < 1e-5

    small = remove(model, structure, removed)  # layers under a norm over channels, too
    assert sum(p.numel() for p in small.parameters()) < 0.75 * sum(p.numel() for p in model.parameters())
    x = torch.randn(shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        out = small(x)
    wanted = (1, 3, *shape[2:])
    assert (out[0] if isinstance(out, (list, tuple)) else out).shape == wanted

    plain = zoo_build.build(spec, shape[2:])
    resize(plain, differing_shapes(small, plain))  # what a sidecar holds is enough to build it
    assert shapes_of(plain) == shapes_of(small)
    plain.load_state_dict(small.state_dict())
    with torch.no_grad():
        again = plain.eval()(x)
    first, second = (one[0] if isinstance(one, (list, tuple)) else one for one in (out, again))
    assert torch.equal(first, second)


# -- the ways of a channel


def widths(structure: ChannelGroups) -> list[int]:
    return sorted(layer.width for layer in structure.layers)


class Residual(nn.Module):
    """Two convolutions whose outputs are added: their channels are one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(1, 6, 1), nn.Conv3d(6, 6, 1), nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(torch.relu(x + self.b(x)))  # type: ignore[no-any-return]


def test_what_is_added_is_one_channel() -> None:
    model = Residual()
    found = find_structure(model, (1, 1, 2, 2, 2))
    assert widths(found) == [6]
    places = {(place.name, place.axis) for place in found.layers[0].channels[0]}
    assert places == {
        ("a.weight", 0),
        ("a.bias", 0),
        ("b.weight", 0),
        ("b.weight", 1),
        ("b.bias", 0),
        ("c.weight", 1),
    }
    assert found.frozen == 2  # the outputs


class Concatenated(nn.Module):
    """Two layers side by side in one axis: each is chosen from for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(1, 4, 1), nn.Conv3d(1, 5, 1), nn.Conv3d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat((self.a(x), self.b(x)), 1))  # type: ignore[no-any-return]


def test_layers_side_by_side_stay_apart() -> None:
    assert widths(find_structure(Concatenated(), (1, 1, 2, 2, 2))) == [4, 5]


class WithImage(nn.Module):
    """The image itself is joined to channels: it cannot go, they can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(2, 4, 1), nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat((x, self.a(x)), 1))  # type: ignore[no-any-return]


def test_channels_beside_the_image_can_go() -> None:
    model = WithImage().eval()
    found = find_structure(model, (1, 2, 2, 2, 2))
    assert widths(found) == [4]
    agreement = compare_with_zeros(model, found, [[1, 2]], (1, 2, 2, 2, 2))
    assert agreement is not None
    assert agreement < 1e-6


class Heads(nn.Module):
    """Attention of two heads of three channels, queries, keys and values from one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_all_heads_lose_the_same() -> None:
    found = find_structure(Heads(), (1, 5, 4))
    assert widths(found) == [3]
    assert len([p for p in found.layers[0].channels[0] if p.name == "qkv.weight"]) == 6  # of q, k and v in two heads
    small = remove(Heads(), found, [[2]])
    assert small.qkv.out_features == 12
    assert small(torch.zeros(1, 5, 4)).shape == (1, 5, 4)


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(1, 6, 1), nn.Conv3d(6, 12, 3, padding=1, groups=6), nn.Conv3d(12, 2, 1)
        self.d = nn.ConvTranspose3d(6, 6, 2, stride=2, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.d(self.a(x))))  # type: ignore[no-any-return]


def test_depthwise_convolutions_lose_groups() -> None:
    model = Depthwise().eval()
    found = find_structure(model, (1, 1, 2, 2, 2))
    assert widths(found) == [6]
    small = remove(model, found, [[0, 4]])
    assert (small.b.groups, small.b.in_channels, small.b.out_channels) == (4, 4, 8)
    assert (small.d.groups, small.d.in_channels, small.d.out_channels) == (4, 4, 4)
    agreement = compare_with_zeros(model, found, [[0, 4]], (1, 1, 2, 2, 2))
    assert agreement is not None
    assert agreement < 1e-6


class Normed(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 8, 1), nn.GroupNorm(groups, 8), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("groups", "units", "mixed"), [(1, 8, True), (4, 4, False), (8, 8, False)])
def test_groups_of_a_norm_go_whole(groups: int, units: int, mixed: bool) -> None:
    model = lived_in(Normed(groups))
    found = find_structure(model, (1, 1, 2, 2, 2))
    assert [(layer.width, layer.mixed) for layer in found.layers] == [(units, mixed)]
    small = remove(model, found, [[1]])
    assert small.norm.num_channels == 8 - 8 // units
    agreement = compare_with_zeros(model, found, [[1]], (1, 1, 2, 2, 2))
    assert (agreement is None) if mixed else (agreement is not None and agreement < 1e-6)


class Shuffled(nn.Module):
    """Reads channels as space: no single one of them can go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 8, 1), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        return self.b(x.reshape(1, 8, 2, 2, 2))  # type: ignore[no-any-return]


class Counted(Residual):
    """Its forward has a width as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).reshape(1, 6, *x.shape[2:]))  # type: ignore[no-any-return]


class Transformed(Residual):
    """An operator that there is no rule for."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.fft.fftn(self.a(x), dim=(2, 3, 4)).real)  # type: ignore[no-any-return]


class Halved(nn.Module):
    """Its forward cuts the channels in the middle, wherever that is: both halves have to lose the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 9, 1), nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x[:, : x.shape[1] // 2])  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [Shuffled(), Counted(), Transformed()])
def test_what_cannot_go_is_left(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="no channel of this network can be removed"):
        find_structure(model, (1, 1, 2, 2, 2))


def test_a_cut_that_a_forward_does_not_bear_is_refused() -> None:
    model = Halved().eval()
    with torch.no_grad():
        model.a.weight[5:] = 1e-3
        model.a.bias[5:] = 0
    with pytest.raises(UsageError, match="its forward fails, so it is not pruned: "):
        prune(model, (1, 1, 2, 2, 2), PruneRecipe(ratio=0.3, criterion="magnitude", scope="global"))


class Supervised(Residual):
    """It has a second output in training, of weights that nothing else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Conv3d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:  # type: ignore[override]
        h = self.a(x)
        return [self.c(h), self.more(h)] if self.training else self.c(h)


def test_outputs_of_training_are_followed() -> None:
    model = Supervised()
    found = find_structure(model, (1, 1, 2, 2, 2))
    small = remove(model, found, [[0, 3]])
    assert [tuple(out.shape) for out in small.train()(torch.zeros(1, 1, 2, 2, 2))] == [(1, 2, 2, 2, 2)] * 2
    assert small.more.in_channels == 4


class Scaled(Heads):
    """PyTorch's own attention takes its scale from the width, which is not the whole network's after a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(torch.relu(self.first(x)))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(9 * q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_layers_that_answer_otherwise_are_left(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    made = prune(Scaled().eval(), (1, 5, 4), PruneRecipe(ratio=0.5, criterion="magnitude"))
    assert "1 layers keep all their channels" in caplog.text
    assert made.model.first.out_features == 4
    assert made.model.qkv.out_features == 18


def test_a_copy_learns_the_width_of_a_norm_for_itself() -> None:
    model = nn.Sequential(nn.Conv3d(1, 4, 1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 1))
    shape = (1, 1, 2, 2, 2)
    small = remove(model, find_structure(model, shape), [[0]])
    copied = copy.deepcopy(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for one in (copied, small, small):
            one(torch.zeros(shape))
    assert small[1].num_features == copied[1].num_features == 3
    assert not small[1]._forward_pre_hooks


def test_a_grouped_transposed_convolution_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv3d(1, 6, 1), nn.Conv3d(6, 8, 1), nn.ConvTranspose3d(8, 4, 2, stride=2, groups=4))
    found = find_structure(model, (1, 1, 2, 2, 2))
    assert widths(found) == [6]
    small = remove(model, found, [[0]])
    assert (small[2].groups, small[2].out_channels) == (4, 4)
    assert small(torch.zeros(1, 1, 2, 2, 2)).shape == (1, 4, 4, 4, 4)


class Deceptive(nn.Module):
    """What comes out depends on how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 8, 1), nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) / x.shape[1]  # type: ignore[no-any-return]


def test_a_network_that_changes_with_its_width_is_refused() -> None:
    with pytest.raises(UsageError, match="differs by 1 of its norm"):
        prune(Deceptive(), (1, 1, 2, 2, 2), PruneRecipe(ratio=0.5, criterion="magnitude"))


@pytest.mark.parametrize(
    ("own", "full", "shape"),
    [
        ((2, 1, 3, 1, 1), (2, 5, 3, 4, 4), (10, 3, 4, 4)),
        ((1, 2, 1, 1), (6, 2, 4, 4), (3, 2, 2, 4, 4)),
        ((1, 2, 1), (4, 2, 4), (4, 2, 4)),
        ((1, 6, 1), (4, 6, 4), (4, 2, 3, 4)),
        ((1, 1), (4, 4), (16,)),
        ((3, 1), (3, 4), (4, 3)),
        ((1, 3, 1), (1, 3, 4), (3, 4)),
        ((2, 1), (2, 0), (0, 2)),
    ],
)
def test_numbers_without_a_stride_are_reshaped_as_if_written_out(
    own: tuple[int, ...], full: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    numbers = torch.arange(math.prod(own)).reshape(own).expand(full)
    found = reshaped(numbers, shape)
    assert torch.equal(found, numbers.contiguous().reshape(shape))
    assert found.untyped_storage().nbytes() <= numbers.contiguous().untyped_storage().nbytes()


class Positioned(nn.Module):
    """A table of positions that a buffer of numbers looks up, as the bias of a window's attention is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table, self.b = nn.Conv3d(1, 4, 1), nn.Parameter(torch.randn(5, 4)), nn.Conv3d(4, 2, 1)
        self.register_buffer("where", torch.arange(8) % 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.where].t().reshape(1, -1, 2, 2, 2)
        return self.b(self.a(x) + bias)  # type: ignore[no-any-return]


def test_a_table_is_looked_up_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 1, 2, 2, 2)
    with_values = channel_groups._structure(channel_groups._trace_with_values(Positioned(), shape).tracer)
    monkeypatch.delattr(channel_groups, "_trace_with_values")  # which takes many times as long
    found = find_structure(Positioned(), shape)
    assert found == with_values
    places = {(place.name, place.axis) for place in found.layers[0].channels[2]}
    assert places == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1), ("table", 1)}


class Reordered(nn.Module):
    """Channels in an order that only the values of a buffer tell."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 4, 1), nn.Conv3d(4, 2, 1)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, self.order])  # type: ignore[no-any-return]


def test_an_order_of_channels_is_followed_with_its_values() -> None:
    shape = (1, 1, 2, 2, 2)
    with pytest.raises(_MetaIndex, match="moves channels by an index that has no values"):
        channel_groups._trace(Reordered().to("meta"), shape)
    (layer,) = channel_groups._structure(channel_groups._trace_with_values(Reordered(), shape).tracer).layers
    pairs = {tuple(p.index for p in one if p.name in ("a.weight", "b.weight")) for one in layer.channels}
    assert pairs == {(2, 0), (0, 1), (3, 2), (1, 3)}
    with pytest.raises(UsageError):
        find_structure(Reordered(), shape)  # the order has as many numbers as there are channels


class DeepSupervised(nn.Module):
    """An output for training alone, behind a norm of batches, which refuses a map of one voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4)
        self.b, self.extra = nn.Conv3d(4, 2, 1), nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.norm(self.a(x))
        return [self.b(x), self.extra(x)] if self.training else [self.b(x)]


def test_an_output_for_training_is_followed_where_the_map_has_one_voxel() -> None:
    (layer,) = find_structure(DeepSupervised(), (1, 1, 1, 1, 1)).layers
    assert ("extra.weight", 1) in {(place.name, place.axis) for place in layer.channels[0]}
    small = remove(DeepSupervised(), find_structure(DeepSupervised(), (1, 1, 1, 1, 1)), [[0, 2]])
    assert [out.shape[1] for out in small.train()(torch.randn(2, 1, 1, 1, 1))] == [2, 2]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), nn.BatchNorm3d(6), nn.InstanceNorm3d(6, affine=True)])
def test_norms_without_values_have_the_same_shapes_and_refuse_the_same(norm: nn.Module, training: bool) -> None:
    ghost = copy.deepcopy(norm).to("meta").train(training)
    x = torch.zeros(2, 6, 3, 4, 5, device="meta")
    for given in (x, x.permute(0, 1, 4, 2, 3)):
        plain = ghost(given)
        with FastNorms():
            quick = ghost(given)
        assert (quick.shape, quick.stride(), quick.dtype) == (plain.shape, plain.stride(), plain.dtype)
    with FastNorms(), pytest.raises((RuntimeError, ValueError)):
        ghost(torch.zeros(2, 4, 3, 4, 5, device="meta"))


def test_finding_leaves_the_network_as_it_was() -> None:
    model = lived_in(Normed(4)).train()
    before = copy.deepcopy(model.state_dict())
    remove(model, find_structure(model, (1, 1, 2, 2, 2)), [[0]])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_layer_cannot_lose_everything() -> None:
    model = Residual()
    found = find_structure(model, (1, 1, 2, 2, 2))
    with pytest.raises(ShapeError, match=r"all 6 channels of a\.bias would be removed"):
        keep_indices(found.layers, [range(6)], shapes_of(model))


def test_weights_are_only_cut_to_what_they_have() -> None:
    with pytest.raises(ShapeError, match="has no such weight"):
        resize(Residual(), {"z.weight": [1]})
    with pytest.raises(ShapeError, match="the network's is"):
        resize(Residual(), {"a.weight": [7, 1, 1, 1, 1]})
    for bad in (["a.weight"], {"a.weight": [1.5]}, {"a.weight": 3}):
        with pytest.raises(ShapeError, match="not names with lists of whole numbers"):
            resize(Residual(), bad)  # type: ignore[arg-type]


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv3d(1, 4, 1)
        self.same, self.b = self.a, nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.same(x))  # type: ignore[no-any-return]


def test_weights_of_two_names_stay_one() -> None:
    found = find_structure(Twice(), (1, 1, 2, 2, 2))
    small = remove(Twice(), found, [[0]])
    assert small.same.weight is small.a.weight
    assert small.a.weight.shape[0] == 3
    assert differing_shapes(small, Twice())["same.weight"] == [3, 1, 1, 1, 1]
    again = Twice()
    resize(again, differing_shapes(small, Twice()))
    assert again.same.weight is again.a.weight


# -- beside torch-pruning, where that works


@pytest.mark.parametrize(
    ("name", "but"),
    [
        ("mednext_s", ()),
        ("segformer3d", ()),
        ("attention_unet", ("encoder.1.3", "encoder.2.3")),  # it takes the gates' one channel away with them
        ("unetr", ("qkv",)),  # it knows nothing of heads unless it is told
    ],
)
def test_torch_pruning_removes_the_same(name: str, but: tuple[str, ...]) -> None:
    tp = pytest.importorskip("torch_pruning")
    model = zoo_build.build(small_spec(name), (32, 32, 32)).eval()
    structure = find_structure(model, (1, 4, 32, 32, 32))
    owner = {
        (place.name, place.axis): (number, channel)
        for number, layer in enumerate(structure.layers)
        for channel, places in enumerate(layer.channels)
        for place in places
        if place.index == 0
    }
    x, compared = torch.randn(1, 4, 32, 32, 32), 0
    for module_name, module in model.named_modules():
        if not isinstance(module, (nn.Conv3d, nn.Linear)) or getattr(module, "groups", 1) > 1:
            continue
        if (f"{module_name}.weight", 0) not in owner or any(part in module_name for part in but) or compared == 4:
            continue
        number, channel = owner[(f"{module_name}.weight", 0)]
        ours = remove(model, structure, [[channel] if n == number else [] for n in range(len(structure.layers))])
        theirs = copy.deepcopy(model)
        graph = tp.DependencyGraph().build_dependency(theirs, x)
        kind = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        graph.get_pruning_group(theirs.get_submodule(module_name), kind, idxs=[0]).prune()
        assert shapes_of(theirs) == shapes_of(ours), module_name
        compared += 1
    assert compared >= 3
