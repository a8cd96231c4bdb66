"""The protocol with a clock of our own: no test here waits, or depends on how fast the machine is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchbench.errors import UsageError
from benchbench.measure.latency import (
    PROTOCOLS,
    forward_function,
    get_protocol,
    median_interval,
    relative_spread,
    time_forwards,
)

QUICK = PROTOCOLS["quick"]


class Clock:
    """Every forward takes the next of the given seconds, then the last one for ever."""

    def __init__(self, *seconds):
        self.now, self.seconds, self.forwards = 0.0, list(seconds), 0

    def __call__(self):
        return self.now

    def forward(self):
        self.now += self.seconds[min(self.forwards, len(self.seconds) - 1)]
        self.forwards += 1


def test_the_slowest_network_is_warmed_up_once_and_timed_three_times():
    clock = Clock(30.0, 27.0, 27.2, 27.1)
    found = time_forwards(clock.forward, QUICK, clock=clock)
    assert found.warmup_s == (30.0,)
    assert found.samples_s == pytest.approx((27.0, 27.2, 27.1))
    latency, throughput = found.measurements()
    assert latency.value == pytest.approx(27.1)
    assert latency.ci95 is None
    assert "too few" in latency.method
    assert throughput.value == pytest.approx(1 / 27.1)


def test_a_fast_network_is_repeated_until_the_samples_fill_the_time():
    clock = Clock(0.25)
    found = time_forwards(clock.forward, QUICK, clock=clock)
    assert len(found.warmup_s) == 4  # one second
    assert len(found.samples_s) == 20  # five seconds
    assert found.measurements()[0].ci95 == (0.25, 0.25)


def test_a_very_fast_network_stops_at_the_most_repeats():
    clock = Clock(0.001)
    found = time_forwards(clock.forward, QUICK, clock=clock)
    assert len(found.samples_s) == QUICK.max_repeats


def test_warm_up_is_never_a_sample():
    clock = Clock(9.0, 0.5)
    assert set(time_forwards(clock.forward, QUICK, clock=clock).samples_s) == {0.5}


def test_samples_that_scatter_make_the_row_unstable_and_say_what_to_try():
    clock = Clock(1.0, *([1.0, 3.0] * 10))
    found = time_forwards(clock.forward, QUICK, clock=clock)
    assert "--threads" in found.unstable
    steady = Clock(1.0)
    assert time_forwards(steady.forward, QUICK, clock=steady).unstable is None


def test_throughput_counts_the_batch_and_turns_its_interval_round():
    clock = Clock(1.0, 1.0, 1.1, 0.9, 1.0, 1.1)
    latency, throughput = time_forwards(clock.forward, PROTOCOLS["standard"], batch=4, clock=clock).measurements()
    assert throughput.value == pytest.approx(4 / latency.value)
    assert throughput.ci95 == pytest.approx((4 / latency.ci95[1], 4 / latency.ci95[0]))


def test_the_progress_hears_of_each_forward():
    clock, heard = Clock(2.0), []
    time_forwards(clock.forward, QUICK, clock=clock, tick=lambda phase, n: heard.append((phase, n)))
    assert heard == [("warm-up", 1), ("timed", 1), ("timed", 2), ("timed", 3)]


@pytest.mark.parametrize(
    ("n", "expected"), [(5, None), (6, (0, 5)), (8, (0, 7)), (9, (1, 7)), (10, (1, 8)), (20, (5, 14))]
)
def test_the_interval_of_the_median_is_the_sign_tests(n, expected):
    assert median_interval(range(n)) == expected


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=60))
def test_the_interval_holds_the_median_and_its_level_is_kept(samples):
    interval = median_interval(samples)
    if interval is None:
        assert len(samples) < 6
        return
    ordered = sorted(samples)
    middle = ordered[len(ordered) // 2]
    assert interval[0] <= middle <= interval[1]
    assert 1 - 2 * 0.5 ** len(samples) * math.comb(len(samples), 0) >= 0.95


def test_the_spread_is_the_interquartile_range_over_the_median():
    assert relative_spread([1.0]) == 0
    assert relative_spread([2.0, 2.0, 2.0]) == 0
    assert relative_spread([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        get_protocol("quik")


def test_a_reduced_dtype_runs_under_autocast_and_keeps_the_weights():
    module = torch.nn.Conv3d(1, 2, 3).eval()
    x = torch.zeros(1, 1, 4, 4, 4)
    assert forward_function(module, x, dtype="bf16")().dtype == torch.bfloat16
    assert forward_function(module, x)().dtype == torch.float32
    assert module.weight.dtype == torch.float32


def test_on_a_gpu_a_forward_ends_when_the_device_is_done(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: waited.append(True))
    module = torch.nn.Identity()
    forward_function(module, torch.zeros(1), backend="cuda")()
    assert waited == [True]
    forward_function(module, torch.zeros(1), backend="cpu")()
    assert waited == [True]
