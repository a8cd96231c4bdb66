"""Reading the files of one case, and everything that can be wrong with them.

The surprise is the affine: two files of equal shape may lie in different places, and a label that is shifted
against its image trains a network to be wrong everywhere. So the corners of all files of a case must agree.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchbench.data.source import CaseFiles
from benchbench.errors import DataError, first_line
from benchbench.units import format_shape

_APART_MM = 0.1  # between corners of two files, up to which they lie in one place
_READING = (OSError, EOFError, ValueError, zlib.error)  # what a damaged file makes nibabel raise


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """A case in memory, in its own voxels."""

    id: str
    image: npt.NDArray[np.float32]  # (C, D, H, W)
    label: npt.NDArray[np.uint8] | None  # (D, H, W)
    affine: npt.NDArray[np.float64]  # (4, 4) voxel -> world, millimetres


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first image of a case says of itself, without its voxels."""

    shape: tuple[int, int, int]  # voxels, of the file's own axes
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64]


def read_header(case: CaseFiles) -> Header:
    """The geometry of a case, from the header of its first image.

    Raises:
        DataError: the file is missing, damaged, or no volume.
    """
    first = case.images[0]
    image = _open(first.path)
    shape = image.shape if first.volume is None else image.shape[:-1]
    _check_sides(first.path, image.shape, four=first.volume is not None, volume=first.volume)
    spacing = np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0)
    if not np.isfinite(image.affine).all() or not (spacing > 0).all():
        raise DataError(f"{first.path}: its affine gives a voxel of {format_spacing(spacing)}, so it has no geometry")
    return Header(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=np.asarray(image.affine, np.float64),
    )


def format_spacing(spacing: Any) -> str:
    """`1x1x2.5 mm`."""
    return "x".join(f"{float(s):.3g}" for s in spacing) + " mm"


def load_volumes(case: CaseFiles, labels: Mapping[int, str] | None = None) -> Volumes:
    """Read a case and check it.

    Args:
        case: its files.
        labels: that there may be; None: the label map is not wanted.

    Raises:
        DataError: a file is missing, damaged, no volume or of another geometry than the others; a voxel is NaN or
            infinite; a label is not in the list.
    """
    channels: list[npt.NDArray[np.float32]] = []
    opened: dict[Path, tuple[Any, npt.NDArray[Any]]] = {}
    affine: npt.NDArray[np.float64] | None = None
    first = case.images[0].path
    for file in case.images:
        if file.path not in opened:
            image = _open(file.path)
            _check_sides(file.path, image.shape, four=file.volume is not None)
            wanted = sum(other.path == file.path for other in case.images)
            if file.volume is not None and image.shape[-1] > wanted:
                raise DataError(f"{file.path} has {image.shape[-1]} channels, and {wanted} are expected")
            opened[file.path] = image, _voxels(file.path, image)
        image, voxels = opened[file.path]
        _check_sides(file.path, image.shape, four=file.volume is not None, volume=file.volume)
        channel = voxels if file.volume is None else voxels[..., file.volume]
        if affine is None:
            affine = np.asarray(image.affine, np.float64)
        else:
            _check_place(first, channels[0].shape, affine, file.path, channel.shape, image.affine)
        if not np.isfinite(channel).all():
            share = 1 - np.isfinite(channel).mean()
            raise DataError(f"{file.path}: {share:.2%} of its voxels are NaN or infinite; repair it or leave it out")
        channels.append(np.asarray(channel, np.float32))
    assert affine is not None
    found = None
    if labels is not None and case.label is not None:
        image = _open(case.label)
        _check_sides(case.label, image.shape, four=False)
        values = _voxels(case.label, image)
        _check_place(first, channels[0].shape, affine, case.label, values.shape, image.affine)
        found = _as_label(case.label, values, labels)
    return Volumes(id=case.id, image=np.stack(channels), label=found, affine=affine)


def is_background(image: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where every channel has exactly the value of the volume's first corner.

    Of a skull-stripped image that is the air around the head: 0, or whatever a z-score made of it.

    Args:
        image: (C, D, H, W).

    Returns:
        (D, H, W).
    """
    corner = image[:, :1, :1, :1]
    found: npt.NDArray[np.bool_] = (image == corner).all(0)
    return found


def _open(path: Path) -> Any:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (ImageFileError, HeaderDataError, *_READING) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    except (
        ImportError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # a format that needs a package, or a broken one
        raise DataError(f"{path} cannot be read: {first_line(error)}; convert it to .nii.gz") from error
    if not isinstance(image, nib.spatialimages.SpatialImage):  # a surface, or a table of grayordinates
        raise DataError(f"{path} is a {type(image).__name__}, no volume of voxels: convert it to .nii.gz")
    return image


def _voxels(path: Path, image: Any) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.asanyarray(image.dataobj)
    except _READING as error:
        raise DataError(f"{path} cannot be read to its end: {first_line(error)}; get it again") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {found.dtype} in each voxel, such as a colour, and no single number")
    return found


def _check_sides(path: Path, shape: tuple[int, ...], *, four: bool, volume: int | None = None) -> None:
    wanted = 4 if four else 3
    if len(shape) != wanted:
        what = f"a {len(shape)}-D file ({format_shape(shape)})"
        kind = "with its contrasts on the last axis" if four else "of one channel"
        raise DataError(f"{path} is {what}; a {wanted}-D one {kind} is needed")
    if volume is not None and volume >= shape[-1]:
        raise DataError(f"{path} has {shape[-1]} channels, and the data set's description names more")
    if min(shape) < 1:
        raise DataError(f"{path} has no voxel ({format_shape(shape)})")


def _check_place(
    first: Path,
    sides: tuple[int, ...],
    affine: npt.NDArray[Any],
    other: Path,
    other_sides: tuple[int, ...],
    other_affine: npt.NDArray[Any],
) -> None:
    if other_sides != sides:
        raise DataError(
            f"{other.name} has {format_shape(other_sides)} voxels and {first.name} {format_shape(sides)}: {other}"
        )
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in sides))]).T
    apart = np.abs((np.asarray(affine) - np.asarray(other_affine)) @ corners)[:3].max()
    if not apart <= _APART_MM:  # also where an affine holds NaN
        raise DataError(
            f"{other.name} and {first.name} lie {apart:.1f} mm apart by their affines (limit {_APART_MM} mm): {other}"
        )


def _as_label(path: Path, values: npt.NDArray[Any], labels: Mapping[int, str]) -> npt.NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise DataError(f"{path}: some of its labels are NaN or infinite")
    present = np.unique(values)
    strange = [value for value in present.tolist() if value not in labels]
    if strange:
        known = ", ".join(map(str, labels))
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        told = ", ".join(f"{value:g}" for value in strange[:3])
        raise DataError(f"{path} has the label {told}{more}, which the data set does not know (it has {known})")
    return np.asarray(values, np.uint8)
