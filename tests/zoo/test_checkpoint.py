"""Checkpoints: what was written is what is read, and a wrong file says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchbench import data
from benchbench.core.errors import CheckpointError
from benchbench.core.records import ModelSpec
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places
from benchbench.zoo.checkpoint import CheckpointInfo, load_weights, read_sidecar, save

SPEC = ModelSpec(name="toy", arch="torch.nn:Conv3d", kwargs={"kernel_size": 3}, in_channels=4, out_channels=3)


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv3d(4, width, 3, padding=1), nn.BatchNorm3d(width))


def write(path: Path, module: nn.Module) -> CheckpointInfo:
    return save(path, module.state_dict(), model=SPEC, data="phantom", spatial=(32, 32, 32), train={"steps_done": 5})


def test_weights_come_back_to_the_bit(tmp_path: Path) -> None:
    first, second = network(), network()
    info = write(tmp_path / "deep" / "toy.safetensors", first)
    load_weights(second, info.path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert [file.name for file in sorted(info.path.parent.iterdir())] == ["toy.json", "toy.safetensors"]


def test_sidecar_says_what_the_weights_are(tmp_path: Path) -> None:
    info = write(tmp_path / "toy.safetensors", network())
    assert read_sidecar(tmp_path / "toy.json") == read_sidecar(tmp_path / "toy.safetensors") == info
    assert (info.model, info.data, info.spatial, info.train) == (SPEC, "phantom", (32, 32, 32), {"steps_done": 5})
    assert info.spec.checkpoint == info.sha256 == checkpoint.sha256_of(info.path)
    assert info.model.checkpoint is None


def test_tensor_with_two_names_is_kept_once(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv3d(2, 2, 1)
            self.again = self.one

    first, second = Twice(), Twice()
    info = write(tmp_path / "twice.safetensors", first)
    assert sorted(load_file(info.path)) == ["one.bias", "one.weight"]
    load_weights(second, info.path)
    assert torch.equal(second.again.weight, first.one.weight)


def test_half_precision_is_kept_as_single(tmp_path: Path) -> None:
    info = write(tmp_path / "toy.safetensors", network().half())
    assert load_file(info.path)["0.weight"].dtype == torch.float32


def test_other_network_is_named_by_what_differs(tmp_path: Path) -> None:
    info = write(tmp_path / "toy.safetensors", network())
    with pytest.raises(
        CheckpointError, match=r"another network: 0\.weight is \(3, 4, 3, 3, 3\) in the file and \(5, 4"
    ):
        load_weights(network(width=5), info.path)
    with pytest.raises(
        CheckpointError, match=r"2 of its 4 entries are not in the file, such as '7\.bias'.*such as '0\.bias'"
    ):
        load_weights(_renamed(), info.path)


def _renamed() -> nn.Module:
    module = nn.Module()
    module.add_module("7", nn.Conv3d(4, 3, 3))
    module.add_module("1", nn.Linear(3, 3))
    return module


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(network(), tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"no none\.json beside"):
        read_sidecar(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", b"\xff" * 64])
def test_damaged_file_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_weights(network(), tmp_path / "toy.safetensors")


def test_file_that_is_not_its_sidecars_is_refused(tmp_path: Path) -> None:
    info = write(tmp_path / "toy.safetensors", network())
    content = bytearray(info.path.read_bytes())
    content[-1] ^= 1
    info.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not the file that toy\.json describes"):
        load_weights(network(), info.path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.pop("sha256"), "'sha256' is missing"),
        (lambda d: d.update(model=3), "ModelSpec must be an object"),
        (lambda d: d["model"].pop("arch"), "'model.arch' is missing"),
        (lambda d: d.update(spatial="big"), "spatial must be a list"),
    ],
)
def test_broken_sidecar_is_said(tmp_path: Path, change: object, text: str) -> None:
    info = write(tmp_path / "toy.safetensors", network())
    sidecar = info.path.with_suffix(".json")
    data = json.loads(sidecar.read_text())
    change(data)  # type: ignore[operator]
    sidecar.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=text):
        read_sidecar(info.path)
    sidecar.write_text("{")
    with pytest.raises(CheckpointError, match="does not describe a checkpoint"):
        read_sidecar(info.path)


def test_unwritable_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        write(tmp_path / "file" / "toy.safetensors", network())


def test_shipped_weights_are_found_by_all_that_they_are_for() -> None:
    found = places.find("slim_unetr", 4, 3, (128, 128, 128), data.get_plan("phantom"))
    assert found is not None
    info = read_sidecar(found)
    card = zoo_cards.get_card("slim_unetr")
    assert info.model == card.spec()
    assert {"recipe", "steps_done", "seconds", "seed", "versions", "curve", "val"} <= set(info.train)
    load_weights(zoo_build.build(info.model, info.spatial), found)


@pytest.mark.parametrize(
    "asked",
    [
        ("unetr", 4, 3, (128, 128, 128), "phantom"),
        ("slim_unetr", 4, 2, (128, 128, 128), "phantom"),
        ("slim_unetr", 1, 3, (128, 128, 128), "phantom"),
        ("slim_unetr", 4, 3, (64, 64, 64), "phantom"),
        ("slim_unetr", 4, 3, (128, 128, 128), "brats"),
    ],
)
def test_no_shipped_weights_for_anything_else(asked: tuple[str, int, int, tuple[int, ...], str]) -> None:
    plan = dataclasses.replace(data.get_plan("phantom"), name=asked[-1])
    assert places.find(*asked[:-1], plan) is None


def test_trained_weights_are_found_in_folders_the_newest_first(tmp_path: Path) -> None:
    plan = dataclasses.replace(data.get_plan("phantom"), name="mine", digest="0123456789abcdef", ids={"test": ("a",)})
    asked = ("toy", SPEC.in_channels, SPEC.out_channels, (8, 8, 8), plan, [tmp_path])
    assert places.find(*asked) is None
    for i, (folder, key, cases) in enumerate(
        [("old", plan.key, []), ("new", plan.key, []), ("leak", plan.key, ["a"]), ("other", "mine:ffffffff", [])]
    ):
        path = tmp_path / folder / "toy.safetensors"
        checkpoint.save(path, network().state_dict(), model=SPEC, data=key, spatial=(8, 8, 8), train={"cases": cases})
        os.utime(path.with_suffix(".json"), (i, i))
    (tmp_path / "records.json").write_text("{}")
    assert places.find(*asked) == tmp_path / "new" / "toy.safetensors"
    (tmp_path / "new" / "toy.safetensors").unlink()
    assert places.find(*asked) == tmp_path / "old" / "toy.safetensors"
