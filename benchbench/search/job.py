"""Plan of a search, which its workers read: the problem, and how the time is divided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchbench.core import records as rec
from benchbench.search.problem import SearchProblem, problem_from_json

STEP_FACTOR = 4  # of a promotion's training against a proposal's, as in successive halving 1:4:16
KEPT_SHARE = 1 / STEP_FACTOR  # of the proposals that are promoted, if there is time
_PARENT = 0.15  # share of the time, only where a parent is asked for and has to be trained
_PROPOSALS, _PROMOTIONS = 0.25, 0.13
_FINALS = 0.55  # the rest is for measuring before and after
_MOST_FINALS = 0.7  # of what measuring leaves, in a short search


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """Plan of a whole search, for its workers."""

    name: str  # of the study
    problem: SearchProblem
    time_s: float
    low_steps: int  # of a proposal's training
    trials: int | None = None  # most configurations to try
    finalists: int = 2
    seeds: int = 1  # trainings per finalist
    sampler: str = "tpe"
    parent: str | None = None  # path of its weights; "train"; None: nothing is inherited
    seed: int = 0
    workers: int = 1
    before_s: float = 0.0  # part of the time that measuring before the search took
    reserve_s: float = 0.0  # part of the time that is reserved for measuring the finalists
    to_beat: float | None = None  # objective of the published network, found as a proposal's is; None: above the budget

    @property
    def left_s(self) -> float:
        """Seconds that measuring leaves for trainings."""
        return max(0.0, self.time_s - self.before_s - self.reserve_s)

    @property
    def parent_s(self) -> float:
        """Seconds for the training of a parent."""
        return _PARENT * self.left_s if self.parent == "train" else 0.0

    @property
    def finals_s(self) -> float:
        """Seconds for finals."""
        left = self.left_s - self.parent_s
        return min(_FINALS * self.time_s, _MOST_FINALS * left)

    @property
    def proposals_s(self) -> float:
        """Seconds for proposals."""
        return (self.left_s - self.parent_s - self.finals_s) * _PROPOSALS / (_PROPOSALS + _PROMOTIONS)

    @property
    def promotions_s(self) -> float:
        """Seconds for promotions."""
        return self.left_s - self.parent_s - self.finals_s - self.proposals_s

    @property
    def end_s(self) -> float:
        """Seconds since the search began at which finals have to be over."""
        return max(self.before_s, self.time_s - self.reserve_s)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        plain: dict[str, Any] = rec.to_json(self)
        del plain["problem"]
        return plain | {"task": self.problem.to_json()}


def job_from_json(plain: Mapping[str, Any]) -> SearchJob:
    """The reverse of `SearchJob.to_json`.

    Raises:
        KeyError: a field is missing.
        TypeError: a value has the wrong type.
        ValueError: an unreadable budget, or a number out of range.
    """
    if not isinstance(plain, Mapping):
        raise TypeError(f"job must be a table, not {plain!r}")
    problem = problem_from_json(plain["task"])
    fields = {key: value for key, value in plain.items() if key != "task"} | {"problem": rec.to_json(problem)}
    job = dataclasses.replace(rec.from_json(SearchJob, fields), problem=problem)
    if min(job.low_steps, job.finalists, job.seeds, job.workers) < 1 or not job.time_s > 0:
        raise ValueError("steps, finalists, seeds, workers and the time of a job must be above 0")
    return job
