"""Every card builds, counts to the known integers, and runs; every bad card is refused in one line."""

import dataclasses

import pytest
import torch

import benchbench
from benchbench.core.errors import BenchError, CardError, ShapeError, UsageError
from benchbench.measure.flops.graph import measure_cost
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import classes

#: Parameters and MACs at 1x4x128^3 with three outputs, counted on the public reference implementations.
TRUE_COUNTS = {
    "slim_unetr": (1_783_425, 2_516_379_648),
    "swin_unetr": (62_191_941, 771_643_486_848),
    "unetr": (102_468_147, 183_643_406_336),
    "nnunet": (31_192_035, 482_734_505_984),
    "nnunet_v1": (13_835_040, 444_612_476_928),
    "segresnet": (10_576_155, 330_225_942_528),
    "vnet": (45_607_906, 752_510_566_400),
    "attention_unet": (2_722_950, 114_021_629_952),
    "unet3d": (19_076_387, 1_959_444_611_072),
    "transvw": (19_076_387, 1_959_444_611_072),
    "e1d3": (34_937_961, 870_397_378_560),
    "transbts": (32_987_588, 325_410_881_536),
    "transunet": (187_513_395, 231_961_788_416),
    "unetr_pp": (42_647_195, 72_754_397_184),
    "vit_autoenc": (183_858_451, 103_582_531_584),
    "vit3d": (183_071_234, 103_286_871_552),
    # Not in that table. MedNeXt: its authors' code, less the one parameter that its forward never uses (its
    # README has 5.6 M and 10.5 M). ResEnc M: dynamic-network-architectures 0.4.4, which has 102,353,167 with the heads
    # for deep supervision. The small U-Net: MONAI 1.6.1's class, called directly.
    "mednext_s": (5_551_043, 127_515_889_664),
    "mednext_b": (10_526_435, 166_935_572_480),
    "nnunet_resenc_m": (102_350_851, 722_906_120_192),
    "unet_small": (4_810_074, 13_323_206_656),
    # MONAI 1.6.1's DynUNet, called directly with its filters.
    "nnunet_small": (7_800_819, 122_545_897_472),
    # Slim UNETR less the norm over its logits, 2 values for each of the three; nothing else that is counted changes.
    "slim_unetr_fixed": (1_783_425 - 6, 2_516_379_648),
    # By the formulas of the search.
    "slim_unetr_s2": (140_107, 4_432_650_240),
    # Counted on the public code: its MACs, and its 4,525,251 parameters less norms that the paper does not describe.
    "segformer3d": (4_525_251 - 10_240, 15_546_974_208),
}

#: Networks that pad what does not fit.
ANY_SIZE = {"slim_unetr_fixed", "slim_unetr_s2"}
#: Networks whose constructor reads the values of tensors, so that they cannot be built on `meta`.
READS_VALUES = {"swin_unetr"}


def without_memory(name, **overrides):
    with torch.device("cpu" if name in READS_VALUES else "meta"):
        return benchbench.build_model(name, **overrides).to("meta")


def test_the_zoo_holds_every_network_whose_counts_are_known():
    assert set(TRUE_COUNTS) <= set(benchbench.list_models())


@pytest.mark.parametrize("name", benchbench.list_models())
def test_a_card_says_where_its_network_comes_from(name):
    card = zoo_cards.get_card(name)
    assert card.name == name
    assert card.licence
    assert card.reference.startswith("https://")
    assert card.paper["doi"]
    assert all(p.source for p in card.published)


@pytest.mark.parametrize("name", benchbench.list_models())
def test_a_network_counts_to_the_known_integers_and_maps_patch_to_patch(name):
    model = benchbench.build_model(name)
    cost = measure_cost(model, (1, 4, 128, 128, 128))
    assert (cost.params, cost.macs) == TRUE_COUNTS[name]
    small = benchbench.build_model(name, in_channels=1, out_channels=2, spatial=(64, 32, 64)).eval()
    with torch.no_grad():
        shape = small(torch.zeros(1, 1, 64, 32, 64)).shape
    assert shape == ((1, 2) if zoo_cards.get_card(name).task == "classification" else (1, 2, 64, 32, 64))
    twin = without_memory(name, in_channels=1, out_channels=2, spatial=(64, 32, 64))
    twin.load_state_dict(small.state_dict(), assign=True)
    assert not any(t.is_meta for t in (*twin.parameters(), *twin.buffers()))


@pytest.mark.parametrize("name", benchbench.list_models())
def test_a_network_takes_one_contrast_two_outputs_and_96_voxels_a_side(name):
    model = without_memory(name, in_channels=1, out_channels=2, spatial=(96, 96, 96)).eval()
    y = model(torch.zeros(1, 1, 96, 96, 96, device="meta"))
    assert y.shape == ((1, 2) if zoo_cards.get_card(name).task == "classification" else (1, 2, 96, 96, 96))


@pytest.mark.parametrize("name", sorted({*benchbench.list_models()} - ANY_SIZE))
def test_a_size_that_a_network_cannot_take_is_refused_with_the_rule_and_the_nearest(name):
    with pytest.raises(ShapeError, match=r"100x128x128.*multiple of [\dx]+; nearest: 96x128x128 or 1\d+x128x128"):
        benchbench.build_model(name, spatial=(100, 128, 128))


@pytest.mark.parametrize("name", ["transbts", "transunet", "unetr_pp", "vit3d", "vit_autoenc"])
def test_a_network_of_one_size_refuses_other_sides_with_the_same_number_of_voxels(name):
    model = without_memory(name, in_channels=1, spatial=(32, 64, 64))
    with pytest.raises(ValueError, match=r"takes \(B, 1, 32, 64, 64\), not \(1, 1, 64, 32, 64\)"):
        model(torch.zeros(1, 1, 64, 32, 64, device="meta"))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vit3d", {"num_heads": 7}, "num_heads must divide hidden_size, but 7 does not divide 768"),
        ("vit3d", {"out_channels": 0}, "whole numbers from 1, not out_channels=0"),
        ("vit_autoenc", {"deconv_chns": 0, "num_layers": 1.5}, "not num_layers=1.5, deconv_chns=0"),
        ("transunet", {"num_heads": 0}, "not num_heads=0"),
        ("transbts", {"embed_dim": 320}, "embed_dim must be a multiple of 256.*not 320"),
        ("transbts", {"heads": 3}, "heads must divide embed_dim, but 3 does not divide 512"),
        ("unetr_pp", {"depths": [3, 3, 3]}, r"4 positive depths, not \(3, 3, 3\)"),
        ("unetr_pp", {"heads": 5}, "5 does not divide 32"),
        ("segformer3d", {"heads": [1, 2, 6, 8]}, "stage 3: heads must divide width, but 6 does not divide 160"),
        ("segformer3d", {"reductions": [4, 2, 1, 0]}, "4 positive reductions"),
        ("segformer3d", {"reductions": [4, 2, 1, 2], "spatial": (96, 64, 64)}, "multiple of 64"),
    ],
)
def test_an_architecture_refuses_keywords_that_do_not_fit_with_the_rule_and_the_values(name, overrides, message):
    with pytest.raises(ShapeError, match=message):
        benchbench.build_model(name, **overrides)


def test_overrides_reach_the_architecture():
    narrow = benchbench.build_model("slim_unetr", channels=[8, 16, 32], heads=[1, 2, 4, 4], spatial=(32, 32, 32))
    assert sum(p.numel() for p in narrow.parameters()) == 1_096_409
    with pytest.raises(CardError, match=r"unexpected keyword argument 'depht'|got an unexpected keyword"):
        benchbench.build_model("slim_unetr", depht=3)
    with pytest.raises(ShapeError, match="stage 3: heads must divide"):
        benchbench.build_model("slim_unetr", heads=[1, 2, 7, 4])


def test_models_are_found_by_name_glob_path_and_class(tmp_path):
    assert {c.name for c in zoo_cards.find_cards("all")} == set(benchbench.list_models())
    assert [c.name for c in zoo_cards.find_cards("slim_unetr,slim_*")] == [
        "slim_unetr",
        "slim_unetr_fixed",
        "slim_unetr_s2",
    ]
    assert {c.name for c in zoo_cards.find_cards("*unetr")} == {"slim_unetr", "swin_unetr", "unetr"}
    card = tmp_path / "mine.toml"
    card.write_text('name = "mine"\ntitle = "Mine"\narch = "torch.nn:Conv3d"\n[kwargs]\nkernel_size = 1\n')
    assert isinstance(benchbench.build_model(str(card)), torch.nn.Conv3d)
    assert zoo_cards.find_cards("torch.nn:Identity")[0].name == "torch.nn:Identity"
    assert isinstance(benchbench.build_model("torch.nn:Identity"), torch.nn.Identity)


def test_a_card_of_another_kind_under_a_name_already_chosen_is_refused(tmp_path):
    card = tmp_path / "x.toml"
    card.write_text('name = "unetr"\ntitle = "Mine"\narch = "torch.nn:Identity"\n')
    with pytest.raises(UsageError, match="two networks are called 'unetr'"):
        zoo_cards.find_cards(f"unetr,{card}")


GOOD = 'name = "m"\ntitle = "M"\narch = "torch.nn:Identity"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "spatail = [1, 2, 3]\n", "unknown key 'spatail': did you mean 'spatial'"),
        (GOOD.replace("title", "kind"), "unknown key 'kind'"),
        ('name = "m"\ntitle = "M"\n', "the key 'arch' is missing"),
        ("name = \n", "not valid TOML"),
        (GOOD + 'in_channels = "4"\n', "in_channels must be a whole number"),
        (GOOD + "in_channels = true\n", "in_channels must be a whole number"),
        (GOOD + "out_channels = 0\n", "out_channels must be positive"),
        (GOOD + "learning_rate = 0\n", "learning_rate must be above 0, not 0"),
        (GOOD + 'learning_rate = "1e-3"\n', "learning_rate must be a number"),
        (GOOD + "spatial = [1, 2]\n", "three positive whole numbers"),
        (GOOD.replace(":", "."), "must be 'pkg.module:Class'"),
        (GOOD + '[[published]]\nmetric = "mcas"\nvalue = 1\nsource = "x"\n', "did you mean 'macs'"),
        (GOOD + '[[published]]\nmetric = "macs"\nvalue = 1\n', "needs metric, value and source"),
    ],
)
def test_a_bad_card_is_refused_in_one_line_that_names_file_and_key(tmp_path, text, message):
    path = tmp_path / "card.toml"
    path.write_text(text)
    with pytest.raises(CardError) as caught:
        zoo_cards.read_card(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(CardError, match="No such file"):
        zoo_cards.read_card(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="not valid TOML"):
        zoo_cards.read_card(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slim_unet", "unknown model 'slim_unet': did you mean 'slim_unetr'? 'bench list models' shows all"),
        ("zzz*", "no model's name matches 'zzz*'"),
        ("torch.nn:Conf3d", "did you mean 'Conv3d'?"),
        ("nosuchpackage.nets:Net", "cannot import 'nosuchpackage.nets'"),
        ("torch.nn:Bilinear", "cannot be built with"),
        ("math:pi", "'math:pi' is of Python's own library and no subclass of torch.nn.Module"),
        ("pathlib:Path", "'pathlib:Path' is of Python's own library and no subclass of torch.nn.Module"),
        ("torch:float32", "'torch:float32' is a dtype, not a subclass of torch.nn.Module: it is not called"),
        ("torch:Tensor", "'torch:Tensor' is the class Tensor, not a subclass of torch.nn.Module: it is not called"),
        ("", "names no network"),
    ],
)
def test_a_name_that_names_nothing_is_refused_with_what_to_do(name, message):
    with pytest.raises(BenchError) as caught:
        benchbench.build_model(name)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_class_in_a_file_with_a_syntax_error_is_refused_with_the_line(tmp_path, monkeypatch):
    (tmp_path / "broken_nets.py").write_text("class Net:\n    def\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CardError, match=r"broken_nets\.py line 2"):
        benchbench.build_model("broken_nets:Net")


def test_published_figures_stand_only_beside_the_input_that_they_are_for():
    card = zoo_cards.get_card("slim_unetr")
    there = {m.metric: m for m in card.published_measurements(4, 3, (128, 128, 128))}
    assert there["macs"].value == 12.42e9
    assert there["macs"].origin == "published"
    assert card.published_measurements(4, 3, (96, 96, 96)) == []
    assert card.published_measurements(1, 3, (128, 128, 128)) == []


def test_a_spec_is_what_was_asked():
    card = zoo_cards.get_card("unetr")
    spec = card.spec(in_channels=1)
    assert (spec.in_channels, spec.out_channels, spec.kwargs) == (1, 3, card.kwargs)
    assert dataclasses.is_dataclass(spec)


@pytest.mark.parametrize(
    ("patch", "filters"),
    [
        ((128, 128, 128), [32, 64, 128, 256, 320, 320]),  # its plan for BraTS
        ((40, 56, 40), [32, 64, 128, 256]),  # its plan for the hippocampus
        ((8, 8, 8), [32, 64, 128]),
        ((128, 128, 24), [32, 64, 128, 256, 320, 320]),
    ],
)
def test_nnunet_plans_its_stages_for_the_data(patch, filters):
    card = zoo_cards.get_card("nnunet").planned(patch)
    assert card.kwargs["filters"] == filters
    assert len(card.kwargs["strides"]) == len(filters)
    assert card.kwargs["strides"][:2] == [1, 2]
    zoo_build.build(card.spec(in_channels=1, out_channels=3), patch)


def test_a_plan_that_nobody_has_named_is_refused_before_its_import():
    with pytest.raises(
        CardError, match=r"'nowhere\.to:be_found' is not part of benchbench.*its code is not run.*--trust"
    ):
        dataclasses.replace(zoo_cards.get_card("nnunet"), plan="nowhere.to:be_found").planned((40, 56, 40))


def test_the_plan_of_the_card_itself_is_that_for_brats():
    card = zoo_cards.get_card("nnunet")
    assert card.planned((128, 128, 128)) == card
    assert zoo_cards.get_card("unetr").planned((40, 56, 40)) == zoo_cards.get_card("unetr")


@pytest.mark.parametrize(
    ("plan", "message"),
    [("nowhere.to:be_found", "cannot import 'nowhere.to'"), ("benchbench.models.plans:nnunt", "did you mean 'nnunet'")],
)
def test_a_plan_that_is_not_there_is_refused(plan, message, monkeypatch):
    monkeypatch.setattr(classes, "_named", set())
    classes.allow_import(plan)
    with pytest.raises(CardError, match=message):
        dataclasses.replace(zoo_cards.get_card("nnunet"), plan=plan).planned((40, 56, 40))


@pytest.mark.parametrize(
    ("name", "sides"),
    [("nnunet", (40, 56, 40)), ("unetr", (48, 64, 48)), ("swin_unetr", (64, 64, 64)), ("slim_unetr", (64, 64, 64))],
)
def test_a_volume_is_padded_to_what_a_network_takes(name, sides):
    spec = zoo_cards.get_card(name).planned((40, 56, 40)).spec(in_channels=1, out_channels=3)
    assert zoo_build.fitting_sides(spec, (40, 56, 40)) == sides


def test_nnunet_halves_a_coarse_axis_later():
    """Slices of 5 mm in a plane of 1 mm: the first stages look at single slices, as nnU-Net plans it."""
    card = zoo_cards.get_card("nnunet").planned((128, 128, 24), (1.0, 1.0, 5.0))
    assert card.kwargs["strides"] == [1, [2, 2, 1], [2, 2, 1], 2, 2, [2, 2, 1]]
    assert card.kwargs["kernel_size"][:3] == [[3, 3, 1], [3, 3, 1], [3, 3, 3]]
    network = zoo_build.build(card.spec(in_channels=1, out_channels=2), (128, 128, 24))
    assert network.multiple_of == (32, 32, 4)
    with pytest.raises(ShapeError, match="multiple of 32x32x4"):
        zoo_build.build(card.spec(), (128, 128, 26))


def test_a_constructor_that_asserts_gets_the_next_size_and_one_that_breaks_says_so():
    cards = {name: zoo_cards.find_cards(f"tests.tiny_nets:{name}")[0] for name in ("Asserts", "NeedsValues")}
    assert zoo_build.fitting_sides(cards["Asserts"].spec(), (20, 30, 20)) == (32, 32, 32)
    assert zoo_build.fitting_sides(cards["NeedsValues"].spec(), (16, 16, 16)) == (16, 16, 16)
    with pytest.raises(CardError, match="cannot be built: RuntimeError: a bug of its own"):
        zoo_build.fitting_sides(cards["NeedsValues"].spec(), (40, 40, 40))
    with pytest.raises(ShapeError, match="an assertion of its constructor failed"):
        zoo_build.build(cards["Asserts"].spec(), (20, 30, 20))
