"""Feasibility of a budget before any training: what of the space it leaves, and whether it binds at all.

All by formula, so thousands of configurations take a moment; what is said of the unmodified network was measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping

from benchbench.core import records as rec
from benchbench.core.errors import EXIT_REGRESSION, BenchError
from benchbench.core.units import format_shape, format_value
from benchbench.search import space
from benchbench.search.budget import METRICS, CostBudget
from benchbench.search.problem import SearchProblem
from benchbench.search.space import PUBLISHED, Config

_CUTS = ((max(space.RATIOS), "layer"), (0.0, "layer"), (max(space.RATIOS), "global"))
_FEWEST = 6  # samples of a time, below which nothing is refused by it
DRAWN = 2000  # configurations by chance, for the profile

#: Metric of a budget -> where a record has it, for inference and for training.
MEASURED: Mapping[str, tuple[str, str]] = {
    "memory_bytes": ("volume_peak_memory_bytes", "train_peak_memory_bytes"),
    "latency_s": ("latency_s", "train_step_s"),
    "energy_j": ("energy_j", "energy_j"),
}
_EXACT = ("params", "macs")  # that a record counts


class BudgetError(BenchError):
    """Nothing that could be searched, or that was found, meets the budget."""

    exit_code = EXIT_REGRESSION


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one cost over the space."""

    least: float
    median: float
    most: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSummary:
    """Of the space."""

    drawn: int  # different configurations, by chance
    feasible: int  # of them, as far as the formulas know
    spread: Mapping[str, Spread]


def profile(task: SearchProblem, *, seed: int = 0, drawn: int = DRAWN) -> SpaceSummary:
    """Look at configurations that were drawn by chance.

    Args:
        drawn: how many proposals; those that cannot take the patch are left out.
    """
    chooser = space.Random(seed)
    by_key = {
        config.key: config for config in (space.suggest(chooser) for _ in range(drawn)) if config.fits(task.spatial)
    }
    costs = [task.costs(config) for config in by_key.values()]
    return SpaceSummary(
        drawn=len(costs),
        feasible=sum(not task.budget.excesses(cost) for cost in costs),
        spread={
            metric: Spread(
                least=min(cost[metric] for cost in costs),
                median=statistics.median(cost[metric] for cost in costs),
                most=max(cost[metric] for cost in costs),
            )
            for metric in ("params", "macs", "file_bytes", "memory_bytes")
        },
    )


def corners(task: SearchProblem) -> Iterator[Config]:
    """The smallest networks of the space: every cost rises with each width, depth and expansion.

    The stem and the sampling pull both ways, so each of their choices is tried. Of those that are cut across layers the
    formulas know what is left at least.
    """
    for variant, stem, sampling, (prune, scope) in itertools.product(
        space.VARIANTS, space.STEMS, itertools.product(*space.SAMPLING), _CUTS
    ):
        config = Config(
            variant=variant,
            widths=tuple(min(of) for of in space.WIDTHS),  # type: ignore[arg-type]
            depths=tuple(min(of) for of in space.DEPTHS),  # type: ignore[arg-type]
            attention=tuple(min(of) for of in space.ATTENTION),  # type: ignore[arg-type]
            heads=(1, 1, 1, 1),
            sampling=sampling,
            expansion=(min(space.EXPANSION),) * 4,
            stem=stem,
            prune=prune,
            scope=scope,
        ).canonical()
        if config.fits(task.spatial):
            yield config


def smallest(task: SearchProblem, *, bound: bool = False) -> dict[str, tuple[float, Config]]:
    """Metric -> the least that a configuration needs, and the one that does.

    Args:
        bound: also of what is cut across layers, whose costs are known from below alone.
    """
    all_costs = [(task.costs(config), config) for config in corners(task) if bound or config.scope == "layer"]
    return {
        metric: min(((costs[metric], config) for costs, config in all_costs), key=lambda pair: pair[0])
        for metric in ("params", "macs", "file_bytes", "memory_bytes")
    }


def check_feasible(task: SearchProblem, measured: Mapping[str, float]) -> None:
    """End a search that cannot find anything, before it trains.

    Args:
        task: the search's.
        measured: metric -> what the smallest network of the space takes at least, as was measured; one of which
            nothing is sure is left out.

    Raises:
        BudgetError: a limit is below what any network needs; or a time is below half of what the smallest one takes,
            which nothing comes near.
    """
    least = {metric: value for metric, (value, _) in smallest(task).items()} | dict(measured)
    bounds = {metric: value for metric, (value, _) in smallest(task, bound=True).items()}
    if "latency_s" in measured:
        bounds["latency_s"] = measured["latency_s"] / 2
    for limit in task.budget.limits:
        unit, title = METRICS[limit.metric]
        if bounds.get(limit.metric, 0.0) > limit.most:
            sure = "at least " if limit.metric in measured else ""
            raise BudgetError(
                f"no network of the space can keep {limit.text}: {title} of the smallest one is {sure}"
                f"{format_value(least[limit.metric], unit)}, and the budget is {format_value(limit.most, unit)}"
            )


def costs_of(record: rec.Record | None, phase: str) -> dict[str, float]:
    """What a record says of the metrics of a budget; what it does not say is left out.

    Args:
        record: None, and one without a result, say nothing.
    """
    if record is None or not record.ok:
        return {}
    names = {metric: pair[phase == "train"] for metric, pair in MEASURED.items()} | {name: name for name in _EXACT}
    return {metric: float(value) for metric, name in names.items() if (value := record.value(name)) is not None}


def at_least(record: rec.Record | None, phase: str) -> dict[str, float]:
    """Of the time that a record tells, the lower end of what is sure; nothing where too few samples were taken.

    The lower end is that of the median's 95 % interval, but no more than the shortest sample: of six, all are above
    the median of what could be measured in one of 64 cases.

    Args:
        record: of a device that was at hand.
    """
    if record is None or not record.ok:
        return {}
    latency = record.get(MEASURED["latency_s"][phase == "train"])
    if latency is None or latency.origin != "measured" or len(latency.values) < _FEWEST:
        return {}
    return {"latency_s": min(float(value) for value in (*latency.values, *(latency.ci95 or ())))}


def confirmed_by(record: rec.Record | None, phase: str) -> set[str]:
    """Of which metrics a record says what a network really takes: measured on the device, or exact.

    Args:
        record: None, and one without a result, confirm nothing.
    """
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
    known = [(float(value), text) for value, text in parts if value is not None]
    rest = whole - sum(value for value, _ in known)
    if phase == "infer" and record.workload.volume and rest > 0:
        known.append((rest, f"sliding windows over {format_shape(record.workload.volume)}"))
    said = " + ".join(f"{format_value(value, 'B')} {text}" for value, text in known)
    return f"{format_value(whole, 'B')}" + (f" = {said}" if known else "")


def binding(
    budget: CostBudget, whole: Mapping[str, float], least: Mapping[str, float], *, predicted: bool = False
) -> list[str]:
    """For each limit a sentence on whether the unmodified network keeps it, and what would bind.

    Args:
        whole: what the unmodified network takes, measured.
        least: what the smallest network of the space takes.
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


def space_lines(summary: SpaceSummary, least: Mapping[str, tuple[float, Config]]) -> list[str]:
    """The profile in words."""
    share = summary.feasible / max(1, summary.drawn)
    texts = []
    for metric in ("macs", "params", "memory_bytes"):
        unit, title = METRICS[metric]
        spread = summary.spread[metric]
        at_least = "at least " if metric == "memory_bytes" else ""
        texts.append(
            f"{title} {at_least}{format_value(min(spread.least, least[metric][0]), unit)} to "
            f"{format_value(spread.most, unit)}, half of them below {format_value(spread.median, unit)}"
        )
    return [
        f"space: of {summary.drawn} configurations drawn by chance {share:.1%} keep the budget, as far as can be said "
        "without building them",
        *(f"  {text}" for text in texts),
    ]


def published(variant: str) -> Config:
    """The published network as a configuration of the space."""
    return dataclasses.replace(PUBLISHED, variant=variant)
