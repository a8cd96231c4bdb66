"""ONNX Runtime on a CPU: the ONNX file as it was exported, or with quantize and dequantize nodes for int8."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.version import installed
from benchbench.runtimes.prepared import INPUT, OUTPUT

if TYPE_CHECKING:
    from benchbench.runtimes.prepared import Forward, PreparedNetwork


def library() -> ModuleType:
    """ONNX Runtime."""
    return importlib.import_module("onnxruntime")


def check(dtype: str) -> None:
    """Every processor can do what it offers."""


def convert(onnx: Path, out: Path, dtype: str) -> tuple[Path, ...]:
    """Make its file from an ONNX file, which for int8 is quantized already; returns all that belongs to it."""
    shutil.copyfile(onnx, out)
    weights = onnx.with_name(onnx.name + ".data")
    if not weights.exists():
        return (out,)
    shutil.copyfile(weights, out.with_name(weights.name))
    return (out, out.with_name(weights.name))


def versions() -> dict[str, str]:
    """Of what runs it."""
    return {"onnxruntime": str(installed("onnxruntime"))}


def open_file(prepared: PreparedNetwork, threads: int | None, gpu: int) -> Forward:
    """Load a file; its threads stop spinning between calls, so that they take nothing from others."""
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session: Any = onnxruntime.InferenceSession(str(prepared.path), options, providers=["CPUExecutionProvider"])

    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        output: npt.NDArray[np.float32] = session.run([OUTPUT], {INPUT: x})[0]  # a new array in each call
        return output

    return forward
