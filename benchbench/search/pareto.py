"""Pareto ranks and hypervolume of two objectives.

Both objectives are minimised: a Dice enters as 1 - Dice. A hypervolume means nothing without its reference point, which
is recorded with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchbench.core.statistics import pareto_front

Point = tuple[float, float]


def ranks(points: Sequence[Point]) -> list[int]:
    """The front that each point is on: points of front 0 are not dominated, those of front 1 only by those of 0, etc.

    Source: Deb et al. 2002, "NSGA-II", section III-A.
    """
    ranked = [-1] * len(points)
    level, left = 0, list(range(len(points)))
    while left:
        for i in pareto_front([points[i] for i in left]):
            ranked[left[i]] = level
        left = [i for i in left if ranked[i] < 0]
        level += 1
    return ranked


def by_rank(points: Sequence[Point]) -> list[int]:
    """Indices of points by front, and within a front by `spread`."""
    ranked = ranks(points)
    order: list[int] = []
    for level in range(max(ranked, default=-1) + 1):
        members = [i for i, rank in enumerate(ranked) if rank == level]
        order += [members[i] for i in spread([points[i] for i in members], len(members))]
    return order


def spread(points: Sequence[Point], count: int) -> list[int]:
    """Indices of a number of points: the best of each objective, then always the one farthest from those chosen.

    Distances are relative to the range of each objective.
    """
    if not points:
        return []
    scales = [(max(values) - min(values)) or 1.0 for values in zip(*points, strict=True)]
    scaled = [(x / scales[0], y / scales[1]) for x, y in points]
    everyone = range(len(points))
    best = [min(everyone, key=lambda i: (points[i][axis], points[i][1 - axis], i)) for axis in (0, 1)]
    chosen = list(dict.fromkeys(best))
    while len(chosen) < len(points):
        distance = {i: min(math.dist(scaled[i], scaled[j]) for j in chosen) for i in everyone if i not in chosen}
        chosen.append(max(distance, key=lambda i: (distance[i], -i)))
    return chosen[:count]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area that is dominated by points and dominates the reference point.

    Args:
        points: of two objectives, to be made small; those that are not better than the reference in both add nothing.
    """
    area, lowest = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < lowest:
            area += (reference[0] - x) * (lowest - y)
            lowest = y
    return area
