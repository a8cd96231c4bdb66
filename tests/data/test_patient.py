"""Sides of the median patient: those of a case that the network's own preparation makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchbench.data.folder import case_files, plan_folder
from benchbench.data.patient import sides_seen
from benchbench.data.plan import DataPlan
from benchbench.data.preprocessing import prepare
from benchbench.data.volumes import load_volumes
from benchbench.zoo.import_network import ImportRequest, import_network
from tests import data_sets, monai_bundles, nnunet_models

SIDES = (20, 26, 12)
#: From front to back, right to left, and up.
TURNED = np.array([[0.0, -1.2, 0.0, 5.0], [-0.9, 0.0, 0.0, 30.0], [0.0, 0.0, 2.4, 12.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def data_set(folder: Path, **more: Any) -> DataPlan:
    """Cases of one size, whose axes are not in the order of the patient's."""
    return plan_folder(data_sets.decathlon(folder / "Task99_Turned", sides=SIDES, where=TURNED, **more))


def prepared_sides(plan: DataPlan, network: DataPlan) -> tuple[int, ...]:
    """Of a case as the network's own preparation makes it."""
    source, case = case_files(plan, "test", 0)
    assert network.preparation is not None
    return tuple(prepare(load_volumes(case, source.labels), network.preparation).image.shape[1:])


@pytest.mark.parametrize("kind", nnunet_models.MODELS)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_a_patient_has_the_sides_that_nnunets_preparation_gives_it(
    tmp_path: Path, kind: str, background: bool, transpose: tuple[int, int, int]
) -> None:
    network = import_network(
        ImportRequest(source=nnunet_models.model(tmp_path / "m", kind)), tmp_path / "out"
    ).info.plan
    assert network is not None
    assert network.preparation is not None
    assert network.preparation.nnunet is not None
    how = dataclasses.replace(network.preparation.nnunet, transpose=transpose)
    network = dataclasses.replace(network, preparation=dataclasses.replace(network.preparation, nnunet=how))
    plan = data_set(tmp_path, channels=network.in_channels, background=background)
    seen = sides_seen(plan, network)
    assert seen == prepared_sides(plan, network)
    assert seen != plan.sides


@pytest.mark.parametrize("kind", monai_bundles.KINDS)
def test_a_patient_has_the_sides_that_a_bundles_transforms_give_it(tmp_path: Path, kind: str) -> None:
    source = monai_bundles.bundle(tmp_path / "bundle", kind)
    network = import_network(ImportRequest(source=source), tmp_path / "out").info.plan
    assert network is not None
    plan = data_set(tmp_path, channels=network.in_channels)
    assert sides_seen(plan, network) == prepared_sides(plan, network)


def test_a_network_that_is_prepared_as_data_sets_are_here_sees_the_plans_sides(tmp_path: Path) -> None:
    plan = data_set(tmp_path)
    assert sides_seen(plan, None) == sides_seen(plan, plan) == plan.sides == (26, 20, 12)
