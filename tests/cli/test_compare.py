"""`bench compare` as it is typed: tables, formats, exit codes, and wrong use in one line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import compare_examples as examples
from tests.cli.said import command

ROOT = Path(__file__).resolve().parents[2]
STEADY = (1.0, 1.001, 0.999, 1.002, 0.998)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


bench = command("compare")


@pytest.fixture
def pair(tmp_path):
    """A folder, and one where a network is 8 % slower and its Dice 0.03 lower."""
    return examples.folders(tmp_path, examples.run(1), examples.run(2, factor=1.08, worse=0.03))


def test_a_regression_is_exit_code_1_and_named(capsys, pair):
    code, out, err = bench(capsys, *pair)
    assert (code, err) == (1, "")
    assert out.startswith(f"A: {pair[0]}\nB: {pair[1]}\n")
    assert "9 compared: 7 same, 1 slower, 1 worse" in out
    assert "regression: slim_unetr latency +" in out
    assert "regression: slim_unetr Dice -0.0" in out


def test_the_same_twice_is_exit_code_0(capsys, pair):
    code, out, _ = bench(capsys, pair[0], pair[0] / "records.jsonl")
    assert code == 0
    assert "9 compared: 9 same" in out
    assert "regression" not in out


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("latency:1.05", 1),
        ("latency_s:1.20", 0),
        ("peak_memory:1.05", 0),
        ("dice:0.01", 1),
        ("latency:1.2,dice:0.1", 0),
    ],
)
def test_fail_on(capsys, pair, limits, expected):
    code, out, _ = bench(capsys, *pair, "--fail-on", limits)
    assert code == expected
    assert ("(limit" in out) == bool(expected)


def test_broken_is_exit_code_3_and_a_cell_on_one_side_only_is_no_error(capsys, tmp_path):
    good = examples.cell(examples.latency(*STEADY))
    a, b = examples.folders(tmp_path, [good], [examples.failed()])
    code, out, _ = bench(capsys, a, b)
    assert code == 3
    assert "broken: slim_unetr: A ok; B oom: killed by the system" in out
    other = examples.cell(examples.latency(1.0), name="unetr")
    a, b = examples.folders(tmp_path, [good, other], [good])
    code, out, _ = bench(capsys, a, b)
    assert code == 0
    assert "only in A: unetr" in out


def test_other_conditions_are_refused_in_one_line_and_listed_above_the_table_anyway(capsys, tmp_path):
    changed = {"torch": "2.8.0", "governor": "powersave"}
    a, b = examples.folders(
        tmp_path,
        [examples.cell(examples.latency(*STEADY))],
        [examples.cell(examples.latency(*STEADY), environment=changed)],
    )
    code, out, err = bench(capsys, a, b)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "governor: unknown -> powersave; torch: 2.13.0+cpu -> 2.8.0" in err
    code, out, _ = bench(capsys, a, b, "--anyway")
    assert code == 0
    assert out.index("torch: 2.13.0+cpu -> 2.8.0") < out.index("verdict")


def test_json_csv_and_markdown(capsys, pair, tmp_path):
    code, out, _ = bench(capsys, *pair, "--format", "json")
    told = json.loads(out)
    assert (code, told["exit_code"], len(told["rows"])) == (1, 1, 9)
    first = told["rows"][0]
    assert (first["metric"], first["verdict"], first["regression"], first["change_is"]) == (
        "latency_s",
        "slower",
        True,
        "b / a",
    )
    assert first["change_ci95_low"] < first["change"] == first["b"] / first["a"]
    _, out, _ = bench(capsys, *pair, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["verdict"] for row in rows].count("same") == 7
    _, out, _ = bench(capsys, *pair, "--format", "markdown")
    assert "| slim_unetr | latency |" in out
    assert "- regression: slim_unetr latency" in out
    a, b = examples.folders(tmp_path / "x", [examples.cell(examples.latency(1.0))], [examples.failed()])
    _, out, _ = bench(capsys, a, b, "--format", "csv")
    assert [row["verdict"] for row in csv.DictReader(io.StringIO(out))] == ["broken"]


def test_metrics_and_minimum_effect(capsys, pair):
    _, out, _ = bench(capsys, *pair, "--metrics", "dice", "--format", "json")
    assert {row["metric"] for row in json.loads(out)["rows"]} == {"dice"}
    code, out, _ = bench(capsys, *pair, "--metrics", "latency_s", "--min-effect", "0.2", "--format", "json")
    assert code == 0
    assert {row["verdict"] for row in json.loads(out)["rows"]} == {"same"}


def test_the_page_is_written_whole_and_the_same_every_time(capsys, pair, tmp_path):
    code, out, _ = bench(capsys, *pair, "--out", tmp_path / "deep" / "one.html")
    assert code == 1
    assert out.endswith(f"page: {tmp_path / 'deep' / 'one.html'}\n")
    bench(capsys, *pair, "--out", "two.html")
    page = (tmp_path / "two.html").read_bytes()
    assert page == (tmp_path / "deep" / "one.html").read_bytes()
    assert len(page) < 1_000_000
    assert b"2 regressions from A to B" in page
    assert str(tmp_path).encode() not in page
    assert not list(tmp_path.glob("*.partial"))


def test_reference_records_can_be_compared(capsys):
    machine = ROOT / "results" / "reference" / "amd-epyc-2c"
    code, out, _ = bench(capsys, machine, machine)
    assert code in (0, 3)
    assert "regression" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: A, B"),
        (["a"], "the following arguments are required: B"),
        (["a", "nowhere"], "no records at nowhere"),
        (["a", "b", "--fail-on", "latncy:1.1"], "did you mean 'latency'?"),
        (["a", "b", "--fail-on", "latency:0.5"], "ratio of at least 1"),
        (["a", "b", "--fail-on", "dice:0.1", "--metrics", "latency"], "--fail-on dice is not among --metrics"),
        (["a", "b", "--metrics", "dise"], "did you mean 'dice'?"),
        (["a", "b", "--metrics", "energy"], "none of energy was measured on both sides"),
        (["a", "b", "--min-effect", "2"], "'2' is not a number from 0 to below 1"),
        (["a", "b", "--min-effect", "two"], "'two' is not a number from 0 to below 1"),
        (["a", "b", "--format", "html"], "unknown --format 'html'"),
        (["a", "b", "--out", "a"], "a is a folder: name a file with --out"),
        (["a", "b", "--any-way"], "did you mean '--anyway'?"),
        (["a", "other"], "nothing in common to compare: A holds slim_unetr"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_wrong_use_is_one_line_with_exit_code_2(capsys, tmp_path, arguments, message):
    examples.examples.write(tmp_path / "other", [examples.cell(examples.latency(1.0), name="unet3d")])
    code, out, err = bench(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_torch_is_loaded(pair):
    program = (
        "import sys; from benchbench.cli import main as cli; cli.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, "compare", *map(str, pair), "--out", "page.html"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
