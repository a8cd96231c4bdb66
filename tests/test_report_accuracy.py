"""The report of accuracy: a dot for every case, a curve for every training, and nothing believed that is damaged."""

import dataclasses
import json
import random

import pytest

from benchbench import report
from benchbench.errors import StoreError
from benchbench.report import cases, conditions, training
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
    (anterior, posterior) = cases.lines(summary_rows([record], None).rows)
    assert anterior.label.endswith("anterior")
    assert anterior.mean == record.value("dice_anterior")
    assert len(posterior.values) == 10


def test_a_training_is_drawn_over_the_share_of_its_budget(folder):
    page = report.write_report([folder]).read_text()
    assert "share of the budget" in page
    assert "nnunet 1200 s, 1000 steps, Dice 0.833" in page
    first = report.write_report([folder]).read_bytes()
    assert report.write_report([folder]).read_bytes() == first


def test_the_curve_is_read_as_shares():
    found = training.parse(json.dumps(CURVE).encode())
    assert found.loss[0] == (0.005, 1.495)
    assert found.validation[-1] == (1.0, pytest.approx(1000 / 1200))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"budget": "x"}', b'{"budget": 1, "steps_done": 3, "curve": [[1]]}', b'{"steps_done": 1e999}'],
)
def test_what_is_no_curve_is_refused(content):
    with pytest.raises(StoreError, match="could not be read"):
        training.parse(content)


def test_values_that_are_no_numbers_are_left_out():
    text = '{"budget": "b", "steps_done": 10, "curve": [[5, NaN], [10, 1.0], [99, 1.0]]}'
    assert training.parse(text.encode()).loss == ((1.0, 1.0),)


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
    assert "--data Task04_Hippocampus --fold 2" in conditions.reproduce(group)
