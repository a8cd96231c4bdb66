"""Controls of a search: what the same computing gives without it.

(a) Each architecture of the front from scratch, with as much computing as its whole trajectory had. (b) The published
network, and nnU-Net scaled by its width to the latency of each point of the front, each trained for as long as the
whole search took; a width that is nearest to two points is trained once. (c) A search of the same length whose
proposals are random, in a folder of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.search.problem import SearchProblem, timed_costs
from benchbench.search.slim_unetr_space import published_spec
from benchbench.search.trainings import SAME_AS, FinishedTraining
from benchbench.search.trajectories import Trajectories, result_of
from benchbench.search.trial import train_network
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint

SCALED = "nnunet_small"  # the network that is scaled by its width
RANDOM = "random"  # folder of the search with random proposals, in that of the search
KINDS = ("scratch", "published", "scaled")
_WIDEST = 64  # channels of the first stage of the scaled network
_EQUAL = ("width", "seed", "seconds")  # what makes two trainings of the scaled network equal


def duration_s(kinds: Collection[str], time_s: float, front: int, seeds: int, spent_s: float) -> float:
    """About how long the controls of some kinds take, for so many points of a front, each trained for `spent_s`."""
    each_s = {"scratch": front * spent_s, "published": time_s, "scaled": front * time_s}
    return seeds * sum(each_s[kind] for kind in kinds) + time_s


@dataclasses.dataclass(frozen=True, slots=True)
class _Control:
    """One training."""

    label: str
    seconds: float
    run: Callable[[], None]


class Controls:
    """The control trainings of a finished search."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.own, self.problem = trajectories, trajectories.problem
        self.journal, self.weights = trajectories.journal, trajectories.weights

    def run(self, front: Sequence[Mapping[str, Any]]) -> None:
        """Train what is not trained yet of the kinds that the space has, for points of a front as in the record."""
        for control in self._all(front):
            control.run()

    def left_s(self, front: Sequence[Mapping[str, Any]]) -> float:
        """Seconds of the trainings that are left, at most: a width that serves two points is trained once."""
        return sum(control.seconds for control in self._all(front) if control.label not in self.journal.trainings)

    def _all(self, front: Sequence[Mapping[str, Any]]) -> Iterator[_Control]:
        kinds, whole_s = self.problem.space.controls, self.own.job.time_s
        for point in front if "scratch" in kinds else ():
            for seed in point["seeds"]:
                final = self.journal.trainings[point["finals"][point["seeds"].index(seed)]]
                seconds = float(final.result["train_s"]) + self._parent_s()
                label = f"scratch-{point['key']}-seed{seed}-{seconds:.0f}s"
                yield _Control(label, seconds, functools.partial(self._scratch, label, point, final, seed, seconds))
        if "published" in kinds:
            for seed in sorted({seed for point in front for seed in point["seeds"]}):
                label = f"published-seed{seed}-{whole_s:.0f}s"
                yield _Control(label, whole_s, functools.partial(self._published, label, seed))
        for point in front if "scaled" in kinds else ():
            for seed in point["seeds"]:
                label = f"scaled-{point['key']}-seed{seed}-{whole_s:.0f}s"
                yield _Control(label, whole_s, functools.partial(self._beside, label, point, seed))

    def _scratch(
        self, label: str, point: Mapping[str, Any], final: FinishedTraining, seed: int, seconds: float
    ) -> None:
        """The architecture of a point, pruned alike, from random weights."""
        info = checkpoint.read_sidecar(self.weights.path(final.label))
        what = {"kind": "scratch", "key": point["key"], "config": final.what["config"], "seed": seed}
        self._train(label, what | {"name": point["name"], "seconds": seconds}, info.model)

    def _published(self, label: str, seed: int) -> None:
        """The published network, for as long as the whole search."""
        spec = published_spec(self.problem, self.problem.space.published_name(self.problem.spatial))
        what = {"kind": "published", "key": "", "name": spec.name, "seed": seed, "seconds": self.own.job.time_s}
        self._train(label, what, spec)

    def _beside(self, label: str, point: Mapping[str, Any], seed: int) -> None:
        """The scaled network of a point's latency, for as long as the whole search."""
        scaled = self.journal.decide(f"width beside {point['key']}", functools.partial(self._scaled, point))
        if "error" in scaled:
            self.own.worker.tell(f"no {SCALED} beside {point['name']}: {scaled['error']}")
            return
        what = {"kind": "scaled", "key": point["key"], **scaled, "seed": seed, "seconds": self.own.job.time_s}
        done = [control for control in self.journal.of("scaled") if not control.error]
        equal = next((one for one in done if all(one.what[key] == what[key] for key in _EQUAL)), None)
        self._train(label, what, _scaled_spec(self.problem, scaled["kwargs"], scaled["name"]), equal)

    def _parent_s(self) -> float:
        """Seconds of training that the parent had in the search."""
        facts = self.own.worker.parent_facts()
        return 0.0 if facts is None or facts["given"] else float(facts["train_s"] or 0.0)

    def _train(
        self,
        label: str,
        what: Mapping[str, Any],
        spec: rec.ModelSpec,
        equal: FinishedTraining | None = None,
    ) -> None:
        """Train a network for as long as `what` says, unless an equal one was trained for another point."""

        def do() -> dict[str, Any]:
            if equal is not None:
                return dict(equal.result)
            spatial = zoo_build.fitting_sides(spec, self.problem.spatial)
            own = dataclasses.replace(self.problem, spatial=(spatial[0], spatial[1], spatial[2]))
            lr = _card(self.problem).learning_rate if what["kind"] == "scaled" else None
            recipe = own.recipe(TrainingBudget(seconds=what["seconds"]), what["seed"], lr=lr)
            torch.manual_seed(what["seed"])
            model = zoo_build.build(spec, spatial)
            found = train_network(
                recipe, model, spec, self.weights.path(label), progress=self.own.progress(f"control {what['name']}")
            )
            self.weights.forget_state(label)
            return self.own.judged(result_of(found, self.own.worker.elapsed()), found.path)

        training = self.journal.run(label, {**what, SAME_AS: equal.label} if equal else what, do)
        text = training.error or f"Dice {training.result['dice']:.3f} on val"
        self.own.worker.tell(f"control {what['name']}: {text}")

    def _scaled(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The width of the scaled network whose latency is nearest to that of a point, timed in the same way."""
        card = _card(self.problem)
        plain = list(card.kwargs["filters"])
        info = checkpoint.read_sidecar(self.weights.path(str(point["best"])))
        freely = dataclasses.replace(self.problem, times_count=False)
        own = _latency_s(freely, info.model)

        def at(width: int) -> tuple[rec.ModelSpec, float]:
            filters = [max(1, round(width * filters_ / plain[0])) for filters_ in plain]
            spec = _scaled_spec(freely, {**card.kwargs, "filters": filters}, f"{SCALED}-{width}")
            return spec, _latency_s(freely, spec)

        try:
            width, (spec, found_s) = nearest_width(at, own, _WIDEST)
        except UnsupportedError as error:
            return {"error": str(error)}
        return {
            "name": f"{spec.name}-for-{point['name']}",
            "kwargs": rec.to_json(spec.kwargs),
            "width": width,
            "timed_s": found_s,
            "point_timed_s": own,
        }


def nearest_width(
    at: Callable[[int], tuple[rec.ModelSpec, float]], wished_s: float, widest: int
) -> tuple[int, tuple[rec.ModelSpec, float]]:
    """The width whose latency is nearest to a wished one, by bisection; `at` gives a width's network and latency."""
    low, high = 1, widest
    known = {low: at(low)}
    while high - low > 1:
        middle = (low + high) // 2
        known[middle] = at(middle)
        low, high = (middle, high) if known[middle][1] <= wished_s else (low, middle)
    return min(known.items(), key=lambda item: abs(math.log(item[1][1] / wished_s)))


def _latency_s(problem: SearchProblem, spec: rec.ModelSpec) -> float:
    spatial = zoo_build.fitting_sides(spec, problem.spatial)
    model = zoo_build.build(spec, spatial).eval()
    own = dataclasses.replace(problem, spatial=(spatial[0], spatial[1], spatial[2]))
    costs = timed_costs(own, model, spec)
    if "latency_s" not in costs:
        raise UnsupportedError("its latency can only be forecast, or no time is asked for")
    return costs["latency_s"]


def _card(problem: SearchProblem) -> zoo_cards.Card:
    plan = data.get_plan(problem.data)
    return zoo_cards.get_card(SCALED).planned(problem.spatial, plan.spacing_mm)


def _scaled_spec(problem: SearchProblem, kwargs: Mapping[str, Any], name: str) -> rec.ModelSpec:
    spec = _card(problem).spec(in_channels=problem.in_channels, out_channels=problem.out_channels)
    return dataclasses.replace(spec, kwargs=kwargs, name=name)
