"""Patch loader of a training: which patch of which case each step sees, and its augmentation.

Everything follows from (seed, step, process), so a training that goes on sees what it would have seen. Cases are read
from the cache of prepared ones and kept in memory as far as it reaches. The next batch is made by another process
while a step runs; how long a step had to wait for it is counted. It is no thread, because with one a step of Slim
UNETR took twice as long on two cores, since the two fought for the interpreter and for OpenMP's threads.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench import data
from benchbench.core.cache import BoundedCache
from benchbench.core.errors import DataError
from benchbench.core.process import exit_with_parent
from benchbench.training.recipe import Patch, TrainRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from benchbench.data.plan import LabelMap

_RESAMPLED = 0.3  # share of augmented patches that are rotated and scaled
_MARGIN = 1.3  # of the piece that is cut for a patch to be rotated and scaled in
_AROUND = 2  # voxels around a volume that is smaller than the patch, which augmentation may fill
_SEEDS = 20_000  # voxels of each label that patches are centred on
_MEMORY_SHARE = 0.4  # of what is free, for cases


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CachedCase:
    """A case in memory."""

    image: npt.NDArray[np.float16]  # (C, D, H, W)
    label: LabelMap  # (D, H, W)
    centres: tuple[npt.NDArray[np.int64], ...]  # flat indices of voxels, of each label that it has
    inside: npt.NDArray[np.int64]  # flat indices of voxels of the patient

    @property
    def n_bytes(self) -> int:
        """In memory."""
        return self.image.nbytes + self.label.nbytes + self.inside.nbytes + sum(c.nbytes for c in self.centres)


def cached_case(case: data.Case) -> CachedCase:
    """A case as it is kept in memory."""
    draw = np.random.default_rng(0)

    def some(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        flat = np.flatnonzero(mask)
        return np.sort(draw.choice(flat, _SEEDS, replace=False)) if len(flat) > _SEEDS else flat

    values = [value for value in np.unique(case.label).tolist() if value]
    return CachedCase(
        image=case.image.astype(np.float16),
        label=case.label,
        centres=tuple(some(case.label == value) for value in values),
        inside=some(np.asarray(case.image.any(0))),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a step is made of."""

    image: Tensor  # (B, C, D, H, W) float32
    target: Tensor  # (B, R, D, H, W) 0 or 1; of labels that exclude each other (B, 1, D, H, W) class indices
    patch: Patch


Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # image and target of a batch

_loader: PatchLoader | None = None  # in the process that makes batches, its own


def _start(loader: PatchLoader, starter: int) -> None:
    """Get ready to make batches, in the process that does nothing else; it ends with the one that started it."""
    import torch

    global _loader
    _loader = loader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which then ends this
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.SIG_DFL)  # the training's handlers came along, which would tell a traceback
    exit_with_parent(starter)
    torch.set_num_threads(1)


def _arrays_of_loader(step: int, patch: Patch) -> Arrays:
    assert _loader is not None
    return _loader._arrays(step, patch)


def _batch(arrays: Arrays, patch: Patch) -> Batch:
    import torch

    image, target = (torch.from_numpy(array) for array in arrays)
    return Batch(image=image, target=target, patch=patch)


class PatchLoader:
    """The batches of one process of a training."""

    def __init__(self, plan: data.DataPlan, recipe: TrainRecipe, *, process: int = 0) -> None:
        """Nothing is read yet.

        Args:
            process: of several that train one network, which see different patches.
        """
        import psutil

        self.plan, self.recipe, self.process = plan, recipe, process
        self.waited_s = 0.0
        self._cases: BoundedCache[int, CachedCase] = BoundedCache(
            most_bytes=_MEMORY_SHARE * psutil.virtual_memory().available, size=lambda case: case.n_bytes
        )
        self._pool: Executor | None = None
        self._next: tuple[int, Patch, Future[Arrays]] | None = None
        self._affines: dict[Patch, Any] = {}
        self._intensities = intensity_augmentation()

    def batch(self, step: int, patch: Patch, following: Patch | None = None) -> Batch:
        """The batch of a step; the one after it is begun.

        Args:
            step: from 0.
            patch: (D, H, W) voxels.
            following: the next step's patch; None: there is no next step.
        """
        start = time.perf_counter()
        begun = self._next if self._next and self._next[:2] == (step, patch) else None
        try:
            arrays = (begun[2] if begun else self._begin(step, patch)).result()
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
        return _batch(arrays, patch)

    def close(self) -> None:
        """End the process that makes batches."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int, patch: Patch) -> Future[Arrays]:
        if sys.platform != "linux":
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="patches")
            return self._pool.submit(self._arrays, step, patch)
        if self._pool is None:
            # as PyTorch's DataLoader: it starts at once and inherits the plan
            fork = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(1, mp_context=fork, initializer=_start, initargs=(self, os.getpid()))
        return self._pool.submit(_arrays_of_loader, step, patch)

    def make(self, step: int, patch: Patch) -> Batch:
        """The batch of a step, made here and now."""
        return _batch(self._arrays(step, patch), patch)

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
        for axis in self.recipe.mirror:
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

        item = {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "label": torch.from_numpy(np.ascontiguousarray(label)).float()[None],
        }
        if self.plan.preparation is None or self.plan.preparation.foreground:
            item["inside"] = item["image"].any(0, keepdim=True).float()
        if label.shape != sides:
            if sides not in self._affines:
                self._affines[sides] = random_affine(sides)
            item = self._affines[sides].set_random_state(seed=int(rng.integers(2**31)))(item)
        changed = self._intensities.set_random_state(seed=int(rng.integers(2**31)))(item)
        intensities = changed["image"].numpy()
        if "inside" in changed:  # what is no patient stays exactly 0
            intensities = intensities * (changed["inside"].numpy() > 0.5)
        return np.ascontiguousarray(intensities, np.float32), changed["label"].numpy()[0].round().astype(label.dtype)


class CachedPatchLoader:
    """Batches of a loader that several trainings of one recipe (but for its budget) share; each is made once."""

    def __init__(self, loader: PatchLoader, *, most_bytes: float) -> None:
        """Nothing is made yet.

        Args:
            most_bytes: of batches that are kept; those beyond are made anew each time.
        """
        self.loader = loader
        self.waited_s = 0.0  # of the training that uses it now
        self._known: BoundedCache[tuple[int, Patch], Batch] = BoundedCache(
            most_bytes=most_bytes, size=lambda batch: batch.image.nbytes + batch.target.nbytes
        )

    def batch(self, step: int, patch: Patch, following: Patch | None = None) -> Batch:
        """The batch of a step, as `PatchLoader.batch`."""
        start = time.perf_counter()
        batch = self._known.get((step, patch), lambda: self.loader.batch(step, patch, following))
        self.waited_s += time.perf_counter() - start
        return batch

    def close(self) -> None:
        """Does nothing, since the next training uses it too; `end` ends it."""

    def end(self) -> None:
        """End the process that makes batches, and forget those that were made."""
        self.loader.close()
        self._known.clear()


def _inner(patch: Patch, volume: tuple[int, ...]) -> Patch:
    """The middle part of a patch that holds a volume with two voxels around it, as much smaller on both sides."""
    d, h, w = (p - 2 * (max(0, p - n - 2 * _AROUND) // 2) for p, n in zip(patch, volume, strict=True))
    return d, h, w


def random_affine(patch: Patch) -> Any:
    """Rotation and scale, MONAI's: a patch out of a larger piece.

    The piece has to be larger by an even number of voxels along each axis: the middles of the two coincide then, and an
    image and its label are read at the same places.

    Args:
        patch: (D, H, W) that comes out.

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
        mode=("bilinear", "nearest", "nearest"),
        padding_mode="zeros",
        cache_grid=False,
        allow_missing_keys=True,
    )


def intensity_augmentation() -> Any:
    """What changes intensities alone, MONAI's, in the order and with about the chances of nnU-Net.

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
    """Each contrast a little brighter or darker, stronger or weaker; what is 0 stays."""
    inside = image.any(0)
    scale, shift = rng.normal(1, 0.1, (2, len(image), 1)).astype(np.float32)
    changed = np.ascontiguousarray(image)
    changed = changed.copy() if changed is image else changed
    changed[:, inside] = changed[:, inside] * scale + (shift - 1)
    return changed


def patch_middle(
    rng: np.random.Generator, near: npt.NDArray[np.int64], sides: tuple[int, ...], patch: Patch
) -> list[int]:
    """The middle of a patch, voxels: near one of some voxels, and such that the patch lies inside where it can.

    Args:
        near: flat indices of the voxels; empty: anywhere.
        sides: (D, H, W) of the volume.
        patch: (D, H, W) voxels; along an axis where it is larger than the volume, the volume lies in its middle.
    """
    at = np.unravel_index(near[rng.integers(len(near))], sides) if len(near) else None
    middle = []
    for axis, (side, wanted) in enumerate(zip(sides, patch, strict=True)):
        room = side - wanted
        if room <= 0:
            start = -(-room // 2)
        elif at is None:
            start = int(rng.integers(room + 1))
        else:
            moved = int(at[axis]) - wanted // 2 + int(rng.integers(-wanted // 4, wanted // 4 + 1))
            start = min(max(moved, 0), room)
        middle.append(start + wanted // 2)
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
