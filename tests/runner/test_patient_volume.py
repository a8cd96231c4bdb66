"""The volume of a patient in a run: of networks with a preparation of their own it is what that makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbench.data.folder import plan_folder
from benchbench.data.patient import sides_seen
from benchbench.runner.plan import plan_cells
from benchbench.runner.request import RunRequest
from benchbench.zoo.import_network import ImportRequest, import_network
from tests import data_sets, nnunet_models


def test_each_network_is_timed_on_what_it_makes_of_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", sides=(20, 26, 12), where=data_sets.affine((1.1, 0.9, 2.4)))
    source = nnunet_models.model(tmp_path / "model", "residual")
    info = import_network(ImportRequest(source=source), tmp_path / "hippo").info
    plan = plan_folder(folder)
    seen = sides_seen(plan, info.plan)
    assert seen not in (None, plan.sides)
    request = RunRequest(models=f"{tmp_path / 'hippo'},unet_small", data=str(folder))
    works = {cell.job.model.name: cell.job.workload for cell in plan_cells(request)}
    assert (works["hippo"].volume, works["hippo"].patient) == (seen, plan.sides)
    others = [work for name, work in works.items() if name != "hippo"]
    assert all(work.patient is None for work in others)
    asked = RunRequest(models=str(tmp_path / "hippo"), data=str(folder), volume=(24, 24, 24))
    (cell,) = plan_cells(asked)
    assert (cell.job.workload.volume, cell.job.workload.patient) == ((24, 24, 24), None)
