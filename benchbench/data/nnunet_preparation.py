"""Preparation of images as nnU-Net does it, so that a network of its own sees what it was trained on.

Its axes are those of the file, last first (as SimpleITK reads them), and then transposed. The image is cropped to what
is not 0, normalised, and then resampled by splines, each channel apart; where one axis is much coarser than the others,
its slices are resampled apart from it. Logits go back the same way, so a prediction lies over its file.

Source: nnunetv2 2.8.1, `preprocessing/` and `inference/export_prediction.py`; splines as of scikit-image 0.26, whose
`resize` is scipy's `zoom` on a grid, cut to the range of its input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import DataError
from benchbench.data.foreground import Box
from benchbench.data.plan import ChannelScheme, NnunetPreparation, Resampling
from benchbench.data.volumes import Volumes

if TYPE_CHECKING:
    from benchbench.data.plan import LabelMap

Array = npt.NDArray[np.float32]
_LEAST_DEVIATION = 1e-8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NnunetPlace:
    """Where the voxels of a file go, and the way back."""

    how: NnunetPreparation
    axes: tuple[int, ...]  # of the file, for each of the network's
    flips: tuple[int, ...]  # axes of the network along which the file runs the other way
    spacing_mm: tuple[float, ...]  # of the file, for each of the network's axes
    sides: tuple[int, ...]  # of the whole image, in the network's axes
    box: Box  # of what is not 0, likewise
    mask: npt.NDArray[np.bool_]  # in the box: what is not 0, holes filled
    affine: npt.NDArray[np.float64]  # (4, 4) voxel of the network -> world, millimetres

    @property
    def cropped(self) -> tuple[int, ...]:
        """Sides of the box."""
        return self.mask.shape

    @property
    def seen(self) -> tuple[int, ...]:
        """Sides of what the network sees."""
        return _new_sides(self.cropped, self.spacing_mm, self.how.spacing_mm)

    def image(self, voxels: Array) -> Array:
        """An image (C, *file) as the network sees it, (C, D, H, W)."""
        channels = [self._turned(channel)[self.box] for channel in voxels]
        pairs = zip(channels, self.how.channels, strict=True)
        normal = np.stack([normalised(channel, scheme, self.mask) for channel, scheme in pairs])
        return resampled(normal, self.seen, self.spacing_mm, self.how.spacing_mm, self.how.images)

    def label(self, values: LabelMap) -> LabelMap:
        """A label map likewise, by the nearest voxel."""
        from scipy.ndimage import zoom

        inside = self._turned(values)[self.box]
        factors = [new / old for new, old in zip(self.seen, inside.shape, strict=True)]
        moved: LabelMap = zoom(inside, factors, order=0, mode="nearest", grid_mode=True)
        return moved

    def to_native(self, logits: Array) -> Array:
        """Logits (K, D, H, W) in the voxels of the file, rounded to half precision as there; outside of the box 0."""
        how = self.how
        back = resampled(logits, self.cropped, how.spacing_mm, self.spacing_mm, how.logits, dtype=np.float16)
        whole = np.zeros((len(back), *self.sides), np.float32)
        whole[(slice(None), *self.box)] = back
        flipped = np.flip(whole, tuple(axis + 1 for axis in self.flips))
        return np.ascontiguousarray(flipped.transpose(0, *(self.axes.index(axis) + 1 for axis in range(3))))

    def _turned(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(*file) -> the network's axes."""
        turned: npt.NDArray[Any] = np.flip(voxels.transpose(self.axes), self.flips)
        return turned


def place_of(volumes: Volumes, how: NnunetPreparation) -> NnunetPlace:
    """Where a case's voxels go.

    Raises:
        DataError: all of its image is 0; or two axes of the file are along one of the patient's.
    """
    from scipy.ndimage import binary_fill_holes

    order, reversed_axes = _order(volumes, how)
    axes = tuple(order[axis] for axis in how.transpose)
    flips = tuple(i for i, axis in enumerate(axes) if axis in reversed_axes)
    lit = np.flip((volumes.image != 0).any(0).transpose(axes), flips)
    if not lit.any():
        raise DataError(f"{volumes.id}: its image is 0 everywhere, so there is nothing in it")
    lit = binary_fill_holes(lit)
    corners = [np.flatnonzero(lit.any(tuple({0, 1, 2} - {axis})))[[0, -1]].tolist() for axis in range(3)]
    d, h, w = (slice(low, high + 1) for low, high in corners)
    spacing = np.linalg.norm(volumes.affine[:3, :3], axis=0)
    place = NnunetPlace(
        how=how,
        axes=axes,
        flips=flips,
        spacing_mm=tuple(float(spacing[axis]) for axis in axes),
        sides=lit.shape,
        box=(d, h, w),
        mask=lit[d, h, w],
        affine=np.eye(4),
    )
    return dataclasses.replace(place, affine=_affine(place, volumes))


def _order(volumes: Volumes, how: NnunetPreparation) -> tuple[list[int], set[int]]:
    """Axes of the file in nnU-Net's order, and those that run the other way than it has them."""
    if not how.reorient:
        return [2, 1, 0], set()
    import nibabel as nib

    orientation = nib.orientations.io_orientation(volumes.affine)
    if np.isnan(orientation).any():
        raise DataError(f"{volumes.id}: two axes of its affine point the same way, so it has no orientation")
    file_axis = [int(np.flatnonzero(orientation[:, 0] == world)[0]) for world in range(3)]
    return file_axis[::-1], {axis for axis in range(3) if orientation[axis, 1] < 0}


def _affine(place: NnunetPlace, volumes: Volumes) -> npt.NDArray[np.float64]:
    """Where the voxels that the network sees lie."""
    steps = np.array([n / s for n, s in zip(place.cropped, place.seen, strict=True)])  # file's voxels for one of them
    start = np.array([box.start for box in place.box]) + 0.5 * steps - 0.5
    turn = np.eye(4)
    turn[:3] = 0
    for axis, of_file in enumerate(place.axes):
        sign = -1 if axis in place.flips else 1
        turn[of_file, axis] = sign * steps[axis]
        turn[of_file, 3] = start[axis] if sign > 0 else place.sides[axis] - 1 - start[axis]
    return np.asarray(volumes.affine @ turn, np.float64)


def _new_sides(sides: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(old / new * side)) for side, old, new in zip(sides, spacing, wanted, strict=True))


def normalised(channel: npt.NDArray[Any], scheme: ChannelScheme, mask: npt.NDArray[np.bool_]) -> Array:
    """One channel by its scheme, in float32.

    Args:
        channel: (D, H, W), cropped.
        mask: likewise: what is not 0, holes filled.
    """
    image = np.array(channel, np.float32)
    if scheme.name == "z-score" and scheme.masked:
        inside = image[mask]
        image[mask] = (inside - inside.mean()) / max(inside.std(), _LEAST_DEVIATION)
    elif scheme.name == "z-score":
        mean, deviation = image.mean(), image.std()
        image -= mean
        image /= max(deviation, _LEAST_DEVIATION)
    elif scheme.name == "ct":
        assert scheme.clip is not None
        low, high, mean, deviation = scheme.clip
        np.clip(image, low, high, out=image)
        image -= mean
        image /= max(deviation, _LEAST_DEVIATION)
    elif scheme.name == "to 0-1":
        image -= image.min()
        image /= max(image.max(), _LEAST_DEVIATION)
    elif scheme.name == "rgb to 0-1":
        image /= 255.0
    return image


def resampled(
    image: Array,
    sides: Sequence[int],
    spacing: Sequence[float],
    wanted: Sequence[float],
    how: Resampling,
    *,
    dtype: type[np.floating[Any]] = np.float32,
) -> npt.NDArray[Any]:
    """An image (C, D, H, W) with other sides.

    Args:
        spacing: of the image, millimetres.
        wanted: that it gets; together they say whether one axis is so coarse that it is resampled apart.
        dtype: that values are rounded to.
    """
    if tuple(image.shape[1:]) == tuple(sides):
        return image.astype(dtype, copy=False)
    apart = _coarse_axis(spacing, wanted, how)
    channels = []
    for channel in image.astype(np.float64):
        if apart is None:
            channels.append(_resized(channel, sides, how.order))
            continue
        flat = [side for axis, side in enumerate(sides) if axis != apart]
        slices = [_resized(part, flat, how.order) for part in np.moveaxis(channel, apart, 0)]
        channels.append(_along(np.stack(slices, apart), apart, sides[apart], how.order_z))
    return np.stack(channels).astype(dtype)


def _resized(image: npt.NDArray[np.float64], sides: Sequence[int], order: int) -> npt.NDArray[np.float64]:
    """A volume or a slice with other sides, which stays in the range of its values."""
    from scipy.ndimage import zoom

    if image.shape == tuple(sides):
        return image
    factors = [new / old for new, old in zip(sides, image.shape, strict=True)]
    moved: npt.NDArray[np.float64] = zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(moved, image.min(), image.max())


def _along(image: npt.NDArray[np.float64], axis: int, side: int, order: int) -> npt.NDArray[np.float64]:
    """A volume with another side along one axis alone."""
    from scipy.ndimage import map_coordinates

    if image.shape[axis] == side:
        return image
    at: list[Any] = [np.arange(n, dtype=np.float64) for n in image.shape]
    at[axis] = image.shape[axis] / side * (np.arange(side) + 0.5) - 0.5
    moved: npt.NDArray[np.float64] = map_coordinates(
        image, np.array(np.meshgrid(*at, indexing="ij")), order=order, mode="nearest"
    )
    return moved


def _coarse_axis(spacing: Sequence[float], wanted: Sequence[float], how: Resampling) -> int | None:
    """The axis that is resampled apart from the others, which is one that is much coarser; None: there is none."""
    decisive = [spacing] if how.separate_z else [] if how.separate_z is False else [spacing, wanted]
    for sides in decisive:
        if how.separate_z or max(sides) / min(sides) > how.anisotropy:
            coarse = [axis for axis, side in enumerate(sides) if max(sides) / side == 1]
            return coarse[0] if len(coarse) == 1 else None
    return None
