"""Workers forked from a process that has imported torch: what they are to their parent, and which sets have them."""

import dataclasses
import json
import os
import signal
import sys
import time

import pytest

from benchbench.core import launch
from benchbench.runner.child_process import Child, lines, variables
from benchbench.runner.pairs import fork_server, here, plan
from benchbench.runner.pairs.fork_server import ForkServer
from benchbench.runner.pairs.plan import plan_pair
from benchbench.runner.pairs.process import PairProcess, SideFailed, fork_server_of
from benchbench.runner.pairs.request import PairRequest
from benchbench.runner.pairs.worker import PROTOCOL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone processes are forked")

TINY, WIDER, TALKS = (f"tests.tiny_nets:{name}" for name in ("Tiny", "Wider", "Lists"))
COMMAND = launch.command(fork_server.MODULE, fork_server.BESIDE, "")
LIMIT_S = 120.0  # for one answer


@pytest.fixture(scope="module")
def server():
    running = ForkServer([*COMMAND, "benchbench.models.unet:UNet", TINY], variables(1))
    yield running
    running.close()


def event(child):
    line = next(lines(child.stdout, time.monotonic() + LIMIT_S))
    assert line is not None, "no answer"
    return json.loads(line)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def asked(a=TINY, b=WIDER, **more):
    return plan_pair((a, b), PairRequest(spatial=(8, 8, 8), **({"threads": (1,)} | more)))


def test_each_worker_is_a_process_with_a_session_of_its_own_and_none_is_left(server):
    children = [Child(server.start) for _ in range(2)]
    assert [event(child)["protocol"] for child in children] == [PROTOCOL] * 2
    one, other = (child.pid for child in children)
    assert len({one, other, os.getpid()}) == 3
    assert [os.getsid(pid) for pid in (one, other)] == [one, other]
    for child in children:
        child.close()
    assert not is_there(one)
    assert not is_there(other)


def test_how_a_worker_ended_is_told_as_of_one_that_was_started_alone(server):
    killed, ended = Child(server.start), Child(server.start)
    assert event(killed)
    os.kill(killed.pid, signal.SIGKILL)
    assert "SIGKILL" in killed.failure(done=False).error
    assert event(ended)
    ended.send({"do": "build"})  # without a job
    assert event(ended)["event"] == "refused"
    assert "exit code 0" in ended.failure(done=False).error
    killed.close()
    ended.close()


def test_what_a_network_prints_is_on_the_stderr_of_its_own_worker(server):
    job = asked(TALKS).sides[0].cell.job
    talks, other = (PairProcess(role, job, None, server) for role in ("a", "b"))
    for process in (talks, other):
        process.build()
        process.wait("built", LIMIT_S)
    talks.warm(0.0)
    assert "a network that talks" in talks._child.said()
    assert "a network that talks" not in other._child.said()
    talks.close()
    other.close()


@pytest.mark.usefixtures("all_cores")
def test_a_forked_worker_computes_with_several_threads():
    job = asked(threads=(2,)).sides[0].cell.job
    own = fork_server_of([job], None, ahead=False)
    process = PairProcess("a", job, None, own)
    process.build()
    process.wait("built", LIMIT_S)
    assert process.warm(0.0) > 0
    assert process.moves
    assert process.forward()[0] > 0
    process.close()
    own.close()


def test_workers_end_with_their_server_whose_end_is_told():
    doomed = ForkServer(COMMAND, variables(1))
    child = Child(doomed.start)
    assert event(child)
    doomed._server.kill()
    assert list(lines(child.stdout, time.monotonic() + LIMIT_S)) == []
    assert "SIGKILL" in child.failure(done=False).error
    assert doomed.ended
    with pytest.raises(OSError, match="the process that forks its workers ended: "):
        Child(doomed.start)
    child.close()
    doomed.close()


def test_a_worker_whose_server_was_replaced_is_a_process_that_died():
    forks = here._Forks(asked(), ahead=False)
    first = forks.server()
    assert forks.server() is first
    process = PairProcess("a", asked().sides[0].cell.job, None, first)
    process.wait("hello", LIMIT_S)
    first._server.kill()
    first._server.wait()
    assert forks.server() is not first
    with pytest.raises(SideFailed, match="SIGKILL") as caught:
        process.wait("built", LIMIT_S)
    assert not caught.value.lasting
    process.close()
    forks.close()


def test_a_server_that_cannot_start_is_a_failed_side_with_the_reason():
    broken = ForkServer([sys.executable, "-c", "raise SystemExit('no torch here')"], variables(1))
    with pytest.raises(SideFailed, match="no torch here") as caught:
        PairProcess("b", asked().sides[0].cell.job, None, broken)
    assert (caught.value.status, caught.value.lasting) == ("failed", False)
    broken.close()


def test_an_interruption_while_the_server_imports_leaves_no_open_file(monkeypatch):
    own = ForkServer([sys.executable, "-c", "import time; time.sleep(600)"], variables(1))
    before = set(os.listdir("/proc/self/fd"))

    def interrupted(message, files=()):
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Child(own.start)
    assert set(os.listdir("/proc/self/fd")) == before
    own.close()


def test_other_runtimes_gpus_systems_threads_and_pythons_start_each_process_alone(monkeypatch):
    forked = asked()
    assert forked.settings.forked
    cells = [side.cell for side in forked.sides]
    gpu = dataclasses.replace(cells[1], target=dataclasses.replace(cells[1].target, backend="cuda"))
    assert plan._may_fork(cells, (None, None))
    assert not plan._may_fork(cells, (None, "other/python"))
    for changed in (gpu, *(cells[1].with_work(**work) for work in ({"runtime": "openvino"}, {"threads": 2}))):
        assert not plan._may_fork([cells[0], changed], (None, None))
    assert not plan._may_fork([cell.with_work(memory_limit_bytes=1 << 30) for cell in cells], (None, None))
    monkeypatch.setattr(plan.sys, "platform", "darwin")
    alone = asked()
    assert not alone.settings.forked
    assert here._Forks(alone, ahead=True).server() is None


def test_all_sets_but_the_first_three_are_forked_and_memory_is_of_these(monkeypatch):
    started = []

    class Recorded(PairProcess):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append((self.role, self.forked))

    monkeypatch.setattr(here, "PairProcess", Recorded)
    monkeypatch.setattr("benchbench.runner.pairs.measure._MOST_SETS", 4)
    monkeypatch.setattr("benchbench.runner.pairs.measure._MOST_BLOCKS", 4)
    result = here.measure_pair(asked(time_limit_s=60.0))
    assert result.error is None
    assert [one.forked for one in result.sets] == [False] * 3 + [True]
    assert [forked for _, forked in started] == [False] * 9 + [True] * 3
    assert {role for role, _ in started[9:]} == {"a", "control", "b"}
    a, b = (side.get("peak_memory_bytes") for side in (result.a, result.b))
    assert (len(a.values), len(b.values)) == (6, 3)
    assert [len(side.get("latency_s").runs) for side in (result.a, result.b)] == [8, 4]
