"""What a training becomes from its request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchbench.training import run as training_run
from benchbench.training.recipe import TrainRequest
from tests import data_sets


def test_the_learning_rate_is_that_of_the_networks_card(tmp_path: Path) -> None:
    def rate_of(name: str, **more: Any) -> float:
        folder = tmp_path / "set"
        if not folder.exists():
            data_sets.decathlon(folder, count=6)
        request = TrainRequest(model=name, data=str(folder), patch=(32, 32, 32), more=more)
        return training_run.prepare(request).recipe.lr

    assert rate_of("slim_unetr") == rate_of("slim_unetr_fixed") == 8e-3
    assert rate_of("nnunet") == rate_of("nnunet_small") == 3e-3
    assert rate_of("unet_small") == 1e-3
    assert rate_of("slim_unetr", lr=2e-3) == 2e-3
