"""Phases of a search's worker: parent, proposals, promotions, finals, controls.

Workers share the storage and nothing else. The time is that of the whole search, by the clock of the storage's first
worker, so all workers change phase together; a worker that is ahead waits for the others, since promotions are chosen
among all proposals.
"""

from __future__ import annotations

import dataclasses
import re
import socket
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import torch
from torch import nn

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.statistics import pareto_front
from benchbench.core.units import format_duration
from benchbench.search import pareto, proposals, space
from benchbench.search.clock import MachineSleep
from benchbench.search.feasibility import BudgetError, published_config
from benchbench.search.inheritance import Parent
from benchbench.search.job import FINAL_SHARE, PARENT_SHARE, PROMOTION_SHARE, PROPOSAL_SHARE, SearchJob
from benchbench.search.problem import published_spec
from benchbench.search.space import Config
from benchbench.search.storage import agree, check_assigned, errors, open_phase
from benchbench.search.training_queue import (
    OutOfTime,
    QueuedTraining,
    TrainingResult,
    finished_trainings,
    queue_trainings,
    run_queue,
)
from benchbench.search.trial import (
    Evaluation,
    Trial,
    evaluate,
    load_parent,
    name_of,
    parent_of,
    shared_trial,
    with_random_ranking,
)
from benchbench.search.weight_store import WeightStore
from benchbench.training.evaluate import AccuracyResult, measure_dice
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

_RESERVED = 0.6  # of a phase's share of the time, that a late phase before it may not use
_LEAST_S = 1.0  # of a training, where the time is used up
LEAST_DICE = 0.5  # a network below it is not promoted, unless all are
_NO_PARENT = "the parent's training was interrupted too often: run the same command again, or give --parent"
_MEMORY_SHARE = 0.2  # of the free memory, for batches that several trainings share; as much for the parent's outputs
_OVER = "the time of the search is used up"
_OTHER_TIME = re.compile(r"-\d+s$")  # suffix of the keys of a search that was given more time
_EXHAUSTED = 60  # proposals in a row that were tried before: the space is exhausted

#: Called with a line for the user.
Tell = Callable[[str], None]


class Worker:
    """One worker of a search."""

    def __init__(
        self,
        job: SearchJob,
        folder: Path,
        storage: optuna.storages.BaseStorage,
        *,
        index: int,
        shared: bool,
        tell: Tell,
    ) -> None:
        """Join a search, or begin it.

        Args:
            index: of this worker, unique on this machine.
            shared: whether other machines may work on the search.

        Raises:
            UsageError: the storage has another search under this name.
        """
        self.job, self.problem, self._tell, self.storage = job, job.problem, tell, storage
        self.index, self.shared = index, shared
        several = shared or job.workers > 1
        here = zlib.crc32(f"{socket.gethostname()}:{folder.absolute()}".encode()) % 10**6 if shared else 0
        self.study = proposals.open_study(storage, job.name, job.problem, seed=job.seed + index + here, several=several)
        self.weights = WeightStore(folder / "points", storage, f"{job.name}/weights", shared=shared)
        self._sleep = MachineSleep()
        self.began = float(_agreed(self.study, "began", time.time() - job.before_s))
        low, high = _agreed(self.study, "steps", [job.low_steps, job.high_steps])
        self.low_steps, self.high_steps = int(low), int(high)
        first = float(_agreed(self.study, "time_s", job.time_s))
        self.suffix = "" if first == job.time_s else f"-{job.time_s:.0f}s"  # of a search that was given more time
        most_s = job.phase_s(PROPOSAL_SHARE) / max(2, job.finalists)
        self.low_most_s = max(_LEAST_S, float(_agreed(self.study, "low_most_s", most_s)))
        self.controls_s = 0.0  # of the controls, which do not count as time of the search
        self._until: float | None = None  # deadline of the current training, seconds since the search began
        self._parent: Parent | None = None
        self._shared: Trial | None = None  # with the batches of one seed
        self.parent_s = self.parent_at_s = 0.0  # length of its training; when it was ready, and proposals began

    def tell(self, text: str) -> None:
        """Report a line.

        Raises:
            TrialReassigned: the trial of this worker was given to another one.
        """
        check_assigned(self.study)
        self._tell(text)

    def report_training(self, text: str) -> None:
        """Report a step of a training.

        Raises:
            TrialReassigned: the trial of this worker was given to another one.
            OutOfTime: the deadline of the training is over.
        """
        self.tell(text)
        if self._until is not None and self.elapsed() > self._until:
            raise OutOfTime(_OVER)

    def elapsed(self) -> float:
        """Seconds since the search began, without pauses; without the machine's sleep if no other one searches."""
        if (slept := self._sleep.seconds()) and not self.shared:
            self.began += slept
            if self.index == 0:
                self.study.set_user_attr("began", self.began)
        return time.time() - self.began

    def study_of(self, phase: str) -> optuna.Study:
        """The study of a phase, one of `PHASES`."""
        return open_phase(self.storage, f"{self.job.name}/{phase}")

    def run(self) -> None:
        """All phases, one after the other."""
        self.parent()
        try:
            self.propose()
            self.promote()
            self.finals()
            if self.job.controls:
                began = time.monotonic()
                self._until = None
                self.controls()
                self.controls_s = time.monotonic() - began
        finally:
            self._until = None
            self._end_shared()

    # -- the parent

    def parent(self) -> Parent:
        """The network that all others inherit from: given, or trained by the first worker."""
        if self._parent is None:
            phase = self.study_of("parent")
            seconds = max(_LEAST_S, self.job.phase_s(PARENT_SHARE))
            what = {"given": self.job.parent is not None, "seconds": seconds}
            queue_trainings(phase, [QueuedTraining(label="parent", what=what)])
            self._until = self.job.end_s
            finished = run_queue(phase, self._provide_parent, strict=True, late=lambda: self.elapsed() > self.job.end_s)
            self._until = None
            if not finished:
                why = errors(phase)
                if self.elapsed() > self.job.end_s:
                    raise BudgetError(
                        f"the time of {format_duration(self.job.time_s)} was over before the parent was trained: the "
                        "same command goes on, with a longer --time"
                    )
                raise CheckpointError(f"no worker could make the parent: {why[-1]}" if why else _NO_PARENT)
            (training,) = finished
            self.parent_s, self.parent_at_s = float(training.result["train_s"]), float(training.result["at_s"])
            self.tell(f"ranking the channels of the parent (Dice {training.result['value']:.3f} on val)")
            self._parent = parent_of(self.weights.get("parent"), self.problem)
        return self._parent

    def _provide_parent(self, queued: QueuedTraining) -> dict[str, Any]:
        target = self.weights.path("parent")
        given = self.job.parent
        if given:
            info, model = load_parent(Path(given), self.problem)
            checkpoint.copy(info.path, target)
            self.tell("Dice of the parent on val")
            dice = float(self._accuracy(model, "val").measurements[0].value or 0.0)
            seconds = float(info.train.get("seconds", 0.0))
        else:
            self.tell("training the parent")
            dice, seconds, info = self._train_parent(TrainingBudget(seconds=float(queued.what["seconds"])), target)
        self._publish("parent")
        return {
            "value": dice,
            "train_s": seconds,
            "given": bool(given),
            "sha256": info.sha256,
            "model": info.model.name,
            "steps": info.train.get("steps_done"),
            "at_s": self.elapsed(),
        }

    def _train_parent(self, budget: TrainingBudget, out: Path) -> tuple[float, float, checkpoint.CheckpointInfo]:
        spec = published_spec(self.problem)
        torch.manual_seed(self.job.seed)
        model = zoo_build.build(spec, self.problem.spatial)
        recipe = self.problem.recipe(budget, self.job.seed, validations=3)
        result = train(model, spec, recipe, out=out, progress=lambda _, line: self.report_training(f"parent: {line}"))
        if not result.validation:
            raise UsageError("the parent has no Dice on val: its answers are not finite, or no case can be read")
        return result.validation[-1][1], result.seconds, result.checkpoint

    def _accuracy(self, model: nn.Module, split: str) -> AccuracyResult:
        return measure_dice(model, data=self.problem.data, split=split, spatial=self.problem.spatial, surfaces=False)

    # -- proposals

    def propose(self) -> None:
        """Ask the sampler until the time of this phase or the number of trials is used up."""
        parent = self.parent()
        job, most = self.job, self.job.trials
        end = self.parent_at_s + job.phase_s(PROPOSAL_SHARE + (0.0 if job.parent is None else PARENT_SHARE / 2))
        last = job.end_s - _RESERVED * job.phase_s(PROMOTION_SHARE + FINAL_SHARE)  # even if nothing was trained yet
        budget = TrainingBudget(steps=self.low_steps, most_s=self.low_most_s)
        self._until = last

        def enough(trials: Sequence[proposals.Tried]) -> bool:
            trained, elapsed = len(proposals.distinct(trials)), self.elapsed()
            if most is not None and trained >= most:
                return True
            needed = job.finalists if elapsed < (end + last) / 2 else 1
            if elapsed >= last or (elapsed >= end and trained >= needed):
                return True
            return len(trials) >= _EXHAUSTED and all(trial.same_as is not None for trial in trials[-_EXHAUSTED:])

        def train(config: Config, number: int) -> Evaluation:
            if self.elapsed() >= last:  # the proposal was queued, or abandoned by another worker
                raise OutOfTime(_OVER)
            self.tell(f"trial {number}: {name_of(config)}")
            weights = self.weights.path(f"low-{config.key}")
            evaluation = self._evaluate(config, parent, self._trial_for(budget, self.job.seed), weights)
            for path in checkpoint.files_of(weights):  # only the Dice is used
                path.unlink(missing_ok=True)
            return evaluation

        def report(trial: proposals.Tried) -> None:
            if trial.dice is not None and trial.same_as is None:
                self.tell(f"trial {trial.number}: {name_of(trial.config)} Dice {trial.dice:.3f} on val")

        proposals.search(self.study, self.problem, train, elapsed=self.elapsed, until=enough, report=report)
        self._until = None

    def _trial_for(self, budget: TrainingBudget, seed: int) -> Trial:
        """A trial on the batches of this seed, which are made once, as are the parent's outputs for them."""
        if self._shared is None or self._shared.seed != seed:
            self._end_shared()
            most = _MEMORY_SHARE / self.job.workers * psutil.virtual_memory().available
            self._shared = shared_trial(self.problem, self.parent(), budget, seed, most_bytes=most)
        return dataclasses.replace(self._shared, budget=budget)

    def _end_shared(self) -> None:
        if self._shared and self._shared.loader:
            self._shared.loader.end()
        self._shared = None

    def _evaluate(self, config: Config, parent: Parent | None, trial: Trial, out: Path) -> Evaluation:
        def report(_: float, line: str) -> None:
            self.report_training(f"{name_of(config)}: {line}")

        return evaluate(self.problem, config, parent, trial, out, report)

    def _evaluate_queued(self, queued: QueuedTraining, trial: Trial, parent: Parent | None) -> Evaluation:
        return self._evaluate(space.from_json(queued.what["config"]), parent, trial, self.weights.path(queued.label))

    # -- promotions

    def promote(self) -> None:
        """Train the best proposals for longer, chosen by Pareto rank."""
        phase = self.study_of("promotions")
        tried = proposals.distinct(proposals.tried(self.study))
        if not tried:
            return
        chosen = _agreed(phase, f"chosen{self.suffix}", [trial.number for trial in self._choose_promotions(tried)])
        by_number = {trial.number: trial for trial in tried}
        now, end = self.elapsed(), self.job.end_s
        last = max(end - _RESERVED * self.job.phase_s(FINAL_SHARE), now + (1 - _RESERVED) * (end - now))
        most_s = max(_LEAST_S, (last - now) * min(1.0, self.job.workers / len(chosen)))
        how = {"steps": self.high_steps, "most_s": most_s}
        trainings = [
            self._queued_training("promotion", by_number[n].config, {"from": n, **how})
            for n in chosen
            if n in by_number
        ]
        self._until = last + 0.2 * max(0.0, end - last)
        queue_trainings(phase, trainings, alone=not self.shared)
        run_queue(
            phase,
            self._train_promotion,
            report=self._report,
            late=lambda: self.elapsed() > last and bool(finished_trainings(phase)),
        )
        missing = self._unfinished(phase, trainings)
        self._note_left_out([f"the promotion of {_name(training)}" for training in missing])

    def _unfinished(self, phase: optuna.Study, trainings: Sequence[QueuedTraining]) -> list[QueuedTraining]:
        finished = {training.label for training in finished_trainings(phase)}
        return [training for training in trainings if training.label not in finished]

    def _choose_promotions(self, tried: Sequence[proposals.Tried]) -> list[proposals.Tried]:
        factor, room = self.high_steps / self.low_steps, self.job.workers * self._left()
        each = sum(trial.spent["total_s"] + (factor - 1) * trial.spent["train_s"] for trial in tried) / len(tried)
        each = max(each, 1e-6)
        count = int(PROMOTION_SHARE / (PROMOTION_SHARE + FINAL_SHARE) * room / each)
        wished = self.job.finalists + 1
        count = max(1, count, min(wished, int((1 - _RESERVED) * room / each)))  # in part of the finals' time
        good = [trial for trial in tried if (trial.dice or 0.0) > LEAST_DICE] or list(tried)
        order = pareto.by_rank([(1 - (trial.dice or 0.0), trial.costs[self.problem.metric]) for trial in good])
        self.tell(f"{min(count, len(good))} of {len(good)} are trained for longer")
        if count < min(wished, len(good)):
            self._note_left_out([f"{min(wished, len(good)) - count} of {min(wished, len(good))} promotions"])
        return [good[i] for i in order[:count]]

    def _left(self) -> float:
        return max(0.0, self.job.end_s - self.elapsed())

    def _note_left_out(self, what: Sequence[str]) -> None:
        """Store what the time was too short for, for all workers."""
        for text in what:
            agree(self.study_of("left out"), f"{text}{self.suffix}", True)

    def left_out(self) -> list[str]:
        """What the present time of the search was too short for."""
        texts = self.study_of("left out").user_attrs
        ours = [key for key in texts if key.endswith(self.suffix) and (self.suffix or not _OTHER_TIME.search(key))]
        return [key.removesuffix(self.suffix) for key in ours]

    def _train_promotion(self, queued: QueuedTraining) -> dict[str, Any]:
        most_s = float(queued.what.get("most_s", self.job.phase_s(PROMOTION_SHARE + (1 - _RESERVED) * FINAL_SHARE)))
        budget = TrainingBudget(steps=int(queued.what["steps"]), most_s=max(_LEAST_S, most_s))
        evaluation = self._evaluate_queued(queued, self._trial_for(budget, self.job.seed), self.parent())
        return self._result(evaluation) | {"val_s": self._val_s(evaluation)}

    def _val_s(self, evaluation: Evaluation) -> float:
        """Seconds of one evaluation on `val`."""
        return float(checkpoint.read_sidecar(evaluation.path).train.get("validation_seconds", 0.0))

    # -- finals

    def finals(self) -> None:
        """Train the members of the front, and the published network, anew with several seeds."""
        phase = self.study_of("finals")
        promoted = [training for training in finished_trainings(self.study_of("promotions")) if not training.error]
        if not promoted:
            return
        chosen = _agreed(phase, f"chosen{self.suffix}", self._plan_finals(promoted))
        trainings = self._final_queue(chosen)
        self._note_left_out(chosen.get("left_out", []))
        each_s = float(chosen["seconds"]) + float(chosen.get("overhead_s", 0.0))

        def late() -> bool:
            return self.elapsed() + 0.75 * each_s > self.job.end_s and any(
                not d.error for d in finished_trainings(phase)
            )

        self._until = self.job.end_s + self.job.reserve_s / 2
        queue_trainings(phase, trainings, alone=not self.shared)
        run_queue(phase, self._train_final, report=self._report, late=late)
        missing = self._unfinished(phase, trainings)
        self._note_left_out(
            [f"the final training of {_name(training)} with seed {training.what['seed']}" for training in missing]
        )

    def _plan_finals(self, promoted: Sequence[TrainingResult]) -> dict[str, Any]:
        """Which finals there is time for, and how long each trains.

        A final trains at least as long as a promotion. If time is short there are fewer seeds, then fewer finalists;
        only a single final is trained for less.
        """
        members, seeds = self._front_members(promoted), self.job.seeds
        least = max(float(training.result["train_s"]) for training in promoted)
        ratio = self._test_to_val()
        overhead = max(
            float(training.result["total_s"])
            - float(training.result["train_s"])
            + ratio * float(training.result.get("val_s", 0.0))
            for training in promoted
        )
        left = self._left()
        room, left_out = self.job.workers * left, list[str]()
        while len(members) * seeds > 1 and (least + overhead) * len(members) * seeds > room:
            if seeds > 1:
                seeds -= 1
            elif len(members) > 2 or members[-1] != space.PUBLISHED:
                gone = members.pop(-2 if members[-1] == space.PUBLISHED else -1)
                left_out.append(f"the finalist {name_of(gone)}")
            else:
                members.pop()
                left_out.append("the published network among the finalists")
        if seeds < self.job.seeds:
            left_out.insert(0, f"{self.job.seeds - seeds} of {self.job.seeds} seeds of each finalist")
        seconds = max(_LEAST_S, min(left, room / (len(members) * seeds)) - overhead)
        return {
            "seconds": seconds,
            "overhead_s": overhead,
            "configs": [rec.to_json(config) for config in members],
            "seeds": seeds,
            "left_out": left_out,
        }

    def _test_to_val(self) -> float:
        """Number of test cases per validation case."""
        splits = data.get_plan(self.problem.data).splits
        return splits.get("test", 0) / max(1, splits.get("val", 0))

    def _final_queue(self, chosen: Mapping[str, Any]) -> list[QueuedTraining]:
        return [
            self._queued_training(
                "final",
                space.from_json(plain),
                {"seed": seed, "seconds": chosen["seconds"]},
                f"-seed{seed}{self.suffix}",
            )
            for seed in range(self.job.seed, self.job.seed + int(chosen.get("seeds", self.job.seeds)))
            for plain in chosen["configs"]
        ]

    def _front_members(self, promoted: Sequence[TrainingResult]) -> list[Config]:
        promoted = [training for training in promoted if training.result["dice"] > LEAST_DICE] or list(promoted)
        points = [(1 - training.result["dice"], training.result["costs"][self.problem.metric]) for training in promoted]
        best = pareto_front(points)
        chosen = pareto.spread([points[i] for i in best], self.job.finalists)
        configs = [space.from_json(promoted[best[i]].what["config"]) for i in chosen]
        feasible = [trial.config for trial in proposals.distinct(proposals.tried(self.study))]
        if space.PUBLISHED not in configs and space.PUBLISHED in feasible:
            configs.append(space.PUBLISHED)
        return configs

    def _train_final(self, queued: QueuedTraining) -> dict[str, Any]:
        trial = self._trial_for(TrainingBudget(seconds=float(queued.what["seconds"])), int(queued.what["seed"]))
        return self._with_test_dice(queued.label, self._evaluate_queued(queued, trial, self.parent()))

    def _with_test_dice(self, label: str, evaluation: Evaluation) -> dict[str, Any]:
        """A result with the Dice on `test`."""
        self._publish(label)
        start = time.monotonic()
        info = checkpoint.read_sidecar(evaluation.path)
        model = zoo_build.build_model(str(evaluation.path)).eval()
        accuracy = self._accuracy(model, "test")
        dice = accuracy.measurements[0]
        return self._result(evaluation) | {
            "test": {"dice": dice.value, "values": list(dice.values), "ids": accuracy.cases["ids"]},
            "test_s": time.monotonic() - start,
            "sha256": info.sha256,
        }

    def finished(self) -> list[TrainingResult]:
        """The finals that belong to the present time of the search, without those that failed."""
        chosen = self.study_of("finals").user_attrs.get(f"chosen{self.suffix}")
        labels = [training.label for training in self._final_queue(chosen)] if chosen else []
        return [
            training
            for training in finished_trainings(self.study_of("finals"))
            if training.label in labels and not training.error
        ]

    # -- controls

    def controls(self) -> None:
        """Train the finalists' architectures from scratch in as much time, and from randomly chosen channels."""
        phase = self.study_of("controls")
        finals = self.finished()
        earlier: dict[str, float] = {}
        for proposal in proposals.distinct(proposals.tried(self.study)):
            earlier[proposal.config.key] = proposal.spent["train_s"]
        for longer in finished_trainings(self.study_of("promotions")):
            key = str(longer.what["key"])
            earlier[key] = earlier.get(key, 0.0) + float(longer.result.get("train_s", 0.0))
        self.parent()
        trainings = []
        for final in finals:
            if int(final.what["seed"]) != self.job.seed:
                continue
            config, final_s = space.from_json(final.what["config"]), float(final.what["seconds"])
            if config == published_config(config.variant):
                continue
            whole_s = self.parent_s + earlier.get(config.key, 0.0) + final_s
            for kind, seconds in (("scratch", whole_s), ("random", final_s)):
                what = {"seed": self.job.seed, "of": final.label, "seconds": seconds}
                trainings.append(self._queued_training(kind, config, what, self.suffix))
        queue_trainings(phase, trainings)
        run_queue(phase, self._train_control, report=self._report)

    def _train_control(self, queued: QueuedTraining) -> dict[str, Any]:
        seed = int(queued.what["seed"])
        trial = self._trial_for(TrainingBudget(seconds=float(queued.what["seconds"])), seed)
        parent: Parent | None = None
        if queued.what["kind"] == "scratch":
            pruned_alike = checkpoint.read_sidecar(self.weights.get(str(queued.what["of"]))).model
            trial = dataclasses.replace(trial, spec=pruned_alike, teacher=None)
        else:
            parent = with_random_ranking(self.parent(), seed)
            trial = dataclasses.replace(trial, criterion="random")
        return self._with_test_dice(queued.label, self._evaluate_queued(queued, trial, parent))

    def _publish(self, label: str) -> None:
        """Upload weights, unless their training was given to another worker."""
        check_assigned(self.study, now=True)
        self.weights.put(label)

    def _queued_training(self, kind: str, config: Config, what: Mapping[str, Any], suffix: str = "") -> QueuedTraining:
        named = f"{kind}-{config.key}{suffix}"
        plain = rec.to_json(config)
        return QueuedTraining(label=named, what={"kind": kind, "key": config.key, "config": plain, **what})

    def _result(self, evaluation: Evaluation) -> dict[str, Any]:
        plain = dataclasses.asdict(evaluation)
        del plain["path"]
        return {"value": evaluation.dice, **plain, "at_s": self.elapsed()}

    def _report(self, training: TrainingResult) -> None:
        name = name_of(space.from_json(training.what["config"]))
        what = f"Dice {training.result['dice']:.3f} on val" if not training.error else training.error
        self.tell(f"{training.what['kind']} {name}: {what}")


def _name(training: QueuedTraining) -> str:
    return name_of(space.from_json(training.what["config"]))


def _agreed(study: optuna.Study, key: str, value: Any) -> Any:
    """The value that the first worker stored under a key."""
    return agree(study, key, value)[0]
