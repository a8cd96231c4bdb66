"""Preprocessing of a case: orientation, crop, spacing, z-scores; kept in the cache once made.

MONAI's transforms do it. A prediction has to lie exactly over its image, so a case that is to be predicted keeps what
was done to it, and `to_native` undoes it.

Two processes may prepare one case at the same time: each writes a file of its own and renames it, so that there
is always a whole one. A process that is killed leaves at most a `.partial` file, which a later one removes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core import records as rec
from benchbench.core.errors import DataError
from benchbench.core.results import remove_torn
from benchbench.data import case_cache
from benchbench.data import folder as folders
from benchbench.data.plan import Case, DataPlan, NnunetPreparation, Preparation
from benchbench.data.source import CaseFiles, Source
from benchbench.data.volumes import Volumes, is_background, load_volumes

if TYPE_CHECKING:
    from torch import Tensor

    from benchbench.data.plan import LabelMap

_LONGEST = 200  # bytes of a case's id in a file's name, which may have 255
_TORN_S = 3600.0  # after which what nobody here writes is nobody's: other machines may share the cache

_ALMOST_ZERO = np.float32(1e-6)  # of a patient's voxel, since exactly 0 means that there is none

Progress = Callable[[int, int], None]  # how many are done, and of how many


def spatial_steps(preparation: Preparation, keys: tuple[str, ...]) -> Any:
    """The transforms that move voxels, MONAI's: into RAS, to the patient's box, to the common spacing."""
    from monai.transforms import Compose, CropForegroundd, Orientationd, Spacingd

    steps: list[Any] = [Orientationd(keys, axcodes="RAS", labels=None)]
    if preparation.foreground:
        steps.append(CropForegroundd(keys, source_key="image", select_fn=_not_zero, allow_smaller=False))
    if preparation.resample:
        mode = ["bilinear" if key == "image" else "nearest" for key in keys]
        steps.append(Spacingd(keys, pixdim=preparation.spacing_mm, mode=mode))
    return Compose(steps)


def _not_zero(image: Tensor) -> Tensor:
    return image != 0


def normalise(preparation: Preparation, image: Any) -> Any:
    """Intensities of an image (C, D, H, W) that a network can start from."""
    from monai.transforms import NormalizeIntensity, ScaleIntensityRange

    if preparation.clip:
        low, high, mean, deviation = preparation.clip
        scale = ScaleIntensityRange(low, high, (low - mean) / deviation, (high - mean) / deviation, clip=True)
        return scale(image)
    return NormalizeIntensity(nonzero=preparation.foreground, channel_wise=True)(image)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A case as a network sees it, with the way back."""

    image: Tensor  # (C, D, H, W) float32, MONAI's MetaTensor
    label: LabelMap | None  # (D, H, W), of the prepared voxels
    undo: Callable[[Tensor], Tensor]  # what `to_native` does
    native_shape: tuple[int, ...]
    native_affine: npt.NDArray[np.float64]

    def to_native(self, logits: Tensor) -> Tensor:
        """Logits (K, D, H, W) of the prepared voxels in the voxels of the image's file; outside of the crop 0."""
        return self.undo(logits)


def _inverted(logits: Tensor, image: Any, steps: Any) -> Tensor:
    """Logits with MONAI's steps undone that were applied to an image."""
    from monai.data import MetaTensor
    from monai.transforms import Invertd

    pred = MetaTensor(logits.float().cpu(), affine=image.affine)
    undo = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False, to_tensor=True)
    back: Tensor = undo({"pred": pred, "image": image})["pred"]
    return back.as_tensor() if isinstance(back, MetaTensor) else back


def prepare(volumes: Volumes, preparation: Preparation) -> Prepared:
    """Prepare a case in memory.

    Raises:
        DataError: a case without a voxel that is not zero, where the patient is what is not zero.
    """
    import torch
    from monai.data import MetaTensor

    if preparation.nnunet:
        return _prepare_as_nnunet(volumes, preparation.nnunet)
    voxels = volumes.image
    if preparation.foreground:
        background = is_background(voxels)
        if background.all():
            raise DataError(f"{volumes.id}: its image has one value everywhere, so there is nothing in it")
        voxels = np.where(background, np.float32(0), np.where(voxels == 0, _ALMOST_ZERO, voxels))
    affine = torch.from_numpy(volumes.affine)
    keys = ("image",) if volumes.label is None else ("image", "label")
    item: dict[str, Any] = {"image": MetaTensor(torch.from_numpy(voxels), affine=affine)}
    if volumes.label is not None:
        item["label"] = MetaTensor(torch.from_numpy(volumes.label)[None].float(), affine=affine)
    steps = spatial_steps(preparation, keys)
    moved = steps(item)
    image = normalise(preparation, moved["image"])
    label = None if volumes.label is None else moved["label"].numpy()[0].round().astype(volumes.label.dtype)
    return Prepared(
        image=image,
        label=label,
        undo=lambda logits: _inverted(logits, image, steps),
        native_shape=volumes.image.shape[1:],
        native_affine=volumes.affine,
    )


def _prepare_as_nnunet(volumes: Volumes, how: NnunetPreparation) -> Prepared:
    import torch
    from monai.data import MetaTensor

    from benchbench.data.nnunet_preparation import place_of

    place = place_of(volumes, how)
    image = torch.from_numpy(place.image(volumes.image))
    return Prepared(
        image=MetaTensor(image, affine=torch.from_numpy(place.affine)),
        label=None if volumes.label is None else place.label(volumes.label),
        undo=lambda logits: torch.from_numpy(place.to_native(logits.float().cpu().numpy())),
        native_shape=volumes.image.shape[1:],
        native_affine=volumes.affine,
    )


def load_case(plan: DataPlan, split: str, index: int) -> Case:
    """One case, from the cache where it is there, else prepared and cached.

    Raises:
        DataError: its files cannot be read, or disagree.
    """
    assert plan.preparation is not None
    source, files = folders.case_files(plan, split, index)

    def case_of(file: case_cache.Arrays) -> Case:
        return Case(id=files.id, image=file["image"].astype(np.float32), label=file["label"], affine=file["affine"])

    path = _cached_path(plan, files)
    case = case_cache.read(path, case_of)
    if case is None:
        case = _prepare_case(source, files, plan.preparation)
        _write(path, case)
    return case


def load_native(plan: DataPlan, split: str, index: int) -> tuple[Case, Prepared]:
    """One case in the voxels of its own files; and prepared, with the way back.

    Raises:
        DataError: its files cannot be read, or disagree.
    """
    assert plan.preparation is not None
    source, files = folders.case_files(plan, split, index)
    volumes, prepared = _read(source, files, plan.preparation)
    assert volumes.label is not None
    return Case(id=files.id, image=volumes.image, label=volumes.label, affine=volumes.affine), prepared


def _read(source: Source, files: CaseFiles, preparation: Preparation) -> tuple[Volumes, Prepared]:
    """A labelled case, as it is and prepared."""
    volumes = load_volumes(files, source.labels)
    if volumes.label is None:
        raise DataError(f"{files.id} has no label map")
    return volumes, prepare(volumes, preparation)


def _prepare_case(source: Source, files: CaseFiles, preparation: Preparation) -> Case:
    _, prepared = _read(source, files, preparation)
    assert prepared.label is not None
    # What the cache holds: half precision, so that a case is the same whether it comes from there or not.
    image = prepared.image.numpy().astype(np.float16).astype(np.float32)
    affine = np.asarray(prepared.image.affine, np.float64)  # type: ignore[attr-defined]
    return Case(id=files.id, image=image, label=prepared.label, affine=affine)


def prepare_all(plan: DataPlan, *, progress: Progress | None = None) -> dict[str, str]:
    """Prepare every case that is not in the cache.

    Returns:
        Those that cannot be, with the reason; plans that are made from now on leave them out.
    """
    assert plan.preparation is not None
    wanted = [(split, i) for split in ("train", "val", "test") for i in range(plan.splits[split])]
    bad: dict[str, str] = {}
    remove_torn(folders.prepared_folder(plan), older_s=_TORN_S)
    for done, (split, i) in enumerate(wanted, 1):
        source, files = folders.case_files(plan, split, i)
        path = _cached_path(plan, files)
        try:
            if not path.exists():
                _write(path, _prepare_case(source, files, plan.preparation))
        except DataError as error:
            bad[files.id] = str(error)
        if progress:
            progress(done, len(wanted))
    if bad:
        folders.leave_out(plan, bad)
    return bad


def _cached_path(plan: DataPlan, files: CaseFiles) -> Path:
    stamps = [[p.stat().st_size, p.stat().st_mtime_ns] if p.exists() else None for p in files.files]
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in files.id)
    name = name.encode()[:_LONGEST].decode(errors="ignore")
    # Names that are alike as files are not the same case.
    identity = stamps if name == files.id else [files.id, *stamps]
    return folders.prepared_folder(plan) / f"{name}-{rec.content_hash(identity)}.npz"


def _write(path: Path, case: Case) -> None:
    case_cache.write(path, image=case.image.astype(np.float16), label=case.label, affine=case.affine)
