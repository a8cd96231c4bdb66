"""The protocol with a clock of our own: no test here waits, or depends on how fast the machine is."""

import dataclasses

import pytest
import torch

from benchbench.core import statistics
from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import PROTOCOLS, get_protocol
from benchbench.measure.latency import forward_function, time_forwards, timing, unsteady

QUICK, STANDARD = PROTOCOLS["quick"], PROTOCOLS["standard"]


class Clock:
    """Every forward takes the next of the given seconds, then the last ones over and over."""

    def __init__(self, *seconds, then=None):
        self.now, self.seconds, self.then, self.forwards = 0.0, list(seconds), then or seconds[-1:], 0

    def __call__(self):
        return self.now

    def forward(self):
        n = len(self.seconds)
        at = self.forwards
        self.now += self.seconds[at] if at < n else self.then[(at - n) % len(self.then)]
        self.forwards += 1


def run(clock, protocol=QUICK, **more):
    def timer(forward):
        start = clock()
        forward()
        return clock() - start

    return time_forwards(clock.forward, protocol, timer=timer, **more)


def test_the_slowest_network_is_warmed_up_once_and_timed_three_times():
    found = run(Clock(30.0, 27.0, 27.2, 27.1))
    assert found.warmup_s == (30.0,)
    assert found.samples_s == pytest.approx((27.0, 27.2, 27.1))
    latency, throughput, warmup = found.measurements()
    assert latency.value == pytest.approx(27.1)
    assert latency.ci95 is None
    assert "75%" in latency.method  # what the range of three holds
    assert throughput.value == pytest.approx(1 / 27.1)
    assert (warmup.metric, warmup.values) == ("warmup_s", (30.0,))
    assert "before two windows" in warmup.method


def test_a_standard_process_times_a_network_of_tens_of_seconds_once():
    assert len(run(Clock(25.0, 23.0), STANDARD).samples_s) == 1
    assert len(run(Clock(9.0), STANDARD).samples_s) == 2


def test_forwards_warm_up_until_two_windows_agree():
    found = run(Clock(0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1))
    assert found.warmup_s[-6:] == pytest.approx((0.1,) * 6, rel=0.25)
    assert len(found.warmup_s) > 6
    assert "until two windows" in found.warm
    assert run(Clock(0.1)).warmup_s == pytest.approx((0.1,) * 6)


def test_a_network_that_never_settles_warms_up_to_the_limit():
    found = run(Clock(0.1, then=(0.1, 0.1, 0.1, 0.2, 0.2, 0.2)))
    assert "limit of 2 s" in found.warm
    assert sum(found.warmup_s) < QUICK.warmup_s + 0.3


def test_a_steady_network_stops_as_soon_as_its_median_is_known():
    found = run(Clock(0.1))
    assert len(found.samples_s) == QUICK.min_samples
    assert found.measurements()[0].ci95 == pytest.approx((0.1, 0.1))
    assert found.unstable is None


def test_one_that_scatters_is_repeated_to_the_time_cap_and_the_row_says_so():
    found = run(Clock(0.1, then=(0.1, 0.3)))
    assert sum(found.samples_s) >= QUICK.timed_s
    assert "limit 10%" in found.unstable
    assert "--threads" in found.unstable
    assert "timed_s=20" in found.unstable


def test_a_very_fast_network_stops_at_the_most_samples():
    found = run(Clock(0.0001, then=(0.0001, 0.0003)))
    assert len(found.samples_s) == QUICK.max_samples


def test_warm_up_is_never_a_sample():
    assert set(run(Clock(9.0, 0.5)).samples_s) == {0.5}


def test_few_samples_that_spread_widely_are_unstable():
    assert "spread over" in run(Clock(9.0, 10.0, 20.0, 10.0)).unstable
    assert run(Clock(9.0, 10.0, 10.5, 10.0)).unstable is None


def test_one_process_of_several_does_not_judge_itself():
    assert run(Clock(0.1, then=(0.1, 0.3)), STANDARD).unstable is None


def test_processes_are_judged_by_their_medians():
    steady = [[1.0, 1.01], [1.01, 1.0], [1.0, 1.02], [1.0, 1.0], [1.01, 1.01]]
    assert unsteady(steady, STANDARD) is None
    off = [*steady[:4], [1.3, 1.3]]
    assert "5 processes" in unsteady(off, STANDARD)
    assert unsteady(off, dataclasses.replace(STANDARD, half_width=0.5)) is None
    assert "2 processes spread" in unsteady([[1.0], [2.0]], STANDARD)


def test_a_time_cap_below_one_forward_still_takes_a_sample():
    found = run(Clock(2.0), get_protocol("quick,timed_s=0.5,slow_timed_s=1"))
    assert len(found.samples_s) == 1
    assert found.measurements()[0].value == 2.0


def test_throughput_counts_the_batch_and_turns_its_interval_round():
    latency, throughput = timing([[1.0], [1.1], [0.9], [1.0], [1.05]], batch=4)
    assert throughput.value == pytest.approx(4 / latency.value)
    assert throughput.ci95 == pytest.approx((4 / latency.ci95[1], 4 / latency.ci95[0]))
    assert latency.runs == (1,) * 5
    assert "bootstrap over 5 processes" in latency.method


def test_percentiles_stand_where_the_samples_support_them():
    assert "p90" not in timing([[0.1] * 49])[0].method
    assert "p90" in timing([[0.1] * 50])[0].method
    assert "p99" in timing([[0.1] * 100] * 5)[0].method


def test_every_forward_is_told():
    told = []
    run(Clock(0.1), tick=lambda phase, n: told.append((phase, n)), after_warmup=lambda: told.append("warm"))
    assert told.index("warm") == 6
    assert told[-1] == ("timed", QUICK.min_samples)


def test_a_clock_that_goes_backwards_is_noticed_and_given_up():
    found = run(Clock(0.1, 0.1, -5.0, 0.1))
    assert min(found.samples_s) > 0
    assert "backwards 1 times" in found.unstable
    with pytest.raises(UnsupportedError, match="goes backwards"):
        run(Clock(-1.0))


def test_a_timer_of_its_own_replaces_the_clock():
    found = time_forwards(lambda: None, QUICK, timer=lambda forward: forward() or 0.25)
    assert set(found.samples_s) == {0.25}


def test_the_interval_of_the_median_covers_it_as_often_as_it_says():
    import random

    chance = random.Random(5)
    held = 0
    for _ in range(300):
        clock = Clock(0.1, then=[chance.gauss(0.1, 0.02) for _ in range(600)])
        low, high = run(clock).measurements()[0].ci95
        held += low <= 0.1 <= high
    assert held / 300 > 0.90  # stopping as soon as it is narrow costs a little of the 95 %


def test_forward_function_needs_no_gradient_and_casts_by_name():
    module = torch.nn.Conv3d(1, 1, 1)
    out = forward_function(module, torch.ones(1, 1, 2, 2, 2), dtype="bf16")()
    assert not out.requires_grad
    assert out.dtype == torch.bfloat16


def test_summaries_are_equal_for_equal_samples():
    runs = [[1.0, 1.1], [1.2], [1.0], [1.3], [0.9]]
    assert statistics.summarise(runs) == statistics.summarise(runs)
