"""Ranks, and ratios against the first network, of rows that were measured in the same rounds, and of others."""

import csv
import io
import statistics

from benchbench.report import PaperOptions, export, paper_text, summary_rows
from tests import report_examples as examples
from tests.report.test_reliability import page_of


def rows_of(*records):
    return summary_rows(records).rows


def in_rounds(name, factors, *more, first=0, drift=(1.0, 1.3, 1.1, 0.9, 1.2)):
    """A row of a run with a process in each round; the machine drifts, and the factor is its own."""
    seconds = [d * f for d, f in zip(drift, factors, strict=True)]
    m = examples.number("latency_s", statistics.median(seconds), values=tuple(seconds), runs=(1,) * len(seconds))
    at = tuple(f"2026-01-01T00:{first + i:02}:00.000+00:00" for i in range(len(seconds)))
    return examples.record(name, measurements=(m, *more), workload=examples.STANDARD, rounds=at)


SURE = (1.10, 1.11, 1.10, 1.11, 1.10)
UNSURE = (1.30, 0.95, 1.10, 1.32, 0.99)  # its median is a tenth above, and not surely so


def test_rows_of_one_run_are_ranked_by_their_ratios_within_rounds():
    records = [in_rounds("slim_unetr", [1.0] * 5), in_rounds("b", SURE), in_rounds("c", UNSURE)]
    assert [r.cells["rank"].text for r in rows_of(*records)] == ["1=", "2", "1="]
    assert [r.cells["ratio"].text for r in rows_of(*records)] == ["1 x", "1.10 x", "1.12 x"]
    sure, unsure = (r.cells["ratio"] for r in rows_of(*records)[1:])
    assert sure.detail == "95 % CI 1.10 to 1.11"
    assert "of 5 rounds that hold both" in sure.note
    assert unsure.detail.startswith("95 % CI 0.9")
    text = "where the 95 % interval of the ratio within rounds excludes 1 and the ratio is beyond 2 %"
    page = page_of(*records)
    assert text in page.visible
    assert "share a rank" not in page.visible.partition("Noise floor")[2].partition("MACs are")[0]


def test_a_loud_run_ties_what_a_quiet_one_tells_apart():
    loud = examples.against_itself(1.15)
    assert [r.cells["rank"].text for r in rows_of(in_rounds("a", [1.0] * 5, loud), in_rounds("b", SURE))] == [
        "1=",
        "1=",
    ]
    quiet = examples.against_itself(1.01)
    rows = rows_of(in_rounds("a", [1.0] * 5, quiet), in_rounds("b", SURE))
    assert [r.cells["rank"].text for r in rows] == ["1", "2"]
    assert "within rounds lies beyond it and the ratio is beyond 2 %" in page_of(*[r.record for r in rows]).visible


def test_rows_of_two_runs_keep_the_test_of_their_medians_and_the_page_says_so():
    first = [in_rounds("a", [1.0] * 5), in_rounds("b", UNSURE)]
    second = in_rounds("c", UNSURE, first=30)
    assert [r.cells["rank"].text for r in rows_of(*first, second)] == ["1=", "1=", "2"]
    assert rows_of(first[0], second)[1].cells["rank"].text == "2"
    visible = page_of(*first, second).visible
    assert "and the ratio is beyond 2 %; rows without rounds in common differ beyond 2 %" in visible
    assert "not measured; rows within 2 % share a rank" in page_of(first[0], second).visible
    rows = list(csv.DictReader(io.StringIO(export([*first, second], "csv"))))
    assert [row["rank_by"] for row in rows] == ["ratios within rounds", "ratios within rounds", "medians"]


def test_the_best_of_a_paper_table_are_those_that_tie_within_rounds():
    records = [in_rounds("a", [1.0] * 5), in_rounds("b", SURE), in_rounds("c", UNSURE)]
    text = paper_text(records, "latex", PaperOptions(columns=("model", "latency")))
    bold = [line.split("&")[0].strip() for line in text.splitlines() if "bfseries" in line and "&" in line]
    assert bold == ["a", "c"]
