"""Preparation of a network for a runtime: in a process of its own, once, and kept.

Converters and quantizers end a process now and then, hang, or print; so they run in a worker that the measuring
process starts and listens to, and that alone imports PyTorch. What it leaves is a folder of the cache: the file that
the runtime reads, its description, and the output of eager PyTorch in fp32 on a patch of a real case, by which it is
judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.core import records as rec
from benchbench.core.cache import cache_base, size_bytes
from benchbench.core.config import read_json
from benchbench.core.errors import UnsupportedError, first_line
from benchbench.core.results import write_whole
from benchbench.core.version import installed
from benchbench.data import get_plan, load_case
from benchbench.data.plan import plan_to_json
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Job
from benchbench.runtimes import calibration
from benchbench.runtimes.catalogue import get_runtime
from benchbench.runtimes.prepared import (
    PreparedError,
    PreparedNetwork,
    describe,
    description_of,
    for_arrays_and_tensors,
    read_prepared,
    with_files,
)
from benchbench.zoo import checkpoint

if TYPE_CHECKING:
    from torch import nn

FOLDER = "runtimes"
_ONNX, _TOLD = "export.onnx", "export.json"  # of an exported network, which several runtimes are made from
_REFERENCE = ("reference.npz", "reference.json")  # arrays, and what they are
_MOST_BYTES = 4_000_000_000  # of all prepared networks and volumes that are kept; the oldest go first
_PHANTOM = "phantom"
#: Whose code decides what a network is prepared to.
_CODE = ("models", "zoo", "runtimes")
_LIMIT_S = 3600.0
Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An input and the output of eager PyTorch in fp32 for it."""

    x: Array  # (B, C, D, H, W)
    y: Array  # (B, K, D, H, W)
    case: str | None  # name of the real case that the input is of; None: random numbers
    exclusive: bool  # a voxel has one label, the largest logit; else one of each region, by its sign


def reference_input(job: Job) -> tuple[Array, str | None, bool]:
    """What outputs are compared on: the middle patch of the first test case, or random numbers where there is none.

    Returns:
        (B, C, D, H, W), the case's name or None, and whether its labels exclude each other.
    """
    shape = job.input_shape
    where = job.data_where
    if where is None and job.model.in_channels == get_plan(_PHANTOM).in_channels:
        where = _PHANTOM
    if where is None or get_plan(where).in_channels != job.model.in_channels:
        return np.random.default_rng(0).standard_normal(shape, np.float32), None, False
    plan, case = get_plan(where), load_case(where, "test", 0)
    patch = calibration.cut(case.image, job.workload.spatial)
    return np.repeat(patch, shape[0], axis=0), f"{plan.name} {case.id}", plan.exclusive


def prepared_for(job: Job, tell: Callable[[str], None] | None = None) -> PreparedNetwork:
    """A job's network in its runtime: from the cache, or made now in a process of its own.

    Args:
        tell: gets what is going on, where that takes a while.

    Raises:
        UnsupportedError: it cannot be converted or quantized; the converter has ended its process; or there is no room.
        UsageError: int8 without training cases.
    """
    if job.workload.dtype == "int8":
        calibration.calibration_patches(job.data_where, job.workload.spatial)
    folder = cache_base() / FOLDER / _key(job)
    if not folder.exists():
        if tell:
            tell(f"preparing it for {get_runtime(job.workload.runtime).title}")
        make_room(folder.parent)
        with new_folder(folder) as partial:
            prepare_in_worker(job, partial)
    path = folder / f"network{get_runtime(job.workload.runtime).ending}"
    try:
        return read_prepared(path)
    except PreparedError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> UnsupportedError:
    """The error for what was damaged since it was made, which is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return UnsupportedError(f"what was prepared is damaged, and is made anew in the next run: {error}")


def prepare_in_worker(job: Job, folder: Path, onnx: Path | None = None) -> None:
    """Prepare a network in a worker, in a folder that is there.

    Args:
        onnx: of a network that has been exported to ONNX already; None: the job's network is built and exported.

    Raises:
        UnsupportedError: it cannot be converted or quantized, or the converter has ended its process.
    """
    request = {"task": "prepare", "jobs": [rec.to_json(job)], "folder": str(folder), "onnx": onnx and str(onnx)}
    run_to_end(request, f"preparing it for {get_runtime(job.workload.runtime).title}", limit_s=_LIMIT_S)


def run_to_end(request: Mapping[str, Any], what: str, *, limit_s: float) -> None:
    """Have a worker do a task that leaves files alone.

    Args:
        what: it does, for the message.

    Raises:
        UnsupportedError: it refuses, or its process has ended before.
    """
    for event in run_worker(request, limit_s=limit_s):
        if isinstance(event, WorkerFailure):
            raise UnsupportedError(f"{what} ended its process: {event.error}")
        if event["event"] == "refused":
            raise UnsupportedError(str(event["error"]))


def prepare_here(job: Job, folder: Path, onnx: Path | None = None) -> None:
    """Prepare a network in this process; for the worker.

    Args:
        onnx: as of `prepare_in_worker`.

    Raises:
        UnsupportedError: it cannot be converted or quantized.
    """
    about: dict[str, Any] = {"model": job.model}
    if onnx is None:
        exported, told = _exported(job, folder)
        onnx, about = exported / _ONNX, about | dict(told)
    start = time.perf_counter()
    work, runtime = job.workload, get_runtime(job.workload.runtime)
    library = runtime.load()
    path = folder / f"network{runtime.ending}"
    versions = {**library.versions(), **{name: str(installed(name)) for name in ("torch", "onnx")}}
    source = onnx
    if work.dtype == "int8":
        patches = calibration.calibration_patches(job.data_where, work.spatial)
        about["calibration"] = patches.described()
        if work.runtime != "tensorrt":
            from benchbench.runtimes.quantize import quantize

            validate = functools.partial(_validation_dice, job) if work.int8_accuracy else None
            source = quantize(onnx, folder, work.runtime, patches, validate=validate, most_loss=work.int8_accuracy)
            versions["nncf"] = str(installed("nncf"))
    if work.runtime != "torch-export":
        more = {"patches": patches} if work.dtype == "int8" and work.runtime == "tensorrt" else {}
        own = library.convert(source, path, work.dtype, **more)
    else:
        own = (path,)
    about |= library.bound() if hasattr(library, "bound") else {}
    prepared = PreparedNetwork(
        path=path,
        runtime=work.runtime,
        dtype=work.dtype,
        input_shape=job.input_shape,
        seconds=round(about.pop("seconds", 0.0) + time.perf_counter() - start, 3),
        versions=versions,
        **about,
    )
    describe(with_files(prepared, *own))
    for left in folder.iterdir():
        if left not in own and left.name not in (description_of(path).name, *_REFERENCE):
            left.unlink()


def _exported(job: Job, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """A folder with a job's network as an ONNX file, which is kept for other runtimes, and what is said of it.

    Args:
        folder: of the network that is being prepared; gets what it is compared with.
    """
    if job.workload.runtime == "torch-export":  # which has a file of its own
        return folder, _export(job, folder)
    kept = cache_base() / FOLDER / rec.content_hash(["onnx", _exported_dtype(job), _made_of(job)])
    if not kept.exists():
        with new_folder(kept) as partial:
            told = _export(job, partial)
            write_whole(partial / _TOLD, json.dumps(told).encode())
    for name in _REFERENCE:
        try:
            os.link(kept / name, folder / name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(kept / name, folder / name)
    told = dict(read_json(kept / _TOLD, "what is said of an exported network", PreparedError))
    lists = {key: tuple(told[key]) for key in ("warnings", "mirror") if told[key] is not None}
    return kept, told | lists


def _exported_dtype(job: Job) -> str:
    """What is exported depends on the precision in one way: int8 is made of the network as its class has it.

    A form that is rewritten for inference folds norms into matrix products, whose ranges are wider: in int8 it loses
    0.0023 to 0.0029 Dice where the class's own form loses 0.0003 (Slim UNETR, hippocampus).
    """
    return "int8" if job.workload.dtype == "int8" else "fp32"


def _export(job: Job, folder: Path) -> dict[str, Any]:
    """Build a job's network, keep its output for a real case, and export it; what the description says of it."""
    import torch

    from benchbench.runtimes import torch_export
    from benchbench.runtimes.onnx_file import write_onnx
    from benchbench.zoo import build as zoo_build
    from benchbench.zoo import logits as zoo_logits

    work = job.workload
    if job.backend == "cuda":
        torch.cuda.set_device(job.gpu)  # that an engine is built for
    torch.manual_seed(0)
    module = zoo_build.build(job.model, work.spatial).eval()
    info = None
    if job.checkpoint_path:
        checkpoint.load_weights(module, Path(job.checkpoint_path))
        info = checkpoint.read_sidecar(Path(job.checkpoint_path))
    x, case, exclusive = reference_input(job)
    with torch.inference_mode():
        y = zoo_logits.main(module(torch.from_numpy(x)), x.shape[2:]).float().numpy()
    arrays, about = (folder / name for name in _REFERENCE)
    np.savez(arrays, x=x, y=y)
    write_whole(about, json.dumps({"case": case, "exclusive": exclusive}).encode())
    start = time.perf_counter()
    network, warnings = (module, ()) if _exported_dtype(job) == "int8" else for_export(module)
    if work.runtime == "torch-export":
        torch_export.save(network, torch.from_numpy(x), folder / "network.pt2")
    else:
        write_onnx(network, torch.from_numpy(x), folder / _ONNX)
    return {
        "seconds": time.perf_counter() - start,
        "rewritten": network is not module,
        "warnings": warnings,
        "data": info.data if info else None,
        "plan": plan_to_json(info.plan) if info and info.plan else None,
        "mirror": info.mirror if info else None,
    }


def for_export(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A network's own form for export, equal in its output, where it offers one; else itself.

    Returns:
        What is exported, and warnings: that it offers one, but not for what this network is.
    """
    offer = getattr(module, "for_inference", None)
    if not callable(offer):
        return module, ()
    try:
        return offer("export"), ()
    except ValueError as error:
        return module, (f"not rewritten for inference: {first_line(error)}",)


def _validation_dice(job: Job, forward: Callable[[Array], Array]) -> float:
    """Mean Dice of a forward on the validation cases."""
    from benchbench.training.evaluate import measure_dice

    assert job.data_where is not None
    result = measure_dice(
        as_module(forward), data=job.data_where, split="val", spatial=job.workload.spatial, surfaces=False
    )
    return float(next(m.value for m in result.measurements if m.metric == "dice") or 0.0)


def as_module(forward: Callable[[Array], Array]) -> Any:
    """A forward of arrays as a module of tensors, for what evaluates and segments."""
    import torch

    call = for_arrays_and_tensors(forward)

    class Deployed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return call(x)

    return Deployed()


def read_reference(prepared: PreparedNetwork) -> Reference:
    """What a network of `prepared_for` is compared with.

    Raises:
        UnsupportedError: it has been damaged since.
    """
    folder = prepared.path.parent
    try:
        about = read_json(folder / _REFERENCE[1], "the reference of a prepared network", PreparedError)
        with np.load(folder / _REFERENCE[0], allow_pickle=False) as arrays:
            return Reference(x=arrays["x"], y=arrays["y"], case=about["case"], exclusive=bool(about["exclusive"]))
    except (PreparedError, OSError, ValueError, KeyError) as error:
        raise _damaged(folder, error) from error


def _key(job: Job) -> str:
    """Hash of what decides a prepared network: what it is made of, runtime, precision, and the GPU it is bound to."""
    w = job.workload
    library = get_runtime(w.runtime).load()
    bound = library.bound(job.gpu) if hasattr(library, "bound") else None
    return rec.content_hash([w.runtime, w.dtype, w.int8_accuracy, bound, _made_of(job)])


def _made_of(job: Job) -> Any:
    """What decides an exported network in every runtime: network, weights, input, data, code and versions."""
    w = job.workload
    data = get_plan(job.data_where).key if job.data_where else None
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "tensorrt")
    return [
        rec.to_json(job.model),
        [w.batch, *w.spatial, data],
        _code_of(job),
        {package: installed(package) for package in packages},
    ]


def _code_of(job: Job) -> Any:
    """What there is of the code behind a network: of the zoo ours, of a user's own all files beside its module."""
    own = [str(Path(__file__).parents[1] / name) for name in _CODE]
    if not job.model.arch.startswith("benchbench."):
        name = job.model.arch.partition(":")[0].replace(".", "/")
        places = [Path(job.folder)] if job.folder else []
        places += [Path(entry or ".") for entry in sys.path]
        own += [str(place / name).rpartition("/")[0] for place in places if (place / f"{name}.py").exists()][:1]
    paths = [Path(__file__), *(path for folder in own for path in sorted(Path(folder).glob("*.py")))]
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder of the cache that gets its name once all is in it.

    Raises:
        UnsupportedError: it cannot be made or filled.
    """
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise UnsupportedError(
            f"cannot keep what was prepared in {folder.parent}: {error.strerror or error}; make room, or set "
            "BENCHBENCH_CACHE to another folder"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def make_room(folder: Path) -> None:
    """Remove the oldest of what was prepared, networks and volumes, beyond what is kept."""
    if not folder.is_dir():
        return
    ages = sorted((path.stat().st_mtime, path) for path in folder.iterdir() if path.is_dir())
    total = size_bytes(folder)
    for _, path in ages:
        if total <= _MOST_BYTES:
            return
        total -= size_bytes(path)
        shutil.rmtree(path, ignore_errors=True)
