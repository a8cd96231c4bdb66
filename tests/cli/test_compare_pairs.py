"""`bench compare --measure` and `--remeasure` as they are typed."""

import dataclasses
import json
import sys

import pytest

from benchbench.cli import pairs
from benchbench.core.paired_result import read_pairs, write_pairs
from benchbench.core.results import PAIRS, held
from benchbench.devices import cpu
from benchbench.devices.resolve import Target
from benchbench.runner.pairs import again, run
from tests import compare_examples, paired_examples
from tests.cli.said import command

TINY, WIDER, KILLED, CRASHES = (f"tests.tiny_nets:{name}" for name in ("Tiny", "Wider", "Killed", "Crashes"))
LABELS = paired_examples.result().labels
SMALL = ("--spatial", "8", "8", "8", "--threads", "1", "--time-limit", "1s")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


bench = command("compare")


@pytest.mark.usefixtures("forked_workers")
def test_two_networks_are_measured_and_kept(capsys, tmp_path):
    code, out, err = bench(capsys, "--measure", TINY, WIDER, *SMALL, "--out", tmp_path / "o", "-q")
    assert (code in (0, 1), err) == (True, "")
    (result,) = read_pairs(tmp_path / "o")
    assert out.startswith(f"A: {TINY}\nB: {WIDER}\n")
    assert "noise floor: A differed from itself by" in out
    assert [side.model.name for side in (result.a, result.b)] == [TINY, WIDER]
    assert result.a.value("peak_memory_bytes") > 0
    assert len(result.a.get("latency_s").runs or (1,)) == 2 * len(result.b.get("latency_s").runs or (1,)) or (
        len(result.sets) == 1
    )
    page = (tmp_path / "o" / "report.html").read_text()
    assert "Measured in pairs" in page
    assert "http" not in page.partition("</style>")[2].replace("http-equiv", "")


@pytest.mark.usefixtures("forked_workers")
def test_a_side_that_is_killed_is_tried_twice_and_then_a_row_with_the_reason(capsys, tmp_path):
    code, out, _ = bench(capsys, "--measure", TINY, KILLED, *SMALL, "--out", tmp_path / "o")
    assert code == 3
    assert "failed: B: its process was killed by SIGKILL" in out
    (result,) = read_pairs(tmp_path / "o")
    assert len(result.repeated) == 1
    assert (result.a.status, result.b.status) == ("not_run", "failed")


@pytest.mark.usefixtures("forked_workers")
def test_a_side_that_raises_is_not_tried_again(capsys, tmp_path):
    code, out, _ = bench(capsys, "--measure", CRASHES, TINY, *SMALL, "--out", tmp_path / "o", "--format", "json")
    assert code == 3
    result = json.loads(out)
    assert (result["verdict"], result["repeated"]) == ("failed", [])
    assert "a bug of its own" in result["error"]


def refusal(capsys, *arguments):
    code, out, err = bench(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_sides_with_different_inputs_are_refused_and_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "other.toml").write_text(
        f'name = "other"\ntitle = "Other"\narch = "{TINY}"\nin_channels = 2\nspatial = [8, 8, 8]\n'
    )
    words = ("--measure", TINY, "other.toml", "--threads", "1", "--out", tmp_path / "o")
    err = refusal(capsys, *words)
    assert "A and B take different inputs: channels 4 -> 2, size 128x128x128 -> 8x8x8: --anyway compares" in err
    monkeypatch.setattr(pairs, "measured", lambda *_: [paired_examples.result()])
    assert bench(capsys, *words, "--anyway")[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--threads", "1", "2", "3"), "--threads has one value for both sides"),
        (("--mode", "duet", "--threads", "2"), "leave --threads out"),
        (("--mode", "duet"), "needs two cores, and this process may use 1"),
        (("--threads", "1", "2"), "--threads 2: this process may use 1 core"),
        (("--margin", "0"), "within a margin of 0"),
        (("--runtime", "onnx"), "unknown runtime 'onnx'"),
        (("--python", "nowhere/python"), "no such program"),
        (("--out", "page.html"), "with --measure it is a folder"),
        (("--remeasure",), "leave one of them out"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(capsys, monkeypatch, words, expected):
    monkeypatch.setattr(cpu, "usable_cores", lambda *_, **__: 1)
    if words == ("--mode", "duet", "--threads", "2"):
        monkeypatch.setattr(cpu, "usable_cores", lambda *_, **__: 2)
    assert expected in refusal(capsys, "--measure", TINY, TINY, *words)


def test_a_name_of_several_networks_is_refused(capsys):
    assert "A is to be one network, and 'slim_unetr,unetr' names 2" in refusal(
        capsys, "--measure", "slim_unetr,unetr", "unetr"
    )


def python_that(tmp_path, lines):
    script = tmp_path / "python"
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)
    return script


HELLO = json.dumps({"event": "hello", "protocol": 1, "schema": 2, "version": "0.0.9"})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([f'exec {sys.executable} -S "$@"'], "benchbench is not installed there"),
        ([f"echo '{HELLO}'", "cat"], "has benchbench 0.0.9 with schema 2, messages 1, and this one"),
        (["exit 3"], "its process ended with exit code 3"),
    ],
)
def test_a_python_that_cannot_be_used_is_refused(capsys, monkeypatch, tmp_path, lines, expected):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = python_that(tmp_path, lines)
    assert expected in refusal(capsys, "--measure", TINY, TINY, "--threads", "1", "--python", script)


def test_flags_of_a_measurement_are_refused_for_finished_runs(capsys, tmp_path):
    assert "--threads: only with --measure" in refusal(capsys, "a", "b", "--threads", "1")
    assert "--spatial: only with --measure" in refusal(capsys, "a", "b", "--remeasure", "--spatial", "8", "8", "8")


def test_an_interrupted_comparison_is_printed_and_kept(capsys, monkeypatch, tmp_path):
    found = paired_examples.result(interrupted=True)
    monkeypatch.setattr(pairs, "measured", lambda *_: [found])
    code, out, _ = bench(capsys, "--measure", TINY, TINY, "--threads", "1", "--out", tmp_path / "o")
    assert code == 130
    assert "interrupted: this is of what was measured until then" in out


@pytest.mark.parametrize(("centre", "code"), [(1.0, 0), (1.06, 1), (1 / 1.06, 0)])
def test_a_slower_side_is_a_regression(capsys, monkeypatch, tmp_path, centre, code):
    monkeypatch.setattr(pairs, "measured", lambda *_: [paired_examples.result(paired_examples.around(centre))])
    found, out, _ = bench(capsys, "--measure", TINY, TINY, "--threads", "1", "--out", tmp_path / "o")
    assert found == code
    assert ("regression: latency +6.0 %" in out) == bool(code)


def test_progress_as_json_is_an_object_a_line(capsys, monkeypatch, tmp_path):
    def measured(plans, file, *, progress):
        progress(0.5, "set 2, block 3")
        return [paired_examples.result()]

    monkeypatch.setattr(run, "measure_pairs", measured)
    code, out, err = bench(capsys, "--measure", TINY, TINY, "--threads", "1", "--out", "o", "--progress", "json")
    assert code == 0
    assert out.startswith(f"A: {LABELS[0]}\n")
    (event,) = [json.loads(line) for line in err.splitlines()]
    assert (event["event"], event["used"], event["text"]) == ("step", 0.5, "set 2, block 3")
    assert event["remaining_s"] >= 0


def test_a_comparison_of_finished_runs_has_no_progress(capsys, runs):
    assert "--progress: only with --measure or --remeasure" in refusal(capsys, *runs, "--progress", "json")


def measure(capsys, *words):
    return bench(capsys, "--measure", TINY, TINY, "--threads", "1", "--out", "o", *words)


@pytest.fixture
def measures(monkeypatch):
    """Every comparison finds the same."""

    def measured(plans, file, options):
        found = [paired_examples.result()]
        write_pairs(file, found)
        return found

    monkeypatch.setattr(pairs, "measured", measured)


def test_a_comparison_is_replaced_by_force_alone_which_sets_it_aside(capsys, measures, tmp_path):
    assert measure(capsys)[0] == 0
    (tmp_path / "o" / PAIRS).write_text("mine")
    code, _, err = measure(capsys)
    assert (code, (tmp_path / "o" / PAIRS).read_text()) == (2, "mine")
    assert "o holds a comparison already: choose another --out, or --force" in err
    assert measure(capsys, "--force")[0] == 0
    assert (tmp_path / "o" / f"{PAIRS}.old").read_text() == "mine"
    assert len(read_pairs(tmp_path / "o")) == 1


@pytest.mark.parametrize("name", ["records.jsonl", "search.json"])
def test_the_page_of_a_run_is_not_replaced(capsys, measures, tmp_path, name):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / name).touch()
    code, _, err = measure(capsys, "--force")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds a run or a search, whose page would be replaced" in err


def test_a_folder_in_use_is_refused(capsys, measures, tmp_path):
    with held(tmp_path / "o"):
        code, _, err = measure(capsys)
    assert code == 2
    assert "is in use by another run" in err


# --remeasure


@pytest.fixture
def runs(tmp_path):
    """Two folders of which the later looks 8 % slower."""
    return compare_examples.folders(tmp_path, compare_examples.run(1), compare_examples.run(2, factor=1.08))


@pytest.fixture
def here(monkeypatch):
    """The runs were measured on this machine."""
    device = compare_examples.cell().device
    monkeypatch.setattr(again, "resolve", lambda *_, **__: Target(device=device, backend="cpu"))
    monkeypatch.setattr(cpu, "usable_cores", lambda *_, **__: 2)


def test_finished_runs_are_called_unpaired_and_offered_to_be_measured_again(capsys, runs):
    code, out, _ = bench(capsys, *runs)
    assert code == 1
    assert "unpaired: A and B were measured at different times" in out
    assert f"bench compare {runs[0]} {runs[1]} --remeasure" in out


@pytest.mark.parametrize(("centre", "code", "verdict"), [(1.0, 0, "same"), (1.06, 1, "slower")])
def test_pairs_decide_what_looked_slower(capsys, monkeypatch, runs, here, tmp_path, centre, code, verdict):
    def measured(plans, file, options):
        (plan,) = plans
        return [paired_examples.result(paired_examples.around(centre), cell=plan.cell)]

    monkeypatch.setattr(pairs, "measured", measured)
    page = tmp_path / "page.html"
    found, out, _ = bench(capsys, *runs, "--remeasure", "--out", page)
    assert found == code
    (row,) = [
        line for line in out.splitlines() if line.startswith("slim_unetr ") and " latency " in line and "pairs" in line
    ]
    assert row.split()[-1] == verdict
    assert "--remeasure" not in out
    assert "Measured in pairs" in page.read_text()


def test_runs_of_different_software_need_a_python_each(capsys, here, tmp_path):
    def by(commit, records):
        return [dataclasses.replace(r, environment={**r.environment, "commit": commit}) for r in records]

    folders = compare_examples.folders(
        tmp_path, by("a" * 40, compare_examples.run(1)), by("b" * 40, compare_examples.run(2, factor=1.08))
    )
    err = refusal(capsys, *folders, "--remeasure")
    assert "measured by different software (commit aaaa" in err
    assert "--python PYTHON_OF_A PYTHON_OF_B" in err


def test_a_row_of_another_machine_keeps_its_verdict_and_says_why(capsys, runs):
    code, out, _ = bench(capsys, *runs, "--remeasure")
    assert code == 1
    assert "not measured again: it was measured on" in out
    assert not list((runs[0].parent).glob(f"**/{PAIRS}"))
