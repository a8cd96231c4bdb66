"""Patches that int8 is calibrated on: real, enough, and of training cases alone."""

import numpy as np
import pytest

from benchbench import data
from benchbench.core.errors import UsageError
from benchbench.runtimes.calibration import FEWEST, calibration_patches, cut
from tests import data_sets as sets


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    folder = sets.decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=10, sides=(20, 18, 12))
    return str(data.get_plan(str(folder)).where)


def test_there_are_enough_patches_of_training_cases_and_each_pass_gives_the_same(where, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path))
    patches = calibration_patches(where, (16, 16, 16))
    assert len(patches) >= FEWEST
    plan = data.get_plan(where)
    assert set(patches.cases) <= set(plan.ids["train"])
    assert not set(patches.cases) & {*plan.ids["test"], *plan.ids["val"]}
    first, again = list(patches), list(patches)
    assert {p.shape for p in first} == {(1, 1, 16, 16, 16)}
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({p.tobytes() for p in first}) > len(patches.cases)  # several places of one case
    assert patches.described() == {"data": plan.key, "patches": len(patches), "cases": list(patches.cases)}


def test_neither_random_numbers_nor_test_cases_calibrate(where):
    with pytest.raises(UsageError, match=r"no data set: add --data \(random numbers"):
        calibration_patches(None, (16, 16, 16))
    every_case = str(data.get_plan(where, fold=data.plan.ALL).where)
    with pytest.raises(UsageError, match="every case is a test case"):
        calibration_patches(every_case, (16, 16, 16))


def test_a_smaller_image_is_padded_on_both_sides_and_a_larger_one_cut_in_the_middle():
    image = np.arange(2 * 4 * 6 * 5, dtype=np.float32).reshape(2, 4, 6, 5)
    patch = cut(image, (6, 2, 5))
    assert patch.shape == (1, 2, 6, 2, 5)
    assert not patch[0, :, [0, 5]].any()
    assert np.array_equal(patch[0, :, 1:5], image[:, :, 2:4])
