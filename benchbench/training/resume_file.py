"""Resume file of an interrupted training, checked in full before any of it is used.

It is written by torch, and read without unpickling anything but tensors and plain values. Anything else in it (half a
file, another network's tensors, a step below zero) is one line of error. The optimizer's rates and decays are not read,
since they follow from the recipe.
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchbench.core.errors import CheckpointError, first_line

_COUNTS, _SECONDS = ("step", "skipped", "averaged_since"), ("seconds", "validation_s", "waited_s")
_MOST = 2**53  # of a count
_OPTIMIZER_STATE = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.SGD: {"momentum_buffer"}}
_POSITIVE = ("step", "exp_avg_sq")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """State of a training between two steps."""

    identity: str  # hash of all that its weights depend on
    model: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]  # its `state_dict`
    progress: Mapping[str, Any]  # counts and seconds
    bf16: bool | None  # precision of the steps; None: not decided yet
    curve: list[tuple[int, float]]  # (step, loss)
    validation: list[tuple[int, float]]  # (step, Dice)


def content_of(state: TrainingState) -> bytes:
    """The bytes of a state's file."""
    content = io.BytesIO()
    torch.save({field.name: getattr(state, field.name) for field in dataclasses.fields(state)}, content)
    return content.getvalue()


def read(
    path: Path, identity: str, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, device: str
) -> TrainingState:
    """Read the state of a training with this identity, whose weights and optimizer have these shapes.

    Raises:
        CheckpointError: the file is damaged, or of another training.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise _unusable(path, f"is damaged ({first_line(error)})") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("identity"), str):
        raise _unusable(path, "is damaged (it is no state of a training)")
    if stored["identity"] != identity:
        raise _unusable(path, "is of a training with another recipe")
    try:
        progress = _progress(stored.get("progress"))
        return TrainingState(
            identity=identity,
            model=_tensors(stored.get("model"), weights, "weights"),
            average=_tensors(stored.get("average"), weights, "average"),
            optimizer=_optimizer(stored.get("optimizer"), optimizer, needed=progress["step"] > progress["skipped"]),
            progress=progress,
            bf16=_precision(stored.get("bf16")),
            curve=_points(stored.get("curve"), "curve"),
            validation=_points(stored.get("validation"), "validation"),
        )
    except ValueError as error:
        raise _unusable(path, f"is damaged ({error})") from error


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}; give --fresh, or remove it to start over")


def _tensors(stored: Any, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    if not isinstance(stored, dict) or set(stored) != set(wanted):
        raise ValueError(f"its {what} has not the entries of the network")
    return {key: _like(stored[key], like, f"{what} {key}") for key, like in wanted.items()}


def _like(stored: Any, wanted: Tensor, what: str) -> Tensor:
    """A copy of a stored tensor, if it has the shape, type and device that are wanted."""
    fits = isinstance(stored, Tensor) and stored.layout == torch.strided and not stored.is_quantized
    if not fits or (stored.shape, stored.dtype, stored.device.type) != (wanted.shape, wanted.dtype, wanted.device.type):
        raise ValueError(f"its {what} is not as in the network")
    copy: Tensor = stored.detach().clone()
    return copy


def _optimizer(stored: Any, optimizer: torch.optim.Optimizer, *, needed: bool) -> dict[str, Any]:
    fresh = optimizer.state_dict()
    groups, state = (stored.get(key) if isinstance(stored, dict) else None for key in ("param_groups", "state"))
    if not isinstance(groups, list) or not isinstance(state, dict) or not all(isinstance(g, dict) for g in groups):
        raise ValueError("its optimizer is not a state of one")
    if [group.get("params") for group in groups] != [group["params"] for group in fresh["param_groups"]]:
        raise ValueError("its optimizer is of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if needed and parameters and not state:
        raise ValueError("its optimizer has no state")
    keys = _OPTIMIZER_STATE[type(optimizer)]
    checked: dict[int, dict[str, Tensor]] = {}
    for index, entry in state.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            raise ValueError("its optimizer has a state of no parameter")
        if not isinstance(entry, dict) or set(entry) != keys:
            raise ValueError(f"its optimizer's state of parameter {index} is not {', '.join(sorted(keys))}")
        checked[index] = {key: _moment(key, value, parameters[index]) for key, value in entry.items()}
    return {"state": checked, "param_groups": fresh["param_groups"]}


def _moment(key: str, stored: Any, parameter: Tensor) -> Tensor:
    value = _like(
        stored, torch.zeros((), device=parameter.device) if key == "step" else parameter, f"optimizer's {key}"
    )
    if not bool(torch.isfinite(value).all()) or (key in _POSITIVE and bool((value < 0).any())):
        raise ValueError(f"its optimizer's {key} is not finite, or is below zero")
    return value


def _progress(stored: Any) -> dict[str, Any]:
    if not isinstance(stored, dict) or set(stored) != {*_COUNTS, *_SECONDS}:
        raise ValueError("its progress is not that of a training")
    for key in _COUNTS:
        if type(stored[key]) is not int or not 0 <= stored[key] <= (_MOST if key == "step" else stored["step"]):
            raise ValueError(f"its {key} is {stored[key]!r:.40}")
    for key in _SECONDS:
        if not _is_number(stored[key]) or stored[key] < 0:
            raise ValueError(f"its {key} is {stored[key]!r:.40}")
    return stored


def _precision(stored: Any) -> bool | None:
    if stored is not None and type(stored) is not bool:
        raise ValueError(f"its precision is {stored!r:.40}")
    return stored


def _points(stored: Any, what: str) -> list[tuple[int, float]]:
    if not isinstance(stored, list):
        raise ValueError(f"its {what} is no list")
    for point in stored:
        whole = isinstance(point, (list, tuple)) and len(point) == 2 and type(point[0]) is int
        if not whole or not 0 <= point[0] <= _MOST or not _is_number(point[1]):
            raise ValueError(f"its {what} has a point that is not a step and a number")
    return [(int(step), float(value)) for step, value in stored]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MOST and math.isfinite(value)
