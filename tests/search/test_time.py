"""A search keeps its time on any machine: what does not fit is left out, said, and done with more time."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from benchbench.cli.commands import search as search_command
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.search_result import SearchOutcome
from benchbench.report import render_search
from benchbench.search import phases as search_phases
from benchbench.search import run as search_run
from benchbench.search import space, storage, training_queue
from benchbench.search import trial as search_trial
from benchbench.search.budget import parse_budget
from benchbench.search.feasibility import BudgetError, check_feasible, latency_lower_bound
from benchbench.search.job import PHASES, SearchJob
from benchbench.search.phases import Worker
from benchbench.search.problem import SearchProblem
from benchbench.search.request import SearchRequest
from benchbench.search.space import Config
from benchbench.search.storage import open_storage, requeue_interrupted
from benchbench.search.trial import Evaluation, Trial, load_parent
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint
from tests import report_examples as examples
from tests.data_sets import decathlon
from tests.search.test_files import searched
from tests.toy import SPEC, Tiny, use_toy_data

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TIME_S = 240.0
PROBLEM = SearchProblem(
    data="x",
    key="x",
    spatial=(64, 64, 64),
    in_channels=1,
    out_channels=3,
    budget=parse_budget([]),
    base_bytes=3e8,
    batch=2,
    objective="macs",
)


class Machine:
    """A clock that goes on when something is trained, and a step's seconds, which may change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: Callable[[float], float], look_s: float = 1.0) -> None:
        self.now, self.step_s, self.look_s = 1e6, step_s, look_s
        self.began, self.trained = self.now, list[tuple[str, int]]()
        own = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(search_phases, "time", own)
        monkeypatch.setattr(search_phases, "evaluate", self.evaluate)
        monkeypatch.setattr(Worker, "_trial_for", lambda worker, budget, seed: Trial(budget=budget, seed=seed))
        monkeypatch.setattr(Worker, "_with_test_dice", lambda worker, label, found: self.judged(worker, found))
        monkeypatch.setattr(Worker, "_val_s", lambda worker, found: self.look_s)
        monkeypatch.setattr(Worker, "_test_to_val", lambda worker: 4.0)
        monkeypatch.setattr(Worker, "parent", lambda worker: self.parent(worker))

    @property
    def elapsed(self) -> float:
        return self.now - self.began

    def parent(self, worker: Worker) -> None:
        if not worker.parent_at_s:
            self.now += worker.job.phase_s(search_phases.PARENT_SHARE)
            worker.parent_at_s = worker.elapsed()

    def evaluate(
        self,
        problem: SearchProblem,
        config: Config,
        parent: object,
        trial: Trial,
        out: Path,
        progress: Callable[[float, str], None],
    ) -> Evaluation:
        self.now += 0.5
        start, budget = self.now, trial.budget
        for step in itertools.count(1):
            self.now += self.step_s(self.elapsed)
            progress(0.0, "a step")
            spent = self.now - start
            if (budget.steps and step >= budget.steps) or spent >= (budget.seconds or budget.most_s or float("inf")):
                break
        self.now += self.look_s
        self.trained.append((out.stem, step))
        costs = problem.costs(config)
        return Evaluation(
            dice=0.9 - 1e6 / (1e7 + costs["macs"]),
            costs=costs,
            inherited=1.0,
            train_s=self.now - start,
            measure_s=0.0,
            total_s=self.now - start + 0.5,
            steps=step,
            path=out,
        )

    def judged(self, worker: Worker, found: Evaluation) -> dict[str, Any]:
        self.now += 4 * self.look_s
        return worker._result(found)


def worker(folder: Path, **changes: Any) -> Worker:
    plain: dict[str, Any] = {"name": "s", "problem": PROBLEM, "time_s": TIME_S, "low_steps": 20, "high_steps": 80}
    job = SearchJob(**(plain | {"before_s": 20.0, "reserve_s": 40.0} | changes))
    storage = open_storage(f"sqlite:///{folder}/study.db")
    return Worker(job, folder, storage, index=0, shared=False, tell=lambda text: None)


def run(machine: Machine, folder: Path, **changes: Any) -> Worker:
    machine.began = machine.now
    machine.now += 20.0  # of measuring before
    found = worker(folder, **changes)
    found.run()
    return found


def test_a_machine_as_fast_as_was_thought_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02, look_s=0.2)
    found = run(machine, tmp_path, trials=20)
    assert found.left_out() == []
    assert len(found.finished()) >= 4
    assert 0.8 * TIME_S < machine.elapsed <= TIME_S - 40 + 5


@pytest.mark.parametrize(
    ("what", "step_s"),
    [
        ("three times slower", lambda elapsed: 0.3),
        ("twenty times slower", lambda elapsed: 2.0),
        ("slow from the promotions on", lambda elapsed: 0.05 if elapsed < 100 else 1.0),
        ("slow in the end", lambda elapsed: 0.05 if elapsed < 150 else 3.0),
        ("slow at first", lambda elapsed: 4.0 if elapsed < 90 else 0.05),
    ],
)
def test_a_slow_machine_keeps_the_time_and_has_a_finalist(
    what: str, step_s: Callable[[float], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, step_s)
    found = run(machine, tmp_path)
    assert machine.elapsed <= TIME_S
    assert found.finished()
    assert found.left_out()


def test_looking_at_the_cases_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.05, look_s=5.0)
    found = run(machine, tmp_path)
    assert machine.elapsed <= TIME_S
    assert found.finished()
    assert any("seeds" in one or "finalist" in one for one in found.left_out())


def test_what_was_left_out_is_done_with_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.05 if elapsed < 150 else 3.0)
    first = run(machine, tmp_path, trials=12)
    assert first.left_out()
    machine.step_s = lambda elapsed: 0.02
    machine.look_s = 0.1
    for part in ("s", *(f"s/{name}" for name in PHASES)):
        requeue_interrupted(storage.open_phase(first.storage, part) if part != "s" else first.study)
    more = worker(tmp_path, time_s=4 * TIME_S, trials=12)
    more.run()
    assert more.left_out() == []
    assert (
        len(more.finished()) == len(more._final_queue(more.study_of("finals").user_attrs[f"chosen{more.suffix}"])) > 1
    )
    assert not storage.open_phase(more.storage, "s/finals").get_trials(states=(optuna.trial.TrialState.WAITING,))


def test_no_time_at_all_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 1.0)
    found = run(machine, tmp_path, before_s=TIME_S, reserve_s=0.0)
    assert machine.trained == []
    assert found.finished() == []


def test_controls_are_beside_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda elapsed: 0.02)

    def controls(one: Worker) -> None:
        machine.now += 500
        one.report_training("a control")

    monkeypatch.setattr(Worker, "controls", controls)
    found = run(machine, tmp_path, controls=True, trials=6)
    assert found.controls_s == 500
    assert machine.elapsed - 500 <= TIME_S


def test_the_parts_share_what_measuring_leaves() -> None:
    job = worker_job(before_s=60.0, reserve_s=60.0)
    shares = (
        search_phases.PARENT_SHARE
        + search_phases.PROPOSAL_SHARE
        + search_phases.PROMOTION_SHARE
        + search_phases.FINAL_SHARE
    )
    assert job.phase_s(shares) == pytest.approx(TIME_S - 120)
    assert worker_job(before_s=300.0).phase_s(shares) == 0
    assert worker_job().phase_s(shares) == pytest.approx(shares * TIME_S)


def worker_job(**changes: Any) -> SearchJob:
    return SearchJob(name="s", problem=PROBLEM, time_s=TIME_S, low_steps=1, high_steps=4, **changes)


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


def measurable(elapsed: float, *, leisure: bool = False) -> tuple[list[str], list[str]]:
    """Which of three finalists are measured, and what is said to be left out."""
    one = object.__new__(search_run._Search)
    one.request, one._ignores_time, one._left_out = SearchRequest(budget=parse_budget([]), time_s=TIME_S), leisure, []
    config = rec.to_json(space.PUBLISHED)
    finals = {
        key: [training_queue.TrainingResult(label=key, what={"config": config}, result={"dice": dice, "test_s": 2.0})]
        for key, dice in (("a", 0.7), ("b", 0.9), ("c", 0.8))
    }
    at: Any = SimpleNamespace(job=worker_job(before_s=36.0, reserve_s=40.0), elapsed=lambda: elapsed, controls_s=0.0)
    return one._measurable(at, list(finals), finals), one._left_out


def test_finalists_are_measured_while_there_is_time_the_best_first() -> None:
    assert measurable(100.0) == (["b", "c", "a"], [])
    fitting, left = measurable(190.0)
    assert fitting == ["b", "c"]
    assert left == [f"the measurement of {search_phases.name_of(space.PUBLISHED)}: 'bench search --resume' does it"]
    assert measurable(TIME_S + 60)[0] == []
    assert measurable(TIME_S + 60, leisure=True) == (["b", "c", "a"], [])


def test_what_was_left_out_stands_on_the_page_and_in_the_terminal() -> None:
    found = json.loads(searched(left_out=["the finalist slim_unetr-0123ab"]))
    text = "Left out, since 30 min of search were too short: the finalist slim_unetr-0123ab."
    assert text in render_search(found)
    assert text[0].lower() + text[1:-1] in search_command.summary(SearchOutcome(folder=Path("x"), summary=found))
    assert "Left out" not in render_search(json.loads(searched()))


# -- before any training


def timed(*values: float, ci95: tuple[float, float] | None = None, status: str = "ok") -> rec.Record:
    found = examples.number("latency_s", sorted(values)[len(values) // 2], values=values, ci95=ci95)
    return examples.record("least", measurements=(found,), status=status)


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
    monkeypatch.setattr(search_run.search_plan, "networks", lambda problem, folder: [])

    def run(**changes: Any) -> list[str]:
        lines: list[str] = []

        def stop(*_: object, **more: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(search_run.runner_run, "run", stop)
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


# -- a parent


def slim(folder: Path, name: str = "slim_unetr", **kwargs: Any) -> Path:
    config = dataclasses.replace(space.PUBLISHED, **kwargs)
    spec = dataclasses.replace(
        search_phases.published_spec(PROBLEM),
        name=name,
        kwargs={**search_phases.published_spec(PROBLEM).kwargs, **config.kwargs()},
    )
    torch.manual_seed(0)
    state = zoo_build.build(spec, PROBLEM.spatial).state_dict()
    path = folder / "slim.safetensors"
    checkpoint.save(path, state, model=spec, data="x", spatial=PROBLEM.spatial, train={"cases": []})
    return path


@pytest.fixture
def any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(name="x", key="x", splits={}, ids={}, digest="", is_named_by=lambda key: key == "x")
    monkeypatch.setattr(search_trial.data, "get_plan", lambda source, **more: plan)
    monkeypatch.setattr(search_trial.checkpoint, "leaks", lambda info, plan: [])


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
