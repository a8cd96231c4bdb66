"""Post-training quantization to int8 by NNCF: weights per channel, activations by ranges of calibration patches.

Both routes begin at the ONNX file, since quantizing what OpenVINO makes of a module in memory has been seen to end the
process. OpenVINO gets an IR, ONNX Runtime an ONNX file with quantize and dequantize nodes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError, named_line
from benchbench.runtimes import openvino
from benchbench.runtimes.calibration import CalibrationPatches
from benchbench.runtimes.prepared import INPUT, Forward

#: A forward of the network as it is quantized so far -> its mean Dice on the validation cases.
Validate = Callable[[Forward], float]


def library() -> ModuleType:
    """NNCF, imported so that nothing is sent."""
    with openvino.without_telemetry():
        openvino.library()
        nncf = importlib.import_module("nncf")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        return nncf


def quantize(
    onnx: Path,
    out: Path,
    runtime: str,
    patches: CalibrationPatches,
    *,
    validate: Validate | None = None,
    most_loss: float | None = None,
) -> Path:
    """Quantize an ONNX file for a runtime.

    Args:
        out: folder that gets the file.
        runtime: `openvino`, whose result is an IR, or `onnxruntime`, whose result is an ONNX file.
        validate: with `most_loss`: what layers are quantized is reduced until the Dice loses less than that.

    Raises:
        UnsupportedError: NNCF cannot quantize it; one line with its reason.
    """
    nncf = library()
    try:
        if runtime == "openvino":
            ov = openvino.library()
            model = ov.Core().read_model(str(onnx))
            dataset = nncf.Dataset(patches)
            if validate is None or most_loss is None:
                quantized = nncf.quantize(model, dataset, subset_size=len(patches))
            else:
                quantized = nncf.quantize_with_accuracy_control(
                    model,
                    calibration_dataset=dataset,
                    validation_dataset=nncf.Dataset([0]),
                    validation_fn=lambda compiled, _: (validate(_forward(compiled)), None),
                    max_drop=most_loss,
                    subset_size=len(patches),
                )
            path = out / "quantized.xml"
            ov.save_model(quantized, str(path), compress_to_fp16=False)
            return path
        if most_loss is not None:
            raise UnsupportedError("--int8-accuracy is of OpenVINO alone: leave it out, or take --runtime openvino")
        import onnx as onnx_library

        dataset = nncf.Dataset(patches, lambda patch: {INPUT: patch})
        quantized = nncf.quantize(onnx_library.load(str(onnx)), dataset, subset_size=len(patches))
        path = out / "quantized.onnx"
        onnx_library.save(quantized, str(path))
        return path
    except (UnsupportedError, MemoryError, OSError):
        raise
    except Exception as error:  # whatever NNCF raises for a graph that it cannot quantize
        raise UnsupportedError(f"it cannot be quantized to int8: {named_line(error)}") from error


def _forward(compiled: Any) -> Forward:
    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array(compiled(x)[0], np.float32)

    return forward
