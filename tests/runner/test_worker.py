"""What one visit sends, and how it ends: outputs that are no numbers, networks that change, training, volumes."""

import os

import pytest
import torch
from torch import nn

from benchbench.core import records as rec
from benchbench.measure import output_check
from benchbench.runner import worker
from benchbench.runner.job import Job
from tests import tiny_nets

PROTOCOL = "quick,min_samples=3,max_samples=3,warmup_s=0,half_width=1000"


def job(name="Tiny", **changed):
    spec = rec.ModelSpec(name=name, arch=f"tests.tiny_nets:{name}", kwargs={}, in_channels=4, out_channels=3)
    work = {"spatial": (8, 8, 8), "protocol": PROTOCOL}
    work |= {key: changed.pop(key) for key in list(changed) if key not in ("model", "cores", "first")}
    return Job(**({"model": spec, "workload": rec.Workload(**work)} | changed))


def answer(task, *jobs, **more):
    """The events of a task, without those that only say that a job begins."""
    said = []
    worker.answer({"task": task, "jobs": [rec.to_json(job) for job in jobs], **more}, said.append)
    return [event for event in said if event["event"] != "begin"]


def visit(wanted, task="measure"):
    """Measurements by name, the last event, and all of them."""
    said = answer(task, wanted)
    found = [rec.from_json(rec.Measurement, e["measurement"]) for e in said if e["event"] == "measurement"]
    assert len({m.metric for m in found}) == len(found)
    assert all(rec.METRIC_UNITS[m.metric] == m.unit for m in found)
    return {m.metric: m for m in found}, said[-1], said


def test_a_forward_has_its_time_and_the_parts_of_its_peak():
    found, end, said = visit(job())
    assert (end["status"], end["error"]) == ("ok", None)
    assert {"latency_s", "throughput_patches_per_s", "warmup_s", "peak_memory_bytes"} <= set(found)
    assert found["weights_memory_bytes"].value == 4 * sum(p.numel() for p in tiny_nets.Tiny().parameters())
    assert found["input_memory_bytes"].value == 4 * 4 * 8**3
    assert found["output_memory_bytes"].value == 4 * 3 * 8**3
    assert found["base_memory_bytes"].value > 1e7
    assert [e["event"] for e in said if e["event"] in ("ready", "forwards", "end")] == ["ready", "forwards", "end"]


def test_an_output_that_is_not_finite_fails_and_says_how_much_of_it():
    found, end, _ = visit(job("Broken"))
    assert end["status"] == "failed"
    assert end["error"] == "12.50% of its output is NaN or infinite: these latencies do not count"
    assert "latency_s" in found


@pytest.mark.parametrize(("name", "why"), [("Counts", "'seen'"), ("Drops", "equal inputs gave different outputs")])
def test_a_network_that_changes_between_forwards_is_unstable_and_named(name, why):
    _, end, _ = visit(job(name))
    assert end["status"] == "unstable"
    assert why in end["error"]


def test_only_the_first_process_of_a_cell_compares_outputs():
    found, _, _ = visit(job(dtype="bf16"))
    assert "output_rel_error" in found
    found, end, _ = visit(job("Inaccurate", dtype="bf16", first=False))
    assert "output_rel_error" not in found
    assert end["status"] == "ok"


def test_a_training_step_is_measured_instead_of_a_forward():
    found, end, _ = visit(job(phase="train"))
    assert end["status"] == "ok"
    assert len(found["train_step_s"].values) == 3
    assert "latency_s" not in found
    assert found["train_peak_memory_bytes"].value > 1e7
    _, end, _ = visit(job("Broken", phase="train"))
    assert end["status"] == "failed"
    assert "loss is NaN" in end["error"]
    _, end, _ = visit(job(phase="train", dtype="fp16"))
    assert end["status"] == "unsupported"


def test_a_whole_volume_comes_after_the_patch():
    found, end, _ = visit(job(volume=(12, 8, 8), overlap=0.5))
    assert end["status"] == "ok"
    assert found["volume_windows"].value == 2
    assert list(found).index("latency_s") < list(found).index("volume_latency_s")
    found, end, _ = visit(job("Classifies", volume=(12, 8, 8)))
    assert end["status"] == "unsupported"
    assert "no dense output" in end["error"]
    assert "latency_s" in found


def test_a_crop_needs_the_phantoms_channels_and_is_refused_before_anything_runs():
    spec = rec.ModelSpec(name="one", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=1, out_channels=3)
    found, end, _ = visit(job(model=spec, crop_foreground=True))
    assert end["status"] == "unsupported"
    assert not found


def test_a_confirming_run_measures_nothing():
    for phase in ("infer", "train"):
        found, end, _ = visit(job(phase=phase), "confirm")
        assert (found, end["status"]) == ({}, "ok")


def test_what_does_not_fit_says_what_it_needs_at_least():
    _, end, _ = visit(job("OutOfMemory"))
    assert end["status"] == "oom"
    assert "out of memory in a forward: needs at least" in end["error"]
    assert "can't allocate memory" in end["error"]


def test_counting_a_training_cell_forecasts_its_step():
    said = answer("count", job(phase="train"), job())
    first, second = ({m["metric"]: m for m in e["measurements"]} for e in said if e["event"] == "cost")
    assert first["train_tensor_memory_bytes"]["value"] > first["tensor_memory_bytes"]["value"]
    assert "train_tensor_memory_bytes" not in second
    assert first["macs"] == second["macs"]
    assert "moved_bytes" in second


def test_the_search_for_what_fits_tells_patches_and_batches():
    said = answer("fit", job(spatial=(32, 32, 32)), limit_bytes=10**12)
    assert [(e["event"], e["what"], e["sizes"][0], e["all"]) for e in said] == [
        ("fit", "patch", [32, 32, 32], True),
        ("fit", "batch", 1024, True),
    ]
    said = answer("fit", job("NeedsArguments"), limit_bytes=10**12)
    assert said[0]["event"] == "refused"


def test_a_roof_has_two_sides():
    said = answer("peak", job())
    found = {e["measurement"]["metric"]: e["measurement"] for e in said}
    assert set(found) == {"peak_macs_per_s", "memory_bandwidth_bytes_per_s"}
    assert all(m["value"] > 0 and m["origin"] == "measured" for m in found.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_job_is_kept_to_its_cores(monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append((pid, cores)))
    visit(job(cores=(0,)), "confirm")
    visit(job(), "confirm")
    assert pinned == [(0, (0,))]


# -- the checks themselves


def test_outputs_are_looked_at_ever_more_rarely_and_little_of_them_is_kept():
    check = output_check.OutputCheck()
    out = torch.randn(1, 3, 64, 64, 64)
    for _ in range(9):
        check.look(out)
    assert check.unstable is None
    assert check._first.size <= 4096
    for _ in range(7):
        check.look(out * 1.1)  # the tenth to the sixteenth: only the last is looked at
    assert "differ by 10.0%" in check.unstable


def test_a_voxel_that_becomes_no_number_is_a_change_and_one_that_always_was_is_not():
    out = torch.ones(10)
    out[0] = float("nan")
    check = output_check.OutputCheck()
    check.look(out)
    check.look(out)
    assert check.bad_share == 0.1
    assert check.unstable is None
    check = output_check.OutputCheck()
    check.look(torch.ones(10))
    check.look(out)
    assert "NaN" in check.unstable


def test_rounding_is_no_change():
    check = output_check.OutputCheck("bf16")
    out = torch.randn(1000)
    check.look(out)
    check.look(out * 1.004)
    assert check.unstable is None


def test_a_change_of_state_is_named_even_where_the_sum_stays():
    module = nn.BatchNorm3d(4)
    module.running_mean.copy_(torch.arange(4.0))
    state = output_check.TensorChecksums.of(module)
    assert state.changed(module) == []
    module.running_mean.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert state.changed(module) == ["running_mean"]
    module.register_buffer("new", torch.zeros(1))
    assert output_check.changed_state(state.changed(module)) == (
        "it changes its own state between forwards ('running_mean' and 1 more): each forward is of another network"
    )
