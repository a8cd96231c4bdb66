"""Slim UNETR is the published function, and refuses what the published code would silently take."""

import json
import math
import zlib

import numpy as np
import pytest
import torch

from benchbench import build_model
from benchbench.models.slim_unetr import SlimUNETR, load_published_weights
from tests.shared_files import shared_file


def fixture_weights(keys):
    """Weights by the fixture's stated rule."""
    weights = {}
    for key, shape in keys.items():
        seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
        a = np.asarray(np.random.RandomState(seed).standard_normal(shape), dtype=np.float32)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif key.endswith("running_var"):
            value = np.abs(a) + 0.5
        elif key.endswith("running_mean"):
            value = 0.1 * a
        elif a.ndim >= 2 and not key.endswith("position_embeddings"):
            value = a / math.sqrt(math.prod(shape[1:]))
        elif key.endswith(".weight"):
            value = 1 + 0.1 * a
        else:
            value = 0.1 * a
        weights[key] = torch.tensor(value)
    return weights


@pytest.fixture(scope="module")
def published():
    return json.loads(shared_file("parity/slim_unetr_brain128.json").read_text())


@pytest.mark.shared
def test_agrees_with_the_published_outputs_when_weights_are_loaded_by_their_published_names(published):
    config = dict(published["config"])
    assert config.pop("embedding_dim") == 64
    model = SlimUNETR(spatial=(128, 128, 128), **config).eval()
    assert sum(p.numel() for p in model.parameters()) == published["params"]
    load_published_weights(model, fixture_weights(published["keys"]))
    x = np.random.RandomState(0).standard_normal(published["input_shape"]).astype(np.float32)
    with torch.no_grad():
        y = model(torch.from_numpy(x))
    assert list(y.shape) == published["output_shape"]
    difference = np.abs(y.flatten().numpy()[published["index"]] - np.array(published["value"]))
    assert difference.max() < 1e-3
    assert float(y.mean()) == pytest.approx(published["output_mean"], abs=1e-4)
    assert float(y.std()) == pytest.approx(published["output_std"], abs=1e-4)


@pytest.mark.shared
def test_published_weights_of_another_shape_or_with_missing_keys_are_refused_by_name(published):
    weights = fixture_weights(published["keys"])
    model = SlimUNETR()
    with pytest.raises(ValueError, match=r"1 weights .*'position_embedding'"):
        load_published_weights(model, {k: v for k, v in weights.items() if k != "Encoder.position_embeddings"})
    with pytest.raises(ValueError, match=r"1 entries .*'other'"):
        load_published_weights(model, {**weights, "other": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"\(1, 64, 96\).*\(1, 8, 96\)"):
        load_published_weights(SlimUNETR(spatial=(64, 64, 64)), weights)


SMALL = {"channels": (4, 4, 8), "embed_dim": 8, "heads": (1, 2, 2, 4)}


def test_works_at_a_non_cubic_size_with_other_channels():
    model = SlimUNETR(1, 2, (32, 64, 96), **SMALL).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 32, 64, 96)).shape == (2, 2, 32, 64, 96)


def test_a_shape_with_the_right_product_but_other_sides_is_refused():
    model = SlimUNETR(1, 2, (32, 64, 64), **SMALL)
    with pytest.raises(ValueError, match=r"\(B, 1, 32, 64, 64\), not \(1, 1, 64, 32, 64\)"):
        model(torch.zeros(1, 1, 64, 32, 64))
    with pytest.raises(ValueError, match=r"not \(1, 2, 32, 64, 64\)"):
        model(torch.zeros(1, 2, 32, 64, 64))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"spatial": (128, 100, 128)}, r"128x100x128.*multiple of 32.*128x96x128 or 128x128x128"),
        ({"spatial": (16, 32, 32)}, r"nearest: 32x32x32$"),
        ({"spatial": (0, 32, 32)}, r"multiple of 32"),
        ({"spatial": (128, 128)}, r"three whole sides"),
        ({"heads": (1, 2, 7, 4)}, r"stage 3.*7 does not divide 60"),
        ({"channels": (24, 48)}, r"3 positive channels, not \(24, 48\)"),
        ({"r": (4, 2, 2, 0)}, r"positive r"),
        ({"r": (4, 2, 2, 2), "spatial": (96, 128, 128)}, r"multiple of 64"),
        ({"in_channels": 0}, r"not in_channels=0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule_and_the_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SlimUNETR(**kwargs)


@pytest.mark.parametrize("name", ["slim_unetr", "slim_unetr_fixed"])
def test_what_the_paper_fixes_can_be_chosen(name: str) -> None:
    chosen = {"attention": (8, 16, 32, 64), "heads": (2, 2, 4, 8), "expansion": (2, 3, 4, 1), "stem": 2}
    model = build_model(name, spatial=(32, 32, 64), **chosen).eval()
    assert model(torch.zeros(1, 4, 32, 32, 64)).shape == (1, 3, 32, 32, 64)
    block = model.encoder[1][0]
    assert block.attention.qkv.out_channels == 3 * 16
    assert block.diffusion.mix.in_channels == 16
    assert block.mlp1[0].out_channels == 3 * 48
    assert model.downs[0].conv.stride == model.ups[0].conv.stride == (2, 2, 2)


def test_heads_divide_the_attention_not_the_stage() -> None:
    build_model("slim_unetr", spatial=(64, 64, 64), attention=(25, 48, 60, 96), heads=(5, 2, 4, 4))
    with pytest.raises(ValueError, match="5 does not divide 24"):
        build_model("slim_unetr", spatial=(64, 64, 64), heads=(5, 2, 4, 4))
