"""Data sets of one's own: what each layout means, what can be wrong with files, and which case goes where."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from benchbench import data
from benchbench.core.errors import DataError, StoreError
from benchbench.data import splits
from benchbench.data.folder import plan_folder
from benchbench.data.layouts import open_source
from benchbench.data.plan import ALL
from benchbench.data.source import CaseFiles
from benchbench.data.validate import check_folder
from benchbench.data.volumes import load_volumes
from tests import data_sets as sets
from tests.shared_files import shared_file


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def first(folder):
    source = open_source(folder)
    return source.cases[0], source


def read(folder):
    case, source = first(folder)
    return load_volumes(case, source.labels)


# Layouts


def test_a_decathlon_task_of_one_channel(tmp_path):
    source = open_source(sets.decathlon(tmp_path / "Task99_Boxes"))
    assert (source.name, source.layout, source.channels) == ("Task99_Boxes", "decathlon", ("MR0",))
    assert source.regions == {"shell": (1,), "kernel": (2,)}
    assert source.exclusive
    assert [case.id for case in source.cases] == [f"case_{i:03d}" for i in range(6)]


def test_the_contrasts_of_a_decathlon_task_are_the_last_axis(tmp_path):
    case, source = first(sets.decathlon(tmp_path / "t", channels=3))
    volumes = load_volumes(case, source.labels)
    whole = nib.load(case.images[0].path).get_fdata()
    assert volumes.image.shape == (3, *sets.SIDES)
    assert np.allclose(volumes.image, np.moveaxis(whole, -1, 0))


def test_nnunet_has_a_file_for_each_channel_and_regions_that_overlap(tmp_path):
    source = open_source(sets.nnunet(tmp_path / "Dataset999_Boxes", regions=True))
    assert (source.layout, source.channels) == ("nnunet", ("MR0", "MR1"))
    assert source.regions == {"whole": (1, 2), "core": (2,)}
    assert not source.exclusive
    assert source.paint == (1, 2)
    assert [f.path.name for f in source.cases[0].images] == ["pat0_0000.nii.gz", "pat0_0001.nii.gz"]


def test_nnunet_without_regions_has_labels_that_exclude_each_other(tmp_path):
    assert open_source(sets.nnunet(tmp_path / "d")).exclusive


@pytest.mark.parametrize(
    ("names", "layout", "enhancing"),
    [
        (("BraTS2021_00000", "BraTS2021_00002"), "brats2021", 4),
        (("BraTS20_Training_001",), "brats2021", 4),
        (("BraTS-GLI-00000-000", "BraTS-GLI-00003-001"), "brats2023", 3),
        (("BraTS-GLI-02062-100",), "brats2024", 3),
    ],
)
def test_brats_by_year(tmp_path, names, layout, enhancing):
    source = open_source(sets.brats(tmp_path / "b", names))
    assert source.layout == layout
    assert source.channels == ("T1", "T1ce", "T2", "FLAIR")
    assert source.regions["et"] == (enhancing,)
    assert ("rc" in source.regions) == (layout == "brats2024")
    case = source.cases[0]
    ending = {"brats2021": "t1ce.nii.gz"}.get(layout, "t1c.nii.gz")
    assert case.images[1].path.name.endswith(ending)
    assert load_volumes(case, source.labels).label.max() == enhancing


def test_two_scans_of_a_patient_of_brats_are_one_subject(tmp_path):
    source = open_source(sets.brats(tmp_path / "b", ("BraTS-GLI-00003-000", "BraTS-GLI-00003-001")))
    assert {case.subject for case in source.cases} == {"BraTS-GLI-00003"}


def test_years_are_not_mixed(tmp_path):
    folder = sets.brats(tmp_path / "b", ("BraTS2021_00000", "BraTS-GLI-00000-000"))
    with pytest.raises(DataError, match="mixes brats2021 and brats2023, whose labels mean different things"):
        open_source(folder)


def test_a_label_map_is_painted_from_regions_the_smaller_over_the_larger(tmp_path):
    plan = plan_folder(sets.brats(tmp_path / "b", tuple(f"BraTS2021_{i:05d}" for i in range(12))))
    label = np.array([[[0, 1, 2, 4]]], np.uint8)
    assert (plan.to_label(plan.to_regions(label)) == label).all()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: None, "no such folder"),
        (lambda f: f.write_text(""), "it is a file"),
        (lambda f: f.mkdir(), "no dataset.json"),
        (lambda f: sets.decathlon(f / "inner"), "did you mean .*inner"),
        (lambda f: (f.mkdir(), (f / "dataset.json").write_text("{]")), "is not valid JSON"),
        (lambda f: (f.mkdir(), (f / "dataset.json").write_text("[1]")), "not an object"),
        (lambda f: (f.mkdir(), (f / "dataset.json").write_text('{"a": 1}')), "neither 'modality'"),
    ],
)
def test_what_is_no_data_set_is_told_why(tmp_path, prepare, message):
    folder = tmp_path / "d"
    prepare(folder)
    with pytest.raises(DataError, match=message):
        open_source(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"0": "background"}}, "nothing but background"),
        ({"training": []}, "no case"),
        ({"labels": None}, "no Decathlon description"),
        ({"training": [{"image": "../x.nii.gz", "label": "y.nii.gz"}]}, "lies outside of the data set"),
        ({"training": [{"image": "x.png", "label": "y.nii.gz"}]}, "no .nii or .nii.gz"),
    ],
)
def test_a_description_that_cannot_be(tmp_path, change, message):
    folder = sets.decathlon(tmp_path / "d", count=1)
    described = json.loads((folder / "dataset.json").read_text()) | change
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match=message):
        open_source(folder)


# Files


def replaced(folder, relative, voxels, where=None):
    sets.save(folder / relative, voxels, where)
    return first(folder)


IMAGE, LABEL = "imagesTr/case_000.nii.gz", "labelsTr/case_000.nii.gz"


@pytest.mark.parametrize(
    ("relative", "voxels", "where", "message"),
    [
        (LABEL, np.zeros((16, 18, 15), np.uint8), None, "case_000.nii.gz has 16x18x15 voxels and .* 16x18x14"),
        (LABEL, np.zeros(sets.SIDES, np.uint8), sets.affine(origin=(0, 0, 5)), "lie 5.0 mm apart"),
        (LABEL, np.full(sets.SIDES, 7, np.uint8), None, r"has the label 7, which .* \(it has 0, 1, 2\)"),
        (LABEL, np.full(sets.SIDES, 0.5, np.float32), None, "has the label 0.5"),
        (IMAGE, np.full(sets.SIDES, np.nan, np.float32), None, "100.00% of its voxels are NaN"),
        (IMAGE, np.zeros((16, 18), np.float32), None, "a 2-D file"),
        (IMAGE, np.zeros((4, 4, 4, 2, 2), np.float32), None, "a 5-D file"),
        (IMAGE, np.zeros((*sets.SIDES, 2), np.float32), None, "a 4-D file .* a 3-D one of one channel"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path, relative, voxels, where, message):
    case, source = replaced(sets.decathlon(tmp_path / "d", count=1), relative, voxels, where)
    with pytest.raises(DataError, match=message):
        load_volumes(case, source.labels)


def test_fewer_channels_than_the_description_names(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1, channels=3)
    case, source = replaced(folder, IMAGE, np.zeros((*sets.SIDES, 2), np.float32))
    with pytest.raises(DataError, match="has 2 channels, and 3 are expected"):
        load_volumes(case, source.labels)


def test_a_missing_file(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1)
    (folder / LABEL).unlink()
    with pytest.raises(DataError, match=r"labelsTr/case_000\.nii\.gz is missing"):
        read(folder)


@pytest.mark.parametrize("kept", [0, 60, 0.5])
def test_a_truncated_file(tmp_path, kept):
    folder = sets.decathlon(tmp_path / "d", count=1)
    content = (folder / IMAGE).read_bytes()
    (folder / IMAGE).write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(DataError, match="cannot be read"):
        read(folder)


def test_a_file_that_is_no_image(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1)
    (folder / IMAGE).write_bytes(gzip.compress(b"not an image" * 100))
    with pytest.raises(DataError, match="cannot be read"):
        read(folder)


# Check


def test_a_whole_data_set_has_no_fault(tmp_path):
    found = check_folder(sets.decathlon(tmp_path / "d"))
    assert found.ok
    assert found.fault_lines == []
    facts = found.summary()
    assert facts["cases"] == "6 of 6 patients, 6 can be read"
    assert "2 kernel (in 6 of 6)" in facts["labels"]


def test_each_fault_is_told_and_the_others_are_still_found(tmp_path):
    folder = sets.decathlon(tmp_path / "d")
    (folder / "imagesTr/case_001.nii.gz").unlink()
    sets.save(folder / "labelsTr/case_002.nii.gz", np.zeros(sets.SIDES, np.uint8))
    (folder / "imagesTr/case_004.nii.gz").write_bytes((folder / "imagesTr/case_003.nii.gz").read_bytes())
    sets.save(folder / "imagesTr/stray.nii.gz", np.zeros(sets.SIDES, np.float32))
    found = check_folder(folder)
    lines = found.fault_lines
    assert not found.ok
    assert any("fail: case_001" in line and "is missing" in line for line in lines)
    assert any("fail: case_004: has the same voxels as case_003" in line for line in lines)
    assert any("warn: case_002: its label map is all background" in line for line in lines)
    assert any("stray.nii.gz, which no case uses" in line for line in lines)
    assert len(found.facts) == 5


def test_a_label_that_nobody_has_is_told(tmp_path):
    folder = sets.decathlon(tmp_path / "d", values=(1, 1))
    assert any("no case has the label 2 (kernel)" in line for line in check_folder(folder).fault_lines)


# Splits


def people(*names, scans=1):
    return [
        CaseFiles(id=f"{name}-{scan}", subject=name, images=(), label=None) for name in names for scan in range(scans)
    ]


def test_a_case_keeps_its_part_whatever_is_added_or_missing():
    few = people(*(f"p{i}" for i in range(60)))
    many = people(*(f"p{i}" for i in range(300)))
    small, large = splits.split(few), splits.split(many)
    for part in ("train", "val", "test"):
        assert set(small[part]) == {case.id for case in few} & set(large[part])


def test_the_folds_share_the_cases_out_and_no_patient_is_in_two_parts():
    cases = people(*(f"p{i}" for i in range(200)), scans=2)
    tests = [set(splits.split(cases, fold)["test"]) for fold in range(splits.FOLDS)]
    assert set().union(*tests) == {case.id for case in cases}
    assert sum(map(len, tests)) == len(cases)
    for fold in range(splits.FOLDS):
        parts = splits.split(cases, fold)
        subjects = [{c.rpartition("-")[0] for c in ids} for ids in parts.values()]
        assert not subjects[0] & subjects[1]
        assert not (subjects[0] | subjects[1]) & subjects[2]
        assert 25 <= len(subjects[2]) <= 55


def test_with_few_patients_one_is_still_watched():
    parts = splits.split(people("a", "b", "c", "d"), 0, listed=[{"train": ["a-0", "b-0", "c-0"], "val": ["d-0"]}])
    assert (len(parts["train"]), len(parts["val"]), parts["test"]) == (2, 1, ("d-0",))


def test_nnunets_list_counts_and_what_is_written_is_read_back(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=12)
    before = plan_folder(folder)
    path = splits.write_list(open_source(folder), folder)
    folds = json.loads(path.read_text())
    assert len(folds) == 5
    assert all(sorted(fold["train"] + fold["val"]) == [f"case_{i:03d}" for i in range(12)] for fold in folds)
    assert plan_folder(folder).ids == before.ids
    folds[0] = {"train": [f"case_{i:03d}" for i in range(10)], "val": ["case_010"]}
    path.write_text(json.dumps(folds))
    again = plan_folder(folder)
    assert again.ids["test"] == ("case_010",)
    assert "case_011" not in [c for ids in again.ids.values() for c in ids]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "must be a list of folds"),
        ([{"train": ["a-0"]}], "must be a list of folds"),
        ([{"train": ["z-0"], "val": []}], "names 'z-0', which the data set does not have"),
        ([{"train": ["a-0"], "val": ["a-0"]}], "has 'a-0' in 'train' and in 'val'"),
        ([{"train": ["a-0"], "val": ["a-1"]}], "parts the scans of one patient, 'a'"),
    ],
)
def test_a_list_that_is_not_of_these_cases(listed, message):
    with pytest.raises(DataError, match=message):
        splits.split(people("a", "b", scans=2), 0, listed=listed)


def test_a_fold_without_a_case_says_what_to_do(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=2)
    empty = next(f for f in range(5) if not splits.split(open_source(folder).cases, f)["test"])
    with pytest.raises(DataError, match=r"has no test case .* take another --fold"):
        plan_folder(folder, fold=empty)


# Plans


def test_a_plan_is_found_by_its_folder_and_by_what_it_says_itself(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = data.get_plan(str(folder), fold=2)
    assert data.get_plan(plan.where) == plan
    assert plan.key.startswith("Task99_Boxes:")
    assert plan.key.endswith(":fold2")
    assert (plan.in_channels, plan.out_channels) == (1, 3)  # the background is a channel of the softmax
    assert plan.patch == (16, 24, 16)


def test_equal_data_elsewhere_have_the_same_key_and_other_data_another(tmp_path):
    one, two, other = (sets.decathlon(tmp_path / str(i) / "T", count=12 + (i == 2)) for i in range(3))
    keys = [plan_folder(folder).key for folder in (one, two, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_slice_much_thicker_than_the_rest_gets_a_finer_target(tmp_path):
    folder = tmp_path / "d"
    sets.decathlon(folder, count=10, sides=(40, 40, 10), where=sets.affine((1, 1, 5)))
    for i in (0, 1):
        image, label = sets.make(i, sides=(40, 40, 12))
        sets.save(folder / f"imagesTr/case_{i:03d}.nii.gz", image, sets.affine((1, 1, 3)))
        sets.save(folder / f"labelsTr/case_{i:03d}.nii.gz", label, sets.affine((1, 1, 3)))
    plan = plan_folder(folder)
    assert plan.preparation.resample
    assert plan.spacing_mm[:2] == (1, 1)
    assert 3 <= plan.spacing_mm[2] < 5


def test_the_hippocampus_has_the_plan_that_is_written_down():
    plan = plan_folder(shared_file("data/Task04_Hippocampus"))
    assert plan.splits == {"train": 144, "val": 12, "test": 44}
    assert (plan.sides, plan.patch) == ((35, 50, 36), (40, 56, 40))
    assert not plan.preparation.resample
    assert not plan.preparation.foreground


def test_the_patients_of_brats_2013_by_their_regions():
    plan = plan_folder(shared_file("data/Dataset013_BraTS2013"))
    assert list(plan.regions) == ["whole tumor", "tumor core", "enhancing tumor"]
    assert plan.paint == (2, 1, 4)
    assert plan.empty_rule == "brats"
    assert plan.preparation.foreground
    assert plan.patch == (128, 128, 128)
    assert (plan.in_channels, plan.out_channels) == (2, 3)


def test_of_a_folder_that_no_network_has_seen_every_case_is_a_test(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=6)
    plan = data.get_plan(str(folder), fold=ALL)
    assert plan.splits == {"train": 0, "val": 0, "test": 6}
    assert plan.key == data.get_plan(str(folder)).key + ":all"
    assert data.get_plan(plan.where) == plan
    assert data.load_case(plan.where, "test", 5).id == "case_005"


def test_a_damaged_header_and_a_coloured_image_are_one_line(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1)
    header = bytearray(gzip.decompress((folder / IMAGE).read_bytes()))
    for at in (40, 70):  # the number of axes, and the type of a voxel
        broken = header.copy()
        broken[at : at + 2] = (9999).to_bytes(2, "little")
        (folder / IMAGE).write_bytes(gzip.compress(bytes(broken)))
        with pytest.raises(DataError, match="cannot be read"):
            read(folder)
    colours = np.zeros(sets.SIDES, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    sets.save(folder / IMAGE, colours)
    with pytest.raises(DataError, match="such as a colour"):
        read(folder)


def test_more_channels_than_are_described_are_not_passed_over(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1, channels=3)
    case, source = replaced(folder, IMAGE, np.zeros((*sets.SIDES, 5), np.float32))
    with pytest.raises(DataError, match="has 5 channels, and 3 are expected"):
        load_volumes(case, source.labels)


def test_a_list_of_its_own_changes_the_name_of_the_data(tmp_path):
    """Weights and rows of one split must not be taken for those of another."""
    folder = sets.decathlon(tmp_path / "d", count=6)
    by_hash = data.get_plan(str(folder))
    ids = [f"case_{i:03d}" for i in range(6)]
    (folder / splits.SPLITS_FILE).write_text(json.dumps([{"train": ids[:4], "val": ids[4:]}]))
    listed = data.get_plan(str(folder))
    assert listed.ids["test"] == tuple(ids[4:])
    assert listed.key.startswith(f"{by_hash.key}:list")
    (folder / splits.SPLITS_FILE).write_text(json.dumps([{"train": ids[1:], "val": ids[:1]}]))
    assert data.get_plan(str(folder)).key not in (listed.key, by_hash.key)


def test_every_fold_of_a_list_is_checked(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=4)
    ids = [f"case_{i:03d}" for i in range(4)]
    folds = [{"train": ids[:3], "val": ids[3:]}, {"train": ids, "val": ids[:1]}]
    (folder / splits.SPLITS_FILE).write_text(json.dumps(folds))
    lines = check_folder(folder).fault_lines
    assert any("in 'train' and in 'val' of fold 1" in line for line in lines)


def test_a_list_that_says_something_else_is_not_overwritten(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=4)
    (tmp_path / splits.SPLITS_FILE).write_text("[]")
    with pytest.raises(StoreError, match="is there already and was not written by this command"):
        splits.write_list(open_source(folder), tmp_path)
    assert (tmp_path / splits.SPLITS_FILE).read_text() == "[]"


def test_scans_of_a_patient_of_brats_stay_together_in_every_layout(tmp_path):
    folder = sets.nnunet(tmp_path / "n", count=4)
    for i, (old, new) in enumerate(((0, "00007-000"), (1, "00007-001"))):
        for c in range(2):
            (folder / f"imagesTr/pat{old}_{c:04d}.nii.gz").rename(folder / f"imagesTr/BraTS-GLI-{new}_{c:04d}.nii.gz")
        (folder / f"labelsTr/pat{i}.nii.gz").rename(folder / f"labelsTr/BraTS-GLI-{new}.nii.gz")
    subjects = {case.id: case.subject for case in open_source(folder).cases}
    assert subjects["BraTS-GLI-00007-000"] == subjects["BraTS-GLI-00007-001"] == "BraTS-GLI-00007"


def test_the_median_patient_is_what_the_crop_leaves(tmp_path):
    """Skull-stripped heads: three slices of air on one side, and two on another."""
    folder = sets.brats(tmp_path / "b", tuple(f"BraTS2021_{i:05d}" for i in range(12)))
    plan = plan_folder(folder)
    assert plan.preparation.foreground
    assert plan.sides == (sets.SIDES[0] - 3, sets.SIDES[1] - 2, sets.SIDES[2])


def test_the_rule_for_empty_regions_can_be_chosen_and_is_part_of_the_name(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=24)
    usual = data.get_plan(str(folder))
    assert usual.empty_rule == "exclude"
    other = data.get_plan(str(folder), rule="brats")
    assert (other.empty_rule, other.key, other.weights_key) == ("brats", f"{usual.key}:brats", usual.key)
    assert data.get_plan(other.where) == other
    assert data.get_plan(f"{folder}#2+brats").fold == 2
    assert data.get_plan(str(folder), rule="exclude") == usual
    with pytest.raises(DataError, match="evaluated with the rule brats only"):
        data.get_plan("phantom", rule="exclude")
