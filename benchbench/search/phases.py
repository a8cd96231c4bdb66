"""A worker of a search: it joins the study, gets the parent if there is one, and proposes until its time is over.

Workers share the storage and nothing else. The time is that of the whole search, by the clock of the worker that
created the study.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import torch

from benchbench.core.errors import StoreError
from benchbench.search import proposals
from benchbench.search.clock import MachineSleep
from benchbench.search.inheritance import Parent
from benchbench.search.job import SearchJob
from benchbench.search.proposals import Agreed, Tried
from benchbench.search.search_space import Candidate
from benchbench.search.slim_unetr_space import published_spec
from benchbench.search.storage import PATIENCE_S, requeue_interrupted
from benchbench.search.trial import Evaluation, evaluate, parent_of, shared_loader, train_network
from benchbench.search.weight_store import WeightStore
from benchbench.training.patch_loader import CachedPatchLoader
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

LEAST_S = 1.0  # of a training, where the time is used up
FEWEST = 8  # proposals that there should be time for, if each would train for long otherwise: two are promoted
PARENT = "parent"  # label of its weights
_MOST_SHARE = 1 / 3  # of the time of proposals, for one of them
_MEMORY_SHARE = 0.2  # of the free memory, for batches that several trainings share
_FEWEST_STATES = 12  # of proposals that are kept, since a quarter of all is not known before the last one
_FEW_UNTRAINED = 3  # networks with inherited weights to compare with, before one is refused for its untrained Dice
_FAR_BELOW = 0.3  # of the best untrained Dice of those that cost no more: not trained
_POLL_S = 2.0  # between two looks for the parent, which another machine trains

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
        pause_s: float = 0.0,
    ) -> None:
        """Join a search, or begin it; raises as `open_study`.

        Args:
            index: of this worker on this machine; 0 is the command itself.
            shared: whether other machines may work on the search.
            pause_s: between the last sitting and this one, which is not counted.
        """
        self.job, self.problem, self.tell, self.storage = job, job.problem, tell, storage
        self.folder, self.index, self.shared = folder, index, shared
        here = zlib.crc32(f"{socket.gethostname()}:{folder.absolute()}".encode()) % 10**6
        several = shared or job.workers > 1
        seed = job.seed + index + (here if shared else 0)
        identity = proposals.identity(job.problem) | {"parent": _digest(job.parent), "sampler": job.sampler}
        ours = Agreed(
            first=str(here),
            identity=identity,
            began=time.time() - job.before_s,
            time_s=job.time_s,
            low_steps=job.low_steps,
            low_most_s=max(LEAST_S, min(_MOST_SHARE, job.workers / FEWEST) * job.proposals_s),
        )
        sampler = proposals.make_sampler(job.sampler, job.problem, seed=seed, several=several)
        self.study, agreed = proposals.open_study(storage, job.name, ours, sampler=sampler, alone=not shared)
        self.is_first = agreed.first == ours.first  # of this folder, whose command works off the rest
        if self.is_first and index == 0 and agreed != ours:
            agreed = dataclasses.replace(agreed, began=agreed.began + pause_s, time_s=job.time_s)
            proposals.say(self.study, agreed)
        self.agreed = agreed
        if index == 0:  # before it starts others
            requeue_interrupted(self.study, alone=not shared)
        self.weights = WeightStore(folder / "points", storage, job.name, shared=shared)
        self._sleep = MachineSleep()
        self._parent: Parent | None = None
        self._loader: CachedPatchLoader | None = None
        self._forgotten = set[str]()  # keys of proposals whose state was deleted

    def elapsed(self) -> float:
        """Seconds since the search began, without pauses; without the machine's sleep if no other one searches."""
        if (slept := self._sleep.seconds()) and not self.shared:
            self.agreed = dataclasses.replace(self.agreed, began=self.agreed.began + slept)
            if self.index == 0:
                proposals.say(self.study, self.agreed)
        return time.time() - self.agreed.began

    @contextlib.contextmanager
    def beside_the_time(self) -> Iterator[None]:
        """Inside, the time of the search stands still."""
        start = time.time()
        try:
            yield
        finally:
            self.agreed = dataclasses.replace(self.agreed, began=self.agreed.began + time.time() - start)
            proposals.say(self.study, self.agreed)

    def proposed(self) -> list[Tried]:
        """The proposals that were trained."""
        return proposals.distinct(proposals.tried(self.study, self.problem.space))

    # -- the parent

    def parent(self) -> Parent | None:
        """The network that others inherit from; None without one."""
        if self._parent is None and (path := self.parent_path()):
            self.tell("reading the parent, and the importance of its channels")
            self._parent = parent_of(path, self.problem)
        return self._parent

    def parent_path(self) -> Path | None:
        """Weights of the parent: given, or trained by the first worker, for which others wait; None without one."""
        if self.job.parent != "train":
            return Path(self.job.parent) if self.job.parent else None
        until = self.job.before_s + 2 * self.job.parent_s + self.agreed.low_most_s
        while (path := self.weights.get(PARENT)) is None:
            if self.is_first and self.index == 0:
                return self._train_parent()
            if self.elapsed() > until:
                raise StoreError("the first worker of the search has not made the parent in time: run it again")
            time.sleep(_POLL_S)
        return path

    def _train_parent(self) -> Path:
        spec, path = (
            published_spec(self.problem, self.problem.space.published_name(self.problem.spatial)),
            self.weights.path(PARENT),
        )
        torch.manual_seed(self.job.seed)
        model = zoo_build.build(spec, self.problem.spatial)
        recipe = self.problem.recipe(TrainingBudget(seconds=max(LEAST_S, self.job.parent_s)), self.job.seed)
        train_network(recipe, model, spec, path, progress=lambda _, line: self.tell(f"parent: {line}"))
        self.weights.forget_state(PARENT)
        self.weights.put(PARENT)
        return path

    def parent_facts(self) -> dict[str, Any] | None:
        """What is said of the parent; None without one."""
        if (path := self.parent_path()) is None:
            return None
        info = checkpoint.read_sidecar(path)
        watched = info.train.get("validation")
        return {
            "model": info.model.name,
            "dice_val": watched[-1][1] if watched else None,
            "train_s": info.train.get("seconds"),
            "given": self.job.parent != "train",
            "sha256": info.sha256,
        }

    # -- proposals

    def propose(self, *, patience_s: float = PATIENCE_S) -> None:
        """Propose and train until the time for it is over, and wait for what others still train."""
        budget = TrainingBudget(steps=self.agreed.low_steps, most_s=self.agreed.low_most_s)
        hopeless = self._untrained_check() if self.problem.space.tries_inherited else None

        def train(config: Candidate, number: int) -> Evaluation:
            return evaluate(
                self.problem,
                config,
                self.parent(),
                budget,
                self.job.seed,
                self.weights.path(f"proposal-{config.key}"),
                to_beat=self.job.to_beat,
                hopeless=hopeless,
                loader=self.batches(budget),
                progress=lambda _, line: self.tell(f"trial {number}, {config.name}: {line}"),
            )

        def report(trial: Tried) -> None:
            if trial.dice is not None and trial.same_as is None:
                self.tell(f"trial {trial.number}: {trial.config.name} Dice {trial.dice:.3f} on val")
                self._keep_best(trial)

        def run(trials: int | None, until: Callable[[Sequence[Tried]], bool]) -> None:
            proposals.propose(
                self.study,
                self.problem,
                train,
                elapsed=self.elapsed,
                until=until,
                report=report,
                trials=trials,
                patience_s=patience_s,
            )

        try:
            run(None, self._enough)
            if self.is_first and self.index == 0:
                end = self.proposals_until_s + self.agreed.low_most_s
                proposals.settle(self.study, lambda: run(1, lambda known: False), late=lambda: self.elapsed() > end)
        finally:
            self.end_batches()

    @property
    def proposals_until_s(self) -> float:
        """Seconds since the search began at which no proposal is begun any more."""
        return self.job.before_s + self.job.parent_s + self.job.proposals_s

    def _enough(self, known: Sequence[Tried]) -> bool:
        distinct = proposals.distinct(known)
        if self.job.trials is not None and len(distinct) >= self.job.trials:
            return True
        each = [float(trial.spent["total_s"]) for trial in distinct]
        typical = sorted(each)[len(each) // 2] if each else 0.0
        over = self.elapsed() + 0.5 * typical > self.proposals_until_s
        return (over and bool(distinct)) or self.elapsed() >= self.job.end_s

    def _untrained_check(self) -> Callable[[float, Mapping[str, float]], float]:
        """Compares the Dice of inherited weights with the best of those that cost no more."""
        seen: list[tuple[float, float]] = []  # (cost, untrained Dice)

        def gap(untrained: float, costs: Mapping[str, float]) -> float:
            cost = costs[self.problem.metric]
            cheaper = [dice for other, dice in seen if other <= cost]
            seen.append((cost, untrained))
            return max(0.0, max(cheaper) - untrained - _FAR_BELOW) if len(cheaper) >= _FEW_UNTRAINED else 0.0

        return gap

    def _keep_best(self, trial: Tried) -> None:
        """Upload a proposal that may be promoted elsewhere, and delete the states of those that will not be."""
        known = self.proposed()
        order = proposals.ranked(known, self.problem.metric, self.job.to_beat)
        count = max(_FEWEST_STATES, len(proposals.best_quarter(known, self.problem.metric, self.job.to_beat)))
        kept = {other.config.key for other in order[:count]}
        if trial.config.key in kept and not self.is_first:
            self.weights.put(f"proposal-{trial.config.key}")
        for key in {other.config.key for other in known} - kept - self._forgotten:
            self.weights.forget_state(f"proposal-{key}")
            self._forgotten.add(key)

    def batches(self, budget: TrainingBudget) -> CachedPatchLoader:
        """Batches that all proposals and promotions share, which are made once."""
        if self._loader is None:
            most = _MEMORY_SHARE / self.job.workers * psutil.virtual_memory().available
            self._loader = shared_loader(self.problem, budget, self.job.seed, most_bytes=most)
        return self._loader

    def end_batches(self) -> None:
        """End the process that makes batches."""
        if self._loader:
            self._loader.end()
        self._loader = None


def _digest(parent: str | None) -> str | None:
    """What says whether two workers have the same parent."""
    return parent if parent in (None, "train") else checkpoint.read_sidecar(Path(parent)).sha256
