"""Geometry of a NIfTI file: one affine in millimetres, though its header may have two that contradict each other.

A header says it by a sform, an affine, and by a qform, a rotation and the sides of a voxel (`pixdim`). By the
standard both are right: the sform may lead to a template, and the qform to the scanner. Programs that write one and
forget the other leave headers whose sform says 1 mm where the voxels are 1.5 x 1.5 x 8 mm.

The rule: the sform, as in nibabel, unless its voxels have other sides than `pixdim` and there is a qform, whose sides
are those of `pixdim` by definition; then the qform. So spacing and distances are the patient's. Units of metres and
micrometres are heeded.

Source: nifti1.h of NIfTI-1.1, "3D image orientation and location in space", and `xyzt_units`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

_SAME = 0.01  # relative difference of sides, up to which they are the same
_APART_MM = 0.1  # between corners by the sform and by the qform, up to which they agree
_UNITS = MappingProxyType({0: ("", 1.0), 1: ("metres", 1000.0), 2: ("", 1.0), 3: ("micrometres", 0.001)})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the voxels of a file lie."""

    affine: npt.NDArray[np.float64]  # (4, 4) voxel -> world, millimetres, by the rule
    preferred: npt.NDArray[np.float64]  # the same as nibabel and most programs have it: the sform, if there is one
    oddities: tuple[str, ...]  # what a person should look at
    rescaled: bool  # whether its voxels have other sides by the rule than nibabel gives them

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """(3,) sides of a voxel."""
        return _sides(self.affine)


def geometry_of(header: Any, affine: npt.NDArray[np.float64] | None = None) -> Geometry:
    """The affine of a file, by the rule.

    Args:
        header: nibabel's; one of another format than NIfTI has one affine alone.
        affine: of such a file, as nibabel has it, millimetres.

    Returns:
        An affine that may still be nonsense, such as NaN: whoever reads the file refuses it.
    """
    if affine is not None and not hasattr(header, "get_sform"):
        only = np.asarray(affine, np.float64)
        return Geometry(affine=only, preferred=only, oddities=(), rescaled=False)
    unit, scale = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    sform, qform = _coded(header, "sform"), _coded(header, "qform")
    preferred = sform if sform is not None else qform if qform is not None else header.get_base_affine()
    preferred = np.asarray(preferred, np.float64)
    chosen, oddities = preferred, []
    if unit:
        oddities.append(f"its unit is {unit}, which are taken as such")
    if sform is not None:
        with np.errstate(all="ignore"):
            sides = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
            same = bool((np.abs(_sides(sform) - sides) <= _SAME * sides).all())
        doubt = f"its sform says {_text(_sides(sform) * scale)} a voxel and its pixdim {_text(sides * scale)}"
        if not same and qform is not None and (_sides(qform) > 0).all():
            chosen = np.asarray(qform, np.float64)
            oddities.append(f"{doubt}: the qform, which has the latter, is taken instead of the sform")
        elif not same:
            oddities.append(f"{doubt}: the sform is taken, since there is no other")
        elif qform is not None and not corner_distance(sform, qform, header.get_data_shape()) * scale <= _APART_MM:
            oddities.append("its sform and its qform turn or place it differently: the sform is taken")
    to_mm = np.diag([scale, scale, scale, 1.0])
    with np.errstate(all="ignore"):
        return Geometry(
            affine=to_mm @ chosen,
            preferred=to_mm @ preferred,
            oddities=tuple(oddities),
            rescaled=chosen is not preferred or scale != 1,
        )


def _coded(header: Any, name: str) -> npt.NDArray[np.float64] | None:
    """The affine of a form; None where its code says that there is none, or where it cannot be."""
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = getattr(header, f"get_{name}")(coded=True)[0]
    except (HeaderDataError, ValueError, ArithmeticError, LookupError):
        return None
    return None if affine is None else np.asarray(affine, np.float64)


def _sides(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def corner_distance(first: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: Sequence[int]) -> float:
    """The largest distance along an axis between the corners of a volume by two affines."""
    ends = (*(max(0, int(n) - 1) for n in shape[:3]), 0, 0, 0)[:3]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n) for n in ends))], np.float64)
    with np.errstate(all="ignore"):
        return float(np.abs((first - other)[:3] @ corners.T).max())


def _text(sides: npt.NDArray[np.float64]) -> str:
    return "x".join(f"{float(s):.3g}" for s in sides) + " mm"
