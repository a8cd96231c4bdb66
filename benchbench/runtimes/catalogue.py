"""Runtimes by name: what each is, what it needs, and which precisions it has on which device.

A runtime in PyTorch runs the network's own module, rewritten or compiled. The others run a file, without PyTorch in
the process.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType

from benchbench.core.errors import UnsupportedError, UsageError, unknown

EAGER = "eager"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One way to run a network."""

    name: str
    title: str
    in_pytorch: bool  # else it runs a file
    dtypes: Mapping[str, tuple[str, ...]]  # backend (`cpu`, `cuda`) -> precisions that it has there
    needs: tuple[str, ...] = ()  # modules that run its file
    makes: tuple[str, ...] = ()  # modules that make it, besides
    advice: str = ""  # what to do where one of them is missing
    ending: str = ""  # of its file
    is_measured: bool = True  # `bench run` has it; else it is a form for export alone

    def load(self) -> ModuleType:
        """Its module of `benchbench.runtimes`, with `convert` and `open_file`."""
        return importlib.import_module(f"benchbench.runtimes.{self.name.replace('-', '_')}")

    def missing(self, *more: str) -> str | None:
        """Why its files cannot be run here, and what to do; None where all that this needs is installed.

        Args:
            more: modules that are needed besides, such as those that make the files.
        """
        absent = [name for name in (*self.needs, *more) if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} not installed: {self.advice}" if absent else None


_EXPORTER = ("onnx", "onnxscript")
_OPENVINO = "pip install 'benchbench[openvino]'"
_ONNX = "pip install 'benchbench[onnx]'"

RUNTIMES: Mapping[str, Runtime] = {
    r.name: r
    for r in (
        Runtime(
            name=EAGER,
            title="PyTorch, eager",
            in_pytorch=True,
            dtypes={"cpu": ("fp32", "bf16", "fp16"), "cuda": ("fp32", "bf16", "fp16")},
        ),
        Runtime(
            name="eager-optimized",
            title="PyTorch, eager, network rewritten for inference",
            in_pytorch=True,
            dtypes={"cpu": ("fp32",), "cuda": ("fp32",)},
        ),
        Runtime(
            name="compile",
            title="PyTorch, torch.compile (Inductor)",
            in_pytorch=True,
            dtypes={"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")},
        ),
        Runtime(
            name="onnxruntime",
            title="ONNX Runtime",
            in_pytorch=False,
            dtypes={"cpu": ("fp32", "int8")},
            needs=("onnxruntime",),
            makes=_EXPORTER,
            advice=_ONNX,
            ending=".onnx",
        ),
        Runtime(
            name="openvino",
            title="OpenVINO",
            in_pytorch=False,
            dtypes={"cpu": ("fp32", "bf16", "fp16", "int8")},
            needs=("openvino",),
            makes=_EXPORTER,
            advice=_OPENVINO,
            ending=".xml",
        ),
        Runtime(
            name="tensorrt",
            title="TensorRT",
            in_pytorch=False,
            dtypes={"cuda": ("fp32", "fp16", "int8")},
            needs=("tensorrt",),
            makes=_EXPORTER,
            advice="install the tensorrt Python package of the board or of the driver, and 'benchbench[onnx]'",
            ending=".engine",
        ),
        Runtime(
            name="torch-export",
            title="PyTorch, torch.export",
            in_pytorch=False,
            dtypes={"cpu": ("fp32",), "cuda": ("fp32",)},
            needs=("torch",),
            ending=".pt2",
            is_measured=False,
        ),
    )
}

#: What `bench run` can measure.
MEASURED = tuple(name for name, runtime in RUNTIMES.items() if runtime.is_measured)


def get_runtime(name: str) -> Runtime:
    """A runtime by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RUNTIMES:
        raise UsageError(unknown("runtime", name, RUNTIMES))
    return RUNTIMES[name]


def check(name: str, dtype: str, backend: str) -> None:
    """Refuse what a runtime cannot do here, before anything is built.

    Args:
        backend: `cpu` or `cuda`.

    Raises:
        UsageError: there is no runtime of that name.
        UnsupportedError: it does not run on this device, has no such precision there, or is not installed.
    """
    runtime = get_runtime(name)
    dtypes = runtime.dtypes.get(backend)
    if dtypes is None:
        raise UnsupportedError(f"{runtime.title} does not run on {backend} here, only on {', '.join(runtime.dtypes)}")
    if dtype not in dtypes:
        raise UnsupportedError(f"{runtime.title} has no {dtype} on {backend}, only {', '.join(dtypes)}")
    if runtime.in_pytorch:
        return
    quantizer = ("openvino", "nncf") if dtype == "int8" and name != "tensorrt" else ()
    if why := runtime.missing(*runtime.makes, *quantizer):
        raise UnsupportedError(why)
    runtime.load().check(dtype)


def of_file(ending: str) -> Runtime:
    """The runtime of a prepared network's file.

    Raises:
        UsageError: no runtime has such files.
    """
    for runtime in RUNTIMES.values():
        if runtime.ending and runtime.ending == ending:
            return runtime
    endings = ", ".join(r.ending for r in RUNTIMES.values() if r.ending)
    raise UsageError(f"no runtime reads {ending or 'a file without an ending'}: exported networks end in {endings}")
