"""Plan that a search prints before it trains: what the budget means here, and how the time is spent.

The unmodified network and the smallest of the space are measured with random weights, whose values change neither time
nor memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.units import format_duration, format_shape
from benchbench.devices.resolve import Target
from benchbench.search import feasibility, space
from benchbench.search.phases import FINAL_SHARE, PARENT_SHARE, PROMOTION_SHARE, PROPOSAL_SHARE, SearchJob
from benchbench.search.problem import SearchProblem, spec_of
from benchbench.search.space import Config
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

_EXACT = ("params", "macs", "file_bytes")  # by formula


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What was measured before a search."""

    published: Mapping[str, float]  # metric -> what the unmodified network takes
    smallest: Mapping[str, float]  # what the one of the space with the least memory does
    least: Mapping[str, float]  # of its times on the device what is sure, a lower bound
    floor: float  # bytes of a process besides the network's tensors: the lesser of the two
    decomposition: str  # of the unmodified network's memory
    record: rec.Record  # of the unmodified network
    origin: Literal["measured", "predicted"]


def _smallest(task: SearchProblem) -> Config:
    """The network of the space with the least memory, uncut."""
    return dataclasses.replace(feasibility.smallest(task)["memory_bytes"][1], prune=0.0).canonical()


def networks(task: SearchProblem, folder: Path) -> list[Path]:
    """Write weights by chance of the unmodified network and of the smallest one, in this order.

    Args:
        folder: where; what is there stays.
    """
    paths = []
    for title, config in (("published", feasibility.published(space.VARIANTS[0])), ("least", _smallest(task))):
        path = folder / f"{title}.safetensors"
        if not path.exists():
            spec = spec_of(task, config, f"{title} of the space")
            torch.manual_seed(0)
            state = zoo_build.build(spec, task.spatial).state_dict()
            checkpoint.save(path, state, model=spec, data="none", spatial=task.spatial, train={})
        paths.append(path)
    return paths


def look(task: SearchProblem, whole: rec.Record, least: rec.Record) -> Before:
    """What two records say before a search.

    Args:
        task: the search's, of a process that takes nothing by itself.
    """
    costs = feasibility.costs_of(whole, task.phase), feasibility.costs_of(least, task.phase)
    tensors = [
        task.costs(config)["memory_bytes"] for config in (feasibility.published(space.VARIANTS[0]), _smallest(task))
    ]
    floors = [cost["memory_bytes"] - held for cost, held in zip(costs, tensors, strict=True) if "memory_bytes" in cost]
    probed = whole.device.basis == "probed"
    return Before(
        published=costs[0],
        smallest=costs[1],
        least=feasibility.at_least(least, task.phase) if probed else {},
        floor=max(0.0, min(floors, default=0.0)) if probed else 0.0,
        decomposition=feasibility.decomposition(whole, task.phase),
        record=whole,
        origin="measured" if probed else "predicted",
    )


def first_lines(task: SearchProblem, source: data.DataPlan, target: Target, time_s: float) -> list[str]:
    """What a search is of, before anything is measured, for a person.

    Args:
        target: the device that the budget is of.
    """
    splits = source.splits
    texts = [target.banner] if target.banner else []
    texts.append(
        f"search: Slim UNETR for {source.name} ({splits['train']} cases to train on, {splits['val']} to choose by, "
        f"{splits['test']} kept for the end), patch {format_shape(task.spatial)}, Dice against {task.objective}"
    )
    texts.append(f"budget: {task.budget}" + (", of training" if task.phase == "train" else ""))
    texts.append(
        f"time: {format_duration(time_s)} in all; first the unmodified network and the smallest one are measured"
    )
    return texts


def lines(job: SearchJob, known: Before, profile: feasibility.SpaceSummary, target: Target) -> list[str]:
    """The plan of a search after its first lines, for a person.

    Args:
        target: the device that the budget is of.
    """
    task = job.task
    least = feasibility.smallest(task)
    exact = {k: v for k, v in task.costs(feasibility.published(space.VARIANTS[0])).items() if k in _EXACT}
    texts = []
    if known.decomposition:
        texts.append(f"  unmodified ({space.VARIANTS[0]}), {known.origin}: {known.decomposition}")
    smallest = {metric: value for metric, (value, _) in least.items()} | dict(known.smallest)
    whole = {**exact, **known.published}
    bounds = target.profile is not None and target.profile.tier_for("fp32") == "datasheet"
    texts += [f"  {text}" for text in feasibility.binding(task.budget, whole, smallest, predicted=bounds)]
    if target.backend != "cpu" and not target.profile:
        texts.append(f"  times of proposals are this CPU's and stand in for those of {task.device}")
    texts += feasibility.space_lines(profile, least)
    given = job.parent is not None
    shift = PARENT_SHARE / 2 if given else 0.0
    shares = {
        "parent": 0.0 if given else PARENT_SHARE,
        "proposals": PROPOSAL_SHARE + shift,
        "promotions": PROMOTION_SHARE,
        "finals": FINAL_SHARE + shift,
    }
    seconds = {"plan": job.before_s, **{name: job.part_s(share) for name, share in shares.items()}}
    seconds["measuring"] = max(0.0, job.time_s - sum(seconds.values())) if job.scale else job.reserve_s
    split = ", ".join(f"{name} {format_duration(value)}" for name, value in seconds.items() if value)
    if given:
        texts.append(f"parent: {Path(str(job.parent)).name}, trained before")
    texts.append(f"time: {format_duration(job.time_s)}, about: {split}")
    texts.append(
        f"  a proposal trains {job.low_steps} steps, a promotion {job.high_steps}; up to {job.finalists} finalists and "
        f"the published network, {job.seeds} seeds each"
        + ("; then the controls, about as long again" if job.controls else "; no controls (--controls runs them)")
    )
    return texts
