"""A machine for a search's trainings that only counts: a clock that goes on when something is trained."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchbench.search import phases as search_phases
from benchbench.search import trajectories as search_trajectories
from benchbench.search.budget import parse_budget
from benchbench.search.job import SearchJob
from benchbench.search.phases import Worker
from benchbench.search.problem import SearchProblem
from benchbench.search.slim_unetr_configs import Config
from benchbench.search.storage import open_storage
from benchbench.search.trainings import Journal
from benchbench.search.trajectories import Trajectories
from benchbench.search.trial import Evaluation
from benchbench.search.weight_store import WeightStore
from benchbench.training.recipe import TrainingBudget

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


@dataclasses.dataclass
class Trained:
    """A training: what it began from, and what it has had in all."""

    label: str
    start: str | None
    steps: int
    seconds: float


class Machine:
    """A clock, and a step's seconds, which may change; states of trainings are kept by their label."""

    def __init__(self, patch: pytest.MonkeyPatch, step_s: Callable[[float], float], look_s: float = 1.0) -> None:
        self.now, self.step_s, self.look_s = 1e6, step_s, look_s
        self.began, self.trained = self.now, list[Trained]()
        self.states: dict[str, Trained] = {}
        self.dice: dict[str, float] = {}  # by the key of a configuration, whatever it is trained for
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now, sleep=self.sleep)
        patch.setattr(search_phases, "time", clock)
        patch.setattr(search_phases, "evaluate", self.evaluate)
        patch.setattr(search_trajectories, "go_on", self.go_on)
        patch.setattr(search_trajectories, "build", lambda problem, config, parent, seed: (None, config, 0.0))
        patch.setattr(search_trajectories, "train_network", self.train_network)
        patch.setattr(search_trajectories, "dice_on_test", self.judge)
        patch.setattr(search_trajectories.checkpoint, "read_sidecar", lambda path: SimpleNamespace(sha256="0" * 64))
        splits = SimpleNamespace(splits={"val": 1, "test": 4})
        patch.setattr(search_trajectories.data, "get_plan", lambda name: splits)
        patch.setattr(Worker, "batches", lambda worker, budget: None)
        patch.setattr(WeightStore, "state", lambda store, label: store.path(label) if label in self.states else None)
        patch.setattr(WeightStore, "get", lambda store, label: store.path(label))
        patch.setattr(WeightStore, "forget_state", lambda store, label: self.states.pop(label, None))

    @property
    def elapsed(self) -> float:
        return self.now - self.began

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def evaluate(
        self,
        problem: SearchProblem,
        config: Config,
        parent: object,
        budget: TrainingBudget,
        seed: int,
        out: Path,
        *,
        progress: Callable[[float, str], None],
        **more: Any,
    ) -> Evaluation:
        self.now += 0.5
        found = self._train(out.stem, None, budget, progress)
        costs = problem.costs(config)
        dice = self.dice[config.key] = 0.9 - 1e6 / (1e7 + costs["macs"])
        return dataclasses.replace(found, dice=dice, costs=costs, total_s=found.total_s + 0.5)

    def go_on(
        self,
        problem: object,
        earlier: Path,
        budget: TrainingBudget,
        seed: int,
        out: Path,
        *,
        progress: Any,
        **more: Any,
    ) -> Evaluation:
        return self._train(out.stem, earlier.stem, budget, progress)

    def train_network(self, recipe: Any, model: object, spec: object, out: Path, *, progress: Any, **more: Any) -> Any:
        return self._train(out.stem, None, recipe.budget, progress)

    def _train(self, label: str, start: str | None, budget: TrainingBudget, progress: Any) -> Evaluation:
        assert label not in [trained.label for trained in self.trained], f"{label} is trained twice"
        before = self.states[start] if start else Trained("", None, 0, 0.0)
        began = self.now
        for step in itertools.count(before.steps + 1):
            self.now += self.step_s(self.elapsed)
            progress(0.0, "a step")
            spent = before.seconds + self.now - began
            if (budget.steps and step >= budget.steps) or spent >= (budget.seconds or budget.most_s or float("inf")):
                break
        self.trained.append(Trained(label, start, step, spent))
        self.states[label] = self.trained[-1]
        self.now += self.look_s
        return Evaluation(
            dice=self.dice.get(label.split("-")[1], 0.0),
            costs={},
            inherited=0.0,
            train_s=spent,
            val_s=self.look_s,
            total_s=self.now - began,
            steps=step,
            path=Path(f"{label}.safetensors"),
        )

    def judge(self, problem: object, weights: Path) -> dict[str, Any]:
        self.now += 4 * self.look_s
        return {"dice": 0.8, "values": [0.7, 0.9], "ids": ["a", "b"]}

    def of(self, kind: str) -> list[Trained]:
        return [trained for trained in self.trained if trained.label.startswith(f"{kind}-")]


def make_job(**changes: Any) -> SearchJob:
    plain: dict[str, Any] = {"name": "s", "problem": PROBLEM, "time_s": TIME_S, "low_steps": 20}
    return SearchJob(**(plain | {"before_s": 12.0, "reserve_s": 12.0} | changes))


def begin(folder: Path, **changes: Any) -> Trajectories:
    """A search that is about to propose."""
    storage = open_storage(f"sqlite:///{folder}/study.db")
    worker = Worker(make_job(**changes), folder, storage, index=0, shared=False, tell=lambda text: None)
    return Trajectories(worker, Journal(folder))


def run(machine: Machine, folder: Path, **changes: Any) -> Trajectories:
    """A whole search, after twelve seconds of measuring."""
    machine.began = machine.now
    machine.now += 12.0
    trajectories = begin(folder, **changes)
    trajectories.worker.propose()
    trajectories.promote()
    trajectories.finals()
    return trajectories
