"""`bench report`: a page, or a table for a paper, from records alone."""

import csv
import io
import os
from pathlib import Path

import pytest

from tests import report_examples as examples
from tests.cli.said import bench

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


@pytest.fixture
def folder(tmp_path):
    return examples.whole_zoo(tmp_path / "zoo")


def test_latex_is_a_table_for_a_paper_with_the_titles_of_the_zoo(folder, capsys):
    code, out, _ = bench(capsys, "report", folder, "--format", "latex")
    assert code == 0
    assert r"\usepackage{booktabs,siunitx}" in out
    assert "Slim UNETR" in out
    assert r"slim\_unetr &" not in out


def test_columns_order_and_caption_are_as_asked(folder, capsys):
    words = ["--format", "markdown", "--columns", "model,latency,params", "--sort", "params", "--caption", "Mine"]
    _, out, _ = bench(capsys, "report", folder, *words)
    assert out.startswith("Mine\n\n| Network | Latency (")
    params = [float(line.split("|")[3].strip(" *")) for line in out.splitlines()[4:6]]
    assert params == sorted(params)


def test_csv_has_the_columns_that_were_asked_for(folder, capsys):
    _, out, _ = bench(capsys, "report", folder, "--format", "csv", "--columns", "model,macs,flops")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert all(float(row["flops"]) == 2 * float(row["macs"]) for row in rows if row["macs"])
    assert "latency" not in rows[0]


def test_all_columns_are_the_tables_of_the_page_with_every_origin(folder, capsys):
    _, out, _ = bench(capsys, "report", folder, "--format", "latex", "--columns", "all")
    assert "[M]" in out
    assert "Noise floor" in out


def test_an_audit_keeps_its_own_tables(capsys):
    _, out, _ = bench(capsys, "report", REFERENCE / "audit", "--format", "latex")
    assert out.startswith("% needs \\usepackage{booktabs}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--columns", "model"], "add --format latex, markdown or csv"),
        (["--format", "json", "--sort", "dice"], "--sort shapes a table"),
        (["--format", "latex", "--columns", "parms"], "did you mean 'params'?"),
        (["--format", "latex", "--columns", "all", "--caption", "x"], "--caption needs chosen columns"),
        (["--format", "latex", "--uncertainty", "both"], "unknown --uncertainty 'both'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(folder, capsys, words, message):
    code, out, err = bench(capsys, "report", folder, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_a_folder_the_newest_one_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("report", "choose", "watch"):
        assert "required: DIR; see" in bench(capsys, command)[2]
    for name in ("old", "new"):
        place = examples.whole_zoo(tmp_path / "results" / "local" / name)
        os.utime(place / "records.jsonl", (1, 1) if name == "old" else None)
    for command in ("report", "choose", "watch"):
        code, _, err = bench(capsys, command)
        assert (code, err.count("\n")) == (2, 1)
        assert "the newest is results/local/new;" in err


def test_a_table_in_a_file_is_replaced_with_force_alone(folder, capsys):
    target = folder.parent / "paper.tex"
    words = ["report", folder, "--format", "latex", "--out", target, "--caption"]
    assert bench(capsys, *words, "one")[0] == 0
    assert bench(capsys, *words, "two")[0] == 2
    assert bench(capsys, *words, "two", "--force")[0] == 0
    assert "two" in target.read_text()
