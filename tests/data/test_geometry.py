"""A header that says twice where it lies: a rule, a warning, and units."""

import nibabel as nib
import numpy as np
import pytest

from benchbench import data
from benchbench.data.folder import open_source
from benchbench.data.geometry import geometry_of
from benchbench.data.validate import check_folder
from benchbench.data.volumes import load_volumes
from tests import data_sets as sets


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def header(*, sform=None, qform=None, pixdim=None, unit=2):
    found = nib.Nifti1Image(np.zeros((16, 18, 14), np.uint8), np.eye(4)).header
    found.set_sform(None if sform is None else sform, 0 if sform is None else 1)
    found.set_qform(np.eye(4) if qform is None else qform, 0 if qform is None else 1)
    if pixdim is not None:
        found["pixdim"][1:4] = pixdim
    found["xyzt_units"] = unit
    return found


SIDES = (1.5, 1.5, 8.0)
SCANNER = np.diag([*SIDES, 1.0])


def test_a_header_whose_forms_agree_is_as_nibabel_has_it():
    found = geometry_of(header(sform=sets.TILTED, qform=None, pixdim=np.linalg.norm(sets.TILTED[:3, :3], axis=0)))
    assert np.allclose(found.affine, sets.TILTED)
    assert (found.oddities, found.rescaled) == ((), False)


def test_a_sform_of_other_sides_than_pixdim_gives_way_to_the_qform():
    found = geometry_of(header(sform=np.eye(4), qform=SCANNER))
    assert np.allclose(found.spacing_mm, SIDES)
    assert found.rescaled
    assert "sform says 1x1x1 mm a voxel and its pixdim 1.5x1.5x8 mm: the qform" in found.oddities[0]


def test_without_a_qform_the_sform_stands_and_is_told():
    found = geometry_of(header(sform=np.eye(4), pixdim=SIDES))
    assert np.allclose(found.spacing_mm, 1)
    assert "the sform is taken" in found.oddities[0]


def test_without_a_sform_the_qform_counts_and_without_both_pixdim():
    assert np.allclose(geometry_of(header(qform=SCANNER)).spacing_mm, SIDES)
    bare = geometry_of(header(pixdim=SIDES))
    assert np.allclose(bare.spacing_mm, SIDES)
    assert bare.oddities == ()


def test_forms_that_turn_a_volume_differently_are_told():
    turned = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = geometry_of(header(sform=np.eye(4), qform=turned))
    assert np.allclose(found.affine, np.eye(4))
    assert "sform and its qform turn or place it differently" in found.oddities[0]


@pytest.mark.parametrize(("unit", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (3 + 8, 0.001)])
def test_units_are_heeded(unit, scale):
    size = 1.5 / scale
    where = sets.affine((size, size, size), (3 / scale, 0, 0))
    found = geometry_of(header(sform=where, qform=where, unit=unit))
    assert np.allclose(found.spacing_mm, 1.5)
    assert np.isclose(found.affine[0, 3], 3)
    assert bool(found.oddities) == (scale != 1)


def resaved(folder, part, change):
    for path in sorted((folder / part).iterdir()):
        image = nib.load(path)
        image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        change(image)
        nib.save(image, path)


def as_acdc(image):
    image.set_sform(np.eye(4), 1)
    image.set_qform(SCANNER, 1)


def test_check_warns_once_and_the_plan_has_the_patients_spacing(tmp_path):
    plain = data.get_plan(str(sets.decathlon(tmp_path / "plain" / "d", count=8))).key
    folder = sets.decathlon(tmp_path / "d", count=8)
    for part in ("imagesTr", "labelsTr"):
        resaved(folder, part, as_acdc)
    found = check_folder(folder)
    (line,) = found.fault_lines
    assert line.startswith("warn: case_000: its sform says")
    assert line.endswith("(8 cases)")
    plan = data.get_plan(str(folder))
    assert plan.spacing_mm == SIDES
    assert plan.key != plain
    assert np.allclose(np.linalg.norm(data.load_case(plan.where, "train", 0).affine[:3, :3], axis=0), SIDES)


def test_a_label_that_was_drawn_by_the_sform_still_lies_over_its_image(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=1)
    resaved(folder, "imagesTr", as_acdc)
    source = open_source(folder)
    volumes = load_volumes(source.cases[0], source.labels)
    assert np.allclose(volumes.affine, SCANNER)


def test_a_volume_in_micrometres_has_its_size_in_millimetres(tmp_path):
    folder = sets.decathlon(tmp_path / "d", count=8, where=sets.affine((500, 500, 500)))
    for part in ("imagesTr", "labelsTr"):
        resaved(folder, part, lambda image: image.header.set_xyzt_units("micron"))
    assert data.get_plan(str(folder)).spacing_mm == (0.5, 0.5, 0.5)
    (line,) = check_folder(folder).fault_lines
    assert line.startswith("warn: case_000: its unit is micrometres")
