"""Plan of a search, which its workers read: the problem, the phases' shares of the time, steps and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchbench.core import records as rec
from benchbench.search.problem import SearchProblem, problem_from_json

PHASES = ("parent", "promotions", "finals", "controls")
PARENT_SHARE, PROPOSAL_SHARE, PROMOTION_SHARE, FINAL_SHARE = 0.15, 0.25, 0.15, 0.40  # of the time; rest: measuring
_SHARES = PARENT_SHARE + PROPOSAL_SHARE + PROMOTION_SHARE + FINAL_SHARE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """Plan of a whole search, for its workers."""

    name: str  # of the study
    problem: SearchProblem
    time_s: float
    low_steps: int  # of a proposal's training
    high_steps: int  # of a promotion's training
    trials: int | None = None  # most configurations to try
    finalists: int = 3  # beside the published network
    seeds: int = 2  # trainings per finalist
    controls: bool = False
    parent: str | None = None  # path of its weights; None: it is trained
    seed: int = 0
    workers: int = 1
    before_s: float = 0.0  # part of the time that measuring before the search took
    reserve_s: float = 0.0  # part of the time that is reserved for measuring the finalists

    @property
    def scale(self) -> float:
        """Factor of every phase's share, 0 to 1, which leaves time for measuring before and after."""
        return max(0.0, min(1.0, (self.time_s - self.before_s - self.reserve_s) / (_SHARES * self.time_s)))

    def phase_s(self, share: float) -> float:
        """Seconds of a phase with this share of the time."""
        return share * self.scale * self.time_s

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
    if min(job.low_steps, job.high_steps, job.finalists, job.seeds, job.workers) < 1 or not job.time_s > 0:
        raise ValueError("steps, finalists, seeds, workers and the time of a job must be above 0")
    return job
