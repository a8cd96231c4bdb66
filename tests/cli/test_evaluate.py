"""`bench evaluate` as a person calls it: its tables in every format, its page, what it leaves, and its exit codes."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from benchbench.core.evaluation import is_evaluation
from benchbench.core.results import read_records
from benchbench.data.folder import plan_folder
from benchbench.runner.evaluation import run as evaluation_run
from tests import data_sets as sets
from tests import report_examples as examples
from tests.cli.said import command


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def boxes(tmp_path):
    return sets.decathlon(tmp_path / "Task99_Boxes", count=30)


@pytest.fixture
def maps(boxes):
    """Two programs' label maps: the label itself, and the label without a slice."""
    for name, cut in (("good", False), ("worse", True)):
        for i, case in enumerate(plan_folder(boxes).ids["test"]):
            label = np.asarray(sets.nib.load(boxes / f"labelsTr/{case}.nii.gz").dataobj).copy()
            if cut:
                label[:, :, 5 : 6 + i % 3] = 0
            sets.save(boxes.parent / f"{name}/{case}.nii.gz", label)
    return ["--predictions", "good", "worse", "--data", str(boxes)]


bench = command("evaluate")


def test_the_table_has_every_region_with_its_interval_and_the_paired_test(maps, boxes, capsys):
    code, out, err = bench(capsys, *maps, "--out", "out")
    assert code == 0
    assert err.splitlines()[-1].startswith("100%: worse, case ")  # also without a terminal
    lines = out.splitlines()
    count = plan_folder(boxes).splits["test"]
    rows = [line.split() for line in lines if line.startswith(("good", "worse"))]
    assert [row[:2] for row in rows[:3]] == [["good", "all"], ["good", "kernel"], ["good", "shell"]]
    assert "1.000 (1.000 to 1.000) [M]" in lines[3]
    assert lines[3].endswith(str(count))
    (against,) = [line for line in lines if line.startswith("worse") and "to -" in line]
    assert f"{count} of {count}" in against
    assert [line.partition(":")[0] for line in lines[-5:-2]] == ["records", "cases", "report"]
    assert (
        lines[-1] == "Next, for a table to paste: bench report out --format latex --columns model,dice,hd95,nsd,cases"
    )


def test_every_format_is_what_bench_report_makes_of_the_folder(maps, capsys):
    for fmt in ("csv", "json", "markdown", "latex"):
        code, out, _ = bench(capsys, *maps, "--out", "out", "--format", fmt)
        assert code == 0
        assert cli_main.main(["report", "out", "--format", fmt]) == 0
        assert capsys.readouterr().out == out
    assert len(list(read_records(Path("out")))) == 2


def test_csv_and_json_hold_the_means_and_the_difference_to_the_best(maps, capsys):
    _, out, _ = bench(capsys, *maps, "--out", "out", "--format", "csv")
    good, worse = csv.DictReader(io.StringIO(out))
    assert (good["model"], good["dice"], good["dice_against"]) == ("good", "1.0", "")
    assert worse["dice_against"] == "good"
    low, high = float(worse["dice_difference_ci95_low"]), float(worse["dice_difference_ci95_high"])
    assert low < float(worse["dice_difference"]) < high < 0
    assert not {"latency_s", "macs", "rank"} & set(good)
    _, out, _ = bench(capsys, *maps, "--out", "out", "--format", "json")
    first, second = json.loads(out)
    assert first["values"]["nsd_1mm_kernel"]["value"] == 1.0
    assert second["dice_difference"] == float(worse["dice_difference"])


def test_every_case_stands_beside_the_records(maps, boxes, capsys):
    bench(capsys, *maps, "--out", "out")
    rows = list(csv.DictReader((boxes.parent / "out/cases.csv").open()))
    data = plan_folder(boxes)
    assert len(rows) == 2 * data.splits["test"] * 3
    assert {row["case"] for row in rows} == set(data.ids["test"])
    assert list(rows[0]) == ["network", "case", "region", "dice", "hd95_mm", "nsd_1mm"]
    assert {row["dice"] for row in rows if row["network"] == "good"} == {"1.0"}


def test_markdown_and_latex_have_the_tables_without_columns_of_cost(maps, capsys):
    _, out, _ = bench(capsys, *maps, "--out", "out", "--format", "markdown")
    assert "| good | all regions | 1.000 (1.000 to 1.000) [M]" in out
    assert "Latency" not in out
    assert "Noise floor" not in out
    _, out, _ = bench(capsys, *maps, "--out", "out", "--format", "latex")
    assert out.startswith("% needs \\usepackage{booktabs}")
    assert "good & all regions & 1.000" in out


def test_the_page_has_the_section_and_the_pictures_and_nothing_of_times(maps, boxes, capsys):
    bench(capsys, *maps, "--out", "out")
    page = (boxes.parent / "out/report.html").read_text()
    assert "Segmentations of Task99_Boxes" in page
    assert "Dice against good, case by case" in page
    assert page.count("data:image/png;base64") == 6
    assert "Label maps: sha256" in page
    assert "bench evaluate --predictions path/to/good path/to/worse --data path/to/Task99_Boxes" in page
    for word in ("Noise floor", "Latency</button>", "MACs</button>", "Throughput</button>", "Training step"):
        assert word not in page


def test_two_evaluations_are_compared_where_one_cell_is_in_both(maps, capsys):
    bench(capsys, *maps, "--out", "one")
    bench(capsys, *maps, "--out", "two")
    assert cli_main.main(["compare", "one", "two", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["metric"], row["change"]) for row in rows] == [("dice", 0.0), ("dice", 0.0)]


def test_a_row_that_failed_is_told_with_exit_code_3(maps, boxes, capsys):
    case = plan_folder(boxes).ids["test"][0]
    sets.save(boxes.parent / f"worse/{case}.nii.gz", np.full(sets.SIDES, 9, np.uint8))
    code, out, _ = bench(capsys, *maps, "--out", "out")
    assert code == 3
    assert f"worse: failed: worse/{case}.nii.gz has the label 9, which the data set does not know" in out
    assert "good" in out
    page = (boxes.parent / "out/report.html").read_text()
    assert "has the label 9" in page


def test_missing_cases_stand_beside_the_means_in_every_form(maps, boxes, capsys):
    case, *_ = plan_folder(boxes).ids["test"]
    count = plan_folder(boxes).splits["test"]
    (boxes.parent / f"worse/{case}.nii.gz").unlink()
    code, out, err = bench(capsys, *maps, "--out", "out")
    assert (code, out) == (2, "")
    assert err == (
        f"bench: worse has no label map of 1 of the {count} test cases of Task99_Boxes: {case}; add them, or "
        f"--allow-missing for a Dice of the {count - 1} that are there\n"
    )
    said = f"its means are over {count - 1} of {count} cases: 1 of {count} cases have no label map: {case}"
    code, out, _ = bench(capsys, *maps, "--allow-missing", "--out", "out")
    assert code == 0
    assert f"worse: {said}" in out
    assert f"{count - 1} of {count}" in out
    assert said in (boxes.parent / "out/report.html").read_text()
    _, out, _ = bench(capsys, *maps, "--allow-missing", "--out", "out", "--format", "markdown")
    assert said.replace("_", r"\_") in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "DATA"], "nothing to evaluate: name networks"),
        (["slim_unetr"], "the following arguments are required: --data"),
        (["--data", "DATA", "slim_unter"], "unknown model 'slim_unter': did you mean 'slim_unetr'?"),
        (["--data", "nowhere", "slim_unetr"], "unknown data set 'nowhere'"),
        (["--data", "DATA", "slim_unetr", "--split", "tests"], "unknown --split 'tests': did you mean 'test'?"),
        (["--data", "DATA", "--predictions", "no"], "no label maps at no: no such folder"),
        (["--data", "DATA", "--predictions", "good", "--workers", "0"], "'0' is not a positive whole number"),
        (["--data", "DATA", "--predictions", "good", "--format", "html"], "unknown --format 'html'"),
        (["--data", "phantom", "--predictions", "good"], "phantom has no files"),
        (["--data", "phantom", "--split", "all", "--predictions", "good"], "has its own split, and no folds"),
        (["--data", "DATA", "good"], "good is a folder: no network lies in it"),
        (["--data", "DATA", "net.pt"], "net.pt is a pickle of PyTorch"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(maps, boxes, capsys, words, why):
    (boxes.parent / "net.pt").write_bytes(b"")
    code, out, err = bench(capsys, *[str(boxes) if word == "DATA" else word for word in words], "--out", "out")
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1
    assert not (boxes.parent / "out/records.jsonl").exists()


@pytest.mark.parametrize("after", [0, 1])
def test_an_interruption_says_what_is_kept_and_how_it_goes_on(maps, capsys, monkeypatch, after):
    real, begun = evaluation_run.judge, []

    def interrupted(*given, **more):
        if len(begun) == after:
            raise KeyboardInterrupt
        begun.append(given)
        real(*given, **more)

    monkeypatch.setattr(evaluation_run, "judge", interrupted)
    code, _, err = bench(capsys, *maps, "--out", "out")
    assert code == 130
    kept = "the cases that were finished are kept in out: the same command with --out out goes on"
    assert err == f"bench: interrupted; {kept if after else 'nothing was finished yet: the same command begins anew'}\n"


def test_records_of_runs_and_of_evaluations_share_a_page_and_no_table(maps, boxes, capsys, tmp_path):
    bench(capsys, *maps, "--out", "out")
    evaluated = list(read_records(tmp_path / "out"))
    assert all(map(is_evaluation, evaluated))
    run = examples.record("slim_unetr", measurements=(examples.number("latency_s", 0.1, values=(0.1, 0.1)),))
    shutil.copytree(tmp_path / "out", tmp_path / "both")
    with (tmp_path / "both/records.jsonl").open("a") as file:
        file.write(rec.canonical_json(rec.record_to_json(run)) + "\n")
    assert cli_main.main(["report", "both"]) == 0
    page = (tmp_path / "both/report.html").read_text()
    assert "kept apart below" in page
    assert "Latency</button>" in page
    assert "Dice against good, case by case" in page
