"""Result of a search, `search.json`: request, trials, promotions and front.

Nothing here trains or measures. Points are chosen by `val` alone; `test` is only shown.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna

from benchbench.core import records as rec
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search import feasibility, pareto, proposals, verdicts
from benchbench.search.problem import SearchProblem
from benchbench.search.proposals import LEAST_DICE
from benchbench.search.search_space import Candidate
from benchbench.search.trainings import SAME_AS, FinishedTraining

REFERENCE_DICE = LEAST_DICE  # of the hypervolume's reference point
REFERENCE_FACTOR = 1.25  # cost of that point, as a multiple of that of the network to beat
_FEWEST_FOR_IMPORTANCE = 20


def trial_rows(trials: Sequence[proposals.Tried], problem: SearchProblem) -> list[dict[str, Any]]:
    """Every proposal, as JSON values."""
    return [
        {
            "number": trial.number,
            "name": trial.config.name,
            "key": trial.config.key,
            "config": rec.to_json(trial.config),
            "published": problem.space.is_published(trial.config),
            "dice": trial.dice,
            "costs": dict(trial.costs),
            "refused": dict(trial.refused),
            "same_as": trial.same_as,
            "error": trial.error,
            "spent": dict(trial.spent),
            "at_s": trial.at_s,
        }
        for trial in trials
    ]


def reference_point(
    trials: Sequence[proposals.Tried], problem: SearchProblem, published: Mapping[str, float]
) -> tuple[float, float] | None:
    """Reference of the hypervolume: (1 - 0.5, 1.25 times the cost of the network to beat).

    If that cost is not known, 1.25 times the cost of the most expensive one that was trained.
    """
    cost = published.get(problem.metric) or max(
        (trial.costs[problem.metric] for trial in proposals.distinct(trials)), default=0.0
    )
    return (1 - REFERENCE_DICE, REFERENCE_FACTOR * cost) if cost else None


def hypervolume_curve(
    trials: Sequence[proposals.Tried], problem: SearchProblem, published: Mapping[str, float]
) -> dict[str, Any]:
    """The hypervolume after each training, as a share of the reference box; see `reference_point`."""
    reference = reference_point(trials, problem, published)
    if reference is None:
        return {"reference": None, "curve": []}
    points: list[tuple[float, float]] = []
    curve = []
    for trial in sorted(proposals.distinct(trials), key=lambda trial: trial.at_s):
        assert trial.dice is not None
        points.append((1 - trial.dice, trial.costs[problem.metric]))
        share = pareto.hypervolume(points, reference) / (reference[0] * reference[1])
        curve.append({"at_s": trial.at_s, "trainings": len(points), "share": share})
    return {"reference": {"dice": REFERENCE_DICE, problem.metric: reference[1]}, "curve": curve}


def importances(study: optuna.Study) -> dict[str, Any]:
    """Importance of each choice for Dice, by PED-ANOVA; or the reason why there is none.

    Source: Watanabe et al. 2023, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces".
    """
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(trials) < _FEWEST_FOR_IMPORTANCE:
        return {"reason": f"{len(trials)} trainings are too few to say, from {_FEWEST_FOR_IMPORTANCE} on it is"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=lambda trial: trial.values[0]
            )
    except (ValueError, RuntimeError) as error:
        return {"reason": f"it cannot be computed: {error}"}
    return {"shares": {name: float(value) for name, value in shares.items()}}


def point(
    config: Candidate,
    finals: Sequence[FinishedTraining],
    measured: rec.Record | None,
    file_bytes: float,
    problem: SearchProblem,
) -> dict[str, Any]:
    """One finalist, with its trainings, one per seed, and its record, if it was measured or predicted."""
    best = max(finals, key=lambda final: final.result["dice"])
    vals = [final.result["dice"] for final in finals]
    recorded = feasibility.costs_of(measured, problem.phase)
    costs = {**best.result["costs"], **recorded, "file_bytes": file_bytes}
    confirmed = feasibility.confirmed_by(measured, problem.phase) | {"file_bytes"}
    surely = problem.budget.excesses(costs | feasibility.latency_low(measured, problem.phase))
    excesses = problem.budget.excesses(costs)
    unusable = _unusable(measured)
    all_confirmed = all(limit.metric in confirmed for limit in problem.budget.limits)
    origins = {metric: _origin(metric, confirmed, recorded) for metric in costs}
    return {
        "name": config.name,
        "key": config.key,
        "config": rec.to_json(config),
        "config_text": problem.space.text_of(config),
        "padding": config.padding(problem.spatial),
        "published": problem.space.is_published(config),
        "dice_val": {"mean": statistics.fmean(vals), "values": vals},
        "dice_test": {
            **verdicts.summary(verdicts.values_of([final.result["test"] for final in finals])),
            "by_seed": [final.result["test"]["dice"] for final in finals],
            "best": best.result["test"]["dice"],
        },
        "best": best.label,
        "finals": [final.label for final in finals],
        "seeds": [final.what["seed"] for final in finals],
        "costs": dict(costs),
        "origins": origins,
        "origin": origins.get("latency_s", "not known"),
        "objective": costs.get(problem.metric),
        "objective_origin": origins.get(problem.metric, "not known"),
        "volume_latency_s": measured.value("volume_latency_s") if measured and measured.ok else None,
        "use": problem.budget.use(costs),
        "keeps": False if surely or unusable else True if all_confirmed and not excesses else None,
        "noisy": bool(excesses and not surely),
        "excesses": [*map(str, surely), *([unusable] if unusable else [])],
        "unusable": unusable,
        "inherited": best.result["inherited"],
        "steps": statistics.fmean(final.result["steps"] for final in finals),
        "train_s": statistics.fmean(final.result["train_s"] for final in finals),
        "record": measured.id if measured else None,
        "verdicts": [],
    }


def _unusable(measured: rec.Record | None) -> str | None:
    """Why a network cannot be used in the runtime of its search: it cannot be made for it, or is another one there."""
    if measured is None or measured.workload.runtime == EAGER or measured.status not in ("failed", "unsupported"):
        return None
    return f"it cannot be used in {get_runtime(measured.workload.runtime).title}: {measured.error}"


def _origin(metric: str, confirmed: Collection[str], recorded: Collection[str]) -> str:
    """Origin of a finalist's cost; `timed briefly`: from a few forwards during the search."""
    if metric in ("params", "macs", "file_bytes"):
        return "exact"
    if metric in confirmed:
        return "measured"
    if metric in recorded:
        return "predicted"
    return "at least" if metric == "memory_bytes" else "timed briefly"


def mark_front(points: Sequence[dict[str, Any]]) -> None:
    """Set `front` of each finalist: the Pareto front of Dice on `val` and cost, of those within the budget.

    A Dice below `LEAST_DICE` is not on it, unless all finalists are below.
    """
    able = [point for point in points if point["keeps"] is not False and point["objective"] is not None]
    able = [point for point in able if point["dice_val"]["mean"] > LEAST_DICE] or able
    levels = pareto.ranks([(1 - point["dice_val"]["mean"], point["objective"]) for point in able])
    for point in points:
        point["front"] = False
    for point, level in zip(able, levels, strict=True):
        point["front"] = level == 0


def accounting(
    trials: Sequence[proposals.Tried],
    trainings: Sequence[FinishedTraining],
    *,
    controls: Sequence[FinishedTraining],
    random_s: float,
    parent_s: float,
    measured_s: float,
    whole_s: float,
    beside_s: float = 0.0,
    workers: int = 1,
) -> dict[str, float]:
    """How the time was spent, in seconds of workers; that of the controls stands apart.

    Args:
        trainings: promotions and finals.
        controls: their trainings.
        random_s: of the whole search with random proposals.
        parent_s: of the parent's training, if the search trained it.
        measured_s: of measuring before and after.
        whole_s: elapsed time, with the controls.
        beside_s: elapsed time of the controls, of interrupted ones, too, where the clock has it.
        workers: of the search; the controls have one.
    """
    spent = [trial.spent for trial in proposals.distinct(trials)]
    results = [training.result for training in trainings]
    train = (
        parent_s + sum(s["train_s"] + s["val_s"] for s in spent) + sum(result.get("total_s", 0.0) for result in results)
    )
    measure = measured_s + sum(s["measure_s"] for s in spent) + sum(result.get("test_s", 0.0) for result in results)
    controls_s = max(beside_s, random_s + sum(map(_control_s, controls)))
    own_s = workers * max(0.0, whole_s - controls_s)
    return {
        "whole_s": own_s,
        "train_s": train,
        "measure_s": measure,
        "other_s": max(0.0, own_s - train - measure),
        "controls_s": controls_s,
    }


def _control_s(training: FinishedTraining) -> float:
    """Seconds of a control, also of one that was interrupted, whose `total_s` is of its last sitting."""
    result = {} if SAME_AS in training.what else training.result
    whole_s = max(result.get("total_s", 0.0), result.get("train_s", 0.0) + result.get("val_s", 0.0))
    return float(whole_s + result.get("test_s", 0.0))
