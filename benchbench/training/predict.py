"""`bench predict`: images and trained weights in, a label map out that lies exactly over its image.

The weights' sidecar says everything that is needed: channels, preprocessing, regions, labels. The data set that they
were trained on need not be here. Nothing is guessed: where a folder has files that could be two channels, or none,
they are listed and nothing is written.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchbench.core.errors import (
    CheckpointError,
    DataError,
    StoreError,
    UnsupportedError,
    UsageError,
    is_out_of_memory,
)
from benchbench.core.overwrite import check_output
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape
from benchbench.data.layout import CaseFiles, ImageFile, stem
from benchbench.data.preprocessing import prepare
from benchbench.data.volumes import load_volumes
from benchbench.devices import cuda
from benchbench.training.sliding_window import logits_of, regions_of
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint

#: What a channel is called in file names: those of BraTS by year, for its four.
_ALIASES = {"t1": ("t1", "t1n"), "t1ce": ("t1ce", "t1c", "t1gd"), "t2": ("t2", "t2w"), "flair": ("flair", "t2f")}

#: What a label map's header says of where it is from, by which it is known again.
_MARK = b"benchbench predict"
_HEAD_BYTES = 544  # of a NIfTI file; its `descrip` is at byte 148, or at 240 of NIfTI-2
_MOST_SIDE = 32767  # of NIfTI-1, voxels

_NUMBERED = re.compile(r"_\d{4}\.nii(\.gz)?$", re.IGNORECASE)


def predict_files(
    model: str,
    weights: Path,
    source: Path,
    output: Path,
    *,
    overlap: float = 0.5,
    device: str = "cpu",
    force: bool = False,
    trust: bool = False,
) -> list[Path]:
    """Segment one case.

    Args:
        model: the network's name; it must be the one that the weights are of.
        weights: a `.safetensors` file with its sidecar.
        source: a case's folder, or its file.
        force: replace an output file that is no label map of this command; an input is not replaced even so.
        trust: import the class that weights name, where `model` is their path.

    Returns:
        What was written.

    Raises:
        CheckpointError: weights of another network, or without the plan of their data.
        DataError: files that are missing, damaged, or not to be told apart.
        StoreError: the output cannot be written, is an input, or is somebody else's file.
        UsageError: a format that cannot be written.
        AccuracyError: the network's answer is no segmentation of the patch.
    """
    if stem(output.name) is None:
        raise UsageError(f"--output {output} must end in .nii.gz or .nii: label maps are written as NIfTI alone")
    _check_place(output)
    info = checkpoint.read_sidecar(weights)
    cards = zoo_cards.find_cards(model, trust=trust)
    if len(cards) != 1 or not zoo_cards.is_of(info.model, cards[0]):
        raise CheckpointError(
            f"{weights} holds {info.model.name!r}, not {model!r}: name {zoo_cards.name_for(info)} in its place"
        )
    if device == "cuda":
        cuda.require()
    plan = info.plan
    if plan is None or plan.preparation is None:
        raise CheckpointError(
            f"{weights} does not say how its images were prepared, so nothing can be predicted with it: "
            "train it again on a folder of images"
        )
    case = find_case(source, plan.channels)
    files = [file.path for file in case.images]
    inputs = [*files, *_beside(source), weights, weights.with_suffix(".json"), Path(model)]
    check_output(output, inputs=inputs, is_ours=is_label_map, force=force, flag="--output")
    volumes = load_volumes(case)
    prepared = prepare(volumes, plan.preparation)
    network = zoo_build.build_here(info.model, info.spatial)
    checkpoint.load_weights(network, weights)
    image = np.asarray(prepared.image.numpy(), np.float32)
    try:
        logits = logits_of(network.eval().to(device), image, plan, info.spatial, overlap=overlap, device=device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UnsupportedError(
            f"memory ran out on {source}, {format_shape(tuple(image.shape[1:]))} voxels as the network sees it: "
            "predict it on a machine with more"
        ) from error
    label = plan.to_label(regions_of(prepared.to_native(logits), plan))
    _write(label, files[0], output)
    return [output]


def is_label_map(head: bytes) -> bool:
    """Whether a file was written by this command.

    Args:
        head: its first bytes, 4096 of them or all.
    """
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
        raise StoreError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error
    if why is None and not os.access(folder, os.W_OK | os.X_OK):
        why = f"{folder} cannot be written to"
    if why:
        raise StoreError(f"cannot write {output}: {why}; choose another --output")


def _beside(source: Path) -> list[Path]:
    """The images of a case's folder that are no label map of this command: none of them is replaced."""
    if not source.is_dir():
        return [source]
    paths = []
    for path in source.iterdir():
        if stem(path.name) and path.is_file():
            with open(path, "rb") as file:
                if not is_label_map(file.read(4096)):
                    paths.append(path)
    return paths


def _header(image: Any, label: np.ndarray) -> Any:
    """A header of NIfTI for a label map over an image, whatever format that has."""
    import nibabel as nib

    kind = nib.Nifti2Header if max(label.shape) > _MOST_SIDE else nib.Nifti1Header
    header: Any = kind.from_header(image.header) if isinstance(image.header, nib.Nifti1Header) else kind()
    if not isinstance(image.header, nib.Nifti1Header):  # as FreeSurfer's, in millimetres
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
        raise StoreError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error


def find_case(source: Path, channels: Sequence[str]) -> CaseFiles:
    """The files of a case, one a channel, in the channels' order.

    Args:
        channels: names, as the data set had them.

    Raises:
        DataError: not one file for each channel.
    """
    try:
        there, is_folder = source.is_file(), source.is_dir()
        listed = sorted(source.iterdir()) if is_folder else []
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error
    if there:
        if len(channels) == 1:
            images = [ImageFile(path=source)]
        else:
            images = [ImageFile(path=source, volume=i) for i in range(len(channels))]
        return CaseFiles(id=stem(source.name) or source.name, subject="", images=tuple(images), label=None)
    if not is_folder:
        raise DataError(f"no image at {source}: no such file or folder")
    files = [path for path in listed if stem(path.name) and not _is_label(path)]
    if len(files) == 1:
        return find_case(files[0], channels)
    images = []
    for i, channel in enumerate(channels):
        near = [path for path in files if _is_channel(stem(path.name) or "", i, channel)]
        if len(near) != 1:
            have = ", ".join(path.name for path in files) or "no image"
            what = f"{len(near)} files could be" if near else "no file is"
            raise DataError(
                f"{source}: {what} its channel {channel}; it has {have}. Name them ..._{i:04d}.nii.gz and so on, "
                f"in the order {', '.join(channels)}"
            )
        images.append(ImageFile(path=near[0]))
    more = [path.name for path in files if path not in {file.path for file in images} and _NUMBERED.search(path.name)]
    if more:
        raise DataError(f"{source} has more channels than the {len(channels)} of the weights: {', '.join(more)}")
    return CaseFiles(id=source.name, subject="", images=tuple(images), label=None)


def _is_label(path: Path) -> bool:
    return bool(re.search(r"(^|[-_])(seg|label|mask)$", stem(path.name) or "", re.IGNORECASE))


def _is_channel(name: str, number: int, channel: str) -> bool:
    """Whether a file's name ends in a channel's number or name."""
    endings = [f"{number:04d}", *_ALIASES.get(channel.lower(), (channel.lower(),))]
    return any(re.search(rf"(^|[-_]){re.escape(end)}$", name.lower()) for end in endings)
