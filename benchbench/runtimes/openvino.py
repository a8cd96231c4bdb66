"""OpenVINO on a CPU: an intermediate representation (IR), with every setting that decides a fair time made explicit.

OpenVINO's own default precision is bf16 where the processor has it, so fp32 is asked for in words. int8 files hold
their quantization; the rest of such a network is computed in fp32.

Nothing is sent: OpenVINO's telemetry, which reports an import, finds no package to report with.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError
from benchbench.core.version import installed

if TYPE_CHECKING:
    from benchbench.runtimes.prepared import Forward, PreparedNetwork

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_TELEMETRY = "openvino_telemetry"


def settings(dtype: str, threads: int | None) -> dict[str, Any]:
    """How a network is compiled."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or 0,
        "ENABLE_CPU_PINNING": False,  # the process has its cores already
    }


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Inside, the package that sends usage data cannot be imported, and its users take their stubs."""
    missing = object()
    before = sys.modules.get(_TELEMETRY, missing)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]


def library() -> ModuleType:
    """OpenVINO, imported so that nothing is sent."""
    with without_telemetry():
        return importlib.import_module("openvino")


def check(dtype: str) -> None:
    """Refuse a precision that this processor has no instructions for.

    Raises:
        UnsupportedError: it has none.
    """
    capabilities = library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype in _CAPABILITIES and _CAPABILITIES[dtype] not in capabilities:
        raise UnsupportedError(f"this processor has no {dtype} in OpenVINO: take --dtype fp32")


def convert(onnx: Path, out: Path, dtype: str) -> tuple[Path, ...]:
    """Make an IR from an ONNX file, which for int8 is an IR already; weights stay in fp32."""
    ov = library()
    ov.save_model(ov.Core().read_model(str(onnx)), str(out), compress_to_fp16=False)
    return out, out.with_suffix(".bin")


def versions() -> dict[str, str]:
    """Of what runs it."""
    return {"openvino": str(installed("openvino"))}


def open_file(prepared: PreparedNetwork, threads: int | None, gpu: int) -> Forward:
    """Load an IR."""
    ov = library()
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(prepared.path)), "CPU", settings(prepared.dtype, threads))
    request: Any = compiled.create_infer_request()

    def forward(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        request.infer({0: x}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)  # a copy: the next call writes into it

    return forward
