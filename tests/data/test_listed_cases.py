"""Which cases a folder has: by whatever names and paths they are listed, and none that is lost without a word."""

import gzip
import hashlib
import json
import shutil
import struct
import tarfile

import pytest
from monai.apps import DecathlonDataset

from benchbench import data
from benchbench.core.errors import DataError
from benchbench.data import download as data_download
from benchbench.data.folder import plan_folder
from benchbench.data.layouts import open_source
from benchbench.data.validate import check_folder
from benchbench.report import conditions
from benchbench.zoo import places
from tests import data_sets as sets


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def redescribed(folder, change):
    described = json.loads((folder / "dataset.json").read_text())
    change(described)
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def renamed(folder, change):
    for path in [*folder.glob("imagesTr/*"), *folder.glob("labelsTr/*")]:
        path.rename(path.with_name(change(path)))
    return folder


def checked(folder):
    found = check_folder(folder)
    return len(found.facts), found.fault_lines


# Ways to name a file


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunet_v1_lists_a_case_and_has_a_file_for_each_contrast(tmp_path, channels):
    folder = sets.nnunet(tmp_path / "n", count=3, channels=channels)

    def as_v1(described):
        names = described.pop("channel_names")
        described.update(modality=names, labels={"0": "background", "1": "shell", "2": "kernel"})
        described["training"] = [
            {"image": f"./imagesTr/pat{i}.nii.gz", "label": f"./labelsTr/pat{i}.nii.gz"} for i in range(3)
        ]
        described["numTraining"] = 3

    redescribed(folder, as_v1)
    source = open_source(folder)
    assert (source.layout, [case.id for case in source.cases]) == ("nnunet-v1", ["pat0", "pat1", "pat2"])
    assert [len(case.images) for case in source.cases] == [channels] * 3
    assert checked(folder) == (3, [])


@pytest.mark.parametrize("how", ["absolute", "linked", "backslash", "dots"])
def test_a_path_into_the_folder_is_taken_however_it_is_written(tmp_path, how):
    folder = sets.decathlon(tmp_path / "d", count=2)
    (tmp_path / "link").symlink_to(folder)
    spelled = {
        "absolute": lambda text: str((folder / text).resolve()),
        "linked": lambda text: str(tmp_path / "link" / text[2:]),
        "backslash": lambda text: text[2:].replace("/", "\\"),
        "dots": lambda text: f"./imagesTr/../{text[2:]}",
    }[how]

    def change(described):
        described["training"] = [{k: spelled(v) for k, v in one.items()} for one in described["training"]]

    before = open_source(folder).cases
    assert open_source(redescribed(folder, change)).cases == before
    assert len(open_source(tmp_path / "link").cases) == 2


def test_a_list_of_files_is_one_a_contrast(tmp_path):
    folder = sets.nnunet(tmp_path / "n", count=2)

    def change(described):
        described["modality"] = described.pop("channel_names")
        described["labels"] = {"1": "shell", "2": "kernel"}
        described["numTraining"] = 2
        described["training"] = [
            {"image": [f"imagesTr/pat{i}_{c:04d}.nii.gz" for c in range(2)], "label": f"labelsTr/pat{i}.nii.gz"}
            for i in range(2)
        ]

    assert checked(redescribed(folder, change)) == (2, [])
    assert [case.id for case in open_source(folder).cases] == ["pat0", "pat1"]


@pytest.mark.parametrize("made", [sets.nnunet, sets.decathlon])
def test_another_ending_is_read_and_told(tmp_path, made):
    folder = renamed(made(tmp_path / "d", count=3), lambda path: path.name.replace(".nii.gz", ".NII.GZ"))
    read, lines = checked(folder)
    assert read == 3
    assert len(lines) == 1
    assert "have another ending than the description says, such as" in lines[0]


def test_a_trailing_axis_of_one_is_none(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=2)
    for part, values in zip(("imagesTr", "labelsTr"), sets.make(5), strict=True):
        sets.save(folder / part / "case_000.nii.gz", values[..., None])
    assert checked(folder) == (2, [])


# Cases of one name, and cases that would vanish


def test_one_file_name_in_many_folders_is_many_cases(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=4)
    training = []
    for i in range(4):
        for part in ("imagesTr", "labelsTr"):
            to = folder / part / f"pat{i}" / "t1.nii.gz"
            to.parent.mkdir()
            (folder / part / f"case_{i:03d}.nii.gz").rename(to)
        training.append({"image": f"imagesTr/pat{i}/t1.nii.gz", "label": f"labelsTr/pat{i}/t1.nii.gz"})
    redescribed(folder, lambda described: described.update(training=training))
    plan = data.get_plan(str(folder) + "#all")
    assert plan.ids["test"] == tuple(f"pat{i}/t1" for i in range(4))
    assert len({data.load_case(plan.where, "test", i).image.tobytes() for i in range(4)}) == 4


def test_an_image_that_is_listed_twice_counts_once(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=2)
    redescribed(folder, lambda described: described["training"].append(described["training"][0]))
    read, lines = checked(folder)
    assert read == 2
    assert any("fail: case_000: its image is listed again" in line for line in lines)


def test_numtraining_that_disagrees_is_told(tmp_path):
    for made in (sets.decathlon, sets.nnunet):
        folder = redescribed(made(tmp_path / made.__name__, count=3), lambda d: d.update(numTraining=5))
        assert checked(folder) == (3, ["warn: numTraining is 5, but there are 3 cases"])


def test_a_label_without_its_image_and_an_image_without_its_first_channel_are_named(tmp_path):
    folder = sets.nnunet(tmp_path / "n", count=4)
    for c in range(2):
        (folder / f"imagesTr/pat1_{c:04d}.nii.gz").unlink()
    (folder / "imagesTr/pat2_0000.nii.gz").unlink()
    read, lines = checked(folder)
    assert read == 2
    assert "fail: pat1: labelsTr has its label, but imagesTr has no pat1_0000.nii.gz" in lines
    assert "fail: pat2: imagesTr has pat2_0001, but no pat2_0000.nii.gz" in lines


@pytest.mark.parametrize(
    "item", [{"images": [], "label": "x.nii"}, {"images": "a.nii.gz"}, [], {"images": [3, 4], "label": "x"}]
)
def test_one_case_that_cannot_be_is_not_the_end_of_the_others(tmp_path, item):
    folder = sets.nnunet(tmp_path / "n", count=2)

    def change(described):
        described["dataset"] = {
            f"pat{i}": {
                "images": [f"imagesTr/pat{i}_{c:04d}.nii.gz" for c in range(2)],
                "label": f"labelsTr/pat{i}.nii.gz",
            }
            for i in range(2)
        } | {"odd": item}
        described["numTraining"] = 3

    read, lines = checked(redescribed(folder, change))
    assert read == 2
    assert [line for line in lines if line.startswith("fail: odd: ")]


def test_a_split_that_leaves_cases_out_is_told(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=3)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_001"]}]))
    assert any("leaves out 1 cases, such as case_002" in line for line in checked(folder)[1])


def test_a_header_that_claims_more_than_its_file_is_a_fault_before_memory_is_taken(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=2)
    content = bytearray(gzip.decompress((folder / "imagesTr/case_000.nii.gz").read_bytes()))
    struct.pack_into("<4h", content, 40, 3, 32767, 32767, 32767)
    (folder / "imagesTr/case_000.nii.gz").write_bytes(gzip.compress(bytes(content)))
    read, lines = checked(folder)
    assert read == 1
    assert any("its header says 32767x32767x32767 voxels" in line for line in lines)


# Names of folders


@pytest.mark.parametrize("name", ["set #2", "#1", "a#b#all", "x#0"])
def test_a_folder_may_have_the_sign_of_a_fold_in_its_name(tmp_path, name):
    folder = sets.decathlon(tmp_path / name, count=24)
    for fold in (0, 1, 2, data.ALL):
        plan = data.get_plan(str(folder), fold=fold)
        assert data.get_plan(plan.where) == plan


def test_a_folder_called_as_another_ones_fold_is_not_taken_for_it(tmp_path):
    one, other = (sets.decathlon(tmp_path / name, count=24) for name in ("x", "x#1"))
    plan = data.get_plan(str(one), fold=1)
    assert data.get_plan(plan.where) == plan
    assert data.get_plan(str(other)).folder == other


def test_a_folder_called_phantom_holds_real_patients(tmp_path):
    plan = plan_folder(sets.decathlon(tmp_path / "phantom", count=12))
    assert not plan.semi_synthetic
    assert not conditions.is_semi_synthetic(plan.key)
    assert conditions.is_semi_synthetic(data.get_plan("phantom").key)
    assert not plan.is_named_by("phantom")
    assert not data.get_plan("phantom").is_named_by(plan.key)
    assert plan.is_named_by("phantom:0123abcd")


def test_errors_of_a_data_set_are_not_wrapped_in_each_other(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1)
    redescribed(folder, lambda described: described["training"][0].update(image="../x.nii.gz"))
    with pytest.raises(DataError) as caught:
        open_source(folder)
    assert "DataError(" not in str(caught.value)


# Archives


@pytest.mark.parametrize(
    ("kind", "name", "link"),
    [
        (tarfile.CHRTYPE, "Task04_Hippocampus/null", ""),
        (tarfile.FIFOTYPE, "Task04_Hippocampus/pipe", ""),
        (tarfile.SYMTYPE, "Task04_Hippocampus/out", "/etc"),
        (tarfile.LNKTYPE, "Task04_Hippocampus/out", "../../x"),
        (tarfile.REGTYPE, "/tmp/absolute", ""),
        (tarfile.REGTYPE, "../outside", ""),
    ],
)
def test_an_archive_with_more_than_files_and_folders_is_not_unpacked(tmp_path, monkeypatch, kind, name, link):
    sets.decathlon(tmp_path / "made", count=1)
    archive = tmp_path / "served.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "made", "Task04_Hippocampus")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    monkeypatch.setitem(DecathlonDataset.resource, "Task04_Hippocampus", archive.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="is no file or folder in it; nothing is unpacked") as caught:
        data_download.fetch("msd:Task04", tmp_path / "to")
    assert "cannot get" not in str(caught.value)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["Task04_Hippocampus.tar"]


# BraTS


@pytest.mark.parametrize(
    ("place", "case", "layout", "labels", "regions"),
    [
        (
            "BraTS2023-PED",
            "BraTS-PED-00001-000",
            "brats-ped2023",
            "NC ED ET",
            {"tc": (1, 3), "wt": (1, 2, 3), "et": (3,)},
        ),
        ("d", "BraTS-PED-00001-000", "brats-ped2024", "ET NET CC ED", None),
        ("d", "BraTS-MEN-00001-000", "brats-men", "NETC SNFH ET", None),
        ("d", "BraTS-MET-00001-000", "brats-met", "NETC SNFH ET", None),
        ("BraTS2025-MET", "BraTS-MET-00001-000", "brats-met2025", "NETC SNFH ET RC", None),
        ("d", "BraTS-SSA-00001-000", "brats2023", "NCR ED ET", None),
        ("d", "BraTS-GoAT-00001", "brats2023", "NCR ED ET", None),
        ("d", "Brats17_TCIA_138_1", "brats2021", "NCR ED ET", None),
        ("d", "BraTS19_CBICA_AAB_1", "brats2021", "NCR ED ET", None),
    ],
)
def test_what_a_label_of_brats_means_follows_from_the_challenge(tmp_path, place, case, layout, labels, regions):
    source = open_source(sets.brats(tmp_path / place, (case,)))
    assert source.layout == layout
    assert list(source.labels.values())[1:] == labels.split()
    assert source.regions == (regions or source.regions)
    et = {"brats2021": 4, "brats-ped2024": 1}.get(layout, 3)
    assert source.regions["et"] == (et,)
    assert source.labels[et] == "ET"


def test_a_challenge_that_is_not_known_is_refused(tmp_path):
    for case in ("BraTS-MEN-RT-0000-1", "BraTS-XYZ-00000-000"):
        with pytest.raises(DataError, match=r"challenge [A-Z-]+ are not supported"):
            open_source(sets.brats(tmp_path / case, (case,)))
    with pytest.raises(DataError, match="mixes brats-men and brats2023"):
        open_source(sets.brats(tmp_path / "mixed", ("BraTS-MEN-00000-000", "BraTS-GLI-00000-000")))


def test_the_grades_of_brats_up_to_2019_are_folders_of_one_data_set(tmp_path):
    folder = sets.brats(tmp_path / "outer/MICCAI_BraTS_2018/HGG", ("Brats18_CBICA_AAB_1", "Brats18_2013_2_1")).parent
    sets.brats(folder / "LGG", ("Brats18_TCIA09_141_1",))
    assert [case.id for case in open_source(folder).cases] == [
        "Brats18_2013_2_1",
        "Brats18_CBICA_AAB_1",
        "Brats18_TCIA09_141_1",
    ]
    with pytest.raises(DataError, match=r"did you mean .*MICCAI_BraTS_2018"):
        open_source(folder.parent)


def test_a_case_of_brats_without_its_segmentation_is_named(tmp_path):
    folder = sets.brats(tmp_path / "b", ("BraTS20_Training_354", "BraTS20_Training_355"))
    case = folder / "BraTS20_Training_355"
    (case / "BraTS20_Training_355_seg.nii.gz").rename(case / "W39_1998.09.19_Segm.nii.gz")
    shutil.copytree(case, folder / "copy")
    read, lines = checked(folder)
    assert read == 1
    assert any(line.startswith("fail: BraTS20_Training_355: it has no") and "W39_1998" in line for line in lines)
    assert "warn: its folder copy is not named like a case, and is left out" in lines


def test_weights_of_the_phantom_are_not_those_of_a_folder_of_that_name(tmp_path):
    plan = plan_folder(sets.decathlon(tmp_path / "phantom", count=12, channels=4))
    assert places.find("slim_unetr", 4, 3, (128, 128, 128), data.get_plan("phantom")) is not None
    assert places.find("slim_unetr", 4, 3, (128, 128, 128), plan) is None
