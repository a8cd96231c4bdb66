"""Export of a network as the file that goes to a device: `bench export`, and `benchbench.export`.

An fp32 file is left behind only if its output is the network's. What a lower precision costs is measured by
`bench run` on the data set's test cases.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchbench import data
from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core.arguments import flag, share
from benchbench.core.errors import UnsupportedError, UsageError, os_error_as
from benchbench.core.overwrite import check_output
from benchbench.runner.job import Job
from benchbench.runner.output_comparison import compare
from benchbench.runner.prepare import Reference, for_export, prepare_in_worker, prepared_for, read_reference
from benchbench.runtimes import calibration, catalogue
from benchbench.runtimes.prepared import PreparedError, PreparedNetwork, describe, description_of, read_prepared
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes, write_bundle

if TYPE_CHECKING:
    from torch import nn

#: What a network is exported to -> the runtime whose file that is.
FORMS = {"openvino": "openvino", "onnx": "onnxruntime", "tensorrt": "tensorrt", "torch-export": "torch-export"}
#: A folder that MONAI runs: no file of a runtime.
BUNDLE = "monai-bundle"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What `bench export` was asked for; each field is a flag of the command."""

    network: str = flag(
        "network", metavar="NETWORK", help="weights (.safetensors), or the name of a network, which has random weights"
    )
    to: Literal["openvino", "onnx", "tensorrt", "torch-export", "monai-bundle"] = flag(
        "--to",
        "openvino",
        help="form of the file, or monai-bundle: a folder that MONAI runs, with weights and preprocessing "
        "(default: openvino)",
    )
    dtype: Literal["fp32", "bf16", "fp16", "int8"] = flag(
        "--dtype", "fp32", help="precision; int8 is calibrated on training cases of --data (default: fp32)"
    )
    data: str | None = flag(
        "--data",
        help="data set, by its name or its folder: its training cases calibrate int8, and the file is compared with "
        "the network on a test case of it",
    )
    fold: int | None = flag("--fold", help="which of the five folds is held out as the test cases (default: 0)")
    int8_accuracy: float | None = flag(
        "--int8-accuracy",
        type=share,
        metavar="LOSS",
        help="leave layers in fp32 until int8 loses less than this mean Dice on the validation cases, such as 0.005 "
        "(openvino)",
    )
    spatial: tuple[int, ...] | None = flag("--spatial", help="size of the input in voxels, of a network by its name")
    batch: int = flag("--batch-size", 1, help="patches per forward (default: 1, which 'bench predict' needs)")
    in_channels: int | None = flag("--in-channels")
    out_channels: int | None = flag("--out-channels")
    trust: bool = flag("--trust", False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file for a device, and how far its output is from the network's."""

    prepared: PreparedNetwork
    comparison: tuple[rec.Measurement, ...]  # `output_max_error` and the like
    is_random: bool  # nobody has trained it


def export_network(request: ExportRequest, folder: Path, *, force: bool = False) -> Exported:
    """Export the network of a request into a folder.

    Args:
        force: replace a file of that name there which is another network's.

    Raises:
        UsageError: an unknown network, int8 without training cases, or a file that is not to be replaced.
        UnsupportedError: it cannot be converted, or the file would be another network.
    """
    card = _card(request)
    info = checkpoint.read_sidecar(Path(card.checkpoint)) if card.checkpoint else None
    where = _training_cases(request, info)
    runtime = FORMS[request.to]
    job = Job(
        model=info.spec if info else card.spec(),
        workload=rec.Workload(
            batch=request.batch,
            spatial=info.spatial if info else tuple(request.spatial or card.spatial),
            dtype=request.dtype,
            runtime=runtime,
            int8_accuracy=request.int8_accuracy,
        ),
        backend="cuda" if runtime == "tensorrt" else "cpu",
        checkpoint_path=str(info.path) if info else None,
        data_where=where,
        folder=card.folder,
        trusted=classes.may_import(card.arch),
    )
    catalogue.check(runtime, request.dtype, job.backend)
    target = folder / f"{checkpoint.file_name(card.name)}-{request.dtype}{catalogue.get_runtime(runtime).ending}"
    _check_target(target, force)
    return export_job(job, target)


def export_bundle(request: ExportRequest, folder: Path, *, force: bool = False) -> write_bundle.WrittenBundle:
    """Write the checkpoint of a request as a MONAI bundle.

    Args:
        folder: of the bundle.
        force: replace a bundle there.

    Raises:
        UsageError: it names no weights, or has flags that a bundle has no use for.
        CheckpointError: the weights do not say how images are prepared.
        UnsupportedError: no transforms of MONAI prepare images so, or the network answers more than logits.
    """
    card = _card(request)
    if not card.checkpoint:
        raise UsageError(f"{request.network} has random weights: a bundle is made of trained ones (.safetensors)")
    of_files = {"--data": request.data, "--fold": request.fold, "--int8-accuracy": request.int8_accuracy}
    of_files |= {"--batch-size": request.batch != 1, "--dtype": request.dtype != "fp32"}
    if given := [name for name, value in of_files.items() if value]:
        raise UsageError(
            f"{given[0]} is of files for a device: leave it out for a bundle, which has the weights as they are"
        )
    return write_bundle.write_bundle(checkpoint.read_sidecar(Path(card.checkpoint)), folder, force=force)


def export_job(job: Job, target: Path) -> Exported:
    """Write a job's network in its runtime as a file, with its description beside it.

    Args:
        target: the file, with its runtime's ending.

    Raises:
        UnsupportedError: it cannot be converted, or the file would be another network.
        PreparedError: the folder cannot be written.
    """
    prepared = prepared_for(job)
    comparison = _compared(prepared, read_reference(prepared))
    return Exported(prepared=_copied(prepared, target), comparison=comparison, is_random=job.checkpoint_path is None)


def export(
    network: nn.Module | str | Path,
    to: str = "openvino",
    *,
    out: str | Path = ".",
    input_shape: Sequence[int] | None = None,
    dtype: str = "fp32",
    data: str | None = None,
    fold: int | None = None,
    name: str | None = None,
    force: bool = False,
) -> Path:
    """Export a network as the file that goes to a device.

    Args:
        network: a module, or weights (.safetensors) or the name of a network, as `bench export` takes them.
        to: `openvino`, `onnx`, `tensorrt` or `torch-export`; or `monai-bundle`, of trained weights.
        out: folder that gets the file, its description, and what else belongs to it; of a bundle it is the bundle.
        input_shape: (B, C, D, H, W) of a module's input.
        dtype: `fp32`, `bf16`, `fp16` or `int8`.
        data: data set whose training cases calibrate int8.
        fold: of that data set, which is held out.
        name: of the file, of a module (default: its class's).
        force: replace a file of that name there.

    Returns:
        The file, for `benchbench.load_runtime`; or the folder of the bundle.

    Raises:
        UsageError: what is asked for does not exist, or cannot be.
        CheckpointError: the weights of a bundle do not say how images are prepared.
        UnsupportedError: it cannot be exported or converted, or the file would be another network.
    """
    if to not in (*FORMS, BUNDLE):
        raise UsageError(f"a network is exported to one of {', '.join((*FORMS, BUNDLE))}, not {to!r}")
    if isinstance(network, (str, Path)):
        request = ExportRequest(network=str(network), to=to, dtype=dtype, data=data, fold=fold)  # type: ignore[arg-type]
        if to == BUNDLE:
            return export_bundle(request, Path(out), force=force).folder
        return export_network(request, Path(out), force=force).prepared.path
    if to == BUNDLE:
        raise UsageError(
            "a module does not say how its images are prepared, so no bundle can prepare them: name weights with their "
            "sidecar (.safetensors), as 'bench train' and 'bench import' write them"
        )
    if input_shape is None or len(input_shape) != 5:
        raise UsageError("a module is exported for inputs of one size: add input_shape=(B, C, D, H, W)")
    runtime = FORMS[to]
    catalogue.check(runtime, dtype, "cuda" if to == "tensorrt" else "cpu")
    stem = name or re.sub(r"\W", "_", type(network).__name__).lower()
    target = Path(out) / f"{stem}-{dtype}{catalogue.get_runtime(runtime).ending}"
    _check_target(target, force)
    where = data_where(data, fold) if data else None
    if dtype == "int8":
        calibration.calibration_patches(where, tuple(input_shape)[2:])
    return _export_module(network, tuple(input_shape), runtime, dtype, where, target)


def _export_module(
    module: nn.Module, shape: tuple[int, ...], runtime: str, dtype: str, where: str | None, target: Path
) -> Path:
    import torch

    from benchbench.runtimes import torch_export
    from benchbench.runtimes.onnx_file import write_onnx
    from benchbench.zoo import logits as zoo_logits

    batch, channels, *spatial = shape
    training = module.training
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            y = zoo_logits.main(module.eval()(x), spatial).float().numpy()
        start = time.perf_counter()
        network, warnings = (module, ()) if dtype == "int8" else for_export(module)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            onnx = folder / "export.onnx"
            if runtime == "torch-export":
                torch_export.save(network, x, folder / "network.pt2")
            else:
                write_onnx(network, x, onnx)
            spec = rec.ModelSpec(
                name=target.stem, arch="", kwargs={}, in_channels=channels, out_channels=int(y.shape[1])
            )
            work = rec.Workload(batch=batch, spatial=tuple(spatial), dtype=dtype, runtime=runtime)  # type: ignore[arg-type]
            prepare_in_worker(Job(model=spec, workload=work, data_where=where), folder, onnx)
            path = folder / f"network{target.suffix}"
            prepared = read_prepared(path)
            prepared = dataclasses.replace(
                prepared,
                model=None,
                rewritten=network is not module,
                warnings=warnings,
                seconds=round(time.perf_counter() - start, 3),
            )
            _compared(prepared, Reference(x=x.numpy(), y=y, case=None, exclusive=False))
            return _copied(prepared, target).path
    finally:
        module.train(training)


def data_where(name: str, fold: int | None) -> str:
    """What finds a data set, with a fold of it, in a worker."""
    return str(data.get_plan(name, fold=fold).where)


def _card(request: ExportRequest) -> zoo_cards.Card:
    cards = zoo_cards.find_cards(request.network, trust=request.trust)
    if len(cards) != 1:
        raise UsageError(f"{request.network!r} names {len(cards)} networks: export one at a time")
    (card,) = zoo_cards.with_channels(cards, request.in_channels, request.out_channels)
    if card.checkpoint and request.spatial:
        raise UsageError(f"{card.checkpoint} is of one size of input: leave --spatial out")
    return card


def _training_cases(request: ExportRequest, info: checkpoint.CheckpointInfo | None) -> str | None:
    """The data set that int8 is calibrated on, and outputs are compared on a case of.

    Raises:
        UsageError: int8 without one, or its training cases are the weights' test cases.
    """
    if request.data is None:
        if request.dtype == "int8":
            calibration.calibration_patches(None, ())
        return None
    where = data_where(str(request.data), request.fold)
    plan = data.get_plan(where)
    if info and plan.is_named_by(info.data) and info.train.get("fold", 0) != plan.fold:
        raise UsageError(
            f"{info.path} was trained on fold {info.train.get('fold', 0)}, whose test cases are training cases of fold "
            f"{plan.fold}: int8 would be calibrated on test cases; take --fold {info.train.get('fold', 0)}"
        )
    return plan.as_seen_by(info.plan if info else None).where


def _check_target(target: Path, force: bool) -> None:
    if target.exists() and not description_of(target).exists():
        check_output(target, force=force)
    elif target.exists() and not force:
        raise UsageError(f"{target} is there already: --force replaces it, another --out keeps it")


def _compared(prepared: PreparedNetwork, reference: Reference) -> tuple[rec.Measurement, ...]:
    """How far a file's output is from the network's.

    Raises:
        UnsupportedError: in fp32 it is another network's.
    """
    output = prepared.load()(np.ascontiguousarray(reference.x, np.float32))
    comparison = compare(output, reference.y, reference.case, reference.exclusive)
    by_name: dict[str, Any] = {m.metric: m for m in comparison}
    why = qualification.failure(
        by_name.get("output_max_error"), by_name.get("mask_changed_share"), None, exact=prepared.dtype == "fp32"
    )
    if why:
        raise UnsupportedError(f"nothing was exported: the file is {why}")
    return tuple(comparison)


def _copied(prepared: PreparedNetwork, target: Path) -> PreparedNetwork:
    """A prepared network under another name in another folder.

    Raises:
        PreparedError: the folder cannot be written.
    """
    stem = prepared.path.stem
    names = {
        file: file.replace(stem, target.stem, 1) if file.startswith(f"{stem}.") else file for file in prepared.files
    }
    moved = dataclasses.replace(
        prepared, path=target, files={names[file]: digest for file, digest in prepared.files.items()}
    )
    with os_error_as(PreparedError, f"cannot write {target}", "choose another --out"):
        target.parent.mkdir(parents=True, exist_ok=True)
        for file, new in names.items():
            shutil.copyfile(prepared.path.parent / file, target.parent / new)
        describe(moved)
    return moved
