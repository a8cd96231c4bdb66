"""What fits: the bisection against exhaustive search, and the runs that confirm or refuse what it found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchbench.core.errors import ShapeError, UnsupportedError
from benchbench.core.records import ModelSpec, Workload
from benchbench.measure import largest_fit
from benchbench.runner import fit as runner_fit
from benchbench.runner.child_process import WorkerFailure
from benchbench.runner.job import Job
from tests import tiny_nets

SPEC = ModelSpec(name="tiny", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=4, out_channels=3)
JOB = Job(model=SPEC, workload=Workload(spatial=(64, 64, 64), threads=1))


def test_patches_shrink_by_sixteen_voxels_and_keep_their_form():
    assert largest_fit.patches((64, 64, 64)) == [(64, 64, 64), (48, 48, 48), (32, 32, 32), (16, 16, 16)]
    assert largest_fit.patches((128, 128, 64))[:3] == [(128, 128, 64), (112, 112, 64), (96, 96, 48)]
    assert largest_fit.patches((100, 100, 50))[:2] == [(100, 100, 50), (96, 96, 48)]
    assert largest_fit.patches((8, 8, 8)) == [(8, 8, 8)]


@settings(deadline=None, max_examples=200)
@given(longest=st.integers(1, 20), refused=st.sets(st.integers(1, 20)), limit=st.integers(0, 21**3))
def test_the_largest_patch_is_that_of_an_exhaustive_search(longest, refused, limit):
    def make(spatial):
        if spatial[0] // 16 in refused:
            raise ShapeError("a side that it refuses")
        return nn.Identity()

    def needs(module, shape, dtype, phase):
        return (shape[2] // 16) ** 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest_fit, "needed_bytes", needs)
        found = largest_fit.largest_patch(make, 4, 1, (16 * longest,) * 3, "fp32", limit)
    fitting_sides = [n for n in range(longest, 0, -1) if n not in refused and n**3 <= limit]
    assert [size[0] // 16 for size in found.sizes] == fitting_sides[:3]
    assert found.is_all_asked == (fitting_sides[:1] == [longest])


@pytest.mark.parametrize("limit", [0, 9, 10, 25, 70, 71, 10**6])
def test_the_largest_batch_is_that_of_an_exhaustive_search(monkeypatch, limit):
    monkeypatch.setattr(largest_fit, "needed_bytes", lambda module, shape, dtype, phase: 10 * shape[0])
    found = largest_fit.largest_batch(lambda spatial: nn.Identity(), 4, (8, 8, 8), "fp32", limit)
    largest = min(limit // 10, largest_fit.MOST_BATCH)
    assert found.sizes[:1] == ((largest,) if largest else ())
    assert list(found.sizes) == sorted(set(found.sizes), reverse=True)


@pytest.mark.parametrize("phase", ["infer", "train"])
def test_a_real_network_fits_where_its_forecast_does(phase):
    def make(spatial):
        return tiny_nets.Tiny().eval()

    limit = largest_fit.needed_bytes(make(None), (1, 4, 32, 32, 32), "fp32", phase)
    found = largest_fit.largest_patch(make, 4, 1, (64, 64, 64), "fp32", limit, phase)
    assert found.sizes == ((32, 32, 32), (16, 16, 16))
    assert found.needs_bytes == limit
    assert largest_fit.largest_batch(make, 4, (32, 32, 32), "fp32", limit, phase).sizes == (1,)


def test_a_network_that_cannot_be_counted_is_not_searched():
    class Peeks(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(UnsupportedError):
        largest_fit.largest_patch(lambda spatial: Peeks(), 4, 1, (32, 32, 32), "fp32", 10**9)


def scripted(monkeypatch, offers, endings):
    """`talk` as two searches and the runs after them would have it; returns the jobs that were run."""
    ran = []

    def talk(request, **_):
        if request["task"] == "fit":
            yield from offers
            return
        ran.append(request["jobs"][0])
        ending = endings[len(ran) - 1]
        yield ending if isinstance(ending, WorkerFailure) else {"event": "end", "status": ending, "error": ending}

    monkeypatch.setattr(runner_fit, "run_worker", talk)
    return ran


def offer(what, sizes, *, needs=10**8, everything=False):
    common = {"event": "fit", "needs_bytes": needs, "all": everything, "framework_bytes": 2 * 10**8}
    return common | {"what": what, "sizes": sizes}


def test_what_a_run_confirms_is_measured_and_names_what_did_not_fit(monkeypatch):
    offers = [offer("patch", [[48, 48, 48], [32, 32, 32]]), offer("batch", [16, 14, 13])]
    ran = scripted(monkeypatch, offers, ["oom", "ok", "oom", "oom", "ok"])
    patch, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert (patch.metric, patch.value, patch.origin, patch.bound) == ("largest_patch_voxels", 32**3, "measured", None)
    assert "patch 32x32x32 ran in 1 GB" in patch.method
    assert "patch 48x48x48 did not fit" in patch.method
    assert (batch.metric, batch.value, batch.origin, batch.bound) == ("largest_batch", 13, "measured", None)
    assert [(job["workload"]["spatial"], job["workload"]["batch"]) for job in ran] == [
        ([48, 48, 48], 1),
        ([32, 32, 32], 1),
        ([64, 64, 64], 16),
        ([64, 64, 64], 14),
        ([64, 64, 64], 13),
    ]
    assert all(job["workload"]["memory_limit_bytes"] == 10**9 for job in ran)


def test_steps_of_batches_that_leave_some_out_are_a_lower_bound(monkeypatch):
    scripted(monkeypatch, [offer("batch", [16, 14])], ["oom", "ok"])
    _, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert (batch.value, batch.bound) == (14, "at_least")


def test_without_a_run_that_fits_the_answer_is_an_upper_bound(monkeypatch):
    crash = WorkerFailure(status="failed", error="its process was killed by SIGSEGV", stderr="")
    scripted(monkeypatch, [offer("batch", [3, 2, 1])], ["oom", crash, "oom"])
    patch, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert patch.value is None
    assert (batch.value, batch.origin, batch.bound) == (1, "analytic", "at_most")
    assert "batch 3, batch 2, batch 1 did not fit" in batch.method


def test_where_nothing_fits_the_reason_says_what_is_needed(monkeypatch):
    scripted(monkeypatch, [offer("patch", [], needs=2 * 10**9), offer("batch", [])], [])
    patch, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert patch.value is batch.value is None
    assert patch.reason == "the smallest patch needs at least 2 GB beside the framework's 200 MB; limit 1 GB"
    assert "a batch of 1" in batch.reason


def test_a_search_that_fails_is_a_reason(monkeypatch):
    refused = {"event": "refused", "kind": "unsupported", "error": "depends on values"}
    scripted(monkeypatch, [refused], [])
    assert [m.reason for m in runner_fit.find_fit(JOB, 10**9, 60)] == ["depends on values"] * 2
    dead = WorkerFailure(status="timeout", error="stopped after its time limit", stderr="")
    scripted(monkeypatch, [offer("patch", [[64, 64, 64]], everything=True), dead], ["ok"])
    patch, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert (patch.value, patch.bound) == (64**3, "at_least")
    assert "stopped after" in batch.reason


def test_a_run_that_fails_for_another_reason_is_not_taken_for_one_that_does_not_fit(monkeypatch):
    scripted(monkeypatch, [offer("batch", [2, 1])], ["failed"])
    _, batch = runner_fit.find_fit(JOB, 10**9, 60)
    assert batch.value is None
    assert "ended as failed" in batch.reason
