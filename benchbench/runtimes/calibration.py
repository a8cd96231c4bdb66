"""Calibration patches for int8: real patches of training cases, whose activations set the ranges of the integers.

Random numbers have other ranges, and test cases would tell the quantizer what it is later judged by; both are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UsageError
from benchbench.data import get_plan, load_case
from benchbench.data.plan import ALL

FEWEST = 32
_SEED = 0

Patch = npt.NDArray[np.float32]  # (1, C, D, H, W)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPatches:
    """Patches of a data set's training cases, read anew in each pass, since many would not fit into memory."""

    data: str  # what finds the data set here
    spatial: tuple[int, ...]  # (D, H, W), voxels
    patches: tuple[tuple[int, int], ...]  # number of the case, and of the patch in it
    cases: tuple[str, ...]  # names of the cases, each once

    def __len__(self) -> int:
        """How many patches."""
        return len(self.patches)

    def __iter__(self) -> Iterator[Patch]:
        """Each patch."""
        last, image = -1, None
        for case, number in self.patches:
            if case != last:
                last, image = case, load_case(self.data, "train", case).image
            assert image is not None
            yield cut(image, self.spatial, np.random.default_rng((_SEED, case, number)))

    def described(self) -> Mapping[str, Any]:
        """For a description: data set, number of patches, cases."""
        return {"data": get_plan(self.data).key, "patches": len(self), "cases": list(self.cases)}


def calibration_patches(data: str | None, spatial: Sequence[int], count: int = FEWEST) -> CalibrationPatches:
    """At least `count` patches of training cases, evenly over as many cases as that takes.

    Args:
        data: what finds the data set, or None.
        spatial: (D, H, W) of a patch, voxels.

    Raises:
        UsageError: there is no data set, or it has no training cases that are not test cases.
    """
    if data is None:
        raise UsageError(
            "int8 is calibrated on patches of training cases, and there is no data set: add --data (random numbers "
            "would give every range a wrong width)"
        )
    plan = get_plan(data)
    if plan.fold == ALL:
        raise UsageError(
            f"{plan.name}: with --fold all every case is a test case, and int8 must not be calibrated on those: "
            "name one fold"
        )
    cases = plan.splits.get("train", 0)
    ids = plan.ids.get("train", ())
    if not cases:
        raise UsageError(f"{plan.name} has no training cases, on which int8 is calibrated")
    if both := set(ids) & set(plan.ids.get("test", ())):
        raise UsageError(f"{plan.name}: calibration cases are among the test cases, such as {min(both)}")
    used = min(cases, count)
    chosen = sorted(np.random.default_rng(_SEED).permutation(cases)[:used].tolist())
    each = -(-count // used)
    return CalibrationPatches(
        data=data,
        spatial=tuple(spatial),
        patches=tuple((case, number) for case in chosen for number in range(each)),
        cases=tuple(ids[case] if case < len(ids) else str(case) for case in chosen),
    )


def cut(image: npt.NDArray[np.float32], spatial: Sequence[int], chance: np.random.Generator | None = None) -> Patch:
    """A patch of an image (C, D, H, W), which is padded with zeros on both sides where it is smaller.

    Args:
        chance: where it lies; None: in the middle.

    Returns:
        (1, C, *spatial).
    """
    missing = [max(0, wanted - side) for wanted, side in zip(spatial, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    room = [side - wanted for side, wanted in zip(padded.shape[1:], spatial, strict=True)]
    corner = [r // 2 if chance is None else int(chance.integers(0, r + 1)) for r in room]
    window = tuple(slice(c, c + wanted) for c, wanted in zip(corner, spatial, strict=True))
    return np.ascontiguousarray(padded[(slice(None), *window)][None], np.float32)
