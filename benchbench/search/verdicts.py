"""Comparisons of a search's front with the published network and with the controls, paired over the test cases.

Several seeds of a network are averaged case by case; the interval is of the mean difference over cases.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core import statistics as core_statistics
from benchbench.search.trainings import FinishedTraining

Values = Mapping[str, float]  # case -> Dice


def values_of(tests: Sequence[Mapping[str, Any]]) -> Values:
    """Dice of each test case, the mean over the `ids` and `values` of each seed."""
    by_case: dict[str, list[float]] = {}
    for test in tests:
        for case, value in zip(test["ids"], test["values"], strict=True):
            if value is not None:
                by_case.setdefault(str(case), []).append(float(value))
    return {case: statistics.fmean(values) for case, values in by_case.items()}


def summary(values: Values) -> dict[str, Any]:
    """The mean over cases, with its interval, as JSON values."""
    dice = list(values.values())
    return {"mean": statistics.fmean(dice), "ci95": list(core_statistics.mean_interval(dice)), "cases": len(dice)}


def compare(
    kind: str, point: Mapping[str, Any], own: Values, name: str, other: Values, *, seeds: int, **more: Any
) -> dict[str, Any]:
    """A point against another network, on the cases that both have.

    Args:
        kind: one of `search_result.COMPARED`.
        seeds: trainings of the other network.
        more: further JSON values, such as `latency_s` of the other network.
    """
    cases = [case for case in own if case in other]
    gains = [own[case] - other[case] for case in cases]
    low, high = core_statistics.mean_interval(gains)
    verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return {
        "kind": kind,
        "point": point["name"],
        "name": name,
        "dice": statistics.fmean(own[case] for case in cases),
        "other_dice": statistics.fmean(other[case] for case in cases),
        "gain": statistics.fmean(gains),
        "ci95": [low, high],
        "cases": len(cases),
        "seeds": seeds,
        "verdict": verdict,
        **more,
    }


def of_trainings(
    kind: str, point: Mapping[str, Any], own: Values, controls: Sequence[FinishedTraining], **more: Any
) -> dict[str, Any] | None:
    """A point against control trainings of one network, one for each seed; None if none of them has finished."""
    done = [control for control in controls if not control.error]
    if not done:
        return None
    other = values_of([control.result["test"] for control in done])
    train_s = statistics.fmean(float(control.result["train_s"]) for control in done)
    return compare(kind, point, own, str(done[0].what["name"]), other, seeds=len(done), train_s=train_s, **more)
