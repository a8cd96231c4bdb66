"""The committed records are whole, and give their pages; one small page is compared byte by byte."""

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from benchbench.cli.parser import parse
from benchbench.core.results import read_records
from benchbench.report import write_report
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from benchmarks.pages import PAGES, REFERENCE, ROOT
from tests.shared_files import shared_file

#: Those without a page: neither records nor a search, or a search of the first schema with its front alone.
TABLES = {"calibration", "search-table", "search-hippocampus-parent"}
FOLDERS = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir() and path.name not in TABLES)
#: Those that hold no timings of the present: counts alone, and a Dice whose weights are too large to ship.
OTHERS = ["audit", "dice-nnunet"]
#: Those of a data set's patients, with the networks that were trained for them by one recipe and an equal budget.
TRAINED = {
    "hippocampus": {
        "slim_unetr",
        "slim_unetr_fixed",
        "slim_unetr_s2",
        "nnunet",
        "nnunet_small",
    },
    "hippocampus-earlier": {"unetr", "swin_unetr"},
    "hippocampus-hour": {"slim_unetr_fixed", "nnunet_small"},
}
PATIENTS = list(TRAINED)
#: Those of patients that show the whole zoo, most of it without weights.
ROWS = ["hippocampus-zoo"]
#: Those of patients with every runtime of some networks, by one process each.
RUNTIMES = ["runtimes-hippocampus"]
#: Those that `bench search` has left -> the controls that were run.
ALL_CONTROLS = ("scratch", "published", "scaled", "random")
SEARCHES = {
    "search-hippocampus": ALL_CONTROLS,
    "search-hippocampus-15ms": ("scratch",),
    "search-hippocampus-seed-1": ("scratch", "published", "random"),
    "search-hippocampus-seed-2": ("scratch", "published", "random"),
    "search-phantom": (),
}
FEWEST_TRAINED = {"search-phantom": 7}  # on patches of 128^3; elsewhere 20
MACHINES = [name for name in FOLDERS if name not in {*OTHERS, *PATIENTS, *ROWS, *RUNTIMES, *SEARCHES}]
LATER = {"slim_unetr_s2"}  # was found when the records of whole zoos had been made

#: Two records with their page. After a wanted change of the page: `bench report tests/report/golden`.
GOLDEN = Path(__file__).parent / "golden"

#: What the bytes of a page depend on.
DRAWN_BY = ("matplotlib", "numpy", "jinja2", "markupsafe")


def unpinned() -> list[str]:
    """Why the bytes of a page may differ here."""
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    here = {name: importlib.metadata.version(name) for name in DRAWN_BY}
    found = [f"{name} is {here[name]}, not {pins[name]}" for name in DRAWN_BY if here[name] != pins[name]]
    return found + (
        [] if sys.version_info[:2] == (3, 11) else [f"Python is {sys.version_info[0]}.{sys.version_info[1]}"]
    )


def test_a_page_is_what_its_records_give_byte_by_byte(tmp_path):
    if unpinned():
        pytest.skip(f"the page's bytes hold under constraints.txt on Python 3.11 only: {', '.join(unpinned())}")
    page = write_report([GOLDEN], tmp_path / "page.html")
    assert page.read_bytes() == (GOLDEN / "report.html").read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_committed_records_give_a_page_below_a_megabyte(name, tmp_path):
    page = write_report([REFERENCE / folder for folder in PAGES[name]], tmp_path / "page.html")
    assert page.stat().st_size < 1_000_000


def test_there_is_a_page_for_each_folder_of_records_and_none_is_left_over():
    assert {path.stem for path in (ROOT / "reports").glob("*.html")} == set(PAGES)
    assert {folder for folders in PAGES.values() for folder in folders} == set(FOLDERS) - {"dice-nnunet"}


@pytest.mark.parametrize(
    "machine", [*MACHINES, *OTHERS, *PATIENTS, *ROWS, *RUNTIMES, *(f"{name}/measured" for name in SEARCHES)]
)
def test_every_artifact_of_a_reference_record_is_there_unchanged(machine):
    for record in read_records(REFERENCE / machine):
        for artifact in record.artifacts:
            content = (REFERENCE / machine / artifact.path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == artifact.sha256


@pytest.mark.parametrize("machine", MACHINES + PATIENTS + ROWS + RUNTIMES)
def test_a_reference_machine_is_described(machine):
    described = json.loads((REFERENCE / machine / "machine.json").read_text())
    (processor,) = {r.environment["cpu"] for r in read_records(REFERENCE / machine)}
    assert described["cpu"] == processor


@pytest.mark.parametrize("folder", PATIENTS)
def test_networks_that_are_compared_by_dice_were_trained_alike(folder):
    """One recipe and one budget for all of them; none has seen a case that it is judged on."""
    shipped = (ROOT / "models" / "checkpoints").glob(f"*-{folder}.json")
    trained = [json.loads(path.read_text()) for path in [*shipped, *(REFERENCE / folder).glob("checkpoint-*.json")]]
    names = {told["model"]["name"] for told in trained}
    assert names == TRAINED[folder]
    own = ("patch", "batch", "lr")  # follow from the network's sides, and from its family
    later = {"distil": 0.0}  # what a recipe did not say before there was such a thing
    recipes = [{k: v for k, v in (later | told["train"]["recipe"]).items() if k not in own} for told in trained]
    assert all(recipe == recipes[0] for recipe in recipes)
    options = parse(["train", "nnunet", "--config", str(REFERENCE / folder / "train.toml")])
    assert recipes[0]["budget"] == str(options.budget)
    assert recipes[0]["seed"] == options.seed
    records = {r.model.name: r for r in read_records(REFERENCE / folder)}
    for told in trained:
        record, name = records[told["model"]["name"]], told["model"]["name"]
        assert record.model.checkpoint == told["sha256"]
        assert (record.workload.data, list(record.workload.spatial)) == (told["data"], told["spatial"])
        dice = record.get("dice")
        assert (dice.origin, len(dice.values)) == ("measured", 44)
        (cases,) = (a.path for a in record.artifacts if a.kind == "cases")
        reported = json.loads((REFERENCE / folder / cases).read_text())["ids"]
        assert len(reported) == 44
        assert not set(reported) & set(told["train"]["cases"])
        assert {a.kind for a in record.artifacts} >= {"picture", "training"}, name
    for name in set(records) - names:  # what has no weights yet says how to make them
        assert f"bench train {name} " in records[name].get("dice").reason


@pytest.mark.parametrize("folder", ROWS)
def test_every_network_has_a_row_on_patients_and_one_without_weights_its_command(folder):
    records = {r.model.name: r for r in read_records(REFERENCE / folder)}
    assert set(records) == set(zoo_cards.list_models())
    dense = {name for name in records if zoo_cards.get_card(name).task == "segmentation"}
    for name in sorted(dense):
        dice = records[name].get("dice")
        if name in TRAINED["hippocampus"] | TRAINED["hippocampus-earlier"]:
            assert dice.value > 0.8, name
            assert dice.origin == ("measured" if records[name].model.checkpoint else "reference")
        else:
            assert dice.value is None
            assert f"bench train {name} --data path/to/Task04_Hippocampus" in dice.reason


@pytest.mark.parametrize("name", ["slim_unetr", "slim_unetr_fixed", "slim_unetr_s2", "nnunet_small"])
def test_the_weights_that_come_along_are_those_of_the_record(name):
    (record,) = (r for r in read_records(REFERENCE / "hippocampus") if r.model.name == name)
    weights = ROOT / "models" / "checkpoints" / f"{name}-hippocampus.safetensors"
    assert checkpoint.sha256_of(weights) == record.model.checkpoint
    assert weights.stat().st_size < 10_000_000


@pytest.mark.parametrize("folder", SEARCHES)
def test_a_search_is_whole_and_names_no_place(folder):
    text = (REFERENCE / folder / "search.json").read_text()
    found = json.loads(text)
    assert "/home" not in text
    assert "/tmp" not in text
    trained = [one for one in found["trials"] if one["dice"] is not None and one["same_as"] is None]
    assert len({one["key"] for one in trained}) == len(trained) >= FEWEST_TRAINED.get(folder, 20)
    assert not any(one["spent"] for one in found["trials"] if one["dice"] is None)
    records = {record.id: record for record in read_records(REFERENCE / folder / "measured")}
    assert any(point["front"] for point in found["points"])
    for point in found["points"]:
        assert records[point["record"]].value("latency_s") == point["costs"]["latency_s"]
        assert point["keeps"] is True
    front = {point["name"] for point in found["points"] if point["front"]}
    compared = {(row["kind"], row["point"]) for row in found["comparisons"]}
    assert compared == {(kind, name) for kind in ("published weights", *SEARCHES[folder]) for name in front}
    assert len(found["not_run"]) == len(set(ALL_CONTROLS) - set(SEARCHES[folder]))


def test_the_table_that_samplers_are_compared_on_was_trained(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from search_table import choices, make

    from benchbench.search import analytic_cost

    rows = [json.loads(line) for line in (REFERENCE / "search-table" / "table.ndjson").read_text().splitlines()]
    assert {row["key"] for row in rows} == {make(choice).key for choice in choices()}
    assert len(rows) >= 200
    assert len({row["dice"] for row in rows}) > 190  # as trainings differ, no formula does
    assert {(row["steps"], row["parent_sha256"]) for row in rows} == {(rows[0]["steps"], rows[0]["parent_sha256"])}
    for row in rows:
        counted = analytic_cost.count(make(row["choice"]), 1, 3, (64, 64, 64))
        assert (row["costs"]["macs"], row["costs"]["params"]) == (counted["macs"], counted["params"])


def test_the_comparison_of_samplers_is_that_of_the_page():
    worth = json.loads((REFERENCE / "search-table" / "worth.json").read_text())
    assert worth["seeds"] >= 5
    assert set(worth["strategies"]) == {"search", "NSGA-II + rejection", "random + rejection"}
    assert json.loads((REFERENCE / "search-hippocampus" / "search.json").read_text())["worth"] == worth


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("folder", SEARCHES)
def test_every_point_of_a_front_gives_the_dice_that_was_recorded(folder):
    from benchbench import build_model
    from benchbench.training.evaluate import measure_dice

    data = "phantom" if folder == "search-phantom" else str(shared_file("data/Task04_Hippocampus"))
    found = json.loads((REFERENCE / folder / "search.json").read_text())
    for point in found["points"]:
        if not point["front"]:
            continue
        model = build_model(str(REFERENCE / folder / point["files"]["weights"])).eval()
        again = measure_dice(model, data=data, split="test", spatial=found["task"]["spatial"], surfaces=False)
        assert again.measurements[0].value == pytest.approx(point["dice_test"]["best"], abs=1e-3)


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*/train-*.toml")), ids=lambda path: path.stem)
def test_a_training_behind_the_reference_can_be_asked_for_again(path):
    name = path.stem.removeprefix("train-")
    options = parse(["train", name, "--config", str(path)])
    sidecar = next(
        s
        for s in [
            ROOT / "models" / "checkpoints" / f"{name}-phantom-128.json",
            path.with_name(f"checkpoint-{name}.json"),
        ]
        if s.exists()
    )
    told = json.loads(sidecar.read_text())
    recipe = told["train"]["recipe"]
    assert told["model"]["kwargs"] == json.loads(json.dumps(dict(zoo_cards.get_card(name).kwargs)))
    assert (recipe["steps"], recipe["seed"]) == (options.budget.steps, options.seed)
    assert recipe["patch"] == list(options.patch)
    assert recipe["lr"] == (options.lr or 1e-3)
    schedule = [[list(patch), share] for patch, share in options.patch_schedule or ()]
    assert recipe["patch_schedule"] == schedule


def test_the_reference_holds_the_whole_zoo_under_standard_and_a_dice_of_two():
    records = [r for machine in MACHINES for r in read_records(REFERENCE / machine)]
    assert {r.model.name for r in records} == set(zoo_cards.list_models()) - LATER
    assert {r.workload.protocol for r in records} == {"standard"}
    assert {len(r.get("latency_s").runs) >= 5 for r in records} == {True}
    (made_elsewhere,) = read_records(REFERENCE / "dice-nnunet")
    (nnunet,) = (r for r in records if r.model.name == "nnunet")
    assert (nnunet.get("dice").origin, nnunet.get("dice").source) == ("reference", made_elsewhere.id)
    assert {r.model.name for r in read_records(REFERENCE / "audit")} == set(zoo_cards.list_models()) - LATER
    with_dice = {r.model.name for r in records if r.value("dice") is not None}
    assert with_dice >= {"slim_unetr", "nnunet"}
    for record in records:
        assert record.ok
