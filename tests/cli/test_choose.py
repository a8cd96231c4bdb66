"""`bench choose` as it is typed: the first line, the formats, exit codes, and commands that can be pasted."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchbench.cli.parser import parse
from benchbench.core.results import read_records
from tests import report_examples as examples
from tests.cli.said import command
from tests.report.test_choice import dice_of, forecast, number, row, with_weights

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


bench = command("choose")


@pytest.fixture
def folder(tmp_path):
    """A quick network and a better one, which is slower."""
    return examples.write(
        tmp_path / "run", [row("unetr", 0.5, dice_of(0.80)), row("nnunet", 3.0, dice_of(0.90)), examples.failed("vnet")]
    )


def commands_in(text):
    """The commands that a text ends its lines with, as words behind `bench`."""
    return [shlex.split(found)[1:] for found in re.findall(r": (bench [a-z]+ .*)$", text, re.M)]


def test_the_first_line_says_which_one_to_take(capsys, folder):
    code, out, err = bench(capsys, folder, "--max-latency", "1s", "--max-memory", "4GB", "--max-file", "50MB")
    assert (code, err) == (0, "")
    assert out.startswith("Take unetr: no other row keeps all limits. One patch takes 500 ms")
    assert "\nAgainst the most accurate of all rows, nnunet: 0.1000 less Dice" in out
    assert "\nHow sure: time, Dice and peak memory: measured; file: counted, not measured" in out
    assert "\nNext, train it: no weights are here: bench train unetr " in out
    assert "\nnetwork  one patch" in out
    assert "left out: vnet: oom: killed by the system" in out


def test_no_row_keeps_all_limits_is_exit_code_1_with_what_would_help(capsys, folder):
    code, out, _ = bench(capsys, folder, "--max-latency", "1s", "--min-dice", "0.85")
    assert code == 1
    assert out.startswith("No row keeps all limits (time at most 1 s; Dice at least 0.850).\nnearest to time")
    assert "missed: Dice" in out


def test_what_is_not_sure_is_exit_code_1(capsys, tmp_path):
    rows = [with_weights(forecast("slim_unetr", 1e-3, "datasheet", dice_of(0.86, origin="reference")))]
    code, out, _ = bench(capsys, examples.write(tmp_path / "run", rows), "--device", "jetson", "--max-latency", "1s")
    assert code == 1
    assert out.startswith("No row is known to keep all limits. slim_unetr may, but its time is not sure")
    assert "Next, measure it on the device itself: bench run" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--max-latency", "1s"],
        ["run", "--max-latency", "1ms", "--max-memory", "1MB", "--max-file", "1kB", "--min-dice", "0.99"],
        ["run", "--min-dice", "0.9"],
        ["real", "--max-latency", "5ms", "--max-file", "1MB", "--min-dice", "0.9"],
        ["real", "--max-latency", "36ms"],
        ["there", "--max-latency", "1s", "--max-memory", "1GB"],
    ],
)
def test_every_command_can_be_pasted(capsys, folder, arguments):
    there = [with_weights(forecast("slim_unetr", 1e-3, "datasheet", dice_of(0.86, origin="reference")))]
    places = {
        "run": folder,
        "real": REFERENCE / "runtimes-hippocampus",
        "there": examples.write(folder.parent / "there", there),
    }
    _, out, _ = bench(capsys, places[arguments[0]], *arguments[1:])
    found = commands_in(out)
    assert found
    for words in found:
        parse(words)


def test_shipped_weights_are_found_by_their_hash(capsys):
    _, out, _ = bench(capsys, REFERENCE / "hippocampus")
    (words,) = commands_in(out)
    assert words[0] == "export"
    weights = Path(words[1])
    assert weights.is_file()
    assert weights.name == "nnunet_small-hippocampus.safetensors"


def test_json_csv_and_markdown(capsys, folder):
    code, out, _ = bench(capsys, folder, "--max-latency", "1s", "--format", "json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["take"], told["limits"]) == (0, 0, "unetr", {"time": 1.0})
    assert told["sentences"][0].startswith("Take unetr")
    assert [(r["network"], r["limits"]) for r in told["rows"]] == [
        ("unetr", "keeps all"),
        ("nnunet", "misses"),
        ("vnet", "left out"),
    ]
    assert (told["rows"][0]["time"], told["rows"][0]["time_low"]) == (0.5, 0.49)
    assert told["next"]["command"].startswith("bench train unetr")
    _, out, _ = bench(capsys, folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["network"] for r in rows] == ["nnunet", "unetr", "vnet"]
    assert rows[2]["reason"].startswith("oom:")
    assert float(rows[1]["dice_difference"]) == pytest.approx(-0.1)
    _, out, _ = bench(capsys, folder, "--format", "markdown")
    assert out.startswith("- Take nnunet")
    assert "| network | one patch |" in out
    assert "- left out: vnet" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-latency", "100"], "'100' is not a time such as 50ms"),
        (["--max-memory", "4parsecs"], "'4parsecs' is not a size such as 2GB"),
        (["--max-file", "50ms"], "'50ms' is not a size"),
        (["--max-energy", "5W"], "'5W' is not an energy such as 5J or 200mJ (units: mJ, J, kJ)"),
        (["--max-energy", "0J"], "'0J' is not an energy above 0"),
        (["--min-dice", "85"], "'85' is no Dice: write a number above 0 and up to 1, such as 0.85"),
        (["--objective", "speed"], "unknown --objective 'speed'"),
        (["--device", "mars"], "unknown device 'mars'"),
        (["--conditions", "Q"], "unknown set of conditions 'Q'"),
        (["--max-energy", "5J"], "--max-energy: no row has a figure of energy"),
    ],
)
def test_bad_input_is_one_line(capsys, folder, arguments, message):
    code, out, err = bench(capsys, folder, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_what_no_row_has_comes_with_the_command_that_measures_it(capsys, tmp_path):
    bare, trained = row("unetr", 1.0), with_weights(row("unetr", 1.0))
    cases = [(bare, "--max-energy", "5J", "run"), (bare, "--min-dice", "0.8", "train")]
    cases.append((trained, "--min-dice", "0.8", "evaluate"))
    for i, (record, flag, value, start) in enumerate(cases):
        place = examples.write(tmp_path / f"run{i}", [record])
        _, _, err = bench(capsys, place, flag, value)
        (words,) = commands_in(err)
        assert words[0] == start
        parse(words)


def test_a_folder_without_records_is_one_line(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere", REFERENCE / "audit"):
        code, out, err = bench(capsys, place)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "no record" in err


def test_two_folders_of_unlike_machines_are_refused_until_one_is_picked(capsys):
    places = (REFERENCE / "hippocampus", REFERENCE / "runtimes-hippocampus")
    code, _, err = bench(capsys, *places)
    assert code == 2
    assert "A AMD EPYC" in err
    assert "Add --conditions A or --conditions B" in err
    code, out, _ = bench(capsys, *places, "--conditions", "B")
    assert code == 0
    assert "Intel(R) Xeon(R)" in out


def test_energy_is_shown_where_a_row_has_it(capsys, tmp_path):
    place = examples.write(tmp_path / "run", [row("unetr", 1.0, dice_of(0.8), number("energy_j", 2.5))])
    code, out, _ = bench(capsys, place, "--max-energy", "3J")
    assert code == 0
    assert "2.50 J [M]" in out


def test_torch_is_not_loaded():
    program = (
        "import sys; from benchbench.cli.main import main; "
        f"main(['choose', {str(REFERENCE / 'hippocampus')!r}]); print(sorted({{'torch', 'monai'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_records_are_only_read(capsys, folder):
    before = [r.id for r in read_records(folder)]
    bench(capsys, folder)
    assert [r.id for r in read_records(folder)] == before
    assert sorted(p.name for p in folder.iterdir()) == ["records.jsonl"]
