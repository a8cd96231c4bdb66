"""A network in a runtime outside of eager PyTorch: prepared once, measured alone, and held against the network."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchbench import data
from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.core.records import ModelSpec
from benchbench.runner import eager_dice, model_run, prepare
from benchbench.runner.eager_dice import lost_dice
from benchbench.runner.output_comparison import compare
from benchbench.zoo import checkpoint
from tests import data_sets as sets
from tests.runner.test_worker import answer, job
from tests.tiny_nets import Reads, Tiny

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(kept, monkeypatch):
    """One for all tests here, since to prepare a network takes seconds."""
    monkeypatch.setenv("BENCHBENCH_CACHE", str(kept))


def visit(wanted):
    """Measurements by name, the last event, and all of them."""
    said = answer("measure", wanted)
    found = [rec.from_json(rec.Measurement, e["measurement"]) for e in said if e["event"] == "measurement"]
    return {m.metric: m for m in found}, said[-1], said


@pytest.fixture
def real(tmp_path):
    """A job with weights and a data set, whose network reads the label off the intensities."""
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24, sides=(16, 16, 12))
    plan = data.get_plan(str(folder))
    spec = ModelSpec(name="reads", arch="tests.tiny_nets:Reads", kwargs={}, in_channels=1, out_channels=3)
    path = tmp_path / "reads.safetensors"
    checkpoint.save(
        path, Reads(1, 3).state_dict(), model=spec, data=plan.key, spatial=(16, 16, 16), train={"cases": []}, plan=plan
    )

    def make(**more):
        whole = job("Reads", spatial=(16, 16, 16), data=plan.key, split="test", **more)
        model = checkpoint.read_sidecar(path).spec
        return dataclasses.replace(whole, model=model, checkpoint_path=str(path), data_where=str(plan.where))

    return make


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_prepared_network_has_its_times_and_is_the_same_network(runtime):
    found, end, _ = visit(job(runtime=runtime, threads=1))
    assert (end["status"], end["error"]) == ("ok", None)
    assert {"latency_s", "peak_memory_bytes", "base_memory_bytes"} <= set(found)
    assert found["first_answer_s"].value > 0
    assert found["prepare_s"].value > 0
    assert found["artefact_bytes"].value > 0
    assert found["output_max_error"].value < 1e-5
    assert "phantom" in found["output_max_error"].method  # four channels, as the phantom has
    assert "mask_changed_share" not in found  # of random weights
    assert found["rewritten_for_inference"].value == 0
    assert "OpenVINO" in found["latency_s"].method or "ONNX Runtime" in found["latency_s"].method


def test_it_is_prepared_once_and_again_for_another_input(monkeypatch):
    runs = []
    in_worker = prepare.prepare_in_worker
    monkeypatch.setattr(prepare, "prepare_in_worker", lambda *args: (runs.append(args), in_worker(*args)))
    first = prepare.prepared_for(job(runtime="onnxruntime", batch=2))
    assert prepare.prepared_for(job(runtime="onnxruntime", batch=2, threads=1)) == first
    assert len(runs) == 1
    assert prepare._key(job(runtime="onnxruntime", batch=3)) != prepare._key(job(runtime="onnxruntime", batch=2))
    reference = prepare.read_reference(first)
    torch.manual_seed(0)
    with torch.inference_mode():
        expected = Tiny().eval()(torch.from_numpy(reference.x)).numpy()
    assert np.allclose(reference.y, expected, atol=1e-6)


def test_runtimes_are_made_from_one_exported_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path))
    first = prepare.prepared_for(job(runtime="onnxruntime"))
    (exported,) = tmp_path.glob("runtimes/*/export.onnx")
    made_ns = exported.stat().st_mtime_ns
    second = prepare.prepared_for(job(runtime="openvino"))
    assert exported.stat().st_mtime_ns == made_ns
    assert len(list(tmp_path.glob("runtimes/*"))) == 3
    one, other = (prepare.read_reference(prepared) for prepared in (first, second))
    assert np.array_equal(one.y, other.y)


def test_what_was_damaged_since_is_told_and_made_anew():
    prepared = prepare.prepared_for(job(runtime="openvino"))
    prepared.path.write_text("no network")
    with pytest.raises(UnsupportedError, match="is made anew in the next run"):
        prepare.prepared_for(job(runtime="openvino"))
    again = prepare.prepared_for(job(runtime="openvino"))
    assert again.files == prepared.files


def test_the_process_that_is_timed_has_no_pytorch(tmp_path):
    wanted = job(runtime="onnxruntime")
    prepare.prepared_for(wanted)
    code = (
        "import json, sys; from benchbench.runner import worker; said = [];"
        "worker.answer(json.load(sys.stdin), said.append);"
        "print(json.dumps([said[-1], [m for m in ('torch', 'monai', 'onnx') if m in sys.modules]]))"
    )
    request = json.dumps({"task": "measure", "jobs": [rec.to_json(wanted)]})
    ran = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    end, loaded = json.loads(ran.stdout.splitlines()[-1])
    assert end["status"] == "ok"
    assert loaded == []


def test_a_network_that_cannot_be_exported_is_unsupported_with_its_reason():
    _, end, _ = visit(job("Branches", runtime="openvino"))
    assert end["status"] == "unsupported"
    assert "cannot be exported to ONNX" in end["error"]


def test_a_full_disk_is_one_line(monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare.tempfile, "mkdtemp", full)
    with pytest.raises(UnsupportedError, match="No space left on device; make room, or set BENCHBENCH_CACHE"):
        prepare.prepared_for(job(runtime="onnxruntime", spatial=(8, 8, 16)))


def test_the_oldest_prepared_networks_make_room_for_new_ones(tmp_path, monkeypatch):
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "network.xml").write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(prepare, "_MOST_BYTES", 250)
    prepare.make_room(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "older"]


def test_compiled_and_rewritten_networks_run_in_pytorch():
    found, end, _ = visit(job("Offers", runtime="eager-optimized"))
    assert (end["status"], end["error"]) == ("ok", None)
    assert found["output_max_error"].value < 1e-5
    assert "rewritten for inference" in found["latency_s"].method
    _, end, _ = visit(job("Tiny", runtime="eager-optimized"))
    assert end["status"] == "unsupported"
    assert "no form that is rewritten for inference" in end["error"]


@pytest.mark.slow
def test_torch_compile_is_measured_and_its_compilation_apart():
    found, end, _ = visit(job(runtime="compile"))
    assert end["status"] == "ok", end
    assert found["prepare_s"].value > found["latency_s"].value
    assert found["first_answer_s"].value > found["prepare_s"].value
    assert found["output_max_error"].value < 1e-4


def test_a_form_that_is_another_network_fails_with_the_figure():
    _, end, _ = visit(job("OffersAnother", runtime="eager-optimized"))
    assert end["status"] == "failed"
    assert "not the same network any more: its output differs by" in end["error"]


def test_the_dice_of_a_runtime_is_held_against_that_of_eager_pytorch(real):
    found, end, said = visit(real(runtime="onnxruntime"))
    assert (end["status"], end["error"]) == ("ok", None)
    assert found["dice"].value > 0.9
    assert found["lost_dice"].value == pytest.approx(0, abs=1e-6)
    assert found["lost_dice"].ci95 == pytest.approx((0, 0), abs=1e-6)
    (cases,) = [e["cases"] for e in said if e["event"] == "cases"]
    assert len(found["lost_dice"].values) == len(cases["ids"])


def test_the_dice_of_eager_pytorch_is_evaluated_once(real, tmp_path, monkeypatch):
    runs = []
    evaluated = eager_dice._evaluated
    monkeypatch.setattr(eager_dice, "_evaluated", lambda *a: (runs.append(a), evaluated(*a))[1])
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        visit(real(dtype="bf16"))
    assert len(runs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_is_measured_with_what_each_case_loses(real, runtime):
    pytest.importorskip("nncf")
    found, end, _ = visit(real(runtime=runtime, dtype="int8"))
    assert end["status"] in ("ok", "failed"), end
    lost = found["lost_dice"]
    assert len(lost.values) >= 4
    assert lost.ci95[0] <= lost.value <= lost.ci95[1]
    assert "worst case" in lost.method
    assert (end["status"] == "failed") == (
        not qualification.keeps_dice(lost)
        and not qualification.agrees(found["output_max_error"], found["mask_changed_share"], exact=False)
    )


def test_losses_are_paired_by_case_and_those_without_dice_left_out():
    eager = {"ids": ["a", "b", "c", "d"], "values": {"dice": [0.9, 0.8, None, 0.7]}}
    faster = {"ids": ["b", "a", "d", "c"], "values": {"dice": [0.79, 0.9, 0.69, 0.5]}}
    lost = lost_dice(eager, faster)
    assert lost.values == pytest.approx((0.0, 0.01, 0.01))
    assert lost.value == pytest.approx(0.02 / 3)
    one = {"ids": ["a"], "values": {"dice": [0.9]}}
    assert lost_dice(one, one).reason


def test_masks_are_compared_on_a_real_case_and_with_trained_weights_alone():
    then = np.zeros((1, 2, 2, 2, 2), np.float32)
    then[:, 0] = 1.0
    now = then.copy()
    now[0, 1, 0, 0, 0] = 2.0
    by_name = {m.metric: m for m in compare(now, then, "boxes case_001", True)}
    assert by_name["mask_changed_share"].value == 1 / 8
    assert by_name["output_max_error"].value == 2.0
    assert "mask_changed_share" not in {m.metric for m in compare(now, then, None, True)}
    assert "mask_changed_share" not in {m.metric for m in compare(now, then, "boxes case_001", True, trained=False)}
    now[0, 0, 0, 0, 0] = np.nan
    assert all(m.reason == "the output is not finite" for m in compare(now, then, None, True))


def test_a_lower_precision_of_eager_is_judged_by_dice_where_there_is_one(real, monkeypatch):
    monkeypatch.setattr(model_run, "OUTPUT_TOLERANCE", 0.0)
    found, end, _ = visit(real(dtype="bf16"))
    assert end["status"] == "ok", end
    assert found["lost_dice"].ci95[1] < qualification.MOST_DICE_LOSS
