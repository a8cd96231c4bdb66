"""Runtimes and precisions: one table, ranks for what is still the same network, and their figures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from benchbench.cli.parser import parse
from benchbench.cli.results_table import results_table
from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.report import conditions, export, reliability, render, summary_rows, write_report
from benchbench.report.compare.compare import compare
from benchbench.report.conditions import Group, group
from benchbench.report.figures import devices, overview, runtimes, scaling, style, volumes
from benchbench.report.labels import row_labels
from tests import compare_examples
from tests import report_examples as examples
from tests.report.test_page import Page

UNQUALIFIED = "swin_unetr openvino int8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.several_runtimes(tmp_path_factory.mktemp("runtimes"))


@pytest.fixture(scope="module")
def records(folder: Path) -> list[rec.Record]:
    return core_results.read_records(folder)


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return write_report([folder]).read_text(encoding="utf-8")


def only_group(records: list[rec.Record]) -> Group:
    (found,) = group(records)
    return found


def without_tags(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def cells_of(records: list[rec.Record], key: str) -> dict[str, str]:
    return {row.label: row.cells[key].text for row in summary_rows(records).rows}


# One table


def test_runtimes_and_precisions_of_one_device_and_input_stand_in_one_table(records):
    found = only_group(records)
    assert found.title == "Example CPU 9000, 2 threads, 1 x 4 x 128x128x128"
    facts = dict(conditions.facts(found))
    assert facts["Precision"] == "fp32, bf16, int8 (loss below 0.005)"
    assert facts["Phase and runtime"] == "infer, eager, openvino, onnxruntime"


@pytest.mark.parametrize("change", [{"threads": 1}, {"batch": 2}, {"data": "another"}, {"phase": "train"}])
def test_what_else_moves_a_number_still_parts_them(change):
    eager = examples.in_runtime("slim_unetr")
    other = examples.in_runtime("slim_unetr", "openvino")
    other = dataclasses.replace(other, workload=dataclasses.replace(other.workload, **change))
    assert len(group([eager, other])) == 2


def test_runtime_and_precision_have_columns_only_where_they_say_something(records):
    eager = [examples.in_runtime(name) for name in ("slim_unetr", "unet_small")]
    keys = [column.key for column in summary_rows(eager).columns]
    assert not {"runtime", "dtype", "lost_dice"} & set(keys)
    assert only_group(eager).title == "Example CPU 9000, 2 threads, fp32, 1 x 4 x 128x128x128"
    half = [examples.in_runtime(name, "eager", "bf16") for name in ("slim_unetr", "unet_small")]
    assert [column.title for column in summary_rows(half).columns][:2] == ["Precision", "Params"]
    assert only_group(half).title.startswith("Example CPU 9000, 2 threads, bf16,")
    assert [column.title for column in summary_rows(records).columns][:2] == ["Runtime", "Precision"]


def test_the_runtime_says_where_the_network_was_rewritten(records):
    texts = cells_of(records, "runtime")
    assert texts["slim_unetr openvino fp32"] == "openvino, rewritten"
    assert texts["unet_small openvino fp32"] == "openvino"
    assert texts["slim_unetr eager fp32"] == "eager"


def test_a_label_names_runtime_and_precision_as_far_as_they_differ():
    eager, bf16 = examples.in_runtime("slim_unetr"), examples.in_runtime("slim_unetr", "eager", "bf16")
    openvino = examples.in_runtime("slim_unetr", "openvino")
    assert list(row_labels([eager, bf16]).values()) == ["slim_unetr fp32", "slim_unetr bf16"]
    assert list(row_labels([eager, openvino]).values()) == ["slim_unetr eager", "slim_unetr openvino"]
    assert list(row_labels([eager]).values()) == ["slim_unetr"]
    assert list(row_labels([eager], beside=[openvino]).values()) == ["slim_unetr eager"]
    other = dataclasses.replace(openvino, model=dataclasses.replace(openvino.model, checkpoint="ab" * 32))
    labels = list(row_labels([eager, openvino, other]).values())
    assert labels[1].startswith("slim_unetr openvino #")
    assert len(set(labels)) == 3
    rows = summary_rows([eager, openvino, other]).rows
    assert [row.name.partition(" #")[0] for row in rows] == ["slim_unetr"] * 3


def test_a_bound_on_what_int8_may_lose_is_shown_where_it_is_set():
    made = [examples.in_runtime("unet_small", "openvino", "int8", int8_accuracy=most) for most in (None, 0.005)]
    plain, bounded = summary_rows(made).rows
    assert (plain.cells["dtype"].detail, bounded.cells["dtype"].detail) == ("", "loss < 0.005")
    assert (plain.label, bounded.label) == ("unet_small", "unet_small < 0.005")
    first, second = csv.DictReader(io.StringIO(export(made, "csv")))
    assert (first["int8_accuracy"], second["int8_accuracy"]) == ("", "0.005")


def test_the_command_asks_for_all_runtimes_and_precisions_again(records):
    command = conditions.reproduce(only_group(records))
    assert "--runtime eager,openvino,onnxruntime " in command
    assert "--dtype fp32,bf16,int8 --int8-accuracy 0.005 " in command
    options = parse(shlex.split(command)[1:])
    assert options.runtime == ("eager", "openvino", "onnxruntime")
    assert options.int8_accuracy == pytest.approx(0.005)


# Ranks


def test_only_rows_that_are_still_the_same_network_have_a_rank(records):
    rows = {row.label: row for row in summary_rows(records).rows}
    assert rows["slim_unetr openvino bf16"].cells["rank"].text == "1"
    cell = rows[UNQUALIFIED].cells["rank"]
    assert (cell.text, cell.value, cell.detail) == ("-", None, "output unqualified")
    reason = "output unqualified: 0.20% of the voxels get another label, and no Dice to judge it by"
    assert cell.note == reason
    assert reason in rows[UNQUALIFIED].cells["status"].detail
    assert rows["slim_unetr openvino int8"].cells["rank"].text == "-"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "its output was not compared with that of eager PyTorch in fp32, and no Dice to judge it by"),
        ({"off": 4e-3}, "its output was compared on random numbers alone, and no Dice to judge it by"),
        ({"more": (examples.number("lost_dice", None, reason="one case"),)}, "to judge it by (one case)"),
        ({"lost": (0.003, 0.001, 0.0071)}, "it may lose up to 0.0071 of Dice"),
    ],
)
def test_why_a_row_is_unqualified(more, reason):
    row = examples.in_runtime("slim_unetr", "openvino", "bf16", **more)
    assert reason in reliability.unqualified([row])[row.id]


def test_a_training_and_a_forecast_need_no_qualification():
    work = dataclasses.replace(examples.STANDARD, phase="train", dtype="bf16")
    training = examples.record("slim_unetr", workload=work)
    forecast = dataclasses.replace(
        examples.predicted("slim_unetr"), workload=dataclasses.replace(examples.WORKLOAD, dtype="fp16")
    )
    assert reliability.unqualified([training, forecast]) == {}


def test_the_terminal_says_which_rows_are_unqualified_and_what_to_do(records):
    lines = results_table(records).splitlines()
    (line,) = [line for line in lines if line.startswith(UNQUALIFIED)]
    assert line.endswith("; add --data with labels, and weights")
    first = next(line for line in lines if line.startswith("swin_unetr  openvino "))
    assert first.split()[:3] == ["swin_unetr", "openvino", "int8"]


def test_the_page_says_it_once_and_in_the_place_of_the_rank(text):
    page = Page(text)
    assert "rows is output unqualified: 0.2 % of the voxels" in page.visible
    assert UNQUALIFIED in page.visible
    assert "Output unqualified: a row that may be another network" in page.visible
    plain = Page(write_report_of(examples.in_runtime("slim_unetr")))
    assert "unqualified" not in plain.visible


def write_report_of(*records: rec.Record) -> str:
    return render(records, lambda artifact: b"")


def test_a_row_that_is_another_network_shows_its_figures(text):
    visible = Page(text).visible
    assert "its output differs by 2.1e-01 of its range (limit 0.001); it loses 0.0412 Dice" in visible


def test_the_others_are_set_against_eager_fp32():
    fast = examples.in_runtime("slim_unetr", "openvino", speed=2.0)
    plain = examples.in_runtime("slim_unetr")
    ratios = cells_of([fast, plain], "ratio")
    assert ratios["slim_unetr eager"] == "1 x"
    assert ratios["slim_unetr openvino"].startswith("0.5")
    assert cells_of([fast], "ratio") == {"slim_unetr": "1 x"}


def test_a_whole_patient_has_no_rank_either_where_the_row_is_unqualified():
    work = {"volume": (240, 240, 155), "overlap": 0.5}
    made = []
    for runtime, dtype, seconds in (("eager", "fp32", 9.0), ("openvino", "fp32", 5.0), ("openvino", "int8", 2.0)):
        one = examples.in_runtime("slim_unetr", runtime, dtype, off=1e-6, changed=0.0 if dtype == "fp32" else 0.01)
        patient = (*one.measurements, examples.number("volume_latency_s", seconds))
        made.append(dataclasses.replace(one, measurements=patient, workload=dataclasses.replace(one.workload, **work)))
    table = volumes.table(summary_rows(made).rows, only_group(made), {}, key="v")
    ranks = {row.label: row.cell("rank").text for row in table.rows}
    assert ranks == {"slim_unetr openvino int8": "-", "slim_unetr openvino fp32": "1", "slim_unetr eager fp32": "2"}


# Noise floors


def quiet(runtime: str, seconds: float, ratio: float | None = None, name: str = "a") -> rec.Record:
    work = dataclasses.replace(examples.STANDARD, runtime=runtime)
    found = [examples.number("latency_s", seconds), examples.number("output_max_error", 0.0)]
    found += [examples.number("noise_ratio", ratio)] if ratio else []
    return examples.record(name, measurements=tuple(found), workload=work)


def test_each_runtime_has_the_noise_floor_that_was_measured_of_it():
    """OpenVINO is loud here: its rows tie with what is within 20 %, two eager rows only within 2 %."""
    made = [
        quiet("eager", 1.0, 1.01, "a"),
        quiet("eager", 1.1, None, "b"),
        quiet("openvino", 1.15, 1.2, "a"),
        quiet("openvino", 1.6, None, "b"),
    ]
    assert cells_of(made, "rank") == {"a eager": "1", "b eager": "2=", "a openvino": "2=", "b openvino": "4"}
    floors = reliability.noise_floors(made)
    assert {path: round(floor.share, 6) for path, floor in floors.items()} == {
        ("eager", "fp32"): 0.01,
        ("openvino", "fp32"): 0.2,
    }
    assert reliability.floors_text(made, floors) == (
        "eager fp32 1 % (a); openvino fp32 20 % (a); rows within the larger of their floors, at least 2 %, share a rank"
    )


def test_a_comparison_takes_the_noise_floor_of_the_same_runtime():
    steady = [0.100, 0.1001, 0.1002, 0.1003, 0.1004]
    noisy = compare_examples.cell(
        compare_examples.latency(*steady), examples.number("noise_ratio", 1.3), workload={"runtime": "openvino"}
    )
    slower = [compare_examples.cell(compare_examples.latency(*(1.1 * s for s in steady)))]
    found = compare([noisy, compare_examples.cell(compare_examples.latency(*steady))], slower)
    assert [row.minimum for row in found.rows] == [0.02]


def test_a_comparison_says_which_rows_are_unqualified():
    rows = [compare_examples.cell(compare_examples.latency(0.1, 0.1001, 0.1), workload={"dtype": "bf16"})]
    note = "output unqualified in B: slim_unetr: add --data with labels, and weights"
    assert note in compare(rows, rows).notes


# Lost Dice, and what a deployment takes


def test_lost_dice_has_a_column_with_its_interval_and_the_worst_case_in_its_note(records):
    row = next(row for row in summary_rows(records).rows if row.label == "unet_small openvino bf16")
    cell = row.cells["lost_dice"]
    assert (cell.text, cell.detail) == ("0.0002", "95 % CI -0.0001 to 0.0005")
    assert "worst case 0.0020" in cell.note


def test_nothing_lost_has_no_minus():
    row = examples.in_runtime("slim_unetr", "openvino", lost=(-0.00001, -0.00002, 0.0))
    cell = summary_rows([row]).rows[0].cells["lost_dice"]
    assert (cell.text, cell.detail) == ("0.0000", "95 % CI 0.0000 to 0.0000")


def test_what_a_deployment_takes_stands_in_exports_and_in_the_section_of_its_row(records, text):
    markdown = export(records, "markdown")
    assert "| Prepare | First answer | Artefact |" in markdown
    assert "| 12.2 s [M] | 174 ms [M] | 7.13 MB [M] |" in markdown
    first = next(csv.DictReader(io.StringIO(export(records[2:3], "csv"))))
    assert (first["runtime"], first["dtype"], first["prepare_s"]) == ("openvino", "fp32", "12.2")
    values = json.loads(export(records[2:3], "json"))[0]["values"]
    assert values["artefact_bytes"]["unit"] == "B"
    assert re.search(r"Prepare 12\.2 s .*, First answer 174 ms .*, Artefact 7\.13 MB", without_tags(text))
    assert "prepare_s" not in [a.get("data-key") for a in Page(text).all("button")]


def test_without_them_the_exports_have_no_such_columns():
    markdown = export([examples.finished("slim_unetr"), examples.finished("unetr")], "markdown")
    assert "Prepare" not in markdown
    assert "Runtime" not in markdown


# Figures


def test_every_network_is_a_line_of_dots_and_the_front_is_over_qualified_rows(records):
    drawing = runtimes.scatter(summary_rows(records).rows, "latency_s", prefix="x")
    assert drawing is not None
    assert "swin_unetr openvino int8 Dice 0.879" in drawing.svg
    front = drawing.svg.partition("Pareto front: ")[2].partition('."')[0]
    assert "slim_unetr openvino bf16" in front
    assert UNQUALIFIED not in front
    assert "Hollow: output unqualified" in drawing.caption
    qualified = [r for r in records if r.id not in reliability.unqualified(records)]
    whole = runtimes.scatter(summary_rows(qualified).rows, "latency_s", prefix="x")
    assert whole is not None
    assert "unqualified" not in whole.svg + whole.caption.replace("qualified rows", "")


def test_without_dice_the_height_is_parameters_and_there_is_no_front():
    made = [
        examples.in_runtime(name, runtime, dice=None, data=None, off=1e-6)
        for name in ("slim_unetr", "unet_small")
        for runtime in ("eager", "openvino")
    ]
    drawing = runtimes.scatter(summary_rows(made).rows, "latency_s", prefix="x")
    assert drawing is not None
    assert "parameters (log)" in drawing.svg
    assert "Pareto front" not in drawing.svg
    assert "no front" in drawing.caption


def test_the_speed_up_is_a_ratio_of_medians_with_its_interval(records):
    rows = summary_rows(records).rows
    drawing = runtimes.speed_ups(rows, "latency_s", prefix="x")
    assert drawing is not None
    times = {row.label: row.record.value("latency_s") for row in rows}
    ratio = times["unet_small eager fp32"] / times["unet_small openvino bf16"]
    assert f"unet_small openvino bf16 {ratio:.2f} x (" in drawing.svg
    assert "unsupported" in drawing.svg
    assert f"{UNQUALIFIED} 5." in drawing.svg
    assert "Hollow: output unqualified" in drawing.caption


def test_one_way_of_running_networks_has_no_such_figures():
    rows = summary_rows([examples.in_runtime(name) for name in ("slim_unetr", "unet_small")]).rows
    assert runtimes.scatter(rows, "latency_s", prefix="x") is None
    assert runtimes.speed_ups(rows, "latency_s", prefix="x") is None
    without = summary_rows([examples.in_runtime("slim_unetr", r) for r in ("openvino", "onnxruntime")]).rows
    assert runtimes.speed_ups(without, "latency_s", prefix="x") is None  # nothing to hold them against


def test_forecasts_are_no_runtime():
    made = [
        dataclasses.replace(one, workload=dataclasses.replace(one.workload, dtype=dtype))
        for dtype in ("fp32", "fp16")
        for one in (examples.predicted("slim_unetr"), examples.predicted("unetr"))
    ]
    rows = summary_rows(made).rows
    assert runtimes.scatter(rows, "latency_s", prefix="x") is None
    assert not runtimes.has_several(rows)


def test_what_was_not_possible_stands_below_grouped_by_reason(text):
    items = without_tags(text.partition("What was not possible")[2].partition("</ul>")[0])
    assert (
        "unsupported: ONNX Runtime has no bf16 on cpu, only fp32, int8 "
        "slim_unetr onnxruntime bf16, unet_small onnxruntime bf16, swin_unetr onnxruntime bf16"
    ) in items


def test_an_unqualified_row_is_on_no_front_of_the_overview():
    made = [
        examples.in_runtime("slim_unetr", "openvino", "int8", 9.0, dice=0.84, off=1e-2, changed=0.01),
        examples.in_runtime("unet_small", "openvino", "int8", 3.0, dice=0.86, lost=(0.0, -0.001, 0.001)),
        examples.in_runtime("swin_unetr", "openvino", "int8", 3.0, dice=0.88, lost=(0.0, -0.001, 0.001)),
    ]
    drawing = overview.scatter(summary_rows(made).rows, prefix="x")
    assert drawing is not None
    assert "beats in both: unet_small, swin_unetr." in drawing.caption
    assert "Left out of the line: slim_unetr (output unqualified)." in drawing.caption


def test_what_compares_networks_with_each_other_is_of_eager_fp32_alone(text):
    page = Page(text)
    assert "Rows of eager fp32 alone." in page.visible
    drawn = next(part for part in text.split("<svg") if 'aria-label="Dice of every case' in part)
    assert "unet_small" in drawn
    assert "openvino" not in drawn.partition("</svg>")[0]
    assert page.visible.count("Where the compute and the parameters of") == 3  # not once for each runtime


def test_long_names_beside_an_axis_have_two_lines_and_keep_what_tells_them_apart():
    names = ["slim_unetr onnxruntime bf16", "slim_unetr_fixed onnxruntime bf16", "unetr eager fp32"]
    _, axes = style.row_axes(names, 0.3)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["slim_unetr\nonnxruntime bf16", "slim_unetr_fixed\nonnxruntime bf16", "unetr\neager fp32"]
    _, axes = style.row_axes(["slim_unetr eager", "x"], 0.3)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slim_unetr eager", "x"]


# Across tables


def test_what_one_condition_changes_is_a_curve_for_each_runtime():
    made = [
        dataclasses.replace(one, workload=dataclasses.replace(one.workload, threads=threads))
        for threads, speed in ((1, 1.0), (2, 1.8))
        for one in (
            examples.in_runtime("slim_unetr", speed=speed),
            examples.in_runtime("slim_unetr", "openvino", speed=2 * speed),
        )
    ]
    (family,) = scaling.families(group(made))
    assert [curve.label for curve in scaling.curves_of(family)] == ["slim_unetr eager", "slim_unetr openvino"]
    assert all(len(curve.points) == 2 for curve in scaling.curves_of(family))


def test_devices_are_joined_runtime_by_runtime():
    other = dataclasses.replace(examples.CPU, name="Another CPU")
    made = [examples.in_runtime("slim_unetr", runtime) for runtime in ("eager", "openvino")]
    made += [dataclasses.replace(one, device=other) for one in made]
    (found,) = devices.find(group(made))
    assert set(found.labels) == {"slim_unetr eager", "slim_unetr openvino"}
    assert all(len(side.times) == 2 for side in found.sides)


def test_mirrored_rows_stand_in_a_table_of_their_own_whatever_axes_each_network_has():
    made = [examples.in_runtime("unet_small"), examples.in_runtime("slim_unetr")]
    axes = {"unet_small": (0,), "slim_unetr": (0, 1)}
    mirrored = [
        dataclasses.replace(
            r, workload=dataclasses.replace(r.workload, test_time_mirroring=axes[r.model.name]), started_at="2026-01-01"
        )
        for r in made
    ]
    groups = conditions.group([*made, *mirrored])
    assert [[r.model.name for r in part.records] for part in groups] == [["unet_small", "slim_unetr"]] * 2
    assert "mirroring" not in groups[0].title
    assert groups[1].title.endswith(", test-time mirroring")
    told = dict(conditions.facts(groups[1]))["Test-time mirroring"]
    assert told == "mean over the mirror images along D or D,H; times are of all forwards"
    assert "Test-time mirroring" not in dict(conditions.facts(groups[0]))
    assert "--test-time-mirroring" in conditions.reproduce(groups[1])
    rows = list(csv.DictReader(io.StringIO(export([*made, *mirrored], "csv"))))
    assert [row["test_time_mirroring"] for row in rows] == ["", "", "D", "D,H"]
    assert "test_time_mirroring" not in csv.DictReader(io.StringIO(export(made, "csv"))).fieldnames
