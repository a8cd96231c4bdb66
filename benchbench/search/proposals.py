"""Proposals by Optuna: refused by the budget, or trained for a short time.

A proposal becomes a configuration; the same one is never trained twice; one that the budget refuses tells the sampler
by how much, and costs milliseconds. What is told of those that were tried is the lower fidelity's Dice alone, since a
mixture of fidelities would teach the sampler which of them were trained longer. Workers share nothing but the storage.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, StoreError, UsageError, first_line
from benchbench.search import space
from benchbench.search.problem import Infeasible, SearchProblem
from benchbench.search.space import Config
from benchbench.search.storage import agree, drop_waiting, fail_stale_trials, run_trial, take_up_the_left
from benchbench.search.trial import Evaluation

_CONFIG, _KEY, _COSTS, _SPENT, _SAME, _AT = "config", "key", "costs", "spent", "same_as", "at_s"
_TRAINS, _ERROR = "trains", "error"
_POLL_S = 1.0  # between two looks at what other workers do
_STARTUP = 10  # trials by chance before the sampler has an opinion

Evaluate = Callable[[Config, int], Evaluation]
Told = Callable[["Tried"], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A proposal and what came of it."""

    number: int
    config: Config
    dice: float | None  # on `val`, at the lower fidelity; None: refused
    costs: Mapping[str, float]
    refused: Mapping[str, float]  # metric -> share above its limit
    same_as: int | None  # the trial that has tried the same configuration
    error: str | None  # why it could not be tried
    spent: Mapping[str, float]  # steps, train_s, measure_s, total_s, and the share that was inherited
    at_s: float  # since the search began, when it was settled


def open_study(
    storage: optuna.storages.BaseStorage, name: str, task: SearchProblem, *, seed: int, several: bool = False
) -> optuna.Study:
    """The study of a task, made if it is not there.

    Args:
        seed: of this worker's sampler.
        several: whether other workers propose at the same time.

    Raises:
        UsageError: a study of that name is of another task or space.
    """
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP, constant_liar=several)
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["maximize", "minimize"], sampler=sampler, load_if_exists=True
    )
    ours = identity(task)
    there, first = agree(study, "identity", ours)
    if first:
        for config in space.starting_points():
            if config.fits(task.spatial):
                study.enqueue_trial(space.parameters(config), skip_if_exists=True)
    if there != ours:
        changed = sorted(key for key in ours if ours[key] != there.get(key))
        raise UsageError(
            f"the study {name!r} is of another search (its {', '.join(changed)} differ): give --study another name"
        )
    return study


def identity(task: SearchProblem) -> dict[str, Any]:
    """What makes trials of two workers comparable, as JSON values."""
    plain = {
        "data": task.key,
        "patch": list(task.spatial),
        "budget": [[limit.metric, limit.most] for limit in task.budget.limits],
        "training": {"batch": task.batch, "lr": task.lr, "distil": task.distil},
        "objective": task.objective,
        "phase": task.phase,
        "device": task.device,
        "machine": task.machine,
        "space": space.description(),
    }
    identity: dict[str, Any] = json.loads(rec.canonical_json(rec.to_json(plain)))
    return identity


def search(
    study: optuna.Study,
    task: SearchProblem,
    evaluate: Evaluate,
    *,
    elapsed: Callable[[], float],
    until: Callable[[Sequence[Tried]], bool],
    report: Told | None = None,
) -> list[Tried]:
    """Propose and try until enough is known.

    Args:
        evaluate: trains a configuration, and judges it; given the trial's number, too.
        elapsed: seconds since the search began, pauses left out.
        until: whether to stop, asked before each proposal with all that is known.
        report: told of each proposal and what came of it.
    """

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        start = time.monotonic()
        try:
            values = attempt(trial, start)
        except optuna.TrialPruned:
            trial.set_user_attr(_AT, elapsed())
            raise
        trial.set_user_attr(_AT, elapsed())
        return values

    def attempt(trial: optuna.Trial, start: float) -> tuple[float, float]:
        config = space.suggest(trial)
        trial.set_user_attr(_TRAINS, False)  # of a trial that is taken up again, it said so once
        trial.set_user_attr(_KEY, config.key)
        trial.set_user_attr(_CONFIG, rec.to_json(config))
        if not config.fits(task.spatial):
            trial.set_constraint("shape", 1.0)
            raise optuna.TrialPruned
        try:
            costs = task.costs(config)
            trial.set_user_attr(_COSTS, costs)
            task.check(costs)
            same = _same(study, config, trial.number)
            if same is not None and same.values is not None:
                trial.set_user_attr(_SAME, same.number)
                trial.set_user_attr(_COSTS, same.user_attrs[_COSTS])
                keep(trial, same.user_attrs[_COSTS])
                return same.values[0], same.values[1]
            if same is None:
                trial.set_user_attr(_TRAINS, True)
                same = _same(study, config, trial.number, trains=False)  # who asked in the same moment
            if same is not None:  # another worker is at it
                trial.set_user_attr(_SAME, same.number)
                raise optuna.TrialPruned
            evaluation = evaluate(config, trial.number)
        except Infeasible as error:
            for metric, over in error.excess.items():
                trial.set_constraint(metric, over)
            raise optuna.TrialPruned from error
        except StoreError:
            raise
        except (BenchError, ValueError, RuntimeError) as error:  # of this configuration alone
            trial.set_user_attr(_ERROR, first_line(error))
            raise optuna.TrialPruned from error
        keep(trial, evaluation.costs)
        trial.set_user_attr(_COSTS, dict(evaluation.costs))
        spent = {
            "inherited": evaluation.inherited,
            "steps": evaluation.steps,
            "train_s": evaluation.train_s,
            "measure_s": evaluation.measure_s,
            "total_s": time.monotonic() - start,
        }
        trial.set_user_attr(_SPENT, spent)
        return evaluation.dice, evaluation.costs[task.metric]

    def keep(trial: optuna.Trial, costs: Mapping[str, float]) -> None:
        for limit in task.budget.limits:  # by how much; told once, since a second word on it would not count
            counts = limit.metric != "latency_s" or task.times_count or task.profile
            if limit.metric in costs and counts:
                trial.set_constraint(limit.metric, costs[limit.metric] / limit.most - 1)

    def after(frozen: FrozenTrial) -> None:
        if report and _KEY in frozen.user_attrs:
            report(_tried(frozen))

    while not until(tried(study)):
        run_trial(study, objective, after=after)
    while True:  # what a worker that died was at is not lost; starting points that nobody came to are
        for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if "retry_history" not in trial.system_attrs:
                drop_waiting(study, trial)
        if run_trial(study, objective, after=after, only_queued=True):
            continue
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            time.sleep(_POLL_S)
            fail_stale_trials(study)
        elif not take_up_the_left(study):
            return tried(study)


def _same(study: optuna.Study, config: Config, number: int, *, trains: bool = True) -> FrozenTrial | None:
    """A trial that has tried, or is trying, the same configuration; one that is done first."""
    others = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        if trial.number != number and trial.user_attrs.get(_KEY) == config.key
    ]
    done = [trial for trial in others if trial.state == TrialState.COMPLETE]
    running = [
        trial
        for trial in others
        if trial.state == TrialState.RUNNING
        and (trial.number < number or (trains and trial.user_attrs.get(_TRAINS, False)))
    ]
    return next(iter(done or running), None)


def tried(study: optuna.Study) -> list[Tried]:
    """Every proposal that is settled, in order."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [_tried(trial) for trial in study.get_trials(deepcopy=False, states=states) if _KEY in trial.user_attrs]


def _tried(trial: FrozenTrial) -> Tried:
    attributes = trial.user_attrs
    return Tried(
        number=trial.number,
        config=space.from_json(attributes[_CONFIG]),
        dice=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        costs=attributes.get(_COSTS, {}),
        refused={name: value for name, value in trial.constraints.items() if value > 0},
        same_as=attributes.get(_SAME),
        error=attributes.get(_ERROR),
        spent=attributes.get(_SPENT, {}),
        at_s=float(attributes.get(_AT, 0.0)),
    )


def distinct(all_tried: Sequence[Tried]) -> list[Tried]:
    """Those that were really trained, each configuration once, whatever became of its worker."""
    first: dict[str, Tried] = {}
    for trial in all_tried:
        if trial.dice is not None and trial.same_as is None:
            first.setdefault(trial.config.key, trial)
    return list(first.values())
