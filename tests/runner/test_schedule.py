"""Rounds with processes that the test invents: their order, when a cell is done, and what a kill leaves."""

import dataclasses
import itertools
import json

import pytest

from benchbench.core import records as rec
from benchbench.core.errors import StoreError
from benchbench.core.protocol import get_protocol
from benchbench.runner import plan as runner_plan
from benchbench.runner.record import ending_of_processes
from benchbench.runner.request import RunRequest
from benchbench.runner.schedule import JOURNAL, CellProgress, ProcessResult, RunJournal, repeat_for, run_rounds

SIDES = (8, 8, 8)


def course(name="Tiny", protocol="standard", repeat_of=None):
    request = RunRequest(models=f"tests.tiny_nets:{name}", spatial=SIDES, threads=(1,), protocol=protocol)
    (cell,) = runner_plan.plan_cells(request)
    return CellProgress(cell, started_at="2026-01-01T00:00:00.000+00:00", repeat_of=repeat_of)


def turn(seconds=1.0, status="ok", disturbed=0, took=1.0, error=None):
    samples = (seconds,) * 3
    found = (
        rec.Measurement(metric="latency_s", unit="s", value=seconds, values=samples, origin="measured", method="x"),
        rec.Measurement(
            metric="contended_processes", unit="processes", value=disturbed, origin="measured", method="busy"
        ),
        rec.Measurement(metric="peak_memory_bytes", unit="B", value=100, origin="measured", method="x"),
    )
    return ProcessResult(status=status, error=error, measurements=found if status == "ok" else (), duration_s=took)


class World:
    """Gives each process what the test says, and remembers."""

    def __init__(self, give):
        self.give, self.order, self.finished, self.kept = give, [], [], []

    def run(self, courses):
        def measure(c):
            self.order.append((c.cell.model.name.partition(":")[2], c.repeat_of is not None))
            return self.give(c)

        run_rounds(
            courses,
            measure,
            lambda c, repeat: self.finished.append((c, repeat)),
            lambda c, t: self.kept.append((c, t)),
        )
        return self


def test_rounds_interleave_and_the_first_goes_from_the_cheapest():
    world = World(lambda c: turn()).run([course("Tiny"), course("Wider"), course("Lists")])
    names = [name for name, _ in world.order]
    assert names[:3] == ["Tiny", "Wider", "Lists"]
    for start in range(0, 15, 3):
        assert sorted(names[start : start + 3]) == ["Lists", "Tiny", "Wider"]
    assert names[3:] != ["Tiny", "Wider", "Lists"] * 4  # later rounds are shuffled
    assert len(world.finished) == 3
    assert len(world.kept) == 15


@pytest.fixture
def clock(monkeypatch):
    """Every look at it gives another time."""
    ticks = (f"2026-01-01T00:00:{i:02}.000+00:00" for i in itertools.count())
    monkeypatch.setattr(rec, "utc_now", lambda: next(ticks))


def test_processes_of_one_round_have_its_start_and_a_disturbed_one_that_of_its_repeat(clock):
    busy = iter([0, 1, *[0] * 8])
    world = World(lambda c: turn(disturbed=next(busy) if c.cell.model.name.endswith("Tiny") else 0))
    world.run([course("Tiny"), course("Wider")])
    rounds = {c.cell.model.name.partition(":")[2]: c.rounds for c, _ in world.finished}
    assert len(set(rounds["Tiny"])) == len(set(rounds["Wider"])) == 5
    assert set(rounds["Wider"]) - set(rounds["Tiny"]) == {rounds["Wider"][1]}
    assert max(rounds["Tiny"]) > max(rounds["Wider"])  # the repeat, in a round of its own


def test_quick_is_one_process():
    world = World(lambda c: turn()).run([course(protocol="quick")])
    assert len(world.order) == 1
    assert ending_of_processes(world.finished[0][0]) == ("ok", None, None)


def test_a_wide_interval_asks_for_more_processes_and_is_unstable_at_the_last():
    seconds = iter([1.0, 1.3] * 10)
    world = World(lambda c: turn(next(seconds))).run([course()])
    assert len(world.order) == get_protocol("standard").max_processes
    status, why, _ = ending_of_processes(world.finished[0][0])
    assert status == "unstable"
    assert "10 processes" in why


def test_no_further_process_once_the_cell_has_had_its_time():
    seconds = iter([1.0, 1.3] * 10)
    world = World(lambda c: turn(next(seconds), took=40.0)).run([course()])
    assert len(world.order) == 5
    assert ending_of_processes(world.finished[0][0])[0] == "unstable"


def test_a_failure_ends_its_cell_alone_and_keeps_what_was_known():
    def give(c):
        if c.cell.model.name.endswith("Wider") and len(c.results) == 2:
            return ProcessResult(status="oom", error="killed by the kernel: out of memory")
        return turn()

    world = World(give).run([course("Tiny"), course("Wider")])
    rows = {c.cell.model.name.partition(":")[2]: c for c, _ in world.finished}
    assert ending_of_processes(rows["Tiny"])[0] == "ok"
    status, why, _ = ending_of_processes(rows["Wider"])
    assert status == "oom"
    assert why.startswith("in process 3 of 5: killed")
    assert rows["Wider"].measurements()[0].runs == (3, 3)


def test_a_disturbed_process_is_run_again_and_one_that_stays_so_is_marked():
    first = iter([0, 1, 0, 0, 0, 0])
    world = World(lambda c: turn(disturbed=next(first))).run([course()])
    assert len(world.order) == 6
    by = {m.metric: m for m in world.finished[0][0].measurements()}
    assert by["contended_processes"].value == 0
    assert "1 disturbed processes were run again" in by["contended_processes"].method

    world = World(lambda c: turn(disturbed=1)).run([course()])
    by = {m.metric: m for m in world.finished[0][0].measurements()}
    assert by["contended_processes"].value == 5  # as often as allowed, then they stand, marked


def test_two_groups_of_processes_that_a_host_made_are_one_unstable_row():
    seconds = iter([1.0, 1.2] * 5)
    world = World(lambda c: turn(next(seconds))).run([course()])
    done = world.finished[0][0]
    assert len(world.order) == 10
    assert len(done.measurements()[0].runs) == 10
    status, why, _ = ending_of_processes(done)
    assert status == "unstable"
    assert "10 processes" in why


def test_a_network_is_measured_against_itself_in_the_same_rounds():
    one, other = course("Tiny"), course("Wider")
    repeat = course("Tiny", repeat_of=one)
    world = World(lambda c: turn(1.01 if c.repeat_of else 1.0)).run([one, other, repeat])
    assert world.order.count(("Tiny", True)) == 5
    partner = next(t for c, t in world.finished if c is one)
    assert partner is repeat
    (noise,) = one.noise(repeat)
    assert noise.value == pytest.approx(1.01)
    assert len(world.finished) == 2  # the double has no row of its own


def test_a_row_waits_for_its_double_but_not_for_one_that_failed():
    one = course("Tiny")
    repeat = course("Tiny", repeat_of=one)
    world = World(lambda c: ProcessResult(status="failed", error="x") if c.repeat_of else turn()).run([one, repeat])
    assert ending_of_processes(world.finished[0][0])[0] == "ok"
    assert one.noise(repeat) == []


def test_the_double_is_of_the_cheapest_network_that_says_something():
    courses = [course("Tiny"), course("Wider"), course("Lists")]
    seconds = {"Tiny": 0.001, "Wider": 0.2, "Lists": 0.1}
    repeat = repeat_for(courses, lambda cell: seconds[cell.model.name.partition(":")[2]])
    assert repeat.repeat_of is courses[2]
    assert repeat_for(courses[:1], lambda cell: 0.001).repeat_of is courses[0]
    assert repeat_for([], lambda cell: 1.0) is None


ENVIRONMENT = {"cpu": "x", "threads": 1, "load_average": 0.5}


def test_a_journal_gives_back_what_was_kept_under_equal_conditions(tmp_path):
    c = course()
    journal = RunJournal(tmp_path)
    journal.keep(c.cell.id, ENVIRONMENT, turn(1.0))
    journal.keep(c.cell.id, ENVIRONMENT, turn(1.5), repeat=True)
    journal.keep(c.cell.id, ENVIRONMENT, ProcessResult(status="oom", error="x"))
    again = RunJournal(tmp_path)
    assert again.results(c.cell.id, ENVIRONMENT | {"load_average": 9.0}) == [turn(1.0)]
    assert again.results(c.cell.id, ENVIRONMENT, repeat=True) == [turn(1.5)]
    assert again.results(c.cell.id, ENVIRONMENT | {"threads": 2}) == []
    assert again.results("another", ENVIRONMENT) == []


def test_a_torn_or_foreign_line_of_a_journal_is_passed_over(tmp_path):
    journal = RunJournal(tmp_path)
    journal.keep("c", ENVIRONMENT, turn())
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b"nonsense\n{}\n" + json.dumps({"cell": "c"}).encode()[:5])
    assert RunJournal(tmp_path).results("c", ENVIRONMENT) == [turn()]


def test_what_an_older_schema_kept_is_measured_again(tmp_path):
    journal = RunJournal(tmp_path)
    journal.keep("c", ENVIRONMENT, turn())
    line = json.loads((tmp_path / JOURNAL).read_text())
    (tmp_path / JOURNAL).write_text(json.dumps(line | {"schema": rec.SCHEMA - 1}) + "\n")
    assert RunJournal(tmp_path).results("c", ENVIRONMENT) == []


def test_fresh_forgets_a_journal_and_the_end_removes_it(tmp_path):
    RunJournal(tmp_path).keep("c", ENVIRONMENT, turn())
    assert RunJournal(tmp_path, fresh=True).results("c", ENVIRONMENT) == []
    journal = RunJournal(tmp_path)
    journal.keep("c", ENVIRONMENT, turn())
    journal.close()
    assert not (tmp_path / JOURNAL).exists()


def test_a_full_disk_says_what_is_kept(tmp_path):
    journal = RunJournal(tmp_path)
    (tmp_path / JOURNAL).symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"No space left.*run the same command again"):
        journal.keep("c", ENVIRONMENT, turn())


def test_resumed_turns_count(tmp_path):
    c = course()
    for kept in [turn()] * 3:
        c.take(kept)
    world = World(lambda _: turn()).run([c])
    assert len(world.order) == 2
    assert dataclasses.asdict(c.measurements()[0])["runs"] == (3,) * 5
