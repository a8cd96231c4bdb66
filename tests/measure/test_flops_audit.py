"""The audit: every row of the published table explained, faults found one by one, and failures kept in their cells."""

import json
import sys

import pytest
import torch
from torch import nn

import benchbench
from benchbench.core import records as rec
from benchbench.core.audit_result import AuditResult
from benchbench.measure.flops import counters
from benchbench.measure.flops.audit import audit
from benchbench.measure.flops.meta_device import build_without_memory
from benchbench.zoo import cards as zoo_cards

#: Card -> the counter that gives the published compute, its first causes, and a word on the parameters.
TABLE_III = {
    "slim_unetr": ("thop", ["transposed convolutions, +9.99 G"], "the size of the state dict"),
    "swin_unetr": (
        "thop",
        ["transposed convolutions, +", "attention not counted, -"],
        "197,730 bare parameters left out",
    ),
    "unetr": ("thop", ["transposed convolutions, +", "attention not counted, -"], "the true count"),
    "nnunet_v1": ("thop", ["normalisations, +1.38 G"], "the true count"),
    "segresnet": ("torch", ["the true count"], "the true count"),
    "vnet": ("thop", ["transposed convolutions, +"], "the true count"),
    "attention_unet": ("thop", ["transposed convolutions, +"], "the true count"),
    "unet3d": ("thop", ["transposed convolutions, +"], "the true count"),
    "transvw": ("thop", ["transposed convolutions, +"], "the true count"),
    "e1d3": ("thop", ["transposed convolutions, +"], "the true count"),
    "transbts": ("thop", ["attention not counted, -"], "2,097,152 bare parameters left out"),
    "transunet": ("thop", ["transposed convolutions, +", "attention not counted, -"], "the true count"),
    "unetr_pp": ("thop", ["transposed convolutions, +"], "22,667,496 bare parameters left out"),
    "vit_autoenc": (
        "thop",
        ["transposed convolutions, +", "attention not counted, -"],
        "393,216 bare parameters left out",
    ),
    "vit3d": ("thop", ["attention not counted, -"], "the true count"),
}


def audited(name, **build):
    card = zoo_cards.get_card(name)
    module, _ = build_without_memory(lambda: benchbench.build_model(name, **build))
    shape = (1, card.in_channels, *build.get("spatial", card.spatial))
    return audit(module, shape, name=name, published={p.metric: p.value for p in card.published})


@pytest.mark.parametrize("name", [n for n in TABLE_III if n in zoo_cards.list_models()])
def test_each_row_of_the_published_table_is_explained(name):
    counter, causes, why_params = TABLE_III[name]
    result = audited(name)
    assert result.published.macs_counter == counter
    for cause in causes:
        assert cause in result.published.macs_why
    assert why_params in result.published.params_why
    assert all(c.reason is None for c in result.counters)
    for c in result.counters:
        rows = [d for d in result.differences if d.counter == c.counter]
        assert "unexplained" not in {d.kind for d in rows}
        assert abs(c.macs - result.macs - sum(d.counted - d.true for d in rows)) <= 300
    assert rec.from_json(AuditResult, json.loads(json.dumps(result.to_json()))) == result


def test_known_counts_of_thop_and_the_unused_parameters_of_unetr():
    assert audited("slim_unetr").counter("thop").macs == 12_391_028_736
    assert round(audited("swin_unetr").counter("thop").macs / 1e9, 3) == 793.917
    unetr = audited("unetr")
    assert round(unetr.counter("thop").macs / 1e9, 1) == 203.3
    assert unetr.params.unused == 18_432


def test_shared_modules_are_named_and_what_they_add_stands_apart():
    result = audited("nnunet")
    assert result.params.shared_modules[0] == "input_block"
    assert result.counter("thop").params == 62_383_971
    assert round(result.counter("thop").macs / 1e9) == 2157
    shared = {d.counter: d for d in result.differences if d.kind == "shared modules"}
    assert shared["thop"].counted == 4 * shared["thop"].true
    assert shared["torch_pruning"].counted == 2 * shared["torch_pruning"].true
    assert "fvcore" not in shared
    assert result.verdict.startswith("thop 4.5x too high: shared modules, +1,617.87 G")


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("slim_unetr", {"spatial": (32, 32, 32)}),
        ("unetr", {"spatial": (32, 32, 32), "hidden_size": 96, "mlp_dim": 96, "feature_size": 4}),
        ("nnunet", {"spatial": (32, 32, 32), "filters": (4, 8, 8, 8), "strides": (1, 2, 2, 2)}),
    ],
)
def test_counters_say_the_same_on_tensors_without_memory_as_on_real_ones(name, build):
    module = benchbench.build_model(name, **build)
    shape = (1, 4, *build["spatial"])
    dry, wet = audit(module, shape), audit(module, shape, full=True)
    assert "real tensors" in wet.counter("fvcore").how
    assert [(c.counter, c.macs, c.params) for c in dry.counters] == [
        (c.counter, c.macs, c.params) for c in wet.counters
    ]
    assert dry.differences == wet.differences


def test_the_network_is_left_as_it_was():
    module = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    result = benchbench.audit(module, torch.zeros(1, 1, 8, 8, 8))
    assert module.training
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks for m in module.modules())
    assert result.model == "Sequential"
    assert "PyTorch" in str(result)


def test_the_json_has_exactly_the_agreed_keys():
    plain = audit(nn.Conv3d(1, 2, 3), (1, 1, 8, 8, 8)).to_json()
    assert list(plain) == ["model", "input", "params", "counters", "differences", "published", "verdict"]
    assert set(plain["params"]) == {"all", "buffers", "bare", "shared_modules", "unused"}
    assert set(plain["counters"][0]) == {"counter", "version", "macs", "params", "factor", "reason", "how", "uncounted"}
    assert [c["counter"] for c in plain["counters"]] == ["torch", "fvcore", "thop", "thop_fixed", "torch_pruning"]
    assert set(plain["differences"][0]) == {"counter", "kind", "operator", "counted", "true", "modules", "why"}
    assert set(plain["published"]) == {"macs", "params", "macs_counter", "params_counter", "macs_why", "params_why"}


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)
        self.scale = nn.Parameter(torch.ones(7))
        self.never = nn.Linear(3, 3)

    def forward(self, x):
        return self.conv(x) * self.scale.sum()


def test_bare_and_unused_parameters_are_found_and_explain_thops_count():
    result = audit(Bare(), (1, 1, 4, 4, 4), published={"params": 4.0, "macs": 1e9})
    assert (result.params.all, result.params.bare, result.params.unused) == (23, 7, 12)
    assert result.counter("thop").params == 4
    assert result.published.params_counter == "thop"
    assert "12 parameters of Linear layers that are never called left out" in result.published.params_why
    assert "7 bare parameters left out" in result.published.params_why
    assert result.published.macs_counter is None
    assert "no counter gives it within 1 %" in result.published.macs_why


def test_a_counter_that_divides_by_the_batch_is_told():
    result = audit(nn.Conv3d(1, 2, 1, bias=False), (4, 1, 4, 4, 4))
    assert result.counter("torch_pruning").factor == 0.25
    assert [d.kind for d in result.differences if d.counter == "torch_pruning"] == ["divided by the batch"]


class Outputs(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv3d(1, 2, 1), form

    def forward(self, x):
        return self.form(self.conv(x))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize(
    "form",
    [lambda y: [y, y * 2], lambda y: (y, [y]), lambda y: {"main": y, "deep": [y]}, Square.apply],
    ids=["list", "tuple", "dict", "custom function"],
)
def test_any_form_of_output_is_counted(form):
    result = audit(Outputs(form), (1, 1, 4, 4, 4))
    assert {c.counter: c.macs for c in result.counters if c.counter != "torch_pruning"} == dict.fromkeys(
        ("torch", "fvcore", "thop", "thop_fixed"), 128
    )


class Refuses(nn.Module):
    def __init__(self, refusal):
        super().__init__()
        self.conv, self.refusal = nn.Conv3d(1, 2, 1), refusal

    def forward(self, x):
        if self.refusal == "values":
            return self.conv(x) if x.sum() > 0 else x
        raise ValueError("side 8 is not a multiple of 32")


@pytest.mark.parametrize(("refusal", "reason"), [("values", "depends on values"), ("size", "not a multiple of 32")])
def test_a_network_without_a_headline_still_has_its_parameters(refusal, reason):
    side = 8 if refusal == "size" else 128  # a small one is run, and has a headline
    result = audit(Refuses(refusal), (1, 1, side, side, side))
    assert result.macs is None
    assert reason in result.counter("torch").reason
    assert result.params.all == 4
    assert result.verdict.startswith("no headline: ")
    assert [m.value for m in result.measurements()] == [4, None, None]


def test_counters_at_full_size_run_a_network_that_depends_on_values():
    result = audit(Refuses("values"), (1, 1, 8, 8, 8), full=True)
    assert "random values" in result.counter("torch").how
    assert result.counter("thop").macs == 0  # zeros take the other branch


def test_a_counter_that_raises_or_is_not_there_is_a_cell(monkeypatch):
    def broken(module, x):
        raise KeyError("a bug of its own")

    monkeypatch.setitem(counters._OTHERS, "fvcore", ("fvcore", broken))
    monkeypatch.setitem(sys.modules, "thop", None)
    monkeypatch.setitem(sys.modules, "torch_pruning.utils", None)
    monkeypatch.setattr(counters, "installed", lambda package: None if package == "torch-pruning" else "1")
    result = audit(nn.Conv3d(1, 2, 1), (1, 1, 4, 4, 4))
    assert result.macs == 128
    assert result.counter("fvcore").reason == "KeyError: 'a bug of its own'"
    assert result.counter("thop").reason.startswith("thop cannot be imported: ")
    assert result.counter("torch_pruning").reason == "torch-pruning is not installed"
    assert "no count from fvcore, thop, thop, corrected, torch-pruning" in result.verdict


def test_a_module_that_needs_distutils_says_what_brings_it_back(monkeypatch):
    def without_distutils(module, x):
        raise ModuleNotFoundError("No module named 'distutils'")

    monkeypatch.setitem(counters._OTHERS, "thop", ("thop", without_distutils))
    assert "setuptools" in audit(nn.Conv3d(1, 2, 1), (1, 1, 4, 4, 4)).counter("thop").reason


def test_a_constructor_that_reads_its_weights_is_built_with_memory():
    class Reads(nn.Linear):
        def reset_parameters(self):
            self.norm = float(torch.ones(3).norm())

    assert not build_without_memory(lambda: Reads(2, 2))[1]
    module, weightless = build_without_memory(lambda: benchbench.build_model("swin_unetr"))
    assert weightless
    assert all(p.is_meta for p in module.parameters())


def test_one_layer_alone_is_counted():
    result = audit(nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 4, 4, 4))
    assert result.counter("thop").factor == 8
    assert result.differences[0].kind == "transposed convolutions"
    assert "8x the input's voxels" in next(d.why for d in result.differences if d.counter == "thop")
