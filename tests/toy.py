"""An easy task and a tiny network, for everything that trains."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchbench import data
from benchbench.core.records import ModelSpec
from benchbench.training import evaluate as training_evaluate

SPEC = ModelSpec(name="toy", arch="tests.toy:Tiny", kwargs={}, in_channels=4, out_channels=3)
SHAPE = (12, 14, 10)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv3d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.body(x)))))  # type: ignore[no-any-return]


def make_case(name: str, split: str, index: int) -> data.Case:
    """An easy one: every label has its own intensity."""
    rng = np.random.default_rng(index)
    low = rng.integers(1, 4, 3)
    label = np.zeros(SHAPE, np.uint8)
    label[low[0] : low[0] + 7, low[1] : low[1] + 7, low[2] : low[2] + 6] = 2
    label[low[0] + 1 : low[0] + 6, low[1] + 1 : low[1] + 6, low[2] + 1 : low[2] + 5] = 1
    label[low[0] + 2 : low[0] + 4, low[1] + 1 : low[1] + 6, low[2] + 1 : low[2] + 5] = 3
    image = rng.normal(0, 0.1, (4, *SHAPE)).astype(np.float32)
    for channel in range(3):
        image[channel] += 2 * (label == channel + 1)
    return data.Case(id=f"toy-{split}-{index}", image=image, label=label, affine=np.eye(4))


def use_toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set `toy`, while a test lasts."""
    plan = dataclasses.replace(data.get_plan("phantom"), name="toy", splits=MappingProxyType({"train": 6, "val": 2}))
    known = data.get_plan
    for module in (data, training_evaluate):
        monkeypatch.setattr(module, "get_plan", lambda name, **_: plan if name == "toy" else known(name))
        monkeypatch.setattr(module, "load_case", make_case)
