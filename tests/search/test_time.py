"""A search keeps its time on any machine: what does not fit is left out, said, and done with more time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchbench.cli.commands import search as search_command
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.search_result import SearchOutcome
from benchbench.report import render_search
from benchbench.search import finish as search_finish
from benchbench.search import measuring as search_measuring
from benchbench.search import phases, slim_unetr_configs, slim_unetr_space
from benchbench.search import run as search_run
from benchbench.search.budget import parse_budget
from benchbench.search.clock import ElapsedTime
from benchbench.search.feasibility import BudgetError, check_feasible, latency_lower_bound
from benchbench.search.measuring import Measuring
from benchbench.search.phases import Worker
from benchbench.search.request import SearchRequest
from benchbench.search.slim_unetr_space import load_parent
from benchbench.search.storage import open_storage
from benchbench.search.trainings import FinishedTraining, Journal
from benchbench.search.trajectories import Trajectories
from benchbench.search.weight_store import WeightStore
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint
from tests import report_examples as examples
from tests.data_sets import decathlon
from tests.search.simulated import PROBLEM, TIME_S, Machine, begin, make_job, run
from tests.search.test_files import searched
from tests.toy import SPEC, Tiny, use_toy_data

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


# -- trajectories


def test_a_machine_as_fast_as_was_thought_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.2)
    found = run(machine, tmp_path)
    assert found.left_out == []
    assert len(found.finished()) == 2
    assert 0.9 * TIME_S < machine.elapsed + 12 <= 1.05 * TIME_S  # with what is measured in the end
    finals_s = sum(trained.seconds - machine.of("promotion")[0].seconds for trained in machine.of("final"))
    assert finals_s > 0.55 * TIME_S - 5


def test_every_longer_training_goes_on_from_a_shorter_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.2)
    run(machine, tmp_path, trials=20)
    assert [trained.steps for trained in machine.of("proposal")] == [20] * 20
    assert len(machine.of("promotion")) == 5
    for trained in machine.of("promotion"):
        assert (trained.start, trained.steps) == (trained.label.replace("promotion", "proposal"), 80)
    for trained in machine.of("final"):
        assert trained.start == "promotion-" + trained.label.split("-")[1]
        assert trained.steps > 80


def test_states_are_deleted_when_nothing_can_go_on_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.002, look_s=0.01)
    kept = []
    plain = machine.evaluate

    def evaluate(*args: Any, **more: Any) -> Any:
        kept.append(len(machine.states))
        return plain(*args, **more)

    monkeypatch.setattr("benchbench.search.phases.evaluate", evaluate)
    run(machine, tmp_path, trials=40)
    assert max(kept) <= 13  # never more than may be promoted, and the last one
    assert sorted(machine.states) == sorted(trained.label for trained in machine.of("final"))


def test_a_second_seed_begins_anew_and_trains_as_much_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.2)
    found = run(machine, tmp_path, trials=12, seeds=2)
    assert len(found.finished()) == 4
    by_label = {trained.label: trained for trained in machine.of("final")}
    for label, trained in by_label.items():
        if "seed1" in label:
            assert trained.start is None
            assert trained.steps == by_label[label.replace("seed1", "seed0")].steps
    assert machine.elapsed <= TIME_S


@pytest.mark.parametrize(
    ("what", "step_s"),
    [
        ("three times slower", lambda elapsed: 0.3),
        ("twenty times slower", lambda elapsed: 2.0),
        ("slow from the promotions on", lambda elapsed: 0.05 if elapsed < 70 else 1.0),
        ("slow at first", lambda elapsed: 4.0 if elapsed < 60 else 0.05),
    ],
)
def test_a_slow_machine_keeps_the_time_and_has_a_finalist(
    what: str, step_s: Callable[[float], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, step_s)
    found = run(machine, tmp_path)
    assert machine.elapsed <= TIME_S
    assert found.finished()


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.05, look_s=8.0)
    found = run(machine, tmp_path, finalists=4, seeds=3)
    assert machine.elapsed <= TIME_S
    assert found.finished()
    assert any("seeds" in one or "finalist" in one for one in found.left_out)


def test_more_time_goes_on_from_the_finals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.1)
    first = run(machine, tmp_path, trials=12)
    shorter = {trained.label: trained for trained in machine.of("final")}
    more = begin(tmp_path, time_s=2 * TIME_S, trials=12)
    more.worker.propose()
    more.promote()
    more.finals()
    longer = [trained for trained in machine.of("final") if trained.label not in shorter]
    assert {trained.start for trained in longer} <= set(shorter)
    assert all(trained.seconds > shorter[str(trained.start)].seconds + 0.4 * TIME_S for trained in longer)
    assert [f.label for f in first.finished()] == [*shorter]
    assert [f.label for f in more.finished()] == [trained.label for trained in longer]
    assert machine.elapsed <= 2 * TIME_S


def test_no_time_at_all_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 1.0)
    found = run(machine, tmp_path, before_s=TIME_S, reserve_s=0.0)
    assert machine.trained == []
    assert found.finished() == []


def test_an_interrupted_search_goes_on_with_what_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.1)
    plain, left = machine.go_on, [3]

    def broken(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return plain(*args, **more)

    monkeypatch.setattr("benchbench.search.trajectories.go_on", broken)
    with pytest.raises(KeyboardInterrupt):
        run(machine, tmp_path, trials=12)
    again = begin(tmp_path, trials=12)  # the machine refuses to train anything twice
    again.worker.propose()
    again.promote()
    again.finals()
    assert len(machine.of("proposal")) == 12
    assert len(again.finished()) == 2


def test_an_interrupted_promotion_goes_on_with_the_budget_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, asked = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.1), list[tuple[str, TrainingBudget]]()
    plain = machine.go_on

    def once_broken(problem: Any, earlier: Path, budget: TrainingBudget, seed: int, out: Path, **more: Any) -> Any:
        asked.append((out.stem, budget))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(problem, earlier, budget, seed, out, **more)

    monkeypatch.setattr("benchbench.search.trajectories.go_on", once_broken)
    with pytest.raises(KeyboardInterrupt):
        run(machine, tmp_path, trials=12)
    machine.now += 10.0  # so that less time is left: its resume file is of the earlier budget
    again = begin(tmp_path, trials=12)
    again.worker.propose()
    again.promote()
    assert asked[1] == asked[2]
    assert asked[1][0].startswith("promotion-")


def promotion(name: str, dice: float, macs: float, inherited: float = 0.0) -> FinishedTraining:
    result = {"dice": dice, "inherited": inherited, "costs": {"macs": macs}}
    return FinishedTraining(label=name, what={"kind": "promotion"}, result=result)


def test_finalists_with_and_without_inherited_weights_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, lambda elapsed: 0.02)
    promoted = [
        promotion(name, dice, macs, inherited)
        for name, dice, inherited, macs in (
            ("a", 0.84, 0.9, 9.0),
            ("b", 0.83, 0.9, 2.0),
            ("c", 0.78, 0.0, 9.0),
            ("d", 0.77, 0.0, 3.0),
            ("e", 0.70, 0.0, 1.0),
        )
    ]
    assert [one.label for one in begin(tmp_path)._front_of(promoted)] == ["a", "c"]
    assert [one.label for one in begin(tmp_path, finalists=5)._front_of(promoted)] == ["a", "c", "b", "d"]
    assert [one.label for one in begin(tmp_path)._front_of(promoted[2:])] == ["c", "d"]


def test_finalists_cost_no_more_than_the_published_network_if_any_promotion_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, lambda elapsed: 0.02)
    promoted = [
        promotion("a", 0.86, 9.0),
        promotion("b", 0.84, 5.0),
        promotion("c", 0.83, 8.0),
        promotion("d", 0.80, 2.0),
    ]

    def chosen(to_beat: float | None, finalists: int = 2) -> list[str]:
        search = begin(tmp_path, finalists=finalists, to_beat=to_beat)
        return [one.label for one in search._front_of(promoted)]

    assert chosen(None) == ["a", "b"]
    assert chosen(6.0) == ["b", "d"]
    assert chosen(6.0, finalists=3) == ["b", "d", "a"]
    assert chosen(1.0) == ["a", "b"]  # nothing is cheaper


def test_another_machine_proposes_and_uploads_what_may_be_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.1)
    # what a machine proposes follows from its name and folder, which differ from run to run
    monkeypatch.setattr(phases, "zlib", SimpleNamespace(crc32=lambda place: int(b"second" in place)))
    uploaded: list[tuple[str, str]] = []
    monkeypatch.setattr(WeightStore, "put", lambda store, label: uploaded.append((store.folder.parent.name, label)))
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    first, second = (
        Worker(make_job(trials=trials), tmp_path / name, storage, index=0, shared=True, tell=lambda text: None)
        for name, trials in (("first", 8), ("second", 6))
    )
    second.propose()
    assert {name for name, _ in uploaded} == {"second"}
    first.propose()
    assert {name for name, _ in uploaded} == {"second"}  # the first has its own in its folder
    assert len(machine.of("proposal")) == 8
    finishing = Trajectories(first, Journal(tmp_path / "first"))
    finishing.promote()
    finishing.finals()
    assert finishing.finished()
    assert {label.replace("proposal", "promotion") for _, label in uploaded} & {
        t.label for t in machine.of("promotion")
    }


def test_controls_are_beside_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02)
    found = run(machine, tmp_path, trials=6)
    before = found.worker.elapsed()
    with found.worker.beside_the_time():
        machine.now += 500
    assert found.worker.elapsed() == before
    assert begin(tmp_path, trials=6).worker.elapsed() == before


def test_the_phases_share_what_measuring_leaves() -> None:
    job = make_job(before_s=8.0, reserve_s=8.8)  # 7 %
    shares = [job.proposals_s, job.promotions_s, job.finals_s]
    assert shares == pytest.approx([0.25 * TIME_S, 0.13 * TIME_S, 0.55 * TIME_S])
    short = make_job(before_s=60.0, reserve_s=60.0)
    assert short.proposals_s + short.promotions_s + short.finals_s == pytest.approx(TIME_S - 120)
    assert short.finals_s > 0.5 * (TIME_S - 120)
    assert make_job(before_s=300.0).finals_s == 0
    assert make_job(parent="train").parent_s > 0.1 * TIME_S
    assert make_job().parent_s == make_job(parent="a.safetensors").parent_s == 0


# -- a training of steps has seconds, too


def test_a_training_of_steps_ends_after_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_data(monkeypatch)
    plain: dict[str, Any] = {"bf16": False, "validations": 0, "threads": 1, "augment": False}

    def steps(most_s: float | None) -> int:
        budget = TrainingBudget(steps=6, most_s=most_s)
        recipe = TrainRecipe(data="toy", patch=(16, 16, 16), budget=budget, **plain)
        return train(Tiny(), SPEC, recipe, out=tmp_path / f"{most_s}.safetensors").steps

    assert steps(None) == 6
    assert steps(1e6) == 6
    assert steps(1e-6) == 1
    with pytest.raises(UsageError):
        TrainingBudget(steps=6, most_s=0.0)


# -- measuring in the end


def measurable(elapsed: float, monkeypatch: pytest.MonkeyPatch, folder: Path, *, late: bool) -> tuple[Any, list[str]]:
    """Which of three finalists and the published network are measured, and what is said to be left out."""
    request = SearchRequest(budget=parse_budget([]), time_s=TIME_S)
    config = rec.to_json(slim_unetr_configs.PUBLISHED)
    finals = {
        key: [FinishedTraining(label=key, what={"config": config}, result={"dice": dice, "test_s": 2.0})]
        for key, dice in (("a", 0.7), ("b", 0.9), ("c", 0.8))
    }
    asked: list[str] = []

    def measure(networks: list[Path], *more: Any, **settings: Any) -> list[str]:
        asked.extend(map(str, networks))
        return asked

    measuring = Measuring(request, ElapsedTime(folder / "times"), lambda text: None)
    monkeypatch.setattr(measuring, "measure", measure)
    worker = SimpleNamespace(job=make_job(before_s=36.0, reserve_s=40.0), elapsed=lambda: elapsed)
    own: Any = SimpleNamespace(worker=worker, problem=PROBLEM, journal=None)
    published: Any = SimpleNamespace(info=SimpleNamespace(path=Path("p")))
    nothing: Any = None
    finish = search_finish.Finish(
        request=request,
        folder=folder,
        own=own,
        measuring=measuring,
        published=published,
        baseline=nothing,
        summary=nothing,
        lines=[],
        source=nothing,
        tell=lambda text: None,
    )
    left_out: list[str] = []
    found = finish._measure({key: Path(key) for key in finals}, finals, late=late, left_out=left_out)
    assert [*found.values()] == asked
    return asked, left_out


def test_while_there_is_time_the_best_is_measured_then_the_published_network_then_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measurable(100.0, monkeypatch, tmp_path, late=True) == (["b", "p", "c", "a"], [])
    fitting, left = measurable(190.0, monkeypatch, tmp_path, late=True)
    assert fitting == ["b", "p"]
    assert left == 2 * [f"the measurement of {slim_unetr_configs.PUBLISHED.name}: 'bench search --resume' does it"]
    assert measurable(TIME_S + 60, monkeypatch, tmp_path, late=True)[0] == []
    assert measurable(TIME_S + 60, monkeypatch, tmp_path, late=False) == (["b", "p", "c", "a"], [])


def test_what_was_left_out_stands_on_the_page_and_in_the_terminal() -> None:
    found = json.loads(searched(left_out=["the finalist slim_unetr-0123ab"]))
    text = "Left out, since 30 min of search were too short: the finalist slim_unetr-0123ab."
    assert text in render_search(found)
    assert text[0].lower() + text[1:-1] in search_command.summary(SearchOutcome(folder=Path("x"), summary=found))
    assert "Left out" not in render_search(json.loads(searched()))


# -- before any training


def timed(
    *values: float, ci95: tuple[float, float] | None = None, status: str = "ok", contended: int = 0
) -> rec.Record:
    found = examples.number("latency_s", sorted(values)[len(values) // 2], values=values, ci95=ci95)
    beside = rec.Measurement.of("contended_processes", contended, "m")
    return examples.record("least", measurements=(found, beside), status=status)


@pytest.mark.parametrize(
    ("record", "refused"),
    [
        (timed(5.0), False),  # one forward shows nothing
        (timed(5.0, 5.0, 5.0, 5.0, 5.0), False),
        (timed(*[5.0] * 10), True),
        (timed(*[5.0] * 10, status="unstable"), True),
        (timed(*[5.0] * 9, 0.04), False),  # a busy machine, and a moment's quiet
        (timed(*[5.0] * 10, ci95=(0.08, 9.0)), False),
        (timed(*[0.06] * 10), False),  # what is cut may be quicker than the smallest of the others
        (timed(*[5.0] * 10, status="failed"), False),
        (timed(*[5.0] * 10, status="unstable", contended=1), False),  # beside other programs
    ],
)
def test_only_a_time_that_is_sure_refuses_a_budget(record: rec.Record, refused: bool) -> None:
    of = dataclasses.replace(PROBLEM, budget=parse_budget(["50ms"]))
    if not refused:
        check_feasible(of, latency_lower_bound(record, "infer"))
        return
    with pytest.raises(BudgetError, match="latency of one patch of the smallest one is at least 5 s"):
        check_feasible(of, latency_lower_bound(record, "infer"))


@pytest.fixture
def until_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """A search that is stopped where it would measure; returns what it has told by then."""
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = decathlon(tmp_path / "Task99_Boxes", count=12, sides=(32, 32, 32))
    monkeypatch.setattr(search_measuring.search_plan, "networks", lambda problem, folder: [])

    def run(**changes: Any) -> list[str]:
        lines: list[str] = []

        def stop(*_: object, **more: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(search_measuring.runner_run, "run", stop)
        request = SearchRequest(**({"budget": parse_budget(["2GB", "50ms"]), "data": str(folder)} | changes))
        with pytest.raises(KeyboardInterrupt):
            search_run.search(request, tmp_path / "out", plan=lines.extend)
        return lines

    return run


def test_the_plan_begins_before_anything_is_measured(until_measured: Callable[..., list[str]]) -> None:
    told_first = "\n".join(until_measured())
    assert "search: Slim UNETR for" in told_first
    assert "budget: peak memory of the process at most 2 GB; latency of one patch at most 50 ms" in told_first
    assert "time: 30 min in all" in told_first


def test_a_search_that_is_stopped_in_its_plan_goes_on(until_measured: Callable[..., list[str]], tmp_path: Path) -> None:
    until_measured()
    again = search_run.read_job(tmp_path / "out")
    assert again.job is None
    assert again.request.budget == parse_budget(["2GB", "50ms"])
    until_measured()  # as --resume does
    until_measured(budget=parse_budget(["1GB"]))  # nothing was tried there: another one may have the folder
    assert search_run.read_job(tmp_path / "out").request.budget == parse_budget(["1GB"])


@pytest.mark.parametrize(
    ("step_s", "steps"),
    [
        (0.05, 80),  # 36 proposals would train more
        (0.2, 60),  # fewer proposals, whose Dice says something
        (2.0, 31),  # as many as eight proposals have time for
    ],
)
def test_a_proposal_trains_long_enough_to_be_told_from_others_while_eight_fit(
    step_s: float, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "step_seconds", lambda of, config: step_s)
    own = search_run._Search(SearchRequest(budget=parse_budget([]), time_s=1800.0), tmp_path, lambda lines: None, None)
    assert own._job(PROBLEM, 0.0).low_steps == steps


@pytest.mark.parametrize(("step_s", "time_s", "fits"), [(0.1, 60.0, True), (1.0, 60.0, False), (1.0, 1800.0, True)])
def test_a_time_that_is_too_short_for_one_network_says_so_before_any_training(
    step_s: float, time_s: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "step_seconds", lambda of, config: step_s)
    request = SearchRequest(budget=parse_budget([]), time_s=time_s)
    own = search_run._Search(request, tmp_path, lambda lines: None, None)
    if fits:
        assert own._job(PROBLEM, 0.0).low_steps >= 8
        return
    with pytest.raises(UsageError, match=r"1 min are too short to train one network: .*; give --time 1min30s or more"):
        own._job(PROBLEM, 0.0)


# -- a parent


def slim(folder: Path, name: str = "slim_unetr", **kwargs: Any) -> Path:
    config = dataclasses.replace(slim_unetr_configs.PUBLISHED, **kwargs)
    spec = dataclasses.replace(
        slim_unetr_space.published_spec(PROBLEM),
        name=name,
        kwargs={**slim_unetr_space.published_spec(PROBLEM).kwargs, **config.kwargs()},
    )
    torch.manual_seed(0)
    state = zoo_build.build(spec, PROBLEM.spatial).state_dict()
    path = folder / "slim.safetensors"
    checkpoint.save(path, state, model=spec, data="x", spatial=PROBLEM.spatial, train={"cases": []})
    return path


@pytest.fixture
def any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(name="x", key="x", splits={}, ids={}, digest="", is_named_by=lambda key: key == "x")
    monkeypatch.setattr(slim_unetr_space.data, "get_plan", lambda source, **more: plan)
    monkeypatch.setattr(slim_unetr_space.checkpoint, "leaks", lambda info, plan: [])


@pytest.mark.usefixtures("any_data")
def test_a_parent_of_another_size_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    assert load_parent(slim(tmp_path), PROBLEM)[0].model.name == "slim_unetr"
    narrow = slim(tmp_path, widths=(12, 24, 32, 48), attention=(8, 16, 20, 24), heads=(1, 2, 4, 4))
    with pytest.raises(CheckpointError, match=r"holds a slim_unetr of another size \(its .*channels.* differ\)"):
        load_parent(narrow, PROBLEM)
    with pytest.raises(CheckpointError, match=r"its heads differ"):
        load_parent(slim(tmp_path, heads=(1, 1, 4, 4)), PROBLEM)


@pytest.mark.usefixtures("any_data")
def test_a_parent_whose_weights_are_of_another_network_is_refused(tmp_path: Path) -> None:
    path = slim(tmp_path)
    other = checkpoint.save(
        tmp_path / "tiny.safetensors", Tiny().state_dict(), model=SPEC, data="x", spatial=(16, 16, 16), train={}
    )
    path.write_bytes(other.path.read_bytes())
    with pytest.raises(CheckpointError):
        load_parent(path, PROBLEM)
    path.unlink()
    with pytest.raises(CheckpointError):
        load_parent(path, PROBLEM)
