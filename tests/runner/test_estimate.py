"""Counts are kept: the same network is not traced twice, and another one, or other code, never takes its count."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbench.core import records as rec
from benchbench.core.records import ModelSpec
from benchbench.runner import estimate as runner_estimate
from benchbench.runner import fit as runner_fit
from benchbench.runner import plan as runner_plan
from benchbench.runner.job import Cell, Job
from benchbench.runner.request import RunRequest
from benchbench.runner.run import run
from tests.runner.test_run import Heard

SIDES = (32, 32, 32)
pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runner_estimate, "_folder", lambda: tmp_path / "counts")
    return tmp_path / "counts"


def some_cells(models: str = "slim_unetr,unet_small") -> list[Cell]:

    request = RunRequest(models=models, devices=("jetson",), spatial=SIDES, data="none")
    return list(runner_plan.plan_cells(request))


def test_what_was_counted_is_read_again_and_is_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runner_estimate.count(some_cells(), runner_estimate.TimeBreakdown())
    assert all(cost.value("macs") > 0 for cost in first.values())
    assert len(list(cache.glob("*.json"))) == 2
    monkeypatch.setattr(runner_estimate, "run_worker", lambda *_, **__: pytest.fail("it was counted before"))
    assert runner_estimate.count(some_cells(), runner_estimate.TimeBreakdown()) == first


def test_a_count_that_cannot_be_read_is_made_again(cache: Path) -> None:
    first = runner_estimate.count(some_cells("unet_small"), runner_estimate.TimeBreakdown())
    (kept,) = cache.glob("*.json")
    kept.write_text('{"cut o')
    assert runner_estimate.count(some_cells("unet_small"), runner_estimate.TimeBreakdown()) == first
    assert kept.stat().st_size > 1000


def test_one_that_is_not_kept_is_counted_beside_those_that_are() -> None:
    runner_estimate.count(some_cells("unet_small"), runner_estimate.TimeBreakdown())
    both = some_cells()
    found = runner_estimate.count(both, runner_estimate.TimeBreakdown())
    by_name = {cell.model.name: found[cell.id].value("params") for cell in both}
    assert by_name["slim_unetr"] == 1_777_377  # four classes, a patch of 32 x 32 x 32
    assert by_name["unet_small"] > 4e6


def job(arch: str = "benchbench.models.unet:UNet", folder: str | None = None, side: int = 32) -> dict[str, object]:
    spec = ModelSpec(name="a", arch=arch, kwargs={}, in_channels=1, out_channels=2)
    plain = rec.to_json(Job(model=spec, workload=rec.Workload(spatial=(side,) * 3), folder=folder))
    assert isinstance(plain, dict)
    return plain


def test_code_of_ones_own_is_never_kept() -> None:
    assert runner_estimate.count_path(job()) is not None
    assert runner_estimate.count_path(job("tests.tiny_nets:Tiny")) is None
    assert runner_estimate.count_path(job(folder="mine")) is None


def test_another_job_another_question_or_other_code_is_another_count(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        runner_estimate.count_path(job()),
        runner_estimate.count_path(job(side=64)),
        runner_estimate.count_path(job(), "patch in 5 B"),
    ]
    monkeypatch.setattr(runner_estimate, "_code", lambda: "changed")
    paths.append(runner_estimate.count_path(job()))
    assert len(set(paths)) == 4


def test_a_changed_file_of_ours_changes_the_key(tmp_path: Path) -> None:
    for folder in runner_estimate._COUNTING:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("zoo/cards.py", "models/unet.py", "models/cards/unet.toml", "measure/flops/graph.py"):
        (tmp_path / name).write_text("a = 1\n")
    before = runner_estimate._code(tmp_path)
    runner_estimate._code.cache_clear()
    assert runner_estimate._code(tmp_path) == before
    for name in ("zoo/cards.py", "models/unet.py", "models/cards/unet.toml", "measure/flops/graph.py"):
        (tmp_path / name).write_text("a = 22\n")
        runner_estimate._code.cache_clear()
        after = runner_estimate._code(tmp_path)
        assert after != before, name
        before = after


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(runner_estimate, "_folder", lambda: tmp_path / "file" / "counts")
    path = runner_estimate.count_path(job())
    runner_estimate.keep_count(path, {"a": 1})
    assert runner_estimate.read_count(path) is None


BOARD = """
name = "tiny"
title = "Tiny board"
kind = "jetson"
core = "sm_87"
memory_bytes = {memory}
reserve_bytes = 10_000_000
bandwidth_bytes_per_s = 1e9
[peaks]
fp32 = 1e12
[sources]
fp32 = "test"
memory_bytes = "test"
reserve_bytes = "test"
bandwidth_bytes_per_s = "test"
"""


def predicted(tmp_path: Path, memory: int, out: str = "out") -> rec.Record:
    path = tmp_path / "tiny.toml"
    path.write_text(BOARD.format(memory=memory))
    request = RunRequest(models="slim_unetr", devices=(str(path),), data="none")
    (record,) = run(request, tmp_path / f"{out}-{memory}", progress=Heard()).records  # type: ignore[arg-type]
    return record


def test_what_does_not_fit_comes_with_the_largest_patch_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = predicted(tmp_path, 50_000_000)  # 97 MB at 128 x 128 x 128
    assert record.value("fits_in_memory") == 0
    patch = record.get("largest_patch_voxels")
    assert patch is not None
    assert (patch.origin, patch.bound) == ("predicted", "at_most")
    assert patch.value in {96**3, 64**3}
    assert "in 50 MB less 10 MB reserve of tiny, and excludes the next larger one" in patch.method
    monkeypatch.setattr(runner_fit, "run_worker", lambda request, **_: pytest.fail("it was searched before"))
    assert predicted(tmp_path, 50_000_000, "again").get("largest_patch_voxels") == patch


def test_where_no_patch_fits_that_is_said_and_where_the_asked_one_does_nothing(tmp_path: Path) -> None:
    patch = predicted(tmp_path, 12_000_000).get("largest_patch_voxels")
    assert patch is not None
    assert patch.value is None
    assert "the smallest patch needs at least" in str(patch.reason)
    assert "limit 12 MB less 10 MB reserve of tiny" in str(patch.reason)
    assert predicted(tmp_path, 500_000_000).get("largest_patch_voxels") is None
