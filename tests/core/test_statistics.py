"""Intervals on known distributions: what they promise is what they hold."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbench.core import statistics as core_statistics

times = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=40)


def coverage(n, draw, truth, tries=500):
    held = 0
    for _ in range(tries):
        low, high = core_statistics.bootstrap_median([draw() for _ in range(n)])
        held += low <= truth <= high
    return held / tries


@pytest.mark.parametrize(("n", "expected"), [(5, 0.9375), (7, 0.875), (10, 0.94), (20, 0.95)])
def test_the_bootstrap_of_a_median_covers_what_the_documentation_says(monkeypatch, n, expected):
    monkeypatch.setattr(core_statistics, "RESAMPLES", 400)
    chance = random.Random(n)
    assert coverage(n, lambda: chance.gauss(1.0, 0.05), 1.0) == pytest.approx(expected, abs=0.035)
    assert coverage(n, lambda: chance.lognormvariate(0.0, 0.5), 1.0) == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_range_of_few_processes_has_the_coverage_that_it_names(n):
    chance = random.Random(n)
    draws = [[chance.expovariate(1.0) for _ in range(n)] for _ in range(4000)]
    held = sum(min(d) <= math.log(2) <= max(d) for d in draws) / len(draws)
    assert held == pytest.approx(core_statistics.range_coverage(n), abs=0.03)
    interval = core_statistics.interval_of_medians(draws[0])
    assert interval.coverage == core_statistics.range_coverage(n)
    assert not interval.confident
    assert f"{core_statistics.range_coverage(n):.0%}" in interval.method


def test_order_statistics_hold_the_median_at_least_as_often_as_they_say():
    chance = random.Random(3)
    for n in (6, 10, 24, 101):
        intervals = [core_statistics.median_interval([chance.gauss(0, 1) for _ in range(n)]) for _ in range(1500)]
        held = sum(i.low <= 0 <= i.high for i in intervals) / len(intervals)
        assert held >= 0.93
        assert held == pytest.approx(intervals[0].coverage, abs=0.02)


def test_the_sign_test_interval_of_ten_is_the_second_to_the_ninth():
    interval = core_statistics.median_interval(list(range(1, 11)))
    assert (interval.low, interval.high) == (2, 9)
    assert interval.coverage == pytest.approx(1 - 2 * 11 / 1024)


def test_thousands_of_samples_are_no_overflow():
    interval = core_statistics.median_interval([float(i) for i in range(5000)])
    assert interval.low == pytest.approx(2500 - 69, abs=3)


def test_below_six_samples_a_process_has_no_interval_of_95_percent():
    assert not core_statistics.median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).confident
    assert core_statistics.median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).confident
    assert core_statistics.median_interval([1.0]) is None


@given(times)
def test_an_interval_holds_its_median(samples):
    interval = core_statistics.median_interval(samples)
    if interval:
        assert interval.low <= statistics.median(samples) <= interval.high


@given(st.lists(times, min_size=1, max_size=6))
def test_splitting_undoes_joining(runs):
    values = [value for run in runs for value in run]
    assert core_statistics.split_runs(values, [len(run) for run in runs]) == runs
    assert core_statistics.split_runs(values, ()) == [values]


def test_processes_are_not_pooled():
    found = core_statistics.summarise([[1.0] * 50, [1.2] * 2, [1.1] * 2, [1.1] * 2, [1.1] * 2])
    assert found.median == 1.1  # 50 samples of one process have one voice
    assert found.interval.low == 1.0
    assert found.samples == 58


@pytest.mark.parametrize(
    ("n", "q", "supported"), [(9, 50, False), (10, 50, True), (49, 90, False), (50, 90, True), (499, 99, False)]
)
def test_a_percentile_needs_five_samples_beyond_it(n, q, supported):
    found = core_statistics.percentile([float(i) for i in range(n)], q)
    assert (found is not None) == supported
    if supported:
        assert found == pytest.approx(q / 100 * (n - 1))


def test_a_ratio_of_equal_sides_holds_one_and_is_the_same_each_time():
    side = [1.0, 1.01, 0.99, 1.02, 1.0]
    low, high = core_statistics.ratio_interval(side, side)
    assert low <= 1 <= high
    assert core_statistics.ratio_interval(side, side) == (low, high)
    low, high = core_statistics.ratio_interval(side, [2 * value for value in side])
    assert low <= 2 <= high


def test_ties_share_a_rank_and_do_not_creep_along_a_chain():
    assert core_statistics.tie_groups([1.00, 1.01, 1.02, 1.03], 0.02) == ["1=", "1=", "1=", "4"]
    assert core_statistics.tie_groups([3.0, 1.0, 2.0], 0.02) == ["3", "1", "2"]
    assert core_statistics.tie_groups([], 0.02) == []


def test_a_value_that_cannot_be_told_apart_shares_the_rank_of_all_that_are_not_behind_a_faster_one():
    """The third may be anything: only the second is surely behind the first."""
    assert core_statistics.ranks_behind(3, lambda i, j: (i, j) == (0, 1)) == ["1=", "2", "1="]
    assert core_statistics.ranks_behind(3, lambda i, j: i < j) == ["1", "2", "3"]
    assert core_statistics.ranks_behind(2, lambda i, j: False) == ["1=", "1="]
    assert core_statistics.ranks_behind(0, lambda i, j: True) == []


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0, 0.3))
def test_ranks_follow_the_order(values, tolerance):
    ranks = core_statistics.tie_groups(values, tolerance)
    numbers = [int(rank.rstrip("=")) for rank in ranks]
    assert min(numbers) == 1
    for (a, i), (b, j) in zip(
        sorted(zip(values, numbers, strict=True)), sorted(zip(values, numbers, strict=True))[1:], strict=False
    ):
        assert i <= j or a == b


def resampled(seed, values, middle, tries=core_statistics.RESAMPLES):
    draw = random.Random(seed)
    return sorted(middle(draw.choices(values, k=len(values))) for _ in range(tries))


@pytest.mark.parametrize("n", [5, 6, 40])
def test_the_draws_are_those_of_pythons_generator(n):
    values = [random.Random(n).gauss(1.0, 0.1) for _ in range(n)]
    medians = resampled(20231, values, statistics.median)
    assert core_statistics.bootstrap_median(values) == (medians[99], medians[3900])
    means = resampled(20231, values, statistics.fmean)
    assert core_statistics.mean_interval(values) == pytest.approx((means[100], means[3899]), rel=1e-14)


def test_holm_by_its_own_example():
    assert core_statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert core_statistics.holm([]) == []
    assert core_statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_welch_is_of_logarithms_and_knows_equal_values():
    a, b = (1.0, 1.2, 1.1), (1.3, 1.5, 1.35, 1.6)
    assert core_statistics.welch(a, b) == pytest.approx(0.01552092)
    assert core_statistics.welch(a, b) == pytest.approx(
        core_statistics.welch([100 * v for v in a], [100 * v for v in b])
    )
    assert core_statistics.welch((2.0, 2.0), (2.0, 2.0)) == 1.0
    assert core_statistics.welch((2.0, 2.0), (3.0, 3.0)) == 0.0


def test_equal_cases_are_no_difference():
    assert core_statistics.signed_rank([0.0] * 8) == 1.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_pareto_front_is_what_no_other_point_beats(points):
    front = core_statistics.pareto_front(points)
    for i, (x, y) in enumerate(points):
        beaten = any(a <= x and b <= y and (a < x or b < y) for a, b in points)
        assert (i in front) == (not beaten)


def test_an_interval_and_a_test_of_equal_values_are_computed_once() -> None:
    values = [0.01 * i - 0.1 for i in range(44)]
    first = core_statistics.mean_interval(values), core_statistics.signed_rank(values)
    hits = core_statistics._mean_interval.cache_info().hits, core_statistics._signed_rank.cache_info().hits
    assert (core_statistics.mean_interval(tuple(values)), core_statistics.signed_rank(tuple(values))) == first
    after = core_statistics._mean_interval.cache_info().hits, core_statistics._signed_rank.cache_info().hits
    assert after == (hits[0] + 1, hits[1] + 1)
    assert core_statistics.mean_interval(values[1:]) != first[0]


def test_values_that_are_too_many_are_thinned_evenly_and_keep_both_ends() -> None:
    assert core_statistics.evenly_spaced("abc", 3) == ["a", "b", "c"]
    assert core_statistics.evenly_spaced(range(101), 5) == [0, 25, 50, 75, 100]
    assert core_statistics.evenly_spaced(range(9), 2) == [0, 8]
