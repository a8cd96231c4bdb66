"""Proposals by Optuna: refused by the budget, or trained for a short time.

No configuration is trained twice. One above the budget costs milliseconds, and the sampler learns by how much it is
above. The sampler sees only the Dice of the shortest trainings: with longer ones among them it would learn which
proposals were promoted. Workers share nothing but the storage.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, StoreError, UsageError, first_line
from benchbench.runtimes.catalogue import EAGER
from benchbench.search import pareto
from benchbench.search.job import KEPT_SHARE
from benchbench.search.problem import Infeasible, SearchProblem
from benchbench.search.search_space import Candidate, SearchSpace
from benchbench.search.storage import PATIENCE_S, optimize, running, waiting
from benchbench.search.trial import Evaluation

_T = TypeVar("_T")

LEAST_DICE = 0.5  # a network below it is not promoted, unless all are
NEAR_DICE = 0.15  # nor one that is this far below the best
_CONFIG, _KEY, _COSTS, _SPENT, _SAME, _AT = "config", "key", "costs", "spent", "same_as", "at_s"
_TRAINS, _ERROR = "trains", "error"
_SPENT_FIELDS = ("inherited", "untrained", "steps", "train_s", "val_s", "measure_s", "total_s")
_POLL_S = 1.0  # between two looks at what other workers do
_STARTUP = 10  # random trials before the sampler's model is used
_EXHAUSTED = 60  # proposals in a row that were tried before: the space is exhausted

Evaluate = Callable[[Candidate, int], Evaluation]
Report = Callable[["Tried"], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A proposal and its result."""

    number: int
    config: Candidate
    dice: float | None  # on `val`, after the shortest training; None: refused
    costs: Mapping[str, float]
    refused: Mapping[str, float]  # metric -> how far above its limit, as a share of the limit
    same_as: int | None  # an earlier trial of the same configuration
    error: str | None  # why it could not be trained
    spent: Mapping[str, Any]  # steps, train_s, val_s, measure_s, total_s, inherited share, untrained Dice
    at_s: float  # when it was finished, since the search began

    @property
    def inherits(self) -> bool:
        """Whether it began with weights of the parent."""
        return float(self.spent.get("inherited", 0.0)) > 0


class FirstGuesses(BaseSampler):
    """A sampler whose first trials are given: that of number k is the k-th guess.

    They are not queued in the storage, from which two workers could take the same one.
    """

    def __init__(self, guesses: Sequence[Mapping[str, Any]], sampler: BaseSampler) -> None:
        self._guesses, self._sampler = guesses, sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing for a guess, so that each of its parameters is asked for by itself."""
        is_guess = trial.number < len(self._guesses)
        return {} if is_guess else self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler."""
        return self._sampler.sample_relative(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter of the guess, or as the sampler."""
        if trial.number < len(self._guesses):
            return self._guesses[trial.number][param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler, which stores the constraints."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """As the sampler."""
        self._sampler.reseed_rng()


def make_sampler(name: str, problem: SearchProblem, *, seed: int, several: bool = False) -> BaseSampler:
    """The sampler of a worker, one of `several`: TPE after first guesses, or chance from the start, its control."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    guesses = problem.space.guesses(problem.spatial)
    tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_STARTUP, constant_liar=several)
    return FirstGuesses(guesses, tpe)


def identity(problem: SearchProblem) -> dict[str, Any]:
    """All that has to be equal for trials of two workers to be comparable, as JSON values."""
    plain = {
        "data": problem.key,
        "patch": list(problem.spatial),
        "budget": [[limit.metric, limit.most] for limit in problem.budget.limits],
        "training": {"batch": problem.batch, "lr": problem.lr},
        "objective": problem.objective,
        "phase": problem.phase,
        "device": problem.device,
        "machine": problem.machine,
        "space": problem.space.describe(),
        **({} if problem.runtime == EAGER else {"runtime": problem.runtime}),
    }
    identity: dict[str, Any] = json.loads(rec.canonical_json(rec.to_json(plain)))
    return identity


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What all workers of a search agree on: the worker that created the study says it."""

    first: str  # where that worker searches
    identity: Mapping[str, Any]
    began: float  # s since the epoch
    time_s: float
    low_steps: int
    low_most_s: float  # of a proposal's training


_AGREED = "search"  # attribute of the study
_WAIT_S = 60.0  # for the worker that created a study to say what all agree on


def open_study(
    storage: optuna.storages.BaseStorage, name: str, ours: Agreed, *, sampler: BaseSampler, alone: bool = True
) -> tuple[optuna.Study, Agreed]:
    """The study of a search: created, if no other worker has done so, and what all its workers agree on.

    Args:
        ours: what this worker says if it is the first.
        alone: whether no other folder's workers use the storage: then a study that was begun and says nothing, since
            its worker was killed in between, is this one's.

    Raises:
        StoreError: the worker that created it says nothing.
        UsageError: a study of that name is of another problem or space.
    """
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, directions=["maximize", "minimize"], sampler=sampler
        )
        say(study, ours)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        if alone and _AGREED not in study.user_attrs:
            say(study, ours)
    until = time.monotonic() + _WAIT_S
    while (said := study.user_attrs.get(_AGREED)) is None:
        if time.monotonic() > until:
            raise StoreError(
                f"the worker that began the study {name!r} has not told its plan: give --study another name"
            )
        time.sleep(_POLL_S)
    agreed = Agreed(**said)
    keys = {**ours.identity, **agreed.identity}
    changed = sorted(key for key in keys if ours.identity.get(key) != agreed.identity.get(key))
    if changed:
        raise UsageError(
            f"the study {name!r} is of another search (its {', '.join(changed)} differ): give --study another name"
        )
    return study, agreed


def say(study: optuna.Study, agreed: Agreed) -> None:
    """Tell all workers; only the first one does so."""
    study.set_user_attr(_AGREED, dataclasses.asdict(agreed))


def propose(
    study: optuna.Study,
    problem: SearchProblem,
    evaluate: Evaluate,
    *,
    elapsed: Callable[[], float],
    until: Callable[[Sequence[Tried]], bool],
    report: Report | None = None,
    trials: int | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Propose and train until `until` says stop, given all finished proposals, or nothing new is proposed any more.

    Args:
        evaluate: trains and evaluates a configuration; its second argument is the trial's number.
        elapsed: seconds since the search began, without pauses.
        trials: to run at most.
        patience_s: how long the database may be away.
    """

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        try:
            values = attempt(trial)
        except optuna.TrialPruned:
            trial.set_user_attr(_AT, elapsed())
            raise
        trial.set_user_attr(_AT, elapsed())
        return values

    def attempt(trial: optuna.Trial) -> tuple[float, float]:
        config = problem.space.suggest(trial)
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
        except (StoreError, optuna.exceptions.OptunaError):
            raise
        except (BenchError, ValueError, RuntimeError) as error:  # the fault of this configuration
            trial.set_user_attr(_ERROR, first_line(error))
            raise optuna.TrialPruned from error
        set_constraints(trial, evaluation.costs)
        trial.set_user_attr(_COSTS, dict(evaluation.costs))
        trial.set_user_attr(_SPENT, {key: getattr(evaluation, key) for key in _SPENT_FIELDS})
        return evaluation.dice, evaluation.costs[problem.metric]

    def set_constraints(trial: optuna.Trial, costs: Mapping[str, float]) -> None:
        for limit in problem.budget.limits:
            counts = limit.metric != "latency_s" or problem.times_count or problem.profile
            if limit.metric in costs and counts:
                trial.set_constraint(limit.metric, costs[limit.metric] / limit.most - 1)

    def after(frozen: FrozenTrial) -> bool:
        if report and _KEY in frozen.user_attrs:
            report(_tried(frozen, problem.space))
        return over()

    def over() -> bool:
        known = tried(study, problem.space)
        return until(known) or (len(known) > _EXHAUSTED and all(t.same_as is not None for t in known[-_EXHAUSTED:]))

    if not over():
        optimize(study, objective, after, trials=trials, patience_s=patience_s)


def settle(study: optuna.Study, take: Callable[[], None], *, late: Callable[[], bool], poll_s: float = _POLL_S) -> None:
    """Wait for proposals of other workers, until it is late; `take` runs one here whose worker is no more."""
    while not late():
        if waiting(study):
            take()
        elif running(study):
            time.sleep(poll_s)
        else:
            return


def ranked(trials: Sequence[Tried], metric: str, to_beat: float | None = None) -> list[Tried]:
    """The proposals that are worth a longer training, by Pareto rank of Dice and a cost.

    Those that inherit weights and those that do not are ranked apart and take turns, since a head start is no merit.

    Args:
        to_beat: cost of the network to beat; what costs more comes last, and only if it is better than all others.
    """
    if to_beat is not None:
        groups = by_cost(trials, lambda trial: (trial.dice or 0.0, trial.costs[metric]), to_beat)
        return [trial for group in groups for trial in ranked(group, metric)]
    best = max((trial.dice or 0.0 for trial in trials), default=0.0)
    good = [t for t in trials if (t.dice or 0.0) > max(LEAST_DICE, best - NEAR_DICE)] or list(trials)
    orders = []
    for inherits in (False, True):
        group = [trial for trial in good if trial.inherits is inherits]
        order = pareto.by_rank([(1 - (trial.dice or 0.0), trial.costs[metric]) for trial in group])
        orders.append([group[i] for i in order])
    orders.sort(key=lambda order: -max((trial.dice or 0.0 for trial in order), default=0.0))
    return [trial for turn in itertools.zip_longest(*orders) for trial in turn if trial is not None]


def by_cost(items: Sequence[_T], of: Callable[[_T], tuple[float, float]], most: float) -> tuple[list[_T], list[_T]]:
    """Networks that cost at most so much, and those that cost more and are better than all of these.

    Args:
        of: a network's Dice and cost.

    Returns:
        All and none where no network of a useful Dice costs so little.
    """
    cheaper = [item for item in items if of(item)[0] > LEAST_DICE and of(item)[1] <= most]
    if not cheaper:
        return list(items), []
    best = max(of(item)[0] for item in cheaper)
    return cheaper, [item for item in items if of(item)[0] > best and of(item)[1] > most]


def best_quarter(trials: Sequence[Tried], metric: str, to_beat: float | None = None) -> list[Tried]:
    """The proposals that would be promoted if there were no others, the best first."""
    return ranked(trials, metric, to_beat)[: math.ceil(KEPT_SHARE * len(trials))]


def _same(study: optuna.Study, config: Candidate, number: int, *, trains: bool = True) -> FrozenTrial | None:
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


def tried(study: optuna.Study, space: SearchSpace[Any]) -> list[Tried]:
    """Every finished proposal, in order."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        _tried(trial, space) for trial in study.get_trials(deepcopy=False, states=states) if _KEY in trial.user_attrs
    ]


def _tried(trial: FrozenTrial, space: SearchSpace[Any]) -> Tried:
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
