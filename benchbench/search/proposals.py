"""Proposals by Optuna: refused by the budget, or trained for a short time.

No configuration is trained twice. One above the budget costs milliseconds, and the sampler learns by how much it is
above. The sampler sees only the Dice of the low fidelity: with several fidelities it would learn which trials were
trained for longer. Workers share nothing but the storage.
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
from benchbench.runtimes.catalogue import EAGER
from benchbench.search import space
from benchbench.search.problem import Infeasible, SearchProblem
from benchbench.search.space import Config
from benchbench.search.storage import agree, drop_waiting, fail_stale_trials, requeue_abandoned, run_trial
from benchbench.search.trial import Evaluation

_CONFIG, _KEY, _COSTS, _SPENT, _SAME, _AT = "config", "key", "costs", "spent", "same_as", "at_s"
_TRAINS, _ERROR = "trains", "error"
_POLL_S = 1.0  # between two looks at what other workers do
_STARTUP = 10  # random trials before the sampler's model is used

Evaluate = Callable[[Config, int], Evaluation]
Report = Callable[["Tried"], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A proposal and its result."""

    number: int
    config: Config
    dice: float | None  # on `val`, at the low fidelity; None: refused
    costs: Mapping[str, float]
    refused: Mapping[str, float]  # metric -> how far above its limit, as a share of the limit
    same_as: int | None  # an earlier trial of the same configuration
    error: str | None  # why it could not be trained
    spent: Mapping[str, float]  # steps, train_s, measure_s, total_s, and the share of inherited parameters
    at_s: float  # when it was finished, since the search began


def open_study(
    storage: optuna.storages.BaseStorage, name: str, problem: SearchProblem, *, seed: int, several: bool = False
) -> optuna.Study:
    """The study of a search, created if it does not exist.

    Args:
        seed: of this worker's sampler.
        several: whether other workers propose at the same time.

    Raises:
        UsageError: a study of that name is of another problem or space.
    """
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP, constant_liar=several)
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["maximize", "minimize"], sampler=sampler, load_if_exists=True
    )
    ours = identity(problem)
    stored, first = agree(study, "identity", ours)
    if first:
        for config in space.starting_points():
            if config.fits(problem.spatial):
                study.enqueue_trial(space.parameters(config), skip_if_exists=True)
    if stored != ours:
        changed = sorted(key for key in {**ours, **stored} if ours.get(key) != stored.get(key))
        raise UsageError(
            f"the study {name!r} is of another search (its {', '.join(changed)} differ): give --study another name"
        )
    return study


def identity(problem: SearchProblem) -> dict[str, Any]:
    """All that has to be equal for trials of two workers to be comparable, as JSON values."""
    plain = {
        "data": problem.key,
        "patch": list(problem.spatial),
        "budget": [[limit.metric, limit.most] for limit in problem.budget.limits],
        "training": {"batch": problem.batch, "lr": problem.lr, "distil": problem.distil},
        "objective": problem.objective,
        "phase": problem.phase,
        "device": problem.device,
        "machine": problem.machine,
        "space": space.description(),
        **({} if problem.runtime == EAGER else {"runtime": problem.runtime}),  # earlier studies, of eager, name none
    }
    identity: dict[str, Any] = json.loads(rec.canonical_json(rec.to_json(plain)))
    return identity


def search(
    study: optuna.Study,
    problem: SearchProblem,
    evaluate: Evaluate,
    *,
    elapsed: Callable[[], float],
    until: Callable[[Sequence[Tried]], bool],
    report: Report | None = None,
) -> list[Tried]:
    """Propose and train until `until` says stop.

    Args:
        evaluate: trains and evaluates a configuration; its second argument is the trial's number.
        elapsed: seconds since the search began, without pauses.
        until: whether to stop; called before each proposal with all finished ones.
        report: called with each finished proposal.
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
        trial.set_user_attr(_TRAINS, False)  # a trial that was queued again may have it as True
        trial.set_user_attr(_KEY, config.key)
        trial.set_user_attr(_CONFIG, rec.to_json(config))
        if not config.fits(problem.spatial):
            trial.set_constraint("shape", 1.0)
            raise optuna.TrialPruned
        try:
            costs = problem.costs(config)
            trial.set_user_attr(_COSTS, costs)
            problem.check(costs)
            same = _same(study, config, trial.number)
            if same is not None and same.values is not None:
                trial.set_user_attr(_SAME, same.number)
                trial.set_user_attr(_COSTS, same.user_attrs[_COSTS])
                set_constraints(trial, same.user_attrs[_COSTS])
                return same.values[0], same.values[1]
            if same is None:
                trial.set_user_attr(_TRAINS, True)
                same = _same(study, config, trial.number, trains=False)  # another worker at the same moment
            if same is not None:  # another worker trains it
                trial.set_user_attr(_SAME, same.number)
                raise optuna.TrialPruned
            evaluation = evaluate(config, trial.number)
        except Infeasible as error:
            for metric, over in error.excess.items():
                trial.set_constraint(metric, over)
            raise optuna.TrialPruned from error
        except StoreError:
            raise
        except (BenchError, ValueError, RuntimeError) as error:  # the fault of this configuration
            trial.set_user_attr(_ERROR, first_line(error))
            raise optuna.TrialPruned from error
        set_constraints(trial, evaluation.costs)
        trial.set_user_attr(_COSTS, dict(evaluation.costs))
        spent = {
            "inherited": evaluation.inherited,
            "steps": evaluation.steps,
            "train_s": evaluation.train_s,
            "measure_s": evaluation.measure_s,
            "total_s": time.monotonic() - start,
        }
        trial.set_user_attr(_SPENT, spent)
        return evaluation.dice, evaluation.costs[problem.metric]

    def set_constraints(trial: optuna.Trial, costs: Mapping[str, float]) -> None:
        for limit in problem.budget.limits:
            counts = limit.metric != "latency_s" or problem.times_count or problem.profile
            if limit.metric in costs and counts:
                trial.set_constraint(limit.metric, costs[limit.metric] / limit.most - 1)

    def after(frozen: FrozenTrial) -> None:
        if report and _KEY in frozen.user_attrs:
            report(_tried(frozen))

    while not until(tried(study)):
        run_trial(study, objective, after=after)
    while True:  # trials of dead workers are run again; starting points that were not reached are dropped
        for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if "retry_history" not in trial.system_attrs:
                drop_waiting(study, trial)
        if run_trial(study, objective, after=after, only_queued=True):
            continue
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            time.sleep(_POLL_S)
            fail_stale_trials(study)
        elif not requeue_abandoned(study):
            return tried(study)


def _same(study: optuna.Study, config: Config, number: int, *, trains: bool = True) -> FrozenTrial | None:
    """A trial that has finished, or else one that is training, the same configuration."""
    others = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        if trial.number != number and trial.user_attrs.get(_KEY) == config.key
    ]
    finished = [trial for trial in others if trial.state == TrialState.COMPLETE]
    running = [
        trial
        for trial in others
        if trial.state == TrialState.RUNNING
        and (trial.number < number or (trains and trial.user_attrs.get(_TRAINS, False)))
    ]
    return next(iter(finished or running), None)


def tried(study: optuna.Study) -> list[Tried]:
    """Every finished proposal, in order."""
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
    """The proposals that were trained, each configuration once."""
    first: dict[str, Tried] = {}
    for trial in all_tried:
        if trial.dice is not None and trial.same_as is None:
            first.setdefault(trial.config.key, trial)
    return list(first.values())
