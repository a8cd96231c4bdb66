"""A network that ends its process, with whatever code, is a row, and what comes after it goes on."""

import pytest

from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from benchbench.core.results import read_records
from benchbench.runner import audit as runner_audit
from benchbench.runner import child_process
from benchbench.runner import estimate as runner_estimate
from benchbench.runner import fit as runner_fit
from benchbench.runner.estimate import TimeBreakdown
from benchbench.runner.job import Job

pytestmark = pytest.mark.usefixtures("forked_workers")

SOURCE = """
import os, sys
from torch import nn
class Tiny(nn.Module):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__()
        self.a = nn.Conv3d(in_channels, out_channels, 1)
    def forward(self, x):
        return self.a(x)
class Quits(Tiny):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__()
        sys.exit(0)
class Leaves(Tiny):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__()
        os._exit(0)
class QuitsLater(Tiny):
    def forward(self, x):
        sys.exit(0)
class LeavesLater(Tiny):
    def forward(self, x):
        os._exit(0)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "exiting.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_networks_that_exit_are_rows_of_a_run(here, capsys):
    models = ",".join(f"exiting:{name}" for name in ("Quits", "Leaves", "QuitsLater", "LeavesLater"))
    size = ("--spatial", "8", "8", "8", "--data", "none", "--no-noise")
    assert cli_main.main(["run", "-q", "--models", models, *size, "--out", "r"]) == 3
    rows = {r.model.name.partition(":")[2]: r for r in read_records(here / "r")}
    assert len(rows) == 4
    assert all(r.status in ("failed", "unsupported") and r.error for r in rows.values())
    assert "exit code 0 before its work was done" in rows["Leaves"].error
    capsys.readouterr()


def test_networks_that_exit_are_rows_of_an_audit_and_the_next_one_is_counted(here, capsys):
    rows = runner_audit.run("exiting:Leaves,exiting:QuitsLater,exiting:Tiny", shape=(1, 4, 8, 8, 8))
    assert "exit code 0" in rows[0].error
    assert rows[2].counted
    capsys.readouterr()


def answers(*events):
    return lambda *args, **kwargs: iter(events)


def job():
    spec = rec.ModelSpec(name="one", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=4, out_channels=3)
    return Job(model=spec, workload=rec.Workload(spatial=(8, 8, 8)))


def test_a_counting_process_that_says_nothing_at_all_is_not_started_for_ever(monkeypatch):
    monkeypatch.setattr(runner_estimate, "run_worker", answers({"event": "begin", "index": 0}))
    (found,) = runner_estimate._count_some([rec.to_json(job())], [None])
    assert found.refused[0] == "failed"
    monkeypatch.setattr(runner_audit, "run_worker", answers())
    (row,) = runner_audit.run("tests.tiny_nets:Tiny", shape=(1, 4, 8, 8, 8))
    assert row.kind == "failed"


def test_a_process_that_ends_before_its_last_word_is_a_death(here):
    spec = {"name": "x", "arch": "exiting:Leaves", "kwargs": {}, "in_channels": 4, "out_channels": 3}
    request = {"task": "fit", "jobs": [rec.to_json(job()) | {"model": spec}], "limit_bytes": 10**12}
    *_, last = child_process.run_worker(request, limit_s=60)
    assert isinstance(last, child_process.WorkerFailure)
    assert "os._exit" in last.error
    assert runner_fit._offers(request, 60)[1].startswith("while it was searched, its process ended with exit code 0")


def test_a_count_needs_no_time_of_a_run():
    assert runner_estimate.count([], TimeBreakdown()) == {}


def test_what_size_the_next_networks_take_is_found_out_behind_one_that_exits(here, monkeypatch):
    from benchbench import data
    from benchbench.runner import plan as runner_plan
    from benchbench.runner.request import RunRequest
    from benchbench.zoo import cards as zoo_cards

    plan = data.get_plan("phantom")
    plan = type(plan)(**{f: getattr(plan, f) for f in plan.__slots__} | {"folder": here})
    cards = [zoo_cards.find_cards(f"exiting:{name}")[0] for name in ("Leaves", "Quits", "Tiny")]
    request = RunRequest(models="exiting:Tiny", devices="cpu")
    assert set(runner_plan._patches(request, cards, plan)) == {"exiting:Tiny"}
