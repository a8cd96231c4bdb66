"""Tables in every format; text that a spreadsheet would run is text in every CSV, and numbers are numbers."""

import csv
import io

import pytest

from benchbench import report
from benchbench.core.search_result import ordered, read_search
from benchbench.report import writers
from benchbench.report.search_card import search_table
from tests import report_examples as examples
from tests.report.test_pages import REFERENCE

EVIL = '=HYPERLINK("http://example.org","x")'


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("text", [EVIL, "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=", "-x", "+(1)"])
def test_text_that_begins_as_a_formula_gets_an_apostrophe(text):
    assert writers.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", [-1, -2.5, float("-inf"), 0, True, None, "a=b", "-", "-12.5", "+3 %", "-1e-09", "", "'x"]
)
def test_numbers_and_other_text_are_left_as_they_are(value):
    assert writers.csv_cell(value) is value


def test_columns_are_text_too_and_what_a_row_lacks_is_empty():
    assert writers.to_csv(["=a", "b"], [{"=a": -1, "c": 2}, {"b": "@x"}]) == "'=a,b\n-1,\n,'@x\n"


def test_tables_of_a_terminal_as_csv():
    assert writers.write([{"name": EVIL, "share": -3, "of": "-4 %", "none": "-"}], "csv").split("\n")[1] == (
        '"\'=HYPERLINK(""http://example.org"",""x"")",-3,-4 %,-'
    )
    assert EVIL in writers.write([{"name": EVIL}], "markdown")


def test_an_export_of_records():
    found = [examples.failed("slim_unetr", error="-1+cmd"), examples.finished("slim_unetr", model=examples.spec(EVIL))]
    rows = read(report.export(found, "csv"))
    assert {row["model"] for row in rows} == {"slim_unetr", f"'{EVIL}"}
    assert {row["error"] for row in rows} == {"'-1+cmd", ""}
    assert any(float(row["latency_s"] or 0) > 0 for row in rows)


def test_an_export_of_audits(tmp_path):
    examples.audited(tmp_path, "slim_unetr")
    found = examples.audited(tmp_path, "slim_unetr", model=examples.spec("slim_unetr"), status="error", error="@broken")
    rows = read(report.export([found], "csv", report.folder_reader([tmp_path])))
    assert rows[0]["error"] == "'@broken"


def test_the_table_of_a_search():
    search = read_search(REFERENCE / "search-hippocampus-parent")
    points = search["points"]
    points[0] |= {"name": EVIL, "dice_val": points[0]["dice_val"] | {"mean": -0.5}}
    row = read(search_table(search))[ordered(points).index(points[0])]
    assert (row["name"], row["dice_val"]) == (f"'{EVIL}", "-0.5")


# Text, Markdown and LaTeX


def test_columns_of_text_are_as_wide_as_their_widest_cell():
    assert writers.write([{"name": "a", "share": 1}, {"name": "long", "share": 22}], "table").split("\n") == [
        "name  share",
        "----  -----",
        "a     1",
        "long  22",
    ]


def test_markdown_aligns_columns_and_a_bar_in_a_cell_ends_none():
    assert writers.to_markdown(["a", "b"], [["x|y", "1"]], "lr").split("\n") == [
        "| a | b |",
        "| --- | ---: |",
        r"| x\|y | 1 |",
    ]


def test_latex_escapes_what_it_would_run_and_rules_shared_headings():
    text = writers.to_latex(["n", "a", "b"], [["x_1", "5%", "<"]], "lrr", [("both", 2)])
    assert text.split("\n") == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{both} \\",
        r"\cmidrule(lr){2-3}",
        r"n & a & b \\",
        r"\midrule",
        r"x\_1 & 5\% & $<$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("fmt", ["table", "markdown", "latex", "csv", "json"])
def test_a_table_without_rows_is_no_error(fmt):
    assert isinstance(writers.write([], fmt), str)
