"""A page of very many networks stays small, and says what it does not show and where that is."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path

import pytest

from benchbench.core import records as rec
from benchbench.core.errors import StoreError
from benchbench.report import shown_rows, write_report
from benchbench.report.figures import style
from benchbench.report.tables import summary_rows
from tests import report_examples as examples
from tests.report.test_page import Page

N = 180


def networks(n: int = N) -> list[rec.Record]:
    """The slower the more accurate, but `middle_*`, which are neither; the last three ran out of memory."""
    records = []
    for i in range(n):
        name = f"{'middle' if i % 3 else 'net'}_{i}"
        dice = examples.number("dice", 0.6 + 0.001 * i - (0.05 if i % 3 else 0.0))
        found = (*examples.counted("unetr"), examples.number("latency_s", 1 + 0.01 * i), dice)
        records.append(examples.record(name, measurements=found))
    return [
        *records,
        *(dataclasses.replace(examples.failed("unet3d"), model=examples.spec(f"big_{i}")) for i in range(3)),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = examples.write(tmp_path_factory.mktemp("many"), networks())
    return write_report([folder], named=["middle_100", "middle_10?"])


def test_a_page_of_very_many_rows_shows_the_front_the_named_the_fastest_and_the_most_accurate(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = [line.split("<")[0] for line in text.split('<th scope="row">')[1:] if "data-main" not in line]
    assert page.stat().st_size < 1_000_000
    assert {"net_0", "net_177", "middle_100", "middle_103"} <= set(names)
    shown = text.count("<tr data-sort=", text.index("data-main"), text.index("</table>", text.index("data-main")))
    assert shown == shown_rows.MOST < N
    said = Page(text).visible
    assert f"Of {N + 3} rows {shown} are in the table" in said
    assert f"{N - shown} more that finished" in said
    assert "3 of 183 did not finish" in said
    assert '<a href="report-rows.csv">' in text
    assert f"Small dots: {N - shown} rows that the table does not have." in said


def test_a_front_of_more_rows_than_a_page_shows_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_rows, "MOST", 12)
    records = networks(90)[:90]
    records = [r for r in records if r.model.name.startswith("net_")]  # 30, all on the front
    rows = summary_rows(records).rows
    found = shown_rows.shown(rows, "latency_s", of=len(rows), first=frozenset(), named=["net_3"], file="x.csv")
    names = [row.record.model.name for row in found.of(rows)]
    assert len(names) == 12
    assert {"net_0", "net_3", "net_87"} <= set(names)
    gaps = [int(b.removeprefix("net_")) - int(a.removeprefix("net_")) for a, b in itertools.pairwise(names)]
    assert max(gaps) <= 12
    assert found.left_out == 18


def test_the_file_beside_it_has_every_row_and_what_is_known_of_it(page: Path) -> None:
    with open(page.with_name("report-rows.csv"), encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert len(rows) == N + 3
    assert rows["middle_1"]["latency_s"] == "1.01"
    assert rows["big_0"]["status"] == "oom"


def test_a_file_of_somebody_else_beside_the_page_is_not_replaced(tmp_path: Path) -> None:
    folder = examples.write(tmp_path / "r", networks())
    foreign = tmp_path / "r" / "report-rows.csv"
    foreign.write_text("mine\n1\n", encoding="utf-8")
    with pytest.raises(StoreError, match=r"report-rows\.csv is there already"):
        write_report([folder])
    assert foreign.read_text(encoding="utf-8") == "mine\n1\n"
    assert not (tmp_path / "r" / "report.html").exists()


def test_a_page_of_fewer_rows_shows_them_all_and_has_no_file_beside_it(tmp_path: Path) -> None:
    folder = examples.write(tmp_path, networks(20))
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "are in the table" not in Page(text).visible
    assert not (tmp_path / "report-rows.csv").exists()


def test_each_set_of_conditions_shows_its_share_and_at_least_some_rows() -> None:
    rows = summary_rows(networks(40)).rows
    few = shown_rows.shown(rows, "latency_s", of=100_000, first=set(), named=(), file="x.csv")
    assert few.left_out + few.failures_left_out + len(few.ids) == len(rows)
    assert few.ids >= {rows[0].record.id, rows[-1].record.id}  # the fastest is on the front; and what failed
    everything = shown_rows.shown(rows, "latency_s", of=len(rows), first=set(), named=(), file="x.csv")
    assert (len(everything.ids), everything.left_out) == (len(rows), 0)


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.122, 0.252), [0.15, 0.2, 0.25]),
        ((1.05, 2.06), [1.25, 1.5, 1.75, 2.0]),
        ((8.1, 9.9), [8.5, 9.0, 9.5]),
        ((1.0, 1000.0), [1.0, 10.0, 100.0, 1000.0]),
        ((1e-3, 1e5), [1e-3, 1e-1, 1e1, 1e3, 1e5]),
    ],
)
def test_a_logarithmic_axis_has_three_ticks_that_do_not_touch(ends: tuple[float, float], ticks: list[float]) -> None:
    assert style.log_ticks(*ends) == ticks
