"""Phantom data set: a semi-synthetic glioma cohort on the MNI152 template that nilearn carries.

The anatomy is real (grey matter, white matter and T1 of the template, deformed anew for every subject); contrasts and
tumours are simulated. Much that is *not* tumour looks like it: hyperintensities of white matter look like oedema on
FLAIR and T2, old infarcts like necrosis with oedema, vessels, choroid plexus and meninges enhance like the rim, and
every contrast overlaps. A classifier of single voxels must therefore fail where a network, which sees shape and
place, need not. Every voxel follows from (seed, split, index); nothing is downloaded. A Dice on it says nothing about
patients.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchbench.core.cache import cache_base
from benchbench.core.errors import DataError
from benchbench.core.records import content_hash
from benchbench.data import case_cache
from benchbench.data.plan import Case

#: Changes whenever a voxel of any case may change; names the cache folder.
GENERATOR = 1

_SPLITS = ("train", "val", "test")
_MARGIN_MM = 12.0  # of the grid around the template's brain, so that no deformation leaves it
_LOWEST_MM = -18.0  # of a tumour's centre in MNI space: gliomas of adults are rare below the tentorium
_BSPLINE_STD = (151 / 315) ** 1.5  # mean standard deviation of a 3D cubic B-spline of unit white noise

Volume = npt.NDArray[np.float32]  # (D, H, W)
Mask = npt.NDArray[np.bool_]  # (D, H, W)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a cohort is made with."""

    spacing_mm: int = 2  # isotropic; 2 mm lets a CPU train on it
    seed: int = 2026  # of the cohort
    noise: float = 0.06  # standard deviation before rectification, in units of white matter on T1
    bias: float = 0.08  # standard deviation of the log of the bias field


DEFAULT = Settings()

#: Mean intensity of what a voxel can hold in T1, T1ce, T2, FLAIR; white matter on T1 is 1. Only the
#: order and the overlap matter, since images are z-scored: water is dark on T1 and bright on T2, free
#: water is dark on FLAIR and bound water bright, and contrast agent shows on T1ce alone.
_CONTRAST: dict[str, tuple[float, float, float, float]] = {
    "csf": (0.32, 0.33, 1.50, 0.30),
    "gm": (0.70, 0.74, 0.98, 0.95),
    "wm": (1.00, 1.02, 0.72, 0.75),
    "oedema": (0.72, 0.74, 1.18, 1.22),
    "necrosis": (0.48, 0.50, 1.32, 0.85),
    "rim": (0.68, 1.38, 1.02, 1.10),
    "lesion": (0.78, 0.80, 1.15, 1.20),  # white-matter hyperintensity, gliosis
    "cavity": (0.40, 0.42, 1.42, 0.50),  # old infarct, lacune
    "vessel": (0.55, 1.40, 0.80, 0.70),  # vessels, choroid plexus, meninges
}
_TISSUES = tuple(_CONTRAST)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """The template's maps on a grid."""

    gm: Volume
    wm: Volume
    brain: Volume
    t1: Volume
    affine: npt.NDArray[np.float64]


def load_case(split: str, index: int, settings: Settings = DEFAULT) -> Case:
    """One subject, a different one for each index from 0, from the cache where it is there, else made and cached.

    Raises:
        DataError: unknown split or negative index.
    """
    if split not in _SPLITS or index < 0:
        raise DataError(f"the phantom has no case {split}/{index}; splits: {', '.join(_SPLITS)}, indices from 0")
    path = cache_folder(settings) / f"{split}-{index:03d}.npz"
    case = case_cache.read(path, functools.partial(_case, f"phantom-{split}-{index:03d}"))
    if case is None:
        case = make_case(split, index, settings)
        _write(path, case)
    return case


def make_case(split: str, index: int, settings: Settings = DEFAULT) -> Case:
    """One subject, made anew; the same bytes as from the cache."""
    rng = np.random.default_rng([settings.seed, _SPLITS.index(split), index])
    template = _template(settings.spacing_mm)
    tissue, detail = _anatomy(rng, template, settings.spacing_mm)
    brain = tissue["csf"] + tissue["gm"] + tissue["wm"] > 0.5
    height = template.affine[2, 3] + template.affine[2, 2] * np.arange(brain.shape[2])
    label = _add_tumour(rng, tissue, brain, brain & (height > _LOWEST_MM), settings.spacing_mm)
    _add_distractors(rng, tissue, brain, label, settings.spacing_mm)
    image = _acquire(rng, tissue, detail, brain, settings)
    return Case(id=f"phantom-{split}-{index:03d}", image=image, label=label, affine=template.affine.copy())


# -- anatomy -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _template(spacing_mm: int) -> _Template:
    from nilearn import datasets

    def load(name: str) -> Any:
        return getattr(datasets, f"load_mni152_{name}")(resolution=spacing_mm)

    brain_image = load("brain_mask")
    brain = np.asarray(brain_image.dataobj) > 0.5
    inside = np.argwhere(brain)
    margin = int(np.ceil(_MARGIN_MM / spacing_mm))
    low, high = inside.min(0) - margin, inside.max(0) + 1 + margin
    sides = high - low
    clipped = [slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, brain.shape, strict=True)]
    offset = [slice(s.start - a, s.stop - a) for s, a in zip(clipped, low, strict=True)]

    def on_grid(source: Any) -> Volume:
        grid = np.zeros(sides, np.float32)
        grid[tuple(offset)] = np.asarray(source)[tuple(clipped)]
        return grid

    affine = np.array(brain_image.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ low
    return _Template(
        gm=on_grid(load("gm_template").dataobj),
        wm=on_grid(load("wm_template").dataobj),
        brain=on_grid(brain),
        t1=on_grid(load("template").dataobj),
        affine=affine,
    )


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Volume:
    """Noise (D, H, W) of mean 0 and deviation 1: a cubic B-spline of white noise, its knots `scale` voxels apart."""
    field = rng.standard_normal([int(n / scale) + 5 for n in shape]).astype(np.float32)
    shift = rng.random(len(shape))
    for axis, n in enumerate(shape):
        position = np.arange(n) / scale + shift[axis]
        knot = position.astype(int)
        t = (position - knot).astype(np.float32)
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        along = [-1 if a == axis else 1 for a in range(len(shape))]
        # Explicit sums, not BLAS: the bytes must not depend on the number of threads.
        parts = (np.take(field, knot + k, axis) * (w / 6).reshape(along) for k, w in enumerate(weights))
        field = functools.reduce(np.add, parts)
    return np.asarray(field / np.float32(_BSPLINE_STD), np.float32)


def _grid(shape: tuple[int, ...], centre: npt.NDArray[Any]) -> list[Volume]:
    """Coordinates relative to a centre, voxels; open, one array an axis."""
    return [
        (np.arange(n, dtype=np.float32) - np.float32(c)).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, c) in enumerate(zip(shape, centre, strict=True))
    ]


def _anatomy(rng: np.random.Generator, template: _Template, mm: int) -> tuple[dict[str, Volume], Volume]:
    """A subject's tissue fractions, and the fine structure of the template's T1 that they do not explain."""
    shape = template.brain.shape
    centre = (np.array(shape) - 1) / 2
    angle = rng.normal(0, np.deg2rad(4), 3)
    # small rotations about the three axes, to first order, and a scale per axis
    affine = np.diag(rng.normal(1.0, 0.03, 3)) + np.array(
        [[0, -angle[2], angle[1]], [angle[2], 0, -angle[0]], [-angle[1], angle[0], 0]]
    )
    x = _grid(shape, centre)
    source = np.stack(
        [
            sum(np.float32(affine[i, j]) * x[j] for j in range(3))
            + np.float32(centre[i])
            + np.float32(2.5 / mm) * _noise(rng, shape, 36 / mm)
            + np.float32(0.5 / mm) * _noise(rng, shape, 14 / mm)
            for i in range(3)
        ]
    )
    warp = functools.partial(ndimage.map_coordinates, coordinates=source, order=1, mode="constant")
    gm, wm, brain, t1 = (warp(volume) for volume in (template.gm, template.wm, template.brain, template.t1))
    atrophy = np.float32(rng.uniform(0.78, 1.0))  # grey matter given to fluid
    gm, wm = np.clip(gm, 0, 1) * brain, np.clip(wm, 0, 1) * brain
    total = np.maximum(1, gm + wm)
    gm, wm = gm / total * atrophy, wm / total
    csf = np.clip(brain - gm - wm, 0, 1)
    zero = np.zeros(shape, np.float32)
    tissue = {name: zero.copy() for name in _TISSUES} | {"csf": csf, "gm": gm, "wm": wm}
    scale = t1[wm > 0.9].mean() if (wm > 0.9).any() else 1.0
    detail = (t1 / np.float32(scale) - (0.35 * csf + 0.75 * gm + wm)) * (brain > 0.5)
    return tissue, np.clip(detail, -0.3, 0.3).astype(np.float32)


# -- tumour ------------------------------------------------------------------------------------------


def _soft(level: Volume, mm: int, width_mm: float = 1.6) -> Volume:
    """Partial volume of `level` < 0: 1 deep inside, 0 far outside; level in millimetres."""
    return np.asarray(1 / (1 + np.exp(np.clip(level / np.float32(width_mm * max(1.0, mm / 4)), -30, 30))), np.float32)


def _place(rng: np.random.Generator, allowed: Mask) -> npt.NDArray[Any]:
    """A random voxel of a mask."""
    flat = np.flatnonzero(allowed)
    return np.array(np.unravel_index(flat[rng.integers(len(flat))], allowed.shape), np.float64)


def _level(
    rng: np.random.Generator, shape: tuple[int, ...], centre: npt.NDArray[Any], radius: float, mm: int
) -> Volume:
    """Millimetres outside of an irregular ellipsoid; negative inside.

    The distance is bent by smooth noise whose reach follows the radius: lobes, spikes, and no sphere.
    """
    stretch = np.exp(rng.normal(0, 0.22, 3))
    stretch /= stretch.prod() ** (1 / 3)
    x = _grid(shape, centre)
    distance = np.sqrt(sum((x[a] * np.float32(mm / stretch[a])) ** 2 for a in range(3)))
    lobes = 0.26 * _noise(rng, shape, max(1.5, 0.75 * radius / mm)) + 0.14 * _noise(
        rng, shape, max(1.2, 0.35 * radius / mm)
    )
    return np.asarray(distance - np.float32(radius) * (1 + lobes), np.float32)


def _add_tumour(
    rng: np.random.Generator, tissue: dict[str, Volume], brain: Mask, allowed: Mask, mm: int
) -> npt.NDArray[np.uint8]:
    """Put a glioma into the tissue fractions; its label map.

    Core: an irregular level set, sometimes with a satellite. In it a rim of varying thickness that
    enhances, with gaps; what is deeper, and the gaps, are necrotic or do not enhance. Oedema reaches
    along white matter and fades outwards.
    """
    shape = brain.shape
    depth = ndimage.distance_transform_edt(brain).astype(np.float32) * mm
    radius = float(np.clip(rng.lognormal(np.log(15.5), 0.3), 8.0, 26.0))
    centre = _place(rng, allowed & (depth > 9 + 0.35 * radius) & (tissue["wm"] > 0.4))
    core = _level(rng, shape, centre, radius, mm)
    if rng.random() < 0.25:
        near = _soft(core - 22, mm) * (core > 8) * (depth > 8) * tissue["wm"] > 0.3
        if near.any():
            core = np.minimum(core, _level(rng, shape, _place(rng, near), rng.uniform(5, 8), mm))
    core = np.maximum(core, 3.0 - depth)  # stays inside the brain

    thickness = np.maximum(3.0, rng.uniform(4.0, 7.0) * (1 + 0.45 * _noise(rng, shape, 9 / mm)))
    gaps = (_noise(rng, shape, 8 / mm) - np.float32(rng.uniform(0.9, 1.8))) * 8  # positive: does not enhance
    rim = np.maximum(np.maximum(core, -(core + thickness)), np.minimum(gaps, 6.0))

    matter = ndimage.gaussian_filter(tissue["wm"], 2.0 / mm)
    reach = rng.uniform(6, 20) * (0.15 + 1.1 * matter) * (1 + 0.5 * _noise(rng, shape, 16 / mm))
    swelling = _attached(np.maximum(core - reach, 2.0 - depth), core, mm)

    in_core, in_rim = _soft(core, mm), _soft(rim, mm, 1.2)
    in_rim = np.minimum(in_rim, in_core)
    fade = np.clip(1.15 - 0.5 * np.clip(core, 0, None) / np.maximum(reach, 1), 0.45, 1)
    in_oedema = _soft(swelling, mm) * (1 - in_core)
    outside_csf = 1 - tissue["csf"] * (1 - in_core)  # free fluid holds no oedema
    label = np.zeros(shape, np.uint8)
    label[(in_oedema * outside_csf > 0.5) & brain] = 2
    label[(in_core > 0.5) & brain] = 1
    label[(in_rim > 0.5) & (in_core > 0.5) & brain] = 3

    strength = fade * np.float32(rng.uniform(0.75, 1.0)) * (0.9 + 0.12 * _noise(rng, shape, 6 / mm))
    _mix(tissue, "oedema", np.clip(in_oedema * outside_csf * strength, 0, 1))
    _mix(tissue, "necrosis", in_core)
    uptake = np.clip(rng.uniform(0.72, 1.05) + 0.18 * _noise(rng, shape, 5 / mm), 0.35, 1)
    _mix(tissue, "rim", in_rim * uptake)
    return label


def _attached(swelling: Volume, core: Volume, mm: int) -> Volume:
    """The level set of oedema without islands: what does not touch the core is pushed outside."""
    parts, _ = ndimage.label((swelling < 0) | (core < 0))
    touching = np.unique(parts[core < 0])
    whole = np.isin(parts, touching[touching > 0])
    far = ndimage.distance_transform_edt(~whole).astype(np.float32) * mm
    return np.where(whole, swelling, np.maximum(swelling, far))


def _mix(tissue: dict[str, Volume], name: str, share: Volume) -> None:
    """Let `name` take `share` of every voxel from what is there."""
    for other in tissue:
        tissue[other] *= 1 - share
    tissue[name] += share


def _add_distractors(
    rng: np.random.Generator,
    tissue: dict[str, Volume],
    brain: Mask,
    label: npt.NDArray[np.uint8],
    mm: int,
) -> None:
    """Put in what looks like tumour in one voxel and is none: see the top of this file."""
    shape = brain.shape
    free = np.clip(ndimage.distance_transform_edt(label == 0).astype(np.float32) * mm / 6 - 0.5, 0, 1)
    depth = ndimage.distance_transform_edt(brain).astype(np.float32) * mm
    fluid = ndimage.gaussian_filter(tissue["csf"] * (depth > 15), 3.0 / mm)

    # hyperintensities: caps around the ventricles, and points in deep white matter
    load = rng.uniform(0.2, 1.0)
    caps = np.clip(fluid * 6, 0, 1) * _soft(np.float32(1.4 - load) - _noise(rng, shape, 10 / mm), 4, 0.15)
    points = _soft(np.float32(2.5 - 0.7 * load) - _noise(rng, shape, 4.5 / mm), 4, 0.12)
    _mix(tissue, "lesion", np.clip((caps + points) * tissue["wm"] * 1.2, 0, 0.95) * free)

    # old infarcts: a cavity with a bright rim of gliosis
    for _ in range(rng.integers(1, 4)):
        level = _level(
            rng, shape, _place(rng, (depth > 5) & (tissue["gm"] + tissue["wm"] > 0.6)), rng.uniform(4, 10), mm
        )
        _mix(tissue, "lesion", _soft(level - rng.uniform(2, 5), mm) * free * (brain & (tissue["csf"] < 0.8)))
        _mix(tissue, "cavity", _soft(level, mm) * free * brain)

    # what enhances in every brain: vessels (where two noises vanish together), meninges, choroid plexus
    a, b = _noise(rng, shape, 11 / mm), _noise(rng, shape, 11 / mm)
    vessels = np.exp(-(a * a + b * b) / np.float32(0.02 * max(1.0, mm / 2)))
    surface = np.exp(-(((depth - 2) / 2.5) ** 2)) * _soft(0.4 - _noise(rng, shape, 12 / mm), 4, 0.3)
    plexus = np.clip(fluid * 1.6, 0, 1) * _soft(0.9 - _noise(rng, shape, 5 / mm), 4, 0.2)
    _mix(tissue, "vessel", np.clip(0.85 * vessels + 0.7 * surface + 0.8 * plexus, 0, 0.9) * free * brain)


# -- acquisition -------------------------------------------------------------------------------------


def _acquire(
    rng: np.random.Generator, tissue: dict[str, Volume], detail: Volume, brain: Mask, settings: Settings
) -> npt.NDArray[np.float32]:
    """Four contrasts from the fractions: (4, D, H, W), z-scored in the brain, background 0."""
    mm, shape = settings.spacing_mm, brain.shape
    healthy = tissue["gm"] + tissue["wm"]
    image = np.zeros((4, *shape), np.float32)
    for channel in range(4):
        means = {name: _CONTRAST[name][channel] * np.exp(rng.normal(0, 0.06)) for name in _TISSUES}
        clean = functools.reduce(np.add, (np.float32(means[name]) * tissue[name] for name in _TISSUES))
        clean += np.float32((0.6, 0.6, -0.4, 0.2)[channel]) * detail * healthy
        clean *= 1 + np.float32(0.05) * _noise(rng, shape, 7 / mm)  # tissue is not uniform
        field = np.exp(np.float32(settings.bias) * _noise(rng, shape, 55 / mm))
        sigma = np.float32(settings.noise * rng.uniform(0.8, 1.3))
        real = clean * field + sigma * rng.standard_normal(shape, np.float32)
        imaginary = sigma * rng.standard_normal(shape, np.float32)
        magnitude = np.sqrt(real * real + imaginary * imaginary)  # Rician, as a magnitude image is
        inside = magnitude[brain].astype(np.float64)
        image[channel][brain] = (inside - inside.mean()) / inside.std()
    return image.astype(np.float16).astype(np.float32)  # what the cache holds


# -- cache -------------------------------------------------------------------------------------------


def cache_folder(settings: Settings = DEFAULT) -> Path:
    """Where the cases of these settings are kept."""
    made_with = [dataclasses.asdict(settings), importlib.metadata.version("nilearn"), np.__version__]
    return cache_base() / f"phantom-{GENERATOR}-{content_hash(made_with)}"


def _case(name: str, file: case_cache.Arrays) -> Case:
    """The reverse of `_write`."""
    shape = tuple(int(n) for n in file["shape"])
    brain = np.unpackbits(file["brain"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    image, label = np.zeros((4, *shape), np.float32), np.zeros(shape, np.uint8)
    image[:, brain] = file["image"]
    label[brain] = file["label"]
    return Case(id=name, image=image, label=label, affine=file["affine"])


def _write(path: Path, case: Case) -> None:
    """Keep a case: of the brain alone, in half precision, which `make_case` has rounded to already."""
    brain = case.image.any(0)
    case_cache.write(
        path,
        shape=np.array(brain.shape),
        brain=np.packbits(brain),
        image=case.image[:, brain].astype(np.float16),
        label=case.label[brain],
        affine=case.affine,
    )
