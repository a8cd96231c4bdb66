"""The report of accuracy: a dot for every case, a curve for every training, and nothing believed that is damaged."""

import dataclasses
import json
import random

import pytest

from benchbench import report
from benchbench.core.errors import StoreError
from benchbench.report import conditions, paired_dice
from benchbench.report.figures import curves, samples
from benchbench.report.figures import overview as figures_overview
from benchbench.report.tables import summary_rows
from tests import report_examples as examples

CURVE = {
    "budget": "1200 s",
    "steps_done": 1000,
    "curve": [[step, 1.5 - step / 1000] for step in range(5, 1001, 5)],
    "validation": [[step, step / 1200] for step in range(100, 1001, 100)],
}


def scored(name, mean, *artifacts, n=44):
    draw = random.Random(name)
    found = [examples.number("latency_s", 0.1, values=(0.1, 0.1))]
    for region, shift in (("", 0.0), ("_anterior", 0.01), ("_posterior", -0.01)):
        values = tuple(min(1.0, mean + shift + draw.gauss(0, 0.02)) for _ in range(n))
        middle = sum(values) / n
        ci95 = (middle - 0.006, middle + 0.006)
        found.append(examples.number(f"dice{region}", middle, values=values, ci95=ci95))
    return examples.record(name, measurements=tuple(found), artifacts=tuple(artifacts))


HIPPOCAMPUS = "Task04_Hippocampus:0123abcd"


def on_folder(record, patch, patient_s, data=HIPPOCAMPUS):
    """A record as of a data set's folder, where each network has a patch of its own."""
    work = dataclasses.replace(record.workload, data=data, split="test", spatial=patch, volume=(36, 50, 35))
    time = examples.number("volume_latency_s", patient_s)
    return dataclasses.replace(record, workload=work, measurements=(*record.measurements, time))


def with_cases(folder, record, dice):
    """A record with the Dice of its cases by name; None: the case does not count."""
    content = json.dumps({"ids": [f"case_{i}" for i in range(len(dice))], "values": {"dice": dice}}).encode()
    kept = examples.artifact(folder, "cases", f"{record.model.name}-cases.json", content)
    return dataclasses.replace(record, artifacts=(kept,))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "r"
    content = json.dumps(CURVE).encode()
    kept = examples.artifact(folder, "training", "nnunet-training.json", content)
    return examples.write(folder, [scored("nnunet", 0.89, kept), scored("slim_unetr", 0.84)])


def test_each_region_of_each_network_is_a_row(folder):
    page = report.write_report([folder]).read_text()
    assert "Dice of every case" in page
    assert "nnunet anterior 0." in page
    assert "slim_unetr posterior 0." in page
    assert "44 cases" in page
    assert "The lowest case is" in page


def test_the_lines_hold_what_the_records_hold():
    record = scored("nnunet", 0.9, n=10)
    (anterior, posterior) = samples.dice_rows(summary_rows([record], None).rows)
    assert anterior.label.endswith("anterior")
    assert anterior.middle == record.value("dice_anterior")
    assert posterior.n == 10


def test_a_training_is_drawn_over_the_share_of_its_budget(folder):
    page = report.write_report([folder]).read_text()
    assert "share of the budget" in page
    assert "nnunet 1200 s, 1000 steps, Dice 0.833" in page
    first = report.write_report([folder]).read_bytes()
    assert report.write_report([folder]).read_bytes() == first


def test_the_curve_is_read_as_shares():
    found = curves.parse_training(json.dumps(CURVE).encode())
    assert found.loss[0] == (0.005, 1.495)
    assert found.validation[-1] == (1.0, pytest.approx(1000 / 1200))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"budget": "x"}', b'{"budget": 1, "steps_done": 3, "curve": [[1]]}', b'{"steps_done": 1e999}'],
)
def test_what_is_no_curve_is_refused(content):
    with pytest.raises(StoreError, match="could not be read"):
        curves.parse_training(content)


def test_steps_beyond_the_last_are_left_out_and_what_is_no_number_is_refused():
    text = '{"budget": "b", "steps_done": 10, "curve": [[10, 1.0], [99, 1.0]]}'
    assert curves.parse_training(text.encode()).loss == ((1.0, 1.0),)
    with pytest.raises(StoreError, match="could not be read"):
        curves.parse_training(text.replace("[99, 1.0]", "[5, NaN]").encode())


def test_a_damaged_curve_costs_only_its_figure(folder):
    (path,) = folder.glob("artifacts/*training.json")
    path.write_text("{")
    page = report.write_report([folder]).read_text()
    assert "share of the budget" not in page
    assert "Dice of every case" in page


def test_the_command_for_the_same_again_names_folder_and_fold():
    record = scored("nnunet", 0.9)
    work = dataclasses.replace(record.workload, data="Task04_Hippocampus:0123abcd:fold2", split="test")
    (group,) = conditions.group([dataclasses.replace(record, workload=work)])
    assert "--data path/to/Task04_Hippocampus --fold 2" in conditions.reproduce(group)


def test_networks_of_a_folder_share_a_table_though_their_patches_differ(tmp_path):
    rows = [
        on_folder(scored("nnunet", 0.89), (40, 56, 40), 0.2),
        on_folder(scored("slim_unetr", 0.84), (64, 64, 64), 0.05),
        on_folder(scored("unetr", 0.80), (48, 64, 48), 0.4),
    ]
    work = dataclasses.replace(rows[0].workload, data=None, split=None, volume=None, spatial=(48, 64, 48))
    classifier = examples.record("vit3d", workload=work)
    (group,) = conditions.group([*rows, classifier])
    assert "own patch (40x56x40 to 64x64x64)" in group.title
    assert "--spatial" not in conditions.reproduce(group)
    columns = [c.key for c in summary_rows(group.records).columns]
    assert "patch" in columns
    assert not {"rank", "ratio"} & set(columns)  # of unlike inputs
    page = report.write_report([examples.write(tmp_path / "r", rows)]).read_text()
    assert "Dice against time of a patient" in page
    assert "Pareto front: slim_unetr, nnunet." in page
    assert "One patient of 36x50x35 voxels" in page


def test_patches_of_the_phantom_stay_apart():
    record = scored("nnunet", 0.9)
    smaller = dataclasses.replace(record.workload, spatial=(96, 96, 96))
    assert len(conditions.group([record, dataclasses.replace(record, workload=smaller)])) == 2


def test_two_data_sets_stay_apart():
    rows = [on_folder(scored("nnunet", 0.9), (40, 56, 40), 0.2, data=f"Task0{i}:0123abcd") for i in (1, 2)]
    assert len(conditions.group(rows)) == 2


def test_one_patch_keeps_the_time_of_a_forward():
    rows = [on_folder(scored(name, 0.8), (64, 64, 64), 0.2) for name in ("slim_unetr", "swin_unetr")]
    table = summary_rows(rows)
    assert "patch" not in [c.key for c in table.columns]
    assert "against latency" in figures_overview.scatter(table.rows, prefix="s").svg


def paired_table(folder, *rows):
    table = summary_rows(list(rows))
    return paired_dice.table(table.rows, report.folder_reader([folder]), key="p")


def test_a_small_difference_on_every_case_is_told_where_the_intervals_overlap(tmp_path):
    draw = random.Random(3)
    hard = [draw.uniform(0.6, 0.95) for _ in range(40)]
    best = with_cases(tmp_path, scored("nnunet", 0.9), [v + 0.01 for v in hard])
    near = with_cases(tmp_path, scored("unetr", 0.9), [v + draw.gauss(0, 0.003) for v in hard])
    alike = with_cases(tmp_path, scored("vnet", 0.9), [v + 0.0099 + draw.gauss(0, 0.02) for v in hard])
    table = paired_table(tmp_path, near, best, alike)
    assert table.title == "Dice against nnunet, case by case"
    found = {line.label: line for line in table.rows}
    assert found["unetr"].cell("verdict").text == "worse"
    assert found["unetr"].cell("difference").value == pytest.approx(-0.01, abs=0.002)
    assert found["vnet"].cell("verdict").text == "not told apart"
    assert found["vnet"].cell("p").value > 0.05 >= found["unetr"].cell("p").value


def test_only_cases_that_count_for_both_are_compared(tmp_path):
    best = with_cases(tmp_path, scored("nnunet", 0.9), [0.9, None, *[0.9] * 8])
    other = with_cases(tmp_path, scored("unetr", 0.8), [None, 0.1, *[0.8] * 8])
    (line,) = paired_table(tmp_path, best, other).rows
    assert line.cell("behind").text == "8 of 8"
    assert line.cell("difference").value == pytest.approx(-0.1)
    few = with_cases(tmp_path, scored("vnet", 0.8), [0.8, 0.7])
    (line,) = paired_table(tmp_path, best, few).rows
    assert line.cell("verdict").text == "too few cases (1)"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"ids": ["a"], "values": {"dice": []}}', b'{"ids": ["a"], "values": {"dice": [NaN]}}']
)
def test_damaged_cases_cost_only_the_comparison(content, tmp_path):
    with pytest.raises(StoreError, match="not compared by it"):
        paired_dice.parse(content)
    whole = with_cases(tmp_path, scored("nnunet", 0.9), [0.9] * 8)
    kept = examples.artifact(tmp_path, "cases", "x.json", content)
    assert paired_table(tmp_path, whole, dataclasses.replace(scored("unetr", 0.8), artifacts=(kept,))) is None


def test_the_verdict_has_the_direction_of_its_test(tmp_path):
    """A mean that a few cases pull down says nothing of the ranks, which are what was tested."""
    best = with_cases(tmp_path, scored("nnunet", 0.9), [0.8] * 40)
    pulled = with_cases(tmp_path, scored("unetr", 0.9), [0.8 + 0.01 * (1 + i / 100) for i in range(35)] + [0.28] * 5)
    (line,) = paired_table(tmp_path, best, pulled).rows
    assert line.cell("difference").value < 0
    assert line.cell("verdict").text == "better by its ranks, worse on average"


def test_the_seconds_of_another_volume_do_not_join():
    row = on_folder(scored("nnunet", 0.89), (40, 56, 40), 0.2)
    work = dataclasses.replace(row.workload, data=None, split=None, volume=(64, 64, 64))
    assert len(conditions.group([row, dataclasses.replace(scored("unetr", 0.8), workload=work)])) == 2


def test_trainings_on_a_folder_share_a_table():
    rows = []
    for name, patch in (("nnunet", (40, 56, 40)), ("slim_unetr", (64, 64, 64))):
        work = on_folder(scored(name, 0.8), patch, 0.2).workload
        work = dataclasses.replace(work, phase="train", split=None, volume=None)
        rows.append(examples.record(name, workload=work, measurements=(examples.number("train_step_s", 0.5),)))
    (group,) = conditions.group(rows)
    command = conditions.reproduce(group)
    assert "--phase train" in command
    assert "--data path/to/Task04_Hippocampus" in command
    assert "--spatial" not in command


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("X:0123abcd", ""),
        ("X:0123abcd:fold3", "--fold 3"),
        ("X:0123abcd:all", "--fold all"),
        ("X:01:list23:fold1:brats", "--fold 1 --empty-rule brats"),
    ],
)
def test_the_fold_of_a_command_is_that_of_the_records(key, flag):
    (group,) = conditions.group([on_folder(scored("nnunet", 0.9), (40, 56, 40), 0.2, data=key)])
    assert conditions.reproduce(group).endswith(f"--data path/to/X {flag}".strip())
