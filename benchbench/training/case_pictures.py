"""Pictures of the best, median and worst case of an evaluation: image, label and prediction side by side."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import numpy.typing as npt

from benchbench.data import Case, DataPlan

_RGB = {"wt": (0.20, 0.75, 0.35), "tc": (0.20, 0.45, 0.95), "et": (1.0, 0.85, 0.10)}  # of BraTS's regions
_OTHER_RGB = ((0.9, 0.3, 0.6), (0.3, 0.8, 0.9), (0.9, 0.6, 0.2))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG of one case."""

    name: str  # `best.png`, `median.png`, `worst.png`
    title: str
    png: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One axial slice of a case."""

    id: str
    image: npt.NDArray[np.float32]  # (channels, D, H)
    reference: npt.NDArray[np.bool_]  # (R, D, H)
    predicted: npt.NDArray[np.bool_]  # (R, D, H)


def middle_slice(case: Case, predicted: npt.NDArray[np.bool_], plan: DataPlan) -> Slice:
    """The axial slice through the middle of the label, or of the volume if it has none."""
    reference = plan.to_regions(case.label)
    heights = np.flatnonzero(case.label.any((0, 1)))
    weights = case.label.astype(bool).sum((0, 1))[heights]
    k = round(np.average(heights, weights=weights)) if len(heights) else case.label.shape[2] // 2
    return Slice(
        id=case.id, image=case.image[..., k].copy(), reference=reference[..., k], predicted=predicted[..., k].copy()
    )


def case_pictures(dice: npt.NDArray[np.float64], slices: list[Slice], plan: DataPlan) -> tuple[Picture, ...]:
    """Pictures of the cases with the best, median and worst Dice (NaN: worst)."""
    return tuple(picture(name, dice[i], len(slices), slices[i], plan) for name, i in chosen_cases(dice).items())


def chosen_cases(dice: npt.NDArray[np.float64]) -> dict[str, int]:
    """The places of the `best`, `median` and `worst` (cases,) of Dice; NaN is the worst."""
    order = np.argsort(np.where(np.isfinite(dice), dice, -1), kind="stable")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}


def picture(name: str, dice: float, cases: int, shown: Slice, plan: DataPlan) -> Picture:
    """The picture of a case that is the `name`, such as the worst, of so many."""
    title = f"{name} of {cases} cases: {shown.id}, Dice {dice:.3f}"
    return Picture(name=f"{name}.png", title=title, png=montage(shown, plan))


def montage(shown: Slice, plan: DataPlan) -> bytes:
    """PNG of image, label and prediction side by side, each voxel as 2x2 or 4x4 pixels.

    Of several channels two are shown: FLAIR and T1ce if they have these names, else the first and the last.
    """
    from PIL import Image

    names = list(plan.channels)
    first = shown.image[names.index("FLAIR") if "FLAIR" in names else 0]
    second = shown.image[names.index("T1ce") if "T1ce" in names else -1]
    panels = [
        *([_grey(first)] if len(names) > 1 else []),
        _grey(second),
        _overlay(second, shown.reference, plan),
        _overlay(second, shown.predicted, plan),
    ]
    row = np.concatenate(panels, axis=0)  # along the left-right axis
    upright = row.transpose(1, 0, 2)[::-1]  # anterior up
    zoom = 2 if max(first.shape) > 80 else 4
    scaled = upright.repeat(zoom, axis=0).repeat(zoom, axis=1)
    file = io.BytesIO()
    Image.fromarray(scaled).quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _grey(channel: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(D, H) z-scores as (D, H, 3) grey; the background, 0, is black."""
    shade = np.where(channel == 0, 0, np.clip((channel + 2.5) / 5.5, 0.04, 1))
    return (255 * shade[..., None].repeat(3, axis=-1)).round().astype(np.uint8)


def _overlay(channel: npt.NDArray[np.float32], regions: npt.NDArray[np.bool_], plan: DataPlan) -> npt.NDArray[np.uint8]:
    """Regions in colour over a channel, the largest first."""
    picture = _grey(channel).astype(np.float64)
    by_size = sorted(enumerate(plan.regions), key=lambda item: -len(plan.regions[item[1]]))
    for order, (i, name) in enumerate(by_size):
        colour = np.array(_RGB.get(name, _OTHER_RGB[order % len(_OTHER_RGB)])) * 255
        picture[regions[i]] = 0.45 * _grey(channel)[regions[i]] + 0.55 * colour
    return picture.round().astype(np.uint8)
