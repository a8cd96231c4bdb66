"""Feasibility of a budget before any training: which share of the space keeps it, and whether it binds at all.

Costs of configurations are computed by formula, those of the unmodified network are measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from benchbench.core import records as rec
from benchbench.core.errors import EXIT_REGRESSION, BenchError
from benchbench.core.units import format_shape, format_value
from benchbench.runtimes.catalogue import get_runtime
from benchbench.search.budget import METRICS, CostBudget
from benchbench.search.problem import SearchProblem
from benchbench.search.search_space import Candidate, RandomChooser

_FEWEST = 6  # samples of a latency, below which nothing is refused for it
_DRAWN = 2000  # random configurations of a summary

#: Metric of a budget -> where a record has it, for inference and for training.
MEASURED: Mapping[str, tuple[str, str]] = {
    "memory_bytes": ("volume_peak_memory_bytes", "train_peak_memory_bytes"),
    "latency_s": ("latency_s", "train_step_s"),
    "energy_j": ("energy_j", "energy_j"),
}
_EXACT = ("params", "macs")  # that a record counts


class BudgetError(BenchError):
    """No network of the space, or none of the finalists, keeps the budget."""

    exit_code = EXIT_REGRESSION


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSummary:
    """How much of the space keeps the budget, by formula."""

    drawn: int  # different random configurations that can take the patch
    feasible: int  # of them


def summarise_space(problem: SearchProblem, *, seed: int = 0, drawn: int = _DRAWN) -> SpaceSummary:
    """Random configurations against the budget."""
    chooser, space = RandomChooser(seed), problem.space
    by_key = {config.key: config for config in (space.suggest(chooser) for _ in range(drawn))}
    costs = [problem.costs(config) for config in by_key.values() if config.fits(problem.spatial)]
    return SpaceSummary(drawn=len(costs), feasible=sum(not problem.budget.excesses(cost) for cost in costs))


def smallest(problem: SearchProblem, *, bound: bool = False) -> dict[str, tuple[float, Candidate]]:
    """Metric -> the least cost in the space, and its configuration.

    Args:
        bound: see `SearchSpace.corners`.
    """
    corners = problem.space.corners(problem.spatial, bound=bound)
    all_costs = [(problem.costs(config), config) for config in corners]
    return {
        metric: min(((costs[metric], config) for costs, config in all_costs), key=lambda pair: pair[0])
        for metric in ("params", "macs", "file_bytes", "memory_bytes")
    }


def check_feasible(problem: SearchProblem, measured: Mapping[str, float]) -> None:
    """Check that some network can keep the budget.

    Args:
        measured: metric -> lower bound of the measured cost of the smallest network of the space.

    Raises:
        BudgetError: a limit is below the least cost in the space, or a latency below half of the smallest network's.
    """
    least = {metric: value for metric, (value, _) in smallest(problem).items()} | dict(measured)
    bounds = {metric: value for metric, (value, _) in smallest(problem, bound=True).items()}
    if "latency_s" in measured:
        bounds["latency_s"] = measured["latency_s"] / 2
    for limit in problem.budget.limits:
        unit, title = METRICS[limit.metric]
        if bounds.get(limit.metric, 0.0) > limit.most:
            sure = "at least " if limit.metric in measured else ""
            raise BudgetError(
                f"no network of the space can keep {limit.text}: {title} of the smallest one is {sure}"
                f"{format_value(least[limit.metric], unit)}, and the budget is {format_value(limit.most, unit)}"
            )


def costs_of(record: rec.Record | None, phase: str) -> dict[str, float]:
    """The metrics of a budget that a record has; empty for None and for a record without a result."""
    if record is None or not record.ok:
        return {}
    names = {metric: pair[phase == "train"] for metric, pair in MEASURED.items()} | {name: name for name in _EXACT}
    return {metric: float(value) for metric, name in names.items() if (value := record.value(name)) is not None}


def latency_lower_bound(record: rec.Record | None, phase: str) -> dict[str, float]:
    """Lower bound of the latency in a record of a present device; empty with fewer than six samples, or beside others.

    It is the lower end of the median's 95 % interval, but at most the shortest sample: all of six samples are above the
    true median in one of 64 cases.
    """
    if record is None or not record.ok or record.value("contended_processes"):
        return {}
    latency = record.get(MEASURED["latency_s"][phase == "train"])
    if latency is None or latency.origin != "measured" or len(latency.values) < _FEWEST:
        return {}
    return {"latency_s": min(float(value) for value in (*latency.values, *(latency.ci95 or ())))}


def latency_low(record: rec.Record | None, phase: str) -> dict[str, float]:
    """Lower end of the 95 % interval of a measured latency, by which a limit refuses a network; without it the least.

    Empty where no latency was measured on the device.
    """
    if record is None or not record.ok:
        return {}
    latency = record.get(MEASURED["latency_s"][phase == "train"])
    if latency is None or latency.value is None or latency.origin != "measured":
        return {}
    low = latency.ci95[0] if latency.ci95 else min((*latency.values, latency.value))
    return {"latency_s": float(low)}


def confirmed_by(record: rec.Record | None, phase: str) -> set[str]:
    """The metrics of a record that are exact, or measured on the device."""
    if record is None or not record.ok:
        return set()
    confirmed = set(_EXACT)
    if record.device.basis == "probed":
        for metric, pair in MEASURED.items():
            measurement = record.get(pair[phase == "train"])
            if measurement and measurement.value is not None and measurement.origin == "measured":
                confirmed.add(metric)
    return confirmed


_PARTS = (
    ("base_memory_bytes", "before there is a network"),
    ("weights_memory_bytes", "weights"),
    ("input_memory_bytes", "input"),
    ("output_memory_bytes", "output"),
    ("activation_memory_bytes", "activations and scratch"),
)


def decomposition(record: rec.Record, phase: str) -> str:
    """`484 MB = 242 MB before there is a network + 7.1 MB weights + ...`; empty where no memory was measured."""
    whole = costs_of(record, phase).get("memory_bytes")
    if whole is None:
        return ""
    parts = [(record.value(name), text) for name, text in _PARTS]
    terms = [(float(value), text) for value, text in parts if value is not None]
    rest = whole - sum(value for value, _ in terms)
    if phase == "infer" and record.workload.volume and rest > 0:
        beside = "" if get_runtime(record.workload.runtime).in_pytorch else "the network, and PyTorch for "
        terms.append((rest, f"{beside}sliding windows over {format_shape(record.workload.volume)}"))
    total = " + ".join(f"{format_value(value, 'B')} {text}" for value, text in terms)
    return f"{format_value(whole, 'B')}" + (f" = {total}" if terms else "")


def binding(
    budget: CostBudget, whole: Mapping[str, float], least: Mapping[str, float], *, predicted: bool = False
) -> list[str]:
    """For each limit a sentence on whether the unmodified network keeps it, and which limit would bind.

    Args:
        whole: costs of the unmodified network.
        least: costs of the smallest network of the space.
        predicted: whether times are lower bounds from a data sheet.
    """
    sentences = []
    for limit in budget.limits:
        unit, title = METRICS[limit.metric]
        value, low = whole.get(limit.metric), least.get(limit.metric)
        if value is None:
            sentences.append(f"{limit.text}: the unmodified network's {title} is not known on this device")
        elif value > limit.most:
            sentences.append(
                f"{limit.text} binds: the unmodified network takes {value / limit.most:.2f} of it "
                f"({format_value(value, unit)})"
            )
        elif predicted and limit.metric == "latency_s":
            sentences.append(
                f"{limit.text}: the unmodified network takes at least {format_value(value, unit)} by the data sheet, "
                "so whether it binds cannot be said"
            )
        else:
            between = f", and the smallest of the space takes {format_value(low, unit)}" if low is not None else ""
            sentences.append(
                f"{limit.text} does not bind: the unmodified network takes {value / limit.most:.0%} of it "
                f"({format_value(value, unit)}); less than that would bind{between}"
            )
    return sentences
