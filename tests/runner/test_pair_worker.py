"""Worker of a paired measurement, in this process: what it sends once nothing is timed any more."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from benchbench.core import records as rec
from benchbench.measure import energy, placement
from benchbench.runner.job import Job
from benchbench.runner.pairs import here, priority
from benchbench.runner.pairs import worker as pair_worker


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
    made.do({"do": "build", "job": rec.to_json(job), "ahead": False})
    made.do({"do": "warm", "limit_s": 0.0, "memory": True})
    return made


def measured(worker):
    return {e["measurement"]["metric"]: e["measurement"] for e in worker.events if e["event"] == "measurement"}


def test_a_forward_tells_its_wall_and_processor_time(worker):
    worker.do({"do": "forward", "at_s": 0.0, "realtime": False})
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
        worker.do({"do": "forward", "at_s": 0.0, "realtime": False})
        seen.add(tuple(places(worker)))
    assert len(seen) > 1
    stays = places(worker)
    worker.do({"do": "forward", "at_s": 0.0, "move": False, "realtime": False})
    assert places(worker) == stays


def test_a_forked_worker_tells_no_memory_and_warms_up_at_other_places(worker):
    worker.events.clear()
    before = places(worker)
    worker.do({"do": "warm", "limit_s": 0.0, "memory": False})
    (warm,) = worker.events
    assert warm["moves"]
    assert places(worker) != before
    worker.do({"do": "finish", "energy": False, "accuracy": False})
    assert "peak_memory_bytes" not in measured(worker)


def test_weights_stay_where_moving_them_would_not_do(worker, monkeypatch):
    job = worker.job
    for changes in ({"backend": "cuda"}, {"workload": dataclasses.replace(job.workload, runtime="compile")}):
        worker.job = dataclasses.replace(job, **changes)
        assert worker._places() is None
    worker.job = job
    assert worker._places() is not None
    monkeypatch.setattr(placement, "keep_freed_memory", lambda: False)
    worker.do({"do": "warm", "limit_s": 0.0, "memory": True})
    assert not worker.events[-1]["moves"]


_THREADS = """
import json, os, threading, time
from benchbench.runner.pairs.priority import REALTIME_S, Priority

tids = lambda: [int(name) for name in os.listdir("/proc/self/task")]
state = lambda: sorted({(os.sched_getscheduler(t), os.getpriority(os.PRIO_PROCESS, t)) for t in tids()})
start = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
found, own = {}, Priority(tids)
start()
found["before"] = state()
found["raised"] = own.raise_it()
found["between"] = state()
with own.in_forward(REALTIME_S / 2):
    start()  # as a runtime may
    found["in_forward"] = state()
found["after"] = state()
with own.in_forward(REALTIME_S):
    found["in_long_forward"] = state()
own.lower()
found["lowered"] = state()
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone a thread has a priority of its own")
def test_all_threads_go_before_other_programs_in_forwards_that_are_short_enough():
    found = json.loads(subprocess.run([sys.executable, "-c", _THREADS], capture_output=True, check=True).stdout)
    ordinary = found["before"]
    assert {policy for policy, _ in ordinary} == {os.SCHED_OTHER}
    if not found["raised"]:  # the system does not allow it to this user: nothing changes
        assert all(state == ordinary for name, state in found.items() if name != "raised")
        return
    assert found["in_forward"] == [[os.SCHED_RR, -20]]
    assert found["between"] == found["after"] == found["in_long_forward"] == [[os.SCHED_OTHER, -20]]
    assert found["lowered"] == ordinary


@pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone a thread has a priority of its own")
def test_a_worker_whose_parent_goes_before_other_programs_is_as_these_once_it_is_lowered():
    raised = "import os; os.setpriority(os.PRIO_PROCESS, 0, -20)"
    if subprocess.run([sys.executable, "-c", raised], capture_output=True).returncode:
        pytest.skip("the system does not allow priority to this user")
    code = f"{raised}\n{_THREADS}"
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert found["before"] == found["between"] == [[os.SCHED_OTHER, -20]]
    assert found["lowered"] == [[os.SCHED_OTHER, 0]]


def test_a_rest_follows_a_forward_that_had_real_time_priority(monkeypatch):
    slept, now = [], iter([10.0, 10.5, 10.51])
    monkeypatch.setattr(priority, "_schedule", lambda threads, policy: None)
    monkeypatch.setattr(priority.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(priority.time, "sleep", slept.append)
    own = priority.Priority(list)
    own._niceness = 0
    with own.in_forward(0.1):
        pass
    own.rest()
    assert slept == [pytest.approx(0.08 * 0.5 - 0.01)]


@pytest.mark.parametrize(
    ("realtime", "cores", "waits"), [(True, (3,), 0), (True, (2, 3), 1), (False, (3,), 1)], ids=str
)
def test_threads_that_spin_are_waited_for_unless_the_next_forward_takes_all_cores_before_them(
    worker, monkeypatch, realtime, cores, waits
):
    waited = []
    monkeypatch.setattr(pair_worker, "_settle", lambda: waited.append(True))
    monkeypatch.setattr(pair_worker.cpu, "allowed_cores", lambda: cores)
    worker.do({"do": "forward", "at_s": 0.0, "realtime": realtime})
    assert len(waited) == waits


def test_a_system_that_does_not_allow_it_is_no_failure(worker, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "getpriority", lambda *_: 5, raising=False)
    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("it would not be put back"), raising=False)
    worker.do({"do": "build", "job": rec.to_json(worker.job), "ahead": True})
    worker.do({"do": "warm", "limit_s": 0.0, "memory": True})
    assert worker.events[-1]["ahead"] is False
    worker.do({"do": "forward", "at_s": 0.0, "realtime": True})
    assert worker.events[-1]["wall_s"] > 0


def test_one_comparison_at_a_time_goes_before_other_programs(monkeypatch):
    monkeypatch.setattr(here, "_LOCK", f"\0benchbench.test.{os.getpid()}")
    monkeypatch.setattr(here.Priority, "raise_it", lambda self: True)
    with here._alone_ahead(wanted=True) as first, here._alone_ahead(wanted=True) as second:
        assert (first, second) == (sys.platform == "linux", False)
    with here._alone_ahead(wanted=True) as again, here._alone_ahead(wanted=False) as unasked:
        assert (again, unasked) == (sys.platform == "linux", False)


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
