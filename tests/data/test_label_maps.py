"""Label maps of other programs: found by the name of their case, refused by name where they cannot be compared."""

import logging
import shutil

import nibabel as nib
import numpy as np
import pytest

from benchbench.core.errors import DataError
from benchbench.data import get_plan
from benchbench.data.folder import plan_folder
from benchbench.data.label_maps import find_label_maps
from tests import data_sets as sets


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def boxes(tmp_path):
    return sets.decathlon(tmp_path / "Task99_Boxes", count=24)


def copied(folder, plan, to, *, name="{}.nii.gz", split="test"):
    """The labels of a split as if a program had predicted them, without a fault."""
    to.mkdir(parents=True, exist_ok=True)
    for case in plan.ids[split]:
        shutil.copy(folder / f"labelsTr/{case}.nii.gz", to / name.format(case))
    return to


@pytest.mark.parametrize("name", ["{}.nii.gz", "{}_0000.nii.gz", "{}.nii", "{}.mgz", "{}.NII.GZ"])
def test_a_file_is_known_by_its_case_in_any_format_and_as_nnunet_names_it(boxes, tmp_path, name):
    plan = plan_folder(boxes)
    to = tmp_path / "seg"
    to.mkdir()
    for case in plan.ids["test"]:
        label = nib.load(boxes / f"labelsTr/{case}.nii.gz")
        kind = nib.MGHImage if name.endswith("mgz") else nib.Nifti1Image
        nib.save(kind(np.asarray(label.dataobj), label.affine), to / name.format(case).lower())
        (to / name.format(case).lower()).rename(to / name.format(case))
    (to / "plans.json").write_text("{}")
    (to / ".hidden.nii.gz").write_bytes(b"")
    found = find_label_maps(to, plan, "test")
    assert {case: path.name for case, path in found.files.items()} == {
        case: name.format(case) for case in plan.ids["test"]
    }
    assert (found.missing, found.extra, found.elsewhere) == ((), (), ())


def test_a_label_file_of_the_data_set_names_its_case_too(tmp_path):
    folder = sets.brats(tmp_path / "b", [f"BraTS2021_{i:05d}" for i in range(12)])
    plan = plan_folder(folder)
    to = tmp_path / "seg"
    to.mkdir()
    for case in plan.ids["test"]:
        shutil.copy(folder / case / f"{case}_seg.nii.gz", to)
    assert list(find_label_maps(to, plan, "test").files) == list(plan.ids["test"])


def test_a_case_without_a_label_map_is_named_and_ends_it_unless_that_is_allowed(boxes, tmp_path, caplog):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    gone, *rest = plan.ids["test"]
    (to / f"{gone}.nii.gz").unlink()
    count = len(plan.ids["test"])
    with pytest.raises(
        DataError, match=rf"no label map of 1 of the {count} test cases .*: {gone}; add them, or --allow"
    ):
        find_label_maps(to, plan, "test")
    found = find_label_maps(to, plan, "test", allow_missing=True)
    assert (list(found.files), found.missing) == (rest, (gone,))
    assert f"metrics are of {count - 1}" in caplog.text


def test_files_that_are_not_asked_for_are_named_and_passed_over(boxes, tmp_path, caplog):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    copied(boxes, plan, to, split="val")
    shutil.copy(boxes / "labelsTr/case_000.nii.gz", to / "somebody.nii.gz")
    with caplog.at_level(logging.WARNING):
        found = find_label_maps(to, plan, "test")
    assert found.extra == ("somebody.nii.gz",)
    assert found.elsewhere == plan.ids["val"]
    assert "1 file of no case of Task99_Boxes: somebody.nii.gz" in caplog.text
    assert f"not of the split 'test': {len(plan.ids['val'])} label map" in caplog.text


def test_two_files_for_one_case_are_refused(boxes, tmp_path):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    copied(boxes, plan, to, name="{}_0000.nii.gz")
    with pytest.raises(
        DataError, match=r"two label maps of case_\d+: case_\d+.nii.gz and case_\d+_0000.nii.gz; remove"
    ):
        find_label_maps(to, plan, "test")


def test_a_case_whose_name_ends_like_a_channel_keeps_its_file(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Odd", count=24)
    described = (folder / "dataset.json").read_text().replace("case_023.nii", "case_000_0000.nii")
    (folder / "dataset.json").write_text(described)
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "case_023.nii.gz").rename(folder / part / "case_000_0000.nii.gz")
    plan = plan_folder(folder, fold=-1)
    to = copied(folder, plan, tmp_path / "seg")
    found = find_label_maps(to, plan, "test")
    assert found.files["case_000_0000"].name == "case_000_0000.nii.gz"
    assert found.files["case_000"].name == "case_000.nii.gz"


def test_another_shape_is_named_with_both(boxes, tmp_path):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    odd = plan.ids["test"][1]
    sets.save(to / f"{odd}.nii.gz", np.zeros((16, 18, 13), np.uint8))
    with pytest.raises(DataError, match=rf"^{odd}.nii.gz has 16x18x13 voxels and {odd}.nii.gz 16x18x14: .*seg"):
        find_label_maps(to, plan, "test")


def test_another_place_is_named_with_both_and_how_many_have_it(boxes, tmp_path):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    for case in plan.ids["test"][:2]:
        moved = sets.affine((1, 1, 1.5), (0, 2, 0))
        sets.save(to / f"{case}.nii.gz", np.zeros(sets.SIDES, np.uint8), moved)
    with pytest.raises(DataError) as caught:
        find_label_maps(to, plan, "test")
    said = str(caught.value)
    assert "RAS, 1x1x1.5 mm from (0, 2, 0)" in said
    assert "RAS, 1x1x1 mm from (0, 0, 0)" in said
    assert f"(2 of its {len(plan.ids['test'])} label maps have such a fault)" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "no label maps at .*: no such folder"),
        (lambda path: path.write_bytes(b""), "a file: give the folder that it lies in"),
        (lambda path: path.mkdir(), r"no label map of the \d+ test cases of Task99_Boxes; cases are called case_"),
    ],
)
def test_a_folder_that_holds_none_is_refused(boxes, tmp_path, make, why):
    make(tmp_path / "seg")
    with pytest.raises(DataError, match=why):
        find_label_maps(tmp_path / "seg", plan_folder(boxes), "test")


def test_files_named_otherwise_are_shown_beside_the_cases(boxes, tmp_path):
    sets.save(tmp_path / "seg/pred-1.nii.gz", np.zeros(sets.SIDES, np.uint8))
    with pytest.raises(DataError, match=r"its files are called pred-1.nii.gz; cases are called case_"):
        find_label_maps(tmp_path / "seg", plan_folder(boxes), "test")


def test_the_phantom_has_no_files_to_match(tmp_path):
    with pytest.raises(DataError, match="phantom has no files"):
        find_label_maps(tmp_path, get_plan("phantom"), "test")


def test_a_damaged_label_map_is_named(boxes, tmp_path):
    plan = plan_folder(boxes)
    to = copied(boxes, plan, tmp_path / "seg")
    (to / f"{plan.ids['test'][0]}.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"seg/case_\d+.nii.gz cannot be read"):
        find_label_maps(to, plan, "test")
