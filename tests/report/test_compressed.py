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

from benchbench.cli.results_table import results_table
from benchbench.compress.request import CompressRequest, PruneRecipe
from benchbench.compress.run import compress
from benchbench.core import records as rec
from benchbench.report import conditions, export, reliability, render
from benchbench.report.choice import section
from benchbench.report.choice.rank import choose
from benchbench.report.figures import overview as figures_overview
from benchbench.report.figures import volumes
from benchbench.report.so_far import fronts
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
    workload = dataclasses.replace(examples.WORKLOAD, data="Hippocampus:0123abcd")
    return examples.record(name, measurements=tuple(found), workload=workload)


def trained(name: str, latency: float) -> rec.Record:
    """Of weights whose Dice is not known."""
    return dataclasses.replace(timed(name, latency, None), model=examples.spec(name, checkpoint=SHA))


def cut(name: str, latency: float, dice: float | None = None, **recipe: Any) -> rec.Record:
    return dataclasses.replace(timed(name, latency, dice), recipe={"parent": "whole", "prune": 0.5, **recipe})


def ranks(*records: rec.Record) -> list[str]:
    return [row.cells["rank"].text for row in summary_rows(records).rows]


def test_a_network_whose_dice_is_of_no_use_has_no_rank() -> None:
    records = [
        timed("whole", 2.0, 0.85),
        timed("cut", 1.0, 0.010),
        timed("small", 1.5, 0.80),
        trained("plain", 3.0),
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


def test_where_others_have_a_dice_what_is_untrained_or_only_cut_has_no_rank_and_says_why() -> None:
    records = [
        timed("whole", 2.0, 0.85),
        timed("random", 1.0, None),
        cut("halved", 1.5, 0.80),
        cut("tuned", 1.7, 0.82, finetune="20min"),
        trained("mine", 3.0),
    ]
    rows = summary_rows(records).rows
    told = {row.label: (row.cells["rank"].text, row.cells["rank"].detail) for row in rows}
    assert told == {
        "whole": ("2", ""),
        "random": ("-", "untrained"),
        "halved": ("-", "cut, not fine-tuned"),
        "tuned": ("1", ""),
        "mine": ("3", ""),
    }
    assert "no rank, untrained: random\nno rank, cut, not fine-tuned: halved" in results_table(records)
    exported = {one["model"]: one.get("rank_reason") for one in json.loads(export(records, "json"))}
    assert exported["random"] == "untrained: its weights are random, and others have a Dice"
    assert exported["whole"] is None


def test_where_no_row_has_a_dice_costs_alone_are_ranked() -> None:
    assert ranks(timed("a", 1.0, None), cut("b", 2.0), trained("c", 3.0)) == ["1", "2", "3"]


def test_a_dice_of_the_phantom_makes_no_other_network_untrained() -> None:
    phantom = dataclasses.replace(examples.WORKLOAD, data="phantom")
    records = [dataclasses.replace(r, workload=phantom) for r in (timed("whole", 2.0, 0.7), timed("random", 1.0, None))]
    assert ranks(*records) == ["2", "1"]


def test_a_network_is_untrained_only_where_none_of_its_rows_has_a_dice() -> None:
    """Its Dice was measured elsewhere for eager PyTorch, and the faster path ran with random weights."""
    whole = timed("whole", 2.0, 0.85)
    faster = dataclasses.replace(whole, workload=dataclasses.replace(whole.workload, runtime="openvino"))
    agrees = examples.number("output_max_error", 1e-6)
    faster = dataclasses.replace(faster, measurements=(examples.number("latency_s", 1.0), agrees))
    assert ranks(whole, faster, timed("random", 3.0, None)) == ["2", "1", "-"]


def test_the_time_of_what_has_no_rank_is_held_against_no_other() -> None:
    one = examples.number("volume_latency_s", 5.0)
    records = [timed("slim_unetr", 2.0, 0.85, one), timed("random", 1.0, None, one), timed("other", 3.0, 0.8, one)]
    for table in (summary_rows(records), volumes.table(summary_rows(records).rows, *_group(records), key="v")):
        assert table is not None
        cells = {row.label: row.cell("ratio") for row in table.rows}
        assert (cells["random"].text, cells["random"].detail) == ("-", "untrained")
        assert cells["other"].value is not None


def _group(records: list[rec.Record]) -> tuple[conditions.Group, reliability.Floors]:
    (group,) = conditions.group(records)
    return group, {}


def test_what_is_only_cut_is_neither_on_the_front_nor_taken_nor_the_fastest_in_the_headline() -> None:
    records = [timed("whole", 2.0, 0.85), cut("halved", 0.5, 0.84), timed("small", 1.5, 0.80), timed("raw", 0.1, None)]
    (group,) = conditions.group(records)
    choice = choose(group, records, nothing)
    assert "train it on with 'bench train --init'" in dict(choice.left_out)["halved"]
    assert "small is the fastest of the 2 trained" in section.headline(choice)
    assert fronts(records)[0].endswith("small (1.50 s, Dice 0.800), whole (2 s, Dice 0.850)")
    drawing = figures_overview.scatter(summary_rows(records).rows, prefix="s")
    assert drawing is not None
    assert "no other beats in both: small, whole. " in drawing.caption
    assert "Left out of the line: halved (cut, not fine-tuned)." in drawing.caption


def test_a_network_whose_dice_is_of_no_use_is_not_on_the_front() -> None:
    rows = summary_rows([timed("whole", 2.0, 0.85), timed("cut", 1.0, 0.010), timed("small", 1.5, 0.80)]).rows
    drawing = figures_overview.scatter(rows, prefix="s")
    assert drawing is not None
    assert "no other beats in both: small, whole." in drawing.caption
    assert "Left out of the line: cut (Dice too low)." in drawing.caption
    none = figures_overview.scatter(summary_rows([timed("a", 1.0, 0.01), timed("b", 2.0, 0.02)]).rows, prefix="s")
    assert none is not None
    assert "none, since each is left out (Dice too low)" in none.caption
