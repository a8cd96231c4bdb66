"""Search problem: data, patch, budget and device, and what a network costs on it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from benchbench import data
from benchbench.compress import importance
from benchbench.core import records as rec
from benchbench.core.errors import BenchError, UsageError, unknown
from benchbench.devices.forecast import forecast_latency
from benchbench.devices.profile import Profile, find_profile
from benchbench.measure.energy import open_meter
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.training_step import TrainingStep, forecast_step
from benchbench.search import analytic_cost
from benchbench.search.budget import CostBudget
from benchbench.search.space import VARIANTS, Config
from benchbench.training.recipe import TrainingBudget as TrainBudget
from benchbench.training.recipe import TrainRecipe, default_batch
from benchbench.zoo import cards as zoo_cards

#: What may be made small beside Dice: name -> metric of a configuration's costs.
OBJECTIVES: Mapping[str, str] = {
    "latency": "latency_s",
    "macs": "macs",
    "params": "params",
    "memory": "memory_bytes",
    "energy": "energy_j",
}
_FORWARDS = 12  # that a latency in passing is the median of, the first two left out
_QUICK = 4  # that show whether it is above its limit at all, the first left out
_STEPS = 4  # of training that are timed, likewise
_ENERGY_S = 1.0  # of forwards that an energy is read over
_TRAINED = 3  # of each weight a step holds the gradient and AdamW's two moments besides


class Infeasible(BenchError):
    """A configuration that the budget refuses, found out before any training."""

    def __init__(self, excess: Mapping[str, float], message: str) -> None:
        super().__init__(message)
        self.excess = dict(excess)  # metric -> how far above its limit, as a share of it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchProblem:
    """What all configurations of a search have in common."""

    data: str  # what finds the data set here
    key: str  # the data set's own
    spatial: tuple[int, int, int]  # (D, H, W) of the patch, voxels
    in_channels: int
    out_channels: int
    budget: CostBudget
    base_bytes: float = 0.0  # of the process before there is a network, and of a volume's buffers
    phase: Literal["infer", "train"] = "infer"  # that the budget is of
    device: str = "cpu"  # that the budget is of, as it was asked for
    profile: bool = False  # it is not at hand: latencies are forecasts, from data sheets lower bounds
    times_count: bool = True  # whether times that are taken here in passing may refuse: it is this CPU, undisturbed
    machine: str = ""  # this CPU's name, where times that are taken here are told to all workers
    objective: str = "latency"
    batch: int = 0  # patches in a step; 0: the usual number
    lr: float = 4e-3  # of short trainings on a parent's answers, which 1e-3 leaves behind
    distil: float = 0.5
    threads: int | None = None

    def costs(self, config: Config) -> dict[str, float]:
        """By formula: exact, but memory, which is a lower bound."""
        costs = analytic_cost.count(config, self.in_channels, self.out_channels, self.spatial)
        more = _TRAINED * analytic_cost.FLOAT * costs["params"] if self.phase == "train" else 0.0
        return costs | {"memory_bytes": self.base_bytes + costs["tensor_bytes"] + more}

    def check(self, costs: Mapping[str, float]) -> None:
        """Refuse what is above the budget.

        Args:
            costs: metric -> value, or a lower bound.

        Raises:
            Infeasible: it is.
        """
        excesses = self.budget.excesses(costs)
        if excesses:
            over = {str(excess.limit.metric): excess.value / excess.limit.most - 1 for excess in excesses}
            raise Infeasible(over, "; ".join(map(str, excesses)))

    def recipe(self, budget: TrainBudget, seed: int, *, distil: float = 0.0, validations: int = 1) -> TrainRecipe:
        """How a configuration is trained.

        Args:
            distil: share of the loss that comes from a teacher.
        """
        return TrainRecipe(
            data=self.data,
            patch=self.spatial,
            budget=budget,
            batch=self.batch or default_batch(self.spatial),
            seed=seed,
            lr=self.lr,
            distil=distil,
            threads=self.threads,
            validations=validations,
        )

    def gradients(self, batches: int) -> tuple[importance.Batches, importance.Loss]:
        """So many batches of training cases, and the loss of the training."""
        recipe = self.recipe(TrainBudget(steps=batches), 0)
        return importance.of_training(data.get_plan(self.data), recipe, batches)

    @property
    def metric(self) -> str:
        """The second objective, as a metric of the costs."""
        return OBJECTIVES[self.objective]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        plain: dict[str, Any] = rec.to_json(self)
        return plain | {"budget": [limit.text for limit in self.budget.limits]}


def task_from_json(plain: Mapping[str, Any]) -> SearchProblem:
    """The reverse of `SearchProblem.to_json`.

    Raises:
        KeyError: something is missing.
        TypeError: a value is not of its form.
        ValueError: a budget that is none, or a patch that is none.
    """
    from benchbench.search.budget import parse_budget

    if not isinstance(plain, Mapping):
        raise TypeError(f"task must be a table, not {plain!r}")
    texts = plain["budget"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"budget must be a list of texts, not {texts!r}")
    task = rec.from_json(SearchProblem, {**plain, "budget": rec.to_json(parse_budget(texts))})
    if len(task.spatial) != 3 or min(*task.spatial, task.in_channels, task.out_channels) < 1:
        raise ValueError(f"a patch of {task.spatial}, {task.in_channels} channels in and {task.out_channels} out")
    if task.objective not in OBJECTIVES:
        raise ValueError(f"objective {task.objective!r}")
    return task


def published_spec(of: SearchProblem | data.DataPlan) -> rec.ModelSpec:
    """The published network, uncut, for the channels of a task or a data set."""
    return zoo_cards.get_card(VARIANTS[0]).spec(in_channels=of.in_channels, out_channels=of.out_channels)


def spec_of(task: SearchProblem, config: Config, name: str) -> rec.ModelSpec:
    """The network of a configuration before it is pruned, under a name."""
    card = zoo_cards.get_card(config.variant)
    spec = card.spec(in_channels=task.in_channels, out_channels=task.out_channels)
    return dataclasses.replace(spec, kwargs=config.kwargs(), name=name)


def check_objective(name: str) -> None:
    """Refuse an objective that cannot be had on this machine.

    Raises:
        UsageError: there is none of that name; or it is energy, and nothing tells it.
    """
    if name not in OBJECTIVES:
        raise UsageError(unknown("objective", name, OBJECTIVES))
    if name == "energy" and not hasattr(meter := open_meter("cpu"), "begin"):
        why = meter if isinstance(meter, str) else "this machine has no counter that can be read"
        raise UsageError(
            f"energy cannot be an objective here: {why}; take latency, macs, params or memory ('bench info' shows "
            "what can be measured)"
        )


def count(task: SearchProblem, model: nn.Module) -> dict[str, float]:
    """What a network costs without running it: exact, but memory, which is a lower bound.

    With a profile, the latency is its forecast, from a data sheet a lower bound; without, it is not among them.
    """
    shape = (1, task.in_channels, *task.spatial)
    cost = measure_cost(model, shape)
    tensors = forecast_step(model, shape).tensor_memory_bytes if task.phase == "train" else cost.tensor_memory_bytes
    costs = {
        "params": float(cost.params),
        "macs": float(cost.macs),
        "file_bytes": float(analytic_cost.FLOAT * (cost.params + cost.buffer_elements)),
        "memory_bytes": task.base_bytes + tensors,
    }
    if task.profile:
        forecast = forecast_latency(cost.operators, _profile(task.device, task.machine))
        if isinstance(forecast, str):
            raise UsageError(forecast)
        costs["latency_s"] = forecast.seconds
    return costs


@functools.lru_cache(maxsize=4)
def _profile(device: str, machine: str) -> Profile:
    """A device's profile, read once: `machine` says what was in it when the search began."""
    return find_profile(device)


def measure_in_passing(task: SearchProblem, model: nn.Module, *, quick: bool = False) -> dict[str, float]:
    """Latency, and energy where that is an objective: good enough to steer by, not to report.

    Args:
        task: the search's; with a profile nothing is measured.
        quick: only as many forwards as show whether it is above its limit.

    Returns:
        `latency_s`: the median, or with `quick` the shortest, of one forward, or of a training step.
    """
    if task.profile:
        return {}
    x = torch.randn(1, task.in_channels, *task.spatial)
    with torch.random.fork_rng(devices=[]):
        if task.phase == "train":
            import copy

            step = TrainingStep(copy.deepcopy(model), x)
            with step.ready() as run:
                times = _times(run, _STEPS)
        else:
            model.eval()
            with torch.inference_mode():
                times = _times(lambda: model(x), _QUICK if quick else _FORWARDS)
    kept = times[1:] if quick or task.phase == "train" else times[2:]
    costs = {"latency_s": min(kept) if quick else sorted(kept)[len(kept) // 2]}
    if task.objective == "energy" and not quick:
        costs["energy_j"] = _energy_j(model, x)
    return costs


def _times(run: Callable[[], Any], n: int) -> list[float]:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _energy_j(model: nn.Module, x: torch.Tensor) -> float:
    meter = open_meter("cpu")
    if meter is None or isinstance(meter, str):
        raise UsageError(f"no energy can be read any more: {meter or 'the counter is gone'}")
    try:
        meter.begin()
        end, n = time.monotonic() + _ENERGY_S, 0
        with torch.inference_mode():
            while time.monotonic() < end:
                model(x)
                meter.between()
                n += 1
        reading = meter.end()
    finally:
        meter.close()
    if reading.joules is None:
        raise UsageError(f"the energy counter gave nothing: {reading.what}")
    return reading.joules / n


def step_seconds(task: SearchProblem, model: nn.Module) -> float:
    """Seconds of one training step of a network with the search's batch, in passing."""
    x = torch.randn(task.batch or default_batch(task.spatial), task.in_channels, *task.spatial)
    with torch.random.fork_rng(devices=[]):
        step = TrainingStep(model, x)
        with step.ready() as run:
            times = _times(run, 3)
    return min(times[1:])
