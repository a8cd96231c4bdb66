"""The report says how far its numbers can be trusted: samples, noise floor, ranks, memory, roof, scaling."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from benchbench.cli.results_table import results_table
from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core.errors import StoreError
from benchbench.report import conditions, export, reliability, render, summary_rows, write_report
from benchbench.report.figures import curves, roofline, scaling, volumes
from benchbench.report.figures import memory as figures_memory
from benchbench.report.figures import samples as figures_samples
from tests import report_examples as examples
from tests.report.test_page import Page

NAN = float("nan")


def nothing(artifact: rec.Artifact) -> bytes:
    raise StoreError(f"{artifact.path} is not here")


def page_of(*records: rec.Record) -> Page:
    return Page(render(records, nothing))


def with_latency(name: str, value: float | None, *more: rec.Measurement, **of_latency: object) -> rec.Record:
    latency = examples.number("latency_s", value, **of_latency)
    return examples.record(name, measurements=(latency, *more), workload=examples.STANDARD)


def rows_of(*records: rec.Record):
    return summary_rows(records).rows


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return examples.whole_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def zoo_page(zoo: Path) -> str:
    return write_report([zoo]).read_text(encoding="utf-8")


# The whole page


def test_a_zoo_of_twenty_two_networks_stays_below_one_megabyte_with_all_its_figures(zoo_page):
    assert len(zoo_page.encode()) < 1_000_000
    titles = re.findall(r"<figure[^>]*>\s*<h3>(.*?)</h3>", zoo_page)
    assert titles == [
        "Size and compute",
        "Latency",
        "Peak memory, by what holds it",
        "Roofline: compute against memory",
        "How the latencies scatter",
        "Warm-up",
    ]
    assert "eft out to keep" not in zoo_page
    assert not re.search(r"#0102[01][0-9a-f]", zoo_page)


def test_the_new_figures_give_the_same_bytes_again(zoo, zoo_page):
    assert render(list(core_results.read_records(zoo)), _reader(zoo)) == zoo_page


def _reader(folder: Path):
    return lambda artifact: (folder / artifact.path).read_bytes()


def test_records_of_many_conditions_leave_detail_out_before_the_page_grows_too_large(tmp_path):
    """Hundreds of rows: sections of single networks and figures give way, the tables stay, and the page says so."""
    records = []
    for batch in (1, 2, 3, 4, 5, 6):
        for name in examples.ZOO:
            kept = (examples.artifact(tmp_path, "layers", f"{name}.json", examples.zoo_layers(name)),)
            records.append(examples.trusted(name, batch=batch, artifacts=kept))
    path = write_report([examples.write(tmp_path, records)])
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert "eft out to keep this page below 1 MB" in text
    assert len(Page(text).all("tr")) > len(records)


def test_every_id_of_the_page_is_there_once(tmp_path):
    folders = [examples.sweep(tmp_path / "a"), examples.patients(tmp_path / "b")]
    page = Page(write_report(folders).read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


# Noise floor, ranks, disturbance


def test_the_noise_floor_is_stated_with_its_network_and_sets_the_ties():
    quiet = [with_latency("a", 1.0, examples.against_itself(1.012)), with_latency("b", 1.015), with_latency("c", 1.04)]
    loud = [with_latency("a", 1.0, examples.against_itself(0.95)), *quiet[1:]]
    unknown = [with_latency("a", 1.0), *quiet[1:]]
    assert [r.cells["rank"].text for r in rows_of(*quiet)] == ["1=", "1=", "3"]
    assert [r.cells["rank"].text for r in rows_of(*loud)] == ["1=", "1=", "1="]
    assert [r.cells["rank"].text for r in rows_of(*unknown)] == ["1=", "1=", "3"]
    assert "1.2 % (a against itself, 95 % CI of the ratio 1.002 to 1.022); rows within 2 %" in page_of(*quiet).visible
    assert "5 % (a against itself" in page_of(*loud).visible
    assert "rows within 5 % share a rank" in page_of(*loud).visible
    assert "not measured; rows within 2 % share a rank" in page_of(*unknown).visible


def test_the_largest_of_several_noise_ratios_counts_and_nonsense_does_not():
    ratios = [1.001, 0.97, NAN, 0.0, -1.0]
    records = [with_latency(f"n{i}", 1.0, examples.number("noise_ratio", r)) for i, r in enumerate(ratios)]
    (floor,) = reliability.noise_floors(records).values()
    assert (round(floor.share, 6), floor.label) == (0.03, "n1")
    assert reliability.noise_floors(records[2:]) == {}


def test_a_table_of_another_batch_takes_the_floor_of_its_run_and_says_where_it_was_measured(tmp_path):
    groups = conditions.group(list(core_results.read_records(examples.sweep(tmp_path))))
    floors = {(g.first.workload.batch, g.first.workload.threads): reliability.floors_of(g, groups) for g in groups}
    eager = ("eager", "fp32")
    own, other = floors[(1, 2)][eager], floors[(4, 2)][eager]
    assert (own.letter, other.letter, other.share) == ("", "A", own.share)
    assert floors[(1, 1)] == {}  # other threads are another machine to the noise
    assert set(floors[(1, 2)]) == {eager}  # and so is another precision
    four = next(g for g in groups if g.first.workload.batch == 4)
    assert ", measured in A, 95 % CI" in reliability.floors_text(four.records, floors[(4, 2)])


def test_only_measured_times_of_finished_rows_have_a_rank():
    failed = with_latency("failed", 0.5)
    records = [
        dataclasses.replace(failed, status="failed", error="its output is off"),
        with_latency("a", 1.0),
        with_latency("b", 2.0),
        with_latency("nan", NAN),
        with_latency("forecast", 0.1, origin="predicted"),
        dataclasses.replace(with_latency("shaky", 3.0), status="unstable", error="did not settle"),
    ]
    ranks = {r.label: r.cells["rank"] for r in rows_of(*records)}
    assert {k: c.text for k, c in ranks.items()} == {
        "failed": "-", "a": "1", "b": "2", "nan": "-", "forecast": "-", "shaky": "3",
    }  # fmt: skip
    assert ranks["shaky"].qualifier == "unstable"
    assert "rank" not in [c.key for c in summary_rows(records[:2]).columns]


def test_disturbed_processes_stand_at_the_row_and_in_the_conditions(zoo_page):
    assert "2 of 5 processes disturbed" in zoo_page
    assert "in 1 of 22 rows something else took processor time: unetr (2)" in Page(zoo_page).visible
    told = [with_latency("a", 1.0, examples.number("contended_processes", 0))]
    assert reliability.disturbed_text(told, {told[0].id: "a"}) == "none"
    assert reliability.disturbed_text([with_latency("a", 1.0)], {}) is None


def test_the_largest_size_that_fits_stands_at_the_row_that_ran_out_of_memory(zoo, zoo_page):
    assert "largest patch that fits: 884736 voxels (96x96x96, by bisection" in Page(zoo_page).visible
    assert "largest batch that fits: not known, not even one patch fits" in Page(zoo_page).visible
    assert "huge_net: largest patch that fits: 884736 voxels" in results_table(list(core_results.read_records(zoo)))


def test_the_terminal_shows_ranks_and_the_noise_floor(zoo):
    text = results_table(list(core_results.read_records(zoo)))
    first = next(line for line in text.splitlines() if line.startswith("slim_unetr "))
    assert re.search(r"213 ms\s+1=", first)  # the letter stands in the head
    assert "Latency [M]" in text
    assert max(map(len, text.split("noise floor")[0].splitlines()[1:])) <= 100
    assert "noise floor: 1.2 % (slim_unetr against itself" in text
    assert "disturbed: in 1 of 22 rows" in text
    assert "noise floor" not in results_table([examples.predicted("unetr")])


# Distributions


def test_each_process_has_a_lane_and_the_interval_is_that_of_the_record(zoo):
    rows = rows_of(*core_results.read_records(zoo))
    found = {s.label: s for s in figures_samples.time_rows(rows, "latency_s")}
    slim = found["slim_unetr"]
    assert (slim.n, len(slim.marks), len(slim.lanes), slim.sure) == (50, 5, 5, True)
    latency = rows[0].record.get("latency_s")
    assert slim.interval == pytest.approx(tuple(100 * (end / latency.value - 1) for end in latency.ci95))
    drawn = figures_samples.times(rows, "latency_s", prefix="d")
    assert drawn is not None
    assert "n = 50 / 5" in drawn.svg
    assert "Each process has a lane of its own" in drawn.caption


def test_many_samples_are_thinned_by_rank_with_the_extremes_kept_and_it_is_said():
    runs = [[1.0 + i / 1000 for i in range(300)] for _ in range(2)]
    lanes = figures_samples.thinned(runs, most=20)
    assert [len(lane) for lane in lanes] == [10, 10]
    assert (lanes[0][0], lanes[0][-1]) == (1.0, 1.299)
    values = tuple(v for run in runs for v in run)
    record = with_latency("a", 1.15, values=values, runs=(300, 300))
    drawn = figures_samples.times(rows_of(record), "latency_s", prefix="d")
    assert drawn is not None
    assert "Of 600 samples 60 are drawn" in drawn.caption
    assert len(drawn.svg) < 10_000


def test_a_sample_far_beyond_the_others_is_an_arrow_and_not_a_longer_axis():
    values = (*(1 + 0.001 * (i % 7) for i in range(99)), 60.0)
    drawn = figures_samples.times(rows_of(with_latency("a", 1.0, values=values)), "latency_s", prefix="d")
    assert drawn is not None
    assert "Arrows: 1 sample beyond the axis." in drawn.caption


@pytest.mark.parametrize(
    ("value", "of_latency"),
    [
        (1.0, {"values": (1.0,)}),
        (1.0, {}),
        (0.0, {"values": (0.0, 0.0, 0.0)}),
        (NAN, {"values": (NAN, NAN)}),
        (None, {"reason": "it crashed"}),
    ],
    ids=["one sample", "no samples", "zero median", "not a number", "no value"],
)
def test_a_row_without_a_distribution_is_left_out_and_the_page_is_whole(value, of_latency):
    record = with_latency("a", value, examples.number("warmup_s", 0.0), **of_latency)
    assert figures_samples.times(rows_of(record), "latency_s", prefix="d") is None
    assert curves.warmup(rows_of(record), "latency_s", prefix="w") is None
    words = [w for w in page_of(record).visible.split() if w.lower() in ("nan", "inf", "none", "undefined")]
    assert words == []


def test_run_lengths_that_do_not_add_up_are_not_believed():
    m = examples.number("latency_s", 1.0, values=(1.0, 1.1, NAN, 0.9), runs=(2, 5))
    assert reliability.split(m) == [[1.0, 1.1, 0.9]]
    assert reliability.split(dataclasses.replace(m, runs=(2, 2))) == [[1.0, 1.1], [0.9]]
    assert reliability.split(dataclasses.replace(m, runs=(3, 0, 1))) == [[1.0, 1.1], [0.9]]
    assert reliability.split(dataclasses.replace(m, values=(), runs=())) == []


def test_fewer_than_five_processes_show_the_span_of_their_medians_in_the_table_and_a_dashed_range():
    record = with_latency("a", 1.1, values=(1.0, 1.0, 1.1, 1.1, 1.2, 1.2), runs=(2, 2, 2))
    (row,) = rows_of(record)
    assert row.cells["latency_s"].detail == "medians 1 to 1.20 s, 3 processes"
    drawn = figures_samples.times([row], "latency_s", prefix="d")
    assert drawn is not None
    assert "Dashed: the range of values that are too few for such an interval." in drawn.caption


# Warm-up


def test_a_warm_up_is_drawn_against_the_later_median_and_one_that_ends_slow_is_named():
    forwards = (2.5, 1.5, 1.2, 2.4, 1.4, 1.3)
    slow = with_latency("cold", 1.0, examples.number("warmup_s", 5.0, values=forwards, runs=(3, 3)))
    fast = with_latency("warm", 1.0, examples.number("warmup_s", 3.0, values=(1.9, 1.0, 1.0)))
    once = with_latency("huge", 1.0, examples.number("warmup_s", 1.3, values=(1.3,)))
    drawn = curves.warmup(rows_of(slow, fast, once), "latency_s", prefix="w")
    assert drawn is not None
    assert "Still more than 10 % slower at the end of warm-up: cold (1.25 x)." in drawn.caption
    assert "1 more had a single warm-up forward, since each takes long: 1.30 x." in drawn.caption
    assert "first 2.45 x, n = 3" in drawn.svg
    assert ">huge<" not in drawn.svg
    (row,) = rows_of(fast)
    measured = page_of(fast).visible
    assert row.record.get("warmup_s")
    assert "3 forwards" in measured  # a range would be of single forwards, and the value is their sum


# Memory


def test_the_split_peak_replaces_the_plain_bars_and_states_the_forecasts_error(zoo):
    rows = rows_of(*core_results.read_records(zoo))
    drawn = figures_memory.split_bars(rows, prefix="m")
    assert drawn is not None
    assert re.search(r"22 rows: median [\d.]+, from [\d.]+ \(vit3d\) to [\d.]+ \(swin_unetr\)\.", drawn.caption)
    assert "The forecast sees the peak at convolution (22 rows)." in drawn.caption
    assert "framework 233 MB, weights 7.13 MB" in drawn.svg
    assert "hatch" not in drawn.caption.lower()


def test_a_forecast_memory_is_hatched_and_a_peak_in_one_piece_is_grey():
    split = examples.trusted("slim_unetr")
    whole = with_latency("whole", 1.0, examples.number("peak_memory_bytes", 9e8))
    only = with_latency("only", 1.0, examples.number("tensor_memory_bytes", 5e8, "analytic", bound="at_least"))
    drawn = figures_memory.split_bars(rows_of(split, whole, only), prefix="m")
    assert drawn is not None
    assert "Hatched: not measured" in drawn.caption
    assert "Grey: measured only as a whole." in drawn.caption
    assert drawn.svg.count("<pattern") == 1
    assert figures_memory.split_bars(rows_of(whole, only), prefix="m") is None


def test_the_peak_of_a_gpu_adds_up_with_what_its_allocator_kept():
    parts = [("weights", 1e8), ("input", 2e7), ("output", 1e7), ("activation", 4e8)]
    found = [examples.number(f"{name}_memory_bytes", value) for name, value in parts]
    found += [examples.number("allocated_memory_bytes", 5.3e8), examples.number("peak_memory_bytes", 8e8)]
    drawn = figures_memory.split_bars(rows_of(with_latency("net", 1.0, *found)), prefix="m")
    assert drawn is not None
    assert "reserved, not used 270 MB" in drawn.svg
    assert drawn.caption.startswith("The peak of what the GPU's allocator took")


def test_the_forecast_of_a_failed_or_odd_row_does_not_count():
    base, tensors = examples.number("base_memory_bytes", 2e8), examples.number("tensor_memory_bytes", 3e8, "analytic")
    good = with_latency("good", 1.0, base, tensors, examples.number("peak_memory_bytes", 1e9))
    odd = with_latency("odd", 1.0, base, tensors, examples.number("peak_memory_bytes", NAN))
    none = with_latency("none", 1.0, examples.number("peak_memory_bytes", 1e9))
    failed = dataclasses.replace(good, status="failed", error="x", model=examples.spec("failed"))
    records = [good, odd, none, failed]
    labels = {r.id: r.model.name for r in records}
    text = reliability.forecast_text(records, labels)
    assert text == "Measured peak over forecast (base and tensors): 2, of one row."
    assert reliability.forecast_text(records[1:], labels) is None


@pytest.mark.parametrize(
    ("method", "operator"),
    [
        ("peak of live tensors on fake tensors, at convolution in encoder.block1", "convolution"),
        ("peak of live tensors on fake tensors", None),
        ("", None),
    ],
)
def test_the_operator_at_the_peak_is_read_from_the_method(method, operator):
    assert figures_memory.operator_at_peak(method) == operator


# Roofline


def test_the_roof_explains_why_fewer_macs_are_not_the_same_factor_in_time():
    def net(name: str, macs: float, seconds: float, moved: float | None) -> rec.Record:
        found = [examples.number("macs", macs, "analytic"), examples.number("peak_macs_per_s", 100e9)]
        found += [examples.number("memory_bandwidth_bytes_per_s", 10e9)]
        found += [] if moved is None else [examples.number("moved_bytes", moved, "analytic")]
        return with_latency(name, seconds, *found)

    rows = rows_of(net("slim_unetr", 2e9, 0.2, 1e9), net("swin_unetr", 600e9, 20.0, 10e9), net("x", 1e9, 1.0, None))
    said = roofline.explanation(rows)
    assert said.startswith(
        "swin_unetr does 300 x the MACs of slim_unetr in 100 x the time: it runs at 30 GMAC/s, slim_unetr at 10 GMAC/s."
    )
    assert "At 2 MACs for each byte moved, memory would allow slim_unetr 20 GMAC/s; it reaches 50 % of that." in said
    assert "At 60 MACs for each byte moved, the cores would allow swin_unetr 100 GMAC/s; it reaches 30 %" in said
    drawn, table = roofline.figure(rows, prefix="r"), roofline.table(rows, key="roof")
    assert drawn is not None and table is not None  # noqa: PT018
    assert "They meet at 10 MACs a byte; 1 of 2 networks lie left of that" in drawn.caption
    assert "1 more without a count of their bytes." in drawn.caption
    assert [(line.cell("share").text, line.cell("limit").text) for line in table.rows] == [
        ("50 %", "memory"),
        ("30 %", "cores"),
    ]


def test_without_a_roof_or_bytes_there_is_no_figure_but_the_rates_are_still_said():
    rows = rows_of(examples.finished("slim_unetr"), examples.finished("swin_unetr"))
    assert roofline.figure(rows, prefix="r") is None
    assert roofline.table(rows, key="roof") is None
    assert re.match(r"swin_unetr does 307 x the MACs of slim_unetr in 159 x the time", roofline.explanation(rows))
    assert roofline.explanation(rows[:1]) == ""
    assert roofline.explanation(rows_of(with_latency("a", NAN), with_latency("b", 0.0))) == ""


# Scaling


def test_conditions_that_differ_in_one_thing_alone_are_joined(tmp_path):
    groups = conditions.group(list(core_results.read_records(examples.sweep(tmp_path))))
    found = {family.what: family for family in scaling.families(groups)}
    assert {what: family.letters for what, family in found.items()} == {
        "batch": "A, B, C and D",
        "threads": "E and A",
    }
    batch, threads = scaling.figures(groups, prefix="x")
    assert batch.title == "Throughput against batch: Example CPU 9000, 2 threads"
    assert "Crosses: swin_unetr fp32 at 4 (out of memory), swin_unetr fp32 at 8 (out of memory)." in batch.caption
    assert "380 ms → 213 ms" in threads.svg


def test_conditions_that_differ_in_two_things_are_not_joined():
    one = examples.trusted("slim_unetr")
    work = dataclasses.replace(examples.STANDARD, batch=2, threads=1)
    other = examples.trusted("slim_unetr", batch=2, workload=work)
    assert scaling.families(conditions.group([one, other])) == []
    same_but_machine = examples.trusted("slim_unetr", batch=2, environment=examples.ENVIRONMENT | {"cpu": "another"})
    assert scaling.families(conditions.group([one, same_but_machine])) == []
    assert scaling.families(conditions.group([one])) == []


def test_threads_in_the_environment_do_not_part_what_differs_in_threads_alone():
    records = [
        examples.trusted(
            "slim_unetr",
            environment=examples.ENVIRONMENT | {"threads": n, "affinity": list(range(n))},
            workload=dataclasses.replace(examples.STANDARD, threads=n),
        )
        for n in (1, 2)
    ]
    assert [f.what for f in scaling.families(conditions.group(records))] == ["threads"]


# Whole volumes and training


def test_a_whole_volume_has_a_table_and_a_figure_of_where_the_time_goes(tmp_path):
    folder = examples.patients(tmp_path)
    text = write_report([folder]).read_text(encoding="utf-8")
    page = Page(text).visible
    assert "One patient of 240x240x155 voxels" in page
    assert "By sliding windows of 128x128x128, overlap 0.5." in page
    assert "240x240x155 voxels, by windows of 128x128x128, overlap 0.5, over all of it" in page
    group = conditions.group(list(core_results.read_records(folder)))[0]
    table = volumes.table(summary_rows(group.records).rows, group, {}, key="v")
    assert table is not None
    assert [line.cell("rank").text for line in table.rows] == ["1=", "1=", "3", "4"]
    assert table.rows[0].cell("volume_outside_share").text == "34.7 %"
    assert "volume_cropped_share" not in [c.key for c in table.columns]  # nobody cropped
    assert "in the network" in text
    assert "--volume 240 240 155 --overlap 0.5" in page


def test_a_training_is_ranked_by_its_step_and_has_no_column_of_dice(tmp_path):
    group = conditions.group(list(core_results.read_records(examples.patients(tmp_path))))[1]
    table = summary_rows(group.records)
    keys = [c.key for c in table.columns]
    assert keys[2:] == ["train_step_s", "rank", "ratio", "throughput_patches_per_s", "memory_bytes", "status"]
    unetr = next(r for r in table.rows if r.label == "unetr")
    assert unetr.cells["memory_bytes"].text == "6.44 GB"
    assert unetr.cells["ratio"].text == "22.1 x"
    assert unetr.cells["throughput_patches_per_s"].value == pytest.approx(1 / unetr.record.value("train_step_s"))
    assert group.title.endswith(", training")
    assert conditions.reproduce(group).endswith("--phase train")
    page = page_of(*group.records)
    assert "How the training steps scatter" in page.visible
    assert [a["data-key"] for a in page.all("button")][1] == "train_step_s"
    assert [a.get("aria-sort") for a in page.all("th") if "aria-sort" in a] == ["ascending"]


# Export


def test_csv_holds_the_new_columns_only_where_a_record_has_them(tmp_path):
    records = list(core_results.read_records(examples.patients(tmp_path)))
    rows = list(csv.DictReader(io.StringIO(export(records, "csv"))))
    assert (rows[0]["volume"], rows[0]["overlap"], rows[0]["rank"]) == ("240x240x155", "0.5", "1=")
    assert (rows[0]["latency_s_samples"], rows[0]["latency_s_processes"]) == ("50", "5")
    assert (rows[-1]["phase"], rows[-1]["train_step_s_origin"], rows[-1]["rank"]) == ("train", "measured", "3")
    assert float(rows[0]["rank_tolerance"]) == 0.02
    assert not {"memory_limit_bytes", "crop_foreground", "noise_floor"} & set(rows[0])
    plain = export([examples.record("x")], "csv").splitlines()[0].split(",")
    assert not {"volume", "overlap", "rank", "noise_floor"} & set(plain)


def test_json_holds_samples_with_their_processes_and_the_noise_floor(zoo):
    data = json.loads(export(list(core_results.read_records(zoo)), "json"))
    assert data[0]["noise_floor"] == pytest.approx(0.012)
    assert data[0]["values"]["latency_s"]["runs"] == [10] * 5
    assert len(data[0]["values"]["latency_s"]["samples"]) == 50
    assert data[0]["values"]["activation_memory_bytes"]["origin"] == "measured"


def test_markdown_and_latex_show_ranks_without_letters_the_floor_and_whole_volumes(tmp_path, zoo):
    records = list(core_results.read_records(zoo))
    markdown, latex = export(records, "markdown"), export(records, "latex")
    assert re.search(r"213 ms \[M\] \| 1= \| 1 x \[M\]", markdown)
    assert "| 19 (unstable) |" in markdown
    assert r"Noise floor: 1.2 % (slim\_unetr against itself" in markdown
    assert "213 ms [M] & 1= & 1 x [M]" in latex
    patients = list(core_results.read_records(examples.patients(tmp_path)))
    assert "One patient of 240x240x155 voxels" in export(patients, "markdown")
    assert "Training step" in export(patients, "latex")


@pytest.mark.parametrize("make", [examples.whole_zoo, examples.patients, examples.whole_audit])
def test_latex_is_ruled_by_booktabs_with_as_many_cells_as_columns(make, tmp_path):
    folder = make(tmp_path)
    latex = export(list(core_results.read_records(folder)), "latex", _reader(folder))
    assert latex.startswith("% needs \\usepackage{booktabs}\n")
    assert r"\hline" not in latex
    tables = re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", latex, flags=re.DOTALL)
    assert tables
    for columns, body in tables:
        n = len(re.findall(r"[lr]|p\{[^}]*", columns.replace("p{6cm", "p")))
        lines = body.strip().split("\n")
        assert lines[0] == r"\toprule"
        assert lines[-1] == r"\bottomrule"
        assert lines.count(r"\midrule") == 1
        cells = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in cells} == {n + columns.count("p{6cm")}


# Records as they were


def test_records_of_the_first_schema_still_give_their_page():
    old = [
        dataclasses.replace(examples.finished(name), schema=1)
        for name in ("slim_unetr", "unetr", "nnunet", "swin_unetr")
    ]
    page = page_of(*old)
    assert "not measured; rows within 2 % share a rank" in page.visible
    assert "How the latencies scatter" in page.visible
    assert "Peak memory, by what holds it" not in page.visible
    assert "Disturbed" not in page.visible
