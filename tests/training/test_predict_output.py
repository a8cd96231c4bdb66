"""What `bench predict` may replace and can write, and a Dice that is of the label's own file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from benchbench.core.errors import DataError, StoreError, UsageError
from benchbench.data.folder import plan_folder
from benchbench.training import evaluate as training_evaluate
from benchbench.training import predict
from benchbench.training.evaluate import measure_dice
from tests import data_sets as sets
from tests.training.test_predict import weights_of


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Weights, and an image."""
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = sets.decathlon(tmp_path / "Task99", count=8, sides=(12, 14, 10))
    return weights_of(plan_folder(folder), tmp_path / "w.safetensors"), folder / "imagesTr/case_003.nii.gz"


def run(weights: Path, source: Path, output: Path, **more: bool) -> None:
    predict.predict_files("tests.tiny_nets:Reads", weights, source, output, **more)


def test_an_input_is_never_replaced_by_whatever_name(case: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    weights, image = case
    before = image.read_bytes()
    monkeypatch.setattr(predict, "logits_of", lambda *_, **__: pytest.fail("it was computed"))
    (tmp_path / "link.nii.gz").symlink_to(image)
    os.link(image, tmp_path / "hard.nii.gz")
    for output in (
        image,
        image.parent / "../imagesTr" / image.name,
        tmp_path / "link.nii.gz",
        tmp_path / "hard.nii.gz",
    ):
        for force in (False, True):
            with pytest.raises(StoreError, match="is not replaced"):
                run(weights, image, output, force=force)
    assert image.read_bytes() == before


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_label_map_is_known_again_and_what_is_not_ours_is_replaced_with_force_alone(
    case: tuple[Path, Path], tmp_path: Path, ending: str
) -> None:
    weights, image = case
    output = tmp_path / f"seg{ending}"
    output.write_bytes(b"somebody's" * 50)
    with pytest.raises(StoreError, match="--force"):
        run(weights, image, output)
    run(weights, image, output, force=True)
    first = output.read_bytes()
    assert predict.is_label_map(first[:4096])
    assert not predict.is_label_map(image.read_bytes()[:4096])
    run(weights, image, output)
    assert output.read_bytes() == first


@pytest.mark.parametrize("name", ["seg.mgz", "seg.png", "seg", "w.safetensors/seg.nii.gz"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(
    case: tuple[Path, Path], tmp_path: Path, monkeypatch, name: str
) -> None:
    monkeypatch.setattr(predict, "logits_of", lambda *_, **__: pytest.fail("it was computed"))
    with pytest.raises(UsageError):
        run(*case, tmp_path / name)


def test_freesurfers_format_is_read_and_its_label_map_is_nifti(case: tuple[Path, Path], tmp_path: Path) -> None:
    weights, image = case
    known = nib.load(image)
    nib.save(nib.MGHImage(np.asarray(known.dataobj, np.float32), known.affine), tmp_path / "x.mgz")
    run(weights, image, tmp_path / "a.nii.gz")
    run(weights, tmp_path / "x.mgz", tmp_path / "b.nii.gz")
    a, b = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    assert np.allclose(a.affine, b.affine, atol=1e-4)


def test_a_file_without_voxels_is_one_line(case: tuple[Path, Path], tmp_path: Path) -> None:
    nib.save(nib.gifti.GiftiImage(), tmp_path / "x.gii")
    with pytest.raises(DataError, match="no volume of voxels"):
        run(case[0], tmp_path / "x.gii", tmp_path / "seg.nii.gz")


class Bright(nn.Conv3d):
    """A lesion where the z-score is above 1."""

    def __init__(self) -> None:
        super().__init__(1, 2, 1)
        self.weight.data.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1))
        self.bias.data.copy_(torch.tensor([1.0, 0.0]))


def test_dice_is_of_the_labels_own_file_where_the_patient_is_cropped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder, listed = tmp_path / "d", []
    for i in range(4):
        image, label = np.zeros((32, 32, 32), np.float32), np.zeros((32, 32, 32), np.uint8)
        image[10:22, 10:22, 10:22] = np.random.default_rng(i).normal(100, 10, (12, 12, 12))
        image[12:16, 12:16, 12:16] += 200
        label[12:16, 12:16, 12:16] = label[2:6, 2:6, 2:6] = 1  # the second one lies outside of the patient's box
        pair = {"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"}
        for kind, voxels in (("image", image), ("label", label)):
            (folder / pair[kind]).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / pair[kind])
        listed.append(pair)
    told = {"name": "x", "modality": {"0": "T1"}, "labels": {"0": "background", "1": "lesion"}, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(told))
    found = measure_dice(Bright(), data=f"{folder}#all", spatial=(16, 16, 16), surfaces=False)
    assert found.measurements[0].value == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("regions", "names"),
    [
        (["GTV+", "GTV-"], ["gtv_plus", "gtv_minus"]),
        (["a b", "a_b", "a-b"], ["a_b", "a_b_2", "a_minusb"]),
        (["x!", "x?", "x__2"], ["x_", "x__2_", "x__2"]),
        (["whole tumor", "l-r"], ["whole_tumor", "l_r"]),
    ],
)
def test_no_two_regions_share_a_metric(regions: list[str], names: list[str]) -> None:
    found = training_evaluate._slugs(regions)
    assert len(set(found)) == len(regions)
    assert found[0] == names[0]
    if len(regions) == 2:
        assert found == names
