"""Axes along which the cases of a data set may be mirrored: those along which its labels have no fixed arrangement.

A mirrored patient is a possible one only if nothing says which way round patients are. If the head of the hippocampus
lies in front of its tail in every case, then mirroring front and back shows a network what it will never meet, and
takes away what tells the two apart. So for each pair of labels, and for each label and the patient, the displacement of
their centroids is measured in every training case. An axis along which one of them is consistent is left out.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.cache import cache_base, keep
from benchbench.core.config import read_json
from benchbench.core.errors import DataError
from benchbench.core.units import format_axes
from benchbench.data.plan import Case, DataPlan, preparation_to_json

log = logging.getLogger(__name__)

Axes = tuple[int, ...]  # 0, 1 and 2 for D, H and W: of a prepared case left to right, back to front, feet to head

#: Mean of a displacement over its standard deviation from which it is consistent. Of normal displacements 84 % then
#: lie on one side, and mirroring would show the rare side as often as the other.
_CONSISTENT = 1.0
_FEWEST = 5  # cases with both of a pair, below which it says nothing
_MOST_CASES = 100  # that are read, evenly among all: 100 tell a mean of one deviation from 0 by ten standard errors
_FORMAT = 1  # of what is kept
_PATIENT = 0  # label that stands for all that is not background


def mirror_axes(plan: DataPlan) -> Axes:
    """The axes along which training cases may be mirrored, kept in the cache once they have been found.

    Raises:
        DataError: a training case cannot be read.
    """
    count = plan.splits["train"]
    key = rec.content_hash([_FORMAT, plan.weights_key, _described(plan), list(plan.ids.get("train", ())), count])
    path = cache_base() / "mirroring" / f"{key}.json"
    try:
        return rec.value_from_json(Axes, read_json(path, "the axes of a data set", DataError)["axes"], "axes")  # type: ignore[no-any-return]
    except (DataError, KeyError, TypeError):
        pass
    chosen = np.linspace(0, count - 1, min(count, _MOST_CASES)).round().astype(int).tolist()
    cases = [centroids(data.load_case(plan.where, "train", index)) for index in chosen]
    axes = free_axes(cases)
    keep(path, json.dumps({"axes": axes, "cases": len(cases)}).encode(), "the axes are found anew for each training")
    log.info(
        "mirroring along %s, by the labels of %d training cases of %s",
        format_axes(axes) or "no axis",
        len(cases),
        plan.name,
    )
    return axes


def _described(plan: DataPlan) -> object:
    """How the images of a plan are prepared, as JSON values."""
    return None if plan.preparation is None else preparation_to_json(plan.preparation)


def centroids(case: Case) -> dict[int, npt.NDArray[np.float64]]:
    """Label -> (3,) voxels, its centroid; that of 0 is the patient's: of the voxels that are not 0 in some channel."""
    places = np.nonzero(case.label)
    values, which, counts = np.unique(case.label[places], return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(which.ravel(), weights=along, minlength=len(values)) for along in places], axis=1)
    found = {int(value): row for value, row in zip(values, sums / counts[:, None], strict=True)}
    patient = np.nonzero(case.image.any(0))
    if len(patient[0]):
        found[_PATIENT] = np.array([along.mean() for along in patient])
    return found


def free_axes(cases: Sequence[dict[int, npt.NDArray[np.float64]]]) -> Axes:
    """The axes along which no pair is displaced consistently.

    Args:
        cases: of each, label -> (3,) its centroid.

    Returns:
        None at all if no pair is in enough cases to say.
    """
    labels = sorted(set().union(*cases)) if cases else []
    bound = np.zeros(3, bool)
    known = False
    for one, other in itertools.combinations(labels, 2):
        moved = np.array([case[other] - case[one] for case in cases if one in case and other in case])
        if len(moved) < _FEWEST:
            continue
        known = True
        bound |= np.abs(moved.mean(0)) > _CONSISTENT * moved.std(0, ddof=1)
    return tuple(np.flatnonzero(~bound).tolist()) if known else ()
