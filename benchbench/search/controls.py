"""Controls of a search: what the same computing gives without it.

(a) Each architecture of the front from scratch, with as much computing as its whole trajectory had. (b) The published
network, and nnU-Net scaled by its width to the latency of each point of the front, each trained for as long as the
whole search took. (c) A search of the same length whose proposals are random, in a folder of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.search.problem import SearchProblem, timed_costs
from benchbench.search.slim_unetr_space import published_spec
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


def duration_s(kinds: Collection[str], time_s: float, front: int, seeds: int, spent_s: float) -> float:
    """About how long the controls of some kinds take, for so many points of a front, each trained for `spent_s`."""
    each_s = {"scratch": front * spent_s, "published": time_s, "scaled": front * time_s}
    return seeds * sum(each_s[kind] for kind in kinds) + time_s


class Controls:
    """The control trainings of a finished search."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.own, self.problem = trajectories, trajectories.problem
        self.journal, self.weights = trajectories.journal, trajectories.weights

    def run(self, front: Sequence[Mapping[str, Any]]) -> None:
        """Train what is not trained yet of the kinds that the space has, for points of a front as in the record."""
        kinds = self.problem.space.controls
        if "scratch" in kinds:
            for point in front:
                for seed in point["seeds"]:
                    self._scratch(point, seed)
        if "published" in kinds:
            for seed in sorted({seed for point in front for seed in point["seeds"]}):
                spec = published_spec(self.problem, self.problem.space.published_name(self.problem.spatial))
                self._plain("published", spec, f"published-seed{seed}", seed, {"key": "", "name": spec.name})
        for point in front if "scaled" in kinds else ():
            scaled = self.journal.decide(f"width beside {point['key']}", functools.partial(self._scaled, point))
            if "error" in scaled:
                self.own.worker.tell(f"no {SCALED} beside {point['name']}: {scaled['error']}")
                continue
            spec = _scaled_spec(self.problem, scaled["kwargs"], scaled["name"])
            for seed in point["seeds"]:
                self._plain("scaled", spec, f"scaled-{point['key']}-seed{seed}", seed, {"key": point["key"], **scaled})

    def _scratch(self, point: Mapping[str, Any], seed: int) -> None:
        """The architecture of a point, pruned alike, from random weights."""
        final = self.journal.trainings[point["finals"][point["seeds"].index(seed)]]
        seconds = float(final.result["train_s"]) + self._parent_s()
        info = checkpoint.read_sidecar(self.weights.path(final.label))
        label = f"scratch-{point['key']}-seed{seed}-{seconds:.0f}s"
        what = {"kind": "scratch", "key": point["key"], "config": final.what["config"], "seed": seed}
        self._run(label, what | {"seconds": seconds, "name": point["name"]}, info.model, seconds, seed)

    def _parent_s(self) -> float:
        """Seconds of training that the parent had in the search."""
        facts = self.own.worker.parent_facts()
        return 0.0 if facts is None or facts["given"] else float(facts["train_s"] or 0.0)

    def _plain(self, kind: str, spec: rec.ModelSpec, label: str, seed: int, what: Mapping[str, Any]) -> None:
        """A network that was not searched, for as long as the whole search."""
        seconds = self.own.job.time_s
        described = {**what, "kind": kind, "seed": seed, "seconds": seconds}
        self._run(f"{label}-{seconds:.0f}s", described, spec, seconds, seed)

    def _run(self, label: str, what: Mapping[str, Any], spec: rec.ModelSpec, seconds: float, seed: int) -> None:
        def do() -> dict[str, Any]:
            spatial = zoo_build.fitting_sides(spec, self.problem.spatial)
            own = dataclasses.replace(self.problem, spatial=(spatial[0], spatial[1], spatial[2]))
            lr = _card(self.problem).learning_rate if what["kind"] == "scaled" else None
            recipe = own.recipe(TrainingBudget(seconds=seconds), seed, lr=lr)
            torch.manual_seed(seed)
            model = zoo_build.build(spec, spatial)
            found = train_network(
                recipe, model, spec, self.weights.path(label), progress=self.own.progress(f"control {what['name']}")
            )
            self.weights.forget_state(label)
            return self.own.judged(result_of(found, self.own.worker.elapsed()), found.path)

        training = self.journal.run(label, what, do)
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
