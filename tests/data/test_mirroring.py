"""Axes along which a data set may be mirrored, by where its labels lie."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from benchbench import data
from benchbench.data import mirroring

CASES = 12
SIDES = (40, 40, 40)


def case(rng: np.random.Generator, *, behind: float, spread: float, whole: bool = True) -> data.Case:
    """A patient with two labels: one anywhere, the other behind it (axis 1), and anywhere along the other axes."""
    image = np.ones((1, *SIDES), np.float32)
    if not whole:
        image[:, :, :, :4] = 0
    label = np.zeros(SIDES, np.uint8)
    first = rng.uniform(12, 28, 3)
    second = first + rng.normal(0, spread, 3) + np.array([0, behind, 0])
    for value, at in enumerate((first, second), 1):
        place = tuple(np.clip(np.rint(at), 2, 37).astype(int))
        label[tuple(slice(p - 1, p + 2) for p in place)] = value
    return data.Case(id="a", image=image, label=label, affine=np.eye(4))


def free(*, behind: float, spread: float = 3.0, cases: int = CASES) -> tuple[int, ...]:
    rng = np.random.default_rng(0)
    return mirroring.free_axes([mirroring.centroids(case(rng, behind=behind, spread=spread)) for _ in range(cases)])


def test_an_axis_along_which_labels_have_a_fixed_order_is_left_out() -> None:
    assert free(behind=8.0) == (0, 2)
    assert free(behind=-8.0) == (0, 2)
    assert free(behind=0.0) == (0, 1, 2)


def test_a_label_that_lies_to_one_side_of_the_patient_counts_as_well() -> None:
    rng = np.random.default_rng(0)

    def with_organ(side: float) -> dict[int, np.ndarray]:
        return {0: rng.normal(20, 1, 3), 1: np.array([20 + side, 20, 20]) + rng.normal(0, 2, 3)}

    assert mirroring.free_axes([with_organ(9) for _ in range(CASES)]) == (1, 2)
    assert mirroring.free_axes([with_organ(9 * (-1) ** i) for i in range(CASES)]) == (0, 1, 2)


def test_too_few_cases_allow_no_mirroring() -> None:
    assert free(behind=0.0, cases=4) == ()
    assert mirroring.free_axes([]) == ()


def test_a_pair_that_few_cases_have_is_not_judged() -> None:
    rng = np.random.default_rng(0)
    cases = [mirroring.centroids(case(rng, behind=0, spread=3)) for _ in range(CASES)]
    rare = {**cases[0], 7: cases[0][1] + 9}
    assert mirroring.free_axes([rare, *cases[1:]]) == (0, 1, 2)


def test_centroids_are_in_voxels_and_the_patient_is_what_is_not_background() -> None:
    image = np.zeros((2, 4, 6, 8), np.float32)
    image[1, 2:4, 1:4, 3] = 1
    label = np.zeros((4, 6, 8), np.int16)
    label[0, 0, 0], label[1, 2, 4] = -3, -3
    label[3, 5, 7] = 300
    found = mirroring.centroids(data.Case(id="a", image=image, label=label, affine=np.eye(4)))
    assert {value: at.tolist() for value, at in found.items()} == {
        0: [2.5, 2.0, 3.0],
        -3: [0.5, 1.0, 2.0],
        300: [3.0, 5.0, 7.0],
    }
    empty = data.Case(id="a", image=image * 0, label=label * 0, affine=np.eye(4))
    assert mirroring.centroids(empty) == {}


def test_the_axes_of_a_data_set_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path))
    plan = dataclasses.replace(data.get_plan("phantom"), name="toy", splits=MappingProxyType({"train": CASES}))
    read = []

    def load_case(where: str, split: str, index: int) -> data.Case:
        read.append((split, index))
        return case(np.random.default_rng(index), behind=8.0, spread=3.0)

    monkeypatch.setattr(data, "load_case", load_case)
    assert mirroring.mirror_axes(plan) == (0, 2)
    assert read == [("train", index) for index in range(CASES)]
    assert mirroring.mirror_axes(plan) == (0, 2)
    assert len(read) == CASES
    (kept,) = (tmp_path / "mirroring").iterdir()
    kept.write_text("{")
    assert mirroring.mirror_axes(plan) == (0, 2)
    assert len(read) == 2 * CASES


def test_of_a_large_data_set_some_cases_say_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path))
    plan = dataclasses.replace(data.get_plan("phantom"), name="toy", splits=MappingProxyType({"train": 1001}))
    read = []

    def load_case(where: str, split: str, index: int) -> data.Case:
        read.append(index)
        return case(np.random.default_rng(index), behind=0.0, spread=3.0)

    monkeypatch.setattr(data, "load_case", load_case)
    assert mirroring.mirror_axes(plan) == (0, 1, 2)
    assert len(read) == 100
    assert (read[0], read[-1]) == (0, 1000)
