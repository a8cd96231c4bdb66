"""The choice among made-up records: limits, intervals, ties by the paired test, forecasts, and what never decides."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchbench.core import qualification
from benchbench.core import statistics as core_statistics
from benchbench.core.errors import UsageError
from benchbench.core.evaluation import LABEL_MAPS, PROTOCOL
from benchbench.core.results import read_records
from benchbench.report import folder_reader, render
from benchbench.report.choice import next_steps, section, words
from benchbench.report.choice.known import Limit
from benchbench.report.choice.rank import NotRecordedError, choose
from benchbench.report.choice.scope import choose_group
from benchbench.runner.export import FORMS
from tests import report_examples as examples
from tests.report_examples import number

CASES = tuple(f"case_{i}" for i in range(20))
HARD = tuple(0.10 * ((i * 7) % 20) / 20 - 0.0475 for i in range(20))  # of each case, equal for all networks; mean 0


def dice_of(mean, wobble=0.0, origin="measured", values=None, **more):
    """Dice of twenty cases, hard ones hard for all; `wobble` is what differs from network to network, by turns."""
    values = values or tuple(mean + h + (wobble if i % 2 else -wobble) for i, h in enumerate(HARD))
    middle = sum(values) / len(values)
    ci95 = more.pop("ci95", core_statistics.mean_interval(values))
    return number("dice", middle, origin, values=values, ci95=ci95, **more)


def row(name, time_s=1.0, dice=None, *more, span=0.02, **changes):
    """A measured network: its time with an interval of `span` to both sides, and a gigabyte."""
    found = [
        number("params", 2_000_000, "analytic"),
        number("latency_s", time_s, ci95=(time_s * (1 - span), time_s * (1 + span))),
        number("peak_memory_bytes", 1_000_000_000),
    ]
    found = [m for m in found if m.metric not in {one.metric for one in more}]
    return examples.record(name, measurements=(*found, *([dice] if dice else []), *more), **changes)


def forecast(name, low_s, tier="datasheet", *more, factor=18.0, **changes):
    """A network that did not run: a time between two others."""
    bound = "at_least" if tier == "datasheet" else None
    time = number(
        "latency_s", low_s, "predicted", bound=bound, interval=(low_s, factor * low_s), method=f"{tier}: by roofs"
    )
    tensors = number("tensor_memory_bytes", 30_000_000, "analytic", bound="at_least")
    own = {"device": examples.ORIN, "workload": dataclasses.replace(examples.WORKLOAD, threads=None)}
    return examples.record(
        name, measurements=(number("params", 2_000_000, "analytic"), time, tensors, *more), **(own | changes)
    )


def unread(artifact):
    raise AssertionError(f"{artifact.path} was read")


def chosen(records, objective="dice", read=unread, device=None, **limits):
    found, everything = choose_group(records, device)
    asked = [Limit(quantity=quantity, value=value) for quantity, value in limits.items()]
    return choose(found, everything, read, asked, objective)


def labels(choice):
    return [row.label for row in choice.rows]


def test_the_most_accurate_is_taken_where_the_paired_test_tells_it_apart():
    fast, best = row("fast", 0.1, dice_of(0.84, 0.001)), row("best", 5.0, dice_of(0.87, 0.002))
    choice = chosen([fast, best])
    assert choice.taken.label == "best"
    assert choice.rows[1].against.told_apart
    assert words.headline(choice).startswith("Take best: of 2 rows it is the most accurate. One patch takes 5 s")
    assert words.cost(choice, choice.taken) == "It is the most accurate of all rows."


def test_the_fastest_of_those_not_told_apart_is_taken():
    rows = [
        row("best", 5.0, dice_of(0.870, 0.002)),
        row("near", 0.5, dice_of(0.868, 0.05)),
        row("far", 0.1, dice_of(0.80, 0.001)),
    ]
    choice = chosen(rows)
    assert labels(choice) == ["near", "best", "far"]
    assert choice.as_accurate == ("near", "best")
    assert "2 of the 3 rows are equally accurate, and it is the fastest of these" in words.headline(choice)
    told = words.cost(choice, choice.taken)
    assert told.startswith("Against the most accurate of all rows, best: 0.0020 less Dice (95 % CI ")
    assert "20 cases): not told apart, p = " in told
    assert told.endswith("10 times as fast (500 ms against 5 s).")


def test_a_loss_that_a_faster_path_may_have_is_none_however_sure():
    """Each case is worse by 0.0002: the test tells that apart, and nobody needs to."""
    slow, fast = row("slow", 5.0, dice_of(0.87)), row("fast", 1.0, dice_of(0.8698))
    choice = chosen([slow, fast])
    assert choice.taken.label == "fast"
    assert choice.taken.against.p < 0.05
    assert "no more than 0.005 is lost" in words.cost(choice, choice.taken)


def test_overlapping_intervals_do_not_make_equals_of_networks_that_differ_in_every_case():
    slow, fast = row("slow", 5.0, dice_of(0.87, 0.001)), row("fast", 1.0, dice_of(0.86))
    low, high = fast.get("dice").ci95
    assert low < slow.get("dice").ci95[0] < high
    assert chosen([slow, fast]).taken.label == "slow"


def test_cases_are_paired_by_their_names(tmp_path):
    def kept(name, values):
        content = json.dumps({"ids": list(values), "values": {"dice": list(values.values())}}).encode()
        return (examples.artifact(tmp_path, "cases", f"{name}.json", content),)

    ours = {case: 0.86 + h for case, h in zip(CASES, HARD, strict=True)}
    theirs = {case: value + 0.01 for case, value in reversed(ours.items())}
    rows = [
        row("fast", 1.0, dice_of(0, values=tuple(ours.values())), artifacts=kept("fast", ours)),
        row("slow", 5.0, dice_of(0, values=tuple(theirs.values())), artifacts=kept("slow", theirs)),
    ]
    choice = chosen(rows, read=folder_reader([tmp_path]))
    assert choice.taken.label == "slow"
    assert choice.rows[1].against.ci95 == pytest.approx((-0.01, -0.01))


def test_without_cases_in_common_only_a_small_difference_is_none():
    def of(mean, n):
        return number("dice", mean, values=(mean - 0.001, mean + 0.001) * n, ci95=(mean - 0.02, mean + 0.02))

    best = row("best", 5.0, of(0.870, 4))
    assert chosen([best, row("near", 1.0, of(0.865, 3))]).taken.label == "near"
    choice = chosen([best, row("far", 1.0, of(0.85, 3))])
    assert choice.taken.label == "best"
    assert "no cases in common known" in words.against_text(choice.rows[1].against)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"time": 0.5}, ["small"]),
        ({"memory": 0.5e9}, ["small"]),
        ({"file": 5e6}, ["small"]),
        ({"energy": 3.0}, ["small"]),
        ({"dice": 0.85}, ["large"]),
        ({"time": 10.0, "memory": 2e9, "file": 1e9, "energy": 9.0, "dice": 0.5}, ["large", "small"]),
    ],
)
def test_each_limit(limits, kept):
    small = row(
        "small",
        0.3,
        dice_of(0.80),
        number("params", 1_000_000, "analytic"),
        number("peak_memory_bytes", 4e8),
        number("energy_j", 2.0),
    )
    large = row("large", 3.0, dice_of(0.88), number("energy_j", 5.0))
    choice = chosen([small, large], **limits)
    assert [r.label for r in choice.rows if r.standing == "keeps all"] == kept
    assert choice.taken.label == kept[0]


def test_the_file_of_a_deployment_counts_before_the_weights():
    files = number("artefact_bytes", 2_500_000)
    work = dataclasses.replace(examples.WORKLOAD, runtime="openvino")
    same = number("output_max_error", 1e-6)
    prepared, eager = row("net", 1.0, None, files, same, workload=work), row("net")
    by_runtime = {r.record.workload.runtime: r.known["file"] for r in chosen([prepared, eager]).rows}
    assert (by_runtime["openvino"].value, by_runtime["openvino"].origin) == (2_500_000, "measured")
    assert (by_runtime["eager"].value, by_runtime["eager"].of) == (8_000_000, "the weights alone")


def test_a_dice_whose_interval_reaches_below_the_limit_is_not_sure():
    only = row("only", 1.0, dice_of(0.86, 0.01))
    low, high = only.get("dice").ci95
    assert chosen([only], dice=low - 0.001).rows[0].standing == "keeps all"
    assert chosen([only], dice=high + 0.001).rows[0].standing == "misses"
    choice = chosen([only], dice=0.86)
    assert (choice.taken, choice.first.label) == (None, "only")
    assert words.headline(choice).startswith(
        "No row is known to keep all limits. only may, but its Dice is not sure: no other row may keep them."
    )
    assert "Dice at least 0.860 is not sure (0.860, 95 % CI" in words.sureness(choice, choice.first)


def test_a_dice_without_interval_is_not_sure_and_one_with_cases_gets_its_interval():
    alone = row("alone", 1.0, number("dice", 0.9))
    assert chosen([alone], dice=0.5).rows[0].standing == "not sure"
    cases = row("cases", 1.0, dice_of(0.9, 0.01, ci95=None))
    assert chosen([cases], dice=0.5).rows[0].standing == "keeps all"


def test_a_time_whose_interval_holds_the_limit_is_not_sure_and_is_to_be_measured_longer():
    choice = chosen([row("net", 1.0, dice_of(0.86), span=0.1)], time=1.05)
    assert choice.first.unsure == ["time"]
    what, step = words.next_command(choice, choice.first, next_steps.unplaced_weights)
    weighed = dataclasses.replace(choice.first.record.model, checkpoint="ab" * 32)
    lent = dataclasses.replace(choice.first, dice_record=dataclasses.replace(choice.first.dice_record, model=weighed))
    assert what == "train it: no weights are here"
    assert step.startswith("bench train net --data phantom")
    what, step = words.next_command(choice, lent, next_steps.unplaced_weights)
    assert what == "measure it longer to be sure"
    assert "--models path/to/net.safetensors" in step
    assert "--protocol standard" in step


def test_the_range_of_too_few_samples_counts_as_its_interval():
    few = row("few", 1.0, dice_of(0.86), number("latency_s", 1.0, values=(0.9, 1.0, 1.3)))
    assert chosen([few], time=1.2).rows[0].unsure == ["time"]
    assert chosen([few], time=1.35).taken.label == "few"


def test_a_patient_counts_where_any_row_has_one():
    whole = row("whole", 0.1, dice_of(0.86), number("volume_latency_s", 2.0, ci95=(1.9, 2.1)))
    other = row("other", 0.1, dice_of(0.86))
    choice = chosen([whole, other], time=1.0)
    assert {r.label: r.verdicts["time"] for r in choice.rows} == {"whole": "missed", "other": "not known"}
    assert choice.taken is None
    choice = chosen([whole, other], time=3.0)
    assert choice.taken.label == "whole"
    assert words.notes(choice) == ["the limit of the time is held against one patient"]
    assert "One patient takes 2 s" in words.headline(choice)


def test_the_memory_of_a_patient_counts_with_the_time_of_one():
    volume = (number("volume_latency_s", 2.0), number("volume_peak_memory_bytes", 3e9))
    assert chosen([row("net", 0.1, dice_of(0.86), *volume)], memory=2e9).taken is None


@pytest.mark.parametrize(("objective", "first"), [("latency", "quick"), ("memory", "lean"), ("dice", "good")])
def test_objectives(objective, first):
    rows = [
        row("quick", 0.1, dice_of(0.80)),
        row("lean", 0.5, dice_of(0.82), number("peak_memory_bytes", 1e8)),
        row("good", 2.0, dice_of(0.88)),
    ]
    assert chosen(rows, objective).taken.label == first


def test_without_any_dice_the_fastest_is_taken_and_it_is_said():
    choice = chosen([row("slow", 5.0), row("fast", 1.0)])
    assert choice.objective == "latency"
    assert words.headline(choice).startswith("Take fast: of 2 rows it is the fastest, and none has a Dice.")
    assert "no Dice (not recorded)" in words.headline(choice)


def test_a_data_sheet_never_shows_that_a_limit_is_kept_and_can_rule_a_row_out():
    dice = dice_of(0.86, origin="reference")
    rows = [forecast("light", 1e-4, "datasheet", dice), forecast("heavy", 2.0, "datasheet", dice)]
    choice = chosen(rows, time=1.0)
    assert {r.label: r.standing for r in choice.rows} == {"light": "not sure", "heavy": "misses"}
    assert choice.taken is None
    sure = words.sureness(choice, choice.first)
    assert "time: data-sheet forecast" in sure
    assert "nothing ran on this device" in sure
    assert "time at most 1 s is not sure (a data-sheet forecast of at least 100 us cannot show it)" in sure


def test_a_choice_by_forecasts_says_so_in_its_first_line():
    rows = [forecast(name, s, "datasheet", dice_of(0.86, origin="reference")) for name, s in (("a", 0.1), ("b", 0.2))]
    assert "both rows are equally accurate, and it is the fastest by data-sheet forecasts of these" in words.headline(
        chosen(rows)
    )
    what, step = words.next_command(
        chosen(rows), dataclasses.replace(chosen(rows).rows[0], dice_record=with_weights(rows[0])), lambda _: "w.pt"
    )
    assert what == "measure it on the device itself"
    assert "--models w.pt --device jetson" in step
    assert step.endswith("--require-measured")


def test_a_calibrated_forecast_decides_by_its_whole_range_and_a_scaled_one_does_not():
    dice = dice_of(0.86, origin="reference")
    assert chosen([forecast("net", 0.1, "calibrated", dice, factor=1.5)], time=0.2).taken.label == "net"
    assert chosen([forecast("net", 0.1, "calibrated", dice, factor=3)], time=0.2).first.standing == "not sure"
    assert chosen([forecast("net", 0.1, "scaled", dice, factor=1.5)], time=0.2).taken is None


def test_a_lower_bound_with_a_range_does_not_decide():
    """As of a calibrated device, of a network with operators that nobody can count."""
    bound = number(
        "latency_s", 0.1, "predicted", bound="at_least", interval=(0.1, 0.15), method="calibrated: some left out"
    )
    whole = forecast("net", 0.1, "calibrated", dice_of(0.86, origin="reference"))
    kept = tuple(m for m in whole.measurements if m.metric != "latency_s")
    rows = [dataclasses.replace(whole, measurements=(*kept, bound))]
    assert chosen(rows, time=0.2).first.unsure == ["time"]


def test_the_tensors_alone_never_show_that_a_memory_is_kept():
    dice = dice_of(0.86, origin="reference")
    choice = chosen([forecast("net", 0.1, "calibrated", dice)], memory=4e9)
    assert choice.first.unsure == ["memory"]
    assert "the tensors alone take at least 30 MB" in words.sureness(choice, choice.first)
    assert chosen([forecast("net", 0.1, "calibrated", dice)], memory=1e7).first is None


def test_a_forecast_that_does_not_fit_is_left_out():
    fits = number("fits_in_memory", 0, "predicted", method="9 GB of tensors against 8.59 GB")
    choice = chosen([forecast("net", 0.1, "datasheet", fits), forecast("other", 0.1)])
    assert choice.left_out == (("net", "does not fit into the device's memory (9 GB of tensors against 8.59 GB)"),)


def with_weights(record, digest="ab" * 32):
    return dataclasses.replace(record, model=dataclasses.replace(record.model, checkpoint=digest))


def test_a_forecast_has_the_dice_of_the_same_weights_that_ran_elsewhere():
    here, other = with_weights(row("net", 1.0, dice_of(0.86))), with_weights(row("net", 1.0, dice_of(0.9)), "cd" * 32)
    there = with_weights(forecast("net", 0.1))
    found = chosen([here, other, there], device="jetson").rows[0]
    assert (found.known["dice"].value, found.known["dice"].origin) == (
        pytest.approx(0.86),
        "measured earlier, elsewhere",
    )
    assert found.dice_record.id == here.id
    elsewhere = dataclasses.replace(there, workload=dataclasses.replace(there.workload, spatial=(64, 64, 64)))
    assert chosen([here, elsewhere], device="jetson").rows[0].known["dice"].value is None


def evaluated(name, dice, *more, **changes):
    """A row of `bench evaluate`: Dice, and no time."""
    work = dataclasses.replace(examples.WORKLOAD, protocol=PROTOCOL)
    return examples.record(name, measurements=(dice, *more), workload=work, **changes)


def test_an_evaluation_lends_its_dice_to_what_was_timed_elsewhere_and_is_no_set_of_conditions_beside_it():
    timed, judged = with_weights(row("net", 1.0)), with_weights(evaluated("net", dice_of(0.86, 0.01)))
    choice = chosen([timed, judged], dice=0.8)
    assert choice.taken.record.id == timed.id
    assert choice.taken.dice_record.id == judged.id


def test_evaluations_alone_are_chosen_from_by_their_dice_and_their_time_is_measured_next():
    seen = number("training_cases", 4, method="cases that it was trained on")
    better = evaluated("better", dice_of(0.90), number("evaluated_cases", 20), seen)
    rows = [evaluated("worse", dice_of(0.80)), with_weights(better)]
    choice = chosen(rows)
    assert words.headline(choice).startswith("Take better: of 2 rows it is the most accurate. Semi-synthetic Dice 0.9")
    assert "4 of its 20 cases are cases that it was trained on" in words.sureness(choice, choice.taken)
    what, step = words.next_command(choice, choice.taken, lambda _: "w.safetensors")
    assert what == "measure its time"
    assert step.startswith("bench run --models w.safetensors --device cpu")
    assert section.headline(choice).endswith("better is the most accurate of 2 (phantom Dice 0.900).")
    with pytest.raises(NotRecordedError) as caught:
        chosen(rows, time=1.0)
    assert next_steps.not_recorded("time", caught.value.rows, lambda _: "w.safetensors").startswith(
        "bench run --models w"
    )


def test_label_maps_have_nothing_to_export():
    maps = evaluated("theirs", dice_of(0.9), model=examples.spec("theirs", arch=LABEL_MAPS))
    what, step = words.next_command(chosen([maps]), chosen([maps]).taken, next_steps.unplaced_weights)
    assert "no weights to export" in what
    assert step == "bench evaluate --predictions path/to/theirs --data phantom"


def test_dice_travels_from_eager_fp32_alone():
    work = dataclasses.replace(examples.WORKLOAD, dtype="bf16")
    rows = [with_weights(row("net", 1.0, dice_of(0.86), workload=work)), with_weights(forecast("net", 0.1))]
    assert chosen(rows, device="jetson").rows[0].known["dice"].value is None


def test_what_does_not_count_is_left_out_with_its_reason():
    classifier = row("vit", 0.01, number("dice", None, reason=qualification.NOT_DENSE))
    useless = row("useless", 0.02, dice_of(0.05, values=(0.05,) * 20))
    half = row("net", 0.03, None, workload=dataclasses.replace(examples.WORKLOAD, dtype="bf16"))
    unstable = row("net", 1.0, dice_of(0.86), status="unstable", error="known to ±9 % only: close other programs")
    choice = chosen([classifier, useless, examples.failed("huge"), half, unstable])
    assert labels(choice) == ["net fp32"]
    reasons = dict(choice.left_out)
    assert reasons["vit fp32"] == qualification.NOT_DENSE
    assert reasons["useless fp32"].startswith("its Dice of 0.050 is below 0.430, of no use")
    assert reasons["huge fp32"].startswith("oom: killed by the system")
    assert reasons["net bf16"].startswith("output unqualified")
    assert "the row is unstable: known to ±9 % only" in words.sureness(choice, choice.taken)


def test_a_phantom_says_nothing_about_patients():
    assert "says nothing about patients" in words.sureness(
        chosen([row("net", 1.0, dice_of(0.86))]), chosen([row("net", 1.0, dice_of(0.86))]).taken
    )


def test_several_devices_are_never_mixed_and_are_named_with_what_picks_one():
    rows = [row("net", 1.0, dice_of(0.86)), forecast("net", 0.1)]
    with pytest.raises(UsageError, match=r"2 sets of conditions, which are never mixed") as caught:
        choose_group(rows)
    assert "Add --device cpu or --device jetson or --conditions A or --conditions B" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert choose_group(rows, "jetson-orin-nano-8gb-super")[0].predicted
    assert choose_group(rows, "cpu")[0].letter == "A"
    assert choose_group(rows, None, "b")[0].predicted


def test_conditions_that_differ_on_one_device_are_picked_by_letter():
    changed = examples.ENVIRONMENT | {"torch": "2.8.0"}
    rows = [row("net", 1.0, dice_of(0.86)), row("net", 2.0, dice_of(0.86), environment=changed)]
    with pytest.raises(UsageError, match=r"They differ in: versions\. Add --conditions A or --conditions B"):
        choose_group(rows, "cpu")
    assert choose_group(rows, "cpu", "B")[0].first.value("latency_s") == 2.0
    with pytest.raises(UsageError, match="unknown set of conditions 'Z'; there are: A "):
        choose_group(rows, "cpu", "Z")


def test_other_data_and_patches_are_other_conditions():
    for change in ({"data": "ward7"}, {"spatial": (64, 64, 64)}):
        work = dataclasses.replace(examples.WORKLOAD, **change)
        with pytest.raises(UsageError, match="never mixed"):
            choose_group([row("net", 1.0, dice_of(0.86)), row("net", 1.0, dice_of(0.86), workload=work)])


def test_a_device_that_no_record_is_of_has_the_command_that_forecasts_it():
    with pytest.raises(UsageError, match=r"unknown device 'rtx-4090'") as caught:
        choose_group([row("net", 1.0, dice_of(0.86))], "rtx-4090")
    assert "these records are of cpu" in str(caught.value)
    assert str(caught.value).endswith("bench run --models net --device rtx-4090 --data phantom")


def test_nothing_to_choose_from():
    with pytest.raises(UsageError, match="hold no record of a network that ran: bench run --models all makes some"):
        choose_group([])
    with pytest.raises(
        UsageError, match="no row of a network that segments has finished; this measures one: bench run"
    ):
        choose_group([examples.failed("slim_unetr")])
    training = row("net", workload=dataclasses.replace(examples.WORKLOAD, phase="train"))
    with pytest.raises(UsageError, match="only training steps were timed") as caught:
        choose_group([training])
    assert "--phase" not in str(caught.value)


@pytest.mark.parametrize(("quantity", "flag"), [("energy", "--max-energy"), ("dice", "--min-dice")])
def test_a_limit_of_what_no_row_has_is_told(quantity, flag):
    with pytest.raises(NotRecordedError, match=f"{flag}: no row has a figure of"):
        chosen([row("net")], **{quantity: 0.5})


def test_the_nearest_miss_of_each_limit_and_what_would_help():
    rows = [row("quick", 0.5, dice_of(0.80)), row("good", 3.0, dice_of(0.90)), row("bad", 9.0, dice_of(0.70))]
    choice = chosen(rows, time=1.0, dice=0.85)
    assert words.headline(choice) == "No row keeps all limits (time at most 1 s; Dice at least 0.850)."
    lines = words.nearest_misses(choice, next_steps.unplaced_weights)
    assert lines[0].startswith("nearest to time at most 1 s: good, 3 s (95 % CI 2.94 to 3.06 s, measured), 3 times")
    assert "  take a smaller patch: bench run --models good --device cpu --spatial 96 96 96" in lines[1]
    assert "  search for a smaller network: bench search --budget 1s --data phantom" in lines
    (dice,) = (line for line in lines if line.startswith("nearest to Dice"))
    assert dice.startswith("nearest to Dice at least 0.850: quick, 0.800")
    assert "0.050 below" in dice
    assert lines[-1] == "  train it longer: bench train quick --data phantom --spatial 128 128 128 --budget 1h"


def test_what_may_keep_the_limits_and_is_more_accurate_is_named():
    rows = [row("sure", 0.9, dice_of(0.84)), row("better", 1.0, dice_of(0.88), span=0.1)]
    choice = chosen(rows, time=1.05)
    assert choice.taken.label == "sure"
    assert words.also_possible(choice) == "More accurate, and not known to keep all limits: better (time)."


def test_a_file_is_exported_in_its_runtime_and_precision():
    assert {form: runtime for runtime, form in next_steps.FORMS.items()} == FORMS
    work = dataclasses.replace(examples.WORKLOAD, runtime="onnxruntime", dtype="int8", data="Ward:0123abcd:fold2:brats")
    loss = number("lost_dice", 0.0, ci95=(0.0, 0.001))
    one = chosen([with_weights(row("net", 1.0, dice_of(0.86), loss, workload=work))]).taken
    assert next_steps.export(one, lambda _: "w.safetensors") == (
        "bench export w.safetensors --to onnx --dtype int8 --data path/to/Ward --fold 2"
    )


def page(records):
    return render(records, unread)


def test_a_page_begins_with_one_sentence_that_chooses_and_says_nothing_twice():
    text = page([row("quick", 0.5, dice_of(0.80)), row("good", 3.0, dice_of(0.90))])
    sentence = (
        "On Example CPU 9000, 2 threads: quick is the fastest of 2 (500 ms a patch, phantom Dice 0.800); good is "
        "the most accurate (0.900) at 6 times its cost; nothing shows that they were trained alike, so there is no "
        "front."
    )
    assert text.count(sentence) == 1
    assert text.index(sentence) < text.index('id="choice"') < text.index('id="results"') < text.index('id="conditions"')
    assert text.count("quick against good: 0.1000 less Dice") == 1


def test_a_page_of_several_conditions_has_a_choice_for_each_and_one_of_failures_has_none():
    text = page([row("net", 0.5, dice_of(0.80)), forecast("net", 0.1, "datasheet", dice_of(0.8, origin="reference"))])
    part = text[text.index('id="choice"') : text.index('id="sides"')]
    assert re.findall(r"<strong>(.)</strong>", part) == ["A", "B"]
    assert "On Example CPU 9000, 2 threads: net is the only row" in part
    assert "Forecast for jetson-orin-nano-8gb-super, where nothing ran: net is the only row (100 ms to 1.80 s a" in part
    assert "data-sheet forecast" in part
    assert 'id="choice"' not in page([examples.failed("slim_unetr")])


def test_the_front_names_what_lies_between():
    rows = [
        row("quick", 0.5, dice_of(0.80)),
        row("beaten", 2.0, dice_of(0.79)),
        row("middle", 1.0, dice_of(0.85)),
        row("good", 3.0, dice_of(0.90)),
    ]
    choice = chosen(rows)
    assert [r.label for r in section.front(choice.rows)] == ["quick", "middle", "good"]
    assert "between them on the front is middle (1 s a patch, phantom Dice 0.850)." in section.headline(choice)


def test_the_only_dice_is_not_called_the_highest():
    told = section.headline(chosen([row("a", 1.0, dice_of(0.8)), row("b", 2.0)]))
    assert "a is the fastest of 2 and the only one with a Dice (1 s a patch, phantom Dice 0.800)." in told
    told = section.headline(chosen([row("a", 1.0), row("b", 2.0, dice_of(0.8))]))
    assert "a is the fastest of 2 (1 s a patch); b is the only one with a Dice (0.800) at 2 times its cost." in told


def test_without_any_dice_the_headline_names_the_fastest_and_says_what_is_missing():
    told = section.headline(chosen([row("a", 1.0), row("b", 2.0)]))
    assert "a is the fastest of 2 (1 s a patch); without a Dice of trained weights nothing says which" in told


def test_rows_that_are_not_told_apart_from_the_fastest_are_named_with_it():
    told = section.headline(chosen([row("a", 1.0), row("c", 1.019), row("b", 1.01), row("slower", 1.5)]))
    assert "a is the fastest of 4 (1 s a patch), not told apart from b (1.01 s), c (1.02 s); without" in told
    told = section.headline(chosen([forecast("a", 1.0, "datasheet"), forecast("b", 1.01, "datasheet")]))
    assert "told apart" not in told


def test_phantom_dice_of_unequal_trainings_have_no_front():
    choice = chosen([examples.finished("slim_unetr"), examples.finished("nnunet")])
    assert "there is no front" not in section.headline(choice)
    assert section.headline(choice, alike=False).endswith(
        "nothing shows that they were trained alike, so there is no front."
    )


def test_the_committed_records_are_chosen_from():
    folder = Path(__file__).resolve().parents[2] / "results" / "reference" / "runtimes-hippocampus"
    records = list(read_records(folder))
    choice = chosen(records, read=folder_reader([folder]), time=0.05, dice=0.85)
    assert choice.taken.label == "nnunet_small openvino int8"
    assert choice.taken.known["time"].of == "one patient"
