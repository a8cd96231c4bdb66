"""`bench report` of paired comparisons: the page that `bench compare` wrote, and tables, from their record alone."""

import csv
import io
import json

import pytest

from benchbench.cli import pairs
from benchbench.core.paired_result import pairs_to_json, write_pairs
from benchbench.core.results import PAIRS
from tests import paired_examples
from tests.cli.said import bench

SLOWER = paired_examples.result(paired_examples.around(1.06))
FAILED = paired_examples.result([], error="B: its process was killed by SIGKILL")


@pytest.fixture
def folder(tmp_path):
    write_pairs(tmp_path / PAIRS, [SLOWER])
    return tmp_path


@pytest.mark.parametrize("found", [SLOWER, FAILED])
def test_the_page_is_that_which_compare_wrote(capsys, monkeypatch, tmp_path, found):
    def measured(plans, file, options):
        write_pairs(file, [found])
        return [found]

    monkeypatch.setattr(pairs, "measured", measured)
    out, net = tmp_path / "o", "tests.tiny_nets:Tiny"
    bench(capsys, "compare", "--measure", net, net, "--threads", "1", "--out", out)
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code, said, err = bench(capsys, "report", out)
    assert (code, said.strip(), err) == (0, str(out / "report.html"), "")
    assert (out / "report.html").read_bytes() == before


def test_comparisons_of_several_folders_stand_on_one_page(capsys, folder, tmp_path):
    (tmp_path / "b").mkdir()
    write_pairs(tmp_path / "b" / f"page.{PAIRS}", [FAILED])
    page = tmp_path / "both.html"
    assert bench(capsys, "report", folder, tmp_path / "b" / f"page.{PAIRS}", "--out", page)[0] == 0
    assert "<h1>2 comparisons in pairs</h1>" in page.read_text()


def test_json_is_the_whole_record_judged_again(capsys, folder):
    content = json.loads((folder / PAIRS).read_text())
    content["comparisons"][0]["verdict"] = "faster"
    (folder / PAIRS).write_text(json.dumps(content))
    _, out, _ = bench(capsys, "report", folder, "--format", "json")
    assert json.loads(out) == json.loads(json.dumps(pairs_to_json([SLOWER])))


def test_csv_is_a_line_a_comparison(capsys, folder):
    write_pairs(folder / PAIRS, [SLOWER, FAILED])
    _, out, _ = bench(capsys, "report", folder, "--format", "csv")
    first, second = csv.DictReader(io.StringIO(out))
    assert (first["verdict"], round(float(first["ratio"]), 2)) == ("slower", 1.06)
    assert (second["verdict"], second["ratio"], second["error"]) == ("failed", "", FAILED.error)


@pytest.mark.parametrize(
    ("fmt", "begins", "line"),
    [
        (
            "markdown",
            "- A: slim_unetr\n- B: slim_unetr_fixed\n\n| metric | A |",
            "| latency | 100 ms | 100 ms | +6.0 % |",
        ),
        ("latex", "% needs \\usepackage{booktabs}\n% A: slim_unetr\n", r"latency & 100 ms & 100 ms & +6.0 \% &"),
    ],
)
def test_tables_have_the_rows_and_say_how_it_was_measured(capsys, folder, fmt, begins, line):
    _, out, _ = bench(capsys, "report", folder, "--format", fmt)
    assert out.startswith(begins)
    assert line in out
    assert "noise floor: A differed from itself by" in out


@pytest.mark.parametrize("fmt", ["csv", "json", "markdown", "latex"])
def test_a_table_beside_the_record_is_replaced_with_force_alone_and_the_record_never(capsys, folder, fmt):
    words = ("report", folder, "--format", fmt, "--out", folder / "table.txt")
    assert [bench(capsys, *words, *more)[0] for more in ((), (), ("--force",))] == [0, 2, 0]
    before = (folder / PAIRS).read_bytes()
    code, _, err = bench(capsys, "report", folder, "--format", fmt, "--out", folder / PAIRS, "--force")
    assert (code, err.count("\n")) == (2, 1)
    assert (folder / PAIRS).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort", "dice", "--format", "latex"], "--sort shapes the report of a run"),
        (["--live"], "--live shapes the report of a run"),
        (["--max-latency", "50ms"], "--max-latency shapes the report of a run"),
    ],
)
def test_what_shapes_the_report_of_a_run_is_refused(capsys, folder, words, message):
    code, out, err = bench(capsys, "report", folder, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("fmt", ["html", "csv"])
def test_a_comparison_and_a_run_have_pages_of_their_own(capsys, folder, tmp_path, fmt):
    (tmp_path / "run").mkdir()
    code, _, err = bench(capsys, "report", folder, tmp_path / "run", "--format", fmt, "--out", tmp_path / "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "paired comparisons have a page and tables of their own: leave" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not the record of a paired comparison"),
        ('{"schema": 99, "comparisons": [1]}', "upgrade it"),
        ('{"schema": 1, "comparisons": []}', "holds no comparison"),
        ('{"schema": 1, "comparisons": [{}]}', "is not the record of a paired comparison"),
    ],
)
def test_a_record_that_is_none_is_one_line(capsys, folder, content, message):
    (folder / PAIRS).write_text(content)
    code, out, err = bench(capsys, "report", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_record_that_is_not_there_is_one_line(capsys, tmp_path):
    code, _, err = bench(capsys, "report", tmp_path / f"no.{PAIRS}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"no.{PAIRS}" in err
