"""Patch loader of a training: which patch of which case each step gets, and its augmentation.

All random choices follow from (seed, step, process), so a resumed training gets the batches of an uninterrupted one.
Prepared cases are kept in memory as far as it reaches. Another process makes the next batch while a step runs, and the
time that steps wait for it is counted. With a thread instead, a step of Slim UNETR took twice as long on two cores,
since both needed the interpreter and OpenMP's threads.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench import data
from benchbench.core.cache import BoundedCache
from benchbench.core.errors import DataError, UsageError
from benchbench.core.process import exit_with_parent
from benchbench.data.mirroring import mirror_axes
from benchbench.training.recipe import AUTO, Patch, TrainRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from benchbench.data.plan import LabelMap

log = logging.getLogger(__name__)

_RESAMPLED = 0.3  # share of augmented patches that are rotated and scaled
_MARGIN = 1.3  # size of the region that is cut for such a patch, as a multiple of the patch
_AROUND = 2  # voxels around a volume smaller than the patch that augmentation may fill
_MOST_CENTRES = 20_000  # voxels of each label that patches may be centred on
_MEMORY_SHARE = 0.4  # of the free memory, for cases


def prepared_plan(name: str, progress: Callable[[float, str], None] | None = None) -> data.DataPlan:
    """The plan of a data set after all its cases were prepared, without unreadable ones.

    Raises:
        UsageError: it has no training case.
    """
    plan = data.get_plan(name)
    if plan.folder is not None:
        from benchbench.data import preprocessing

        def report(done: int, count: int) -> None:
            if progress:
                progress(0.0, f"preparing case {done} of {count}")

        for reason in preprocessing.prepare_all(plan, progress=report).values():
            log.warning("left out: %s", reason)
        plan = data.get_plan(name)
    if not plan.splits.get("train"):
        raise UsageError(f"{plan.key} has no case to train on: every one of them is a test case")
    return plan


def with_mirror_axes(recipe: TrainRecipe, plan: data.DataPlan) -> TrainRecipe:
    """The recipe with the axes that the data set chooses, where it leaves them to it.

    Raises:
        DataError: a training case cannot be read.
    """
    return dataclasses.replace(recipe, mirror=mirror_axes(plan)) if recipe.mirror == AUTO else recipe


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CachedCase:
    """A case in memory."""

    image: npt.NDArray[np.float16]  # (C, D, H, W)
    label: LabelMap  # (D, H, W)
    centres: tuple[npt.NDArray[np.int64], ...]  # flat indices of voxels, for each label in it
    inside: npt.NDArray[np.int64]  # flat indices of voxels of the patient

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return self.image.nbytes + self.label.nbytes + self.inside.nbytes + sum(c.nbytes for c in self.centres)


def cached_case(case: data.Case) -> CachedCase:
    """A case with the voxels that patches may be centred on."""
    rng = np.random.default_rng(0)

    def sample(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        flat = np.flatnonzero(mask)
        return np.sort(rng.choice(flat, _MOST_CENTRES, replace=False)) if len(flat) > _MOST_CENTRES else flat

    values = [value for value in np.unique(case.label).tolist() if value]
    return CachedCase(
        image=case.image.astype(np.float16),
        label=case.label,
        centres=tuple(sample(case.label == value) for value in values),
        inside=sample(np.asarray(case.image.any(0))),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images and targets of a step."""

    image: Tensor  # (B, C, D, H, W) float32
    target: Tensor  # (B, R, D, H, W) 0 or 1; of labels that exclude each other (B, 1, D, H, W) class indices


Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # image and target of a batch

_loader: PatchLoader | None = None  # of the process that makes batches


def _start_process(loader: PatchLoader, training: int) -> None:
    """Prepare the process that makes batches; it ends with the training, whose process id is given."""
    import torch

    global _loader
    _loader = loader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the training ends this process
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.SIG_DFL)  # instead of the inherited handlers, which would print a traceback
    exit_with_parent(training)
    torch.set_num_threads(1)


def _arrays_in_process(step: int, patch: Patch) -> Arrays:
    assert _loader is not None
    return _loader._arrays(step, patch)


def _batch(arrays: Arrays) -> Batch:
    import torch

    image, target = (torch.from_numpy(array) for array in arrays)
    return Batch(image=image, target=target)


class PatchLoader:
    """The batches of one process of a training; processes with other numbers get other patches."""

    def __init__(self, plan: data.DataPlan, recipe: TrainRecipe, *, process: int = 0) -> None:
        import psutil

        self.plan, self.recipe, self.process = plan, with_mirror_axes(recipe, plan), process
        self.waited_s = 0.0
        self._cases: BoundedCache[int, CachedCase] = BoundedCache(
            most_bytes=_MEMORY_SHARE * psutil.virtual_memory().available, size=lambda case: case.n_bytes
        )
        self._pool: Executor | None = None
        self._next: tuple[int, Patch, Future[Arrays]] | None = None
        self._affines: dict[Patch, Any] = {}
        self._intensities = intensity_augmentation()

    def batch(self, step: int, patch: Patch, following: Patch | None = None) -> Batch:
        """The batch of a step, counted from 0; the next one is begun.

        Args:
            patch: (D, H, W) voxels.
            following: patch of the next step; None: there is no next step.

        Raises:
            DataError: the process that makes batches was killed.
        """
        start = time.perf_counter()
        prepared = self._next if self._next and self._next[:2] == (step, patch) else None
        try:
            arrays = (prepared[2] if prepared else self._begin(step, patch)).result()
        except BrokenProcessPool as error:
            if self._pool:
                self._pool.shutdown(wait=False)
            self._pool = self._next = None
            raise DataError(
                f"the process that makes batches was ended at step {step}; if memory ran out, take a smaller "
                "--batch-size or --spatial, and run again: it goes on"
            ) from error
        self.waited_s += time.perf_counter() - start
        self._next = None if following is None else (step + 1, following, self._begin(step + 1, following))
        return _batch(arrays)

    def close(self) -> None:
        """End the process that makes batches."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int, patch: Patch) -> Future[Arrays]:
        if sys.platform != "linux":
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="patches")
            return self._pool.submit(self._arrays, step, patch)
        if self._pool is None:
            fork = multiprocessing.get_context("fork")  # as PyTorch's DataLoader: starts at once and inherits the plan
            self._pool = ProcessPoolExecutor(1, fork, initializer=_start_process, initargs=(self, os.getpid()))
        return self._pool.submit(_arrays_in_process, step, patch)

    def make(self, step: int, patch: Patch) -> Batch:
        """The batch of a step, made in this process."""
        return _batch(self._arrays(step, patch))

    def _arrays(self, step: int, patch: Patch) -> Arrays:
        rng = np.random.default_rng([self.recipe.seed, 1, step, self.process])
        pairs = [self._draw(rng, patch) for _ in range(self.recipe.batch)]
        return np.stack([image for image, _ in pairs]), np.stack([self._target(label) for _, label in pairs])

    def _target(self, label: LabelMap) -> npt.NDArray[np.float32]:
        regions = self.plan.to_regions(label)
        if not self.plan.exclusive:
            return regions.astype(np.float32)
        classes = np.zeros((1, *label.shape), np.float32)
        for i, region in enumerate(regions, 1):
            classes[0][region] = i
        return classes

    def _case(self, index: int) -> CachedCase:
        return self._cases.get(index, lambda: cached_case(data.load_case(self.plan.where, "train", index)))

    def _draw(self, rng: np.random.Generator, patch: Patch) -> tuple[npt.NDArray[np.float32], LabelMap]:
        """One augmented patch: image (C, D, H, W), label (D, H, W)."""
        case = self._case(int(rng.integers(self.plan.splits["train"])))
        if case.centres and rng.random() < self.recipe.foreground:
            near = case.centres[int(rng.integers(len(case.centres)))]
        else:
            near = case.inside
        middle = patch_middle(rng, near, case.label.shape, patch)
        resampled = self.recipe.augment and rng.random() < _RESAMPLED
        inner = _inner(patch, case.label.shape)
        larger = tuple(side + 2 * round(side * (_MARGIN - 1) / 2) for side in inner) if resampled else inner
        start = [m - side // 2 for m, side in zip(middle, larger, strict=True)]
        image: npt.NDArray[np.float32] = cut(case.image, start, larger).astype(np.float32)
        label: LabelMap = cut(case.label, start, larger)
        for axis in map(int, self.recipe.mirror):
            if rng.random() < 0.5:
                image, label = np.flip(image, axis + 1), np.flip(label, axis)
        if self.recipe.augment:
            image, label = self._augment(rng, image, label, inner)
        else:
            image = scale_and_shift(rng, image)
        around = [((p - n) // 2,) * 2 for p, n in zip(patch, inner, strict=True)]
        return np.pad(image, [(0, 0), *around]), np.pad(label, around)

    def _augment(
        self, rng: np.random.Generator, image: npt.NDArray[np.float32], label: LabelMap, sides: Patch
    ) -> tuple[npt.NDArray[np.float32], LabelMap]:
        import torch

        item = {"image": torch.from_numpy(np.ascontiguousarray(image))}
        if self.plan.preparation is None or self.plan.preparation.foreground:
            item["inside"] = item["image"].any(0, keepdim=True).float()
        if label.shape != sides:
            if sides not in self._affines:
                self._affines[sides] = random_affine(sides)
            values = np.union1d([0], label)  # 0 first: it is what lies outside
            item["label"] = torch.from_numpy((label == values[:, None, None, None]).astype(np.float32))
            item = self._affines[sides].set_random_state(seed=int(rng.integers(2**31)))(item)
            label = values[item.pop("label").numpy().argmax(0)].astype(label.dtype)
        changed = self._intensities.set_random_state(seed=int(rng.integers(2**31)))(item)
        intensities = changed["image"].numpy()
        if "inside" in changed:  # the background stays exactly 0
            intensities = intensities * (changed["inside"].numpy() > 0.5)
        return np.ascontiguousarray(intensities, np.float32), np.ascontiguousarray(label)


class CachedPatchLoader:
    """Batches that several trainings share, whose recipes differ in their budget alone; `most_bytes` are cached."""

    def __init__(self, loader: PatchLoader, *, most_bytes: float) -> None:
        self.loader = loader
        self.waited_s = 0.0  # by the present training
        self._batches: BoundedCache[tuple[int, Patch], Batch] = BoundedCache(
            most_bytes=most_bytes, size=lambda batch: batch.image.nbytes + batch.target.nbytes
        )

    def batch(self, step: int, patch: Patch, following: Patch | None = None) -> Batch:
        """The batch of a step, as `PatchLoader.batch`."""
        start = time.perf_counter()
        batch = self._batches.get((step, patch), lambda: self.loader.batch(step, patch, following))
        self.waited_s += time.perf_counter() - start
        return batch

    def close(self) -> None:
        """Do nothing, since the next training uses it too; see `end`."""

    def end(self) -> None:
        """End the process that makes batches, and drop the cached ones."""
        self.loader.close()
        self._batches.clear()


def _inner(patch: Patch, volume: tuple[int, ...]) -> Patch:
    """The central part of a patch that holds the volume with two voxels around it, symmetric along each axis."""
    d, h, w = (p - 2 * (max(0, p - n - 2 * _AROUND) // 2) for p, n in zip(patch, volume, strict=True))
    return d, h, w


def random_affine(patch: Patch) -> Any:
    """MONAI's rotation and scale, from a larger region to a patch (D, H, W); labels are given as one channel each.

    The region has to be larger by an even number of voxels along each axis, so that the centres coincide and an image
    and its label are sampled at the same places.

    Source: as `intensity_augmentation`.
    """
    from monai.transforms import RandAffined

    angle = np.pi / 12
    return RandAffined(
        ["image", "label", "inside"],
        prob=1.0,
        rotate_range=(angle, angle, angle),
        scale_range=((-0.2, 0.25),) * 3,
        spatial_size=patch,
        mode=("bilinear", "bilinear", "nearest"),
        padding_mode="zeros",
        cache_grid=False,
        allow_missing_keys=True,
    )


def intensity_augmentation() -> Any:
    """MONAI's intensity transforms, in the order and with about the probabilities of nnU-Net.

    Source: Isensee et al. 2021, "nnU-Net", Nature Methods 18, supplementary note 4.
    """
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityFixedMeand,
        RandSimulateLowResolutiond,
    )

    return Compose(
        [
            RandGaussianNoised("image", prob=0.15, std=0.1),
            RandGaussianSmoothd("image", prob=0.15, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
            RandScaleIntensityFixedMeand("image", prob=0.3, factors=0.25, preserve_range=False),
            RandSimulateLowResolutiond("image", prob=0.1, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd("image", prob=0.2, gamma=(0.7, 1.5), retain_stats=True),
        ],
        map_items=False,
    )


def scale_and_shift(rng: np.random.Generator, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Random scale and shift of each channel; zeros stay."""
    inside = image.any(0)
    scale, shift = rng.normal(1, 0.1, (2, len(image), 1)).astype(np.float32)
    changed = np.ascontiguousarray(image)
    changed = changed.copy() if changed is image else changed
    changed[:, inside] = changed[:, inside] * scale + (shift - 1)
    return changed


def patch_middle(
    rng: np.random.Generator, near: npt.NDArray[np.int64], sides: tuple[int, ...], patch: Patch
) -> list[int]:
    """Centre of a patch (D, H, W), near a random voxel of `near` (flat indices; empty: anywhere).

    The patch lies inside the volume of these `sides`; along an axis where it is larger, the volume is in its middle.
    """
    voxel = np.unravel_index(near[rng.integers(len(near))], sides) if len(near) else None
    middle = []
    for axis, (side, length) in enumerate(zip(sides, patch, strict=True)):
        room = side - length
        if room <= 0:
            start = -(-room // 2)
        elif voxel is None:
            start = int(rng.integers(room + 1))
        else:
            moved = int(voxel[axis]) - length // 2 + int(rng.integers(-length // 4, length // 4 + 1))
            start = min(max(moved, 0), room)
        middle.append(start + length // 2)
    return middle


def cut(volume: npt.NDArray[Any], start: list[int], patch: tuple[int, ...]) -> npt.NDArray[Any]:
    """A patch of the last three axes, zero where it reaches beyond the volume."""
    sides = volume.shape[-3:]
    result: npt.NDArray[Any] = np.zeros((*volume.shape[:-3], *patch), volume.dtype)
    source = tuple(slice(max(0, a), max(0, min(n, a + p))) for a, n, p in zip(start, sides, patch, strict=True))
    target = tuple(
        slice(s.start - a, s.start - a + max(0, s.stop - s.start)) for s, a in zip(source, start, strict=True)
    )
    result[..., target[0], target[1], target[2]] = volume[..., source[0], source[1], source[2]]
    return result
