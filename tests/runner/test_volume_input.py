"""Whole volumes of a run: whose case they are, and a prepared network that segments them without PyTorch."""

import dataclasses
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError, UsageError
from benchbench.data import get_plan, load_case
from benchbench.data.foreground import foreground_box, zero_share
from benchbench.measure.volume import windows_of
from benchbench.runner import eager_dice, prepare, reference, volume_input, worker
from benchbench.runner import plan as run_plan
from benchbench.runner.job import Job
from benchbench.runner.prepared_run import PreparedRun
from benchbench.runner.request import RunRequest
from benchbench.zoo import checkpoint
from tests import data_sets
from tests.tiny_nets import Tiny

PROTOCOL = "quick,min_samples=2,max_samples=2,warmup_s=0,half_width=1000"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A cache that several runtimes share: they are made of one export."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def heads(tmp_path):
    """A folder whose patients are balls in air of exactly 0."""
    folder = data_sets.decathlon(tmp_path / "heads", count=6)
    for path in sorted(folder.glob("imagesTr/*.nii.gz")):
        image = nib.load(path)
        voxels = np.asarray(image.dataobj, np.float32)
        axes = [np.linspace(-1.1, 1.1, side) for side in voxels.shape]
        voxels[sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) > 1] = 0
        data_sets.save(path, voxels, image.affine)
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """The worker's tasks without a process of their own."""

    def run_worker(request, *, limit_s):
        said = []
        worker.answer(request, said.append)
        return said

    monkeypatch.setattr(prepare, "run_worker", run_worker)


def job(folder=None, *, in_channels=1, **changed):
    spec = rec.ModelSpec(name="Tiny", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=in_channels, out_channels=3)
    work = rec.Workload(**({"spatial": (8, 8, 8), "protocol": PROTOCOL, "overlap": 0.5} | changed))
    return Job(model=spec, workload=work, data_where=str(folder) if folder else None)


def test_a_volume_that_is_not_cropped_is_noise_of_the_networks_channels():
    given = volume_input.volume_for(job(in_channels=2, volume=(12, 9, 8)))
    assert (given.image.shape, given.of) == ((2, 12, 9, 8), "noise")


def test_a_cropped_volume_is_the_first_test_case_of_the_data_set_and_is_made_once(heads, in_this_process, monkeypatch):
    wanted = load_case(str(heads), "test", 0)
    given = volume_input.volume_for(job(heads, crop_foreground=True))
    assert np.array_equal(given.image, wanted.image)
    assert wanted.id in given.of
    assert given.of.startswith("a case of heads")
    monkeypatch.setattr(prepare, "run_worker", None)  # would fail
    assert np.array_equal(volume_input.volume_for(job(heads, crop_foreground=True)).image, wanted.image)


def test_data_whose_background_is_not_zero_are_refused_in_one_line(tmp_path, in_this_process):
    folder = data_sets.decathlon(tmp_path / "full", count=6)
    with pytest.raises(UnsupportedError, match=r"no background to crop.*0\.0%.*leave --crop-foreground out") as caught:
        volume_input.make_case(job(folder, crop_foreground=True))
    assert "\n" not in str(caught.value)


def test_a_run_with_a_folder_may_crop_it(heads):
    request = RunRequest(models="nnunet_small", data=str(heads), crop_foreground=True, spatial=(64, 64, 64))
    (cell,) = run_plan.plan_cells(request)
    assert cell.workload.crop_foreground
    assert cell.workload.volume is None
    assert cell.job.data_where == str(heads)


def test_a_folder_is_not_cropped_on_another_host(heads, monkeypatch):
    class Elsewhere:
        host = "board"

    monkeypatch.setattr(run_plan.remote_queue, "meet", lambda targets, threads, set_clocks: [Elsewhere()])
    with pytest.raises(UsageError, match="heads is on no other host"):
        run_plan.plan_cells(RunRequest(models="nnunet_small", data=str(heads), crop_foreground=True))


def test_eager_pytorch_covers_the_box_of_the_case_and_so_does_its_dice(heads, in_this_process, tmp_path):
    asked, plan = job(heads, crop_foreground=True), get_plan(str(heads))
    state = Tiny(in_channels=1, out_channels=3).state_dict()
    info = checkpoint.save(
        tmp_path / "w.safetensors", state, model=asked.model, data=plan.key, spatial=(8, 8, 8), train={}, plan=plan
    )
    asked = dataclasses.replace(asked, checkpoint_path=str(info.path))
    said = []
    worker.answer({"task": "measure", "jobs": [rec.to_json(asked)]}, said.append)
    found = {e["measurement"]["metric"]: e["measurement"] for e in said if e["event"] == "measurement"}
    check_crop(found, heads)
    assert said[-1]["status"] == "ok"
    assert "over the box of the voxels that are not 0" in found["dice"]["method"]


def test_what_a_faster_path_is_compared_with_is_cropped_likewise(heads, monkeypatch):
    evaluated = []

    def evaluate(asked, progress):
        evaluated.append(asked.workload.crop_foreground)
        return {"ids": [], "values": {"dice": []}, "cropped": asked.workload.crop_foreground}

    monkeypatch.setattr(eager_dice, "_evaluated", evaluate)
    for crop in (True, False, True, False):
        assert eager_dice.eager_cases(job(heads, crop_foreground=crop))["cropped"] == crop
    assert evaluated == [True, False]


def test_a_reference_dice_of_whole_volumes_is_not_shown_for_a_crop():
    records = reference.reference_records()
    record = next(r for r in records if reference.find_dice(r.model, r.workload) and not r.workload.crop_foreground)
    cropped = dataclasses.replace(record.workload, crop_foreground=True)
    assert reference.find_dice(record.model, cropped) == []


def check_crop(found, heads):
    image = load_case(str(heads), "test", 0).image
    box = tuple(part.stop - part.start for part in foreground_box(image))
    assert zero_share(image) > 0.05
    assert found["volume_windows"]["value"] == windows_of(box, (8, 8, 8), 0.5)
    assert found["volume_cropped_share"]["value"] == pytest.approx(np.prod(box) / image[0].size)
    assert get_plan(str(heads)).name in found["volume_latency_s"]["method"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_prepared_network_segments_volumes_in_a_process_without_pytorch(heads, runtime, exported, monkeypatch):
    pytest.importorskip(runtime)
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("BENCHBENCH_CACHE", str(exported))
    get_plan(str(heads))  # as planning a run does; the headers of the files are not read again
    code = """
import json, sys
from benchbench.runner import worker
worker.answer(json.loads(sys.stdin.read()), lambda event: print(json.dumps(event), flush=True))
print(json.dumps({"event": "modules", "those": sorted({"torch", "monai", "scipy", "nibabel"} & set(sys.modules))}))
"""
    asked = job(heads, crop_foreground=True, batch=2, runtime=runtime)
    request = json.dumps({"task": "measure", "jobs": [rec.to_json(asked)]})
    done = subprocess.run([sys.executable, "-c", code], input=request, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {e["measurement"]["metric"]: e["measurement"] for e in said if e["event"] == "measurement"}
    assert said[-2]["status"] == "ok", said[-2]
    assert said[-1]["those"] == []
    check_crop(found, heads)


def test_a_file_of_a_whole_batch_segments_single_windows():
    run = PreparedRun(job(batch=2, runtime="onnxruntime"), lambda event: None)
    seen = []
    run.forward = lambda x: seen.append(x.shape) or 2 * x
    x = torch.ones(1, 1, 8, 8, 8)
    assert torch.equal(run._segmenting()(x), 2 * x)
    assert torch.equal(run._segmenting()(torch.cat([x, x])), torch.cat([2 * x, 2 * x]))
    assert seen == [(2, 1, 8, 8, 8)] * 2
