"""Compressed networks on the page: every recipe that is written, those of later kinds, and no rank for what fails."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchbench.compress.request import CompressRequest, PruneRecipe
from benchbench.compress.run import compress
from benchbench.core import records as rec
from benchbench.report import export, reliability, render
from benchbench.report.figures import overview as figures_overview
from benchbench.report.tables import summary_rows
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.zoo import checkpoint
from tests import report_examples as examples
from tests.toy import SPEC, Tiny, use_toy_data

ROOT = Path(__file__).parents[2]
SEARCHED = ROOT / "results" / "reference" / "search-hippocampus-parent"
SHA = "0123abcd" * 8


def nothing(artifact: rec.Artifact) -> bytes:
    raise AssertionError(artifact)


def page(recipe: Mapping[str, Any] | None, name: str = "small") -> str:
    one = examples.finished("slim_unetr", recipe=recipe)
    small = dataclasses.replace(one, model=dataclasses.replace(one.model, name=name))
    text = render([examples.finished("slim_unetr"), small], nothing)
    for fmt in ("json", "csv", "markdown", "latex"):
        assert export([small], fmt)
    return html.unescape(text)


def front_points() -> list[Path]:
    return sorted((SEARCHED / "front").glob("*/*.safetensors"))


@pytest.mark.parametrize("weights", front_points(), ids=lambda path: path.stem)
def test_a_point_of_a_search_has_its_section(weights: Path) -> None:
    info = checkpoint.read_sidecar(weights)
    assert info.compression is not None
    assert f"Found by a search: {info.compression['inherited']:.0%} of its weights are from" in page(info.compression)


def test_a_compressed_one_of_a_compressed_one_has_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_data(monkeypatch)
    torch.manual_seed(0)
    weights = tmp_path / "toy.safetensors"
    plain: dict[str, Any] = {"lr": 1e-2, "bf16": False, "validations": 0, "threads": 1, "augment": False}
    asked = TrainRecipe(data="toy", patch=(16, 16, 16), budget=TrainingBudget(steps=1), **plain)
    train(Tiny(), SPEC, asked, out=weights)

    def made(parent: Path, out: str, **more: Any) -> checkpoint.CheckpointInfo:
        how = PruneRecipe(ratio=0.25, criterion="magnitude")
        asked = CompressRequest(
            recipe=how, model=SPEC.arch, weights=parent, data="toy", threads=1, dtype="fp32", **more
        )
        return compress(asked, tmp_path / out).checkpoint

    first = made(weights, "first", finetune=TrainingBudget(steps=1))
    assert first.compression is not None
    text = page(first.compression)
    assert "Pruned from toy, weights" in text
    assert "then trained on for 1 steps with 50% of the loss from the network before." in text

    second = made(first.path, "second")
    assert second.compression is not None
    text = page(second.compression)
    assert f"Pruned from {first.model.name}, weights" in text
    assert "The network before it: Pruned from toy, weights" in text


def test_a_compressed_point_of_a_search_names_both() -> None:
    before = checkpoint.read_sidecar(front_points()[0]).compression
    assert before is not None
    recipe = {
        "root": "slim_unetr_fixed", "parent": "slim_unetr_fixed-060d9d", "parent_sha256": SHA, "prune": 0.5,
        "criterion": "magnitude", "scope": "layer", "seed": 0, "channels": [100, 50], "before": before,
    }  # fmt: skip
    text = page(recipe)
    assert "50 of 100 channels went (50% of each layer's channels were to go, by magnitude)" in text
    assert "The network before it: Found by a search" in text


@pytest.mark.parametrize(
    "recipe",
    [
        {"parent_sha256": SHA},
        {"parent": "a", "parent_sha256": SHA, "quantised": "int8"},
        {"parent": "a", "parent_sha256": SHA, "channels": "few", "prune": "half", "search": 3, "distil": []},
        {"parent": None, "parent_sha256": None, "channels": [1], "finetune": {"steps": 3}, "before": {"channels": 1}},
        {"parent_sha256": SHA, "channels": [10, 5]},
        {"parent_sha256": SHA, "search": {}, "inherited": None},
        {"how": {"deep": [1, {"a": 2}]}},
        {},
        None,
    ],
)
@pytest.mark.parametrize("name", ["small", "a"])
def test_a_recipe_of_a_kind_that_is_not_known_has_a_page(recipe: dict[str, Any] | None, name: str) -> None:
    assert "slim_unetr" in page(recipe, name)


def test_what_an_unknown_recipe_says_is_shown() -> None:
    text = page({"parent": "a", "parent_sha256": SHA, "quantised": "int8"})
    assert "Made from a, weights 0123abcd" in text
    assert "int8" in text


# -- ranks


def timed(name: str, latency: float, dice: float | None, *more: rec.Measurement) -> rec.Record:
    found = [examples.number("latency_s", latency), *more]
    found += [] if dice is None else [examples.number("dice", dice)]
    return examples.record(name, measurements=tuple(found))


def ranks(*records: rec.Record) -> list[str]:
    return [row.cells["rank"].text for row in summary_rows(records).rows]


def test_a_network_whose_dice_is_of_no_use_has_no_rank() -> None:
    records = [
        timed("whole", 2.0, 0.85),
        timed("cut", 1.0, 0.010),
        timed("small", 1.5, 0.80),
        timed("plain", 3.0, None),
    ]
    assert ranks(*records) == ["2", "-", "1", "3"]
    (cut,) = [row for row in summary_rows(records).rows if row.label == "cut"]
    assert cut.cells["rank"].note.startswith("its Dice of 0.010 is below 0.425, of no use")
    told = json.loads(export(records, "json"))
    assert [one.get("rank") for one in told] == ["2", None, "1", "3"]
    assert ranks(timed("a", 1.0, 0.01), timed("b", 2.0, 0.02)) == ["-", "-"]
    assert ranks(timed("a", 1.0, None), timed("b", 2.0, None)) == ["1", "2"]


def test_a_network_whose_dice_is_of_no_use_has_no_rank_by_its_patient_either() -> None:
    one = examples.number("volume_latency_s", 5.0)
    records = [timed("cut", 1.0, 0.010, one), timed("whole", 2.0, 0.85, one), timed("small", 1.5, 0.80, one)]
    assert set(reliability.useless(records)) == {records[0].id}
    assert "of no use" in render(records, nothing)


def test_a_network_whose_dice_is_of_no_use_is_not_on_the_front() -> None:
    rows = summary_rows([timed("whole", 2.0, 0.85), timed("cut", 1.0, 0.010), timed("small", 1.5, 0.80)]).rows
    drawing = figures_overview.scatter(rows, prefix="s")
    assert drawing is not None
    assert "no other beats in both: small, whole." in drawing.caption
    assert "their Dice is too low to be of use: cut" in drawing.caption
    none = figures_overview.scatter(summary_rows([timed("a", 1.0, 0.01), timed("b", 2.0, 0.02)]).rows, prefix="s")
    assert none is not None
    assert "no Dice here is of use" in none.caption
