"""Paired measurement with a fake clock: the rule for stopping keeps its errors whatever the machine does meanwhile."""

import itertools
import math
import random
from collections import Counter

import pytest

from benchbench.core.paired_times import FIRST_LOOK, judge
from benchbench.runner.pairs import order
from benchbench.runner.pairs.measure import PairMeasurement, PairSettings
from benchbench.runner.pairs.process import SideFailed

FORWARD_S = 0.1


class Machine:
    """A machine with a clock of its own, whose speed changes as a test says."""

    def __init__(
        self,
        seed,
        *,
        slower=1.0,
        pace=lambda t: 1.0,
        noise=None,
        placement=lambda chance: 0.0,
        forward_s=FORWARD_S,
        moves=False,
        refused=(),
        start_s=1.0,
        forks=None,
    ):
        self.now, self.chance, self.moves, self.refused = 0.0, random.Random(seed), moves, refused
        self.slower, self.pace, self.placement, self.forward_s = slower, pace, placement, forward_s
        self.noise = noise or (lambda chance: 0.01 * abs(chance.gauss(0, 1)))
        self.started, self.fails, self.bound, self.side_by_side = [], {}, [], []
        self.start_s, self.forks = start_s, forks  # seconds of a process, and of one that is forked
        self.core_takes = {}  # core -> how many times as long as another

    def clock(self):
        return self.now

    def start(self, role, number):
        forked = self.forks is not None and number >= 3
        self.now += self.forks if forked else self.start_s
        process = Process(self, role)
        process.forked = forked
        self.started.append(process)
        return process


class Process:
    def __init__(self, machine, role):
        self.machine, self.role, self.measurements, self.closed = machine, role, [], False
        self.own = math.exp(machine.chance.gauss(0, 0.003) + machine.placement(machine.chance))
        self.forwards, self.warm_s, self.moves, self.core = 0, 0.0, machine.moves, None

    def build(self, *, ahead):
        self.ahead = ahead and self.role not in self.machine.refused

    def wait(self, kind):
        assert kind == "built"

    def warm(self, limit_s):
        self.warm_s = self.forward()[0]
        return self.warm_s

    def forward(self):
        m = self.machine
        self.forwards += 1
        if failure := m.fails.pop((len(m.started), self.role, self.forwards), None):
            raise failure
        seconds = m.forward_s * self.own * m.pace(m.now) * (1 + m.noise(m.chance))
        seconds *= m.slower if self.role == "b" else 1.0
        seconds *= m.core_takes.get(self.core, 1.0)
        m.now += seconds
        return seconds, seconds

    def bind(self, core):
        self.machine.bound.append((self.role, core))
        self.core = core

    def start_forward(self, at_s):
        self.machine.side_by_side.append(self.role)

    def end_forward(self):
        return self.forward()

    def finish(self, *, energy, accuracy):
        assert not self.forked
        self.finished = (energy, accuracy)

    def close(self):
        self.closed = True


def measured(machine, *, time_limit_s=60.0, mode="interleaved"):
    forked = machine.forks is not None
    settings = PairSettings(mode=mode, margin=0.02, time_limit_s=time_limit_s, cores=(4, 7), forked=forked)
    return PairMeasurement(settings, machine.start, clock=machine.clock).run()


MACHINES = {
    "calm": {},
    "drifts by a third": {"pace": lambda t: 1 + t / 180},
    "jumps by a quarter every few seconds": {"pace": lambda t: 1.25 if int(t / 7.3) % 2 else 1.0},
    "has heavy tails": {
        "noise": lambda chance: 0.01 * abs(chance.gauss(0, 1)) + (chance.random() < 0.1) * chance.paretovariate(1.5)
    },
    "places a process in fifty badly": {
        "placement": lambda chance: (chance.random() < 0.02) * chance.uniform(0.02, 0.06)
    },
    "swings by a tenth": {"pace": lambda t: 1 + 0.1 * math.sin(t * 2)},
}


KINDS = pytest.mark.parametrize(
    "kind", [{}, {"moves": True}, {"moves": True, "forks": 0.1}], ids=["stay", "move", "move and fork"]
)


@KINDS
@pytest.mark.parametrize("name", MACHINES)
def test_equal_sides_are_called_the_same_and_never_faster_or_slower(name, kind):
    machines = (Machine(seed, **kind, **MACHINES[name]) for seed in range(60))
    verdicts = Counter(judge(measured(machine).sets, "interleaved").verdict for machine in machines)
    assert verdicts["faster"] + verdicts["slower"] == 0
    assert verdicts["same"] >= 56


def among_neighbours(spread, seeds, *, moves):
    """Verdicts of equal sides: one forward in ten meets a neighbour, and the others are off by a spread."""
    noisy = {"noise": lambda chance: chance.gauss(0, spread) + 0.5 * (chance.random() < 0.1), "forward_s": 0.03}
    machines = (Machine(seed, moves=moves, **noisy) for seed in range(seeds))
    return Counter(judge(measured(machine).sets, "interleaved").verdict for machine in machines)


@pytest.mark.parametrize("moves", [True, False])
def test_equal_sides_are_decided_within_the_time_among_noisy_neighbours(moves):
    verdicts = among_neighbours(0.04, 30, moves=moves)
    assert verdicts["faster"] + verdicts["slower"] == 0
    assert verdicts["same"] >= 28


def test_moved_weights_decide_more_comparisons_among_noisier_neighbours():
    moved, stay = (among_neighbours(0.06, 60, moves=moves) for moves in (True, False))
    assert max(one["faster"] + one["slower"] for one in (moved, stay)) <= 3  # one in twenty
    assert moved["same"] >= 52
    assert moved["same"] > stay["same"]


@KINDS
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(("slower", "least"), [(1.05, 19), (1.03, 13)])
def test_a_slower_side_is_called_slower(name, slower, least, kind):
    machines = (Machine(seed, slower=slower, **kind, **MACHINES[name]) for seed in range(20))
    verdicts = Counter(judge(measured(machine).sets, "interleaved").verdict for machine in machines)
    assert verdicts["faster"] == 0
    assert verdicts["slower"] >= least


def test_a_set_says_whether_weights_were_moved_in_all_of_its_processes():
    for moves in (True, False):
        assert {one.moved for one in measured(Machine(1, moves=moves)).sets} == {moves}


@pytest.mark.parametrize(
    ("asked", "refused", "forward_s", "ahead", "realtime"),
    [
        (True, (), 0.03, True, True),
        (True, (), 0.5, True, False),
        (True, ("b",), 0.03, False, False),
        (False, (), 0.03, False, False),
    ],
)
def test_all_processes_of_a_set_go_before_other_programs_or_none(asked, refused, forward_s, ahead, realtime):
    settings = PairSettings(mode="interleaved", margin=0.02, time_limit_s=20.0, ahead=asked)
    machine = Machine(1, refused=refused, forward_s=forward_s)
    found = PairMeasurement(settings, machine.start, clock=machine.clock).run()
    assert {one.ahead for one in found.sets} == {ahead}
    assert {process.realtime for process in machine.started} == {realtime}


def test_the_last_set_does_not_outrun_the_time():
    for time_limit_s in (20.0, 30.0, 60.0, 120.0):
        found = measured(Machine(1, forward_s=0.4, placement=lambda c: c.gauss(0, 0.1)), time_limit_s=time_limit_s)
        assert 0.6 * time_limit_s < found.total_s <= time_limit_s


def test_processes_that_start_in_no_time_leave_it_for_forwards():
    noise = {"placement": lambda chance: chance.gauss(0, 0.1)}  # never decided
    alone, forked = measured(Machine(1, **noise)), measured(Machine(1, forks=0.1, **noise))
    assert len(forked.sets) > len(alone.sets)
    blocks = [sum(len(one.blocks) for one in found.sets) for found in (alone, forked)]
    assert blocks[1] > 1.2 * blocks[0]
    assert forked.total_s <= 60
    assert [one.forked for one in forked.sets] == [False] * 3 + [True] * (len(forked.sets) - 3)
    assert len(forked.sets[0].blocks) > 0.8 * len(forked.sets[3].blocks)  # though its processes took long to start


def test_energy_is_of_a_and_b_and_accuracy_of_their_first_processes():
    machine = Machine(1, forks=0.1)
    measured(machine)
    asked = [(one.role, one.finished) for one in machine.started if not one.forked]
    assert asked.count(("a", (True, True))) == asked.count(("b", (True, True))) == 1
    assert asked.count(("control", (False, False))) == 3
    assert asked.count(("a", (True, False))) == asked.count(("b", (True, False))) == 2


def test_it_ends_at_a_look_or_when_the_time_is_up():
    assert len(measured(Machine(1), time_limit_s=600).sets) == FIRST_LOOK
    undecided = measured(Machine(1, placement=lambda chance: chance.gauss(0, 0.05)), time_limit_s=60)
    assert FIRST_LOOK < len(undecided.sets) < 60
    assert undecided.total_s <= 60 * 1.1


def test_a_network_slower_than_the_time_gives_one_pair():
    found = measured(Machine(1, forward_s=100.0))
    (only,) = found.sets
    (block,) = only.blocks
    assert [len(side) for side in (block.wall_s.a, block.wall_s.control, block.wall_s.b)] == [1, 1, 1]
    assert judge(found.sets, "interleaved").verdict == "ambiguous"


def died(role="b", *, lasting=False):
    return SideFailed(role, "failed", "its process was killed by SIGKILL", None, lasting=lasting)


def test_a_set_whose_process_dies_is_begun_again_once():
    machine = Machine(1)
    machine.fails[(3, "b", 4)] = died()
    found = measured(machine)
    assert found.error is None
    assert found.repeated == ["B: its process was killed by SIGKILL"]
    assert judge(found.sets, "interleaved").verdict == "same"
    assert all(process.closed for process in machine.started)


def test_what_was_found_before_two_failures_is_kept_with_the_reason():
    machine = Machine(1)
    machine.fails[(6, "a", 4)] = died("a")
    machine.fails[(9, "a", 2)] = died("a")
    found = measured(machine)
    assert found.error == "A: its process was killed by SIGKILL"
    assert len(found.sets) == 1


def test_a_side_that_cannot_run_is_not_tried_again():
    machine = Machine(1)
    machine.fails[(3, "b", 1)] = died(lasting=True)
    found = measured(machine)
    assert (found.sets, found.repeated, found.error) == ([], [], "B: its process was killed by SIGKILL")


def test_an_interruption_keeps_what_was_measured():
    machine = Machine(1)
    machine.fails[(9, "a", 8)] = KeyboardInterrupt()
    found = measured(machine)
    assert found.interrupted
    assert len(found.sets) == 3  # the third with the blocks that it had
    assert 3 <= len(found.sets[-1].blocks) < len(found.sets[0].blocks)


def test_every_process_has_every_place_of_a_block_equally_often():
    blocks = list(itertools.islice(order.interleaved(random.Random(0)), 12))
    for block in blocks:
        assert [sum(i for i, role in enumerate(block) if role == one) for one in order.ROLES] == [5, 5, 5]
    for place in range(6):
        assert set(Counter(block[place] for block in blocks).values()) == {4}


def test_a_duet_runs_a_beside_each_of_the_others_on_two_cores_that_change_hands():
    machine = Machine(3, slower=1.05)
    found = measured(machine, mode="duet")
    assert judge(found.sets, "duet").verdict == "slower"
    together = [frozenset(machine.side_by_side[i : i + 2]) for i in range(0, len(machine.side_by_side), 2)]
    assert Counter(together) == {frozenset("ab"): len(together) / 2, frozenset({"a", "control"}): len(together) / 2}
    assert set(machine.bound) == {(role, core) for role in order.ROLES for core in (4, 7)}
    for block in found.sets[0].blocks:
        assert [len(side) for side in (block.wall_s.a, block.wall_s.control, block.wall_s.b)] == [2, 1, 1]


def test_a_slow_core_is_no_side_even_where_each_set_has_one_block():
    machine = Machine(3, forward_s=3.0, noise=lambda chance: 0.0)
    machine.core_takes = {7: 1.5}
    sets = measured(machine, mode="duet", time_limit_s=200.0).sets
    assert len(sets) >= 6
    assert {len(one.blocks) for one in sets} == {1}
    judged = judge(sets[: len(sets) // 2 * 2], "duet")
    assert judged.control.ratio == pytest.approx(1.0, abs=0.05)
    assert judged.verdict == "ambiguous"


def test_duets_swap_cores_and_hold_both_pairs():
    blocks = list(itertools.islice(order.duets(random.Random(0)), 8))
    assert {frozenset(pairs) for pairs, _ in blocks} == {frozenset({("a", "b"), ("a", "control")})}
    assert [swapped for _, swapped in blocks] == [False, False, True, True] * 2


def test_each_set_is_handed_on_as_soon_as_it_has_ended():
    kept = []
    settings = PairSettings(mode="interleaved", margin=0.02, time_limit_s=60.0)
    machine = Machine(1)
    measurement = PairMeasurement(settings, machine.start, clock=machine.clock, keep=lambda *one: kept.append(one))
    found = measurement.run()
    assert [one for one, _, _ in kept] == found.sets
    assert [set(measurements) for _, measurements, _ in kept] == [set(order.ROLES)] * len(found.sets)
    seconds = [spent.total_s for *_, spent in kept]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(found.total_s, abs=1e-3)
