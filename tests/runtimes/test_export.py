"""`benchbench.export` and what reads its files: descriptions, damage, other inputs, int8, pruned networks."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import benchbench
from benchbench import data
from benchbench.core.errors import UnsupportedError, UsageError
from benchbench.runner import prepare
from benchbench.runtimes.prepared import PreparedError, description_of, read_prepared
from tests import data_sets as sets
from tests.tiny_nets import Reads, Tiny

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
SHAPE = (1, 4, 16, 16, 8)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """The file of each form."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        to: benchbench.export(tiny, to, out=folder, input_shape=SHAPE) for to in ("onnx", "openvino", "torch-export")
    }


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
def test_an_exported_module_gives_its_own_output_for_arrays_and_tensors(to, tiny, exported):
    forward = benchbench.load_runtime(exported[to], threads=1)
    x = torch.randn(*SHAPE)
    with torch.inference_mode():
        expected = tiny(x)
    output = forward(x)
    assert isinstance(output, torch.Tensor)
    assert torch.allclose(output, expected, atol=1e-5)
    array = forward(x.numpy())
    assert isinstance(array, np.ndarray)
    kept = array.copy()
    forward(np.zeros(SHAPE, np.float32))
    assert np.array_equal(array, kept)  # the next call leaves it alone


def test_the_description_tells_what_made_it_and_what_it_takes(exported):
    prepared = read_prepared(exported["openvino"])
    assert (prepared.runtime, prepared.dtype, prepared.input_shape) == ("openvino", "fp32", SHAPE)
    assert {"openvino", "torch", "onnx"} <= set(prepared.versions)
    assert prepared.seconds > 0
    assert sorted(prepared.files) == ["tiny-fp32.bin", "tiny-fp32.xml"]
    assert prepared.bytes == sum(exported["openvino"].with_suffix(e).stat().st_size for e in (".xml", ".bin"))
    text = description_of(exported["openvino"]).read_text()
    assert "/tmp" not in text  # no path of this machine
    assert b"tests/" not in exported["onnx"].read_bytes()


def test_an_input_of_another_size_is_refused(exported):
    with pytest.raises(PreparedError, match="takes an input of 1x4x16x16x8, not 1x4x16x16x16: export it again"):
        benchbench.load_runtime(exported["onnx"])(np.zeros((1, 4, 16, 16, 16), np.float32))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "damaged or not the file that"),
        (lambda path: path.with_suffix(".bin").unlink(), "is missing, and tiny-fp32.xml.json names it"),
        (lambda path: description_of(path).unlink(), "keep both together"),
        (lambda path: description_of(path).write_text("{"), "the description of an exported network"),
        (lambda path: _change(path, format=99), "newer version of benchbench"),
        (lambda path: _change(path, runtime="tensorflow"), "unknown runtime"),
        (lambda path: _change(path, input_shape=[1, "four"]), r"input_shape\[1\] must be int"),
        (lambda path: _change(path, files={}), "describes another file"),
    ],
)
def test_a_file_that_is_damaged_or_not_ours_is_one_line(exported, tmp_path, harm, why):
    path = tmp_path / "tiny-fp32.xml"
    for source in (
        exported["openvino"],
        exported["openvino"].with_suffix(".bin"),
        description_of(exported["openvino"]),
    ):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    harm(path)
    with pytest.raises(UsageError, match=why) as caught:
        benchbench.load_runtime(path)
    assert "\n" not in str(caught.value)


def _change(path, **fields):
    description = description_of(path)
    description.write_text(json.dumps(json.loads(description.read_text()) | fields))


def test_a_file_of_a_runtime_that_is_not_its_own_is_one_line(exported, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"no graph at all")
    described = json.loads(description_of(exported["onnx"]).read_text())
    import hashlib

    described["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    description_of(path).write_text(json.dumps(described))
    with pytest.raises(PreparedError, match="cannot be loaded by ONNX Runtime"):
        benchbench.load_runtime(path)


def test_nothing_is_replaced_unasked(tiny, exported):
    with pytest.raises(UsageError, match="is there already: --force replaces it"):
        benchbench.export(tiny, "onnx", out=exported["onnx"].parent, input_shape=SHAPE)
    assert benchbench.export(tiny, "onnx", out=exported["onnx"].parent, input_shape=SHAPE, force=True).exists()


class BranchesOnValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 2, 1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else -self.conv(x)


def test_a_network_that_branches_on_values_is_refused_with_the_exporters_reason(tmp_path):
    with pytest.raises(UnsupportedError, match=r"cannot be exported to ONNX: .*data-dependent") as caught:
        benchbench.export(BranchesOnValues(), "onnx", out=tmp_path, input_shape=SHAPE)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.onnx*"))


def test_what_cannot_be_is_said_before_anything_is_done(tiny, tmp_path):
    for problem, why in (
        ({"to": "tflite"}, "exported to one of openvino, onnx, tensorrt, torch-export"),
        ({"to": "onnx"}, r"add input_shape=\(B, C, D, H, W\)"),
        ({"to": "openvino", "dtype": "int8", "input_shape": SHAPE}, "add --data"),
    ):
        with pytest.raises(UsageError, match=why):
            benchbench.export(tiny, out=tmp_path, **problem)
    with pytest.raises(UnsupportedError, match="no bf16"):
        benchbench.export(tiny, "onnx", out=tmp_path, input_shape=SHAPE, dtype="bf16")


class Offers(Tiny):
    """Says of itself how it is best run, and is wrong about it."""

    def for_inference(self, form="eager"):
        other = Tiny()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(0.5)
        return other.eval()


def test_a_form_for_inference_that_is_another_network_is_not_exported(tmp_path):
    with pytest.raises(UnsupportedError, match="nothing was exported: the file is not the same network any more"):
        benchbench.export(Offers(), "onnx", out=tmp_path, input_shape=SHAPE)
    assert not list(tmp_path.glob("*.onnx*"))


class OffersForOthers(Tiny):
    def for_inference(self, form="eager"):
        raise ValueError("for_inference() expects another head")


def test_a_network_that_offers_no_form_for_itself_is_exported_as_it_is_with_a_warning(tmp_path):
    path = benchbench.export(OffersForOthers(), "onnx", out=tmp_path, input_shape=SHAPE)
    prepared = read_prepared(path)
    assert not prepared.rewritten
    assert prepared.warnings == ("not rewritten for inference: for_inference() expects another head",)


def test_a_converter_that_ends_its_process_is_one_line(tiny, tmp_path, monkeypatch):
    from benchbench.runner.child_process import WorkerFailure

    dead = WorkerFailure(status="failed", error="its process was killed by SIGSEGV", stderr="")
    monkeypatch.setattr(prepare, "run_worker", lambda *_, **__: iter([dead]))
    with pytest.raises(UnsupportedError, match=r"preparing it for OpenVINO ended its process: .*SIGSEGV"):
        benchbench.export(tiny, "openvino", out=tmp_path, input_shape=SHAPE)


@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_int8_is_calibrated_on_training_cases_and_close_to_the_network(to, tmp_path):
    pytest.importorskip("nncf")
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=10, sides=(16, 16, 12))
    plan = data.get_plan(str(folder))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 3, 3, padding=1)).eval()
    shape = (1, 1, 16, 16, 16)
    path = benchbench.export(network, to, out=tmp_path, input_shape=shape, dtype="int8", data=str(folder), name="net")
    prepared = read_prepared(path)
    assert set(prepared.calibration["cases"]) <= set(plan.ids["train"])
    assert prepared.calibration["patches"] >= 32
    assert "nncf" in prepared.versions
    content = path.read_bytes()
    assert b"FakeQuantize" in content or b"QuantizeLinear" in content
    case = torch.from_numpy(prepare.calibration.cut(data.load_case(str(plan.where), "test", 0).image, shape[2:]))
    with torch.inference_mode():
        expected = network(case)
    error = (benchbench.load_runtime(path)(case) - expected).abs().max() / (expected.max() - expected.min())
    assert 0 < error < 0.1


def test_deep_supervision_is_exported_as_its_logits(tmp_path):
    class Supervised(Tiny):
        def forward(self, x):
            y = super().forward(x)
            return {"aux": [nn.functional.avg_pool3d(y, 2)], "logits": y}

    torch.manual_seed(0)
    network = Supervised().eval()
    path = benchbench.export(network, "onnx", out=tmp_path, input_shape=SHAPE)
    x = torch.randn(*SHAPE)
    with torch.inference_mode():
        assert torch.allclose(benchbench.load_runtime(path)(x), network(x)["logits"], atol=1e-5)


def test_an_exported_module_stays_in_the_mode_that_it_was_in(tmp_path):
    network = Reads(4, 3).train()
    benchbench.export(network, "torch-export", out=tmp_path, input_shape=SHAPE)
    assert network.training
