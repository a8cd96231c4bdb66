"""Weights of other programs: PyTorch's pickles and safetensors, read without running what is in them.

`torch.load(weights_only=True)` builds tensors and plain containers alone. Beside them it is allowed the number types of
numpy, which trainings keep their losses in. A file that asks for anything else is refused by the name of what it asks
for, and nothing of it is imported.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbench.core.errors import CheckpointError, first_line, os_error_as, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Where a checkpoint keeps its weights, the first that is there.
KEYS = ("network_weights", "state_dict", "model_state_dict", "model", "ema")
#: What wrappers put before the names of a network's weights: DataParallel, torch.compile, and classes around it.
PREFIXES = ("module.", "_orig_mod.", "net.", "model.")

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

_FEW = 5  # names in a message
#: What a damaged file makes torch raise.
_DAMAGED = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)
_NUMPY_DTYPES = ("Float", "Int", "UInt", "Bool")  # how the dtype classes of numbers begin
#: How PyTorch names what it refuses.
_REFUSED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to \w+ unsupported \w+) (\S+)")


def read(path: Path) -> Any:
    """What a file of weights holds, in memory of its own or mapped from it.

    Args:
        path: of a `.safetensors` file, or one that `torch.save` wrote.

    Raises:
        CheckpointError: it is missing, damaged, TorchScript, or holds more than tensors, numbers and containers.
    """
    with os_error_as(CheckpointError, f"cannot read {path}"):
        if not path.is_file():
            raise CheckpointError(f"no weights at {path}: no such file")
        if path.suffix == ".safetensors":
            return _safetensors(path)
        is_zip = zipfile.is_zipfile(path)
        if is_zip and _is_script(path):
            raise CheckpointError(
                f"{path} is TorchScript, which is a program and not read: save the state_dict of the network that it "
                "was made from"
            )
        return _unpickled(path, is_zip)


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {first_line(error)}") from error


def _is_script(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return False
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Numpy's scalars, in the names of numpy 1 and 2, and the dtypes of numbers."""
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    dtypes = [kind for name, kind in vars(np.dtypes).items() if name.startswith(_NUMPY_DTYPES)]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [np.dtype, *dtypes, *((scalar, name) for name in names)]


def _unpickled(path: Path, is_zip: bool) -> Any:
    import torch

    with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pickles that another program wrote
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
        except (pickle.UnpicklingError, *_DAMAGED) as error:
            if asked := _asked_for(path, str(error)):
                raise CheckpointError(
                    f"{path} is a pickle that holds more than weights ({asked}), which would be run to read it, so it "
                    "is refused: load it where it was made, and save the state_dict of its network alone"
                ) from error
            raise CheckpointError(f"{path} is damaged, or no file that torch.save wrote: get it again") from error


def _asked_for(path: Path, message: str) -> str:
    """What a refused pickle wants to import, such as `os.system`; empty where it is another fault."""
    import torch

    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (pickle.UnpicklingError, *_DAMAGED):
        names = []  # no zip archive: of the form before PyTorch 1.6, or a pickle of another program
    return _listed(names or [name.rstrip(".,") for name in _REFUSED.findall(message)] or _imports_of(path))


def _imports_of(path: Path) -> list[str]:
    """What a plain pickle imports, from its operations, none of which is carried out."""
    names, texts = [], ["", ""]
    try:
        with open(path, "rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, *_DAMAGED):
        return []  # no pickle, or it ends too early
    return list(dict.fromkeys(names))


def _listed(names: list[str], most: int = _FEW) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def state_dict_of(content: Any, path: Path, key: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in what `read` gave, and notes on where they were.

    Args:
        key: under which they are; None: the first of `KEYS` that is there, or the whole.

    Raises:
        CheckpointError: there are none, or not under that key.
    """
    import torch

    notes: list[str] = []
    at = content
    for depth in range(3):  # such as {"ema": {"state_dict": ...}}
        if isinstance(at, torch.Tensor) or not isinstance(at, Mapping):
            break
        if key is not None and depth == 0:
            if key not in at:
                raise CheckpointError(f"{path}: {unknown('key', key, map(str, at))}")
            found = [key]
        else:
            found = [name for name in KEYS if isinstance(at.get(name), Mapping)]
        if not found:
            break
        if len(found) > 1:
            others = ", ".join(repr(name) for name in found[1:])
            notes.append(f"the weights under {found[0]!r} are taken; the file has others under {others} (--key)")
        at = at[found[0]]
    tensors = {str(name): value for name, value in at.items()} if isinstance(at, Mapping) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        has = ", ".join(sorted(map(str, content))[:_FEW]) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path} holds no state dict (it has {has}): weights are looked for under {', '.join(KEYS)}, or name "
            "their key with --key"
        )
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise CheckpointError(f"{path}: {name} is no plain tensor of real numbers ({value.dtype}, {value.layout})")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers, so its network computes nothing")
    kinds = sorted({str(v.dtype).removeprefix("torch.") for v in tensors.values() if v.is_floating_point()})
    if kinds not in ([], ["float32"]):
        notes.append(f"weights in {', '.join(kinds)} are kept in float32")
    return tensors, notes


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Put weights into a network, in place; wrappers' prefixes are stripped where the names fit better without.

    Args:
        path: they are from, for messages.

    Returns:
        Notes on what was stripped.

    Raises:
        CheckpointError: names or shapes differ; the first five of each kind are listed.
    """
    import torch

    from benchbench.zoo.checkpoint import unique_tensors

    wanted = module.state_dict()
    state, notes = _without_prefixes(dict(state), wanted)
    tied: dict[int, list[str]] = {}  # a tensor of several names may be in the file under any of them
    for name, tensor in wanted.items():
        tied.setdefault(tensor.data_ptr() if tensor.numel() else hash(name), []).append(name)
    needed = unique_tensors(wanted)
    alias = {
        name: next((other for other in names if other in state), name)
        for names in tied.values()
        for name in names
        if name in needed
    }
    missing = [name for name in needed if alias[name] not in state]
    extra = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[alias[name]].shape)} for {tuple(tensor.shape)}"
        for name, tensor in needed.items()
        if alias[name] in state and state[alias[name]].shape != tensor.shape
    ]
    if missing or extra or shapes:
        parts = [f"{len(missing)} of its {len(needed)} entries are missing ({_listed(missing)})"] if missing else []
        parts += [f"{len(extra)} are not of it ({_listed(extra)})"] if extra else []
        parts += [f"{len(shapes)} have another shape ({_listed(shapes)})"] if shapes else []
        raise CheckpointError(f"{path} does not fit the network {type(module).__name__}: {'; '.join(parts)}")
    with torch.no_grad():
        for name, tensor in needed.items():
            tensor.copy_(state[alias[name]])
    return notes


def _without_prefixes(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    while True:
        fitting = sum(name in wanted for name in state)
        for prefix in PREFIXES:
            stripped = {name.removeprefix(prefix): value for name, value in state.items()}
            starts = sum(name.startswith(prefix) for name in state)
            better = sum(name in wanted for name in stripped) > fitting
            inside = 2 * starts > len(state) and not fitting  # another one may stand behind it
            if starts and len(stripped) == len(state) and (better or inside):
                state = stripped
                notes.append(f"{prefix!r} was stripped from the names of {starts} weights")
                break
        else:
            return state, notes
