"""Ratios within rounds: a machine that drifts falls out of them, and equal networks are seldom told apart."""

import math
import random

import pytest

from benchbench.core import records as rec
from benchbench.core.within_rounds import RoundsRatio, ratio_within_rounds
from tests import report_examples as examples


def row(seconds, rounds, *, name="a", samples=3, origin="measured"):
    """A row with a process in each round."""
    values = tuple(s * (1 + 0.001 * i) for s in seconds for i in range(samples))
    m = rec.Measurement.of(
        "latency_s", seconds[0], "x", origin, values=values, runs=(samples,) * len(seconds) if len(seconds) > 1 else ()
    )
    return examples.record(name, measurements=(m,), rounds=tuple(rounds))


def times(count):
    return [f"2026-01-01T00:{minute:02}:00.000+00:00" for minute in range(count)]


def test_a_drift_of_the_machine_falls_out_of_the_ratio():
    drift = [1.0, 1.3, 1.7, 1.1, 0.9]
    own = row([0.2 * d for d in drift], times(5))
    base = row([0.1 * d for d in drift], times(5), name="b")
    found = ratio_within_rounds(own, base, "latency_s")
    assert found.rounds == 5
    assert (found.ratio, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    swapped = ratio_within_rounds(base, own, "latency_s")
    assert swapped.ratio == pytest.approx(0.5)


def test_processes_pair_by_their_round_and_not_by_their_number():
    """A disturbed process of one row was run again, in a later round."""
    own = row([0.2, 0.4, 0.2, 0.2], [times(6)[i] for i in (0, 1, 3, 5)])
    base = row([0.1, 0.2, 0.1, 0.1], [times(6)[i] for i in (0, 1, 2, 3)], name="b")
    found = ratio_within_rounds(own, base, "latency_s")
    assert found.rounds == 3
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize(
    ("own", "base"),
    [
        (row([0.1] * 5, times(5)), row([0.1] * 5, [f"later {t}" for t in times(5)])),  # of different runs
        (row([0.1] * 5, ()), row([0.1] * 5, times(5))),  # of an older benchbench
        (row([0.1] * 5, [""] * 5), row([0.1] * 5, [""] * 5)),
        (row([0.1] * 2, times(2)), row([0.1] * 2, times(2))),  # too few
        (row([0.1], times(1)), row([0.1], times(1))),
        (row([0.1] * 5, times(4)), row([0.1] * 5, times(5))),  # a process without a time
        (row([0.1] * 5, times(5), origin="reference"), row([0.1] * 5, times(5))),
        (row([math.nan, math.nan, 0.1, 0.1], times(4)), row([0.1] * 4, times(4))),
    ],
)
def test_without_three_rounds_in_common_there_is_none(own, base):
    assert ratio_within_rounds(own, base, "latency_s") is None
    assert ratio_within_rounds(own, base, "volume_latency_s") is None


@pytest.mark.parametrize(
    ("low", "ratio", "high", "floor", "expected"),
    [
        (1.03, 1.05, 1.07, 0.01, True),
        (1.03, 1.05, 1.07, 0.04, False),  # the interval reaches into the noise floor
        (0.99, 1.05, 1.11, 0.0, False),
        (1.005, 1.01, 1.015, 0.0, False),  # sure, and too small to matter
    ],
)
def test_rows_differ_beyond_the_noise_floor_and_two_percent(low, ratio, high, floor, expected):
    assert RoundsRatio(ratio=ratio, low=low, high=high, rounds=5).differs(floor, 0.02) is expected
    assert RoundsRatio(ratio=1 / ratio, low=1 / high, high=1 / low, rounds=5).differs(floor, 0.02) is expected


PLACEMENT = {
    "calm": lambda chance: 0.0,
    "one process in ten placed badly": lambda chance: (chance.random() < 0.1) * chance.uniform(0.02, 0.2),
    "two groups of processes, a fifth apart": lambda chance: 0.2 * (chance.random() < 0.3),
}


def told_apart(placement, slower, count, *, runs=400):
    """Share of simulated runs in which two rows are told apart, and of intervals that hold the true ratio."""
    chance, apart, held = random.Random(5), 0, 0
    for _ in range(runs):
        drift = [chance.gauss(0, 0.05) for _ in range(count)]
        sides = [
            [0.1 * factor * math.exp(d + chance.gauss(0, 0.015) + placement(chance)) for d in drift]
            for factor in (slower, 1.0)
        ]
        own, base = (row(side, times(count), samples=1) for side in sides)
        found = ratio_within_rounds(own, base, "latency_s")
        apart += found.differs(0.01, 0.02)
        held += found.low <= slower <= found.high
    return apart / runs, held / runs


@pytest.mark.parametrize("name", PLACEMENT)
@pytest.mark.parametrize("count", [5, 10])
def test_equal_networks_are_seldom_told_apart_on_a_machine_that_drifts(name, count):
    apart, held = told_apart(PLACEMENT[name], 1.0, count)
    assert apart <= 0.03
    assert held >= 0.93


def test_a_network_that_is_slower_by_a_tenth_is_told_apart():
    assert told_apart(PLACEMENT["calm"], 1.1, 5)[0] >= 0.99
    assert told_apart(PLACEMENT["one process in ten placed badly"], 1.1, 10)[0] >= 0.95
