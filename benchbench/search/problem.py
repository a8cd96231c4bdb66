"""Search problem: data, patch, budget and device, and what a network costs on it."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from benchbench import data
from benchbench.compress import importance
from benchbench.core import records as rec
from benchbench.core.errors import BenchError, UsageError, unknown
from benchbench.core.statistics import median_interval
from benchbench.devices.forecast import forecast_latency
from benchbench.devices.profile import Profile, find_profile
from benchbench.measure.energy import open_meter
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.training_step import TrainingStep, forecast_step
from benchbench.runtimes import pytorch
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search.budget import CostBudget, budget_from_json
from benchbench.search.pruned_space import pruned_space
from benchbench.search.runtime_times import architecture_job, time_in_worker
from benchbench.search.search_space import FLOAT, Candidate, SearchSpace
from benchbench.search.slim_unetr_space import SlimUnetrSpace
from benchbench.training.cpu_convolutions import fast_convolutions
from benchbench.training.recipe import TrainingBudget, TrainRecipe, default_batch
from benchbench.zoo import build as zoo_build

#: Second objective beside Dice: name -> metric of a configuration's costs.
OBJECTIVES: Mapping[str, str] = {
    "latency": "latency_s",
    "macs": "macs",
    "params": "params",
    "memory": "memory_bytes",
    "energy": "energy_j",
}
_FORWARDS = 12  # timed for a latency, of which the first two are left out
_STEPS = 4  # of training that are timed, of which the first is left out
_ENERGY_S = 1.0  # of forwards, for an energy
_IN_PROCESS = (EAGER, "eager-optimized")  # runtimes of which a built network is timed where it was built
_SLIM_UNETR = SlimUnetrSpace()
_TRAINED = 3  # numbers that training holds for each weight: its gradient and AdamW's two moments


class Infeasible(BenchError):
    """A configuration above the budget, which is not trained."""

    def __init__(self, excess: Mapping[str, float], message: str) -> None:
        super().__init__(message)
        self.excess = dict(excess)  # metric -> how far above its limit, as a share of the limit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchProblem:
    """What all configurations of a search have in common."""

    data: str  # name or folder of the data set on this machine
    key: str  # of the data set, the same on all machines
    spatial: tuple[int, int, int]  # (D, H, W) of the patch, voxels
    in_channels: int
    out_channels: int
    parent_channels: str = (
        ""  # file with those of the parent whose pruned versions are searched; empty: Slim UNETRs are
    )
    budget: CostBudget
    base_bytes: float = 0.0  # of the process without a network, and of a volume's buffers
    phase: Literal["infer", "train"] = "infer"  # that the budget limits
    runtime: str = EAGER  # that times and memory are of
    device: str = "cpu"  # that the budget is for, as in the request
    profile: bool = False  # the device is not present: latencies are forecasts, from data sheets lower bounds
    times_count: bool = True  # whether a network is refused for a time measured here: this is the device, undisturbed
    machine: str = ""  # this CPU's name, if workers share times that are measured here
    objective: str = "latency"
    batch: int = 0  # patches in a step; 0: by the patch
    lr: float = dataclasses.field(default_factory=lambda: _SLIM_UNETR.learning_rate)  # highest learning rate
    threads: int | None = None

    @property
    def space(self) -> SearchSpace[Any]:
        """What is searched."""
        return pruned_space(self.parent_channels) if self.parent_channels else _SLIM_UNETR

    def costs(self, config: Candidate) -> dict[str, float]:
        """By formula: exact or lower bounds; memory is one, of the tensors that PyTorch would hold."""
        costs = self.space.count(config, self)
        more = _TRAINED * FLOAT * costs["params"] if self.phase == "train" else 0.0
        return costs | {"memory_bytes": self.base_bytes + costs["tensor_bytes"] + more}

    def check(self, costs: Mapping[str, float]) -> None:
        """Check that costs, or lower bounds of them, are within the budget.

        Raises:
            Infeasible: they are above it.
        """
        excesses = self.budget.excesses(costs)
        if excesses:
            over = {str(excess.limit.metric): excess.value / excess.limit.most - 1 for excess in excesses}
            raise Infeasible(over, "; ".join(map(str, excesses)))

    @property
    def published(self) -> Candidate:
        """The network to beat."""
        published: Candidate = self.space.published(self.spatial)
        return published

    def check_latency(self, times: Sequence[float]) -> None:
        """Check that a latency is not surely above its limit; of a noisy one the lower end of its interval counts.

        Args:
            times: samples in seconds; of another device, or beside other workers, they refuse nothing.

        Raises:
            Infeasible: it is above the limit.
        """
        if self.times_count:
            interval = median_interval(times)
            self.check({"latency_s": interval.low if interval else min(times)})

    def recipe(self, budget: TrainingBudget, seed: int, *, lr: float | None = None) -> TrainRecipe:
        """How a network is trained.

        Args:
            lr: highest learning rate, of a network that is not searched; None: that of the space.
        """
        return TrainRecipe(
            data=self.data,
            patch=self.spatial,
            budget=budget,
            batch=self.batch or default_batch(self.spatial),
            seed=seed,
            threads=self.threads,
            validations=1,
            lr=self.lr if lr is None else lr,
        )

    def gradients(self, batches: int) -> tuple[importance.Batches, importance.Loss]:
        """A number of batches of training cases, and the loss of the training."""
        recipe = self.recipe(TrainingBudget(steps=batches), 0)
        return importance.of_training(data.get_plan(self.data), recipe, batches)

    @property
    def metric(self) -> str:
        """The second objective, as a metric of the costs."""
        return OBJECTIVES[self.objective]

    @property
    def needs_times(self) -> bool:
        """Whether the objective or a limit is one that a network has to be run for."""
        return self.objective in ("latency", "energy") or any(
            limit.metric == "latency_s" for limit in self.budget.limits
        )

    @property
    def is_timed_in_worker(self) -> bool:
        """Whether each architecture has to be prepared for its runtime, and timed in a process of its own."""
        return self.runtime not in _IN_PROCESS

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        plain: dict[str, Any] = rec.to_json(self)
        return plain | {"budget": [limit.text for limit in self.budget.limits]}


def problem_from_json(plain: Mapping[str, Any]) -> SearchProblem:
    """The reverse of `SearchProblem.to_json`.

    Raises:
        KeyError: a field is missing.
        TypeError: a value has the wrong type.
        ValueError: an unreadable budget, or a patch, objective or runtime that does not exist.
    """
    if not isinstance(plain, Mapping):
        raise TypeError(f"task must be a table, not {plain!r}")
    budget = budget_from_json(plain["budget"])
    problem = rec.from_json(SearchProblem, {**plain, "budget": rec.to_json(budget)})
    if len(problem.spatial) != 3 or min(*problem.spatial, problem.in_channels, problem.out_channels) < 1:
        raise ValueError(
            f"a patch of {problem.spatial}, {problem.in_channels} channels in and {problem.out_channels} out"
        )
    if problem.objective not in OBJECTIVES:
        raise ValueError(f"objective {problem.objective!r}")
    get_runtime(problem.runtime)
    return problem


def check_objective(name: str) -> None:
    """Check that an objective can be measured on this machine.

    Raises:
        UsageError: an unknown name, or energy without a counter.
    """
    if name not in OBJECTIVES:
        raise UsageError(unknown("objective", name, OBJECTIVES))
    if name == "energy" and not hasattr(meter := open_meter("cpu"), "begin"):
        why = meter if isinstance(meter, str) else "this machine has no counter that can be read"
        raise UsageError(
            f"energy cannot be an objective here: {why}; take latency, macs, params or memory ('bench info' shows "
            "what can be measured)"
        )


def counted_costs(problem: SearchProblem, model: nn.Module) -> dict[str, float]:
    """Costs of a network without running it; exact except memory, which is a lower bound.

    With a device profile there is also the latency, a forecast, which from a data sheet is a lower bound.
    """
    shape = (1, problem.in_channels, *problem.spatial)
    cost = measure_cost(model, shape)
    tensors = forecast_step(model, shape).tensor_memory_bytes if problem.phase == "train" else cost.tensor_memory_bytes
    costs = {
        "params": float(cost.params),
        "macs": float(cost.macs),
        "file_bytes": float(FLOAT * (cost.params + cost.buffer_elements)),
        "memory_bytes": problem.base_bytes + tensors,
    }
    if problem.profile:
        forecast = forecast_latency(cost.operators, _profile(problem.device, problem.machine))
        if isinstance(forecast, str):
            raise UsageError(forecast)
        costs["latency_s"] = forecast.seconds
    return costs


@functools.lru_cache(maxsize=4)
def _profile(device: str, machine: str) -> Profile:
    """A device's profile, read once; `machine` has the hash of its content when the search began."""
    return find_profile(device)


def timed_costs(problem: SearchProblem, model: nn.Module, spec: rec.ModelSpec) -> dict[str, float]:
    """Latency, and energy if it is the objective, from a few forwards: to steer the search, not to report.

    Args:
        model: of which a runtime that makes a file of it takes the architecture alone.
        spec: of the model.

    Returns:
        `latency_s`: the median of one forward, or of a training step; nothing with a device profile, and nothing where
        a runtime takes long to prepare a network for and no time is asked for.

    Raises:
        Infeasible: it is surely above the limit.
        UnsupportedError: its runtime cannot run it.
    """
    if problem.profile:
        return {}
    if problem.is_timed_in_worker:
        return _timed_in_worker(problem, spec)
    x = torch.randn(1, problem.in_channels, *problem.spatial)
    with torch.random.fork_rng(devices=[]):
        if problem.phase == "train":
            import copy

            step = TrainingStep(copy.deepcopy(model), x)
            with step.ready() as run:
                times = _times(run, _STEPS)[1:]
        else:
            network = pytorch.in_runtime(model.eval(), problem.runtime)
            with torch.inference_mode():
                times = _times(lambda: network(x), _FORWARDS)[2:]
    problem.check_latency(times)
    costs = {"latency_s": statistics.median(times)}
    if problem.objective == "energy":
        costs["energy_j"] = _energy_j(pytorch.in_runtime(model, problem.runtime), x)
    return costs


def _timed_in_worker(problem: SearchProblem, spec: rec.ModelSpec) -> dict[str, float]:
    if not problem.needs_times:
        return {}
    alone = problem.times_count
    job = architecture_job(spec, problem.spatial, problem.runtime, threads=problem.threads, alone=alone)
    times = time_in_worker(job)
    problem.check_latency([times.least_s])
    costs = {"latency_s": times.median_s}
    if problem.objective == "energy":
        if times.energy_j is None:
            raise UsageError("no energy can be read any more: the counter is gone")
        costs["energy_j"] = times.energy_j
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


def step_seconds(problem: SearchProblem, config: Candidate) -> float:
    """Seconds of one training step of a network that its spec describes, with the search's batch, from a few steps."""
    model = zoo_build.build(problem.space.spec(config, problem, "step"), problem.spatial)
    x = torch.randn(problem.batch or default_batch(problem.spatial), problem.in_channels, *problem.spatial)
    with torch.random.fork_rng(devices=[]), fast_convolutions(model, "cpu"):
        step = TrainingStep(model, x)
        with step.ready() as run:
            times = _times(run, 3)
    return min(times[1:])
