"""Small data sets on disk, in every layout; a case is a box of label 1 that holds a box of label 2."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

TILTED = np.array([[0.0, -1.2, 0.3, 5.0], [0.9, 0.0, 0.0, -30.0], [0.0, 0.4, 2.4, 12.0], [0.0, 0.0, 0.0, 1.0]])
SIDES = (16, 18, 14)


def affine(spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    found = np.diag([*spacing, 1.0])
    found[:3, 3] = origin
    return found


def make(seed=0, sides=SIDES, channels=1, values=(1, 2), background=False):
    """Image (*sides) or (*sides, channels), and its label map."""
    rng = np.random.default_rng(seed)
    label = np.zeros(sides, np.uint8)
    low = [int(rng.integers(2, 5)) for _ in sides]
    label[tuple(slice(a, a + 7) for a in low)] = values[0]
    label[tuple(slice(a + 2, a + 5) for a in low)] = values[-1]
    image = rng.normal(100, 10, (*sides, channels)).astype(np.float32)
    image += 60.0 * label[..., None]
    if background:
        image[:3], image[:, :2] = 0, 0
    return (image[..., 0] if channels == 1 else image), label


def save(path: Path, voxels, where=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine() if where is None else where), path)
    return path


def decathlon(folder: Path, count=6, channels=1, where=None, modality=None, **more):
    """A Decathlon task of cases `case_000` and so on."""
    cases = []
    for i in range(count):
        image, label = make(i, channels=channels, **more)
        save(folder / f"imagesTr/case_{i:03d}.nii.gz", image, where)
        save(folder / f"labelsTr/case_{i:03d}.nii.gz", label, where)
        cases.append({"image": f"./imagesTr/case_{i:03d}.nii.gz", "label": f"./labelsTr/case_{i:03d}.nii.gz"})
    names = modality or {str(c): f"MR{c}" for c in range(channels)}
    described = {
        "name": "Boxes",
        "description": "boxes in boxes",
        "licence": "none",
        "modality": names,
        "labels": {"0": "background", "1": "shell", "2": "kernel"},
        "training": cases,
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def nnunet(folder: Path, count=4, channels=2, regions=False):
    """nnU-Net v2 raw, with overlapping regions if asked for."""
    for i in range(count):
        image, label = make(i, channels=channels)
        for c in range(channels):
            save(folder / f"imagesTr/pat{i}_{c:04d}.nii.gz", image[..., c] if channels > 1 else image)
        save(folder / f"labelsTr/pat{i}.nii.gz", label)
    labels = {"background": 0, "whole": [1, 2], "core": [2]} if regions else {"background": 0, "shell": 1, "kernel": 2}
    described = {
        "channel_names": {str(c): f"MR{c}" for c in range(channels)},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": count,
    }
    if regions:
        described["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def brats(folder: Path, names=("BraTS2021_00000", "BraTS2021_00002"), segmented=True):
    """Case folders, named as in 2021 or since 2023."""
    for i, name in enumerate(names):
        new = name.startswith("BraTS-")
        joint, files = ("-", ("t1n", "t1c", "t2w", "t2f")) if new else ("_", ("t1", "t1ce", "t2", "flair"))
        image, label = make(i, channels=4, values=(2, 3 if new else 4), background=True)
        for c, file in enumerate(files):
            save(folder / name / f"{name}{joint}{file}.nii.gz", image[..., c])
        if segmented:
            save(folder / name / f"{name}{joint}seg.nii.gz", label)
    return folder
