"""Cost budget: `2GB`, `50ms`, `1GMACs`, `0.5Mparams`, `5MBfile`, as limits of metrics.

The unit selects the metric: bytes are the peak memory of the process, seconds the latency of one patch. A forecast of a
cost is a lower bound, so it can refuse a network but not accept it: accepted networks are measured.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from benchbench.core.errors import UsageError
from benchbench.core.units import format_value, parse_bytes, parse_seconds

Metric = Literal["memory_bytes", "latency_s", "macs", "params", "file_bytes"]

#: Metric -> its unit and title.
METRICS: Mapping[str, tuple[str, str]] = {
    "memory_bytes": ("B", "peak memory of the process"),
    "latency_s": ("s", "latency of one patch"),
    "macs": ("MAC", "MACs of one patch"),
    "params": ("parameters", "parameters"),
    "file_bytes": ("B", "file of the weights"),
}
_PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_COUNTED = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([kMGT]?)(MACs?|FLOPs?|params?)")
EXAMPLES = "2GB, 1.5GiB, 50ms, 1GMACs, 2GFLOPs, 0.5Mparams or 5MBfile"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CostLimit:
    """Limit of one metric."""

    metric: Metric
    most: float
    text: str  # as it was written

    def __str__(self) -> str:
        unit, title = METRICS[self.metric]
        return f"{title} at most {format_value(self.most, unit)}"


def parse_limit(text: str) -> CostLimit:
    """A limit from its text.

    Raises:
        UsageError: it cannot be read, or is not above 0.
    """
    plain = text.strip()
    counted = _COUNTED.fullmatch(plain)
    metric: Metric
    try:
        if counted:
            value = float(counted[1]) * _PREFIXES[counted[2]]
            kind = counted[3].removesuffix("s")
            metric = "params" if kind == "param" else "macs"
            value = value / 2 if kind == "FLOP" else value
        elif plain.endswith("file"):
            metric, value = "file_bytes", float(parse_bytes(plain.removesuffix("file")))
        else:
            try:
                metric, value = "memory_bytes", float(parse_bytes(plain))
            except UsageError:
                metric, value = "latency_s", parse_seconds(plain)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{text!r} is no budget: write {EXAMPLES}") from error
    if not 0 < value < float("inf"):
        raise UsageError(f"the budget {text!r} is not above 0: write {EXAMPLES}")
    return CostLimit(metric=metric, most=value, text=plain)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A cost above its limit."""

    limit: CostLimit
    value: float  # the cost, or a lower bound of it

    def __str__(self) -> str:
        unit, title = METRICS[self.limit.metric]
        return (
            f"{title} of {format_value(self.value, unit)} is above the budget of {format_value(self.limit.most, unit)}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class CostBudget:
    """All limits that a network has to keep."""

    limits: tuple[CostLimit, ...] = ()

    def excesses(self, costs: Mapping[str, float]) -> list[Excess]:
        """The limits that costs, or lower bounds of them, are above; missing metrics are not compared."""
        return [
            Excess(limit=limit, value=costs[limit.metric])
            for limit in self.limits
            if costs.get(limit.metric, 0.0) > limit.most
        ]

    def use(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Text of each limit -> share of it that a network uses."""
        return {limit.text: costs[limit.metric] / limit.most for limit in self.limits if limit.metric in costs}

    def __str__(self) -> str:
        return "; ".join(map(str, self.limits)) or "no limit"


def parse_budget(texts: Iterable[str]) -> CostBudget:
    """All limits of a budget.

    Raises:
        UsageError: one cannot be read, or two limit one metric.
    """
    limits: dict[str, CostLimit] = {}
    for limit in map(parse_limit, texts):
        if limit.metric in limits:
            first = limits[limit.metric].text
            raise UsageError(
                f"{first!r} and {limit.text!r} are both budgets of the {METRICS[limit.metric][1]}: give one"
            )
        limits[limit.metric] = limit
    return CostBudget(tuple(limits.values()))


def budget_from_json(texts: Any) -> CostBudget:
    """A budget from the list of its texts in a stored file.

    Raises:
        TypeError: it is not a list of texts.
        UsageError: as `parse_budget`.
    """
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"budget must be a list of texts, not {texts!r}")
    return parse_budget(texts)
