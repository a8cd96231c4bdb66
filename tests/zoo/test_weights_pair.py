"""Weights and the `.json` beside them: what counts where they disagree, and what a kill between the two leaves."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchbench.core.errors import CheckpointError
from benchbench.core.records import ModelSpec
from benchbench.zoo import checkpoint
from benchbench.zoo.checkpoint import CheckpointInfo, load_weights, read_sidecar, save

SPEC = ModelSpec(name="toy", arch="torch.nn:Conv3d", kwargs={"kernel_size": 1}, in_channels=2, out_channels=2)


def network(value: float) -> nn.Module:
    module = nn.Conv3d(2, 2, 1)
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def write(path: Path, value: float, seconds: float = 1.0, **train: Any) -> CheckpointInfo:
    told = {"steps_done": int(value), "seconds": seconds, **train}
    return save(path, network(value).state_dict(), model=SPEC, data="toy", spatial=(8, 8, 8), train=told)


def value_of(path: Path) -> float:
    module = network(0.0)
    load_weights(module, path)
    return float(next(module.parameters()).flatten()[0].detach())


def as_before_headers(path: Path, value: float) -> str:
    """Weights as they were written before their header said what they are; returns the sha256 of their file."""
    info = write(path, value)
    path.write_bytes(checkpoint.serialised(network(value).state_dict()))
    assert b"__metadata__" not in path.read_bytes()
    return info.sha256


def test_without_the_json_the_header_says_what_the_weights_are(tmp_path: Path) -> None:
    info = write(tmp_path / "toy.safetensors", 3.0)
    info.path.with_suffix(".json").unlink()
    alone = read_sidecar(info.path)
    assert (alone.model, alone.data, alone.spatial, alone.sha256) == (SPEC, "toy", (8, 8, 8), info.sha256)
    assert alone.train == {"steps_done": 3}
    assert value_of(info.path) == 3.0


def test_a_stale_json_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write(tmp_path / "toy.safetensors", 3.0)
    stale = first.path.with_suffix(".json").read_bytes()
    second = write(first.path, 5.0)
    first.path.with_suffix(".json").write_bytes(stale)
    assert read_sidecar(first.path).sha256 == second.sha256 != first.sha256
    assert read_sidecar(first.path.with_suffix(".json")).train["steps_done"] == 5
    with caplog.at_level(logging.WARNING, logger="benchbench"):
        assert value_of(first.path) == 5.0
    assert [r.message for r in caplog.records] == [
        f"{first.path.with_suffix('.json')} contradicts the description inside the weights, which counts"
    ]


def test_equal_trainings_give_equal_files_and_their_times_stand_in_the_json(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{seconds}.safetensors", 3.0, seconds) for seconds in (1.0, 2.0))
    assert one.path.read_bytes() == two.path.read_bytes()
    assert (one.train["seconds"], two.train["seconds"]) == (1.0, 2.0)


def test_the_sha256_is_of_the_weights_and_not_of_what_is_said_of_them(tmp_path: Path) -> None:
    one = write(tmp_path / "one.safetensors", 3.0)
    two = write(tmp_path / "two.safetensors", 3.0, note="é 漢")
    plain = checkpoint.serialised(network(3.0).state_dict())
    assert one.path.read_bytes() != two.path.read_bytes()
    assert one.sha256 == two.sha256 == hashlib.sha256(plain).hexdigest() == checkpoint.sha256_of(two.path)


def test_an_older_pair_reads_as_before(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    known = as_before_headers(path, 3.0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known == checkpoint.sha256_of(path)
    assert read_sidecar(path).sha256 == known
    assert value_of(path) == 3.0
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match=r"no toy\.json beside the weights"):
        read_sidecar(path)


def test_another_programs_metadata_stays_in_the_sha256(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "toy.safetensors"
    save_file(network(3.0).state_dict(), path, metadata={"format": "pt"})
    assert checkpoint.sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("there", ["nothing", "a pair", "an older pair"])
def test_a_kill_between_the_two_files_leaves_weights_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    path = tmp_path / "toy.safetensors"
    if there == "a pair":
        write(path, 3.0)
    elif there == "an older pair":
        as_before_headers(path, 3.0)
    _killed_after_one(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        write(path, 5.0)
    assert value_of(path) == 5.0
    assert read_sidecar(path).train["steps_done"] == 5
    assert read_sidecar(path).sha256 == checkpoint.sha256_of(path)


@pytest.mark.parametrize("there", ["nothing", "a pair", "an older pair"])
@pytest.mark.parametrize("older", [False, True])
def test_a_kill_within_a_copy_leaves_no_pair_that_disagrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, there: str
) -> None:
    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    (as_before_headers if older else write)(source, 5.0)
    if there == "a pair":
        write(target, 3.0)
    elif there == "an older pair":
        as_before_headers(target, 3.0)
    with monkeypatch.context() as patch:
        _killed_after_one(patch)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.copy(source, target)
    assert not target.exists() or value_of(target) == 5.0
    checkpoint.copy(source, target)
    assert value_of(target) == 5.0
    assert read_sidecar(target).sha256 == read_sidecar(source).sha256


def _killed_after_one(patch: pytest.MonkeyPatch) -> None:
    plain, written = checkpoint.write_whole, []

    def write_whole(path: Path, content: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        plain(path, content)

    patch.setattr(checkpoint, "write_whole", write_whole)


def test_wrong_weights_beside_a_right_json_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "toy.safetensors", tmp_path / "other.safetensors"
    as_before_headers(path, 3.0)
    as_before_headers(other, 5.0)
    path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"is not the file that toy\.json describes \(its sha256 differs\)"):
        value_of(path)


@pytest.mark.parametrize("json_there", [True, False])
def test_weights_that_changed_under_their_header_are_refused(tmp_path: Path, json_there: bool) -> None:
    info = write(tmp_path / "toy.safetensors", 3.0)
    content = bytearray(info.path.read_bytes())
    content[-1] ^= 1
    info.path.write_bytes(content)
    if not json_there:
        info.path.with_suffix(".json").unlink()
    by = r"toy\.json" if json_there else "its own header"
    with pytest.raises(CheckpointError, match=rf"is not the file that {by} describes"):
        value_of(info.path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"model": 3}), '{"sha256": NaN}'])
def test_a_header_that_describes_nothing_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "toy.safetensors"
    path.write_bytes(checkpoint.serialised({"weight": torch.zeros(2)}, text))
    with pytest.raises(CheckpointError) as raised:
        read_sidecar(path)
    assert "\n" not in str(raised.value)
    assert "toy.safetensors" in str(raised.value)
