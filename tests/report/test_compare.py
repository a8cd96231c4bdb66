"""Verdicts: each word where it belongs, no difference called by chance, and conditions that must agree."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbench.core import records as rec
from benchbench.core.errors import UsageError
from benchbench.report import render_comparison
from benchbench.report.compare.compare import compare, condition_differences, noise_floor, parse_limits
from benchbench.report.compare.verdicts import (
    METRICS,
    change_text,
    decide,
    get_metric,
    interval_text,
    p_text,
    sample,
    tally,
    weigh,
)
from tests import compare_examples as examples
from tests.report_examples import ENVIRONMENT, number

TIME = METRICS["latency"]
STEADY = (1.0, 1.001, 0.999, 1.002, 0.998)
OPPOSITE = {"slower": "faster", "more": "less", "worse": "better"}
OPPOSITE |= {v: k for k, v in OPPOSITE.items()} | {"same": "same", "ambiguous": "ambiguous"}


def scaled(values, factor):
    return [v * factor for v in values]


def verdict(a, b, **options):
    """The one row of two measurements."""
    (row,) = compare([examples.cell(a)], [examples.cell(b)], **options).rows
    return row


def latencies(a, b, **options):
    return verdict(examples.latency(*a), examples.latency(*b), **options)


def memory(*values):
    return number("peak_memory_bytes", sorted(values)[len(values) // 2], values=values if len(values) > 1 else ())


# Words


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, "same"), (1.019, "same"), (0.99, "same"), (1.05, "slower"), (0.95, "faster")]
)
def test_a_time_by_five_steady_processes(factor, word):
    row = latencies(STEADY, scaled(STEADY, factor))
    assert row.verdict == word
    assert row.regression == (word == "slower")
    low, high = row.evidence.ci95
    assert low <= row.evidence.effect <= high


def test_a_difference_that_noise_could_have_made_is_ambiguous():
    row = latencies((1.0, 1.2, 0.9, 1.1, 0.8), (1.1, 1.3, 0.95, 1.25, 0.85))
    assert row.evidence.effect > 1.02
    assert row.p > 0.05
    assert (row.verdict, row.regression) == ("ambiguous", False)


def test_an_interval_inside_the_minimum_effect_is_the_same_however_significant():
    row = latencies(STEADY, scaled(STEADY, 1.015))
    assert row.p < 0.05
    assert row.verdict == "same"


def test_a_smaller_minimum_effect_lets_the_same_difference_be_called():
    assert latencies(STEADY, scaled(STEADY, 1.015), min_effect=0.005).verdict == "slower"


@pytest.mark.parametrize(("factor", "word"), [(1.05, "ambiguous"), (1.2, "slower"), (0.8, "faster"), (1.01, "same")])
def test_one_process_a_side_is_called_only_far_beyond_its_samples(factor, word):
    row = latencies((1.0,), (factor,))
    assert row.verdict == word
    assert (row.p, row.evidence.ci95) == (None, None)


def test_one_process_with_overlapping_samples_is_ambiguous_at_any_effect():
    a, b = examples.timed("latency_s", [[1.0, 1.1, 2.0]]), examples.timed("latency_s", [[1.3, 1.4, 1.5]])
    row = verdict(a, b)
    assert row.evidence.effect > 1.1
    assert row.verdict == "ambiguous"


def test_few_processes_are_said_below_the_table():
    found = compare([examples.cell(examples.latency(1.0))], [examples.cell(examples.latency(1.0))])
    assert any("fewer than 3 processes" in note and "--protocol standard" in note for note in found.notes)


def test_three_processes_have_a_test_but_no_interval():
    row = latencies(STEADY[:3], scaled(STEADY[:3], 1.1))
    assert row.verdict == "slower"
    assert row.p < 0.05
    assert row.evidence.ci95 is None


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ((100,), (104,), "same"),
        ((100,), (106,), "more"),
        ((100,), (94,), "less"),
        ((100, 104), (103, 115), "ambiguous"),
        ((100,) * 5, (100,) * 5, "same"),
        ((100,) * 5, (103,) * 5, "more"),
        ((103,) * 5, (100,) * 5, "less"),
    ],
)
def test_peak_memory(a, b, word):
    assert verdict(memory(*(v * 10**6 for v in a)), memory(*(v * 10**6 for v in b))).verdict == word


def test_energy_is_less_or_more():
    a, b = number("energy_j", 10.0), number("energy_j", 12.0)
    assert (verdict(a, b).verdict, verdict(b, a).verdict) == ("more", "less")


@pytest.mark.parametrize(("shift", "word"), [(0.0, "same"), (0.005, "same"), (-0.03, "worse"), (0.03, "better")])
def test_dice_is_paired_over_cases(shift, word):
    moved = [c + shift for c in examples.CASES]
    row = verdict(examples.dice(), examples.dice(moved))
    assert row.verdict == word
    assert row.evidence.effect == pytest.approx(shift, abs=1e-12)


def test_dice_that_moves_to_and_fro_is_ambiguous():
    moved = [c + (0.3 if i % 2 else -0.26) for i, c in enumerate(examples.CASES)]
    assert verdict(examples.dice(), examples.dice(moved)).verdict == "ambiguous"


@pytest.mark.parametrize("other", [examples.CASES[:12], examples.CASES[:4]])
def test_dice_of_cases_that_cannot_be_tested_is_never_called(other):
    first = examples.CASES[:4] if len(other) == 4 else examples.CASES
    found = compare([examples.cell(examples.dice(first))], [examples.cell(examples.dice([c - 0.2 for c in other]))])
    assert [row.verdict for row in found.rows] == ["ambiguous"]
    assert any("never called" in note for note in found.notes)


def test_only_what_was_measured_on_both_sides_is_compared():
    a = examples.cell(examples.latency(*STEADY), examples.dice(), memory(10**8))
    forecast = number("peak_memory_bytes", 9e8, "predicted")
    b = examples.cell(examples.latency(*STEADY), number("dice", 0.1, "reference"), forecast)
    assert [row.metric.short for row in compare([a], [b]).rows] == ["latency"]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_number_that_makes_no_ratio_is_not_compared(value):
    assert sample(TIME, number("latency_s", value, values=(value, 1.0))) is None


def test_an_unstable_row_is_compared_and_marked():
    a = examples.cell(examples.latency(*STEADY))
    b = examples.cell(examples.latency(*scaled(STEADY, 1.1)), status="unstable")
    (row,) = compare([a], [b]).rows
    assert (row.verdict, row.unstable) == ("slower", "B")


# Corrections


def test_what_is_significant_alone_may_not_be_among_many():
    a, b = (1.0, 1.03, 0.97, 1.02, 0.98), (1.05, 1.09, 1.0, 1.06, 1.03)
    alone = latencies(a, b)
    assert alone.verdict == "slower"
    sides = [[examples.cell(examples.latency(*side), name=f"n{i}") for i in range(20)] for side in (a, b)]
    assert {row.verdict for row in compare(*sides).rows} == {"ambiguous"}


# Noise floor


def noisy(ratio, *medians, **changes):
    return examples.cell(examples.latency(*medians), number("noise_ratio", ratio), **changes)


@pytest.mark.parametrize("ratios", [(1.08, 1.001), (1.001, 1.08), (0.92, 1.0)])
def test_the_larger_noise_floor_raises_the_minimum_effect_and_says_so(ratios):
    found = compare([noisy(ratios[0], *STEADY)], [noisy(ratios[1], *scaled(STEADY, 1.06))])
    (row,) = found.rows
    assert row.verdict == "same"
    assert row.minimum == pytest.approx(0.08)
    side = "A" if abs(ratios[0] - 1) > abs(ratios[1] - 1) else "B"
    assert f"8 % instead of 2 %: so much did one network measured twice in {side} differ from itself" in str(
        found.notes
    )


def test_a_small_noise_floor_leaves_the_minimum_effect_alone():
    found = compare([noisy(1.003, *STEADY)], [noisy(1.004, *scaled(STEADY, 1.06))])
    assert (found.rows[0].verdict, found.rows[0].minimum, found.notes) == ("slower", 0.02, ())


def test_the_noise_floor_is_that_of_the_same_conditions_and_not_of_memory_or_dice():
    like = examples.cell(examples.latency(*STEADY))
    others = [noisy(1.5, 1.0, workload={"protocol": "quick"}), noisy(1.4, 1.0, environment={"torch": "2.8.0"})]
    assert noise_floor([*others, noisy(1.03, 1.0)], like) == pytest.approx(0.03)
    a = examples.cell(memory(10**8), examples.dice(), number("noise_ratio", 1.5))
    assert {row.minimum for row in compare([a], [a]).rows} == {0.02, 0.01}


# Conditions


def test_different_conditions_are_refused_by_name_and_compared_anyway():
    a = examples.cell(examples.latency(*STEADY))
    b = examples.cell(examples.latency(*STEADY), environment={"torch": "2.8.0", "governor": "powersave"})
    with pytest.raises(UsageError, match=r"governor: unknown -> powersave.*--anyway") as caught:
        compare([a], [b])
    assert "torch: 2.13.0+cpu -> 2.8.0" in str(caught.value)
    found = compare([a], [b], anyway=True)
    assert set(found.differences) == {"torch: 2.13.0+cpu -> 2.8.0", "governor: unknown -> powersave"}
    assert found.rows[0].verdict == "same"


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "f" * 40},
        {"benchbench": "9.9"},
        {"host": "orin"},
        {"load_average": 7.0},
        {"affinity": "0-1"},
        {"memory_bytes": 16_500_000_000},
        {"mig": None},
    ],
)
def test_what_does_not_move_a_number_may_differ(change):
    assert condition_differences(ENVIRONMENT, ENVIRONMENT | change) == []
    assert condition_differences(ENVIRONMENT | change, ENVIRONMENT) == []


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ({"affinity": "0-1"}, {"affinity": "0"}, "affinity: 0-1 -> 0"),
        ({}, {"memory_bytes": 32_000_000_000}, "memory_bytes: 16 GB -> 32 GB"),
        ({}, {"power_limit_w": 300}, "power_limit_w: unknown -> 300"),
        ({}, {"cores": 4}, "cores: 2 -> 4"),
    ],
)
def test_what_moves_a_number_is_a_difference(a, b, text):
    assert condition_differences(ENVIRONMENT | a, ENVIRONMENT | b) == [text]


def test_mixed_records_are_refused_and_the_newest_taken_anyway():
    old = examples.cell(examples.latency(*scaled(STEADY, 2)), environment={"torch": "2.8.0"})
    new = examples.cell(examples.latency(*STEADY), started_at="2026-12-24T04:00:00Z")
    with pytest.raises(UsageError, match=r"A holds slim_unetr under several conditions \(torch: .*--anyway"):
        compare([new, old], [new])
    found = compare([new, old], [new], anyway=True)
    assert found.rows[0].evidence.effect == pytest.approx(1.0)
    assert "the newest counts" in found.notes[0]


def test_two_commits_on_one_side_are_no_mixture_but_are_said():
    old = examples.cell(examples.latency(*scaled(STEADY, 2)), environment={"commit": "a" * 40})
    new = examples.cell(examples.latency(*STEADY), started_at="2026-12-24T04:00:00Z")
    found = compare([old, new], [new])
    assert found.rows[0].verdict == "same"
    assert found.notes == ("A holds slim_unetr more than once: the newest counts",)


# What does not pair


def test_a_cell_on_one_side_only_is_listed():
    both, alone = examples.cell(examples.latency(*STEADY)), examples.cell(examples.latency(1.0), name="unetr")
    found = compare([both, alone], [both])
    assert found.only == (("unetr",), ())
    assert found.exit_code == 0
    assert compare([both], [both, alone]).only == ((), ("unetr",))


def test_a_broken_cell_is_listed_and_a_regression_wins():
    good, bad = examples.cell(examples.latency(*STEADY)), examples.failed()
    for sides in (([good], [bad]), ([bad], [good]), ([bad], [bad])):
        found = compare(*sides)
        assert [b.label for b in found.broken] == ["slim_unetr"]
        assert found.exit_code == 3
    assert "B oom: killed by the system" in compare([good], [bad]).broken[0].text
    other = [examples.cell(examples.latency(*scaled(STEADY, f)), name="unetr") for f in (1.0, 1.1)]
    assert compare([good, other[0]], [bad, other[1]]).exit_code == 1


def test_nothing_in_common_says_what_each_side_holds_and_what_differs():
    a = examples.cell(examples.latency(*STEADY), workload={"protocol": "quick"})
    b = examples.cell(examples.latency(*STEADY))
    with pytest.raises(
        UsageError, match=r"A holds slim_unetr; B holds slim_unetr; .* these differ: protocol quick -> standard$"
    ):
        compare([a], [b])
    with pytest.raises(UsageError, match=r"A holds slim_unetr; B holds no record$"):
        compare([a], [])


def test_nothing_measured_in_common_says_what_each_side_has():
    a, b = examples.cell(examples.latency(*STEADY)), examples.cell(memory(10**8))
    with pytest.raises(UsageError, match=r"none of .* A has latency; B has peak_memory"):
        compare([a], [b])


def test_counts_alone_and_predictions_are_not_compared():
    good = examples.cell(examples.latency(*STEADY))
    audit = examples.cell(workload={"protocol": "audit"}, name="audited")
    forecast = examples.cell(number("latency_s", 1.0, "predicted"), name="forecast")
    found = compare([good, audit, forecast], [good, audit, forecast])
    assert found.unmeasured == ("forecast",)
    assert len(found.rows) == 1


def test_cells_of_one_network_are_told_apart_by_what_differs():
    made = [
        examples.cell(examples.latency(*STEADY), workload={"batch": batch, "dtype": dtype})
        for batch in (1, 2)
        for dtype in ("fp32", "bf16")
    ]
    labels = [row.label for row in compare(made, made).rows]
    assert labels[0] == "slim_unetr, batch 1, fp32"
    assert len(set(labels)) == 4


# Limits


def test_limits_are_read_with_or_without_the_unit():
    assert parse_limits("latency:1.10, peak_memory_bytes:1.05,dice:0.01") == {
        "latency": 1.1,
        "peak_memory": 1.05,
        "dice": 0.01,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latenc:1.1", "did you mean 'latency'?"),
        ("zzz:1.1", "unknown metric 'zzz'; known: latency, volume_latency"),
        ("latency", "ratio of at least 1, as in latency:1.10"),
        ("latency:0.9", "ratio of at least 1"),
        ("latency:nan", "ratio of at least 1"),
        ("latency:x", "ratio of at least 1"),
        ("dice:1.5", "a drop from 0 to below 1"),
        ("latency:1.1,latency_s:1.2", "two limits for latency"),
        ("", "unknown metric ''"),
    ],
)
def test_bad_limits_are_one_line(text, message):
    with pytest.raises(UsageError) as caught:
        parse_limits(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "exit_code"),
    [({"latency": 1.05}, 1), ({"latency": 1.10}, 0), ({"peak_memory": 1.0}, 0), ({"dice": 0.01}, 1), (None, 1)],
)
def test_a_limit_narrows_what_counts_as_a_regression(limits, exit_code):
    a = examples.cell(examples.latency(*STEADY), examples.dice(), memory(10**8))
    worse = examples.dice([c - 0.03 for c in examples.CASES])
    b = examples.cell(examples.latency(*scaled(STEADY, 1.07)), worse, memory(10**8))
    assert compare([a], [b], limits=limits).exit_code == exit_code


def test_a_limit_never_turns_an_ambiguous_difference_into_a_regression():
    assert latencies((1.0,), (1.08,), limits={"latency": 1.01}).regression is False


def test_a_limit_that_nothing_was_held_against_is_said():
    cell = examples.cell(examples.latency(*STEADY))
    assert "--fail-on energy: measured in no pair" in compare([cell], [cell], limits={"energy": 1.1}).notes[0]


# Invariants


medians = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(medians, medians, st.sampled_from(["latency", "peak_memory", "energy"]))
def test_swapped_sides_have_the_opposite_verdict(a, b, short):
    metric = METRICS[short]
    sides = [
        number(metric.name, one[0], values=tuple(one), runs=(1,) * len(one) if len(one) > 1 else ()) for one in (a, b)
    ]
    there, back = verdict(*sides), verdict(*reversed(sides))
    assert back.verdict == OPPOSITE[there.verdict]
    assert back.evidence.p == pytest.approx(there.evidence.p) if there.evidence.p is not None else True


@settings(max_examples=15, deadline=None)
@given(medians, medians, st.sampled_from([2.0, 0.25, 1024.0]))
def test_a_common_factor_changes_no_verdict(a, b, factor):
    first = latencies(a, b)
    assert latencies(scaled(a, factor), scaled(b, factor)).verdict == first.verdict


def test_swapped_dice_has_the_opposite_verdict():
    draw = random.Random(4)
    for shift in (0.0, 0.004, 0.02, 0.05):
        moved = [c + draw.gauss(shift, 0.02) for c in examples.CASES]
        there = verdict(examples.dice(), examples.dice(moved))
        back = verdict(examples.dice(moved), examples.dice())
        assert back.verdict == OPPOSITE[there.verdict]
        assert back.evidence.ci95 == pytest.approx((-there.evidence.ci95[1], -there.evidence.ci95[0]))


# By simulation, seeds fixed


def called(factor: float, tries: int = 300) -> dict[str, int]:
    """Verdicts of so many comparisons: five processes a side, 1 % of noise between processes."""
    counts: dict[str, int] = {}
    for seed in range(tries):
        sides = [
            sample(TIME, examples.timed("latency_s", examples.runs(c, seed=2 * seed + side, samples=3)))
            for side, c in enumerate((0.2, 0.2 * factor))
        ]
        evidence = weigh(TIME, *sides)
        word = decide(TIME, evidence, p=evidence.p, minimum=0.02)
        counts[word] = counts.get(word, 0) + 1
    return counts


@pytest.mark.slow
def test_what_is_the_same_is_hardly_ever_called_different():
    counts = called(1.0)
    assert counts["same"] + counts.get("ambiguous", 0) >= 0.97 * 300
    assert counts["same"] >= 0.95 * 300


@pytest.mark.slow
def test_a_slowdown_of_five_percent_is_called():
    assert called(1.05)["slower"] >= 0.80 * 300


# Words for people


def test_texts():
    assert change_text(TIME, 1.0571) == "+5.7 %"
    assert change_text(TIME, 0.99999) == "+0.0 %"
    assert change_text(TIME, 2.5) == "x 2.50"
    assert change_text(METRICS["dice"], -0.0121) == "-0.012"
    assert interval_text(TIME, (0.96, 1.02)) == "-4.0 to +2.0 %"
    assert interval_text(TIME, (1.9, 2.2)) == "+90.0 % to x 2.20"
    assert interval_text(TIME, None) == "-"
    assert [p_text(p) for p in (None, 0.00001, 0.0312)] == ["-", "< 0.001", "0.031"]
    assert get_metric("peak_memory_bytes") is get_metric("peak_memory")
    assert tally([]) == "0 compared"


# The page


def test_the_page_is_the_same_every_time_and_names_no_path():
    found = compare(examples.run(1), examples.run(2, factor=1.08))
    page = render_comparison(found, ("/somewhere/deep/a", "/somewhere/deep/b/records.jsonl"))
    assert page == render_comparison(compare(examples.run(1), examples.run(2, factor=1.08)), ("/other/a", "/other/b"))
    assert "1 regression from A to B" in page
    assert page.count("<figure>") == 9
    assert "somewhere" not in page
    assert "://" not in page


def test_the_page_says_what_differs_what_is_missing_and_what_is_broken():
    a = [examples.cell(examples.latency(*STEADY)), examples.cell(examples.latency(1.0), name="lonely")]
    changed = {"torch": "2.8.0", "note": "<script>alert(1)</script>"}
    b = [examples.cell(examples.latency(*STEADY), environment=changed)]
    a, b = [*a, examples.cell(examples.latency(1.0), name="unetr")], [*b, examples.failed("unetr")]
    page = render_comparison(compare(a, b, anyway=True), ("a", "b"))
    assert "torch: 2.13.0+cpu -&gt; 2.8.0" in page
    assert "<script>alert" not in page
    for text in ("Only in A", "lonely", "Without a result", "B oom: killed by the system"):
        assert text in page


def test_rows_that_are_the_same_are_folded_behind_those_that_changed():
    found = compare(examples.run(1), examples.run(2, factor=1.08))
    same = sum(row.verdict == "same" for row in found.rows)
    main = render_comparison(found, ("a", "b")).partition("<main>")[2]
    before, _, rest = main.partition(f"<summary>{same} rows are the same</summary>")
    assert before.count("<tr data-sort") == len(found.rows) - same
    assert rest.count("<tr data-sort") == same
    assert '<span class="small">latency slower</span>' in rest
    for key in ("conditions", "reading"):
        assert f'<summary><h2 id="{key}">' in rest


def test_few_rows_that_are_all_the_same_are_open():
    found = compare(examples.run(1), examples.run(1))
    page = render_comparison(found, ("a", "b"))
    assert "No regression from A to B" in page
    assert "are the same</summary>" not in page
    assert page.count("<tr data-sort") == len(found.rows)


def test_a_page_without_a_common_result_can_be_written():
    good, bad = examples.cell(examples.latency(*STEADY)), examples.failed()
    assert "Nothing could be compared" in render_comparison(compare([good], [bad]), ("a", "b"))


def test_figures_beyond_the_budget_are_named(monkeypatch):
    monkeypatch.setattr("benchbench.report.compare.page.FIGURE_BUDGET_BYTES", 30_000)
    page = render_comparison(compare(examples.run(1), examples.run(2, factor=1.08)), ("a", "b"))
    assert "Left out to keep this page small" in page
    assert 0 < page.count("<figure>") < 9


def test_an_older_record_without_runs_is_one_process():
    m = dataclasses.replace(examples.latency(*STEADY), runs=())
    assert len(sample(TIME, m).medians) == 1
    assert isinstance(m, rec.Measurement)
