"""The page and the sentences of a paired comparison."""

import dataclasses

import pytest

from benchbench import report
from benchbench.core.paired_times import Block, ProcessSet, Times
from benchbench.report.compare import paired
from benchbench.report.compare.verdicts import get_metric
from benchbench.report.figures import pairs as figures
from tests import paired_examples as examples


def test_a_page_shows_the_ratio_beside_a_against_itself_and_the_pairs_over_time():
    page = report.render_pairs([examples.result(examples.around(1.05))])
    assert "<h1>B is slower than A</h1>" in page
    for text in (paired.RULE, "Ratios and their intervals", "Ratios of pairs over time", "A differed from itself by"):
        assert text.replace("'", "&#39;") in page
    assert page == report.render_pairs([examples.result(examples.around(1.05))])


@pytest.mark.parametrize("ratio", [1.0, 2.9, 0.3])
def test_the_medians_of_the_sets_lie_on_the_axis_of_the_pairs(ratio):
    drawn = figures.over_time(examples.result(examples.around(ratio)), prefix="p")
    assert "beyond the axis" not in drawn.caption


def test_a_side_that_failed_has_a_page_with_the_reason_and_no_figure():
    page = report.render_pairs([examples.result([], error="B: <out of memory>")])
    assert "B: &lt;out of memory&gt;" in page
    assert "<svg" not in page


def test_too_few_sets_are_shown_as_a_range():
    found = examples.result([1.01, 1.03])
    row = paired.paired_rows(found)[0]
    assert (row.interval, row.verdict) == ("range +1.0 to +3.0 %", "ambiguous")
    assert "an interval needs 3" in paired.undecided(found)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (examples.around(1.0, noise=0.02), "would probably do"),
        (examples.around(1.02, noise=0.02), "no longer measurement is sure to decide"),
    ],
)
def test_an_undecided_comparison_says_what_would_help(ratios, expected):
    assert expected in paired.undecided(examples.result(ratios))


def test_a_restless_machine_is_named():
    def restless(one):
        wall = Times(a=(0.1, 0.1), control=(0.11, 0.11), b=(0.105, 0.105))
        return ProcessSet(blocks=(Block(at_s=one, wall_s=wall),))

    found = dataclasses.replace(examples.result(), sets=tuple(restless(float(i)) for i in range(6)))
    assert found.verdict == "ambiguous"
    assert "A differs from itself by more than the margin of 2 %" in paired.undecided(found)


def test_waiting_is_said_where_both_sides_have_equal_threads_and_only_there():
    waited = examples.result(examples.around(1.08), cpu=1.0)
    assert any("one side waited" in line for line in paired.remarks(waited))
    other = examples.side(0.1, workload={"threads": 1})
    assert not any(
        "waited" in line for line in paired.remarks(examples.result(examples.around(1.08), cpu=1.0, b=other))
    )


def test_more_memory_is_a_regression_and_limits_name_the_metrics_that_can_be():
    more = examples.result(b=examples.side(0.1, peaks=(120, 121, 119, 120)))
    rows = {row.metric: row for row in paired.paired_rows(more)}
    assert (rows["peak memory"].verdict, rows["peak memory"].regression) == ("more", True)
    assert not any(row.regression for row in paired.paired_rows(more, limits={"latency": 1.1}))
    assert [row.metric for row in paired.paired_rows(more, metrics=[get_metric("peak_memory")])] == ["peak memory"]


def with_energy(joules):
    values = tuple(joules * f for f in (0.99, 1.0, 1.01, 1.0))
    m = examples.examples.examples.number("energy_j", joules, values=values, runs=(1,) * 4)
    side = examples.side(0.1)
    return dataclasses.replace(side, measurements=(*side.measurements, m))


def test_energy_and_dice_have_rows_where_both_sides_have_them():
    found = examples.result(a=with_energy(2.0), b=with_energy(2.5))
    rows = {row.metric: row for row in paired.paired_rows(found)}
    assert (rows["energy"].verdict, rows["energy"].regression, rows["energy"].change) == ("more", True, "+25.0 %")
    assert "energy" not in {row.metric for row in paired.paired_rows(examples.result(a=with_energy(2.0)))}
    cases = [[0.8 + 0.01 * i + shift * (1 + 0.1 * (i % 3)) for i in range(12)] for shift in (0.0, -0.05)]
    a, b = (
        dataclasses.replace(
            examples.side(0.1), measurements=(examples.examples.examples.number("dice", sum(c) / 12, values=tuple(c)),)
        )
        for c in cases
    )
    (dice,) = [row for row in paired.paired_rows(examples.result(a=a, b=b)) if row.metric == "Dice"]
    assert (dice.verdict, dice.regression) == ("worse", True)
    assert dice.interval.startswith("-0.05")
