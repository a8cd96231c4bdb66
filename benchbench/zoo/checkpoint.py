"""Checkpoints: weights in `<name>.safetensors`, described in its header and in `<name>.json` beside it.

Nothing is unpickled. A tensor that a network holds under two names (MONAI's DynUNet does) is kept once, under the
first. The sidecar is written twice: what stands in the header came with the weights in one step, so it counts; the
`.json` is for people, and for older files, which have it alone.

Weights are known by the sha256 of the file without that header's description: of an older file, that of the file. So
equal weights have one sha256, whatever is said of them, and it is checked before they are used. Equal trainings also
give equal files, since how long they took stands in the `.json` alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core.config import parse_json
from benchbench.core.errors import CheckpointError, os_error_as, told
from benchbench.core.results import write_whole
from benchbench.data.plan import DataPlan, plan_from_json, plan_to_json
from benchbench.data.source import subject_of
from benchbench.zoo.safetensors_header import KEY, METADATA, own_description, read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

RESUME = ".resume"  # ending of the file that an interrupted training goes on from
STATE = ".state"  # ending of the file that a finished training leaves for a longer one
#: Of a training: differ between equal ones.
_PASSING = ("seconds", "validation_seconds", "waited_for_data", "step_seconds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What a sidecar says of its weights."""

    model: rec.ModelSpec  # without the checkpoint's own hash
    data: str  # the data set it was trained on
    spatial: rec.Sides  # (D, H, W) of the patch it is to be used with, voxels
    sha256: str  # of the weights' file
    train: Mapping[str, Any]  # recipe, steps, seconds, versions, curve; `_Trained` is what commands read of it
    path: Path  # of the weights
    plan: DataPlan | None = None  # channels, preprocessing and regions of the data; None in older ones
    compression: Mapping[str, Any] | None = None  # what was done to a larger network; None: nothing

    @property
    def spec(self) -> rec.ModelSpec:
        """The network with these weights."""
        return dataclasses.replace(self.model, checkpoint=self.sha256)

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """What `bench import` knew of a network that another program trained, be it pruned since; None: it is none."""
        told = self.train.get("imported")
        return told if isinstance(told, Mapping) else None

    @property
    def knows_its_cases(self) -> bool:
        """Whether it says which cases it was trained on."""
        return self.imported is None or self.imported.get("cases_known") is True

    @property
    def mirror(self) -> tuple[int, ...] | None:
        """Axes, 0 to 2, along which its training mirrored patches; None: it does not say."""
        recipe = self.train.get("recipe")
        axes = recipe.get("mirror") if isinstance(recipe, Mapping) else None
        if not isinstance(axes, (list, tuple)) or any(type(axis) is not int or not 0 <= axis <= 2 for axis in axes):
            return None
        return tuple(axes)


def file_name(name: str) -> str:
    """A network's name as part of a file's: `mynets-MyNet` of the class `mynets:MyNet`."""
    return re.sub(r"[^\w.+=-]+", "-", name)


def _pair(path: Path) -> tuple[Path, Path]:
    """Weights and sidecar, from the path of either."""
    if path.suffix not in (".safetensors", ".json"):
        raise CheckpointError(f"{path} is no .safetensors file: weights of other kinds are not read")
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def located(path: Path) -> Path:
    """The weights in a folder that holds those of one network, such as `bench import` writes; another path as it is.

    Raises:
        CheckpointError: the folder holds those of several, or of none.
    """
    with os_error_as(CheckpointError, f"cannot read {path}"):
        if not path.is_dir():
            return path
        inside = sorted(path.glob("*.safetensors"))
    if len(inside) != 1:
        what = f"several networks: name one of them, such as {inside[0]}" if inside else "no weights (.safetensors)"
        raise CheckpointError(f"{path} is a folder with {what}")
    return inside[0]


def files_of(path: Path) -> tuple[Path, ...]:
    """All that a checkpoint, finished or not, is kept in: weights, sidecar, and what a training goes on from."""
    return (*_pair(path), path.with_suffix(RESUME))


def set_aside(path: Path) -> None:
    """Give what there is of a checkpoint, finished or not, other names; see `core.results.set_aside`.

    Raises:
        CheckpointError: it cannot be renamed.
    """
    with os_error_as(CheckpointError, f"cannot set {path} aside", "choose another --out"):
        for aside in core_results.set_aside(files_of(path)):
            log.warning("set aside as %s", aside)


def read_sidecar(path: Path) -> CheckpointInfo:
    """What a checkpoint is, without reading its weights.

    Args:
        path: of the weights, of the sidecar, or of the folder of one network.

    Raises:
        CheckpointError: nothing says what it is, or what does cannot be read.
    """
    weights, sidecar = _pair(located(path))
    inside, beside = _described_inside(weights), _described_beside(sidecar)
    if beside is None and inside is None:
        raise CheckpointError(f"no {sidecar.name} beside the weights in {sidecar.parent}, which would describe them")
    info = None if beside is None else _info(beside, sidecar, weights)  # a broken one is told, needed or not
    if inside is None or (info and _lasting(beside) == _lasting(inside)):
        assert info
        return info
    return _info(inside, weights, weights)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What commands read of a training; its description has other keys beside these."""

    cases: tuple[str, ...] = ()
    fold: int = 0
    seconds: Annotated[float, rec.AtLeast(0)] = 0.0
    validation_seconds: Annotated[float, rec.AtLeast(0)] = 0.0


def _info(data: Any, where: Path, weights: Path) -> CheckpointInfo:
    try:
        described = rec.value_from_json(Mapping[str, Any], data, "it")
        info = rec.from_json(CheckpointInfo, {**described, "path": weights, "plan": None})
        rec.from_json(_Trained, info.train, "train")
        if not re.fullmatch("[0-9a-f]{64}", info.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, not {told(info.sha256)}")
        plan = None if described.get("plan") in (None, {}) else plan_from_json(described["plan"])
        return dataclasses.replace(info, plan=plan, compression=info.compression or None)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where} does not describe a checkpoint: {what}") from error


def _described_inside(weights: Path) -> Any | None:
    """What the header of a weights' file says of them; None: nothing, or it is no such file."""
    with os_error_as(CheckpointError, f"cannot read {weights}"):
        if not weights.exists():
            return None
        with open(weights, "rb") as file:
            header, _ = read_header(file)
    text = own_description(header)
    return None if text is None else parse_json(text, f"the header of {weights}", CheckpointError)


def _described_beside(sidecar: Path) -> Any | None:
    """What the `.json` says; None: there is none."""
    with os_error_as(CheckpointError, f"cannot read {sidecar}"):
        content = sidecar.read_bytes() if sidecar.exists() else None
    where = f"{sidecar} does not describe a checkpoint: it"
    return None if content is None else parse_json(content, where, CheckpointError)


def _lasting(described: Any) -> Any:
    """A description without what differs between equal trainings: how long they took."""
    if not isinstance(described, dict) or not isinstance(described.get("train"), dict):
        return described
    return {**described, "train": {key: v for key, v in described["train"].items() if key not in _PASSING}}


def check_mirror(axes: Sequence[int] | None, weights: object) -> tuple[int, ...]:
    """The axes that the logits of weights can be averaged along.

    Args:
        axes: along which their training mirrored patches; None: they do not say.
        weights: as the message names them.

    Raises:
        CheckpointError: there are none.
    """
    if not axes:
        why = (
            "does not say along which axes its training mirrored patches"
            if axes is None
            else "never saw a mirror image"
        )
        raise CheckpointError(f"{weights} {why}: leave --test-time-mirroring out")
    return tuple(axes)


def leaks(info: CheckpointInfo, plan: DataPlan) -> list[str]:
    """Cases of a data set's test part whose patient weights were trained on or chosen by.

    Where the data sets have other names, equal names of cases say little (`case_001`): then a warning tells of them.
    """
    seen = {subject_of(case) for case in info.train.get("cases", ())}
    leaked = [case for case in plan.ids.get("test", ()) if subject_of(case) in seen]
    of_one = plan.is_named_by(info.data) or (info.plan is not None and info.plan.digest == plan.digest)
    if not info.knows_its_cases and plan.ids.get("test"):
        log.warning(
            "%s does not say which cases it was trained on: a Dice of cases of %s that it has seen is too high",
            *(info.path, plan.name),
        )
    if leaked and not of_one:
        log.warning(
            "%s was trained on %s, which has cases of the same names as %s, such as %s: make sure that they are other "
            "patients",
            *(info.path, info.data.partition(":")[0], plan.name, leaked[0]),
        )
        return []
    return leaked


def sha256_of(path: Path) -> str:
    """The sha256 by which weights are known: of their file, without what `save` has put into its header.

    Raises:
        CheckpointError: it cannot be read.
    """
    with os_error_as(CheckpointError, f"cannot read {path}"):
        if not path.exists():
            raise CheckpointError(f"no checkpoint at {path}: no such file")
        with open(path, "rb") as file:
            header, read = read_header(file)
            if own_description(header) is not None:
                plain = {key: value for key, value in header.items() if key != METADATA}
                try:
                    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
                except ValueError as error:  # text that is no Unicode
                    raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
                text += b" " * (-len(text) % 8)  # as the format has it
                read = len(text).to_bytes(8, "little") + text
            digest = hashlib.sha256(read)
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network, in place.

    Args:
        path: of a `.safetensors` file, or of the folder of one; the hash in its header, or else in a sidecar beside
            it, must agree.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights, sidecar = _pair(located(path))
    digest = sha256_of(weights)
    inside = _described_inside(weights)
    if (inside is not None or sidecar.exists()) and read_sidecar(weights).sha256 != digest:
        by = sidecar.name if sidecar.exists() else "its own header"
        raise CheckpointError(f"{weights} is not the file that {by} describes (its sha256 differs); get it again")
    if inside is not None and sidecar.exists() and _lasting(_described_beside(sidecar)) != _lasting(inside):
        log.warning("%s contradicts the description inside the weights, which counts", sidecar)
    try:
        state = load(weights.read_bytes())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is damaged or no safetensors file: {error}") from error
    wanted = unique_tensors(module.state_dict())
    _same_names(wanted, state, weights)
    for key, tensor in wanted.items():
        if tensor.shape != state[key].shape:
            raise CheckpointError(
                f"{weights} belongs to another network: {key} is {tuple(state[key].shape)} in the file "
                f"and {tuple(tensor.shape)} in the network"
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(state[key])


_WRAPPED = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


def _same_names(wanted: Mapping[str, Tensor], names: Iterable[str], path: Path) -> None:
    missing, extra = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    if not missing and not extra:
        return
    for prefix, what in _WRAPPED.items():
        if all(key.startswith(prefix) for key in names) and {key[len(prefix) :] for key in names} == set(wanted):
            raise CheckpointError(
                f"{path}: every name in it begins with {prefix!r}, which {what} puts there: save the state dict of the "
                "network within, or take the prefix off"
            )
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(wanted)} entries are not in the file, such as {missing[0]!r}")
    if extra:
        parts.append(f"{len(extra)} of the file are unknown to it, such as {extra[0]!r}")
    raise CheckpointError(f"{path} belongs to another network: {'; '.join(parts)}")


def unique_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which a tensor with several names has its first alone; the tensors are not copied."""
    seen: dict[Any, str] = {}
    for key, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else key, key)
    return {key: state[key] for key in seen.values()}


def serialised(state: Mapping[str, Tensor], description: str | None = None) -> bytes:
    """Weights in single precision as the content of a `.safetensors` file."""
    from safetensors.torch import save as write

    plain = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().clone().contiguous()
        for key, value in unique_tensors(state).items()
    }
    content: bytes = write(plain, metadata=None if description is None else {KEY: description})
    return content


def save(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    model: rec.ModelSpec,
    data: str,
    spatial: Sequence[int],
    train: Mapping[str, Any],
    plan: DataPlan | None = None,
    compression: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """Write weights in single precision with what they are, in one step, and then their sidecar for people.

    Args:
        state: name -> tensor, as of `state_dict()`.
        spatial: (D, H, W) of the patch it is to be used with, voxels.
        train: how it was made; JSON values.
        plan: of the data set; kept without its cases and without where it lay.
        compression: what was done to a larger network to get this one; JSON values.

    Raises:
        CheckpointError: the files cannot be written.
    """
    weights, sidecar = _pair(path)
    described = {
        "model": rec.to_json(dataclasses.replace(model, checkpoint=None)),
        "data": data,
        "spatial": list(spatial),
        "sha256": hashlib.sha256(serialised(state)).hexdigest(),
        "train": rec.to_json(train),
    }
    if plan is not None:
        described["plan"] = plan_to_json(plan)
    if compression:
        described["compression"] = rec.to_json(compression)
    content = serialised(state, json.dumps(_lasting(described), allow_nan=False))
    with os_error_as(CheckpointError, f"cannot write {weights}", "make room or choose another folder"):
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_whole(weights, content)
        write_whole(sidecar, (json.dumps(described, indent=1, allow_nan=False) + "\n").encode())
    return read_sidecar(weights)


def copy(source: Path, target: Path) -> None:
    """Copy weights and what says what they are, in an order in which a kill leaves no pair that disagrees.

    Raises:
        CheckpointError: they cannot be read or written.
    """
    (weights, sidecar), (to, beside) = _pair(source), _pair(target)
    with os_error_as(CheckpointError, f"cannot copy {weights} to {to}"):
        to.parent.mkdir(parents=True, exist_ok=True)
        if _described_inside(weights) is None:  # then the sidecar is needed as soon as the weights are there
            to.unlink(missing_ok=True)
            write_whole(beside, sidecar.read_bytes())
            write_whole(to, weights.read_bytes())
            return
        write_whole(to, weights.read_bytes())
        if sidecar.exists():
            write_whole(beside, sidecar.read_bytes())
