"""Reader of a case's image files, and everything that can be wrong with them.

Two files of equal shape may lie in different places, and a label that is shifted against its image trains a network
to be wrong everywhere. So the corners of all files of a case must agree. And a file may say where it lies twice, and
differently: `geometry.py` has the rule.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import DataError, first_line
from benchbench.core.units import format_shape, format_value
from benchbench.data.geometry import Geometry, corner_distance, geometry_of
from benchbench.data.plan import label_dtype
from benchbench.data.source import CaseFiles

if TYPE_CHECKING:
    from benchbench.data.plan import LabelMap

_APART_MM = 0.1  # between corners of two files, up to which they lie in one place
#: What a damaged file makes nibabel raise.
_READING = (OSError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, MemoryError, zlib.error)
_SIDES_MM = (1e-6, 1e4)  # that a voxel may have: a nanometre, for a microscope, and ten metres
_FLAT = 1e-3  # volume of a voxel, as a share of the product of its sides, below which two axes are one
_ROUNDING = 1e-3  # of a label that is stored as a fraction: 0.9997 is a 1
_PACKED = 1100  # gzip makes nothing smaller than by this: 1032, and its header
_UNBOUNDED = (".bz2", ".zst")  # packings that have no such bound: a file that ends early is noticed when it is read
_LARGE_BYTES = 256 * 2**20  # a packed file that claims more, and much more than it has, is counted first
_TIGHT = 20  # times that many
_MEMORY_SHARE = 0.5  # of what is free, that the voxels of a case may take


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """A case in memory, in its own voxels."""

    id: str
    image: npt.NDArray[np.float32]  # (C, D, H, W)
    label: LabelMap | None  # (D, H, W)
    affine: npt.NDArray[np.float64]  # (4, 4) voxel -> world, millimetres


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first image of a case says of itself, without its voxels."""

    shape: tuple[int, int, int]  # voxels, of the file's own axes
    spacing_mm: tuple[float, float, float]
    affine: npt.NDArray[np.float64]
    oddities: tuple[str, ...] = ()  # of where it lies, such as a sform that contradicts the qform
    rescaled: bool = False  # whether its spacing is another than nibabel's


def read_header(case: CaseFiles) -> Header:
    """The geometry of a case, from the header of its first image.

    Raises:
        DataError: the file is missing, damaged, or no volume.
    """
    first = case.images[0]
    image = _open(first.path)
    sides = _sides(first.path, image.shape, four=first.volume is not None)
    geometry = _geometry(first.path, image)
    x, y, z = map(float, geometry.spacing_mm)
    return Header(
        shape=(sides[0], sides[1], sides[2]),
        spacing_mm=(x, y, z),
        affine=geometry.affine,
        oddities=geometry.oddities,
        rescaled=geometry.rescaled,
    )


def format_spacing(spacing: Any) -> str:
    """`1x1x2.5 mm`."""
    return "x".join(f"{float(s):.3g}" for s in spacing) + " mm"


def load_volumes(case: CaseFiles, labels: Mapping[int, str] | None = None) -> Volumes:
    """Read a case and check it.

    Args:
        labels: that there may be; None: the label map is not wanted.

    Raises:
        DataError: a file is missing, damaged, no volume or of another geometry than the others; a voxel is NaN or
            infinite; a label is not in the list.
    """
    channels: list[npt.NDArray[np.float32]] = []
    first = case.images[0].path
    opened: dict[Path, tuple[Geometry, npt.NDArray[Any]]] = {}
    for file in case.images:
        if file.path not in opened:
            expected = None if file.volume is None else sum(other.path == file.path for other in case.images)
            opened[file.path] = _read(file.path, expected=expected, files=1 if expected else len(case.images))
        geometry, voxels = opened[file.path]
        with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which is refused as that
            channel = np.asarray(voxels if file.volume is None else voxels[..., file.volume], np.float32)
        if channels:
            _check_place(first, channels[0].shape, opened[first][0], file.path, channel.shape, geometry)
        if not np.isfinite(channel).all():
            share = 1 - np.isfinite(channel).mean()
            raise DataError(f"{file.path}: {share:.2%} of its voxels are NaN or infinite; repair it or leave it out")
        channels.append(channel)
    place, label = opened[first][0], None
    if labels is not None and case.label is not None:
        geometry, values = _read(case.label)
        _check_place(first, channels[0].shape, place, case.label, values.shape, geometry)
        label = _as_label(case.label, values, labels)
    return Volumes(id=case.id, image=np.stack(channels), label=label, affine=place.affine)


def load_label(path: Path, case: CaseFiles, labels: Mapping[int, str]) -> LabelMap:
    """A label map (D, H, W) of a case, its own or another program's, which has to lie over its image.

    Args:
        labels: that there may be.

    Raises:
        DataError: a file is missing, damaged, no volume or of another geometry; a label is not in the list.
    """
    geometry, values = _read(path)
    _check_over(case, path, values.shape, geometry)
    return _as_label(path, values, labels)


def check_label_header(path: Path, case: CaseFiles) -> None:
    """Refuse a label map that does not lie over a case's image, by the headers alone.

    Raises:
        DataError: likewise.
    """
    image = _open(path)
    _check_over(case, path, _sides(path, image.shape, four=False), _geometry(path, image))


def _check_over(case: CaseFiles, path: Path, sides: tuple[int, ...], geometry: Geometry) -> None:
    first = case.images[0]
    image = _open(first.path)
    wanted = _sides(first.path, image.shape, four=first.volume is not None)[:3]
    _check_place(first.path, wanted, _geometry(first.path, image), path, sides, geometry)


def is_background(image: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where every channel has exactly the value of the volume's first corner.

    Of a skull-stripped image that is the air around the head: 0, or whatever a z-score made of it. (C, D, H, W) ->
    (D, H, W).
    """
    corner = image[:, :1, :1, :1]
    background: npt.NDArray[np.bool_] = (image == corner).all(0)
    return background


def _open(path: Path) -> Any:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (ImageFileError, HeaderDataError, WrapStructError, *_READING) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    except (ImportError, AttributeError) as error:  # a format that needs a package, or a broken one
        raise DataError(f"{path} cannot be read: {first_line(error)}; convert it to .nii.gz") from error
    if not isinstance(image, nib.spatialimages.SpatialImage):  # a surface, or a table of grayordinates
        raise DataError(f"{path} is a {type(image).__name__}, no volume of voxels: convert it to .nii.gz")
    return image


def _geometry(path: Path, image: Any) -> Geometry:
    geometry = geometry_of(image.header, image.affine)
    affine, spacing = geometry.affine, geometry.spacing_mm
    low, high = _SIDES_MM
    if not np.isfinite(affine).all() or not ((spacing >= low) & (spacing <= high)).all():
        raise DataError(f"{path}: its affine gives a voxel of {format_spacing(spacing)}, so it has no geometry")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < _FLAT:
        raise DataError(f"{path}: two axes of its affine point the same way, so it has no geometry")
    return geometry


def _read(path: Path, *, expected: int | None = None, files: int = 1) -> tuple[Geometry, npt.NDArray[Any]]:
    """Where a file lies, and what is stored in it, scaled; never more memory than the file can fill.

    Args:
        expected: channels on the last axis of a 4-D file; None: a file of three axes.
        files: of its size that the case has.
    """
    from nibabel.spatialimages import HeaderDataError

    image = _open(path)
    sides = _sides(path, image.shape, four=expected is not None)
    if expected is not None and sides[-1] != expected:
        raise DataError(f"{path} has {sides[-1]} channels, and {expected} are expected")
    geometry = _geometry(path, image)
    _check_size(path, image, files)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            voxels: npt.NDArray[Any] = np.asanyarray(image.dataobj)
    except (HeaderDataError, *_READING) as error:
        raise DataError(f"{path} cannot be read to its end: {first_line(error)}; get it again") from error
    if voxels.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {voxels.dtype} in each voxel, such as a colour, and no single number")
    return geometry, voxels.reshape(sides)


def _check_size(path: Path, image: Any, files: int) -> None:
    """Refuse a header that claims more than its file can hold, or than fits in memory, before any is taken."""
    import psutil

    voxels = math.prod(map(int, image.shape))
    stored = voxels * image.get_data_dtype().itemsize
    packed = path.name.lower().endswith((".gz", ".mgz"))
    unbounded = path.name.lower().endswith(_UNBOUNDED)
    try:
        size = path.stat().st_size
        whole = unbounded or stored <= size * (_PACKED if packed else 1)
        if whole and packed and stored > max(_LARGE_BYTES, _TIGHT * size):
            whole = _unpacked(path, stored) >= stored
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read to its end: {first_line(error)}; get it again") from error
    sides = format_shape(image.shape)
    if not whole:
        raise DataError(
            f"{path} cannot be read to its end: its header says {sides} voxels ({format_value(stored, 'B')}), "
            f"and the file of {format_value(size, 'B')} ends before; get it again"
        )
    needed = voxels * max(4, image.get_data_dtype().itemsize) * files
    if needed > _MEMORY_SHARE * psutil.virtual_memory().available:
        raise DataError(
            f"{path} has {sides} voxels: its case takes {format_value(needed, 'B')} of memory, more than half of what "
            "is free; cut it into smaller ones"
        )


def _unpacked(path: Path, enough: int) -> int:
    """Bytes in a packed file, counted until there are enough."""
    count = 0
    with gzip.open(path) as file:
        while count < enough and (block := file.read(1 << 20)):
            count += len(block)
    return count


def _sides(path: Path, shape: tuple[int, ...], *, four: bool) -> tuple[int, ...]:
    """A file's sides without the trailing axes of one that some programs write."""
    wanted = 4 if four else 3
    sides = tuple(int(n) for n in shape)
    while len(sides) > wanted and sides[-1] == 1:
        sides = sides[:-1]
    if len(sides) != wanted:
        what = f"a {len(sides)}-D file ({format_shape(sides)})"
        kind = "with its contrasts on the last axis" if four else "of one channel"
        raise DataError(f"{path} is {what}; a {wanted}-D one {kind} is needed")
    if min(sides) < 1:
        raise DataError(f"{path} has no voxel ({format_shape(sides)})")
    return sides


def _check_place(
    first: Path, sides: tuple[int, ...], place: Geometry, other: Path, other_sides: tuple[int, ...], its: Geometry
) -> None:
    if other_sides != sides:
        raise DataError(
            f"{other.name} has {format_shape(other_sides)} voxels and {first.name} {format_shape(sides)}: {other}"
        )
    # A label that was drawn by one of the image's two contradicting affines lies over it all the same.
    apart = min(
        corner_distance(place.affine, its.affine, sides), corner_distance(place.preferred, its.preferred, sides)
    )
    if not apart <= _APART_MM:
        raise DataError(
            f"{other.name} and {first.name} lie {apart:.1f} mm apart by their affines (limit {_APART_MM} mm; "
            f"{_place_text(its)} and {_place_text(place)}): {other}"
        )


def _place_text(geometry: Geometry) -> str:
    """`LPS, 1x1x2.5 mm from (0, -30, 12)`: where its axes lead, the sides of a voxel, and where the first one lies."""
    import nibabel as nib

    axes = "".join(letter or "?" for letter in nib.aff2axcodes(geometry.affine))
    corner = ", ".join(f"{value:.4g}" for value in geometry.affine[:3, 3])
    return f"{axes}, {format_spacing(geometry.spacing_mm)} from ({corner})"


def _as_label(path: Path, values: npt.NDArray[Any], labels: Mapping[int, str]) -> LabelMap:
    if not np.isfinite(values).all():
        raise DataError(f"{path}: some of its labels are NaN or infinite")
    if values.dtype.kind == "f":  # such as 255 times a slope of 1/255
        whole = np.rint(values)
        values = np.where(np.abs(values - whole) <= _ROUNDING, whole, values)
    present = np.unique(values)
    strange = [value for value in present.tolist() if value not in labels]
    if strange:
        listed = ", ".join(map(str, labels))
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        examples = ", ".join(f"{value:.9g}" for value in strange[:3])
        raise DataError(f"{path} has the label {examples}{more}, which the data set does not know (it has {listed})")
    return np.asarray(values, label_dtype(labels))
