"""Export of what compression and search make: pruned checkpoints, and other sizes of Slim UNETR."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import benchbench
from benchbench.compress.prune import prune
from benchbench.compress.request import PruneRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchbench.zoo.pruned import differing_shapes

SIDES = (32, 32, 32)
SMALL = {"channels": [8, 16, 16], "embed_dim": 24, "blocks": [1, 1, 1, 1], "heads": [1, 2, 2, 2], "expansion": [2] * 4}


def weights_of(name: str, tmp_path: Path) -> Path:
    """A checkpoint of a small network whose channels were pruned across layers."""
    card = zoo_cards.get_card(name)
    spec = dataclasses.replace(card.spec(in_channels=1, out_channels=2), kwargs=SMALL)
    torch.manual_seed(0)
    whole = zoo_build.build(spec, SIDES).eval()
    pruned = prune(whole, (1, 1, *SIDES), PruneRecipe(ratio=0.4, scope="global", criterion="magnitude")).model
    shapes = differing_shapes(pruned, whole)
    assert shapes
    spec = dataclasses.replace(spec, kwargs={**SMALL, zoo_build.PRUNED_SHAPES: shapes})
    path = tmp_path / "pruned.safetensors"
    checkpoint.save(path, pruned.state_dict(), model=spec, data="none", spatial=SIDES, train={})
    return path


@pytest.mark.parametrize(("name", "to"), [("slim_unetr", "openvino"), ("slim_unetr_fixed", "onnx")])
def test_a_pruned_checkpoint_is_exported_and_gives_its_own_output(name, to, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    weights = weights_of(name, tmp_path)
    network = benchbench.build_model(str(weights)).eval()
    x = torch.randn(1, 1, *SIDES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x).numpy()
    path = benchbench.export(weights, to, out=tmp_path / "out")
    output = benchbench.load_runtime(path, threads=1)(x.numpy())
    assert np.abs(output - expected).max() <= 3e-4 * np.ptp(expected)
