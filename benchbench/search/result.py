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
            "number": trial.number,
            "name": name_of(trial.config),
            "key": trial.config.key,
            "config": rec.to_json(trial.config),
            "published": trial.config in [published(variant) for variant in space.VARIANTS],
            "dice": trial.dice,
            "costs": dict(trial.costs),
            "refused": dict(trial.refused),
            "same_as": trial.same_as,
            "error": trial.error,
            "spent": dict(trial.spent),
            "at_s": trial.at_s,
        }
        for trial in known
    ]


def stage_rows(done: Sequence[TrainingResult]) -> list[dict[str, Any]]:
    """What was promoted, or trained in the end, as JSON values."""
    return [{**training.what, "label": training.label, "error": training.error, **training.result} for training in done]


def reference_point(known: Sequence[proposals.Tried], task: SearchProblem) -> tuple[float, float] | None:
    """Against which hypervolumes are: a Dice of 0.5, and a quarter more than the published network costs.

    Where the published network was refused, a quarter more than the dearest one that was tried.
    """
    tried = proposals.distinct(known)
    whole = [published(variant) for variant in space.VARIANTS]
    costs = [trial.costs[task.metric] for trial in tried if trial.config in whole]
    costs = costs or [max((trial.costs[task.metric] for trial in tried), default=0.0)]
    return (1 - REFERENCE_DICE, REFERENCE_FACTOR * max(costs)) if costs[0] else None


def hypervolume_curve(known: Sequence[proposals.Tried], task: SearchProblem, before_s: float) -> dict[str, Any]:
    """The hypervolume of what was known after each training, as a share of the reference box.

    Args:
        before_s: what a given parent's training took before the search began.
    """
    reference = reference_point(known, task)
    if reference is None:
        return {"reference": None, "curve": []}
    points: list[tuple[float, float]] = []
    curve = []
    for trial in sorted(proposals.distinct(known), key=lambda trial: trial.at_s):
        assert trial.dice is not None
        points.append((1 - trial.dice, trial.costs[task.metric]))
        share = pareto.hypervolume(points, reference) / (reference[0] * reference[1])
        curve.append({"at_s": trial.at_s + before_s, "trainings": len(points), "share": share})
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
            shares = optuna.importance.get_param_importances(
                of, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=lambda trial: trial.values[0]
            )
    except (ValueError, RuntimeError) as error:
        return {"reason": f"it cannot be computed: {error}"}
    return {"shares": {name: float(value) for name, value in shares.items()}}


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
        finals: its trainings, one a seed.
        measured: its record, where it was measured or predicted.
        file_bytes: of its weights.
    """
    best = max(finals, key=lambda final: final.result["dice"])
    vals = [final.result["dice"] for final in finals]
    said = feasibility.costs_of(measured, task.phase)
    costs = {**best.result["costs"], **said, "file_bytes": file_bytes}
    sure = feasibility.confirmed_by(measured, task.phase) | {"file_bytes"}
    over = task.budget.excesses(costs)
    confirmed = all(limit.metric in sure for limit in task.budget.limits)
    origins = {metric: _origin(metric, sure, said) for metric in costs}
    over_seeds = [
        statistics.fmean(values) for values in zip(*(final.result["test"]["values"] for final in finals), strict=True)
    ]
    row: dict[str, Any] = {
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
            "by_seed": [final.result["test"]["dice"] for final in finals],
            "best": best.result["test"]["dice"],
        },
        "best": best.label,
        "seeds": [final.what["seed"] for final in finals],
        "costs": dict(costs),
        "origins": origins,
        "origin": origins.get("latency_s", "not known"),
        "objective": costs.get(task.metric),
        "objective_origin": origins.get(task.metric, "not known"),
        "use": task.budget.use(costs),
        "keeps": False if over else True if confirmed else None,
        "excesses": [str(final) for final in over],
        "inherited": best.result["inherited"],
        "train_s": statistics.fmean(final.result["train_s"] for final in finals),
        "record": measured.id if measured else None,
    }
    row["controls"], row["verdicts"] = _controls(row, finals, controls)
    return row


def _origin(metric: str, sure: Collection[str], said: Collection[str]) -> str:
    """How a cost of a finalist is known."""
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
    row: Mapping[str, Any], finals: Sequence[TrainingResult], controls: Sequence[TrainingResult]
) -> tuple[dict[str, Any], list[str]]:
    """What the controls came to, beside the training of the same seed, and a sentence on each."""
    by_seed = {final.what["seed"]: final for final in finals}
    tables: dict[str, Any] = {}
    sentences = []
    for control in controls:
        final = by_seed.get(control.what["seed"])
        if control.error or final is None:
            tables[str(control.what["kind"])] = {"error": control.error or "its seed was not trained"}
            continue
        gains = [a - b for a, b in zip(final.result["test"]["values"], control.result["test"]["values"], strict=True)]
        mean, (low, high) = statistics.fmean(gains), core_statistics.mean_interval(gains)
        kind = str(control.what["kind"])
        tables[kind] = {
            "dice_val": control.result["dice"],
            "dice_test": control.result["test"]["dice"],
            "own_dice_test": final.result["test"]["dice"],
            "train_s": control.result["train_s"],
            "gain": mean,
            "ci95": [low, high],
            "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference shown",
        }
        word = {"better": "beats", "worse": "loses to", "no difference shown": "is not told apart from"}
        sentences.append(
            f"It {word[tables[kind]['verdict']]} {_CONTROL_TEXT[kind]}: Dice on test "
            f"{final.result['test']['dice']:.3f} against {control.result['test']['dice']:.3f} "
            f"({mean:+.3f}, {low:+.3f} to {high:+.3f}; seed {control.what['seed']})."
        )
    return tables, sentences


def mark_front(points: Sequence[dict[str, Any]]) -> None:
    """Say of each finalist whether it is on the front: by Dice on `val` and what it costs, among those that keep it.

    One that finds next to nothing is not on it however cheap it is, unless all are like that.
    """
    able = [point for point in points if point["keeps"] is not False and point["objective"] is not None]
    able = [point for point in able if point["dice_val"]["mean"] > OF_INTEREST] or able
    levels = pareto.ranks([(1 - point["dice_val"]["mean"], point["objective"]) for point in able])
    for point in points:
        point["front"] = False
    for point, level in zip(able, levels, strict=True):
        point["front"] = level == 0


def config_text(config: Config) -> str:
    """`widths 12-24-32-48, depths 1-1-2-1, ...`, what differs from the published network alone."""
    plain = published(config.variant)
    parts = []
    for name in ("widths", "depths", "attention", "heads", "sampling", "expansion"):
        value = getattr(config, name)
        if value != getattr(plain, name):
            parts.append(f"{name} {'-'.join(map(str, value))}")
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
        done: promotions, finals and controls.
        parent_s: of the parent's training, if the search did it.
        measured_s: of measuring before and after.
        whole_s: all of it, times workers.
    """
    tried = proposals.distinct(known)
    train = (
        parent_s
        + sum(trial.spent["train_s"] for trial in tried)
        + sum(training.result.get("train_s", 0.0) for training in done)
    )
    measure = (
        measured_s
        + sum(trial.spent["measure_s"] for trial in tried)
        + sum(training.result.get("measure_s", 0.0) + training.result.get("test_s", 0.0) for training in done)
    )
    return {"whole_s": whole_s, "train_s": train, "measure_s": measure, "other_s": max(0.0, whole_s - train - measure)}
