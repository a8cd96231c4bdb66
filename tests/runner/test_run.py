"""A run with real child processes: whatever one network does, the others' rows stand and are on disk."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchbench.cli.main import main
from benchbench.core import records as rec
from benchbench.core.errors import CardError, ShapeError, UsageError
from benchbench.core.results import read_records
from benchbench.runner import child_process
from benchbench.runner import local as runner_local
from benchbench.runner import plan as runner_plan
from benchbench.runner import record as runner_record
from benchbench.runner import run as runner_run
from benchbench.runner.request import RunRequest

ROOT = Path(__file__).resolve().parents[2]
SIDES = (8, 8, 8)
pytestmark = pytest.mark.usefixtures("forked_workers")


class Heard:
    """A progress that remembers."""

    def __init__(self):
        self.began, self.ended, self.planned = [], [], None

    def plan(self, cells, folder, reused):
        self.planned = ([cell.label for cell, *_ in cells], reused)

    def begin(self, label, remaining_s, host=""):
        self.began.append(label)

    def phase(self, text, host=""):
        pass

    def end(self, record):
        self.ended.append(record)


def nets(*names):
    return ",".join(f"tests.tiny_nets:{name}" for name in names)


#: What one machine makes of a forward of microseconds is not what these tests are about.
CALM = "quick,half_width=1000"


def ask(models, **more):
    settings = {"protocol": CALM, "noise": False, "threads": (1,)} | more
    return RunRequest(models=models, spatial=SIDES, **settings)


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_network_that_dies_crashes_or_runs_out_of_memory_is_a_row_and_the_others_are_measured(tmp_path):
    heard = Heard()
    request = ask(nets("Killed", "Wider", "Crashes", "OutOfMemory", "DiesWhenBuilt", "Tiny", "Lists"))
    outcome = runner_run.run(request, tmp_path, progress=heard)
    rows = {r.model.name.partition(":")[2]: r for r in outcome.records}
    assert {name: r.status for name, r in rows.items()} == {
        "Killed": "failed",
        "Wider": "ok",
        "Crashes": "failed",
        "OutOfMemory": "oom",
        "DiesWhenBuilt": "failed",
        "Tiny": "ok",
        "Lists": "ok",
    }
    assert "SIGKILL" in rows["Killed"].error
    assert rows["Killed"].value("params") == rows["Tiny"].value("params")  # what was known is kept
    assert "a bug of its own" in rows["Crashes"].error
    assert "in forward" in rows["Crashes"].traceback
    assert "exit code 7" in rows["DiesWhenBuilt"].error
    assert list(read_records(tmp_path)) == heard.ended
    tiny = rows["Tiny"]
    assert tiny.value("macs") == 512 * (4 * 2 * 27 + 2 * 3)
    assert len(tiny.get("latency_s").values) >= 3
    assert tiny.value("throughput_patches_per_s") == pytest.approx(1 / tiny.value("latency_s"))
    assert tiny.value("peak_memory_bytes") > tiny.value("base_memory_bytes") > 50e6
    assert tiny.workload.threads == 1
    assert tiny.environment["torch"]
    assert "bench train" in tiny.get("dice").reason
    layers = json.loads((tmp_path / tiny.artifacts[0].path).read_text())["modules"]
    assert sum(layer["macs"] for layer in layers) == tiny.value("macs")
    order = [label.split()[0].partition(":")[2] for label in heard.began]
    assert order.index("Tiny") < order.index("Wider")  # the cheapest first
    assert outcome.spent.forward_s > 0
    assert 0 < outcome.spent.share < 1


def test_the_same_folder_again_measures_only_what_is_missing_and_fresh_starts_over(tmp_path):
    runner_run.run(ask(nets("Tiny", "Crashes")), tmp_path, progress=Heard())
    heard = Heard()
    outcome = runner_run.run(ask(nets("Tiny", "Crashes", "Wider")), tmp_path, progress=heard)
    assert outcome.reused == 1
    assert len(outcome.records) == 3
    assert sorted(heard.began) == sorted(f"tests.tiny_nets:{n} 8x8x8 on cpu" for n in ("Crashes", "Wider"))
    assert len(list(read_records(tmp_path))) == 4
    again = runner_run.run(ask(nets("Tiny")), tmp_path, fresh=True, progress=Heard())
    assert again.reused == 0
    assert len(list(read_records(tmp_path))) == 1


def test_a_forward_that_does_not_end_is_a_timeout_with_what_was_known(tmp_path):
    outcome = runner_run.run(ask(nets("Sleeps"), time_limit_s=6.0), tmp_path, progress=Heard())
    (record,) = outcome.records
    assert record.status == "timeout"
    assert "--time-limit" in record.error
    assert record.value("macs")


def test_a_child_killed_from_outside_is_a_row_and_the_run_goes_on(tmp_path):
    class KillsTheSleeper(Heard):
        def phase(self, text, host=""):
            pass

    killed = []
    real = child_process.subprocess.Popen

    def popen(*args, **kwargs):
        process = real(*args, **kwargs)
        if len(killed) == 0 and getattr(popen, "count", 0) == 1:
            killed.append(process.pid)
            subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(2); os.kill({process.pid}, 9)"])
        popen.count = getattr(popen, "count", 0) + 1
        return process

    patched = pytest.MonkeyPatch()
    patched.setattr(child_process.subprocess, "Popen", popen)
    try:
        outcome = runner_run.run(ask(nets("Sleeps", "Wider")), tmp_path, progress=KillsTheSleeper())
    finally:
        patched.undo()
    assert [(r.status, "SIGKILL" in (r.error or "")) for r in outcome.records] == [("failed", True), ("ok", False)]


def test_a_network_that_would_not_fit_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_record.cpu, "available_memory_bytes", lambda *_: 330_000_000)
    started = []
    monkeypatch.setattr(runner_local.LocalRunner, "_measure", lambda *a, **_: started.append(a))
    outcome = runner_run.run(
        dataclasses.replace(ask(nets("Tiny")), spatial=(128, 128, 128)), tmp_path, progress=Heard()
    )
    assert outcome.records[0].status == "not_run"
    assert "needs at least" in outcome.records[0].error
    assert "330 MB is free" in outcome.records[0].error
    assert not started


def test_a_reduced_dtype_counts_only_if_its_output_matches(tmp_path):
    outcome = runner_run.run(ask(nets("Tiny", "Inaccurate"), dtype=("bf16",)), tmp_path, progress=Heard())
    good, bad = outcome.records
    assert good.status == "ok"
    assert good.value("output_rel_error") < 0.02
    assert bad.status == "failed"
    assert "off the fp32 output" in bad.error
    assert bad.value("output_rel_error") > 0.5


def test_a_size_that_no_network_takes_is_refused_and_leaves_no_folder(tmp_path):
    out = tmp_path / "new"
    with pytest.raises(ShapeError, match="nearest"):
        runner_run.run(dataclasses.replace(ask("slim_unetr"), spatial=(33, 33, 33)), out, progress=Heard())
    assert not out.exists()


def test_a_size_that_some_networks_take_is_a_row_for_the_others(tmp_path):
    outcome = runner_run.run(
        dataclasses.replace(ask(f"slim_unetr,{nets('Tiny')}"), spatial=(24, 24, 24)), tmp_path, progress=Heard()
    )
    assert [r.status for r in outcome.records] == ["unsupported", "ok"]
    assert "multiple of 32" in outcome.records[0].error


def test_a_class_that_is_not_there_or_needs_more_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(CardError, match="did you mean 'Tiny'"):
        runner_run.run(ask(nets("Tinny", "Wider")), tmp_path, progress=Heard())
    with pytest.raises(CardError, match=r"width.*docs/add_a_model.md"):
        runner_run.run(ask(nets("NeedsArguments")), tmp_path, progress=Heard())


def test_a_prediction_runs_nothing_and_says_so(tmp_path):
    request = RunRequest(models="slim_unetr,unetr", devices=("jetson", "jetson:agx-orin-64gb"))
    outcome = runner_run.run(request, tmp_path, progress=Heard())
    assert len(outcome.banners) == 2
    assert all("othing was measured" in banner for banner in outcome.banners)
    for record in outcome.records:
        latency = record.get("latency_s")
        assert record.device.basis == "profile"
        assert (latency.origin, latency.bound) == ("predicted", "at_least")
        assert latency.interval[0] == latency.value < latency.interval[1]
        assert record.get("fits_in_memory").origin == "predicted"
        assert not any(m.origin == "measured" and m.value is not None for m in record.measurements)
    nano, orin = (r.value("latency_s") for r in outcome.records if r.model.name == "unetr")
    assert orin < nano
    assert runner_run.run(request, tmp_path, progress=Heard()).reused == 4


def test_a_classifier_keeps_its_classes_and_says_why_it_has_no_dice(tmp_path):
    for data in (None, "phantom"):
        request = RunRequest(models="vit3d,slim_unetr", devices=("jetson",), spatial=(32, 32, 32), data=data)
        classifier, network = runner_run.run(request, tmp_path / str(data), progress=Heard()).records
        assert (classifier.status, classifier.model.out_channels) == ("ok", 2)
        assert (classifier.workload.data, classifier.workload.split) == (None, None)
        assert classifier.get("dice").reason == "a classifier: it has no dense output, so no Dice"
        assert (network.model.out_channels, network.workload.data) == (3, "phantom")


def test_a_checkpoint_is_of_one_network(tmp_path):
    with pytest.raises(UsageError, match=r"--models names \d+"):
        runner_plan.plan_cells(RunRequest(models="all", checkpoint=tmp_path / "x.safetensors"))


def test_the_worker_ends_when_its_parent_is_killed(tmp_path):
    script = (
        "from benchbench.runner import run as runner\nfrom pathlib import Path\n"
        "from tests.runner.test_run import Heard, ask, nets\n"
        f"runner.run(ask(nets('Sleeps')), Path({str(tmp_path)!r}), progress=Heard())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        worker = _wait_for(lambda: _sleeping_worker(parent.pid))
        parent.kill()
        parent.wait()
        _wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()


def _sleeping_worker(parent):
    """The worker once it is inside the forward that does not end: the second child, grown past 150 MB."""
    for process in psutil.Process(parent).children():
        if process.memory_info().rss > 150e6:
            return process
    return None


def _wait_for(condition, limit_s=60):
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def test_an_interrupted_run_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchbench",
        "run",
        "--models",
        nets("Tiny", "Sleeps"),
        "--spatial",
        "8",
        "8",
        "8",
    ]
    process = subprocess.Popen(
        [*command, "--threads", "1", "--protocol", CALM, "--no-noise", "--out", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    records = tmp_path / "records.jsonl"
    _wait_for(lambda: records.exists() and records.read_bytes().count(b"\n") == 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finished records are kept" in stderr
    assert f"--out {tmp_path}" in stderr
    assert "Traceback" not in stderr
    assert [r.status for r in read_records(tmp_path)] == ["ok"]
    assert (tmp_path / "report.html").exists()


def test_events_are_lines_of_json_and_nothing_else_is_printed(tmp_path, capfd):
    words = ["run", "--models", nets("Tiny", "Lists"), "--spatial", "8", "8", "8", "--threads", "1", "--no-noise"]
    code = main([*words, "--protocol", CALM, "--events", "json", "--out", str(tmp_path)])
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert code == 0
    kinds = [event["event"] for event in events if event["event"] != "phase"]
    assert kinds == ["plan", *["begin", "record"] * 2, "end"]
    plan, end = events[0], events[-1]
    assert [cell["label"].split()[0] for cell in plan["cells"]] == [f"tests.tiny_nets:{n}" for n in ("Tiny", "Lists")]
    assert {m["metric"]: m["value"] for m in plan["cells"][0]["counts"]}["macs"] > 0
    records = [rec.record_from_json(event["record"]) for event in events if event["event"] == "record"]
    assert records == list(read_records(tmp_path))
    assert end["spent"]["forward_s"] > 0
    assert (tmp_path / "report.html").exists()


def test_several_processes_make_one_row_and_a_network_is_measured_against_itself(tmp_path):
    heard = Heard()
    request = ask(nets("Tiny", "Wider"), protocol="standard,processes=2,max_processes=2,half_width=1000", noise=True)
    outcome = runner_run.run(request, tmp_path, progress=heard)
    assert [r.status for r in outcome.records] == ["ok", "ok"]
    assert len(list(read_records(tmp_path))) == 2
    for record in outcome.records:
        latency = record.get("latency_s")
        assert len(latency.runs) == 2
        assert sum(latency.runs) == len(latency.values)
        assert latency.ci95 is None  # of two processes there is none
        assert len(record.get("peak_memory_bytes").values) == 2
        assert record.get("peak_macs_per_s").value > 0
    floors = [r.get("noise_ratio") for r in outcome.records]
    assert [f is not None for f in floors].count(True) == 1
    assert sum("against itself" in label for label in heard.began) == 2
    assert len(heard.began) == 6
    assert not (tmp_path / "records.unfinished").exists()
    again = Heard()
    assert runner_run.run(request, tmp_path, progress=again).reused == 2
    assert again.began == []


def test_a_run_killed_between_rounds_goes_on_from_the_processes_that_ended(tmp_path):
    protocol = "standard,processes=3,max_processes=3,half_width=1000"
    script = (
        "from benchbench.runner import run as runner\nfrom pathlib import Path\n"
        "from tests.runner.test_run import Heard, ask, nets\n"
        f"runner.run(ask(nets('Tiny'), protocol={protocol!r}), Path({str(tmp_path)!r}), progress=Heard())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    journal = tmp_path / "records.unfinished"
    try:
        _wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 1)
    finally:
        parent.kill()
        parent.wait()
    kept = journal.read_bytes().count(b"\n")
    assert list(read_records(tmp_path)) == []
    heard = Heard()
    (record,) = runner_run.run(ask(nets("Tiny"), protocol=protocol), tmp_path, progress=heard).records
    assert len(heard.began) == 3 - kept
    assert len(record.get("latency_s").runs) == 3


@pytest.mark.usefixtures("all_cores")
def test_batches_dtypes_and_threads_make_a_row_each(tmp_path):
    request = ask(nets("Tiny"), batch=(1, 2), dtype=("fp32", "bf16"), threads=(1, 2))
    records = runner_run.run(request, tmp_path, progress=Heard()).records
    rows = {(r.workload.batch, r.workload.dtype, r.workload.threads) for r in records}
    assert len(rows) == len(records) == 8
    assert {r.environment["threads"] for r in records} == {1, 2}
    assert all(r.status == "ok" for r in records)


def test_a_death_is_told_apart_by_how_it_came():
    assert child_process._death(-signal.SIGKILL, True, "").status == "oom"
    assert child_process._death(-signal.SIGKILL, False, "").status == "failed"
    assert "SIGSEGV" in child_process._death(-signal.SIGSEGV, False, "").error
    assert child_process._death(3, False, "first\nlast words\n").error.endswith("last words")


def test_the_parent_sleeps_while_the_child_works():
    """The parent's own processor time over a child that lives for seconds is next to nothing."""
    before = time.process_time()
    job = {
        "model": {
            "name": "t",
            "arch": "tests.tiny_nets:Sleeps",
            "kwargs": {},
            "in_channels": 4,
            "out_channels": 3,
            "checkpoint": None,
        },
        "workload": {"spatial": [8, 8, 8]},
    }
    (*_, death) = child_process.run_worker({"task": "measure", "jobs": [job]}, limit_s=3.0, threads=1)
    assert death.status == "timeout"
    assert time.process_time() - before < 1.0
    assert os.getpid()
