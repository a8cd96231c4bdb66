"""Result of a search, `search.json`: request, trials, promotions and front.

Nothing here trains or measures. Points are chosen by `val` alone; `test` is shown beside them and decides nothing.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.search import feasibility, pareto, proposals, space
from benchbench.search.feasibility import published
from benchbench.search.phases import OF_INTEREST
from benchbench.search.problem import SearchProblem
from benchbench.search.space import Config
from benchbench.search.storage import TrainingResult
from benchbench.search.trial import name_of

REFERENCE_DICE = OF_INTEREST  # of hypervolumes
REFERENCE_FACTOR = 1.25  # times what the published network costs, likewise
_FEWEST_FOR_IMPORTANCE = 20


def trial_rows(known: Sequence[proposals.Tried]) -> list[dict[str, Any]]:
    """Every proposal, as JSON values."""
    return [
        {
            "number": one.number,
            "name": name_of(one.config),
            "key": one.config.key,
            "config": rec.to_json(one.config),
            "published": one.config in [published(variant) for variant in space.VARIANTS],
            "dice": one.dice,
            "costs": dict(one.costs),
            "refused": dict(one.refused),
            "same_as": one.same_as,
            "error": one.error,
            "spent": dict(one.spent),
            "at_s": one.at_s,
        }
        for one in known
    ]


def stage_rows(done: Sequence[TrainingResult]) -> list[dict[str, Any]]:
    """What was promoted, or trained in the end, as JSON values."""
    return [{**one.what, "label": one.label, "error": one.error, **one.result} for one in done]


def reference_point(known: Sequence[proposals.Tried], task: SearchProblem) -> tuple[float, float] | None:
    """Against which hypervolumes are: a Dice of 0.5, and a quarter more than the published network costs.

    Where the published network was refused, a quarter more than the dearest one that was tried.
    """
    tried = proposals.distinct(known)
    whole = [published(variant) for variant in space.VARIANTS]
    costs = [one.costs[task.metric] for one in tried if one.config in whole]
    costs = costs or [max((one.costs[task.metric] for one in tried), default=0.0)]
    return (1 - REFERENCE_DICE, REFERENCE_FACTOR * max(costs)) if costs[0] else None


def hypervolume_curve(known: Sequence[proposals.Tried], task: SearchProblem, before_s: float) -> dict[str, Any]:
    """The hypervolume of what was known after each training, as a share of the reference box.

    Args:
        known: every proposal.
        task: the search's.
        before_s: what a given parent's training took before the search began.
    """
    reference = reference_point(known, task)
    if reference is None:
        return {"reference": None, "curve": []}
    points: list[tuple[float, float]] = []
    curve = []
    for one in sorted(proposals.distinct(known), key=lambda one: one.at_s):
        assert one.dice is not None
        points.append((1 - one.dice, one.costs[task.metric]))
        share = pareto.hypervolume(points, reference) / (reference[0] * reference[1])
        curve.append({"at_s": one.at_s + before_s, "trainings": len(points), "share": share})
    return {"reference": {"dice": REFERENCE_DICE, task.metric: reference[1]}, "curve": curve}


def importances(of: optuna.Study) -> dict[str, Any]:
    """How much each choice has to do with Dice, by PED-ANOVA; or why that cannot be said.

    Source: Watanabe et al. 2023, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces".
    """
    trials = of.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(trials) < _FEWEST_FOR_IMPORTANCE:
        return {"reason": f"{len(trials)} trainings are too few to say, from {_FEWEST_FOR_IMPORTANCE} on it is"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                of, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=lambda trial: trial.values[0]
            )
    except (ValueError, RuntimeError) as error:
        return {"reason": f"it cannot be computed: {error}"}
    return {"shares": {name: float(value) for name, value in found.items()}}


def point(
    config: Config,
    finals: Sequence[TrainingResult],
    controls: Sequence[TrainingResult],
    measured: rec.Record | None,
    file_bytes: float,
    task: SearchProblem,
) -> dict[str, Any]:
    """One finalist, all its seeds together.

    Args:
        config: of it.
        finals: its trainings, one a seed.
        controls: its controls.
        measured: its record, where it was measured or predicted.
        file_bytes: of its weights.
        task: the search's.
    """
    best = max(finals, key=lambda one: one.result["dice"])
    vals = [one.result["dice"] for one in finals]
    said = feasibility.costs_of(measured, task.phase)
    costs = {**best.result["costs"], **said, "file_bytes": file_bytes}
    sure = feasibility.confirmed_by(measured, task.phase) | {"file_bytes"}
    over = task.budget.excesses(costs)
    confirmed = all(limit.metric in sure for limit in task.budget.limits)
    origins = {metric: _origin(metric, sure, said) for metric in costs}
    over_seeds = [
        statistics.fmean(values) for values in zip(*(one.result["test"]["values"] for one in finals), strict=True)
    ]
    found: dict[str, Any] = {
        "name": name_of(config),
        "key": config.key,
        "config": rec.to_json(config),
        "config_text": config_text(config),
        "published": config == published(config.variant),
        "dice_val": {"mean": statistics.fmean(vals), "values": vals},
        "dice_test": {
            "mean": statistics.fmean(over_seeds),
            "ci95": list(core_statistics.mean_interval(over_seeds)),
            "cases": len(over_seeds),
            "by_seed": [one.result["test"]["dice"] for one in finals],
            "best": best.result["test"]["dice"],
        },
        "best": best.label,
        "seeds": [one.what["seed"] for one in finals],
        "costs": dict(costs),
        "origins": origins,
        "origin": origins.get("latency_s", "not known"),
        "objective": costs.get(task.metric),
        "objective_origin": origins.get(task.metric, "not known"),
        "use": task.budget.use(costs),
        "keeps": False if over else True if confirmed else None,
        "excesses": [str(one) for one in over],
        "inherited": best.result["inherited"],
        "train_s": statistics.fmean(one.result["train_s"] for one in finals),
        "record": measured.id if measured else None,
    }
    found["controls"], found["verdicts"] = _controls(found, finals, controls)
    return found


def _origin(metric: str, sure: Collection[str], said: Collection[str]) -> str:
    """How a cost of a finalist is known.

    Args:
        metric: of the cost.
        sure: metrics that were measured, or are exact.
        said: metrics that a record says anything of.
    """
    if metric in ("params", "macs", "file_bytes"):
        return "exact"
    if metric in sure:
        return "measured"
    if metric in said:
        return "predicted"
    return "at least" if metric == "memory_bytes" else "in passing"


_CONTROL_TEXT = {
    "scratch": "the same architecture from scratch with as much computing in all",
    "random": "the same with channels that were chosen by chance",
}


def _controls(
    found: Mapping[str, Any], finals: Sequence[TrainingResult], controls: Sequence[TrainingResult]
) -> tuple[dict[str, Any], list[str]]:
    """What the controls came to, beside the training of the same seed, and a sentence on each."""
    by_seed = {one.what["seed"]: one for one in finals}
    tables: dict[str, Any] = {}
    sentences = []
    for one in controls:
        own = by_seed.get(one.what["seed"])
        if one.error or own is None:
            tables[str(one.what["kind"])] = {"error": one.error or "its seed was not trained"}
            continue
        gains = [a - b for a, b in zip(own.result["test"]["values"], one.result["test"]["values"], strict=True)]
        mean, (low, high) = statistics.fmean(gains), core_statistics.mean_interval(gains)
        kind = str(one.what["kind"])
        tables[kind] = {
            "dice_val": one.result["dice"],
            "dice_test": one.result["test"]["dice"],
            "own_dice_test": own.result["test"]["dice"],
            "train_s": one.result["train_s"],
            "gain": mean,
            "ci95": [low, high],
            "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference shown",
        }
        word = {"better": "beats", "worse": "loses to", "no difference shown": "is not told apart from"}
        sentences.append(
            f"It {word[tables[kind]['verdict']]} {_CONTROL_TEXT[kind]}: Dice on test {own.result['test']['dice']:.3f} "
            f"against {one.result['test']['dice']:.3f} ({mean:+.3f}, {low:+.3f} to {high:+.3f}; seed "
            f"{one.what['seed']})."
        )
    return tables, sentences


def mark_front(points: Sequence[dict[str, Any]]) -> None:
    """Say of each finalist whether it is on the front: by Dice on `val` and what it costs, among those that keep it.

    One that finds next to nothing is not on it however cheap it is, unless all are like that.
    """
    able = [one for one in points if one["keeps"] is not False and one["objective"] is not None]
    able = [one for one in able if one["dice_val"]["mean"] > OF_INTEREST] or able
    levels = pareto.ranks([(1 - one["dice_val"]["mean"], one["objective"]) for one in able])
    for one in points:
        one["front"] = False
    for one, level in zip(able, levels, strict=True):
        one["front"] = level == 0


def config_text(config: Config) -> str:
    """`widths 12-24-32-48, depths 1-1-2-1, ...`, what differs from the published network alone."""
    plain = published(config.variant)
    parts = []
    for name in ("widths", "depths", "attention", "heads", "sampling", "expansion"):
        own = getattr(config, name)
        if own != getattr(plain, name):
            parts.append(f"{name} {'-'.join(map(str, own))}")
    if config.stem != plain.stem:
        parts.append(f"stem {config.stem}")
    if config.prune:
        parts.append(f"{config.prune:.0%} pruned by {config.criterion}, {config.scope}")
    return ", ".join(parts) or "as published"


def accounting(
    known: Sequence[proposals.Tried],
    done: Sequence[TrainingResult],
    *,
    parent_s: float,
    measured_s: float,
    whole_s: float,
) -> dict[str, float]:
    """Where the time went, in seconds of workers.

    Args:
        known: every proposal.
        done: promotions, finals and controls.
        parent_s: of the parent's training, if the search did it.
        measured_s: of measuring before and after.
        whole_s: all of it, times workers.
    """
    tried = proposals.distinct(known)
    train = parent_s + sum(one.spent["train_s"] for one in tried) + sum(one.result.get("train_s", 0.0) for one in done)
    measure = (
        measured_s
        + sum(one.spent["measure_s"] for one in tried)
        + sum(one.result.get("measure_s", 0.0) + one.result.get("test_s", 0.0) for one in done)
    )
    return {"whole_s": whole_s, "train_s": train, "measure_s": measure, "other_s": max(0.0, whole_s - train - measure)}
