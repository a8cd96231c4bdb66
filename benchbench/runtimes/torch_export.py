"""torch.export: a program (.pt2) that PyTorch runs without the network's class."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError
from benchbench.core.version import installed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchbench.runtimes.prepared import Forward, PreparedNetwork


def library() -> ModuleType:
    """PyTorch."""
    return importlib.import_module("torch")


def check(dtype: str) -> None:
    """Every processor can do what it offers."""


def versions() -> dict[str, str]:
    """Of what runs it."""
    return {"torch": str(installed("torch"))}


def save(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network as a program for inputs of one size.

    Args:
        network: in eval mode.
        example: (B, C, D, H, W) float32.

    Raises:
        UnsupportedError: it cannot be exported; one line with the exporter's reason.
    """
    import torch

    from benchbench.runtimes.onnx_file import MainOutput, innermost_line

    try:
        with torch.no_grad():
            torch.export.save(torch.export.export(MainOutput(network).eval(), (example,)), path)
    except (MemoryError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # the exporter raises many kinds
        raise UnsupportedError(f"torch.export cannot export it: {innermost_line(error)}") from error


def open_file(prepared: PreparedNetwork, threads: int | None, gpu: int) -> Forward:
    """Load a program; the threads are those of the whole process."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    program: Any = torch.export.load(prepared.path).module()

    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(program(torch.from_numpy(x)).numpy())

    return forward
