"""Preprocessing: what a network sees, the cache, and the way back onto the image."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchbench import data
from benchbench.core import cache
from benchbench.core.errors import DataError
from benchbench.data import preprocessing
from benchbench.data.folder import plan_folder, prepared_folder
from benchbench.data.layouts import open_source
from benchbench.data.plan import Preparation
from benchbench.data.volumes import Volumes, load_volumes
from tests import data_sets as sets
from tests.shared_files import shared_file


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def settings(**more):
    return Preparation(**({"spacing_mm": (1.0, 1.0, 1.0), "resample": False, "foreground": False, "clip": None} | more))


def world(affine, index):
    return (affine @ np.array([*index, 1.0]))[:3]


def marked(sides=(12, 20, 9), at=(3, 15, 4), where=None):
    """A volume whose one bright blob is label 1."""
    image = np.full((1, *sides), 10.0, np.float32) + np.random.default_rng(0).random((1, *sides)).astype(np.float32)
    label = np.zeros(sides, np.uint8)
    blob = tuple(slice(a - 1, a + 2) for a in at)
    image[0][blob], label[blob] = 100, 1
    return Volumes(id="x", image=image, label=label, affine=sets.TILTED if where is None else where)


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_becomes_the_same(flips):
    """A case stored with other directions of its axes is the same patient."""
    plain = marked(where=sets.affine((1, 1, 2)))
    flip = np.diag([*flips, 1.0])
    flip[:3, 3] = [(n - 1) if f < 0 else 0 for f, n in zip(flips, plain.label.shape, strict=True)]
    axes = tuple(slice(None, None, f) for f in flips)
    other = Volumes(
        id="x",
        image=plain.image[(slice(None), *axes)].copy(),
        label=plain.label[axes].copy(),
        affine=plain.affine @ flip,
    )
    a, b = (preprocessing.prepare(v, settings()) for v in (plain, other))
    assert torch.allclose(a.image.as_tensor(), b.image.as_tensor(), atol=1e-5)
    assert (a.label == b.label).all()
    assert np.allclose(a.image.affine, b.image.affine)


@pytest.mark.parametrize(
    "more", [{}, {"resample": True}, {"foreground": True}, {"foreground": True, "resample": True}], ids=str
)
def test_a_prediction_lies_over_its_image(more):
    """The label itself, sent through as logits, comes back where it was; on a rotated, anisotropic affine."""
    volumes = marked(sides=(24, 30, 20), at=(12, 17, 9))
    if more.get("foreground"):
        volumes.image[:, :4], volumes.image[:, :, :5] = 0, 0
    made = preprocessing.prepare(volumes, settings(**more))
    logits = torch.from_numpy(made.label[None].astype(np.float32)) * 2 - 1
    back = made.to_native(logits)
    assert back.shape == (1, 24, 30, 20)
    found = back[0].numpy() > 0
    both = (found & (volumes.label == 1)).sum()
    dice = 2 * both / (found.sum() + volumes.label.sum())
    assert dice == 1 if not more.get("resample") else dice > 0.75  # 27 voxels, through another grid and back
    centre = [np.argwhere(m).mean(0) for m in (found, volumes.label == 1)]
    assert np.linalg.norm(world(volumes.affine, centre[0]) - world(volumes.affine, centre[1])) < 0.5  # mm


def test_resampling_puts_the_blob_where_it_was_in_the_world():
    volumes = marked(sides=(24, 30, 20), at=(12, 17, 9))
    made = preprocessing.prepare(volumes, settings(resample=True))
    before = world(volumes.affine, np.argwhere(volumes.label).mean(0))
    after = world(np.asarray(made.image.affine), np.argwhere(made.label).mean(0))
    assert np.linalg.norm(before - after) < 0.5
    spacing = np.linalg.norm(np.asarray(made.image.affine)[:3, :3], axis=0)
    assert np.allclose(spacing, 1.0, atol=1e-3)


def test_z_scores_are_of_the_patient_alone():
    volumes = marked(where=sets.affine())
    volumes.image[:, :6] = -3.5  # a z-scored head in air that is not 0
    made = preprocessing.prepare(volumes, settings(foreground=True))
    inside = made.image[0][made.image[0] != 0]
    assert made.image.shape[1:] == (6, 20, 9)
    assert abs(float(inside.mean())) < 1e-3
    assert abs(float(inside.std()) - 1) < 1e-2
    whole = preprocessing.prepare(marked(where=sets.affine()), settings())
    assert abs(float(whole.image.mean())) < 1e-3


def test_hounsfield_units_are_clipped_and_scaled():
    volumes = marked(where=sets.affine())
    made = preprocessing.prepare(volumes, settings(clip=(0.0, 50.0, 20.0, 10.0)))
    assert float(made.image.max()) == pytest.approx(3.0)  # (50 - 20) / 10
    assert float(made.image.min()) == pytest.approx(-1.0, abs=0.1)  # (10 - 20) / 10


def test_an_image_of_one_value_is_refused():
    volumes = Volumes(id="empty", image=np.zeros((1, 8, 8, 8), np.float32), label=None, affine=np.eye(4))
    with pytest.raises(DataError, match="empty: its image has one value everywhere"):
        preprocessing.prepare(volumes, settings(foreground=True))


# Cache


@pytest.fixture
def boxes(tmp_path):
    return sets.decathlon(tmp_path / "Task99_Boxes", count=12)


def test_a_case_from_the_cache_is_the_one_that_was_made(boxes, monkeypatch):
    where = data.get_plan(str(boxes)).where
    made = data.load_case(where, "train", 0)
    monkeypatch.setattr(preprocessing, "_prepare_case", None)  # would fail
    again = data.load_case(where, "train", 0)
    assert made.id == again.id
    for name in ("image", "label", "affine"):
        assert (getattr(made, name) == getattr(again, name)).all()
        assert getattr(made, name).dtype == getattr(again, name).dtype


def test_a_changed_file_is_prepared_anew(boxes):
    plan = data.get_plan(str(boxes))
    before = data.load_case(plan.where, "train", 0)
    image, _ = sets.make(seed=77)
    path = boxes / f"imagesTr/{before.id}.nii.gz"
    sets.save(path, image)
    os.utime(path, (1, 1))
    after = data.load_case(plan.where, "train", list(data.get_plan(str(boxes)).ids["train"]).index(before.id))
    assert (before.image != after.image).any()


def test_a_damaged_cache_is_made_again(boxes, caplog):
    plan = data.get_plan(str(boxes))
    before = data.load_case(plan.where, "test", 0)
    (kept,) = prepared_folder(plan).glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    after = data.load_case(plan.where, "test", 0)
    assert (before.image == after.image).all()
    assert "made again" in caplog.text


def test_prepare_goes_on_after_a_bad_case_and_tells_it(boxes):
    (boxes / "labelsTr/case_003.nii.gz").write_bytes(b"x")
    bad = preprocessing.prepare_all(plan_folder(boxes))
    assert list(bad) == ["case_003"]
    assert "cannot be read" in bad["case_003"]
    assert len(list(prepared_folder(plan_folder(boxes)).glob("*.npz"))) == 11


def _prepare(folder):
    torch.set_num_threads(1)
    return len(preprocessing.prepare_all(plan_folder(folder)))


def test_two_processes_may_prepare_the_same_cases(boxes):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_prepare, [boxes, boxes]) == [0, 0]
    plan = plan_folder(boxes)
    assert len(list(prepared_folder(plan).glob("*.npz"))) == 12
    assert not list(prepared_folder(plan).glob("*.partial"))


def test_without_a_place_for_it_there_is_a_warning_and_no_cache(boxes, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "file" / "below"))
    assert data.load_case(str(boxes), "train", 0).image.any()
    assert "no cache at" in caplog.text


def test_the_cache_is_measured_and_cleared(boxes):
    preprocessing.prepare_all(plan_folder(boxes))
    size = cache.size_bytes(cache.cache_base())
    assert size > 12 * 16 * 18 * 14 * 3
    assert cache.clear(cache.cache_base() / cache.PREPARED) == size
    assert cache.size_bytes(cache.cache_base()) == 0


def test_a_real_hippocampus_keeps_its_labels():
    folder = shared_file("data/Task04_Hippocampus")
    plan = plan_folder(folder)
    case = data.load_case(plan.where, "test", 0)
    source = open_source(folder)
    files = next(c for c in source.cases if c.id == case.id)
    raw = load_volumes(files, source.labels)
    assert [int((case.label == v).sum()) for v in (1, 2)] == [int((raw.label == v).sum()) for v in (1, 2)]
    assert abs(case.image.mean()) < 0.01
    regions = plan.to_regions(case.label)
    assert (plan.to_label(regions) == case.label).all()


def test_a_kill_while_cases_are_prepared_loses_one_at_most(tmp_path):
    boxes = sets.decathlon(tmp_path / "Task99_Boxes", count=60)
    place = prepared_folder(plan_folder(boxes))
    command = [sys.executable, "-m", "benchbench", "data", "prepare", str(boxes)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(place.glob("*.npz")):
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in place.glob("*.npz")}
    assert 0 < len(kept) < 60
    assert preprocessing.prepare_all(plan_folder(boxes)) == {}
    assert len(list(place.glob("*.npz"))) == 60
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())  # whole, and not made again
