"""Verdicts on paired times, on numbers whose answer is known."""

import math
import random
import statistics

import pytest

from benchbench.core.paired_intervals import median_error, random_effects, trimmed_mean
from benchbench.core.paired_times import ERROR, FIRST_LOOK, LEVEL, Block, ProcessSet, Times, judge, level_of


def interleaved(a, control, b, at_s=0.0, cpu=None):
    """A block in which each process took the same twice; `cpu` is the processor time of all, if it is another."""
    wall = Times(a=(a, a), control=(control, control), b=(b, b))
    used = wall if cpu is None else Times(a=(cpu, cpu), control=(cpu, cpu), b=(cpu, cpu))
    return Block(at_s=at_s, wall_s=wall, cpu_s=used)


def sets(ratios, controls=None, blocks=3, cpu=None):
    """Sets in which B takes a ratio of A's time, and A's second process another."""
    controls = controls or [1.0] * len(ratios)
    return [
        ProcessSet(blocks=tuple(interleaved(1.0, c, r, cpu=cpu) for _ in range(blocks)))
        for r, c in zip(ratios, controls, strict=True)
    ]


def around(centre, count=8, noise=0.002):
    return [centre * (1 + noise * (-1) ** i * (1 + i % 3) / 2) for i in range(count)]


@pytest.mark.parametrize(
    ("centre", "verdict"),
    [(1.0, "same"), (1.01, "same"), (1.05, "slower"), (1 / 1.05, "faster"), (1.0199, "ambiguous")],
)
def test_a_ratio_is_called_by_its_interval_and_the_margin(centre, verdict):
    assert judge(sets(around(centre)), "interleaved").verdict == verdict


def test_swapped_sides_swap_the_words_and_invert_the_ratio():
    def swapped(block):
        w = block.wall_s
        return Block(at_s=0.0, wall_s=Times(a=w.b, control=w.b, b=w.a))

    there = [
        ProcessSet(
            blocks=tuple(Block(at_s=0.0, wall_s=Times(a=(1.0, 1.0), control=(1.0, 1.0), b=(r, r))) for _ in range(3))
        )
        for r in around(1.06)
    ]
    back = [ProcessSet(blocks=tuple(map(swapped, one.blocks))) for one in there]
    one, other = judge(there, "interleaved"), judge(back, "interleaved")
    assert (one.verdict, other.verdict) == ("slower", "faster")
    assert one.wall.ratio * other.wall.ratio == pytest.approx(1.0)
    assert one.wall.low * other.wall.high == pytest.approx(1.0)


def test_no_effect_below_what_a_shows_against_itself_is_called():
    calm = judge(sets(around(1.03)), "interleaved")
    assert calm.verdict == "slower"
    a_apart = judge(sets(around(1.05), controls=[1.06] * 8), "interleaved")  # B lies 2 % above the mean of both A
    assert a_apart.floor == pytest.approx(0.06)
    assert a_apart.verdict == "ambiguous"


def test_equal_times_are_not_called_the_same_where_a_differs_from_itself_by_more_than_the_margin():
    apart = sets([math.sqrt(1.04)] * 8, controls=[1.04] * 8)
    assert judge(apart, "interleaved").wall.ratio == pytest.approx(1.0)
    assert judge(apart, "interleaved").verdict == "ambiguous"
    unsure = sets([math.sqrt(c) for c in around(1.024, noise=0.01)], controls=around(1.024, noise=0.01))
    judged = judge([*unsure, *unsure], "interleaved")
    assert judged.floor > 0.02 > judged.control.low - 1  # it may well differ from itself by less
    assert judged.verdict == "same"


def test_one_badly_placed_process_neither_hides_nor_makes_a_difference():
    same, slower = around(1.0), around(1.05)
    same[3] = slower[3] = 1.09
    assert judge(sets(same), "interleaved").verdict == "same"
    assert judge(sets(slower), "interleaved").verdict == "slower"


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_sets_give_their_range_and_no_verdict(count):
    found = judge(sets([1.30, 1.32][:count], controls=None), "interleaved")
    assert found.verdict == "ambiguous"
    assert not found.wall.confident
    assert found.wall.high == pytest.approx([1.30, 1.32][count - 1])
    assert found.needed_sets is None


def test_pairs_of_a_set_count_by_their_median():
    blocks = (interleaved(1.0, 1.0, 1.0), interleaved(1.0, 1.0, 1.001), interleaved(1.0, 1.0, 3.0))
    assert judge([ProcessSet(blocks=blocks)], "interleaved").wall.ratio == pytest.approx(1.001)


def test_a_duet_compares_what_ran_side_by_side():
    block = Block(at_s=0.0, wall_s=Times(a=(1.0, 2.0), control=(2.2,), b=(1.5,)))
    found = judge([ProcessSet(blocks=(block,))], "duet")
    assert found.wall.ratio == pytest.approx(1.5)
    assert found.control.ratio == pytest.approx(1.1)


def test_a_wall_time_that_the_processor_time_does_not_share_is_said_to_have_waited():
    assert judge(sets(around(1.08), cpu=0.9), "interleaved").waited
    assert not judge(sets(around(1.08)), "interleaved").waited


def test_an_undecided_comparison_says_how_many_sets_would_do():
    wide = judge(sets(around(1.0, noise=0.02)), "interleaved")
    assert wide.verdict == "ambiguous"
    assert wide.needed_sets is not None
    assert wide.needed_sets > 8
    assert judge(sets(around(1.02, noise=0.02)), "interleaved").needed_sets is None  # at the margin


@pytest.mark.parametrize("n", [3, 6, 8, 10])
def test_the_interval_of_a_trimmed_mean_holds_the_middle_as_often_as_it_promises(n):
    chance = random.Random(n)
    for draw in (lambda: chance.gauss(0, 1), lambda: chance.gauss(0, 1) * (5 if chance.random() < 0.1 else 1)):
        missed = 0
        for _ in range(1500):
            centre, half = trimmed_mean([draw() for _ in range(n)], LEVEL)
            missed += abs(centre) > half
        assert missed / 1500 <= 1.6 * (1 - LEVEL)


def test_the_error_of_a_median_is_that_of_many_draws():
    chance = random.Random(0)
    draws = [[chance.gauss(0, 1) for _ in range(60)] for _ in range(1500)]
    true = statistics.pstdev(map(statistics.median, draws))
    assert statistics.fmean(median_error(one, 60) for one in draws) == pytest.approx(true, rel=0.1)
    assert median_error([1.0, 2.0], 2) > 0


@pytest.mark.parametrize("between", [0.0, 0.003, 0.005])
@pytest.mark.parametrize("n", [6, 10])
def test_the_interval_of_sets_with_errors_of_their_own_holds_the_middle_as_often_as_it_promises(n, between):
    chance, missed = random.Random(n), 0
    for _ in range(1500):
        errors = [0.008 * math.exp(chance.gauss(0, 0.5)) for _ in range(n)]
        values = [chance.gauss(0, between) + chance.gauss(0, error) for error in errors]
        centre, half = random_effects(values, errors, 60.0 * n, LEVEL)
        missed += abs(centre) > half
    assert missed / 1500 <= 1.6 * (1 - LEVEL)


@pytest.mark.parametrize("last", [7, 8, 10, 24])
def test_both_looks_together_are_wrong_as_often_as_they_promise(last):
    normal, chance, missed = statistics.NormalDist(), random.Random(last), 0
    for _ in range(10_000):
        draws = [chance.gauss(0, 1) for _ in range(last)]
        missed += any(sum(draws[:n]) / math.sqrt(n) > normal.inv_cdf((1 + level_of(n)) / 2) for n in (FIRST_LOOK, last))
    assert missed / 10_000 == pytest.approx(ERROR, abs=0.0065)  # three standard errors


def test_the_last_look_has_what_the_first_has_left():
    assert level_of(3) == level_of(FIRST_LOOK) == LEVEL
    assert 1 - 2 * ERROR < level_of(FIRST_LOOK + 1) < level_of(10) < level_of(60) < LEVEL


def test_precise_sets_count_for_more_and_sets_that_differ_alike():
    precise, vague = [0.001] * 5, [0.02] * 5
    centre, half = random_effects([0.0] * 5 + [0.03] * 5, precise + vague, 500.0, LEVEL)
    assert abs(centre) < 0.0035
    apart, wide = random_effects([0.0, 0.05, 0.0, 0.05, 0.02], [0.0001, 0.002, 0.001, 0.002, 0.001], 300.0, LEVEL)
    assert apart == pytest.approx(0.024, abs=0.001)
    assert wide > 0.02 > half
    assert random_effects([0.01] * 3, [0.0] * 3, 30.0, LEVEL)[0] == pytest.approx(0.01)
