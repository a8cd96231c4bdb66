"""The phantom: deterministic, like BraTS in form, and not to be had one voxel at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchbench import data
from benchbench.core.errors import DataError
from benchbench.data import phantom

COARSE = phantom.Settings(spacing_mm=6)
HASH_CODE = """
import hashlib
from benchbench.data import phantom
case = phantom.load_case("train", 3, phantom.Settings(spacing_mm=6))
print(hashlib.sha256(case.image.tobytes() + case.label.tobytes()).hexdigest())
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def case() -> data.Case:
    return phantom.make_case("train", 0)


def digest(case: data.Case) -> str:
    return hashlib.sha256(case.image.tobytes() + case.label.tobytes()).hexdigest()


def start_process(cache: Path, threads: str) -> subprocess.Popen[str]:
    environment = os.environ | {"BENCHBENCH_CACHE": str(cache), "OMP_NUM_THREADS": threads}
    return subprocess.Popen([sys.executable, "-c", HASH_CODE], env=environment, stdout=subprocess.PIPE, text=True)


def test_processes_that_make_one_case_at_once_agree_and_leave_a_whole_cache(own_cache: Path) -> None:
    running = [start_process(own_cache, threads) for threads in ("1", "2")]
    hashes = {process.communicate(timeout=120)[0].strip() for process in running}
    assert hashes == {digest(phantom.make_case("train", 3, COARSE))}
    assert [file.name for file in own_cache.rglob("*") if file.is_file()] == ["train-003.npz"]
    assert digest(phantom.load_case("train", 3, COARSE)) in hashes


def test_cached_case_is_the_made_case_to_the_bit() -> None:
    made = phantom.make_case("val", 1, COARSE)
    first, second = phantom.load_case("val", 1, COARSE), phantom.load_case("val", 1, COARSE)
    assert digest(made) == digest(first) == digest(second)
    assert np.array_equal(made.affine, second.affine)
    assert made.id == second.id == "phantom-val-001"


def test_second_load_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.load_case("test", 0, COARSE)
    monkeypatch.setattr(phantom, "make_case", lambda *_: pytest.fail("made again"))
    phantom.load_case("test", 0, COARSE)


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_truncated_cache_file_is_made_again(own_cache: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = phantom.load_case("test", 0, COARSE)
    (file,) = own_cache.rglob("*.npz")
    size = file.stat().st_size
    os.truncate(file, keep)
    again = phantom.load_case("test", 0, COARSE)
    assert digest(again) == digest(whole)
    assert file.stat().st_size == size
    assert "made again" in caplog.text


def test_unwritable_cache_is_said_and_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        found = phantom.load_case("test", 0, COARSE)
    assert digest(found) == digest(phantom.make_case("test", 0, COARSE))
    assert "no cache at" in caplog.text


def test_settings_and_seed_have_caches_of_their_own() -> None:
    folders = {phantom.cache_folder(s) for s in (phantom.DEFAULT, COARSE, phantom.Settings(seed=1))}
    assert len(folders) == 3


def test_every_subject_is_another() -> None:
    cases = [phantom.make_case(s, i, COARSE) for s, i in (("train", 0), ("train", 1), ("val", 0), ("test", 0))]
    cases.append(phantom.make_case("train", 0, phantom.Settings(spacing_mm=6, seed=1)))
    assert len({digest(c) for c in cases}) == len(cases)


def test_image_is_z_scored_in_the_brain_and_zero_outside(case: data.Case) -> None:
    brain = case.image.any(0)
    assert case.image.dtype == np.float32
    assert case.label.dtype == np.uint8
    assert case.image.shape[1:] == case.label.shape
    assert not case.image[:, ~brain].any()
    for channel in case.image:
        assert channel[brain].mean() == pytest.approx(0, abs=2e-3)
        assert channel[brain].std() == pytest.approx(1, abs=2e-3)
    assert not case.label[~brain].any()
    assert ndimage.label(brain)[1] < 20, "the brain is one piece, but for specks"


def test_structure_of_the_first_case_is_what_it_was(case: data.Case) -> None:
    """Golden figures with room for other builds of numpy and scipy; a new generator needs a new GENERATOR."""
    assert phantom.GENERATOR == 1
    assert case.image.shape == (4, 85, 102, 90)
    assert np.allclose(np.diag(case.affine), [2, 2, 2, 1])
    assert int(case.image.any(0).sum()) == pytest.approx(217229, rel=0.005)
    volumes = np.bincount(case.label.ravel(), minlength=4)[1:]
    assert volumes == pytest.approx(GOLDEN_VOLUMES, rel=0.03)
    centre = ndimage.center_of_mass(np.isin(case.label, (1, 3)))
    assert centre == pytest.approx(GOLDEN_CENTRE, abs=0.5)


GOLDEN_VOLUMES = [1285, 7133, 1593]  # NCR, ED, ET, voxels
GOLDEN_CENTRE = (26.64, 52.59, 46.71)  # of the core, voxels


def test_whole_default_volume_fits_the_patch(case: data.Case) -> None:
    assert all(side <= patch for side, patch in zip(case.label.shape, data.get_plan("phantom").patch, strict=True))


@pytest.mark.parametrize("index", range(4))
def test_tumour_is_nested_and_whole(index: int) -> None:
    label = phantom.make_case("train", index, phantom.Settings(spacing_mm=4)).label
    assert set(np.unique(label)) == {0, 1, 2, 3}
    whole, core = label > 0, np.isin(label, (1, 3))
    necrotic_border = ndimage.binary_dilation(label == 1) & (label != 1)
    assert (label[necrotic_border] == 3).mean() > 0.5, "the rim encloses most of the necrosis"
    parts, count = ndimage.label(whole, np.ones((3, 3, 3)))
    sizes = np.bincount(parts[core])
    assert count <= 4
    assert sizes[1:].sum() == core.sum()


def test_core_is_no_ball(case: data.Case) -> None:
    core = np.isin(case.label, (1, 3))
    points = np.argwhere(core)
    radius = np.linalg.norm(points - points.mean(0), axis=1).max()
    assert core.sum() < 0.6 * 4 / 3 * np.pi * radius**3


def test_oedema_prefers_white_matter() -> None:
    """The share of white matter is higher where oedema is than around it."""
    mm = 4
    template = phantom._template(mm)
    rng = np.random.default_rng(0)
    inside, around = [], []
    for _ in range(6):
        tissue, _detail = phantom._anatomy(rng, template, mm)
        brain = tissue["csf"] + tissue["gm"] + tissue["wm"] > 0.5
        white = tissue["wm"].copy()
        label = phantom._add_tumour(rng, tissue, brain, brain, mm)
        near = ndimage.binary_dilation(label > 0, iterations=3) & (label == 0) & brain
        inside.append(white[label == 2].mean())
        around.append(white[near].mean())
    assert np.mean(inside) > np.mean(around) + 0.1


def test_what_is_not_tumour_looks_like_tumour(case: data.Case) -> None:
    """Where FLAIR and T1ce are as bright as tumour, most voxels are none: no threshold finds it."""
    t1ce, flair = case.image[1], case.image[3]
    brain, tumour = case.image.any(0), case.label > 0
    as_rim = brain & (t1ce > np.median(t1ce[case.label == 3]))
    as_oedema = brain & (flair > np.median(flair[case.label == 2]))
    assert (~tumour)[as_rim].mean() > 0.3
    assert (~tumour)[as_oedema].mean() > 0.5


def test_tissues_have_the_order_of_their_contrasts(case: data.Case) -> None:
    """On T1ce the rim is brightest and necrosis dark; oedema is bright on T2 and FLAIR, dark on T1."""
    brain = case.image.any(0)
    of = {name: case.image[:, case.label == value].mean(1) for value, name in ((1, "NCR"), (2, "ED"), (3, "ET"))}
    healthy = case.image[:, brain & (case.label == 0)].mean(1)
    assert of["ET"][1] > of["ED"][1] > of["NCR"][1]
    assert of["ED"][0] < healthy[0]
    assert of["ED"][2] > healthy[2]
    assert of["ED"][3] > healthy[3]


def test_plan_says_semi_synthetic_and_counts() -> None:
    plan = data.get_plan("phantom")
    assert plan in data.list_datasets()
    assert plan.semi_synthetic
    assert "semi-synthetic" in plan.title
    assert (plan.in_channels, plan.out_channels) == (4, 3)
    assert tuple(plan.regions) == ("tc", "wt", "et")


def test_regions_nest() -> None:
    tc, wt, et = data.get_plan("phantom").to_regions(np.array([[[0, 1, 2, 3]]], np.uint8))
    assert tc.tolist() == [[[False, True, False, True]]]
    assert wt.tolist() == [[[False, True, True, True]]]
    assert et.tolist() == [[[False, False, False, True]]]


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(DataError, match="did you mean 'phantom'\\? give a folder, or see 'bench data list'"):
        data.get_plan("phantoms")
    with pytest.raises(DataError, match="no split 'tests'; known: train, val, test"):
        data.load_case("phantom", "tests", 0)
    with pytest.raises(DataError, match="cases 0 to 15, not 16"):
        data.load_case("phantom", "test", 16)
    with pytest.raises(DataError, match="no case dev/0"):
        phantom.load_case("dev", 0)


def test_data_needs_no_torch() -> None:
    code = "import sys, benchbench.data.phantom; sys.exit('torch' in sys.modules or 'nilearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
