"""Pareto front and hypervolume.

All objectives are to be made small here: a Dice enters as 1 - Dice. The hypervolume is against a fixed reference point
that is recorded with it, for without it the number says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core.statistics import pareto_front

Point = tuple[float, ...]


def ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """The front that each point is on: 0 is not dominated, 1 by those of 0 alone, and so on.

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


def by_rank(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of points, by the front that they are on, and on a front those first that are far from their like."""
    ranked = ranks(points)
    order: list[int] = []
    for level in range(max(ranked, default=-1) + 1):
        members = [i for i, rank in enumerate(ranked) if rank == level]
        order += [members[i] for i in spread([points[i] for i in members], len(members))]
    return order


def spread(points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """So many indices of points, the best of each objective first, then always the one farthest from those chosen.

    Args:
        points: of two objectives, each to be made small; they are compared on the scale of their own range.
    """
    if not points:
        return []
    ends = [(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in (0, 1)]

    def scaled(point: tuple[float, float]) -> tuple[float, float]:
        a, b = ((point[axis] - low) / ((high - low) or 1.0) for axis, (low, high) in enumerate(ends))
        return a, b

    places = [scaled(point) for point in points]
    chosen: list[int] = []
    for axis in (0, 1):
        best = min(range(len(points)), key=lambda i: (points[i][axis], points[i][1 - axis], i))
        if best not in chosen:
            chosen.append(best)
    while len(chosen) < len(points):
        left = [i for i in range(len(points)) if i not in chosen]

        def distance(i: int) -> float:
            return min(sum((a - b) ** 2 for a, b in zip(places[i], places[j], strict=True)) for j in chosen)

        chosen.append(max(left, key=lambda i: (distance(i), -i)))
    return chosen[:count]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that is dominated by points and dominates the reference point.

    Args:
        points: of any number of objectives, to be made small; those that are not better than the reference in every
            one add nothing.
        reference: a point that is worse than what is of interest.

    Source: by slices along the last objective (While et al. 2006, "A faster algorithm for calculating hypervolume").
    """
    inside = [tuple(map(float, p)) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return _volume(inside, tuple(map(float, reference)))


def _volume(points: Sequence[Point], reference: Point) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in points)
    ordered = sorted(set(points), key=lambda p: p[-1])
    total = 0.0
    for i, point in enumerate(ordered):
        until = ordered[i + 1][-1] if i + 1 < len(ordered) else reference[-1]
        if until > point[-1]:
            total += (until - point[-1]) * _volume([p[:-1] for p in ordered[: i + 1]], reference[:-1])
    return total
