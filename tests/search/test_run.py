"""`bench search` from end to end on boxes in boxes: the plan, the front, its files, what is refused, and going on.

Also after it was killed at a random point.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchbench
from benchbench import data
from benchbench.cli import main as cli_main
from benchbench.compress import importance
from benchbench.core.results import read_records
from benchbench.report import render_search
from benchbench.search import controls as search_controls
from benchbench.search import export as search_export
from benchbench.search import feasibility, pareto, slim_unetr_configs
from benchbench.search import finish as search_finish
from benchbench.search import measuring as search_measuring
from benchbench.search import phases as search_phases
from benchbench.search import result as search_result
from benchbench.search import trial as search_trial
from benchbench.search.budget import parse_budget
from benchbench.search.inheritance import Parent
from benchbench.search.problem import (
    Infeasible,
    SearchProblem,
    check_objective,
    problem_from_json,
)
from benchbench.search.search_space import RandomChooser
from benchbench.search.slim_unetr_space import published_spec
from benchbench.search.trial import build, evaluate, go_on, parent_of
from benchbench.training.evaluate import measure_dice
from benchbench.training.patch_loader import CachedPatchLoader, PatchLoader
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint
from tests.data_sets import decathlon
from tests.forked import fork_workers, server
from tests.search.quick_machine import quicken
from tests.shared_files import shared_file

SIDES = (32, 32, 32)
NOT_HERE = "not looked at here"
SMALL = ["--time", "8s", "--trials", "4", "--steps", "2", "--finalists", "2"]
SMALL += ["--protocol", "quick,half_width=1000,timed_s=0.3"]
SMALLEST = [*SMALL, "--trials", "2", "--steps", "1", "--finalists", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=12, sides=SIDES)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A cache of these tests, and one point of a front as ONNX: each takes a quarter of a minute."""
    exported, write_onnx = [], search_export.write_onnx

    def one(weights: Path, out: Path) -> tuple[str | None, float | None]:
        exported.append(weights)
        return write_onnx(weights, out) if weights == exported[0] else (NOT_HERE, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(search_export, "write_onnx", one)
        patch.setattr(search_finish, "ONNX_S", float("-inf"))  # written also where the time is over
        patch.setattr(search_measuring, "_LEAST_LIMIT_S", 600.0)  # of a measurement on a busy machine
        quicken(patch.setattr)
        fork_workers(patch)
        yield


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search of some fifty seconds, to itself of one."""
    out = tmp_path_factory.mktemp("search") / "boxes"
    flags = ["search", "--budget", "2GB", "25MMACs", "--data", str(folder), *SMALL, "--out", str(out)]
    assert cli_main.main(flags) == 0
    return out


def found(out: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((out / "search.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_search_leaves_a_front_that_can_be_used(done: Path, folder: Path) -> None:
    points = found(done)["points"]
    front = [point for point in points if point["front"]]
    assert [point for point in front if point["files"].get("onnx_reason") != NOT_HERE]
    for point in front:
        assert point["keeps"] is True
        assert point["costs"]["macs"] <= 25e6
        place = done / point["files"]["weights"]
        model = benchbench.build_model(str(place)).eval()
        again = measure_dice(model, data=str(folder), split="test", spatial=SIDES, surfaces=False)
        assert again.measurements[0].value == pytest.approx(point["dice_test"]["best"], abs=1e-3)
        assert (place.parent / "card.md").read_text().startswith(f"# {point['name']}")
        if point["files"].get("onnx_reason") == NOT_HERE:
            continue
        if "onnx" in point["files"]:
            assert point["files"]["onnx_error"] <= 1e-3
            exported = (done / point["files"]["onnx"]).read_bytes()
            assert str(Path(benchbench.__file__).parent).encode() not in exported  # no path of the machine that made it
        else:
            assert "pip install 'benchbench[onnx]'" in point["files"]["onnx_reason"]
    rows = list(csv.DictReader((done / "front.csv").open()))
    assert [row["name"] for row in rows if row["front"] == "True"] == [
        point["name"] for point in sorted(front, key=lambda p: float(p["objective"]))
    ]


@pytest.mark.slow
def test_finalists_are_measured_and_not_forecast(done: Path) -> None:
    records = {record.id: record for record in read_records(done / "measured")}
    for point in found(done)["points"]:
        record = records[point["record"]]
        assert record.get("latency_s").origin == "measured"  # type: ignore[union-attr]
        assert record.value("latency_s") == point["costs"]["latency_s"]
        assert record.value("volume_peak_memory_bytes") == point["costs"]["memory_bytes"]
        assert record.value("dice") == pytest.approx(point["dice_test"]["best"], abs=1e-6)


@pytest.mark.slow
def test_no_training_was_spent_on_what_the_budget_refuses(done: Path) -> None:
    trials = found(done)["trials"]
    assert trials
    refused = [trial for trial in trials if trial["refused"]]
    assert all(trial["dice"] is None and not trial["spent"] for trial in refused)
    trained = [trial for trial in trials if trial["dice"] is not None and trial["same_as"] is None]
    assert all(trial["costs"]["macs"] <= 25e6 for trial in trained)
    assert len({trial["key"] for trial in trained}) == len(trained)


@pytest.mark.slow
def test_a_finalist_has_trained_on_from_its_proposal_and_nothing_started_anew(done: Path) -> None:
    record = found(done)
    proposals = {one["key"]: one for one in record["trials"] if one["dice"] is not None and one["same_as"] is None}
    promotions = {one["key"]: one for one in record["promotions"]}
    assert record["finals"]
    for final in record["finals"]:
        assert proposals[final["key"]]["spent"]["steps"] == 2
        assert 2 < promotions[final["key"]]["steps"] <= 8  # a busy machine has no time for more
        assert final["steps"] > promotions[final["key"]]["steps"]
        assert final["train_s"] > promotions[final["key"]]["train_s"] > proposals[final["key"]]["spent"]["train_s"]
    states = {path.stem for path in (done / "points").glob("*.state")}
    assert states == {final["label"] for final in record["finals"]}


@pytest.mark.slow
def test_a_search_without_weights_says_what_it_does_not_know(done: Path) -> None:
    record = found(done)
    assert record["parent"] is None
    assert all(one["inherited"] == 0 for one in record["finals"])
    assert record["baseline"]["dice_test"] is None
    assert "bench train slim_unetr" in record["baseline"]["how"]
    assert any("it has costs and no Dice" in text for text in record["verdicts"])
    assert len(record["not_run"]) == 4
    page = (done / "report.html").read_text()
    assert page.index("Was the search worth it?") < page.index("Finalists")
    assert "it has costs and no Dice" in page
    assert "Not run: the same architecture from scratch" in page
    for point in record["points"]:
        if point["front"]:
            card = (done / "front" / point["name"] / "card.md").read_text()
            assert "Trained from scratch" in card
            assert "Not run" in card


@pytest.mark.slow
def test_the_record_names_no_place_of_this_machine(done: Path, folder: Path) -> None:
    text = (done / "search.json").read_text()
    assert str(folder) not in text
    assert str(done) not in text
    assert (done / "report.html").read_text() == render_search(json.loads(text))


@pytest.mark.slow
def test_going_on_runs_the_controls_and_trains_nothing_again(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = found(done)
    monkeypatch.setattr(search_controls, "_WIDEST", 1)  # which is then nearest to every point
    assert cli_main.main(["search", "--resume", str(done), "--controls"]) == 0
    after = found(done)
    assert after["trials"] == before["trials"]
    assert after["finals"] == before["finals"]
    front = [point for point in after["points"] if point["front"]]
    kinds = sorted(one["kind"] for one in after["controls"])
    assert kinds == sorted([*["scratch", "scaled"] * len(front), "published"])
    for one in after["controls"]:
        assert one["error"] is None
        assert one["inherited"] == 0.0
        if one["kind"] == "scratch":  # as much computing in all
            final = next(f for f in before["finals"] if f["key"] == one["key"])
            assert one["train_s"] >= one["seconds"] == final["train_s"]
        else:
            assert one["train_s"] >= one["seconds"] == after["asked"]["time_s"]
    scaled = [one for one in after["controls"] if one["kind"] == "scaled"]
    assert [one.get("same_as") for one in scaled] == [None] + [scaled[0]["label"]] * (len(front) - 1)
    random_s = json.loads((done / "random" / "search.json").read_text())["accounting"]["whole_s"]
    alone = sum(one["train_s"] for one in after["controls"] if "same_as" not in one)
    assert after["accounting"]["controls_s"] > random_s + alone
    trained = [json.loads(path.read_text()) for path in (done / "points").glob("*.json")]
    rates = {one["train"]["recipe"]["lr"] for one in trained if one["model"]["arch"].endswith(":NNUNet")}
    assert rates == {zoo_cards.get_card("nnunet_small").learning_rate}
    assert after["not_run"] == []
    told = {(row["kind"], row["point"]) for row in after["comparisons"]}
    kinds = ["scratch", "published", "scaled", "random"]
    assert told == {(kind, point["name"]) for kind in kinds for point in front}
    random_search = json.loads((done / "random" / "search.json").read_text())
    assert random_search["asked"]["sampler"] == "random"
    said = capsys.readouterr().out
    assert "against the same architecture from scratch, with as much computing" in said
    assert "not run" not in said
    assert "Not run" not in (done / "report.html").read_text()
    assert [row["scratch_dice_test"] for row in csv.DictReader((done / "front.csv").open()) if row["front"] == "True"]


@pytest.mark.slow
def test_what_proposals_share_changes_nothing_in_them(done: Path, folder: Path, tmp_path: Path) -> None:
    of = problem_from_json(json.loads((done / "job.json").read_text())["job"]["task"])
    budget, config = TrainingBudget(steps=2), slim_unetr_configs.scaled(0.5, "slim_unetr_fixed")
    loader = CachedPatchLoader(PatchLoader(data.get_plan(str(folder)), of.recipe(budget, 0)), most_bytes=1e9)
    loaders = [None, loader, loader]
    found = [
        evaluate(of, config, None, budget, 0, tmp_path / f"{i}.safetensors", loader=one)
        for i, one in enumerate(loaders)
    ]
    loader.end()
    assert len({one.dice for one in found}) == 1
    assert len({checkpoint.sha256_of(one.path) for one in found}) == 1


@pytest.mark.slow
def test_what_goes_on_is_what_was_trained_in_one_go(done: Path, tmp_path: Path) -> None:
    of = problem_from_json(json.loads((done / "job.json").read_text())["job"]["task"])
    config = slim_unetr_configs.scaled(0.5, "slim_unetr_fixed")
    first = evaluate(of, config, None, TrainingBudget(steps=2), 0, tmp_path / "a.safetensors")
    longer = go_on(of, first.path, TrainingBudget(steps=5), 0, tmp_path / "b.safetensors")
    assert (first.steps, longer.steps) == (2, 5)
    assert longer.train_s > first.train_s
    assert checkpoint.sha256_of(longer.path) != checkpoint.sha256_of(first.path)


@pytest.mark.slow
def test_what_costs_far_more_than_the_network_to_beat_is_not_trained(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = problem_from_json(json.loads((done / "job.json").read_text())["job"]["task"])
    of = dataclasses.replace(of, budget=parse_budget(["64GB"]))
    plain = dataclasses.replace(of, objective="macs")
    config = slim_unetr_configs.scaled(0.5, "slim_unetr_fixed")
    out, budget, cost = tmp_path / "a.safetensors", TrainingBudget(steps=1), plain.costs(config)["macs"]
    with pytest.raises(Infeasible, match="far more than the network to beat") as raised:
        evaluate(plain, config, None, budget, 0, out, to_beat=cost / 3)
    assert raised.value.excess == {"far above the network to beat": pytest.approx(0.5)}
    assert not out.exists()
    assert evaluate(plain, config, None, budget, 0, out, to_beat=cost / 1.9).steps == 1
    timed, finer = dataclasses.replace(of, objective="latency"), dataclasses.replace(config, stem=1)
    assert timed.costs(finer)["macs"] > 4 * timed.costs(timed.published)["macs"]

    def measured(*_: object) -> None:
        raise AssertionError("what its MACs refuse was timed")

    monkeypatch.setattr(search_trial, "timed_costs", measured)
    with pytest.raises(Infeasible, match="far more than the network to beat"):
        evaluate(timed, finer, None, budget, 0, out, to_beat=1e9)


@pytest.mark.slow
def test_a_network_whose_inherited_weights_are_hopeless_is_not_trained(
    done: Path, folder: Path, tmp_path: Path
) -> None:
    of = problem_from_json(json.loads((done / "job.json").read_text())["job"]["task"])
    spec = published_spec(of, "slim_unetr_fixed")
    state = zoo_build.build(spec, of.spatial).state_dict()
    weights = tmp_path / "parent.safetensors"
    checkpoint.save(weights, state, model=spec, data=of.key, spatial=of.spatial, train={"cases": []})
    parent, asked = parent_of(weights, of), []

    def hopeless(untrained: float, costs: Any) -> float:
        asked.append(untrained)
        return 0.1

    out, config = tmp_path / "a.safetensors", slim_unetr_configs.scaled(0.5, "slim_unetr_fixed")
    with pytest.raises(Infeasible, match="its inherited weights have Dice"):
        evaluate(of, config, parent, TrainingBudget(steps=1), 0, out, hopeless=hopeless)
    assert 0 <= asked[0] < 1
    assert not out.exists()
    other_stem = dataclasses.replace(config, stem=8)
    assert build(of, other_stem, parent, 0)[2] == 0.0  # its stem does not fit, so nothing is inherited


@pytest.mark.slow
def test_another_search_in_that_folder_is_refused(done: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["search", "--budget", "1GB", "--data", str(folder), *SMALL, "--out", str(done)]
    assert cli_main.main(flags) == 2
    assert "holds another search (its budget differ)" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_known(
    done: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done / "before", out / "before")  # as measured a minute ago
    plain, calls = search_phases.evaluate, []

    def broken(*args, **more):  # type: ignore[no-untyped-def]
        calls.append(args[1].key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **more)

    monkeypatch.setattr(search_export, "write_onnx", lambda weights, out: (NOT_HERE, None))
    monkeypatch.setattr(search_phases, "evaluate", broken)
    flags = ["search", "--budget", "25MMACs", "--data", str(folder), *SMALLEST, "--out", str(out)]
    assert cli_main.main(flags) == 130
    assert f"bench search --resume {out} goes on" in capsys.readouterr().err
    monkeypatch.setattr(search_phases, "evaluate", plain)
    assert cli_main.main(["search", "--resume", str(out), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["front"] is True
    tried = [one["key"] for one in found(out)["trials"] if one["dice"] is not None]
    assert set(calls) <= set(tried)  # the one that was broken off, too
    assert len(tried) == len(set(tried))


# -- killed


LONGEST_S = 120.0


def _child(words: list[str], cache: str) -> None:
    quicken()
    fork_workers(pytest.MonkeyPatch())
    search_export.write_onnx = lambda weights, out: (NOT_HERE, None)
    os.environ |= {"BENCHBENCH_CACHE": cache, "OMP_NUM_THREADS": "1"}
    sys.exit(cli_main.main(words))


def finished(out: Path) -> dict[int, tuple[Any, ...]]:
    """The trials that the storage holds as finished, by their number there: their values and what was kept of each."""
    if not (out / "study.db").exists():
        return {}
    of = "from trials join {0} using (trial_id) where state = 'COMPLETE' order by trial_id, {1}"
    found: dict[int, tuple[Any, ...]] = {}
    try:
        # not read-only: what a killed writer left half done has to be undone before anything can be read
        with sqlite3.connect(f"file:{out / 'study.db'}?mode=rw", uri=True, timeout=10) as file:
            for more, key, value in (
                ("trial_values", "objective", "value"),
                ("trial_params", "param_name", "param_value"),
                ("trial_user_attributes", '"key"', "value_json"),
            ):
                for number, *what in file.execute(f"select trial_id, {key}, {value} {of.format(more, key)}"):
                    found[number] = (*found.get(number, ()), tuple(what))
    except sqlite3.OperationalError:  # its tables are being made
        return {}
    return found


@pytest.fixture
def start() -> Iterator[Any]:
    begun: list[Any] = []

    def start(words: list[str]) -> Any:
        child = server().Process(target=_child, args=(words, os.environ["BENCHBENCH_CACHE"]))
        child.start()
        begun.append(child)
        return child

    yield start
    for child in begun:
        child.kill()
        child.join()


@pytest.mark.slow
def test_a_killed_search_goes_on_and_keeps_what_it_had_finished(
    done: Path, folder: Path, start: Any, tmp_path: Path
) -> None:
    chance, out = random.Random(5), tmp_path / "out"
    shutil.copytree(done / "before", out / "before")  # nothing is killed before the first trial
    flags = [*SMALLEST, "--threads", "1"]
    child = start(["search", "--budget", "25MMACs", "--data", str(folder), *flags, "--out", str(out)])
    until = time.monotonic() + LONGEST_S
    while not finished(out) and child.is_alive() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 3.0))
    assert child.exitcode is None, "it had ended before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    before = finished(out)
    assert before

    child = start(["search", "--resume", str(out)])
    child.join(LONGEST_S)
    assert child.exitcode == 0
    assert before.items() <= finished(out).items()
    found = json.loads((out / "search.json").read_text())
    front = [point for point in found["points"] if point["front"]]
    assert front
    for point in front:
        weights = out / point["files"]["weights"]
        assert checkpoint.read_sidecar(weights).sha256 == checkpoint.sha256_of(weights)
    tried = [one["key"] for one in found["trials"] if one["dice"] is not None and one["same_as"] is None]
    assert len(tried) == len(set(tried))
    assert not list(out.rglob("*.partial"))


# -- refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "2 bananas"], "'2 bananas' is no budget: write 2GB"),
        (["--budget", "-1GB"], "budget"),
        (["--budget", "0"], "budget"),
        (["--budget", "2GB", "1GiB"], "'2GB' and '1GiB' are both budgets of the peak memory"),
        (["--objective", "beauty"], "'beauty'"),
        (["--storage", "postgresql://me:secret@127.0.0.1:9/none"], "cannot open the search's storage"),
        (["--storage", "nonsense"], "cannot open the search's storage nonsense"),
        (["--resume", "nowhere"], "nowhere is no folder of a search"),
        (["--resume", "nowhere", "--seeds", "3"], "--seeds cannot be given with --resume"),
        (["--parent", "nowhere.safetensors"], "nowhere"),
        (["--parent", "shipped"], "no weights of the published network come with benchbench for Task99_Boxes"),
    ],
)
def test_bad_input_is_a_line(
    flags: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if "--resume" in flags else ["--data", str(folder), "--out", str(tmp_path / "out")]
    assert cli_main.main(["search", *flags, *where]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert len(error.strip().splitlines()) == 1


def test_what_nothing_can_keep_is_said_before_any_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main.main(["search", "--budget", "1kMACs", "--data", str(folder), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "no network of the space can keep 1kMACs: MACs of one patch of the smallest one is" in error
    assert not (tmp_path / "out" / "points").exists()


def test_data_without_cases_to_choose_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = decathlon(tmp_path / "few", count=2, sides=SIDES)
    assert cli_main.main(["search", "--budget", "2GB", "--data", str(few), "--out", str(tmp_path / "out")]) == 2
    assert "has no case to" in capsys.readouterr().err


def test_a_parent_of_another_network_is_refused(folder: Path) -> None:
    problem = SearchProblem(
        data=str(folder), key="x", spatial=SIDES, in_channels=1, out_channels=3, budget=parse_budget([]), batch=1
    )
    shipped = Path(benchbench.__file__).parent / "models" / "checkpoints"
    from benchbench.core.errors import CheckpointError

    wanted = "holds 'nnunet_small', which is no whole slim_unetr or slim_unetr_fixed"
    with pytest.raises(CheckpointError, match=wanted):
        parent_of(shipped / "nnunet_small-hippocampus.safetensors", problem)
    with pytest.raises(CheckpointError, match=r"is for 1 channels in, 3 out and a patch of \(64, 64, 64\)"):
        parent_of(shipped / "slim_unetr-hippocampus.safetensors", problem)


def test_energy_needs_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchbench.core.errors import UsageError
    from benchbench.search import problem as search_problem

    monkeypatch.setattr(search_problem, "open_meter", lambda backend: "no counter")
    with pytest.raises(UsageError, match="energy cannot be an objective here: no counter; take latency"):
        check_objective("energy")
    check_objective("latency")


# -- what is known before any training


def problem(*budget: str, spatial: tuple[int, int, int] = (64, 64, 64), **more: object) -> SearchProblem:
    return SearchProblem(
        data="x",
        key="x",
        spatial=spatial,
        in_channels=1,
        out_channels=3,
        budget=parse_budget(budget),
        **more,  # type: ignore[arg-type]
    )


def test_the_smallest_is_smaller_than_anything_drawn() -> None:
    of = problem()
    least = feasibility.smallest(of)
    chooser = RandomChooser(1)
    for _ in range(300):
        config = slim_unetr_configs.suggest(chooser)
        if config.fits(of.spatial) and config.scope == "layer":
            assert all(of.costs(config)[metric] >= value for metric, (value, _) in least.items())


def test_a_budget_that_does_not_bind_says_what_would() -> None:
    of = problem("2GB", "100MMACs")
    memory, macs = feasibility.binding(of.budget, {"memory_bytes": 4.84e8, "macs": 2.81e8}, {"memory_bytes": 4.6e8})
    assert memory.startswith("2GB does not bind: the unmodified network takes 24% of it (484 MB); less than that would")
    assert macs.startswith("100MMACs binds: the unmodified network takes 2.81 of it")
    (latency,) = feasibility.binding(parse_budget(["50ms"]), {"latency_s": 2e-4}, {}, predicted=True)
    assert latency.endswith("takes at least 200 us by the data sheet, so whether it binds cannot be said")


def test_the_profile_counts_what_is_feasible() -> None:
    whole, some = (
        feasibility.summarise_space(problem(), drawn=300),
        feasibility.summarise_space(problem("20MMACs"), drawn=300),
    )
    assert whole.feasible == whole.drawn == some.drawn
    assert 0 < some.feasible < some.drawn


def test_training_holds_more_than_inference() -> None:
    config = slim_unetr_configs.published("slim_unetr")
    infer, train = problem().costs(config), problem(phase="train").costs(config)
    assert train["memory_bytes"] - infer["memory_bytes"] == 12 * infer["params"]


def test_a_task_survives_json() -> None:
    of = problem("2GB", "50ms", device="jetson", profile=True, batch=2)
    assert problem_from_json(json.loads(json.dumps(of.to_json()))) == of


def test_a_calibrated_profile_gives_a_latency_that_is_no_bound(tmp_path: Path) -> None:
    from benchbench.devices.forecast import forecast_latency
    from benchbench.devices.profile import load_profile, write_profile
    from benchbench.measure.flops.graph import measure_cost
    from benchbench.search.problem import counted_costs
    from benchbench.zoo import build as zoo_build
    from tests.runner.test_calibrate import PROFILE

    path = tmp_path / "me.toml"
    write_profile(PROFILE, path)
    of = problem("2GB", "50ms", device=str(path), profile=True)
    net = zoo_build.build(zoo_cards.get_card("slim_unetr").spec(in_channels=of.in_channels), of.spatial)
    forecast = forecast_latency(measure_cost(net, (1, of.in_channels, *of.spatial)).operators, load_profile(path))
    assert not isinstance(forecast, str)
    assert forecast.tier == "calibrated"
    assert counted_costs(of, net)["latency_s"] == forecast.seconds > forecast.interval[0]


# -- who is promoted


def test_the_best_front_comes_first_and_its_ends_before_its_middle() -> None:
    points = [(0.1, 9.0), (0.2, 5.0), (0.21, 4.9), (0.5, 1.0), (0.3, 9.5), (0.6, 6.0)]
    order = pareto.by_rank(points)
    assert order[:2] == [0, 3]
    assert set(order[:4]) == {0, 1, 2, 3}
    assert order[4:] == [4, 5]
    assert pareto.spread(points[:4], 3) == [0, 3, 2]


# -- what is said in the end


def test_hypervolume_grows_with_what_is_known() -> None:
    from benchbench.search.proposals import Tried

    of = problem(objective="macs")

    def tried(n: int, config: slim_unetr_configs.Config, dice: float) -> Tried:
        return Tried(
            number=n,
            config=config,
            dice=dice,
            costs=of.costs(config),
            refused={},
            same_as=None,
            error=None,
            spent={},
            at_s=10.0 * n,
        )

    known = [
        tried(0, slim_unetr_configs.PUBLISHED, 0.8),
        tried(1, slim_unetr_configs.scaled(0.5), 0.79),
        tried(2, slim_unetr_configs.scaled(0.75), 0.6),
    ]
    curve = search_result.hypervolume_curve(known, of, of.costs(slim_unetr_configs.PUBLISHED))
    assert curve["reference"] == {"dice": 0.5, "macs": 1.25 * of.costs(slim_unetr_configs.PUBLISHED)["macs"]}
    shares = [one["share"] for one in curve["curve"]]
    assert shares[0] == pytest.approx(0.6 * 0.2)
    assert shares[1] > shares[0]
    assert shares[2] == shares[1]  # beaten by both
    assert [one["at_s"] for one in curve["curve"]] == [0.0, 10.0, 20.0]


def test_the_front_is_chosen_by_val_among_those_that_keep_the_budget() -> None:
    def point(dice: float, cost: float, keeps: bool | None) -> dict[str, object]:
        return {"dice_val": {"mean": dice}, "dice_test": {"mean": 1 - dice}, "objective": cost, "keeps": keeps}

    points = [point(0.8, 2.0, True), point(0.7, 1.0, True), point(0.6, 1.5, True), point(0.9, 0.5, False)]
    search_result.mark_front(points)  # type: ignore[arg-type]
    assert [one["front"] for one in points] == [True, True, False, False]


def test_what_differs_from_the_published_network_is_named() -> None:
    assert slim_unetr_configs.text_of(slim_unetr_configs.PUBLISHED) == "as published"
    config = slim_unetr_configs.Config(widths=(12, 24, 32, 48), prune=0.3, scope="global", criterion="taylor")
    assert slim_unetr_configs.text_of(config) == "widths 12-24-32-48, 30% pruned by taylor, global"


@pytest.mark.slow
def test_the_page_shows_the_sampler_beside_chance(done: Path) -> None:
    curve = [[10.0 * i, 0.02 * i, 0.02 * i - 0.01, 0.02 * i + 0.01] for i in range(1, 21)]
    own = {"end": 0.4, "ci95": [0.39, 0.41], "curve": curve, "faster_than_nsga2": 1.6, "faster_ci95": [1.2, 2.0]}
    told = {"table": 256, "feasible": 200, "limit": "100MMACs", "budget_s": 200.0, "seeds": 10}
    worth = told | {"strategies": {"search": own, "NSGA-II + rejection": own, "random + rejection": own}}
    page = render_search(found(done) | {"worth": worth})
    assert "256 configurations were trained beforehand, 200 of them within 100MMACs" in page
    assert "reaches what NSGA-II ends with 1.60 times as fast (1.20 to 2.00)" in page
    assert "Beside chance and NSGA-II" not in render_search(found(done))


# -- inheritance, on real patients

CHECKPOINTS = Path(benchbench.__file__).parent / "models" / "checkpoints"


@pytest.fixture(scope="module")
def hippocampus() -> tuple[SearchProblem, Parent]:
    plan = data.get_plan(str(shared_file("data/Task04_Hippocampus")))
    of = dataclasses.replace(problem(batch=2), data=plan.where, key=plan.key)
    return of, parent_of(CHECKPOINTS / "slim_unetr-hippocampus.safetensors", of)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("variant", slim_unetr_configs.VARIANTS)
def test_a_child_begins_better_than_chance(variant: str, hippocampus: tuple[SearchProblem, Parent]) -> None:
    weights = CHECKPOINTS / f"{variant}-hippocampus.safetensors"
    sides = json.loads(weights.with_suffix(".json").read_text())["spatial"]
    of = dataclasses.replace(hippocampus[0], spatial=tuple(sides))
    parent = parent_of(weights, of)
    batches, loss = of.gradients(4)
    cases = list(batches)

    def mean_loss(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(np.mean([loss(model.eval()(image), target).item() for image, target in cases]))

    for share in (0.75, 0.5):
        config = slim_unetr_configs.scaled(share, variant)
        child, spec, inherited = build(of, config, parent, 0)
        ranked_at_random = [mean_loss(zoo_build.build(spec, of.spatial)) for _ in range(2)]
        assert inherited > 0.8
        assert mean_loss(child) < 0.9 * min(ranked_at_random)


@pytest.mark.shared
@pytest.mark.slow
def test_the_other_variant_whose_attention_differs_inherits_nothing(hippocampus: tuple[SearchProblem, Parent]) -> None:
    of, parent = hippocampus
    own, other = slim_unetr_configs.VARIANTS
    assert build(of, slim_unetr_configs.scaled(0.5, own), parent, 0)[2] > 0.8
    assert build(of, slim_unetr_configs.scaled(0.5, other), parent, 0)[2] == 0.0


@pytest.mark.shared
@pytest.mark.slow
def test_the_ranking_of_the_channels_matters(hippocampus: tuple[SearchProblem, Parent]) -> None:
    of, parent = hippocampus
    batches, loss = of.gradients(4)
    cases = list(batches)

    def mean_loss(of_parent: Parent) -> float:
        child, _, _ = build(of, slim_unetr_configs.scaled(0.5), of_parent, 0)
        with torch.no_grad():
            return float(np.mean([loss(child.eval()(image), target).item() for image, target in cases]))

    by_chance = [dataclasses.replace(parent, scores=tuple(importance.random(parent.structure, n))) for n in range(3)]
    ranked_at_random = [mean_loss(one) for one in by_chance]
    assert mean_loss(parent) < min(ranked_at_random)
