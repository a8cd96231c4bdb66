"""Data set from a user's folder: from its files to the plan that networks are built and judged by.

Spacing, patch and intensities follow from the data, as in nnU-Net: the median spacing, a patch of the median
shape, z-scores (Hounsfield units are clipped first). The headers are read once and the result is kept in the
cache, keyed by the names, sizes and times of the files.

Source: Isensee et al. 2021, "nnU-Net", Nature Methods 18, supplementary note 2 (rules for spacing and clipping).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchbench.core import cache
from benchbench.core import config as core_config
from benchbench.core import records as rec
from benchbench.core.errors import DataError
from benchbench.data import splits
from benchbench.data.layouts import open_source
from benchbench.data.plan import ALL, DataPlan, Preparation, label_dtype, preparation_to_json
from benchbench.data.source import CaseFiles, Source
from benchbench.data.volumes import is_background, load_volumes, read_header

log = logging.getLogger(__name__)

#: Changes whenever a prepared voxel, a plan or a split may change for equal files.
VERSION = 1

_LOOK = 3  # changes whenever a fingerprint may change for equal files, as with what can be read

_ANISOTROPIC = 3.0  # ratio of a case's spacings from which the coarse axis gets a finer target than the median
_MULTIPLE = 8  # of a patch's sides, voxels; a network that needs a larger one gets it (`zoo.build.fitting_sides`)
_LARGEST = 128  # side of a patch, voxels
_LOOKED_AT = 16  # cases whose voxels are read for the background and for Hounsfield units
_BACKGROUND = 0.2  # share of voxels with one and the same value, from which the rest is the patient
_CLIP = (0.5, 99.5)  # percentiles of Hounsfield units inside the labels


def plan_folder(folder: Path, *, fold: int = 0) -> DataPlan:
    """The plan of the data set in a folder.

    Args:
        fold: whose cases are `test`; `plan.ALL`: every case is.

    Raises:
        DataError: it cannot be read, or a part of the split is empty.
    """
    try:
        return _plan(folder.resolve(), fold, _stamp(folder))
    except (OSError, RuntimeError) as error:  # the latter of links that lead to themselves
        raise DataError(f"cannot read {folder}: {getattr(error, 'strerror', None) or error}") from error


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes when the description, the split or the list of files does: a plan in memory is not used any longer."""
    names = ("", "dataset.json", splits.SPLITS_FILE, "imagesTr", "labelsTr", "HGG", "LGG")
    return tuple((folder / name).stat().st_mtime_ns if (folder / name).exists() else 0 for name in names)


@functools.lru_cache(maxsize=8)
def _plan(folder: Path, fold: int, stamp: tuple[int, ...]) -> DataPlan:
    source = _source(folder, stamp)
    digest = _identity(source)
    stats = _fingerprint(source, digest)
    if stats["oddly_placed"]:  # read by another rule than before: plans and prepared cases of then are not theirs
        digest = rec.content_hash([digest, stats["oddly_placed"]])
    listed = splits.read_list(folder)
    parts = splits.split(source.cases, fold, listed=listed)
    usable = {name: tuple(c for c in ids if c not in stats["unreadable"]) for name, ids in parts.items()}
    for name in ("test",) if fold == ALL else ("train", "test"):
        if not usable[name]:
            raise DataError(
                f"{folder}: fold {fold} has no {name} case ({len(source.cases)} cases in all): take another --fold, or "
                f"lay a {splits.SPLITS_FILE} beside them"
            )
    spacing = tuple(float(s) for s in stats["spacing_mm"])
    preparation = Preparation(
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        resample=bool(stats["resample"]),
        foreground=bool(stats["foreground"]),
        clip=tuple(stats["clip"]) if stats["clip"] else None,
    )
    sides = tuple(max(1, round(side)) for side in stats["sides"])
    patch = tuple(min(_LARGEST, -(-side // _MULTIPLE) * _MULTIPLE) for side in sides)
    return DataPlan(
        name=source.name,
        title=source.title,
        channels=source.channels,
        regions=source.regions,
        labels=source.labels,
        patch=(patch[0], patch[1], patch[2]),
        sides=(sides[0], sides[1], sides[2]),
        spacing_mm=preparation.spacing_mm,
        splits={name: len(ids) for name, ids in usable.items()},
        semi_synthetic=False,
        licence=source.licence,
        exclusive=source.exclusive,
        paint=source.paint,
        folder=folder,
        fold=fold,
        ids=usable,
        digest=digest,
        listed="" if listed is None else rec.content_hash(listed)[:8],
        preparation=preparation,
    )


def _identity(source: Source) -> str:
    """Of the data, wherever it lies: its description, and the names and sizes of its files."""
    files = [[case.id, [_size(file.path) for file in case.images], _size(case.label)] for case in source.cases]
    described = [VERSION, source.layout, source.channels, [[k, v] for k, v in source.regions.items()], files]
    if (dtype := np.dtype(label_dtype(source.labels)).name) != "uint8":  # prepared cases once were, whatever they held
        described.append(dtype)
    return rec.content_hash(described)


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return -1  # missing: 'bench data check' says so


# -- fingerprint

#: Digest of a data set -> case -> why it is left out: what is known in this process where there is no cache.
_LEFT_OUT: dict[str, dict[str, str]] = {}


def leave_out(plan: DataPlan, bad: Mapping[str, str]) -> None:
    """Leave cases out of every plan of a data set from now on, until one of its files changes."""
    assert plan.folder is not None
    _plan.cache_clear()
    source = _source(plan.folder, _stamp(plan.folder))
    digest = _identity(source)
    _LEFT_OUT.setdefault(digest, {}).update(bad)
    _keep(source, digest, _fingerprint(source, digest))


def _fingerprint(source: Source, digest: str) -> dict[str, Any]:
    """Spacing, patch and intensities, from the cache where the files are the same."""
    facts: dict[str, Any] = {}
    try:
        read = core_config.read_json(_fingerprint_path(source, digest), "the fingerprint", DataError)
        if read["stamp"] == _times(source) and read["version"] == _LOOK:
            facts = dict(read)
    except (DataError, KeyError, TypeError):
        pass
    if not facts:
        facts = _look(source)
        _keep(source, digest, facts)
    return facts | {"unreadable": facts["unreadable"] | _LEFT_OUT.get(digest, {})}


def _fingerprint_path(source: Source, digest: str) -> Path:
    return cache.cache_base() / cache.PREPARED / f"{source.name}-{digest}" / "fingerprint.json"


def _keep(source: Source, digest: str, facts: Mapping[str, Any]) -> None:
    content = (json.dumps(facts, indent=1) + "\n").encode()
    cache.keep(_fingerprint_path(source, digest), content, "each use reads every header again")


def _times(source: Source) -> str:
    paths = dict.fromkeys(path for case in source.cases for path in case.files)
    return rec.content_hash([[str(p.name), p.stat().st_mtime_ns if p.exists() else 0] for p in paths])


def _look(source: Source) -> dict[str, Any]:
    shapes, spacings, orders, unreadable, oddly_placed = [], [], [], {}, []
    for fault in source.faults:
        if fault.level == "fail":
            log.warning("left out: %s: %s", fault.case, fault.text)
    for case in source.cases:
        try:
            header = read_header(case)
        except DataError as error:
            unreadable[case.id] = str(error)
            log.warning("left out: %s", error)
            continue
        if header.rescaled:
            oddly_placed.append(case.id)
        order = _ras_order(header.affine)
        orders.append(tuple(order))
        shapes.append([header.shape[i] for i in order])
        spacings.append([header.spacing_mm[i] for i in order])
    if not shapes:
        raise DataError(
            f"{source.folder}: none of its {len(source.cases)} cases can be read; {next(iter(unreadable.values()))}"
        )
    target = _target_spacing(np.array(spacings), np.array(shapes))
    resample = any(abs(s / t - 1) > 0.01 for spacing in spacings for s, t in zip(spacing, target, strict=True))
    scaled = np.median(np.array(shapes) * np.array(spacings) / target, axis=0)
    foreground, clip, share = _intensities(source, [c for c in source.cases if c.id not in unreadable])
    whole = scaled * target
    if foreground:  # the air around the head is cropped away
        scaled = scaled * share
    return {
        "version": _LOOK,
        "stamp": _times(source),
        "spacing_mm": [round(float(s), 6) for s in target],
        "resample": resample,
        "sides": [round(float(n), 3) for n in scaled],
        "whole_mm": [round(float(n), 3) for n in whole],
        "axes": list(collections.Counter(orders).most_common(1)[0][0]),
        "foreground": foreground,
        "clip": clip,
        "unreadable": unreadable,
        "oddly_placed": oddly_placed,
    }


def _target_spacing(spacings: Any, shapes: Any) -> Any:
    """The median; of an axis much coarser than the others a finer one, so that no case loses most of its slices."""
    target = np.median(spacings, axis=0)
    coarse = int(np.argmax(target))
    others = [i for i in range(3) if i != coarse]
    few = np.median(shapes, axis=0)[coarse] * _ANISOTROPIC < min(np.median(shapes, axis=0)[others])
    if target[coarse] / min(target[others]) >= _ANISOTROPIC and few:
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), max(target[others]))
    return target


def _intensities(source: Source, cases: list[CaseFiles]) -> tuple[bool, list[float] | None, Any]:
    """Whether the background has one value; of CT the clip and the moments; the share of each side that is not air.

    The moments are low, high, mean and deviation. The shares are medians, of the sides once in RAS.
    """
    wanted = cases[:: max(1, len(cases) // _LOOKED_AT)][:_LOOKED_AT]
    empty, inside, shares = [], [], []
    for case in wanted:
        try:
            volumes = load_volumes(case, source.labels)
        except DataError as error:
            log.warning("passed over: %s", error)
            continue
        background = is_background(volumes.image)
        empty.append(float(background.mean()))
        shares.append([_lit_share(background, axis) for axis in _ras_order(volumes.affine)])
        if source.is_ct and volumes.label is not None and volumes.label.any():
            voxels = volumes.image[0][volumes.label != 0]
            inside.append(voxels[:: max(1, len(voxels) // 10_000)])
    foreground = bool(empty) and statistics.median(empty) > _BACKGROUND and not source.is_ct
    share = np.median(np.array(shares), axis=0) if shares else np.ones(3)
    if not inside:
        return foreground, None, share
    pooled = np.concatenate(inside)
    low, high = np.percentile(pooled, _CLIP)
    clipped = np.clip(pooled, low, high)
    return foreground, [float(low), float(high), float(clipped.mean()), float(max(clipped.std(), 1e-6))], share


def _ras_order(affine: Any) -> list[int]:
    """Which axis of a file is left-right, which posterior-anterior, which inferior-superior."""
    import nibabel as nib

    return [int(axis) for axis in np.argsort(nib.orientations.io_orientation(affine)[:, 0])]


def _lit_share(background: Any, axis: int) -> float:
    """The share of a side between the first and the last slice that is not all background."""
    lit = np.flatnonzero(~background.all(tuple({0, 1, 2} - {axis})))
    return float(lit[-1] + 1 - lit[0]) / background.shape[axis] if len(lit) else 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MedianCase:
    """The middle of a data set's cases, before a network's own preparation: left-right, back-front, foot-head."""

    whole_mm: tuple[float, ...]  # sides of the image
    patient_mm: tuple[float, ...]  # of the box in it that is not air, where the background has one value
    axes: tuple[int, ...]  # of the files, which is along each of these directions


def median_case(plan: DataPlan) -> MedianCase:
    """The median case of a folder's data set."""
    source = source_of(plan)
    stats = _fingerprint(source, _identity(source))
    return MedianCase(
        whole_mm=tuple(stats["whole_mm"]),
        patient_mm=tuple(n * mm for n, mm in zip(stats["sides"], stats["spacing_mm"], strict=True)),
        axes=tuple(stats["axes"]),
    )


def source_of(plan: DataPlan) -> Source:
    """The files of a plan's data set."""
    assert plan.folder is not None
    return _source(plan.folder, _stamp(plan.folder))


def case_files(plan: DataPlan, split: str, index: int) -> tuple[Source, CaseFiles]:
    """The files of a case of a plan, the channels in the plan's order."""
    source = source_of(plan)
    wanted = plan.ids[split][index]
    case = next(case for case in source.cases if case.id == wanted)
    if plan.channels == source.channels:
        return source, case
    images = tuple(case.images[source.channels.index(name)] for name in plan.channels)
    return source, dataclasses.replace(case, images=images)


@functools.lru_cache(maxsize=8)
def _source(folder: Path, stamp: tuple[int, ...]) -> Source:
    del stamp
    return open_source(folder)


def settings_of(plan: DataPlan) -> str:
    """Hash of everything that a prepared voxel depends on, but the files."""
    import monai

    assert plan.preparation is not None
    return rec.content_hash([VERSION, preparation_to_json(plan.preparation), plan.channels, monai.__version__])


def prepared_folder(plan: DataPlan) -> Path:
    """Where the prepared cases of a plan are kept."""
    return cache.cache_base() / cache.PREPARED / f"{plan.name}-{plan.digest}" / settings_of(plan)
