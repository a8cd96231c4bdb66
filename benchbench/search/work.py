"""What a worker does: the parent, proposals, promotions, finals, controls, each part when the one before is done.

Workers share the storage and nothing else. The time is that of the whole search, by the clock of the storage's first
worker, so that all of them go from part to part together; whoever is ahead waits for who is still at something, since
a promotion needs to know all that was tried.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import torch

from benchbench import checkpoint, zoo
from benchbench import records as rec
from benchbench.errors import CheckpointError, UsageError
from benchbench.measure.accuracy import measure_dice
from benchbench.recipe import Budget as TrainBudget
from benchbench.search import front, space, stage, study
from benchbench.search.clock import Sleep
from benchbench.search.evaluate import (
    Evaluation,
    Trial,
    check_parent,
    evaluate,
    name_of,
    parent_of,
    sharing,
    without_ranking,
)
from benchbench.search.inherit import Parent
from benchbench.search.outlook import published
from benchbench.search.shelf import Shelf
from benchbench.search.space import Config
from benchbench.search.storage import agree, check_own, errors
from benchbench.search.task import Task, published_spec, task_from_json
from benchbench.train import train

PARTS = ("parent", "promotions", "finals", "controls")
PARENT_SHARE, PROPOSAL_SHARE, PROMOTION_SHARE, FINAL_SHARE = 0.15, 0.25, 0.15, 0.40  # of the time; the rest measures
OF_INTEREST = 0.5  # Dice below which a network is not promoted, unless all are
_NO_PARENT = "the parent's training was broken off too often: the same command tries again; or give --parent"
_MEMORY_SHARE = 0.2  # of what is free: for batches that several trainings see, and as much for the parent's answers
_LATE = 1.0  # times the search's own time that even one configuration may be too late
_EXHAUSTED = 60  # proposals in a row that were tried before: then there is nothing new

#: Told what happens: a line for a person.
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A whole search, as its workers have it."""

    name: str  # of the study
    task: Task
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

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        plain: dict[str, Any] = rec.to_json(self)
        return plain | {"task": self.task.to_json()}


def job_from_json(plain: Mapping[str, Any]) -> Job:
    """The reverse of `Job.to_json`."""
    return Job(**{**plain, "task": task_from_json(plain["task"])})


class Worker:
    """One of those that work on a search."""

    def __init__(
        self, job: Job, folder: Path, storage: optuna.storages.BaseStorage, *, index: int, shared: bool, tell: Tell
    ) -> None:
        """Join a search, or begin it.

        Args:
            job: the search.
            folder: of this machine's results.
            storage: of all workers.
            index: of this worker, unlike every other one's.
            shared: whether workers of other machines may be at it.
            tell: told what happens.

        Raises:
            UsageError: the storage has another search under this name.
        """
        self.job, self.task, self._tell, self.storage = job, job.task, tell, storage
        self.index, self.shared = index, shared
        several = shared or job.workers > 1
        here = zlib.crc32(f"{socket.gethostname()}:{folder.absolute()}".encode()) % 10**6 if shared else 0
        self.study = study.open_study(storage, job.name, job.task, seed=job.seed + index + here, several=several)
        self.shelf = Shelf(folder / "points", storage, f"{job.name}/weights", shared=shared)
        self._sleep = Sleep()
        self.began = float(_agreed(self.study, "began", time.time()))
        low, high = _agreed(self.study, "steps", [job.low_steps, job.high_steps])
        self.low_steps, self.high_steps = int(low), int(high)
        first = float(_agreed(self.study, "time_s", job.time_s))
        self.again = "" if first == job.time_s else f"-{job.time_s:.0f}s"  # of a search that was given more time
        self._parent: Parent | None = None
        self._shared: Trial | None = None  # of one seed, with its batches
        self.parent_s = self.parent_at_s = 0.0  # of its training; when it was there, and proposals began

    def tell(self, text: str) -> None:
        """Tell what happens.

        Raises:
            Lost: another worker has taken up what this one is at.
        """
        check_own(self.study)
        self._tell(text)

    def elapsed(self) -> float:
        """Seconds since the search began, pauses left out, and where it is this machine's alone, its sleep."""
        if (slept := self._sleep.seconds()) and not self.shared:
            self.began += slept
            if self.index == 0:
                self.study.set_user_attr("began", self.began)
        return time.time() - self.began

    def part(self, part: str) -> optuna.Study:
        """The study of a part."""
        return stage.open_stage(self.storage, f"{self.job.name}/{part}")

    def run(self) -> None:
        """All parts, one after the other."""
        self.parent()
        try:
            self.propose()
            self.promote()
            self.finals()
            if self.job.controls:
                self.controls()
        finally:
            self._forget()

    # -- the parent

    def parent(self) -> Parent:
        """The network that all others inherit from: given, or trained once by whoever is first."""
        if self._parent is None:
            part = self.part("parent")
            what = {"given": self.job.parent is not None, "seconds": PARENT_SHARE * self.job.time_s}
            stage.queue(part, [stage.Work(label="parent", what=what)])
            done = stage.work_off(part, self._make_parent, strict=True)
            if not done:
                why = errors(part)
                raise CheckpointError(f"no worker could make the parent: {why[-1]}" if why else _NO_PARENT)
            (found,) = done
            self.parent_s, self.parent_at_s = float(found.result["train_s"]), float(found.result["at_s"])
            self.tell(f"ranking the channels of the parent (Dice {found.result['value']:.3f} on val)")
            self._parent = parent_of(self.shelf.get("parent"), self.task)
        return self._parent

    def _make_parent(self, work: stage.Work) -> dict[str, Any]:
        target = self.shelf.place("parent")
        given = self.job.parent
        if given:
            source = Path(given)
            check_parent(source, self.task)
            checkpoint.copy(source, target)
            info = checkpoint.read_sidecar(target)
            model = zoo.build(info.model, info.spatial).eval()
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
        model = zoo.build(spec, self.task.spatial)
        recipe = self.task.recipe(budget, self.job.seed, validations=3)
        result = train(model, spec, recipe, out=out, progress=lambda used, line: self.tell(f"parent: {line}"))
        if not result.validation:
            raise UsageError("the parent has no Dice on val: its answers are not finite, or no case can be read")
        return result.validation[-1][1], result.seconds, result.checkpoint

    # -- proposals

    def propose(self) -> None:
        """Ask the sampler until the time for it, or the number of trials, is used up."""
        parent = self.parent()
        shares = PROPOSAL_SHARE + (0.0 if self.job.parent is None else PARENT_SHARE / 2)
        end = self.parent_at_s + shares * self.job.time_s
        most = self.job.trials

        def enough(known: Sequence[study.Tried]) -> bool:
            tried, elapsed = study.distinct(known), self.elapsed()
            if most is not None and len(tried) >= most:
                return True
            wanted = self.job.finalists if elapsed < self.job.time_s else 1  # without one, the time was for nothing
            if elapsed >= end and len(tried) >= wanted:
                return True
            if elapsed >= end + _LATE * self.job.time_s:
                return True
            return len(known) >= _EXHAUSTED and all(one.same_as is not None for one in known[-_EXHAUSTED:])

        def one(config: Config, number: int) -> Evaluation:
            self.tell(f"trial {number}: {name_of(config)}")
            place = self.shelf.place(f"low-{config.key}")
            found = self._evaluate(config, parent, self._alike(TrainBudget(steps=self.low_steps), self.job.seed), place)
            for path in checkpoint.files_of(place):  # only its Dice is of use
                path.unlink(missing_ok=True)
            return found

        def told(one: study.Tried) -> None:
            if one.dice is not None and one.same_as is None:
                self.tell(f"trial {one.number}: {name_of(one.config)} Dice {one.dice:.3f} on val")

        study.search(self.study, self.task, one, elapsed=self.elapsed, until=enough, told=told)

    def _alike(self, budget: TrainBudget, seed: int) -> Trial:
        """On the same batches as others of this seed: they, and the parent's answers to them, are made once."""
        if self._shared is None or self._shared.seed != seed:
            self._forget()
            most = _MEMORY_SHARE / self.job.workers * psutil.virtual_memory().available
            self._shared = sharing(self.task, self.parent(), budget, seed, most_bytes=most)
        return dataclasses.replace(self._shared, budget=budget)

    def _forget(self) -> None:
        if self._shared and self._shared.feed:
            self._shared.feed.end()
        self._shared = None

    def _evaluate(self, config: Config, parent: Parent | None, trial: Trial, out: Path) -> Evaluation:
        name = name_of(config)
        return evaluate(self.task, config, parent, trial, out, lambda used, line: self.tell(f"{name}: {line}"))

    # -- promotions

    def promote(self) -> None:
        """Train the best proposals for longer, by the front that they are on."""
        part = self.part("promotions")
        tried = study.distinct(study.tried(self.study))
        if not tried:
            return
        chosen = _agreed(part, f"chosen{self.again}", [one.number for one in self._promoted(tried)])
        by_number = {one.number: one for one in tried}
        pieces = [
            self._piece("promotion", by_number[n].config, {"from": n, "steps": self.high_steps})
            for n in chosen
            if n in by_number
        ]
        stage.queue(part, pieces)
        stage.work_off(part, self._longer, told=self._told)

    def _promoted(self, tried: Sequence[study.Tried]) -> list[study.Tried]:
        left = (PROMOTION_SHARE / (PROMOTION_SHARE + FINAL_SHARE)) * self._left()
        factor = self.high_steps / self.low_steps
        each = sum(one.spent["total_s"] + (factor - 1) * one.spent["train_s"] for one in tried) / len(tried)
        count = max(self.job.finalists + 1, int(self.job.workers * left / max(each, 1e-6)))
        good = [one for one in tried if (one.dice or 0.0) > OF_INTEREST] or list(tried)
        order = front.by_rank([(1 - (one.dice or 0.0), one.costs[self.task.metric]) for one in good])
        return [good[i] for i in order[:count]]

    def _left(self) -> float:
        whole = PARENT_SHARE + PROPOSAL_SHARE + PROMOTION_SHARE + FINAL_SHARE
        return max(0.0, whole * self.job.time_s - self.elapsed())

    def _longer(self, work: stage.Work) -> dict[str, Any]:
        config = space.from_json(work.what["config"])
        trial = self._alike(TrainBudget(steps=int(work.what["steps"])), self.job.seed)
        found = self._evaluate(config, self.parent(), trial, self.shelf.place(work.label))
        return self._result(found)

    # -- finals

    def finals(self) -> None:
        """Train the members of the front, and the published network, anew with several seeds."""
        part = self.part("finals")
        promoted = [one for one in stage.done(self.part("promotions")) if not one.error]
        if not promoted:
            return
        members = self._members(promoted)
        pieces = self.job.seeds * len(members)
        least = max(float(one.result["train_s"]) for one in promoted)  # less would be a step back
        seconds = max(least, self.job.workers * self._left() / pieces)
        chosen = _agreed(
            part,
            f"chosen{self.again}",
            {"seconds": seconds, "configs": [rec.to_json(c) for c in members]},
        )
        stage.queue(part, self._finals(chosen))
        stage.work_off(part, self._final, told=self._told)

    def _finals(self, chosen: Mapping[str, Any]) -> list[stage.Work]:
        return [
            self._piece(
                "final",
                space.from_json(plain),
                {"seed": seed, "seconds": chosen["seconds"]},
                f"-seed{seed}{self.again}",
            )
            for seed in range(self.job.seed, self.job.seed + self.job.seeds)
            for plain in chosen["configs"]
        ]

    def _members(self, promoted: Sequence[stage.Done]) -> list[Config]:
        promoted = [one for one in promoted if one.result["dice"] > OF_INTEREST] or list(promoted)
        points = [(1 - one.result["dice"], one.result["costs"][self.task.metric]) for one in promoted]
        best = [i for i, rank in enumerate(front.ranks(points)) if rank == 0]
        kept = front.spread([points[i] for i in best], self.job.finalists)
        found = [space.from_json(promoted[best[i]].what["config"]) for i in kept]
        whole = published(space.VARIANTS[0])
        kept_it = any(one.config == whole for one in study.distinct(study.tried(self.study)))
        if whole not in found and kept_it:  # else it is above the budget, as far as is known
            found.append(whole)
        return found

    def _final(self, work: stage.Work) -> dict[str, Any]:
        config = space.from_json(work.what["config"])
        trial = self._alike(TrainBudget(seconds=float(work.what["seconds"])), int(work.what["seed"]))
        return self._judged(work.label, self._evaluate(config, self.parent(), trial, self.shelf.place(work.label)))

    def _judged(self, label: str, found: Evaluation) -> dict[str, Any]:
        """A result with the Dice on the cases that the search has never seen."""
        self._put(label)
        start = time.monotonic()
        info = checkpoint.read_sidecar(found.path)
        model = zoo.build_model(str(found.path)).eval()
        judged = measure_dice(model, data=self.task.data, split="test", spatial=self.task.spatial, surfaces=False)
        whole = judged.measurements[0]
        return self._result(found) | {
            "test": {"dice": whole.value, "values": list(whole.values), "ids": judged.cases["ids"]},
            "test_s": time.monotonic() - start,
            "sha256": info.sha256,
        }

    def finished(self) -> list[stage.Done]:
        """The finals of the time that the search has now, without those that failed."""
        chosen = self.part("finals").user_attrs.get(f"chosen{self.again}")
        labels = [piece.label for piece in self._finals(chosen)] if chosen else []
        return [one for one in stage.done(self.part("finals")) if one.label in labels and not one.error]

    # -- controls

    def controls(self) -> None:
        """The same architectures from scratch with as much computing in all, and with channels chosen by chance."""
        part = self.part("controls")
        finals = self.finished()
        earlier: dict[str, float] = {}
        for proposal in study.distinct(study.tried(self.study)):
            earlier[proposal.config.key] = proposal.spent["train_s"]
        for longer in stage.done(self.part("promotions")):
            key = str(longer.what["key"])
            earlier[key] = earlier.get(key, 0.0) + float(longer.result.get("train_s", 0.0))
        self.parent()
        pieces = []
        for one in finals:
            if int(one.what["seed"]) != self.job.seed:
                continue
            config, own_s = space.from_json(one.what["config"]), float(one.what["seconds"])
            if config == published(config.variant):  # no find of the search
                continue
            whole_s = self.parent_s + earlier.get(config.key, 0.0) + own_s
            seed = {"seed": self.job.seed, "of": one.label}
            pieces.append(self._piece("scratch", config, {**seed, "seconds": whole_s}, self.again))
            pieces.append(self._piece("random", config, {**seed, "seconds": own_s}, self.again))
        stage.queue(part, pieces)
        stage.work_off(part, self._control, told=self._told)

    def _control(self, work: stage.Work) -> dict[str, Any]:
        config, seed = space.from_json(work.what["config"]), int(work.what["seed"])
        alike = self._alike(TrainBudget(seconds=float(work.what["seconds"])), seed)
        if work.what["kind"] == "scratch":
            same = checkpoint.read_sidecar(self.shelf.get(str(work.what["of"]))).model  # cut alike, too
            trial = dataclasses.replace(alike, spec=same, teacher=None)
            found = self._evaluate(config, None, trial, self.shelf.place(work.label))
        else:
            by_chance = without_ranking(self.parent(), seed)
            trial = dataclasses.replace(alike, criterion="random")
            found = self._evaluate(config, by_chance, trial, self.shelf.place(work.label))
        return self._judged(work.label, found)

    def _put(self, label: str) -> None:
        """Let other machines have weights, unless the piece is another worker's by now."""
        check_own(self.study, now=True)
        self.shelf.put(label)

    # -- words

    def _piece(self, kind: str, config: Config, what: Mapping[str, Any], suffix: str = "") -> stage.Work:
        named = f"{kind}-{config.key}{suffix}"
        plain = rec.to_json(config)
        return stage.Work(label=named, what={"kind": kind, "key": config.key, "config": plain, **what})

    def _result(self, found: Evaluation) -> dict[str, Any]:
        return {
            "value": found.dice,
            "dice": found.dice,
            "costs": dict(found.costs),
            "inherited": found.inherited,
            "steps": found.steps,
            "train_s": found.train_s,
            "measure_s": found.measure_s,
            "total_s": found.total_s,
            "at_s": self.elapsed(),
        }

    def _told(self, one: stage.Done) -> None:
        name = name_of(space.from_json(one.what["config"]))
        what = f"Dice {one.result['dice']:.3f} on val" if not one.error else one.error
        self.tell(f"{one.what['kind']} {name}: {what}")


def _agreed(of: optuna.Study, key: str, own: Any) -> Any:
    """What the first worker has said; nobody else's word counts."""
    return agree(of, key, own)[0]
