"""Whatever stands in the file that a training goes on from, it is gone on from or refused in one line."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchbench.core.errors import CheckpointError
from benchbench.training.loop import train
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from tests.toy import SPEC, Tiny, use_toy_data

PATCH = (8, 8, 8)


@pytest.fixture(autouse=True)
def toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_data(monkeypatch)


def run(out: Path, progress: Any = None, **changes: Any) -> Any:
    asked = {
        "data": "toy",
        "patch": PATCH,
        "budget": TrainingBudget(steps=3),
        "bf16": False,
        "threads": 1,
        "validations": 0,
    }
    torch.manual_seed(0)
    recipe = TrainRecipe(**(asked | {"augment": False, "checkpoint_every_s": 0.0} | changes))
    return train(Tiny(), SPEC, recipe, out=out, progress=progress)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a training that was broken off in its last step."""

    def stop(used: float, line: str) -> None:
        if "step 3" in line:
            raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("torn") / "toy.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        use_toy_data(patch)
        with pytest.raises(KeyboardInterrupt):
            run(out, stop)
    return out.with_suffix(".resume").read_bytes()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a file was executed",)


def _first(state: dict[str, Any]) -> str:
    return next(iter(state["model"]))


def _moments(state: dict[str, Any]) -> dict[str, Any]:
    return state["optimizer"]["state"][0]  # type: ignore[no-any-return]


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no weights": lambda s: s.pop("model"),
    "no progress": lambda s: s.pop("progress"),
    "a weight less": lambda s: s["model"].pop(_first(s)),
    "a weight of another shape": lambda s: s["model"].update({_first(s): torch.zeros(2)}),
    "a weight of another type": lambda s: s["model"].update({_first(s): s["model"][_first(s)].half()}),
    "a sparse weight": lambda s: s["model"].update({_first(s): s["model"][_first(s)].to_sparse()}),
    "a number for a weight": lambda s: s["average"].update({_first(s): 3}),
    "a list for the weights": lambda s: s.update(model=[1]),
    "an average of another shape": lambda s: s["average"].update({_first(s): torch.zeros(1, 1, 1, 1, 1)}),
    "no optimizer": lambda s: s.update(optimizer={}),
    "an optimizer of nothing": lambda s: s["optimizer"].update(state={}),
    "an optimizer of more": lambda s: s["optimizer"]["state"].update({99: _moments(s)}),
    "an optimizer's key that is a word": lambda s: s["optimizer"]["state"].update(x=_moments(s)),
    "a moment of another shape": lambda s: _moments(s).update(exp_avg=torch.zeros(3)),
    "a moment that is missing": lambda s: _moments(s).pop("exp_avg_sq"),
    "a moment below zero": lambda s: _moments(s)["exp_avg_sq"].fill_(-1.0),
    "a moment that is not finite": lambda s: _moments(s)["exp_avg"].fill_(math.nan),
    "an optimizer's step below zero": lambda s: _moments(s).update(step=torch.tensor(-1.0)),
    "an optimizer's step that is a word": lambda s: _moments(s).update(step="one"),
    "groups of other parameters": lambda s: s["optimizer"]["param_groups"][0].update(params=[0]),
    "groups that are none": lambda s: s["optimizer"].update(param_groups=[3]),
    "a step that is a word": lambda s: s["progress"].update(step="two"),
    "a step below zero": lambda s: s["progress"].update(step=-1),
    "a step without end": lambda s: s["progress"].update(step=10**30),
    "more skipped than taken": lambda s: s["progress"].update(skipped=9),
    "seconds that are no number": lambda s: s["progress"].update(seconds=math.nan),
    "seconds that are a tensor": lambda s: s["progress"].update(seconds=torch.ones(2)),
    "a curve of numbers": lambda s: s.update(curve=[1, 2]),
    "a curve that is none": lambda s: s.update(curve=None),
    "a Dice without a step": lambda s: s.update(validation=[(0.5,)]),
    "a precision that is a word": lambda s: s.update(bf16="yes"),
    "another training": lambda s: s.update(identity="0123"),
    "an identity that is none": lambda s: s.update(identity=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_content_is_one_line(tmp_path: Path, kept: bytes, change: str) -> None:
    path = tmp_path / "toy.resume"
    path.write_bytes(kept)
    state = torch.load(path, weights_only=True)
    CHANGES[change](state)
    torch.save(state, path)
    refused(path)


def refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"toy\.resume is (damaged|of a training).*--fresh.*start over$"
    ) as raised:
        run(path.with_suffix(".safetensors"))
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before


CONTENTS = {
    "nothing": lambda whole: b"",
    "text": lambda whole: b"no torch file\n",
    "half of it": lambda whole: whole[: len(whole) // 2],
    "all but its end": lambda whole: whole[:-30],
    "zeros within": lambda whole: whole[:300] + bytes(400) + whole[700:],
    "a plain pickle": lambda whole: pickle.dumps({"identity": "x"}),
    "a pickle that runs code": lambda whole: pickle.dumps(Evil()),
    "a pickle's start": lambda whole: b"\x80\x04\x95",
}


@pytest.mark.parametrize("content", CONTENTS)
def test_another_file_is_one_line_and_is_not_run(
    tmp_path: Path, kept: bytes, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.resume"
    path.write_bytes(CONTENTS[content](kept))
    refused(path)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [3, [1, 2], "text", None, torch.zeros(2), {"identity": 1}])
def test_another_value_is_one_line(tmp_path: Path, value: object) -> None:
    path = tmp_path / "toy.resume"
    torch.save(value, path)
    refused(path)


def test_an_object_in_it_is_not_made(tmp_path: Path, kept: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "toy.resume"
    path.write_bytes(kept)
    torch.save(torch.load(path, weights_only=True) | {"more": Evil()}, path)
    refused(path)
    assert "executed" not in capsys.readouterr().out


def test_rates_in_it_do_not_count(tmp_path: Path, kept: bytes) -> None:
    """They follow from the recipe."""
    whole = run(tmp_path / "whole.safetensors").checkpoint.sha256
    path = tmp_path / "toy.resume"
    path.write_bytes(kept)
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"][0].update(betas="wrong", eps=None)
    torch.save(state, path)
    assert run(tmp_path / "toy.safetensors").checkpoint.sha256 == whole


def test_a_kill_before_the_last_dice_leaves_a_training_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "toy.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("benchbench.training.validation.measure_dice", killed)
        with pytest.raises(KeyboardInterrupt):
            run(out, validations=1, checkpoint_every_s=60.0)
    assert out.exists()
    again = run(out, validations=1, checkpoint_every_s=60.0)
    assert not again.earlier
    assert [step for step, _ in again.validation] == [3]
    assert run(out, validations=1).earlier
