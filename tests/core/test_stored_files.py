"""Files that benchbench has written: all that are kept here read with the same values, and changed ones are refused."""

import json
from pathlib import Path

import pytest
import torch

from benchbench.core import records as rec
from benchbench.core.config import read_toml
from benchbench.core.errors import CardError, CheckpointError, ShapeError, StoreError
from benchbench.core.results import read_records
from benchbench.data.plan import plan_from_json, plan_to_json
from benchbench.report import paired_dice
from benchbench.report.figures import curves
from benchbench.runner import estimate as runner_estimate
from benchbench.runner.calibration_journal import CalibrationJournal
from benchbench.runner.schedule import JOURNAL
from benchbench.runner.schedule import RunJournal as Turns
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from tests.report_examples import finished

ROOT = Path(__file__).resolve().parents[2]
LINE = rec.record_to_json(finished("slim_unetr"))
SHIPPED = sorted((ROOT / "models" / "checkpoints").glob("*.json"))
SIDECAR = json.loads((ROOT / "models" / "checkpoints" / "slim_unetr-hippocampus.json").read_text())


def within(part, whole):
    """Whether all that an older file says is in the newer form of it."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return type(part) is type(whole) and part == whole


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "reference").rglob("*.jsonl")), ids=lambda p: p.parent.name)
def test_every_reference_record_comes_back_with_its_values(path):
    lines = path.read_text().splitlines()
    records = list(read_records(path))
    assert len(records) == len(lines)
    for line, record in zip(map(json.loads, lines), records, strict=True):
        for passing in ("id", "cell", "schema"):  # computed, and of an older schema's fields
            line.pop(passing)
        for measurement in line["measurements"]:
            measurement["metric"] = measurement["metric"].replace("disturbed_processes", "contended_processes")
        assert within(line, rec.record_to_json(record))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_sidecar_comes_back_with_its_values(path):
    plain, info = json.loads(path.read_text()), checkpoint.read_sidecar(path)
    assert within(plain["model"], rec.to_json(info.model))
    assert (plain["train"], plain["sha256"], tuple(plain["spatial"])) == (info.train, info.sha256, info.spatial)
    if info.plan:
        assert within(plain["plan"], json.loads(json.dumps(plan_to_json(info.plan))))
        assert plan_from_json(json.loads(json.dumps(plan_to_json(info.plan)))) == info.plan


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results/reference/calibration").glob("*.ndjson")), ids=lambda p: p.name
)
def test_every_journal_of_a_calibration_comes_back_with_its_values(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    found = CalibrationJournal(path)
    assert sum(map(len, found.known.values())) == sum("seconds" in row for row in rows)
    for row in rows:
        if "call" in row:
            assert within(row["cost"], rec.to_json(found.costs[row["call"]]))
        elif "network" in row:
            assert found.networks[row["network"]] == row["calls"]


def changed(plain, place, value):
    """A copy with another value at `model.in_channels`, or at `measurements.0.ci95`."""
    copy = json.loads(json.dumps(plain))
    *way, last = place.split(".")
    inner = copy
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[int(last) if last.isdigit() else last] = value
    return copy


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("measurements.4.ci95", [1.0, 2.0, 3.0], r"measurements\[4\]\.ci95 must have 2 values, not 3"),
        ("measurements.4.interval", [1.0], r"interval must have 2 values, not 1"),
        ("measurements.4.values", "1.0", r"values must be a list"),
        ("measurements.4.values", [True], r"values\[0\] must be float"),
        ("measurements.4.runs", [-1], r"runs\[0\] must be at least 0"),
        ("workload.batch", 0, r"workload\.batch must be at least 1"),
        ("workload.spatial", [64, -64, 64], r"workload\.spatial\[1\] must be at least 1"),
        ("workload.spatial", "64", r"workload\.spatial must be a list"),
        ("workload.crop_foreground", 1, r"workload\.crop_foreground must be bool"),
        ("model.in_channels", True, r"model\.in_channels must be int"),
        ("model.kwargs", [], r"model\.kwargs must be an object"),
        ("duration_s", -1.0, r"duration_s must be at least 0"),
        ("artifacts", [[]], r"artifacts\[0\]: Artifact must be an object"),
    ],
)
def test_a_record_with_a_wrong_field_is_one_line_that_names_it(tmp_path, place, value, message):
    (tmp_path / "records.jsonl").write_text(json.dumps(changed(LINE, place, value)) + "\n")
    with pytest.raises(StoreError, match=message) as error:
        read_records(tmp_path)
    assert "\n" not in str(error.value)
    assert "line 1" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"cores": 2', '"cores": NaN'),
        ('"cores": 2', f'"cores": {"[" * 5000}{"]" * 5000}'),
        ('"cores": 2', f'"cores": {"[" * 200}{"]" * 200}'),
        ('"cores": 2', f'"cores": 1{"0" * 400}'),
        ('"cores": 2', '"cores": 1e999'),
        ('"cores": 2', '"cores": "\\ud800"'),
    ],
    ids=["NaN", "5000 levels", "200 levels", "10^400", "1e999", "a lone surrogate"],
)
def test_a_record_that_is_no_strict_json_is_one_line(tmp_path, old, new):
    text = json.dumps(LINE)
    assert old in text
    (tmp_path / "records.jsonl").write_text(text.replace(old, new) + "\n")
    with pytest.raises(StoreError, match="line 1 is not a benchbench record"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("plan.paint", "12", r"plan\.paint must be a list"),
        ("plan.paint", [1], r"plan\.paint must have one label for each"),
        ("plan.paint", [1, 2**40], "labels, regions and paint must be of"),
        ("plan.regions", [["a", "b"]], r"plan\.regions\[0\]\[1\] must be a list"),
        ("plan.regions", [["a", []]], "regions must name at least one, each with labels"),
        ("plan.regions", [["a"]], r"plan\.regions\[0\] must have 2 values"),
        ("plan.regions", {"a": [1]}, r"plan\.regions must be a list"),
        ("plan.labels", [[True, "a"]], r"plan\.labels\[0\]\[0\] must be int"),
        ("plan.channels", "MR", r"plan\.channels must be a list"),
        ("plan.patch", [40, 56], r"plan\.patch must have 3 values"),
        ("plan.patch", [40, 56, 0], r"plan\.patch\[2\] must be at least 1"),
        ("plan.spacing_mm", [1, 1, 0], r"plan\.spacing_mm must be above 0"),
        ("plan.preparation.clip", [1.0], r"plan\.preparation\.clip must have 4 values"),
        ("plan.preparation.resample", "no", r"plan\.preparation\.resample must be bool"),
        ("plan.fold", 1.5, r"plan\.fold must be int"),
        ("plan", [], "plan must be an object"),
        ("model.kwargs", "none", r"model\.kwargs must be an object"),
        ("train.cases", "all", r"train\.cases must be a list"),
        ("train.seconds", "long", r"train\.seconds must be float"),
        ("spatial", [64.0, 64, 64], r"spatial\[0\] must be int"),
        ("spatial", [64, 64], r"spatial must have 3 values"),
        ("sha256", "ab", "64 hexadecimal digits"),
        ("compression", [1], "compression must be an object"),
    ],
)
def test_a_sidecar_with_a_wrong_field_is_one_line_that_names_it(tmp_path, place, value, message):
    (tmp_path / "w.json").write_text(json.dumps(changed(SIDECAR, place, value)))
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.read_sidecar(tmp_path / "w.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["x = inf", "x = 2020-01-01", "x = 07:00:00", f"x = {10**30}", f"x = 1{'0' * 5000}", f"x = {'[' * 150}{']' * 150}"],
    ids=["inf", "date", "time", "10^30", "10^5000", "150 levels"],
)
def test_toml_that_no_json_could_say_is_one_line(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(CardError, match="is not valid TOML"):
        read_toml(tmp_path / "a.toml", "the card", CardError)


@pytest.mark.parametrize(
    "row",
    [
        '{"key": "a", "seconds": "1"}',
        '{"key": "a", "seconds": NaN}',
        '{"key": "a", "seconds": -1}',
        '{"key": []}',
        '{"call": "a", "cost": []}',
        '{"call": "a", "cost": {"operator": 1}}',
        '{"network": "n", "key": "k", "calls": 1}',
        '{"basics": "abc"}',
        "[]",
        "1",
        "[" * 3000,
    ],
)
def test_a_journal_with_a_wrong_line_is_refused(tmp_path, row):
    (tmp_path / "a.ndjson").write_text(f'{{"identity": "one"}}\n{row}\n')
    with pytest.raises(StoreError, match="cannot use the journal") as error:
        CalibrationJournal(tmp_path / "a.ndjson", "one")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line", ["[1]", "[" * 3000, '{"cell": "c", "environment": "e", "repeat": false, "result": []}']
)
def test_turns_that_cannot_be_read_are_measured_again(tmp_path, line):
    (tmp_path / JOURNAL).write_text(line + "\n")
    assert Turns(tmp_path).results("c", {}) == []


@pytest.mark.parametrize("content", ["[" * 3000, "NaN", "[]", '{"a": 1e999}'])
def test_a_count_that_cannot_be_read_is_made_again(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert runner_estimate.read_count(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", [b"[" * 3000, b'{"ids": "ab", "values": {"dice": [1, 1]}}', b"\xff", b"[]"])
def test_broken_artifacts_are_said(content):
    with pytest.raises(StoreError):
        paired_dice.parse(content)
    with pytest.raises(StoreError):
        curves.parse_training(content)


def test_a_dice_above_one_is_none():
    with pytest.raises(StoreError, match="from 0 to 1"):
        paired_dice.parse(b'{"ids": ["a"], "values": {"dice": [1e300]}}')


def test_keywords_of_a_network_larger_than_memory_are_refused_before_it_is_made():
    spec = rec.ModelSpec(
        name="huge",
        arch="benchbench.models.unet3d:UNet3D",
        kwargs={"base_filters": 100_000},
        in_channels=1,
        out_channels=2,
    )
    with pytest.raises(ShapeError, match="its weights alone take"):
        zoo_build.build_here(spec, (32, 32, 32))


def test_looking_at_the_size_of_a_network_changes_no_weights():
    spec = zoo_cards.get_card("slim_unetr").spec()
    torch.manual_seed(3)
    one = zoo_build.build(spec, (64, 64, 64)).state_dict()
    torch.manual_seed(3)
    two = zoo_build.build_here(spec, (64, 64, 64)).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
