"""Phases of a search's worker: parent, proposals, promotions, finals, controls.

Workers share the storage and nothing else. The time is that of the whole search, by the clock of the storage's first
worker, so that all of them go from part to part together; whoever is ahead waits for who is still at something, since
a promotion needs to know all that was tried.
"""

from __future__ import annotations

import base64
import contextlib
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

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, StoreError, UsageError
from benchbench.core.results import write_whole
from benchbench.core.statistics import pareto_front
from benchbench.core.units import format_duration
from benchbench.search import pareto, proposals, space
from benchbench.search.feasibility import BudgetError, published
from benchbench.search.inheritance import Parent
from benchbench.search.problem import SearchProblem, published_spec, task_from_json
from benchbench.search.space import Config
from benchbench.search.storage import (
    OutOfTime,
    QueuedTraining,
    TrainingResult,
    agree,
    check_own,
    errors,
    finished_trainings,
    open_phase,
    queue_trainings,
    run_queue,
)
from benchbench.search.trial import (
    Evaluation,
    Trial,
    check_parent,
    evaluate,
    name_of,
    parent_of,
    sharing,
    without_ranking,
)
from benchbench.training.evaluate import measure_dice
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget as TrainBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

PARTS = ("parent", "promotions", "finals", "controls")
PARENT_SHARE, PROPOSAL_SHARE, PROMOTION_SHARE, FINAL_SHARE = 0.15, 0.25, 0.15, 0.40  # of the time; the rest measures
_SHARES = PARENT_SHARE + PROPOSAL_SHARE + PROMOTION_SHARE + FINAL_SHARE
_KEPT = 0.6  # of promotions' and finals' shares, that what is late before them may not take
_LEAST_S = 1.0  # of a training that the time is up for
OF_INTEREST = 0.5  # Dice below which a network is not promoted, unless all are
_NO_PARENT = "the parent's training was broken off too often: the same command tries again; or give --parent"
_MEMORY_SHARE = 0.2  # of what is free: for batches that several trainings see, and as much for the parent's answers
_OVER = "the time of the search is used up"
_OTHER_TIME = re.compile(r"-\d+s$")  # what ends the keys of a search that was given more time
_SLEPT_S = 30.0  # by which the wall clock gets ahead of the process's own where the machine sleeps
_EXHAUSTED = 60  # proposals in a row that were tried before: then there is nothing new

#: Told what happens: a line for a person.
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """A whole search, as its workers have it."""

    name: str  # of the study
    task: SearchProblem
    time_s: float
    low_steps: int  # of a proposal's training
    high_steps: int  # of a promotion's
    trials: int | None = None  # configurations that are tried at most
    finalists: int = 3  # beside the published network
    seeds: int = 2  # that each of them is trained with
    controls: bool = False
    parent: str | None = None  # path of its weights; None: it is trained
    seed: int = 0
    workers: int = 1
    before_s: float = 0.0  # of the time, that measuring took before this plan
    reserve_s: float = 0.0  # of the time, kept for measuring the finalists

    @property
    def scale(self) -> float:
        """What is left of each part's share of the time, without what measuring takes before and after: 0 to 1."""
        return max(0.0, min(1.0, (self.time_s - self.before_s - self.reserve_s) / (_SHARES * self.time_s)))

    def part_s(self, share: float) -> float:
        """Seconds of a share of the time."""
        return share * self.scale * self.time_s

    @property
    def end_s(self) -> float:
        """Seconds since the search began at which finals have to be over."""
        return max(self.before_s, self.time_s - self.reserve_s)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        plain: dict[str, Any] = rec.to_json(self)
        return plain | {"task": self.task.to_json()}


def job_from_json(plain: Mapping[str, Any]) -> SearchJob:
    """The reverse of `SearchJob.to_json`.

    Raises:
        KeyError: something is missing.
        TypeError: a value is not of its form.
        ValueError: a budget that is none, or a number that no search can have.
    """
    if not isinstance(plain, Mapping):
        raise TypeError(f"job must be a table, not {plain!r}")
    task = task_from_json(plain["task"])
    job = dataclasses.replace(rec.from_json(SearchJob, {**plain, "task": rec.to_json(task)}), task=task)
    if min(job.low_steps, job.high_steps, job.finalists, job.seeds, job.workers) < 1 or not job.time_s > 0:
        raise ValueError("steps, finalists, seeds, workers and the time of a job must be above 0")
    return job


class MachineSleep:
    """How long this machine has slept, or was set to another time, since it was last asked."""

    def __init__(self) -> None:
        self._wall, self._process = time.time(), time.monotonic()

    def seconds(self) -> float:
        """Since the last time; what is short counts as none."""
        wall, process = time.time(), time.monotonic()
        slept = (wall - self._wall) - (process - self._process)
        self._wall, self._process = wall, process
        return slept if abs(slept) > _SLEPT_S else 0.0


class WeightStore:
    """The weights of a search: in its folder, and where several machines search, in the storage as well."""

    def __init__(self, folder: Path, storage: optuna.storages.BaseStorage, name: str, *, shared: bool) -> None:
        """Open it.

        Args:
            name: of the study that holds weights, where they are shared.
            shared: with other machines.
        """
        self.folder = folder
        self._study = open_phase(storage, name) if shared else None

    def place(self, label: str) -> Path:
        """Where weights lie, or are to lie."""
        return self.folder / f"{label}.safetensors"

    def put(self, label: str) -> None:
        """Let other machines have weights that are in their place."""
        if self._study:
            path = self.place(label)
            content = {
                "sidecar": sidecar.read_text() if (sidecar := path.with_suffix(".json")).exists() else "",
                "weights": base64.b64encode(path.read_bytes()).decode(),
            }
            self._study.set_user_attr(label, content)

    def get(self, label: str) -> Path:
        """Weights, fetched if another machine has made them.

        Raises:
            StoreError: they are nowhere.
        """
        path = self.place(label)
        if path.exists():
            with contextlib.suppress(CheckpointError):
                return checkpoint.read_sidecar(path).path
        content = self._study.user_attrs.get(label) if self._study else None
        if content is None:
            raise StoreError(f"{path} is gone, and no other machine of the search has it")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content["sidecar"]:
            write_whole(path.with_suffix(".json"), content["sidecar"].encode())
        write_whole(path, base64.b64decode(content["weights"]))  # last: who finds them has all
        return path


class Worker:
    """One of those that work on a search."""

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
            storage: of all workers.
            index: of this worker, unlike every other one's.
            shared: whether workers of other machines may be at it.

        Raises:
            UsageError: the storage has another search under this name.
        """
        self.job, self.task, self._tell, self.storage = job, job.task, tell, storage
        self.index, self.shared = index, shared
        several = shared or job.workers > 1
        here = zlib.crc32(f"{socket.gethostname()}:{folder.absolute()}".encode()) % 10**6 if shared else 0
        self.study = proposals.open_study(storage, job.name, job.task, seed=job.seed + index + here, several=several)
        self.weights = WeightStore(folder / "points", storage, f"{job.name}/weights", shared=shared)
        self._sleep = MachineSleep()
        self.began = float(_agreed(self.study, "began", time.time() - job.before_s))
        low, high = _agreed(self.study, "steps", [job.low_steps, job.high_steps])
        self.low_steps, self.high_steps = int(low), int(high)
        first = float(_agreed(self.study, "time_s", job.time_s))
        self.again = "" if first == job.time_s else f"-{job.time_s:.0f}s"  # of a search that was given more time
        most_s = job.part_s(PROPOSAL_SHARE) / max(2, job.finalists)
        self.low_most_s = max(_LEAST_S, float(_agreed(self.study, "low_most_s", most_s)))
        self.controls_s = 0.0  # which the time does not hold
        self._until: float | None = None  # what is being trained has to be over then
        self._parent: Parent | None = None
        self._shared: Trial | None = None  # of one seed, with its batches
        self.parent_s = self.parent_at_s = 0.0  # of its training; when it was there, and proposals began

    def tell(self, text: str) -> None:
        """Tell what happens.

        Raises:
            TrialReassigned: another worker has taken up what this one is at.
        """
        check_own(self.study)
        self._tell(text)

    def going_on(self, text: str) -> None:
        """Tell what is being trained.

        Raises:
            TrialReassigned: another worker has taken up what this one is at.
            OutOfTime: it has to be over by now.
        """
        self.tell(text)
        if self._until is not None and self.elapsed() > self._until:
            raise OutOfTime(_OVER)

    def elapsed(self) -> float:
        """Seconds since the search began, pauses left out, and where it is this machine's alone, its sleep."""
        if (slept := self._sleep.seconds()) and not self.shared:
            self.began += slept
            if self.index == 0:
                self.study.set_user_attr("began", self.began)
        return time.time() - self.began

    def part(self, part: str) -> optuna.Study:
        """The study of a part."""
        return open_phase(self.storage, f"{self.job.name}/{part}")

    def run(self) -> None:
        """All parts, one after the other."""
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
            self._forget()

    # -- the parent

    def parent(self) -> Parent:
        """The network that all others inherit from: given, or trained once by whoever is first."""
        if self._parent is None:
            part = self.part("parent")
            seconds = max(_LEAST_S, self.job.part_s(PARENT_SHARE))
            what = {"given": self.job.parent is not None, "seconds": seconds}
            queue_trainings(part, [QueuedTraining(label="parent", what=what)])
            self._until = self.job.end_s
            done = run_queue(part, self._make_parent, strict=True, late=lambda: self.elapsed() > self.job.end_s)
            self._until = None
            if not done:
                why = errors(part)
                if self.elapsed() > self.job.end_s:
                    raise BudgetError(
                        f"the time of {format_duration(self.job.time_s)} was over before the parent was trained: the "
                        "same command goes on, with a longer --time"
                    )
                raise CheckpointError(f"no worker could make the parent: {why[-1]}" if why else _NO_PARENT)
            (training,) = done
            self.parent_s, self.parent_at_s = float(training.result["train_s"]), float(training.result["at_s"])
            self.tell(f"ranking the channels of the parent (Dice {training.result['value']:.3f} on val)")
            self._parent = parent_of(self.weights.get("parent"), self.task)
        return self._parent

    def _make_parent(self, work: QueuedTraining) -> dict[str, Any]:
        target = self.weights.place("parent")
        given = self.job.parent
        if given:
            source = Path(given)
            check_parent(source, self.task)
            checkpoint.copy(source, target)
            info = checkpoint.read_sidecar(target)
            model = zoo_build.build(info.model, info.spatial).eval()
            checkpoint.load_weights(model, target)
            self.tell("Dice of the parent on val")
            judged = measure_dice(model, data=self.task.data, split="val", spatial=self.task.spatial, surfaces=False)
            dice, seconds = float(judged.measurements[0].value or 0.0), float(info.train.get("seconds", 0.0))
        else:
            self.tell("training the parent")
            dice, seconds, info = self._train_parent(TrainBudget(seconds=float(work.what["seconds"])), target)
        self._put("parent")
        return {
            "value": dice,
            "train_s": seconds,
            "given": bool(given),
            "sha256": info.sha256,
            "model": info.model.name,
            "steps": info.train.get("steps_done"),
            "at_s": self.elapsed(),
        }

    def _train_parent(self, budget: TrainBudget, out: Path) -> tuple[float, float, checkpoint.CheckpointInfo]:
        spec = published_spec(self.task)
        torch.manual_seed(self.job.seed)
        model = zoo_build.build(spec, self.task.spatial)
        recipe = self.task.recipe(budget, self.job.seed, validations=3)
        result = train(model, spec, recipe, out=out, progress=lambda used, line: self.going_on(f"parent: {line}"))
        if not result.validation:
            raise UsageError("the parent has no Dice on val: its answers are not finite, or no case can be read")
        return result.validation[-1][1], result.seconds, result.checkpoint

    # -- proposals

    def propose(self) -> None:
        """Ask the sampler until the time for it, or the number of trials, is used up."""
        parent = self.parent()
        job, most = self.job, self.job.trials
        end = self.parent_at_s + job.part_s(PROPOSAL_SHARE + (0.0 if job.parent is None else PARENT_SHARE / 2))
        last = job.end_s - _KEPT * job.part_s(PROMOTION_SHARE + FINAL_SHARE)  # also of one that is late
        budget = TrainBudget(steps=self.low_steps, most_s=self.low_most_s)
        self._until = last

        def enough(known: Sequence[proposals.Tried]) -> bool:
            tried, elapsed = proposals.distinct(known), self.elapsed()
            if most is not None and len(tried) >= most:
                return True
            wanted = job.finalists if elapsed < (end + last) / 2 else 1  # without one, the time was for nothing
            if elapsed >= last or (elapsed >= end and len(tried) >= wanted):
                return True
            return len(known) >= _EXHAUSTED and all(trial.same_as is not None for trial in known[-_EXHAUSTED:])

        def train(config: Config, number: int) -> Evaluation:
            if self.elapsed() >= last:  # one that was queued, or that another worker has left
                raise OutOfTime(_OVER)
            self.tell(f"trial {number}: {name_of(config)}")
            place = self.weights.place(f"low-{config.key}")
            evaluation = self._evaluate(config, parent, self._alike(budget, self.job.seed), place)
            for path in checkpoint.files_of(place):  # only its Dice is of use
                path.unlink(missing_ok=True)
            return evaluation

        def report(trial: proposals.Tried) -> None:
            if trial.dice is not None and trial.same_as is None:
                self.tell(f"trial {trial.number}: {name_of(trial.config)} Dice {trial.dice:.3f} on val")

        proposals.search(self.study, self.task, train, elapsed=self.elapsed, until=enough, report=report)
        self._until = None

    def _alike(self, budget: TrainBudget, seed: int) -> Trial:
        """On the same batches as others of this seed: they, and the parent's answers to them, are made once."""
        if self._shared is None or self._shared.seed != seed:
            self._forget()
            most = _MEMORY_SHARE / self.job.workers * psutil.virtual_memory().available
            self._shared = sharing(self.task, self.parent(), budget, seed, most_bytes=most)
        return dataclasses.replace(self._shared, budget=budget)

    def _forget(self) -> None:
        if self._shared and self._shared.loader:
            self._shared.loader.end()
        self._shared = None

    def _evaluate(self, config: Config, parent: Parent | None, trial: Trial, out: Path) -> Evaluation:
        name = name_of(config)
        return evaluate(self.task, config, parent, trial, out, lambda used, line: self.going_on(f"{name}: {line}"))

    # -- promotions

    def promote(self) -> None:
        """Train the best proposals for longer, by the front that they are on."""
        part = self.part("promotions")
        tried = proposals.distinct(proposals.tried(self.study))
        if not tried:
            return
        chosen = _agreed(part, f"chosen{self.again}", [trial.number for trial in self._promoted(tried)])
        by_number = {trial.number: trial for trial in tried}
        now, end = self.elapsed(), self.job.end_s
        last = max(end - _KEPT * self.job.part_s(FINAL_SHARE), now + (1 - _KEPT) * (end - now))
        most_s = max(_LEAST_S, (last - now) * min(1.0, self.job.workers / len(chosen)))
        pieces = [
            self._piece("promotion", by_number[n].config, {"from": n, "steps": self.high_steps, "most_s": most_s})
            for n in chosen
            if n in by_number
        ]
        self._until = last + 0.2 * max(0.0, end - last)
        queue_trainings(part, pieces, alone=not self.shared)
        run_queue(
            part,
            self._longer,
            report=self._report,
            late=lambda: self.elapsed() > last and bool(finished_trainings(part)),
        )
        done = {training.label for training in finished_trainings(part)}
        missing = [piece for piece in pieces if piece.label not in done]
        self._leave_out([f"the promotion of {_name(piece)}" for piece in missing])

    def _promoted(self, tried: Sequence[proposals.Tried]) -> list[proposals.Tried]:
        factor, room = self.high_steps / self.low_steps, self.job.workers * self._left()
        each = sum(trial.spent["total_s"] + (factor - 1) * trial.spent["train_s"] for trial in tried) / len(tried)
        each = max(each, 1e-6)
        count = int(PROMOTION_SHARE / (PROMOTION_SHARE + FINAL_SHARE) * room / each)
        wished = self.job.finalists + 1
        count = max(1, count, min(wished, int((1 - _KEPT) * room / each)))  # finals give some of their time for these
        good = [trial for trial in tried if (trial.dice or 0.0) > OF_INTEREST] or list(tried)
        order = pareto.by_rank([(1 - (trial.dice or 0.0), trial.costs[self.task.metric]) for trial in good])
        self.tell(f"{min(count, len(good))} of {len(good)} are trained for longer")
        if count < min(wished, len(good)):
            self._leave_out([f"{min(wished, len(good)) - count} of {min(wished, len(good))} promotions"])
        return [good[i] for i in order[:count]]

    def _left(self) -> float:
        return max(0.0, self.job.end_s - self.elapsed())

    def _leave_out(self, what: Sequence[str]) -> None:
        """Keep what the time was too short for, where all workers find it."""
        for part in what:
            agree(self.part("left out"), f"{part}{self.again}", True)

    def left_out(self) -> list[str]:
        """What the time was too short for, that the search has now."""
        known = self.part("left out").user_attrs
        ours = [key for key in known if key.endswith(self.again) and (self.again or not _OTHER_TIME.search(key))]
        return [key.removesuffix(self.again) for key in ours]

    def _longer(self, work: QueuedTraining) -> dict[str, Any]:
        config = space.from_json(work.what["config"])
        each = self.job.part_s(PROMOTION_SHARE + (1 - _KEPT) * FINAL_SHARE)
        budget = TrainBudget(steps=int(work.what["steps"]), most_s=max(_LEAST_S, float(work.what.get("most_s", each))))
        evaluation = self._evaluate(
            config, self.parent(), self._alike(budget, self.job.seed), self.weights.place(work.label)
        )
        return self._result(evaluation) | {"val_s": self._val_s(evaluation)}

    def _val_s(self, evaluation: Evaluation) -> float:
        """Seconds of looking at `val` once."""
        return float(checkpoint.read_sidecar(evaluation.path).train.get("validation_seconds", 0.0))

    # -- finals

    def finals(self) -> None:
        """Train the members of the front, and the published network, anew with several seeds."""
        part = self.part("finals")
        promoted = [training for training in finished_trainings(self.part("promotions")) if not training.error]
        if not promoted:
            return
        chosen = _agreed(part, f"chosen{self.again}", self._fitting(promoted))
        pieces = self._finals(chosen)
        self._leave_out(chosen.get("left_out", []))
        each_s = float(chosen["seconds"]) + float(chosen.get("overhead_s", 0.0))

        def late() -> bool:
            return self.elapsed() + 0.75 * each_s > self.job.end_s and any(
                not d.error for d in finished_trainings(part)
            )

        self._until = self.job.end_s + self.job.reserve_s / 2
        queue_trainings(part, pieces, alone=not self.shared)
        run_queue(part, self._final, report=self._report, late=late)
        done = {training.label for training in finished_trainings(part)}
        missing = [piece for piece in pieces if piece.label not in done]
        self._leave_out([f"the final training of {_name(p)} with seed {p.what['seed']}" for p in missing])

    def _fitting(self, promoted: Sequence[TrainingResult]) -> dict[str, Any]:
        """Which finals the time is enough for, and how long each trains.

        A final is as long as a promotion at least, since less would be a step back; so where time is short there are
        fewer seeds, then fewer finalists, and only of a single one a shorter training.
        """
        members, seeds = self._members(promoted), self.job.seeds
        least = max(float(training.result["train_s"]) for training in promoted)
        test = self._test_to_val()
        overhead = max(
            float(training.result["total_s"])
            - float(training.result["train_s"])
            + test * float(training.result.get("val_s", 0.0))
            for training in promoted
        )
        left = self._left()
        room, left_out = self.job.workers * left, list[str]()
        while len(members) * seeds > 1 and (least + overhead) * len(members) * seeds > room:
            if seeds > 1:
                seeds -= 1
            elif len(members) > 2 or members[-1] != published(space.VARIANTS[0]):
                gone = members.pop(-2 if members[-1] == published(space.VARIANTS[0]) else -1)
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
        """How many times the cases of `val` those of `test` are."""
        splits = data.get_plan(self.task.data).splits
        return splits.get("test", 0) / max(1, splits.get("val", 0))

    def _finals(self, chosen: Mapping[str, Any]) -> list[QueuedTraining]:
        return [
            self._piece(
                "final",
                space.from_json(plain),
                {"seed": seed, "seconds": chosen["seconds"]},
                f"-seed{seed}{self.again}",
            )
            for seed in range(self.job.seed, self.job.seed + int(chosen.get("seeds", self.job.seeds)))
            for plain in chosen["configs"]
        ]

    def _members(self, promoted: Sequence[TrainingResult]) -> list[Config]:
        promoted = [training for training in promoted if training.result["dice"] > OF_INTEREST] or list(promoted)
        points = [(1 - training.result["dice"], training.result["costs"][self.task.metric]) for training in promoted]
        best = pareto_front(points)
        kept = pareto.spread([points[i] for i in best], self.job.finalists)
        configs = [space.from_json(promoted[best[i]].what["config"]) for i in kept]
        whole = published(space.VARIANTS[0])
        kept_it = any(trial.config == whole for trial in proposals.distinct(proposals.tried(self.study)))
        if whole not in configs and kept_it:  # else it is above the budget, as far as is known
            configs.append(whole)
        return configs

    def _final(self, work: QueuedTraining) -> dict[str, Any]:
        config = space.from_json(work.what["config"])
        trial = self._alike(TrainBudget(seconds=float(work.what["seconds"])), int(work.what["seed"]))
        return self._judged(work.label, self._evaluate(config, self.parent(), trial, self.weights.place(work.label)))

    def _judged(self, label: str, evaluation: Evaluation) -> dict[str, Any]:
        """A result with the Dice on the cases that the search has never seen."""
        self._put(label)
        start = time.monotonic()
        info = checkpoint.read_sidecar(evaluation.path)
        model = zoo_build.build_model(str(evaluation.path)).eval()
        judged = measure_dice(model, data=self.task.data, split="test", spatial=self.task.spatial, surfaces=False)
        whole = judged.measurements[0]
        return self._result(evaluation) | {
            "test": {"dice": whole.value, "values": list(whole.values), "ids": judged.cases["ids"]},
            "test_s": time.monotonic() - start,
            "sha256": info.sha256,
        }

    def finished(self) -> list[TrainingResult]:
        """The finals of the time that the search has now, without those that failed."""
        chosen = self.part("finals").user_attrs.get(f"chosen{self.again}")
        labels = [piece.label for piece in self._finals(chosen)] if chosen else []
        return [
            training
            for training in finished_trainings(self.part("finals"))
            if training.label in labels and not training.error
        ]

    # -- controls

    def controls(self) -> None:
        """The same architectures from scratch with as much computing in all, and with channels chosen by chance."""
        part = self.part("controls")
        finals = self.finished()
        earlier: dict[str, float] = {}
        for proposal in proposals.distinct(proposals.tried(self.study)):
            earlier[proposal.config.key] = proposal.spent["train_s"]
        for longer in finished_trainings(self.part("promotions")):
            key = str(longer.what["key"])
            earlier[key] = earlier.get(key, 0.0) + float(longer.result.get("train_s", 0.0))
        self.parent()
        pieces = []
        for final in finals:
            if int(final.what["seed"]) != self.job.seed:
                continue
            config, own_s = space.from_json(final.what["config"]), float(final.what["seconds"])
            if config == published(config.variant):  # no find of the search
                continue
            whole_s = self.parent_s + earlier.get(config.key, 0.0) + own_s
            seed = {"seed": self.job.seed, "of": final.label}
            pieces.append(self._piece("scratch", config, {**seed, "seconds": whole_s}, self.again))
            pieces.append(self._piece("random", config, {**seed, "seconds": own_s}, self.again))
        queue_trainings(part, pieces)
        run_queue(part, self._control, report=self._report)

    def _control(self, work: QueuedTraining) -> dict[str, Any]:
        config, seed = space.from_json(work.what["config"]), int(work.what["seed"])
        alike = self._alike(TrainBudget(seconds=float(work.what["seconds"])), seed)
        if work.what["kind"] == "scratch":
            same = checkpoint.read_sidecar(self.weights.get(str(work.what["of"]))).model  # cut alike, too
            trial = dataclasses.replace(alike, spec=same, teacher=None)
            evaluation = self._evaluate(config, None, trial, self.weights.place(work.label))
        else:
            by_chance = without_ranking(self.parent(), seed)
            trial = dataclasses.replace(alike, criterion="random")
            evaluation = self._evaluate(config, by_chance, trial, self.weights.place(work.label))
        return self._judged(work.label, evaluation)

    def _put(self, label: str) -> None:
        """Let other machines have weights, unless the piece is another worker's by now."""
        check_own(self.study, now=True)
        self.weights.put(label)

    # -- words

    def _piece(self, kind: str, config: Config, what: Mapping[str, Any], suffix: str = "") -> QueuedTraining:
        named = f"{kind}-{config.key}{suffix}"
        plain = rec.to_json(config)
        return QueuedTraining(label=named, what={"kind": kind, "key": config.key, "config": plain, **what})

    def _result(self, evaluation: Evaluation) -> dict[str, Any]:
        return {
            "value": evaluation.dice,
            "dice": evaluation.dice,
            "costs": dict(evaluation.costs),
            "inherited": evaluation.inherited,
            "steps": evaluation.steps,
            "train_s": evaluation.train_s,
            "measure_s": evaluation.measure_s,
            "total_s": evaluation.total_s,
            "at_s": self.elapsed(),
        }

    def _report(self, training: TrainingResult) -> None:
        name = name_of(space.from_json(training.what["config"]))
        what = f"Dice {training.result['dice']:.3f} on val" if not training.error else training.error
        self.tell(f"{training.what['kind']} {name}: {what}")


def _name(piece: QueuedTraining) -> str:
    return name_of(space.from_json(piece.what["config"]))


def _agreed(study: optuna.Study, key: str, value: Any) -> Any:
    """What the first worker has said; nobody else's word counts."""
    return agree(study, key, value)[0]
