"""Promotions and finals of a search: the best proposals train on, from the state that each has left.

Successive halving: a proposal trains some steps, the best quarter four times as many, and few of those for the rest of
the time. Nothing starts anew: weights, optimizer, average and schedule go on, over the longer budget. The command that
began the search does this alone, with all threads of the machine; finished trainings are in its journal.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import UsageError
from benchbench.core.statistics import pareto_front
from benchbench.search import pareto
from benchbench.search.job import KEPT_SHARE, STEP_FACTOR
from benchbench.search.phases import LEAST_S, Worker
from benchbench.search.proposals import LEAST_DICE, Tried, by_cost, ranked
from benchbench.search.search_space import Candidate
from benchbench.search.trainings import FinishedTraining, Journal
from benchbench.search.trial import Evaluation, build, dice_on_test, go_on, origin_of, train_network
from benchbench.training.loop import Progress
from benchbench.training.patch_loader import CachedPatchLoader
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import checkpoint

NEAR_BEST = 0.05  # Dice that a finalist may be below the best promotion
_SHORTEST = 0.5  # of a promotion's own seconds: a final for less would not be worth its place


class Trajectories:
    """The trainings of the first worker after its proposals."""

    def __init__(self, worker: Worker, journal: Journal) -> None:
        self.worker, self.journal = worker, journal
        self.job, self.weights = worker.job, worker.weights
        # in promotions and finals no other worker of this machine trains
        self.problem = worker.problem if worker.job.workers == 1 else dataclasses.replace(worker.problem, threads=None)
        self.left_out: list[str] = []

    def left_s(self) -> float:
        """Seconds until finals have to be over."""
        return max(0.0, self.job.end_s - self.worker.elapsed())

    # -- promotions

    def promote(self) -> None:
        """Train the best quarter of the proposals four times as many steps."""
        tried = self.worker.proposed()
        if not tried:
            return
        steps = STEP_FACTOR * self.worker.agreed.low_steps
        by_key = {trial.config.key: trial for trial in tried}
        decision = f"promoted in {self.job.time_s:.0f} s"
        keys = self.journal.decide(decision, lambda: [trial.config.key for trial in self._choose_promotions(tried)])
        room_s = self._promotion_room()
        until = self.worker.elapsed() + 1.2 * room_s
        for number, key in enumerate(keys):
            label = f"promotion-{key}"
            if number and self.worker.elapsed() > until and label not in self.journal.trainings:
                self.left_out.append(f"the promotion of {by_key[key].config.name}")
                continue
            longest_s = float(by_key[key].spent["train_s"]) + max(LEAST_S, 2 * room_s / len(keys))
            most_s = float(self.journal.decide(f"longest time of {label}", functools.partial(float, longest_s)))
            self._promote(by_key[key], label, TrainingBudget(steps=steps, most_s=most_s))
        self.worker.end_batches()
        for key in by_key:
            self.weights.forget_state(f"proposal-{key}")

    def _promotion_room(self) -> float:
        """Seconds for promotions, of those that are left."""
        share = self.job.promotions_s / max(1e-9, self.job.promotions_s + self.job.finals_s)
        return share * self.left_s()

    def _choose_promotions(self, tried: Sequence[Tried]) -> list[Tried]:
        """The best quarter, as far as time allows, but at least as many as there shall be finalists."""
        new = [trial for trial in tried if not self.problem.space.is_published(trial.config)] or list(tried)
        each_s = (STEP_FACTOR - 1) * sum(trial.spent["train_s"] for trial in new) / len(new)
        wished = max(self.job.finalists, math.ceil(KEPT_SHARE * len(new)))
        least = self.job.finalists if self.left_s() > 2 * self.job.finalists * each_s else 1
        fitting = max(min(least, len(new)), int(self._promotion_room() / max(each_s, 1e-6)))
        order = ranked(new, self.problem.metric, self.job.to_beat)
        chosen = order[: min(wished, fitting)]
        self.worker.tell(f"{len(chosen)} of {len(new)} proposals are trained for longer")
        if len(chosen) < min(wished, len(order)):
            self.left_out.append(f"{min(wished, len(order)) - len(chosen)} of {min(wished, len(order))} promotions")
        return chosen

    def _promote(self, trial: Tried, label: str, budget: TrainingBudget) -> None:
        what = {"kind": "promotion", "key": trial.config.key, "config": rec.to_json(trial.config), "from": trial.number}

        def do() -> dict[str, Any]:
            earlier = self.weights.state(f"proposal-{trial.config.key}")
            loader = self.worker.batches(budget)
            found = self._train(trial.config, earlier, budget, self.job.seed, label, loader=loader)
            return self._result(found, trial.costs)

        self._report(self.journal.run(label, what, do))

    # -- finals

    def finals(self) -> None:
        """Train the best promotions for the rest of the time, and evaluate them on `test`."""
        promoted = {
            str(training.what["key"]): training for training in self.journal.of("promotion") if not training.error
        }
        if not promoted:
            return
        chosen = self.journal.decide(self._finals_key, lambda: self._choose_finals(list(promoted.values())))
        self.left_out += chosen["left_out"]
        for label, what in self._final_list(chosen):
            promotion = promoted[what["key"]]
            self._report(self.journal.run(label, what, functools.partial(self._final, promotion, what, label)))
        for key in promoted:
            self.weights.forget_state(f"promotion-{key}")

    @property
    def _finals_key(self) -> str:
        return f"finals in {self.job.time_s:.0f} s"

    def finished(self) -> list[FinishedTraining]:
        """The finals that belong to the present time of the search, without those that failed."""
        chosen = self.journal.decision(self._finals_key)
        labels = [label for label, _ in self._final_list(chosen)] if chosen else []
        known = self.journal.trainings
        return [known[label] for label in labels if label in known and not known[label].error]

    def _final_list(self, chosen: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Label and description of each final, the first seed of each finalist before the second of any."""
        return [
            (
                f"final-{one['key']}-seed{seed}-{self.job.time_s:.0f}s",
                {**one, "kind": "final", "seed": seed, "first_seed": self.job.seed},
            )
            for seed in range(self.job.seed, self.job.seed + int(chosen["seeds"]))
            for one in chosen["finalists"]
        ]

    def _choose_finals(self, promoted: Sequence[FinishedTraining]) -> dict[str, Any]:
        """Which promotions train on, and until when.

        If time is short there are fewer seeds, then fewer finalists. Further seeds have to train the whole trajectory.
        """
        chosen, seeds, left_out = self._front_of(promoted), self.job.seeds, list[str]()
        after_s = max(self._after_s(training) for training in chosen)
        first, keys = self.job.seed, [str(training.what["key"]) for training in chosen]
        done = {(key, seed): self._done_s(key, seed) for key in keys for seed in range(first, first + seeds)}

        def own_s() -> float:
            """Seconds that each finalist trains on; its further seeds have to catch up first."""
            behind = sum(
                done[key, first] - done[key, seed] for key, seed in done if key in keys and seed < first + seeds
            )
            trainings = len(keys) * seeds
            return (self.left_s() - behind) / trainings - after_s

        while len(keys) * seeds > 1 and own_s() < _SHORTEST * max(done[key, first] for key in keys):
            if seeds > 1:
                seeds -= 1
            else:
                left_out.append(f"the finalist {self._name(chosen.pop())}")
                keys.pop()
        if seeds < self.job.seeds:
            left_out.insert(0, f"{self.job.seeds - seeds} of {self.job.seeds} seeds of each finalist")
        more_s = max(LEAST_S, own_s())
        finalists = [
            {"key": key, "config": training.what["config"], "seconds": done[key, first] + more_s}
            for key, training in zip(keys, chosen, strict=True)
        ]
        return {"finalists": finalists, "seeds": seeds, "left_out": left_out}

    def _done_s(self, key: str, seed: int) -> float:
        """Seconds that the training of a finalist has had, from whose state it goes on."""
        label = self._latest(key, seed)
        return float(self.journal.trainings[label].result["train_s"]) if label else 0.0

    def _front_of(self, promoted: Sequence[FinishedTraining]) -> list[FinishedTraining]:
        """The best promotion, and others of the front that cost less and are hardly worse.

        Those that cost more than the network to beat come last, and only if they are better than all others. As in
        `ranked`, those that inherit weights and those that do not take turns.
        """

        def of(training: FinishedTraining) -> tuple[float, float]:
            return float(training.result["dice"]), float(training.result["costs"][self.problem.metric])

        cheaper, dearer = by_cost(promoted, of, self.job.to_beat or 0.0)
        return (self._near_front(cheaper) + self._near_front(dearer))[: self.job.finalists]

    def _near_front(self, promoted: Sequence[FinishedTraining]) -> list[FinishedTraining]:
        """As many of the front as there shall be finalists, none of them far below the best."""
        orders = []
        for inherits in (False, True):
            group = [training for training in promoted if (training.result["inherited"] > 0) is inherits]
            best = max((float(training.result["dice"]) for training in group), default=0.0)
            near = [t for t in group if t.result["dice"] > max(LEAST_DICE, best - NEAR_BEST)] or group
            points = [(1 - t.result["dice"], t.result["costs"][self.problem.metric]) for t in near]
            front = pareto_front(points)
            orders.append([near[front[i]] for i in pareto.spread([points[i] for i in front], self.job.finalists)])
        orders.sort(key=lambda order: -max((float(t.result["dice"]) for t in order), default=0.0))
        return [t for turn in itertools.zip_longest(*orders) for t in turn if t is not None]

    def _after_s(self, promotion: FinishedTraining) -> float:
        """Seconds that a final needs beside its training: evaluation on `val` and on `test`."""
        splits = data.get_plan(self.problem.data).splits
        return float(promotion.result["val_s"]) * (1 + splits.get("test", 0) / max(1, splits.get("val", 0)))

    def _final(self, promotion: FinishedTraining, what: Mapping[str, Any], label: str) -> dict[str, Any]:
        config, seed = self.problem.space.from_json(what["config"]), int(what["seed"])
        if seed == what["first_seed"]:
            budget = TrainingBudget(seconds=float(what["seconds"]))
        else:  # trains as much as the first seed has trained in all
            first = self.journal.trainings[label.replace(f"-seed{seed}-", f"-seed{what['first_seed']}-")]
            if first.error:
                raise UsageError(f"its first seed failed: {first.error}")
            budget = TrainingBudget(steps=int(first.result["steps"]), most_s=1.2 * float(what["seconds"]))
        latest = self._latest(config.key, seed)
        found = self._train(config, self.weights.state(latest) if latest else None, budget, seed, label)
        return self.judged(self._result(found, promotion.result["costs"]), found.path)

    def _latest(self, key: str, seed: int) -> str | None:
        """The training from whose state a final goes on: its promotion, or a final in less time; None: it begins."""
        labels = [f"promotion-{key}"] if seed == self.job.seed else []
        labels += [f.label for f in self.journal.of("final") if f.what["key"] == key and f.what["seed"] == seed]
        alive = [n for n in labels if n in self.journal.trainings and self.weights.state(n)]
        return alive[-1] if alive else None

    # -- trainings

    def _train(
        self,
        config: Candidate,
        earlier: Path | None,
        budget: TrainingBudget,
        seed: int,
        label: str,
        *,
        loader: CachedPatchLoader | None = None,
    ) -> Evaluation:
        """Train a configuration: from a state, or from its beginning with the whole budget."""
        out, progress = self.weights.path(label), self.progress(config.name)
        if earlier is not None:
            return go_on(self.problem, earlier, budget, seed, out, loader=loader, progress=progress)
        parent = self.worker.parent()
        model, spec, share = build(self.problem, config, parent, seed)
        origin = origin_of(config, parent, share) if parent and share else None
        recipe = self.problem.recipe(budget, seed)
        return train_network(recipe, model, spec, out, origin=origin, loader=loader, progress=progress)

    def progress(self, name: str) -> Progress:
        """Reports the steps of a training."""
        return lambda _, line: self.worker.tell(f"{name}: {line}")

    def judged(self, result: Mapping[str, Any], weights: Path) -> dict[str, Any]:
        """A result with the Dice on `test`, which decides nothing."""
        start = self.worker.elapsed()
        test = dice_on_test(self.problem, weights)
        test_s = self.worker.elapsed() - start
        return {**result, "test": test, "test_s": test_s, "sha256": checkpoint.read_sidecar(weights).sha256}

    def _result(self, found: Evaluation, costs: Mapping[str, float]) -> dict[str, Any]:
        return result_of(found, self.worker.elapsed()) | {"costs": dict(costs)}

    def _name(self, training: FinishedTraining) -> str:
        config: Candidate = self.problem.space.from_json(training.what["config"])
        return config.name

    def _report(self, training: FinishedTraining) -> None:
        what = f"Dice {training.result['dice']:.3f} on val" if not training.error else training.error
        self.worker.tell(f"{training.kind} {self._name(training)}: {what}")


def result_of(found: Evaluation, at_s: float) -> dict[str, Any]:
    """What is kept of a training, as JSON values."""
    plain = dataclasses.asdict(found)
    for name in ("path", "untrained", "measure_s"):
        del plain[name]
    return plain | {"at_s": at_s}
