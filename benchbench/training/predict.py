"""`bench predict`: images and trained weights in, a label map with the geometry of its image out.

The weights' sidecar has all that is needed (channels, preprocessing, regions, labels), so the data set that they were
trained on need not be present. If the files of a folder do not match the channels one to one, nothing is written.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbench.core.errors import (
    CheckpointError,
    DataError,
    StoreError,
    UnsupportedError,
    UsageError,
    is_out_of_memory,
    os_error_as,
)
from benchbench.core.overwrite import check_output
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape
from benchbench.data import DataPlan
from benchbench.data.plan import CONTRASTS, contrast
from benchbench.data.preprocessing import prepare
from benchbench.data.source import CaseFiles, ImageFile, stem
from benchbench.data.volumes import load_volumes
from benchbench.devices import cuda
from benchbench.training.sliding_window import logits_of, regions_of
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint

if TYPE_CHECKING:
    from torch import nn

#: Description in the header of a label map of this command.
_MARK = b"benchbench predict"
_HEAD_BYTES = 544  # of a NIfTI file; `descrip` is at byte 148, in NIfTI-2 at 240
_MOST_SIDE = 32767  # of NIfTI-1, voxels

_NUMBERED = re.compile(r"_\d{4}\.nii(\.gz)?$", re.IGNORECASE)


def predict_files(
    model: str,
    weights: Path,
    source: Path,
    output: Path,
    *,
    overlap: float | None = None,
    test_time_mirroring: bool = False,
    device: str = "cpu",
    force: bool = False,
    trust: bool = False,
) -> list[Path]:
    """Segment a case, or all those of a folder; returns the files that were written.

    Args:
        model: name of the network that the weights are of.
        source: folder of the case, or its file; or a folder of cases in nnU-Net's naming, if `output` is a folder.
        output: label map to write; or folder for one of each case, called as the case.
        overlap: of neighbouring windows, as a share of the patch; None: 0.5, or that of the network's MONAI bundle.
        test_time_mirroring: average over the mirror images that the training had.
        force: replace an output file that this command did not write; an input is never replaced.
        trust: import the class that weights name, if `model` is their path.

    Raises:
        CheckpointError: weights of another network, without the plan of their data, or that were trained without
            mirror images.
        DataError: missing, damaged or ambiguous files.
        StoreError: the output cannot be written, is an input, or was not written by this command.
        UsageError: a format that cannot be written.
        AccuracyError: the network's output is no segmentation of the patch.
    """
    check_name(output)
    info = checkpoint.read_sidecar(weights)
    cards = zoo_cards.find_cards(model, trust=trust)
    if len(cards) != 1 or not zoo_cards.is_of(info.model, cards[0]):
        raise CheckpointError(
            f"{weights} holds {info.model.name!r}, not {model!r}: name {zoo_cards.name_for(info)} in its place"
        )
    if device == "cuda":
        cuda.require()

    def load() -> nn.Module:
        network = zoo_build.build_here(info.model, info.spatial)
        checkpoint.load_weights(network, weights)
        return network.eval().to(device)

    return segment_files(
        Segmenter(
            load=load,
            plan=info.plan,
            spatial=info.spatial,
            files=(weights, weights.with_suffix(".json"), Path(model)),
            mirror=info.mirror,
        ),
        source,
        output,
        overlap=overlap,
        test_time_mirroring=test_time_mirroring,
        device=device,
        force=force,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A trained network, whatever it runs in, with what its images and outputs mean."""

    load: Callable[[], nn.Module]  # called once all inputs have been checked
    plan: DataPlan | None  # of its data
    spatial: tuple[int, ...]  # (D, H, W) of its patch, voxels
    files: tuple[Path, ...]  # that it is read from, the first of which names it; no output replaces them
    mirror: tuple[int, ...] | None = None  # axes, 0 to 2, along which its training mirrored patches; None: not known


def segment_files(
    segmenter: Segmenter,
    source: Path,
    output: Path,
    *,
    overlap: float | None,
    test_time_mirroring: bool = False,
    device: str = "cpu",
    force: bool = False,
) -> list[Path]:
    """Segment with a network that is at hand; arguments, result and errors are those of `predict_files`."""
    check_name(output)
    plan, weights = segmenter.plan, segmenter.files[0]
    if plan is None or plan.preparation is None:
        raise CheckpointError(
            f"{weights} does not say how its images were prepared, so nothing can be predicted with it: "
            "train it again on a folder of images"
        )
    mirror = checkpoint.check_mirror(segmenter.mirror, weights) if test_time_mirroring else ()
    one = stem(output.name) is not None
    cases = [find_case(source, plan.channels)] if one else find_cases(source, plan.channels)
    targets = [output if one else output / f"{case.id}.nii.gz" for case in cases]
    inputs = [*(file.path for case in cases for file in case.images), *_images_in(source), *segmenter.files]
    for target in targets:
        check_output(target, inputs=inputs, is_ours=is_label_map, force=force, flag="--output")
    network: nn.Module | None = None
    windows = plan.overlap if overlap is None else overlap
    for case, target in zip(cases, targets, strict=True):
        volumes = load_volumes(case)
        prepared = prepare(volumes, plan.preparation)
        network = network or segmenter.load()
        image = np.asarray(prepared.image.numpy(), np.float32)
        try:
            logits = logits_of(network, image, plan, segmenter.spatial, overlap=windows, mirror=mirror, device=device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UnsupportedError(
                f"memory ran out on {source}, {format_shape(tuple(image.shape[1:]))} voxels as the network sees it: "
                "predict it on a machine with more"
            ) from error
        label = plan.to_label(regions_of(prepared.to_native(logits), plan))
        _write(label, case.images[0].path, target)
    return targets


def check_name(output: Path) -> None:
    """Refuse an output that is neither a NIfTI file nor a folder, or whose place cannot be written to."""
    if stem(output.name) is None and (output.is_file() or (output.suffix and not output.is_dir())):
        raise UsageError(
            f"--output {output} must end in .nii.gz or .nii, or be a folder: label maps are written as NIfTI alone"
        )
    _check_place(output)


def is_label_map(head: bytes) -> bool:
    """Whether a file was written by this command, from its first 4096 bytes."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, _HEAD_BYTES)
        except zlib.error:
            return False
    return any(head[at : at + len(_MARK)] == _MARK for at in (148, 240))


def _check_place(output: Path) -> None:
    """Refuse an output whose folder cannot be written to."""
    try:
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        why = None if folder.is_dir() else f"{folder} is no folder"
    except OSError as error:
        raise _cannot_write(output, error.strerror or error) from error
    if why is None and not os.access(folder, os.W_OK | os.X_OK):
        why = f"{folder} cannot be written to"
    if why:
        raise _cannot_write(output, why)


def _cannot_write(output: Path, why: object) -> StoreError:
    return StoreError(f"cannot write {output}: {why}; choose another --output")


def _images_in(source: Path) -> list[Path]:
    """The images in a case's folder that this command did not write, none of which it may replace."""
    if not source.is_dir():
        return [source]

    def head(path: Path) -> bytes:
        with open(path, "rb") as file:
            return file.read(4096)

    images = [path for path in source.iterdir() if stem(path.name) and path.is_file()]
    return [path for path in images if not is_label_map(head(path))]


def _header(image: Any, label: np.ndarray) -> Any:
    """NIfTI header of a label map with the geometry of an image of any format."""
    import nibabel as nib

    kind = nib.Nifti2Header if max(label.shape) > _MOST_SIDE else nib.Nifti1Header
    header: Any = kind.from_header(image.header) if isinstance(image.header, nib.Nifti1Header) else kind()
    if not isinstance(image.header, nib.Nifti1Header):  # such as FreeSurfer's, in millimetres
        header.set_xyzt_units("mm")
    header.set_data_dtype(label.dtype)
    header.set_slope_inter(1, 0)
    header["descrip"] = _MARK
    return header


def _write(label: np.ndarray, like: Path, output: Path) -> None:
    import nibabel as nib

    image: Any = nib.load(like)
    header = _header(image, label)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nifti = kind(label, image.affine, header)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        content = nifti.to_bytes()
        if output.name.lower().endswith(".gz"):
            content = gzip.compress(content, 6, mtime=0)
        write_whole(output, content)
    except OSError as error:
        raise _cannot_write(output, error.strerror or error) from error


def find_case(source: Path, channels: Sequence[str]) -> CaseFiles:
    """The files of a case, in the order of the data set's channels.

    Raises:
        DataError: there is not one file for each channel.
    """
    with os_error_as(DataError, f"cannot read {source}"):
        is_file, is_folder = source.is_file(), source.is_dir()
        listed = sorted(source.iterdir()) if is_folder else []
    if is_file:
        images = [ImageFile(path=source, volume=i) for i in range(len(channels))]
        if len(channels) == 1:
            images = [ImageFile(path=source)]
        return CaseFiles(id=stem(source.name) or source.name, subject="", images=tuple(images), label=None)
    if not is_folder:
        raise DataError(f"no image at {source}: no such file or folder")
    files = [path for path in listed if stem(path.name) and not _is_label(path)]
    if len(files) == 1:
        return find_case(files[0], channels)
    images = []
    for i, channel in enumerate(channels):
        matches = [path for path in files if _is_channel(stem(path.name) or "", i, channel)]
        if len(matches) != 1:
            have = ", ".join(path.name for path in files) or "no image"
            what = f"{len(matches)} files could be" if matches else "no file is"
            raise DataError(
                f"{source}: {what} its channel {channel}; it has {have}. Name them ..._{i:04d}.nii.gz and so on, "
                f"in the order {', '.join(channels)}"
            )
        images.append(ImageFile(path=matches[0]))
    more = [path.name for path in files if path not in {file.path for file in images} and _NUMBERED.search(path.name)]
    if more:
        raise DataError(f"{source} has more channels than the {len(channels)} of the weights: {', '.join(more)}")
    return CaseFiles(id=source.name, subject="", images=tuple(images), label=None)


def find_cases(source: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """The cases of a folder that are named as nnU-Net has them: `CASE_0000.nii.gz`, `CASE_0001.nii.gz` and so on.

    Raises:
        DataError: there are none, or one has other channels.
    """
    with os_error_as(DataError, f"cannot read {source}"):
        listed = sorted(source.iterdir()) if source.is_dir() else []
    numbered: dict[str, dict[int, Path]] = {}
    for path in listed:
        if found := _NUMBERED.search(path.name):
            name, number = path.name[: found.start()], int(path.name[found.start() + 1 : found.start() + 5])
            numbered.setdefault(name, {})[number] = path
    if not numbered:
        raise DataError(
            f"{source} has no cases that are named ..._0000.nii.gz and so on, which an --output that is a folder "
            "needs: name a file with --output"
        )
    for name, files in numbered.items():
        if sorted(files) != list(range(len(channels))):
            have = ", ".join(path.name for path in files.values())
            raise DataError(
                f"{source}: the case {name} has {have}, and one file for each of {', '.join(channels)} is needed, "
                f"numbered 0000 to {len(channels) - 1:04d}"
            )
    return [
        CaseFiles(id=name, subject="", images=tuple(ImageFile(path=files[i]) for i in sorted(files)), label=None)
        for name, files in numbered.items()
    ]


def _is_label(path: Path) -> bool:
    return bool(re.search(r"(^|[-_])(seg|label|mask)$", stem(path.name) or "", re.IGNORECASE))


def _is_channel(name: str, number: int, channel: str) -> bool:
    """Whether a file's name ends in a channel's number or name."""
    endings = [f"{number:04d}", *CONTRASTS.get(contrast(channel), (channel.lower(),))]
    return any(re.search(rf"(^|[-_]){re.escape(end)}$", name.lower()) for end in endings)
