"""Paired comparisons on another host: over a real sshd, and against a far side that the test plays."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from benchbench.core import records as rec
from benchbench.core.errors import DeviceError, UsageError
from benchbench.core.paired_result import PairedResult, Spent, read_pairs
from benchbench.core.results import PAIRS
from benchbench.devices.hosts import Host, add_host
from benchbench.devices.resolve import Target
from benchbench.report.compare import paired
from benchbench.runner import plan as runner_plan
from benchbench.runner.pairs import there
from benchbench.runner.pairs.plan import plan_pair
from benchbench.runner.pairs.request import PairRequest
from benchbench.runner.pairs.run import measure_pairs
from benchbench.runner.remote import far_pairs
from benchbench.runner.remote import ssh as remote_ssh
from benchbench.runner.remote.ssh import ConnectionLost
from benchbench.zoo import checkpoint
from tests import paired_examples
from tests.cli.said import bench
from tests.runner.test_remote import cut, far_sides, needs_sshd, wait_for
from tests.tiny_nets import Tiny

SIDES = (8, 8, 8)
TINY, WIDER, CRASHES = (f"tests.tiny_nets:{name}" for name in ("Tiny", "Wider", "Crashes"))


def asked(a=TINY, b=WIDER, *, device="board", limit_s=1.0, **more):
    request = PairRequest(device=device, spatial=SIDES, threads=(1,), time_limit_s=limit_s, **more)
    return plan_pair((a, b), request)


class TestOverSsh:
    pytestmark = needs_sshd

    def test_the_pair_is_measured_there_and_its_record_comes_back(self, board, capsys, tmp_path):
        words = ("--spatial", "8", "8", "8", "--threads", "1", "--time-limit", "1s", "--device", "board")
        code, out, err = bench(capsys, "compare", "--measure", TINY, WIDER, *words, "--out", tmp_path / "o", "-q")
        assert (code in (0, 1), err) == (True, "")
        assert out.startswith(f"A: {TINY}\nB: {WIDER}\n")
        (result,) = read_pairs(tmp_path / "o")
        assert [side.environment["host"] for side in (result.a, result.b)] == [f"127.0.0.1:{board.port}"] * 2
        assert [side.device.asked for side in (result.a, result.b)] == ["board"] * 2
        assert result.sets
        assert result.a.value("peak_memory_bytes") > 0
        assert f"127.0.0.1:{board.port}" in (tmp_path / "o" / "report.html").read_text()
        wait_for(lambda: not far_sides(board, "pairs"))

    def test_weights_go_over_and_a_side_that_raises_is_in_the_result(self, board, tmp_path):
        spec = rec.ModelSpec(name="t", arch=TINY, kwargs={}, in_channels=4, out_channels=3)
        weights = tmp_path / "t.safetensors"
        info = checkpoint.save(weights, Tiny().state_dict(), model=spec, data="phantom", spatial=SIDES, train={})
        (result,) = measure_pairs([asked(str(weights), CRASHES, trust=True)], tmp_path / PAIRS)
        assert (board.cache / "benchbench" / "checkpoints" / f"{info.sha256}.safetensors").exists()
        assert result.a.model.checkpoint == info.sha256
        assert "a bug of its own" in result.error

    def test_a_connection_that_breaks_keeps_the_sets_that_had_come(self, board, tmp_path):
        def tell(used, text):
            if "1 set done" in text:
                cut(board)

        (result,) = measure_pairs([asked(limit_s=600.0)], tmp_path / PAIRS, progress=tell)
        assert len(result.sets) == 1
        assert "the connection to ssh://" in result.lost
        assert (result.a.status, result.interrupted) == ("ok", False)
        assert result.a.value("latency_s") > 0
        assert list(read_pairs(tmp_path / PAIRS)) == [result]
        wait_for(lambda: not far_sides(board, "pairs"))

    def test_ctrl_c_has_the_other_side_end_and_hand_over_what_it_has(self, board, tmp_path):
        said = itertools.count()

        def tell(used, text):
            if "1 set done" in text and not next(said):
                raise KeyboardInterrupt

        (result,) = measure_pairs([asked(limit_s=600.0)], tmp_path / PAIRS, progress=tell)
        assert (result.interrupted, result.lost, result.error) == (True, None, None)
        assert len(result.sets) >= 1
        wait_for(lambda: not far_sides(board, "pairs"))

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ({"python": ("nowhere/python",)}, "--python nowhere/python: no such program"),
            ({"threads": (1, 999)}, "--threads 999: this process may use"),
        ],
    )
    def test_what_that_machine_refuses_is_one_line(self, board, tmp_path, more, expected):
        plan = plan_pair((TINY, TINY), PairRequest(**{"device": "board", "spatial": SIDES, "threads": (1,)} | more))
        with pytest.raises(DeviceError) as caught:
            measure_pairs([plan], tmp_path / PAIRS)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / PAIRS).exists()

    def test_a_host_without_benchbench_is_one_line(self, board, capsys, tmp_path):
        bare = tmp_path / "python"
        bare.write_text('#!/bin/sh\nexec /usr/bin/env python3 -S -I "$@"\n')
        bare.chmod(0o755)
        add_host(board.host("bare", python=str(bare), folder="/tmp"))
        code, out, err = bench(capsys, "compare", "--measure", TINY, TINY, "--device", "bare", "--out", tmp_path / "o")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "benchbench is not installed for" in err
        assert not (tmp_path / "o").exists()


# Without a connection


@pytest.fixture
def plan(monkeypatch):
    """Of a host that was never asked."""
    host = Host(name="box", address="box")
    device = rec.Device(kind="cpu", name="A board", basis="probed", asked="box")
    target = Target(device=device, backend="cpu", host=host, environment={"cores": 4, "threads": 4, "host": "box"})
    monkeypatch.setattr(runner_plan, "resolve", lambda *_, **__: target)
    monkeypatch.setattr(runner_plan.remote_queue, "meet", lambda targets, *_, **__: list(targets))
    return asked(device="box")


class FarSide:
    """A connection on which the other side says what the test says."""

    def __init__(self, events):
        self.said, self.sent, self.ended = iter(events), [], False

    def __call__(self, host, words):
        self.words = words
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def send(self, message):
        self.sent.append(message)

    def end_input(self):
        self.ended = True

    def events(self, limit_s=None):
        for event in self.said:
            if event is KeyboardInterrupt:
                raise event
            yield event


@pytest.fixture
def far(monkeypatch):
    def play(*events):
        side = FarSide(events)
        monkeypatch.setattr(there, "Connection", side)
        return side

    return play


def a_set(number=0, ratio=1.0, **more):
    one = rec.to_json(paired_examples.process_set(ratio, at_s=float(number)))
    spent = {"total_s": 10.0 * (number + 1), "forward_s": 5.0, "start_s": 3.0}
    event = {"event": "set", "set": one, "measurements": {"a": [], "control": [], "b": []}, "spent": spent}
    return json.loads(json.dumps(event | more))


def finished(plan, **more):
    a, b = (
        dataclasses.replace(paired_examples.side(0.1), model=side.cell.model, workload=side.cell.workload)
        for side in plan.sides
    )
    result = rec.to_json(paired_examples.result(a=a, b=b, **more))
    result |= {"a": rec.record_to_json(a), "b": rec.record_to_json(b)}
    return {"event": "result", "result": json.loads(json.dumps(result))}


GONE = ConnectionLost("the connection to ssh://box was lost: broken pipe")


def test_a_host_knows_its_cores_itself_and_the_request_names_its_python(plan, far, tmp_path):
    side = far(finished(plan), {"event": "end"})
    result = there.measure_there(plan)
    assert result.verdict == "same"
    assert result.a.environment["host"] == "box"
    (request,) = side.sent
    assert (side.words, request["asked"], request["python"]) == (("devices", "pairs"), "box", [None, None])
    assert [cell["model"]["name"] for cell in request["cells"]] == [TINY, WIDER]
    assert not any("checkpoint_path" in json.dumps(cell) for cell in request["cells"])  # no path of this machine


def test_what_comes_before_a_break_is_a_result_that_says_so(plan, far, tmp_path):
    far(a_set(0, 1.06), a_set(1, 1.06), a_set(2, 1.06), GONE)
    (result,) = measure_pairs([plan], tmp_path / PAIRS)
    assert (result.verdict, len(result.sets), result.lost) == ("slower", 3, GONE.error)
    assert result.spent == Spent(total_s=30.0, forward_s=5.0, start_s=3.0)
    assert result.b.value("latency_s") == pytest.approx(0.106)
    assert f"{GONE.error}: this is of the sets that had come until then" in paired.remarks(result)
    assert paired.exit_code([result], []) == 3
    assert list(read_pairs(tmp_path / PAIRS)) == [result]


def test_each_set_is_on_disk_as_soon_as_it_has_ended(plan, far, tmp_path):
    kept = []

    def look():
        yield a_set(0)
        kept.extend(read_pairs(tmp_path / PAIRS))
        yield finished(plan)
        yield {"event": "end"}

    far().said = look()
    (result,) = measure_pairs([plan], tmp_path / PAIRS)
    (before,) = kept
    assert (len(before.sets), before.lost) == (1, "the measurement ended before its time")
    assert (list(read_pairs(tmp_path / PAIRS)), result.lost) == ([result], None)


def test_a_break_before_the_first_set_is_one_line(plan, far, tmp_path):
    far({"event": "step", "used": 0.1, "text": "warm-up"}, GONE)
    with pytest.raises(DeviceError, match="was lost: broken pipe; nothing was measured"):
        measure_pairs([plan], tmp_path / PAIRS)


def test_ctrl_c_ends_the_input_and_waits_for_the_last_word(plan, far):
    side = far(a_set(), KeyboardInterrupt, finished(plan, interrupted=True), {"event": "end"})
    assert there.measure_there(plan).interrupted
    assert side.ended


def test_after_ctrl_c_a_side_that_says_nothing_leaves_the_sets_that_had_come(plan, far):
    far(a_set(), KeyboardInterrupt, GONE)
    result = there.measure_there(plan)
    assert (result.interrupted, result.lost, len(result.sets)) == (True, None, 1)


def test_ctrl_c_before_anything_was_measured_is_an_interruption(plan, far):
    far(KeyboardInterrupt, GONE)
    with pytest.raises(KeyboardInterrupt, match="nothing was measured on box yet"):
        there.measure_there(plan)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "set"},
        {"event": "set", "set": 3, "measurements": {}, "spent": {}},
        {"event": "result", "result": {}},
        {"event": "result", "result": {"a": 3}},
        a_set(spent={"total_s": -1}),
    ],
)
def test_an_answer_that_is_none_is_one_line(plan, far, event):
    far(event, {"event": "end"})
    with pytest.raises(DeviceError, match="sent what this benchbench cannot read"):
        there.measure_there(plan)


def test_a_comparison_of_something_else_is_no_answer(plan, far):
    event = finished(plan)
    event["result"]["b"]["model"]["name"] = "another"
    far(event, {"event": "end"})
    with pytest.raises(DeviceError, match="a comparison that was not asked for"):
        there.measure_there(plan)


def test_text_of_the_other_side_is_shown_and_not_obeyed(plan, far):
    far(finished(plan, error="A: \x1b[2Jgone", labels=("\x1b[2J", "b")), {"event": "end"})
    result = there.measure_there(plan)
    assert (result.error, result.labels) == ("A: ?[2Jgone", plan.labels)


# The far side


@pytest.mark.parametrize("message", [{}, {"asked": "box", "cells": []}, {"asked": "box", "cells": [3]}])
def test_what_is_no_pair_is_refused(monkeypatch, message):
    monkeypatch.setattr(far_pairs.far_side, "machine", lambda emit: Machine(message))
    with pytest.raises(UsageError, match="on stdin"):
        far_pairs.run(lambda event: None)


class Machine:
    def __init__(self, *messages):
        self.messages = iter(messages)

    def __enter__(self):
        return lambda: next(self.messages)

    def __exit__(self, *_):
        pass


def test_the_far_side_sends_each_set_as_it_ends_and_then_the_result(monkeypatch, plan):
    request = there._request(plan)
    found: PairedResult = paired_examples.result()

    def measure(far_plan, *, progress, keep):
        progress(0.1, "warm-up")
        progress(0.2, "not due yet")
        keep(found.sets[0], {"a": [], "control": [], "b": []}, Spent(total_s=1.0))
        assert far_plan.host is None
        assert [side.cell.model.name for side in far_plan.sides] == [TINY, WIDER]
        return found

    monkeypatch.setattr(far_pairs, "measure_pair", measure)
    monkeypatch.setattr(far_pairs.far_side, "machine", lambda emit: Machine(json.loads(json.dumps(request))))
    monkeypatch.setattr(far_pairs.time, "monotonic", lambda: 1.0)
    events = []
    far_pairs.run(events.append)
    assert [event["event"] for event in events] == ["need", "files", "step", "set", "result", "end"]
    assert rec.from_json(PairedResult, json.loads(json.dumps(events[-2]["result"]))) == found


def test_the_host_of_an_older_benchbench_is_refused_before_anything_is_sent(monkeypatch, capsys, tmp_path):
    add_host(Host(name="old", address="old"))
    hello = {"event": "hello", "protocol": remote_ssh.PROTOCOL, "schema": rec.SCHEMA - 1, "version": "0.0.9"}
    monkeypatch.setattr(runner_plan.remote_queue, "ask", lambda *_, **__: iter([hello]))
    code, out, err = bench(capsys, "compare", "--measure", TINY, TINY, "--device", "old", "--out", Path(tmp_path / "o"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "benchbench 0.0.9 on old" in err
    assert "upgrade the one on old" in err
