"""What the files that reports, comparisons and lists of folds are written to may replace."""

import os

import pytest

from benchbench.cli import main as cli_main
from benchbench.report import write_report
from benchbench.report.place import is_page
from benchmarks.pages import REPORTS
from tests import data_sets as sets
from tests import report_examples as examples

PAGES = sorted(REPORTS.glob("*.html"))
FOREIGN = ["<!doctype html>\n<title>My notes on benchbench</title>", "model  notes", "\0\1"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return examples.whole_run(tmp_path / "r")


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    assert cli_main.main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("bench: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("fmt", ["html", "csv", "json", "markdown", "latex"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_report_replaces_nothing_that_it_is_made_from(capsys, run, fmt, force):
    (run / "job.txt").write_text("anything")
    os.link(run / "records.jsonl", "other-name")
    os.symlink(run / "records.jsonl", "link")
    before = content(run)
    for out in [*before, "other-name", "link", run / ".." / "r" / "records.jsonl"]:
        for read in (run, run / "records.jsonl"):
            assert "is read by this command" in refused(capsys, "report", read, "--format", fmt, "--out", out, *force)
    for out in ("more.jsonl", "search.json", "job.json"):
        assert "would be read" in refused(capsys, "report", run, "--format", fmt, "--out", run / out, *force)
    assert content(run) == before


@pytest.mark.parametrize("text", FOREIGN)
def test_a_file_of_somebody_else_is_replaced_only_by_force(capsys, run, tmp_path, text):
    out = tmp_path / "mine"
    out.write_text(text)
    for arguments in (["report", run], ["report", run, "--format", "csv"], ["compare", run, run]):
        assert "was not written by this command" in refused(capsys, *arguments, "--out", out)
        assert out.read_text() == text
        assert cli_main.main([*map(str, arguments), "--out", str(out), "--force"]) in (
            0,
            3,
        )  # 3: a row of A failed, too
        assert out.read_text() != text
        out.write_text(text)
    (run / "report.html").write_text(text)
    assert "--force" in refused(capsys, "report", run)
    assert (run / "report.html").read_text() == text
    assert cli_main.main(["report", str(run), "--force"]) == 0
    assert is_page((run / "report.html").read_bytes()[:4096])


def test_our_pages_are_replaced_and_exports_by_force(capsys, run):
    for _ in range(2):
        assert cli_main.main(["report", str(run)]) == 0
        assert cli_main.main(["compare", str(run), str(run), "--out", str(run / "compare.html")]) in (0, 3)
    for fmt in ("csv", "json", "markdown", "latex"):
        arguments = ["report", str(run), "--format", fmt, "--out", str(run / f"table.{fmt}")]
        assert cli_main.main(arguments) == 0
        assert "was not written by this command" in refused(capsys, *arguments)
        assert cli_main.main([*arguments, "--force"]) == 0


def test_a_comparison_replaces_neither_side(capsys, run, tmp_path):
    other = examples.whole_run(tmp_path / "s")
    before = content(run) | content(other)
    for out in before:
        assert "is read by" in refused(capsys, "compare", run, other, "--out", out, "--force")
    assert content(run) | content(other) == before


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_that_were_made_before_are_known(page):
    assert is_page(page.read_bytes()[:4096])


def test_a_device_is_no_place_for_a_page(run):
    with pytest.raises(Exception, match="no ordinary file"):
        write_report([run], type(run)("/dev/null"), force=True)


@pytest.mark.parametrize(
    "words",
    [
        "run --models slim_unetr --device jetson",
        "audit --models slim_unetr --input 1 4 32 32 32",
        "search --budget 2GB",
    ],
)
def test_a_foreign_page_in_the_results_folder_is_refused_before_anything_is_measured(words, capsys, tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "report.html").write_text("mine")
    assert cli_main.main([*words.split(), "--out", str(folder)]) == 2
    assert "move it away, or choose another --out" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"report.html"}
    assert (folder / "report.html").read_text() == "mine"


def test_a_list_of_folds_replaces_no_file_of_the_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = sets.decathlon(tmp_path / "d", count=4)
    before = content(folder)
    for out in before:
        refused(capsys, "data", "split", folder, "--out", out, "--force")
    assert content(folder) == before
    out = tmp_path / "folds.json"
    out.write_text("[]")
    assert "--force" in refused(capsys, "data", "split", folder, "--out", out)
    assert out.read_text() == "[]"
    for force in (["--force"], []):  # the same again is no loss
        assert cli_main.main(["data", "split", str(folder), "--out", str(out), *force]) == 0
    assert cli_main.main(["data", "split", str(folder), "--out", str(folder)]) == 0
