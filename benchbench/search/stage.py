"""Queued trainings of a search: the parent, promotions, finals, controls.

Each part is a study of Optuna's own, its work queued as trials with a name each; so workers share it, and what a dead
worker was at is taken up again, by the same engine that proposes configurations. A piece of work that was queued twice
is done once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchbench.core.errors import BenchError, StoreError, first_line
from benchbench.search.storage import drop_waiting, fail_stale_trials, run_trial, take_up_the_left

_LABEL, _WORK, _RESULT, _ERROR = "label", "work", "result", "error"
_POLL_S = 1.0


class OutOfTime(BenchError):
    """The time of a search is used up: what is being done is left out, and stays to be done with more time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTraining:
    """One piece of it."""

    label: str  # its name, of which there is one
    what: Mapping[str, Any]  # JSON values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A piece that is finished."""

    label: str
    what: Mapping[str, Any]
    result: Mapping[str, Any]  # JSON values
    error: str | None = None  # why there is no result


def open_stage(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """The study of a part, made if it is not there."""
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def queue(stage: optuna.Study, pieces: Sequence[QueuedTraining], *, alone: bool = False) -> None:
    """Add work that is not there yet.

    Args:
        stage: of the search.
        pieces: in the order in which they are to be done.
        alone: whether nobody else adds any: then what waits since the search had less time, and is not asked for any
            more, is dropped.
    """
    if alone:
        labels = {piece.label for piece in pieces}
        for trial in stage.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if trial.user_attrs.get(_LABEL) not in labels:
                drop_waiting(stage, trial)
    trials = stage.get_trials(deepcopy=False)
    there = {trial.user_attrs.get(_LABEL) for trial in trials if trial.state != TrialState.FAIL}
    there |= {trial.user_attrs.get(_LABEL) for trial in trials if trial.state == TrialState.FAIL and not alone}
    for piece in pieces:
        if piece.label not in there:
            stage.enqueue_trial({}, user_attrs={_LABEL: piece.label, _WORK: dict(piece.what)})


def work_off(
    stage: optuna.Study,
    do: Callable[[QueuedTraining], Mapping[str, Any]],
    *,
    strict: bool = False,
    told: Callable[[TrainingResult], None] | None = None,
    late: Callable[[], bool] | None = None,
    poll_s: float = _POLL_S,
) -> list[TrainingResult]:
    """Do what waits until nothing waits and nobody else is at anything.

    Args:
        stage: of the search.
        do: a piece -> its result; what goes wrong in it becomes the piece's error.
        strict: an error of a piece ends the work instead; the piece stays to be done.
        told: each piece that was done here.
        late: whether no further piece is to be begun; what waits then stays to be done with more time, as does one
            that is out of time.
        poll_s: between two looks at what other workers do.
    """

    def one(trial: optuna.Trial) -> float:
        label = trial.user_attrs.get(_LABEL)
        if label is None or any(d.label == label for d in done(stage)) or _runs_elsewhere(stage, label, trial.number):
            raise optuna.TrialPruned
        piece = QueuedTraining(label=label, what=trial.user_attrs[_WORK])
        try:
            result = dict(do(piece))
        except (StoreError, OutOfTime):
            raise
        except (BenchError, ValueError, RuntimeError) as error:
            if strict:
                raise
            trial.set_user_attr(_ERROR, first_line(error))
            return float("-inf")
        trial.set_user_attr(_RESULT, result)
        return float(result.get("value", 0.0))

    def after(trial: FrozenTrial) -> None:
        if told and trial.state == TrialState.COMPLETE:
            told(_done(trial))

    over = False
    while True:
        over = over or bool(late and late())
        try:
            if not over and run_trial(stage, one, after=after, only_queued=True):
                continue
        except OutOfTime:
            over = True
        running = stage.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(_LABEL in trial.user_attrs for trial in running):
            time.sleep(poll_s)
            fail_stale_trials(stage)
        elif over or not take_up_the_left(stage):
            return done(stage)


def _runs_elsewhere(stage: optuna.Study, label: str, number: int) -> bool:
    """Whether an older trial of the same piece, queued by another worker in the same moment, is at it."""
    running = stage.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return any(trial.number < number and trial.user_attrs.get(_LABEL) == label for trial in running)


def done(stage: optuna.Study) -> list[TrainingResult]:
    """What is finished, each piece once, in the order in which they were queued."""
    found: dict[str, TrainingResult] = {}
    for trial in stage.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        found.setdefault(trial.user_attrs[_LABEL], _done(trial))
    return list(found.values())


def _done(trial: FrozenTrial) -> TrainingResult:
    attributes = trial.user_attrs
    return TrainingResult(
        label=attributes[_LABEL],
        what=attributes[_WORK],
        result=attributes.get(_RESULT, {}),
        error=attributes.get(_ERROR),
    )
