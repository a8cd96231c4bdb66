"""Worker of a paired measurement, in this process: what it sends once nothing is timed any more."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from benchbench.core import records as rec
from benchbench.measure import energy, placement
from benchbench.runner.job import Job
from benchbench.runner.pairs import here
from benchbench.runner.pairs import worker as pair_worker
from benchbench.runner.pairs.process import PairProcess


class Meter:
    """Counts a joule a forward."""

    def __init__(self):
        self.forwards, self.began, self.closed = 0, False, False

    def begin(self):
        self.began = True

    def between(self):
        self.forwards += 1

    def end(self):
        return energy.Reading(joules=float(self.forwards), window_s=3.0, samples=9, period_s=0.1, what="a test's meter")

    def close(self):
        self.closed = True


@pytest.fixture
def worker(monkeypatch):
    """Has a network that is built and warm, and what it sent."""
    monkeypatch.setattr(placement, "keep_freed_memory", lambda: True)  # this process goes on with other tests
    events = []
    made = pair_worker._Worker(lambda event: events.append(json.loads(json.dumps(event))))
    made.events = events
    model = rec.ModelSpec(name="t", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=4, out_channels=3)
    job = Job(model=model, workload=rec.Workload(spatial=(8, 8, 8), threads=1))
    monkeypatch.setattr(pair_worker.cpu, "set_affinity", lambda cores: None)
    monkeypatch.setattr(pair_worker, "_ENERGY_S", 0.0)
    made.do({"do": "build", "job": rec.to_json(job)})
    made.do({"do": "warm", "limit_s": 0.0, "ahead": False})
    return made


def measured(worker):
    return {e["measurement"]["metric"]: e["measurement"] for e in worker.events if e["event"] == "measurement"}


def test_a_forward_tells_its_wall_and_processor_time(worker):
    worker.do({"do": "forward", "at_s": 0.0, "ahead": False})
    event = worker.events[-1]
    assert event["event"] == "forward"
    assert event["wall_s"] > 0
    assert event["cpu_s"] >= 0


def places(worker):
    return [p.data_ptr() for p in worker.run.module.parameters()] + [worker.run.x.data_ptr()]


def test_weights_are_elsewhere_after_every_forward_of_eager_pytorch_on_the_processor(worker):
    warm = next(event for event in worker.events if event["event"] == "warm")
    assert warm["moves"]
    assert warm["spent_s"] >= warm["forward_s"] > 0
    seen = set()
    for _ in range(6):
        worker.do({"do": "forward", "at_s": 0.0, "ahead": False})
        seen.add(tuple(places(worker)))
    assert len(seen) > 1
    stays = places(worker)
    worker.do({"do": "forward", "at_s": 0.0, "move": False, "ahead": False})
    assert places(worker) == stays


def test_weights_stay_where_moving_them_would_not_do(worker, monkeypatch):
    job = worker.job
    for changes in ({"backend": "cuda"}, {"workload": dataclasses.replace(job.workload, runtime="compile")}):
        worker.job = dataclasses.replace(job, **changes)
        assert worker._places() is None
    worker.job = job
    assert worker._places() is not None
    monkeypatch.setattr(placement, "keep_freed_memory", lambda: False)
    worker.do({"do": "warm", "limit_s": 0.0, "ahead": False})
    assert not worker.events[-1]["moves"]


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="Linux alone has these priorities")
@pytest.mark.parametrize("asked", [True, False])
def test_all_threads_go_before_other_programs_while_forwards_are_timed(worker, asked):
    process = PairProcess("a", worker.job)
    try:
        process.build()
        process.wait("built")
        assert priorities(process) == {(os.SCHED_OTHER, 0)}
        process.warm(0.0, ahead=asked)
        assert process.ahead == (asked and allowed())
        assert priorities(process) == {(os.SCHED_OTHER, -20 if process.ahead else 0)}
        process.realtime = process.ahead
        process.start_forward(time.monotonic() + 0.3)
        time.sleep(0.15)
        assert priorities(process) == {(os.SCHED_RR, -20) if process.ahead else (os.SCHED_OTHER, 0)}
        process.end_forward()
        assert priorities(process) == {(os.SCHED_OTHER, -20 if process.ahead else 0)}
        process.finish(energy=False, accuracy=False)
        assert priorities(process) == {(os.SCHED_OTHER, 0)}
    finally:
        process.close()


def allowed():
    code = (
        "import os; os.setpriority(os.PRIO_PROCESS, 0, -20); os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def priorities(process):
    """Of its threads: policy and niceness."""
    threads = os.listdir(f"/proc/{process._child.pid}/task")
    return {(os.sched_getscheduler(tid), os.getpriority(os.PRIO_PROCESS, tid)) for tid in map(int, threads)}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has these priorities")
def test_one_comparison_at_a_time_goes_before_other_programs():
    with here._alone_ahead(wanted=True) as first, here._alone_ahead(wanted=True) as second:
        assert (first, second) == (True, False)
    with here._alone_ahead(wanted=True) as again, here._alone_ahead(wanted=False) as unasked:
        assert (again, unasked) == (True, False)


def test_a_system_that_does_not_allow_it_is_no_failure(worker, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    worker.do({"do": "warm", "limit_s": 0.0, "ahead": True})
    assert worker.events[-1]["ahead"] is False


def test_energy_is_that_of_a_forward_where_it_is_asked_for(worker, monkeypatch):
    meter = Meter()
    monkeypatch.setattr(energy, "open_meter", lambda *_: meter)
    worker.do({"do": "finish", "energy": True, "accuracy": False})
    found = measured(worker)["energy_j"]
    assert (found["value"], found["unit"], found["origin"]) == (1.0, "J", "measured")
    assert "a test's meter" in found["method"]
    assert (meter.began, meter.closed) == (True, True)
    assert worker.events[-1]["event"] == "finished"


def test_no_energy_without_a_sensor_or_where_it_is_not_asked_for(worker, monkeypatch):
    monkeypatch.setattr(energy, "open_meter", lambda *_: "no sensor")
    worker.do({"do": "finish", "energy": True, "accuracy": False})
    assert "peak_memory_bytes" in measured(worker)
    meter = Meter()
    monkeypatch.setattr(energy, "open_meter", lambda *_: meter)
    worker.do({"do": "finish", "energy": False, "accuracy": False})
    assert "energy_j" not in measured(worker)
    assert not meter.began
