"""CUDA devices as torch sees them: name, memory, or the one line that says why there are none.

torch is imported when a function is called. The three ways of having no CUDA (a build without it, no
driver, no device) need three different remedies, so the error tells them apart.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from benchbench.core.errors import DeviceError
from benchbench.core.records import Device

_REMEDY = "use '--device cpu', or predict with a profile such as '--device rtx-4090' ('bench list devices' shows all)"


def probe(index: int = 0, *, asked: str | None = None) -> Device:
    """The CUDA device of that index, as torch counts; `asked` is the word on the command line.

    Raises:
        DeviceError: there is none; the line says what torch sees.
    """
    name = str(torch_with(index).cuda.get_device_name(index))
    return Device(kind="cuda", name=name, basis="probed", asked=asked or (f"cuda:{index}" if index else "cuda"))


def memory_bytes(index: int = 0) -> tuple[int, int]:
    """(free, total) bytes of the device; starts a CUDA context in this process, which itself takes some.

    Raises:
        DeviceError: there is no such device.
    """
    free, total = torch_with(index).cuda.mem_get_info(index)
    return int(free), int(total)


def require() -> None:
    """Refuse a `--device cuda` where there is no GPU.

    Raises:
        DeviceError: PyTorch sees none, and why.
    """
    try:
        torch_with(0)
    except DeviceError as error:
        raise DeviceError(f"--device cuda: PyTorch sees no GPU here: {error}") from error


def torch_with(index: int) -> Any:
    """The torch module, once it is sure that it has this device."""
    why: str
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise DeviceError(f"cuda asked for and absent: torch cannot be imported ({error}); {_REMEDY}") from error
    if not torch.backends.cuda.is_built():
        why = f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch, or {_REMEDY}"
    elif torch.cuda.is_available():
        count = int(torch.cuda.device_count())
        if index < count:
            return torch
        why = f"torch sees {count} device(s), so cuda:0 to cuda:{count - 1}, and cuda:{index} is none of them"
        raise DeviceError(f"cuda:{index} asked for and absent: {why}; use one of those or '--device cpu'")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        why = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every device; unset it, or {_REMEDY}"
    elif int(torch.cuda.device_count()) == 0:
        why = f"torch {torch.__version__} sees no driver or no device (does 'nvidia-smi' list one?); {_REMEDY}"
    else:
        why = (
            f"torch {torch.__version__} cannot start the driver it sees "
            f"(is it too old for CUDA {torch.version.cuda}?); {_REMEDY}"
        )
    raise DeviceError(f"cuda asked for and absent: {why}")
