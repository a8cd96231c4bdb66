"""Test-time mirroring in a run: all forwards are timed, Dice is of the mean, and what it needs is asked for at once."""

import dataclasses

import numpy as np
import pytest
import torch

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.data import get_plan
from benchbench.runner import eager_dice, estimate, reference, worker
from benchbench.runner import plan as run_plan
from benchbench.runner.job import Job
from benchbench.runner.prepared_run import PreparedRun
from benchbench.runner.request import RunRequest
from benchbench.runner.result import TimeBreakdown
from benchbench.zoo import checkpoint
from tests import data_sets, tiny_nets

PROTOCOL = "quick,min_samples=2,max_samples=2,warmup_s=0,half_width=1000"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return data_sets.decathlon(tmp_path / "Task99_Toy", count=6)


def spec_of(name="Tiny", channels=1):
    return rec.ModelSpec(name=name, arch=f"tests.tiny_nets:{name}", kwargs={}, in_channels=channels, out_channels=3)


def job(axes, name="Tiny", **work):
    workload = rec.Workload(spatial=(8, 8, 8), protocol=PROTOCOL, test_time_mirroring=axes, **work)
    return Job(model=spec_of(name), workload=workload)


def weights(tmp_path, folder, mirror):
    """Weights whose training mirrored along some axes; `...`: they do not say."""
    plan = get_plan(str(folder))
    recipe = {} if mirror is ... else {"recipe": {"mirror": mirror}}
    state = tiny_nets.Tiny(in_channels=1, out_channels=3).state_dict()
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, state, model=spec_of(), data=plan.key, spatial=(8, 8, 8), train=recipe, plan=plan)
    return path


def visit(asked):
    said = []
    worker.answer({"task": "measure", "jobs": [rec.to_json(asked)]}, said.append)
    found = [rec.from_json(rec.Measurement, e["measurement"]) for e in said if e["event"] == "measurement"]
    return {m.metric: m for m in found}, said[-1]


def request(path, folder, **more):
    return RunRequest(
        models="tests.tiny_nets:Tiny", checkpoint=path, data=str(folder), test_time_mirroring=True, **more
    )


@pytest.mark.parametrize("axes", [None, (0,), (0, 2)])
def test_all_forwards_are_timed_in_a_patch_and_in_a_volume(axes, monkeypatch):
    calls = []
    forward = tiny_nets.Tiny.forward
    monkeypatch.setattr(tiny_nets.Tiny, "forward", lambda self, x: calls.append(x.shape) or forward(self, x))
    found, end = visit(job(axes, volume=(12, 8, 8), overlap=0.5))
    assert end["status"] == "ok", end
    forwards = 2 ** len(axes or ())
    patches, windows = len(found["latency_s"].values), found["volume_windows"].value
    assert windows == 2
    # the samples and a warm-up of each, and nothing else
    assert len(calls) % forwards == 0
    assert len(calls) >= forwards * (patches + windows * len(found["volume_latency_s"].values))
    for metric in ("latency_s", "volume_latency_s"):
        assert (f"mean over {forwards} mirror images" in found[metric].method) == (forwards > 1)


def test_the_dice_is_of_the_mean_and_says_so(tmp_path, folder):
    path = weights(tmp_path, folder, [0])
    asked = dataclasses.replace(job((0,)), checkpoint_path=str(path), data_where=str(folder))
    found, end = visit(asked)
    assert end["status"] == "ok", end
    assert "mean over 2 mirror images (axis D)" in found["dice"].method
    plain, _ = visit(dataclasses.replace(asked, workload=dataclasses.replace(asked.workload, test_time_mirroring=None)))
    assert plain["dice"].values != found["dice"].values


def test_a_prepared_network_is_mirrored_without_pytorch():
    run = PreparedRun(job((0, 1), runtime="onnxruntime"), lambda event: None)
    seen = []
    run.forward = lambda x: seen.append(x.copy()) or np.cumsum(x, axis=2, dtype=np.float32)
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 8), np.float32)
    plan = dataclasses.make_dataclass(
        "P", ["patch", "batch", "overlap", "crop_foreground", "exclusive", "whole_batches"]
    )
    label = run._inference(image, plan((8, 8, 8), 1, 0.5, False, False, False))()
    assert len(seen) == 4
    back = np.cumsum(image[:, ::-1], axis=1)[:, ::-1]
    assert (label == (np.cumsum(image, axis=1) + back > 0)).mean() > 0.999
    x = torch.ones(1, 1, 8, 8, 8)
    run._segmenting()(x)
    assert len(seen) == 5  # the evaluation mirrors by itself


def test_what_a_faster_path_is_compared_with_is_mirrored_likewise(folder, monkeypatch):
    evaluated = []

    def evaluate(asked, progress):
        evaluated.append(asked.workload.test_time_mirroring)
        return {"ids": [], "values": {"dice": []}}

    monkeypatch.setattr(eager_dice, "_evaluated", evaluate)
    for axes in (None, (0,), (0, 1), None, (0,)):
        eager_dice.eager_cases(dataclasses.replace(job(axes), data_where=str(folder)))
    assert evaluated == [None, (0,), (0, 1)]


def test_a_reference_dice_without_mirroring_is_not_shown_with_it():
    records = reference.reference_records()
    record = next(r for r in records if reference.find_dice(r.model, r.workload))
    mirrored = dataclasses.replace(record.workload, test_time_mirroring=(0,))
    assert reference.find_dice(record.model, mirrored) == []


@pytest.mark.usefixtures("forked_workers")
def test_the_axes_are_those_of_the_training_and_macs_are_of_all_forwards(tmp_path, folder):
    path = weights(tmp_path, folder, [0, 1])
    (cell,) = run_plan.plan_cells(request(path, folder))
    assert cell.workload.test_time_mirroring == (0, 1)
    assert "mirrored" in cell.label
    (plain,) = run_plan.plan_cells(dataclasses.replace(request(path, folder), test_time_mirroring=False))
    assert plain.workload.test_time_mirroring is None
    assert plain.id != cell.id
    costs = estimate.count([cell, plain], TimeBreakdown())
    for metric, times in (("macs", 4), ("flops", 4), ("moved_bytes", 4), ("params", 1)):
        assert costs[cell.id].value(metric) == times * costs[plain.id].value(metric) > 0


@pytest.mark.parametrize(
    ("mirror", "why"),
    [
        (..., "does not say along which axes its training mirrored patches"),
        ([], "never saw a mirror image"),
        ([3], "does not say along which axes its training mirrored patches"),
        (["auto"], "does not say along which axes its training mirrored patches"),
    ],
)
def test_weights_that_cannot_be_mirrored_are_refused_in_one_line(tmp_path, folder, mirror, why):
    path = weights(tmp_path, folder, mirror)
    with pytest.raises(CheckpointError, match=f"{why}: leave --test-time-mirroring out"):
        run_plan.plan_cells(request(path, folder))


def test_networks_without_weights_forecasts_and_trainings_are_refused(tmp_path, folder):
    with pytest.raises(UsageError, match=r"no weights of tests\.tiny_nets:Tiny for this: give --checkpoint"):
        run_plan.plan_cells(request(None, folder))
    with pytest.raises(UsageError, match="is of one forward: leave --test-time-mirroring out"):
        run_plan.plan_cells(request(weights(tmp_path, folder, [0]), folder, devices=("rtx-4090",)))
    with pytest.raises(UsageError, match="--phase train times training steps"):
        run_plan.plan_cells(request(None, folder, phase="train"))
