"""TensorRT on an NVIDIA GPU or Jetson: an engine, built from the ONNX file by the board's own `tensorrt` package.

An engine runs on the GPU and by the version of TensorRT that it was built for, and says so. Norms stay in fp32: the
variance of a volume overflows fp16, and masks are then wrong without a warning.

Buffers are PyTorch's CUDA tensors, and TensorRT takes its memory from PyTorch's allocator. Whatever measures a GPU here
(events, peak of memory) is PyTorch's, which is a dependency anyway; so the peak covers the engine, and boards need no
cuda-python. A forward takes and gives arrays, so the copies to the GPU and back are in its time.

TensorRT 10 is needed; 11 has fp32 alone, since it has removed the flags and calibrators by which it chose precisions.

Source: NVIDIA, "TensorRT Python API reference" 10 and "Migrating from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core import cache
from benchbench.core.errors import UnsupportedError
from benchbench.core.records import content_hash
from benchbench.core.results import write_whole
from benchbench.core.version import installed
from benchbench.runtimes.prepared import INPUT, OUTPUT, PreparedError, check_made_for

if TYPE_CHECKING:
    from benchbench.runtimes.calibration import CalibrationPatches
    from benchbench.runtimes.prepared import Forward, PreparedNetwork

log = logging.getLogger(__name__)

_NEEDED = 10  # major version: older ones have another API, newer ones no precisions by flags
#: Names of `BuilderFlag`. What int8 has no kernel for runs in fp16.
_FLAGS = {
    "fp32": (),
    "fp16": ("FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "int8": ("INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"),
}
#: Names of `LayerType` whose sums over a volume overflow fp16, and what the exporter calls such nodes.
_SUMMING = ("NORMALIZATION", "REDUCE")
_NORM_NODE = re.compile(r"(instance|layer|group)_?norm", re.IGNORECASE)
_MOST_WORKSPACE_BYTES = 8_000_000_000
_CALIBRATED = re.compile(r"TRT-(\d+)-EntropyCalibration2")
Array = npt.NDArray[np.float32]


# -- what it is made with


def library() -> ModuleType:
    """TensorRT."""
    return importlib.import_module("tensorrt")


def check(dtype: str) -> None:
    """Refuse a precision that this version has not.

    Raises:
        UnsupportedError: TensorRT is too old, or too new for the precision.
    """
    check_version(str(library().__version__), dtype)


def check_version(version: str, dtype: str) -> None:
    """Refuse a version of TensorRT, such as `8.6.2`, that has not what a precision needs.

    Raises:
        UnsupportedError: it is too old, or too new for the precision.
    """
    major = int(version.partition(".")[0])
    if major < _NEEDED:
        raise UnsupportedError(f"TensorRT {version} is installed, and {_NEEDED} or newer is needed")
    if major > _NEEDED and dtype != "fp32":
        raise UnsupportedError(
            f"TensorRT {version} takes no {dtype} by a flag any more: take --dtype fp32, or TensorRT {_NEEDED}"
        )


def flags(dtype: str) -> tuple[str, ...]:
    """Names of the builder's flags for a precision; TF32, which is on by default, is taken off for every one."""
    return _FLAGS[dtype]


def versions() -> dict[str, str]:
    """Of what runs it."""
    return {"tensorrt": str(installed("tensorrt") or library().__version__)}


def bound(gpu: int | None = None) -> dict[str, str]:
    """What an engine that is built here is bound to: `made_for`.

    Args:
        gpu: number of the GPU; None: PyTorch's current one.
    """
    import torch

    device = torch.cuda.current_device() if gpu is None else gpu
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return {"made_for": made_for(name, capability, str(library().__version__))}


def made_for(name: str, capability: tuple[int, int], version: str) -> str:
    """`Orin, compute capability 8.7, TensorRT 10.3.0`."""
    return f"{name}, compute capability {capability[0]}.{capability[1]}, TensorRT {version}"


def workspace_bytes(free_bytes: int) -> int:
    """Scratch memory that the builder may give a layer: half of what is free, since a board shares it."""
    return min(free_bytes // 2, _MOST_WORKSPACE_BYTES)


def cache_file(kind: str, *key: Any) -> Path:
    """The file of the cache for a key: `timing` of a GPU and version, `calibration` of a network and its patches."""
    return cache.cache_base() / "tensorrt" / f"{kind}-{content_hash(list(key))}.cache"


# -- building an engine


def convert(onnx: Path, out: Path, dtype: str, *, patches: CalibrationPatches | None = None) -> tuple[Path, ...]:
    """Build an engine for PyTorch's current GPU.

    Args:
        onnx: with its weights, in fp32.
        out: the engine's file.
        patches: of training cases, for int8.

    Raises:
        UnsupportedError: TensorRT cannot read the ONNX file, or build an engine for it.
    """
    import torch

    trt = library()
    check(dtype)
    told: list[str] = []
    logger = _logger(trt, told)
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # gone in 11, where all are
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if hasattr(trt, "OnnxParserFlag"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)  # a layer whose precision can be set, and no plugin
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise UnsupportedError(f"TensorRT cannot read its ONNX file: {parse_errors([e.desc() for e in errors])}")
    config = builder.create_builder_config()
    free, _ = torch.cuda.mem_get_info()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes(free))
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    for name in flags(dtype):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if dtype != "fp32":
        kept = keep_in_fp32(network, trt)
        log.info("TensorRT keeps %d of %d layers in fp32", len(kept), network.num_layers)
    if dtype == "int8":
        assert patches is not None
        shape = tuple(network.get_input(0).shape)
        config.int8_calibrator = _calibrator(trt, patches, shape, calibration_file(onnx, patches))
    timing = cache_file("timing", bound()["made_for"])
    config.set_timing_cache(config.create_timing_cache(_read(timing)), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UnsupportedError(f"TensorRT cannot build an engine for it: {told[-1] if told else 'it gives no reason'}")
    if (timed := config.get_timing_cache()) is not None:
        cache.keep(timing, bytes(timed.serialize()), "each engine times its kernels again")
    write_whole(out, bytes(engine))
    return (out,)


def parse_errors(errors: Sequence[str]) -> str:
    """The parser's errors in one line: the first, and how many more."""
    if not errors:
        return "it gives no reason"
    first = " ".join(errors[0].split())
    return first if len(errors) == 1 else f"{first} (and {len(errors) - 1} more)"


def keep_in_fp32(network: Any, trt: Any) -> list[str]:
    """Have every norm and every sum of a network computed and answered in fp32; returns the names of those layers.

    Args:
        network: `INetworkDefinition`.
        trt: the library, or what stands for it.
    """
    floating = (trt.DataType.FLOAT, trt.DataType.HALF)
    summing = [getattr(trt.LayerType, name) for name in _SUMMING if hasattr(trt.LayerType, name)]
    kept = []
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        outputs = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in floating]
        computes = layer.type not in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE)
        if outputs and computes and (layer.type in summing or _NORM_NODE.search(layer.name)):
            layer.precision = trt.DataType.FLOAT
            for i in outputs:
                layer.set_output_type(i, trt.DataType.FLOAT)
            kept.append(layer.name)
    return kept


def _logger(trt: Any, told: list[str]) -> Any:
    """A logger that keeps the errors, in one line each, and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                told.append(" ".join(text.split()))
            else:
                log.debug("TensorRT: %s", text)

    return Logger()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# -- calibration of int8


def batches(patches: Iterator[Array], size: int) -> Iterator[Array]:
    """Patches (1, C, D, H, W) as batches of an engine's size; the last is filled up with its last patch."""
    some: list[Array] = []
    for patch in patches:
        some.append(patch)
        if len(some) == size:
            yield np.concatenate(some)
            some = []
    if some:
        yield np.concatenate([*some, *[some[-1]] * (size - len(some))])


def calibration_file(onnx: Path, patches: CalibrationPatches) -> Path:
    """Where the calibration of a network on these patches is kept; another GPU may use it, too."""
    with open(onnx, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return cache_file("calibration", digest, patches.described(), list(patches.spatial))


def calibration_scales(content: bytes) -> tuple[int, Mapping[str, float]]:
    """What TensorRT has written of a calibration.

    The first line is `TRT-<version>-EntropyCalibration2`, each other `<tensor>: <scale>`, with the scale as the eight
    hexadecimal digits of a big-endian float32.

    Returns:
        The version as a number, such as 100300, and the scale of each tensor.

    Raises:
        ValueError: it is none.
    """
    head, *lines = content.decode().splitlines()
    if not (version := _CALIBRATED.fullmatch(head.strip())):
        raise ValueError(f"the first line is {head[:40]!r}")
    scales: dict[str, float] = {}
    for line in filter(None, lines):
        name, _, digits = line.rpartition(": ")
        if not name or not re.fullmatch(r"[0-9a-f]{8}", digits.strip()):
            raise ValueError(f"a line is {line[:40]!r}")
        (scales[name],) = struct.unpack("!f", bytes.fromhex(digits.strip()))
    if not scales:
        raise ValueError("it has no tensor")
    return int(version[1]), scales


def kept_calibration(path: Path, version: str) -> bytes | None:
    """The calibration in a file, where there is a whole one that this version of TensorRT takes.

    Args:
        version: of TensorRT, such as `10.3.0`.
    """
    content = _read(path)
    try:
        made_by, _ = calibration_scales(content)
    except (ValueError, IndexError):
        return None
    return content if made_by == version_number(version) else None


def version_number(version: str) -> int:
    """The version as calibrations have it: 10.3.0 is 100300."""
    major, minor, patch = (int(part) for part in re.findall(r"\d+", f"{version}.0.0")[:3])
    return major * 10000 + minor * 100 + patch


def keep_calibration(path: Path, content: bytes) -> None:
    """Write a calibration, unless it is none."""
    try:
        calibration_scales(content)
    except (ValueError, IndexError) as error:
        log.warning("TensorRT's calibration is not kept: %s", error)
        return
    cache.keep(path, content, "each engine is calibrated anew")


def _calibrator(trt: Any, patches: CalibrationPatches, shape: tuple[int, ...], path: Path) -> Any:
    """TensorRT's entropy calibrator, fed by patches.

    Args:
        shape: (B, C, D, H, W) of the engine's input.
        path: where the calibration is kept.
    """
    import torch

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.batches = batches(iter(patches), shape[0])
            self.input = torch.empty(shape, device="cuda")

        def get_batch_size(self) -> int:
            return shape[0]

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            batch = next(self.batches, None)
            if batch is None:
                return None
            self.input.copy_(torch.from_numpy(batch))
            torch.cuda.synchronize()
            return [self.input.data_ptr()]

        def read_calibration_cache(self) -> bytes | None:
            return kept_calibration(path, str(trt.__version__))

        def write_calibration_cache(self, content: Any) -> None:
            keep_calibration(path, bytes(content))

    return Calibrator()


# -- running an engine


def open_file(prepared: PreparedNetwork, threads: int | None, gpu: int) -> Forward:
    """Load an engine.

    Raises:
        PreparedError: it was built for another GPU or version, or TensorRT cannot read it.
    """
    import torch

    trt = library()
    check_made_for(prepared, bound(gpu)["made_for"])
    torch.cuda.set_device(gpu)
    told: list[str] = []
    logger = _logger(trt, told)
    runtime = trt.Runtime(logger)
    allocator = _allocator(trt, gpu)
    runtime.gpu_allocator = allocator
    engine = runtime.deserialize_cuda_engine(prepared.path.read_bytes())
    if engine is None:
        why = told[-1] if told else "it gives no reason"
        raise PreparedError(f"{prepared.path} cannot be loaded by TensorRT: {why}; export it again")
    context = engine.create_execution_context()
    if context is None:
        raise MemoryError(f"TensorRT has no memory for {prepared.path.name}: {told[-1] if told else 'out of memory'}")
    inputs, outputs = (
        torch.empty(tuple(engine.get_tensor_shape(name)), device=f"cuda:{gpu}") for name in (INPUT, OUTPUT)
    )
    context.set_tensor_address(INPUT, inputs.data_ptr())
    context.set_tensor_address(OUTPUT, outputs.data_ptr())
    stream = torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]
    alive = (logger, allocator, runtime, engine)  # each as long as what uses it

    def forward(x: npt.NDArray[np.float32], _: Any = alive) -> npt.NDArray[np.float32]:
        with torch.cuda.stream(stream):
            inputs.copy_(torch.from_numpy(np.ascontiguousarray(x, np.float32)))
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError(f"TensorRT: {told[-1] if told else 'the forward was not started'}")
            return np.asarray(outputs.cpu().numpy())  # a copy, which waits for the stream

    return forward


def _allocator(trt: Any, gpu: int) -> Any:
    """TensorRT's memory from PyTorch's allocator, which aligns to more than is ever asked for."""
    import torch

    take: Callable[..., int] = torch.cuda.caching_allocator_alloc
    give: Callable[[int], None] = torch.cuda.caching_allocator_delete

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)

        def allocate(self, size: int, alignment: int, flags: int) -> int | None:
            return self.allocate_async(size, alignment, flags, 0)

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int | None:
            try:
                return take(size, gpu, stream) if size else None
            except torch.cuda.OutOfMemoryError:
                return None

        def reallocate(self, address: int, alignment: int, new_size: int) -> None:
            return None  # it then allocates anew

        def deallocate(self, memory: int) -> bool:
            give(memory)
            return True

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return self.deallocate(memory)

    return Allocator()
