"""Which points no other point beats, and how much of the plane they cover.

All objectives are to be made small here: a Dice enters as 1 - Dice. The hypervolume is against a fixed reference point
that is recorded with it, for without it the number says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """The front that each point is on: 0 is not dominated, 1 by those of 0 alone, and so on.

    Source: Deb et al. 2002, "NSGA-II", section III-A.
    """
    found = [-1] * len(points)
    level, left = 0, set(range(len(points)))
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in best:
            found[i] = level
        left -= best
        level += 1
    return found


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
