"""Plan that a search prints before it trains: what the budget means here, and how the time is spent.

The unmodified network and the smallest one of the space are measured, with random weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.search_result import baseline_word
from benchbench.core.units import format_duration, format_shape
from benchbench.devices.resolve import Target
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search import feasibility
from benchbench.search.job import STEP_FACTOR, SearchJob
from benchbench.search.problem import SearchProblem
from benchbench.search.search_space import Candidate
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

_EXACT = ("params", "macs", "file_bytes")  # by formula


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Measurements before a search."""

    published: Mapping[str, float]  # metric -> cost of the unmodified network, which is to beat
    smallest: Mapping[str, float]  # metric -> cost of the network of the space with the least memory
    least: Mapping[str, float]  # lower bound of its latency on the device
    floor: float  # bytes of a process beside the network's tensors, the lesser of the two
    decomposition: str  # of the unmodified network's memory
    record: rec.Record  # of the unmodified network
    origin: Literal["measured", "predicted"]


def smallest_config(problem: SearchProblem) -> Candidate:
    """The network of the space with the least memory, as far as its spec describes it."""
    smallest: Candidate = problem.space.by_spec(feasibility.smallest(problem)["memory_bytes"][1])
    return smallest


def networks(problem: SearchProblem, folder: Path) -> list[Path]:
    """Write random weights of the unmodified network and of the smallest one, in this order, if they are missing."""
    paths = []
    for file, title, config in (
        ("published", baseline_word(problem.space.baseline_title), problem.published),
        ("least", "least", smallest_config(problem)),
    ):
        path = folder / f"{file}.safetensors"
        if not path.exists():
            spec = problem.space.spec(config, problem, f"{title} of the space")
            torch.manual_seed(0)
            state = zoo_build.build(spec, problem.spatial).state_dict()
            checkpoint.save(path, state, model=spec, data="none", spatial=problem.spatial, train={})
        paths.append(path)
    return paths


def baseline_of(problem: SearchProblem, whole: rec.Record, least: rec.Record) -> Baseline:
    """Costs from the records of the unmodified network and of the smallest one.

    Args:
        problem: without `base_bytes`.
    """
    costs = feasibility.costs_of(whole, problem.phase), feasibility.costs_of(least, problem.phase)
    tensors = [problem.costs(config)["memory_bytes"] for config in (problem.published, smallest_config(problem))]
    floors = [cost["memory_bytes"] - held for cost, held in zip(costs, tensors, strict=True) if "memory_bytes" in cost]
    probed = whole.device.basis == "probed"
    return Baseline(
        published=costs[0],
        smallest=costs[1],
        least=feasibility.latency_lower_bound(least, problem.phase) if probed else {},
        floor=max(0.0, min(floors, default=0.0)) if probed else 0.0,
        decomposition=feasibility.decomposition(whole, problem.phase),
        record=whole,
        origin="measured" if probed else "predicted",
    )


def first_lines(problem: SearchProblem, source: data.DataPlan, target: Target, time_s: float) -> list[str]:
    """First lines of the plan, before anything is measured."""
    splits = source.splits
    texts = [target.banner] if target.banner else []
    texts.append(
        f"search: {problem.space.title} for {source.name} ({splits['train']} cases to train on, {splits['val']} to "
        f"choose by, {splits['test']} kept for the end), patch {format_shape(problem.spatial)}, Dice against "
        f"{problem.objective}"
    )
    texts += problem.space.notes(problem)
    texts.append(f"budget: {problem.budget}" + (", of training" if problem.phase == "train" else ""))
    runtime = get_runtime(problem.runtime)
    if runtime.name != EAGER:
        texts.append(
            f"runtime: {runtime.title}; times and memory are measured in it, and the budget's limits are of it"
        )
    texts.append(
        f"time: {format_duration(time_s)} in all; first the unmodified network and the smallest one are measured"
    )
    return texts


def lines(job: SearchJob, baseline: Baseline, summary: feasibility.SpaceSummary, target: Target) -> list[str]:
    """The plan of a search after its first lines."""
    problem = job.problem
    least = feasibility.smallest(problem)
    exact = {k: v for k, v in problem.costs(problem.published).items() if k in _EXACT}
    texts = []
    if baseline.decomposition:
        name = problem.space.published_name(problem.spatial)
        texts.append(f"  unmodified ({name}), {baseline.origin}: {baseline.decomposition}")
    smallest = {metric: value for metric, (value, _) in least.items()} | dict(baseline.smallest)
    whole = {**exact, **baseline.published}
    bounds = target.profile is not None and target.profile.tier_for("fp32") == "datasheet"
    texts += [f"  {text}" for text in feasibility.binding(problem.budget, whole, smallest, predicted=bounds)]
    if target.backend != "cpu" and not target.profile:
        texts.append(f"  times of proposals are measured on this CPU, instead of {problem.device}")
    share = summary.feasible / max(1, summary.drawn)
    texts.append(f"space: of {summary.drawn} random configurations {share:.1%} keep the budget, by formula")
    seconds = {
        "plan": job.before_s,
        "parent": job.parent_s,
        "proposals": job.proposals_s,
        "promotions": job.promotions_s,
        "finals": job.finals_s,
        "measuring": job.reserve_s,
    }
    split = ", ".join(f"{name} {format_duration(value)}" for name, value in seconds.items() if value)
    if job.parent is None:
        texts.append("parent: none, every network is trained from scratch")
    elif job.parent != "train":
        texts.append(f"parent: {Path(job.parent).name}, {problem.space.inheritance}")
    texts.append(f"time: {format_duration(job.time_s)}, about: {split}")
    finals = f"up to {job.finalists} go on to the end" + f", {job.seeds} seeds each" * (job.seeds > 1)
    texts.append(
        f"  a proposal trains {job.low_steps} steps, the best quarter {STEP_FACTOR * job.low_steps}, and {finals}"
    )
    return texts
