"""Queue of the trainings of one phase, which all workers share.

Each phase is a study of the storage. A training that was queued twice runs once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchbench.core.errors import BenchError, StoreError, first_line
from benchbench.search.storage import drop_waiting, fail_stale_trials, requeue_abandoned, run_trial

_LABEL, _WORK, _RESULT, _ERROR = "label", "work", "result", "error"
_POLL_S = 1.0


class OutOfTime(BenchError):
    """The time of a search is used up; the training is left out, and stays queued for a search with more time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTraining:
    """A parent, promotion, final or control that waits."""

    label: str  # unique in its phase
    what: Mapping[str, Any]  # JSON values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A queued training that is finished."""

    label: str
    what: Mapping[str, Any]
    result: Mapping[str, Any]  # JSON values
    error: str | None = None  # why there is no result


def queue_trainings(phase: optuna.Study, trainings: Sequence[QueuedTraining], *, alone: bool = False) -> None:
    """Queue trainings that are not queued yet.

    Args:
        trainings: in their order.
        alone: whether no other process adds any: then queued trainings that are not among these are dropped.
    """
    if alone:
        labels = {training.label for training in trainings}
        for trial in phase.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if trial.user_attrs.get(_LABEL) not in labels:
                drop_waiting(phase, trial)
    trials = phase.get_trials(deepcopy=False)
    there = {trial.user_attrs.get(_LABEL) for trial in trials if trial.state != TrialState.FAIL}
    there |= {trial.user_attrs.get(_LABEL) for trial in trials if trial.state == TrialState.FAIL and not alone}
    for training in trainings:
        if training.label not in there:
            phase.enqueue_trial({}, user_attrs={_LABEL: training.label, _WORK: dict(training.what)})


def run_queue(
    phase: optuna.Study,
    do: Callable[[QueuedTraining], Mapping[str, Any]],
    *,
    strict: bool = False,
    report: Callable[[TrainingResult], None] | None = None,
    late: Callable[[], bool] | None = None,
    poll_s: float = _POLL_S,
) -> list[TrainingResult]:
    """Run queued trainings until none is queued and no other worker runs one.

    Args:
        do: runs a training and returns its result; an error in it is stored as the training's error.
        strict: raise an error instead; the training stays queued.
        report: called with each training that was finished here.
        late: whether to begin no further one; what is queued then stays queued, as does one that is out of time.
        poll_s: between two looks at what other workers do.
    """

    def train(trial: optuna.Trial) -> float:
        label = trial.user_attrs.get(_LABEL)
        if (
            label is None
            or any(d.label == label for d in finished_trainings(phase))
            or _runs_elsewhere(phase, label, trial.number)
        ):
            raise optuna.TrialPruned
        training = QueuedTraining(label=label, what=trial.user_attrs[_WORK])
        try:
            result = dict(do(training))
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
        if report and trial.state == TrialState.COMPLETE:
            report(_result(trial))

    over = False
    while True:
        over = over or bool(late and late())
        try:
            if not over and run_trial(phase, train, after=after, only_queued=True):
                continue
        except OutOfTime:
            over = True
        running = phase.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(_LABEL in trial.user_attrs for trial in running):
            time.sleep(poll_s)
            fail_stale_trials(phase)
        elif over or not requeue_abandoned(phase):
            return finished_trainings(phase)


def _runs_elsewhere(phase: optuna.Study, label: str, number: int) -> bool:
    """Whether an older trial of the same training, queued by another worker at the same moment, runs."""
    running = phase.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return any(trial.number < number and trial.user_attrs.get(_LABEL) == label for trial in running)


def finished_trainings(phase: optuna.Study) -> list[TrainingResult]:
    """The finished trainings, each label once, in the order in which they were queued."""
    by_label: dict[str, TrainingResult] = {}
    for trial in phase.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        by_label.setdefault(trial.user_attrs[_LABEL], _result(trial))
    return list(by_label.values())


def _result(trial: FrozenTrial) -> TrainingResult:
    attributes = trial.user_attrs
    return TrainingResult(
        label=attributes[_LABEL],
        what=attributes[_WORK],
        result=attributes.get(_RESULT, {}),
        error=attributes.get(_ERROR),
    )
