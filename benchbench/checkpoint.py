"""Checkpoints: plain weights in `<name>.safetensors`, and what they are in `<name>.json` beside them.

Nothing is unpickled. A tensor that a network holds under two names (MONAI's DynUNet does) is kept
once, under the first; the file's sha256 is in the sidecar and is checked before weights are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench import records as rec
from benchbench.data.plan import DataPlan, plan_from_json, plan_to_json
from benchbench.data.source import subject_of
from benchbench.errors import CheckpointError
from benchbench.store import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What a sidecar says of its weights."""

    model: rec.ModelSpec  # without the checkpoint's own hash
    data: str  # the data set it was trained on
    spatial: tuple[int, ...]  # (D, H, W) of the patch it is to be used with, voxels
    sha256: str  # of the weights' file
    train: Mapping[str, Any]  # recipe, steps, seconds, versions, curve
    path: Path  # of the weights
    plan: DataPlan | None = None  # channels, preprocessing and regions of the data; None in older ones
    compression: Mapping[str, Any] | None = None  # what was done to a larger network; None: nothing

    @property
    def spec(self) -> rec.ModelSpec:
        """The network with these weights."""
        return dataclasses.replace(self.model, checkpoint=self.sha256)


def _pair(path: Path) -> tuple[Path, Path]:
    """Weights and sidecar, from the path of either.

    Raises:
        CheckpointError: it is the path of neither.
    """
    if path.suffix not in (".safetensors", ".json"):
        raise CheckpointError(f"{path} is no .safetensors file: weights of other kinds are not read")
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def read_sidecar(path: Path) -> CheckpointInfo:
    """What a checkpoint is, without reading its weights.

    Args:
        path: of the weights or of the sidecar.

    Raises:
        CheckpointError: no sidecar, or one that cannot be read.
    """
    weights, sidecar = _pair(path)
    try:
        data = json.loads(sidecar.read_bytes())
        return CheckpointInfo(
            model=rec.from_json(rec.ModelSpec, data["model"]),
            data=str(data["data"]),
            spatial=tuple(int(n) for n in data["spatial"]),
            sha256=str(data["sha256"]),
            train=dict(data["train"]),
            path=weights,
            plan=plan_from_json(data["plan"]) if data.get("plan") else None,
            compression=dict(data["compression"]) if data.get("compression") else None,
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {sidecar.name} beside the weights in {sidecar.parent}: it says what they are"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {sidecar}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{sidecar} does not describe a checkpoint: {what}") from error


def find(
    name: str,
    in_channels: int,
    out_channels: int,
    spatial: Sequence[int],
    plan: DataPlan,
    folders: Sequence[Path] = (),
) -> Path | None:
    """The newest weights that there are for a network on a data set, or None.

    Args:
        name: of the network's card.
        in_channels: of the network.
        out_channels: of the network.
        spatial: (D, H, W) of the patch, voxels; weights for another patch are another network's.
        plan: of the data set; weights that were trained on one of its test cases are passed over.
        folders: where trained ones are looked for, and in the folders in them; then among those that come with
            benchbench, which may be of a part of the same data set.
    """
    shipped = Path(str(importlib.resources.files("benchbench").joinpath("models", "checkpoints")))
    own = [path for folder in folders for pattern in ("*.json", "*/*.json") for path in folder.glob(pattern)]
    newest = sorted(own, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for sidecar in [*newest, *sorted(shipped.glob("*.json"))]:
        if not sidecar.with_suffix(".safetensors").exists():
            continue
        try:
            info = read_sidecar(sidecar)
        except CheckpointError:
            if sidecar.parent == shipped:
                raise
            continue  # some other JSON
        same = (info.model.name, info.model.in_channels, info.model.out_channels) == (name, in_channels, out_channels)
        of_the_data = info.data == plan.weights_key or (sidecar.parent == shipped and _name(info.data) == plan.name)
        if info.compression:
            continue  # a network of its own, asked for by its path
        if same and info.spatial == tuple(spatial) and of_the_data and not leaks(info, plan):
            return info.path
    return None


def _name(key: str) -> str:
    """`Task04_Hippocampus` of `Task04_Hippocampus:0123abcd`."""
    return key.partition(":")[0]


def leaks(info: CheckpointInfo, plan: DataPlan) -> list[str]:
    """Cases of a data set's test part whose patient weights were trained on or chosen by.

    Where the data sets have other names, equal names of cases say little (`case_001`): then a warning tells of them.
    """
    seen = {subject_of(case) for case in info.train.get("cases", ())}
    found = [case for case in plan.ids.get("test", ()) if subject_of(case) in seen]
    of_one = _name(info.data) == plan.name or (info.plan is not None and info.plan.digest == plan.digest)
    if found and not of_one:
        log.warning(
            "%s was trained on %s, which has cases of the same names as %s, such as %s: make sure that they are other "
            "patients",
            info.path,
            _name(info.data),
            plan.name,
            found[0],
        )
        return []
    return found


def sha256_of(path: Path) -> str:
    """The sha256 of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network, in place.

    Args:
        module: the network that the weights were made with.
        path: of a `.safetensors` file; if a sidecar lies beside it, the hash in it must agree.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights, sidecar = _pair(path)
    digest = sha256_of(weights)
    if sidecar.exists() and read_sidecar(sidecar).sha256 != digest:
        raise CheckpointError(
            f"{weights} is not the file that {sidecar.name} describes (its sha256 differs); get it again"
        )
    try:
        found = load(weights.read_bytes())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is damaged or no safetensors file: {error}") from error
    wanted = unique_tensors(module.state_dict())
    _same_names(wanted, found, weights)
    for key, tensor in wanted.items():
        if tensor.shape != found[key].shape:
            raise CheckpointError(
                f"{weights} belongs to another network: {key} is {tuple(found[key].shape)} in the file "
                f"and {tuple(tensor.shape)} in the network"
            )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])


_WRAPPED = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


def _same_names(wanted: Mapping[str, Tensor], found: Iterable[str], path: Path) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if not missing and not extra:
        return
    for prefix, what in _WRAPPED.items():
        if all(key.startswith(prefix) for key in found) and {key[len(prefix) :] for key in found} == set(wanted):
            raise CheckpointError(
                f"{path}: every name in it begins with {prefix!r}, which {what} puts there: save the state dict of the "
                "network within, or take the prefix off"
            )
    parts = (
        [f"{len(missing)} of its {len(wanted)} entries are not in the file, such as {missing[0]!r}"] if missing else []
    )
    parts += [f"{len(extra)} of the file are unknown to it, such as {extra[0]!r}"] if extra else []
    raise CheckpointError(f"{path} belongs to another network: {'; '.join(parts)}")


def unique_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which a tensor with several names has its first alone; the tensors are not copied."""
    seen: dict[Any, str] = {}
    for key, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else key, key)
    return {key: state[key] for key in seen.values()}


def serialised(state: Mapping[str, Tensor]) -> bytes:
    """Weights in single precision as the content of a `.safetensors` file."""
    from safetensors.torch import save as write

    plain = {
        key: (value.float() if value.is_floating_point() else value).detach().cpu().clone().contiguous()
        for key, value in unique_tensors(state).items()
    }
    content: bytes = write(plain)
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
    """Write weights in single precision, and their sidecar.

    Args:
        path: ends in `.safetensors`; its folder is made if it is not there.
        state: name -> tensor, as of `state_dict()`.
        model: the network.
        data: the data set it was trained on.
        spatial: (D, H, W) of the patch it is to be used with, voxels.
        train: how it was made; JSON values.
        plan: of the data set; kept without its cases and without where it lay.
        compression: what was done to a larger network to get this one; JSON values.

    Raises:
        CheckpointError: the files cannot be written.
    """
    weights, sidecar = _pair(path)
    content = serialised(state)
    digest = hashlib.sha256(content).hexdigest()
    described = {
        "model": rec.to_json(dataclasses.replace(model, checkpoint=None)),
        "data": data,
        "spatial": list(spatial),
        "sha256": digest,
        "train": rec.to_json(train),
    }
    if plan is not None:
        described["plan"] = plan_to_json(plan)
    if compression:
        described["compression"] = rec.to_json(compression)
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        write_whole(weights, content)
        write_whole(sidecar, (json.dumps(described, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"cannot write {weights}: {error.strerror or error}; make room or choose another folder"
        ) from error
    return read_sidecar(sidecar)
