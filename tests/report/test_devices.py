"""Several devices on one page: what is joined, and what each pace needs."""

from __future__ import annotations

import dataclasses
import re

import pytest

from benchbench.core import records as rec
from benchbench.report import conditions
from benchbench.report.figures import devices as figures_devices
from benchbench.report.page import render
from benchbench.report.tables import summary_rows
from tests import report_examples as examples

GPU = dataclasses.replace(examples.ORIN, name="rtx-4090", asked="rtx-4090", kind="gpu")


def rows() -> list[rec.Record]:
    names = ["slim_unetr", "unetr", "nnunet"]
    found = [examples.finished(name) for name in names]
    found += [examples.predicted(name) for name in names]
    return [*found, *(dataclasses.replace(examples.predicted(name), device=GPU) for name in names)]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.01, 0.03, "30/s"),
        (0.05, 0.09, "10/s"),
        (0.05, 0.5, "1/s, perhaps 10/s"),
        (0.01, 20.0, "perhaps 30/s"),
        (11.0, 12.0, "none"),
        (1 / 30, 1 / 30, "30/s"),
    ],
)
def test_what_is_kept_for_sure_and_what_perhaps(low: float, high: float, says: str) -> None:
    assert figures_devices.pace_text(low, high) == says


def test_devices_of_which_the_same_was_asked_are_joined() -> None:
    (found,) = figures_devices.find(conditions.group(rows()))
    assert [(side.name, side.predicted) for side in found.sides] == [
        ("Example CPU 9000", False),
        ("jetson-orin-nano-8gb-super", True),
        ("rtx-4090", True),
    ]
    assert found.labels == ("slim_unetr", "unetr", "nnunet")
    table = figures_devices.table(found, key="x")
    first = table.rows[0]
    assert first.cell("pace0").text == "1/s"  # 168 to 174 ms, measured
    assert first.cell("pace1").origin == "predicted"
    assert first.cell("pace1").text == "30/s"  # at least 2.4 ms, at most four times that
    assert first.cell("time1").text == "2.41 to 9.63 ms"  # and no single number, which would look like a promise
    assert [first.cell(f"pace{i}").detail for i in (0, 1)] == ["fits", "may fit"]
    assert [column.group for column in table.columns][::2] == [
        "",
        "Example CPU 9000",
        "jetson-orin-nano-8gb-super (forecast: data sheet only)",
        "rtx-4090 (forecast: data sheet only)",
    ]


def test_a_limit_is_met_only_by_the_whole_of_what_is_known() -> None:
    (found,) = figures_devices.find(conditions.group(rows()))
    table = figures_devices.table(found, key="x", max_latency_s=0.17)
    told = {row.label: [row.cell(f"pace{i}").text for i in (0, 1)] for row in table.rows}
    assert told == {"slim_unetr": ["perhaps", "yes"], "unetr": ["no", "no"], "nnunet": ["no", "no"]}
    assert [column.title for column in table.columns][:4] == ["Params", "Dice", "One batch", "At most 170 ms"]


def test_parameters_and_dice_stand_once_for_all_devices_and_only_where_they_are_known() -> None:
    (found,) = figures_devices.find(conditions.group(rows()))
    cells = {row.label: row.cells for row in figures_devices.table(found, key="x").rows}
    assert (cells["slim_unetr"]["params"].text, cells["slim_unetr"]["params"].origin) == ("1.78 M", "analytic")
    assert (cells["unetr"]["dice"].text, cells["unetr"]["dice"].detail) == ("0.760", "semi-synthetic")
    (bare,) = figures_devices.find(conditions.group([r for r in rows() if r.device != examples.CPU]))
    assert "Dice" not in [column.title for column in figures_devices.table(bare, key="x").columns]


def test_what_ran_out_of_memory_on_one_device_does_not_fit_there() -> None:
    records = [*rows(), examples.failed("swin_unetr", "oom"), examples.predicted("swin_unetr")]
    (found,) = figures_devices.find(conditions.group(records))
    (swin,) = (row for row in figures_devices.table(found, key="x").rows if row.label == "swin_unetr")
    assert (swin.cell("time0").text, swin.cell("pace0").detail) == ("-", "does not fit")
    assert swin.cell("pace1").detail == "does not fit"


def test_each_devices_own_table_is_folded_below_the_common_one() -> None:
    page = render(rows(), lambda artifact: b"")
    assert page.index('id="sides"') < page.index('id="results"')
    assert [re.search(r"<summary>\s*$", page[: page.index(f'<h3 id="results-{i}"')]) is not None for i in "ABC"] == [
        True
    ] * 3


def test_one_device_or_another_type_is_not_joined() -> None:
    records = [examples.finished("slim_unetr"), examples.predicted("slim_unetr")]
    assert figures_devices.find(conditions.group(records[:1])) == []
    half = dataclasses.replace(records[1], workload=dataclasses.replace(records[1].workload, dtype="fp16"))
    assert figures_devices.find(conditions.group([records[0], half])) == []


def test_a_network_with_other_outputs_stands_in_the_line_of_its_device() -> None:
    records = [*rows(), *(other_outputs(one) for one in rows()[:2])]
    (found,) = figures_devices.find(conditions.group(records))
    (plain,) = figures_devices.find(conditions.group(rows()))
    assert [side.name for side in found.sides] == [side.name for side in plain.sides]


def test_another_commit_on_the_same_device_takes_the_place_of_the_first() -> None:
    later = [
        dataclasses.replace(
            one, environment={**one.environment, "commit": "f" * 40}, started_at="2099-01-01T00:00:00+00:00"
        )
        for one in rows()[:2]
    ]
    (found,) = figures_devices.find(conditions.group([*rows(), *later]))
    (plain,) = figures_devices.find(conditions.group(rows()))
    assert found.labels == plain.labels
    assert [set(side.times) for side in found.sides] == [set(side.times) for side in plain.sides]


def other_outputs(record: rec.Record) -> rec.Record:
    return dataclasses.replace(record, model=dataclasses.replace(record.model, name="other", out_channels=2))


def test_the_page_has_them_hatched_where_nothing_ran() -> None:
    page = render(rows(), lambda artifact: b"")
    assert "Devices side by side" in page
    assert "Networks on each device" in page
    assert "1/s" in page
    (found,) = figures_devices.find(conditions.group(rows()))
    measured_only = dataclasses.replace(
        found, sides=tuple(dataclasses.replace(side, predicted=False) for side in found.sides)
    )
    drawn, plain = (figures_devices.figure(one, prefix="x") for one in (found, measured_only))
    assert drawn
    assert plain
    assert "pattern" in drawn.svg  # of hatches
    assert "pattern" not in plain.svg


def test_forecasts_are_ranked_only_where_they_are_asked_to_be() -> None:
    records = [examples.predicted(name) for name in ("slim_unetr", "unetr")]
    plain, asked = summary_rows(records), summary_rows(records, include_predicted=True)
    assert [row.cells["rank"].text for row in plain.rows] == ["-", "-"]
    assert [row.cells["rank"].text for row in asked.rows] == ["1", "2"]
    assert [row.cells["rank"].origin for row in asked.rows] == ["predicted", "predicted"]
