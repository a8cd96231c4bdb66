"""Label values and names as they are found: wide, negative, fractions, of one name, without a background."""

import gzip
import json
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from benchbench import data
from benchbench.core.errors import DataError
from benchbench.data import preprocessing
from benchbench.data.folder import plan_folder, prepared_folder
from benchbench.data.layouts import open_source
from benchbench.data.plan import alike, label_dtype, plan_from_json, plan_to_json
from benchbench.data.validate import check_folder
from benchbench.data.volumes import load_volumes
from benchbench.training.patch_loader import PatchLoader
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from tests import data_sets as sets


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def redescribed(folder, **changes):
    described = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def relabelled(folder, of, dtype):
    """Every label map with other values."""
    for path in sorted((folder / "labelsTr").iterdir()):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        changed = values.astype(dtype)
        for old, new in of.items():
            changed[values == old] = new
        sets.save(path, changed)
    return folder


def values_of(folder):
    source = open_source(folder)
    return np.unique(load_volumes(source.cases[0], source.labels).label).tolist()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((1, 255), np.uint8), ((1, 256), np.int16), ((-1, 2), np.int16), ((1, 40_000), np.int32), ((), np.uint8)],
)
def test_the_smallest_type_that_holds_every_label(values, dtype):
    assert label_dtype(values) is dtype


@pytest.mark.parametrize("wide", [257, 256, -3, 70_000])
def test_a_wide_label_stays_what_it_is_from_the_file_to_the_prediction(tmp_path, wide):
    folder = relabelled(sets.decathlon(tmp_path / "d", count=12), {2: wide}, np.int32)
    redescribed(folder, labels={"0": "background", "1": "organ", str(wide): "lesion"})
    plan = plan_folder(folder)
    assert plan.regions == dict(sorted({"organ": (1,), "lesion": (wide,)}.items(), key=lambda item: item[1]))
    case = data.load_case(plan.where, "train", 0)
    assert np.unique(case.label).tolist() == sorted([0, 1, wide])
    again = data.load_case(plan.where, "train", 0)  # from the cache
    assert (again.label == case.label).all()
    assert again.label.dtype == case.label.dtype
    assert (plan.to_label(plan.to_regions(case.label)) == case.label).all()
    recipe = TrainRecipe(
        data=plan.where, patch=plan.patch, budget=TrainingBudget(steps=1), batch=2, augment=True, foreground=1.0
    )
    loader = PatchLoader(plan, recipe)
    assert set(np.unique(loader.make(0, plan.patch).target)) == {0, 1, 2}


def test_the_data_of_wide_labels_have_another_key_than_when_they_wrapped(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=12)
    redescribed(folder, labels={"0": "background", "1": "shell", "2": "kernel"})
    before = plan_folder(folder).digest
    redescribed(folder, labels={"0": "background", "1": "shell", "2": "kernel", "300": "far"})
    assert plan_folder(folder).digest != before


def test_a_label_that_no_transform_can_carry_is_refused(tmp_path):
    folder = redescribed(sets.decathlon(tmp_path / "d"), labels={"0": "background", "614454277": "cortex"})
    with pytest.raises(DataError, match="label 614454277 is beyond 16777216"):
        open_source(folder)


# Fractions


def test_labels_that_a_slope_makes_fractions_are_rounded(tmp_path):
    folder = redescribed(sets.decathlon(tmp_path / "d", count=1), labels={"0": "background", "1": "a", "2": "b"})
    path = folder / "labelsTr/case_000.nii.gz"
    sets.save(path, np.asarray(nib.load(path).dataobj) * np.uint8(100))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:116] = struct.pack("<f", 1 / 100)
    path.write_bytes(gzip.compress(bytes(content)))
    assert np.asarray(nib.load(path).dataobj).max() != 2
    assert values_of(folder) == [0, 1, 2]


@pytest.mark.parametrize(("off", "read"), [(1e-5, True), (-1e-4, True), (0.01, False), (0.5, False)])
def test_a_fraction_beyond_rounding_is_no_label(tmp_path, off, read):
    folder = sets.decathlon(tmp_path / "d", count=1)
    path = folder / "labelsTr/case_000.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj).astype(np.float32)
    sets.save(path, np.where(voxels == 1, 1 + off, voxels).astype(np.float32))
    if read:
        assert values_of(folder) == [0, 1, 2]
    else:
        with pytest.raises(DataError, match=r"has the label 1\.(5|0099)"):
            values_of(folder)


# Names


def test_zero_is_the_background_said_or_not(tmp_path):
    folder = redescribed(sets.decathlon(tmp_path / "d"), labels={"1": "shell", "2": "kernel"})
    assert len(check_folder(folder).facts) == 6
    assert plan_folder(folder).labels[0] == "background"
    other = redescribed(sets.nnunet(tmp_path / "n"), labels={"shell": 1, "kernel": 2})
    assert len(check_folder(other).facts) == 4


def test_two_labels_of_one_name_are_kept_apart_and_told(tmp_path):
    folder = redescribed(sets.decathlon(tmp_path / "d"), labels={"0": "background", "1": "kidney", "2": "kidney"})
    assert open_source(folder).regions == {"kidney 1": (1,), "kidney 2": (2,)}
    lines = check_folder(folder).fault_lines
    assert lines == ["warn: 2 of its labels are called 'kidney': they are renamed to kidney 1, kidney 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"background": 0, "kidney": 1, "kidney": 2}', "'kidney' appears twice"),
        ('{"background": 0, "a": 1, "b": 1}', "label 1 is called 'a' and 'b'"),
        ('{"background": 0, "a": [], "b": 1}', "region 'a' covers no label"),
        ('{"background": 0, "a": 1.5}', "1.5 is no whole number"),
        ('{"background": 0, "a": true}', "True is no whole number"),
    ],
)
def test_names_that_would_replace_each_other_are_refused(tmp_path, content, message):
    folder = sets.nnunet(tmp_path / "n")
    described = json.loads((folder / "dataset.json").read_text()) | {"labels": "HERE"}
    (folder / "dataset.json").write_text(json.dumps(described).replace('"HERE"', content))
    with pytest.raises(DataError, match=message):
        open_source(folder)


def test_two_keys_of_one_number_are_refused(tmp_path):
    folder = redescribed(sets.decathlon(tmp_path / "d"), labels={"0": "background", "1": "a", "01": "b"})
    with pytest.raises(DataError, match="two of its keys are the same number"):
        open_source(folder)


def test_regions_that_differ_in_signs_alone_are_told(tmp_path):
    assert alike(["GTV+", "gtv-", "CTV"]) == [("GTV+", "gtv-")]
    folder = redescribed(sets.decathlon(tmp_path / "d"), labels={"0": "background", "1": "GTV+", "2": "GTV-"})
    assert any("GTV+ and GTV- differ only in signs" in one for one in check_folder(folder).fault_lines)


def test_a_sidecars_plan_with_two_regions_of_one_name_is_refused(tmp_path):
    plain = plan_to_json(plan_folder(sets.decathlon(tmp_path / "d", count=12)))
    assert plan_from_json(plain).regions == {"shell": (1,), "kernel": (2,)}
    plain["regions"][1][0] = "shell"
    with pytest.raises(ValueError, match="two of its regions are called alike"):
        plan_from_json(plain)


def test_cases_whose_names_are_one_file_name_have_prepared_files_of_their_own(tmp_path):
    folder = sets.nnunet(tmp_path / "n", channels=1)
    cases = {}
    for i, name in enumerate(("a b", "a-b", "a(b", "é" * 120)):
        image, label = sets.make(i)
        sets.save(folder / "i" / f"{i}.nii", image)
        sets.save(folder / "l" / f"{i}.nii", label)
        cases[name] = {"images": [f"i/{i}.nii"], "label": f"l/{i}.nii"}
    for path in folder.rglob("*.nii"):
        os.utime(path, (1, 1))  # as from an archive; and their sizes are equal
    plan = data.get_plan(str(redescribed(folder, dataset=cases)) + "#all")
    assert preprocessing.prepare_all(plan) == {}
    assert len(list(prepared_folder(plan).glob("*.npz"))) == 4
    images = [data.load_case(plan.where, "test", i).image for i in range(4)]
    assert len({image.tobytes() for image in images}) == 4
