"""Sides of a patient as a network sees it that prepares images in its own way.

Such a network has axes and a spacing of its own, so the median patient of a data set is another volume to it than to
the networks that see images as benchbench prepares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from benchbench.core.records import Sides
from benchbench.data.folder import MedianCase, median_case
from benchbench.data.plan import DataPlan, MonaiPreparation, NnunetPreparation

T = TypeVar("T")

_WORLD = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def sides_seen(plan: DataPlan, network: DataPlan | None) -> Sides | None:
    """(D, H, W) of a data set's median case as a network sees it, voxels; None of data that are no folder.

    Args:
        plan: of the data set.
        network: of the weights, with their preparation; None, or one that is prepared as data sets are here: as in
            `plan.sides`.
    """
    how = network.preparation if network else None
    if plan.folder is None or how is None or not how.is_its_own:
        return plan.sides
    case = median_case(plan)
    if how.nnunet:
        return _by_nnunet(case, how.nnunet)
    assert how.monai is not None
    return _by_monai(case, plan, how.monai)


def _by_nnunet(case: MedianCase, how: NnunetPreparation) -> Sides:
    """Cropped to what is not 0; axes last first, of the file or of RAS, and then transposed."""
    of_file = (0, 1, 2) if how.reorient else _directions(case)
    directions = [of_file[2 - axis] for axis in how.transpose]
    d, h, w = (case.patient_mm[k] / step for k, step in zip(directions, how.spacing_mm, strict=True))
    return _whole(d), _whole(h), _whole(w)


def _by_monai(case: MedianCase, plan: DataPlan, how: MonaiPreparation) -> Sides:
    """One transform after the other, from the axes and the usual spacing of the files."""
    directions = _directions(case)
    spacing = [plan.spacing_mm[k] for k in directions]
    sides = [case.whole_mm[k] / step for k, step in zip(directions, spacing, strict=True)]
    for step in how.steps:
        if step.name == "Orientationd":
            codes = step.options.get("axcodes")
            order = [directions.index(k) for k in ([_WORLD[code] for code in codes] if codes else range(3))]
            directions, spacing, sides = _turned(directions, order), _turned(spacing, order), _turned(sides, order)
        elif step.name == "Spacingd":
            pixdim = step.options["pixdim"]
            wanted = list(pixdim) if isinstance(pixdim, (list, tuple)) else [pixdim] * 3
            new = [asked if asked > 0 else old for asked, old in zip(wanted, spacing, strict=True)]
            rest = 0 if step.options.get("scale_extent") else 1  # else the first and the last voxel keep their places
            shrunk = zip(sides, spacing, new, strict=True)
            spacing, sides = new, [float(_whole((side - rest) * old / now + rest)) for side, old, now in shrunk]
        elif step.name == "Transposed":
            order = [axis - 1 for axis in step.options["indices"][1:]]
            directions, spacing, sides = _turned(directions, order), _turned(spacing, order), _turned(sides, order)
        elif step.name == "CropForegroundd":
            margin = step.options.get("margin", 0)
            more = list(margin) if isinstance(margin, (list, tuple)) else [margin] * 3
            inside = [side * case.patient_mm[k] / case.whole_mm[k] for k, side in zip(directions, sides, strict=True)]
            most = sides if step.options.get("allow_smaller") else [math.inf] * 3  # else padded where it reaches beyond
            sides = [min(side + 2 * add, edge) for side, add, edge in zip(inside, more, most, strict=True)]
    return _whole(sides[0]), _whole(sides[1]), _whole(sides[2])


def _turned(values: Sequence[T], order: Sequence[int]) -> list[T]:
    return [values[axis] for axis in order]


def _directions(case: MedianCase) -> list[int]:
    """For each axis of a file the direction that it is along."""
    return [case.axes.index(axis) for axis in range(3)]


def _whole(side: float) -> int:
    return max(1, round(round(side, 6)))  # a half that floats are just beside of is one, as in MONAI
