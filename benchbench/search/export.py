"""Export of a front's points: weights, a checked ONNX file, and what the search's runtime reads.

If a file cannot be written, the reason is stored instead. An ONNX file is kept only if its output is the network's.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import read_json
from benchbench.core.errors import BenchError, StoreError, UnsupportedError, first_line
from benchbench.core.results import write_whole
from benchbench.runner import export as runner_export
from benchbench.runner.job import Job
from benchbench.runtimes import onnx_file
from benchbench.runtimes.catalogue import get_runtime
from benchbench.runtimes.prepared import INPUT, OUTPUT
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

ONNX_AGREEMENT = 1e-3  # most that an ONNX file may differ, of the output's largest magnitude
NO_TIME = "no time was left for it: 'bench search --resume' of this folder writes it"
NEEDS_ONNX = "pip install 'benchbench[onnx]', then 'bench search --resume' of this folder writes it"


def export_point(weights: Path, folder: Path, name: str, *, onnx: bool = True) -> dict[str, Any]:
    """Copy a point's weights, and write its ONNX file.

    Args:
        folder: of the point.
        onnx: whether there is time for an ONNX file that does not exist yet.

    Returns:
        `weights` and `onnx`, each the name of a file in the folder; where there is no ONNX file, `onnx_reason`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    if not target.exists() or target.read_bytes() != weights.read_bytes():
        checkpoint.copy(weights, target)
    files: dict[str, Any] = {"weights": target.name}
    exported, checked = folder / f"{name}.onnx", folder / f"{name}.onnx.json"
    digest = checkpoint.sha256_of(target)
    if exported.exists() and checked.exists():
        check = _read_check(checked)
        if check.get("weights_sha256") == digest and isinstance(check.get("error"), float):
            return files | {"onnx": exported.name, "onnx_error": check["error"]}
    exported.unlink(missing_ok=True)
    checked.unlink(missing_ok=True)
    if not onnx:
        return files | {"onnx_reason": NO_TIME}
    reason, error = write_onnx(target, exported)
    if reason:
        return files | {"onnx_reason": reason}
    write_whole(checked, json.dumps({"weights_sha256": digest, "error": error}).encode())
    return files | {"onnx": exported.name, "onnx_error": error}


def _read_check(path: Path) -> Mapping[str, Any]:
    """Stored check of an ONNX file; empty if it cannot be read, and then the file is written again."""
    try:
        check = read_json(path, "the check of an ONNX file", StoreError)
    except StoreError as error:
        log.debug("%s", error)
        return {}
    return check if isinstance(check, dict) else {}


def write_onnx(weights: Path, out: Path) -> tuple[str | None, float | None]:
    """Write a network as ONNX, run it, and compare.

    Returns:
        Why there is no file, or None; and its largest difference from the network, as a share of the largest logit.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - needed by torch.onnx
    except ImportError as error:
        return f"{error.name} is not installed: {NEEDS_ONNX}", None
    import numpy as np
    import torch

    info = checkpoint.read_sidecar(weights)
    model = zoo_build.build_model(str(weights)).eval()
    x = torch.randn(1, info.model.in_channels, *info.spatial, generator=torch.Generator().manual_seed(0))
    partial = out.with_name(f"{out.stem}.partial.onnx")
    try:
        with torch.no_grad():
            expected = model(x).numpy()
        onnx_file.write_onnx(model, x, partial)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        output = session.run([OUTPUT], {INPUT: x.numpy()})[0]
        difference = float(np.abs(output - expected).max() / max(float(np.abs(expected).max()), 1e-12))
        if not difference <= ONNX_AGREEMENT:
            return f"its ONNX file differs from it by {difference:.1e} of the largest logit, so it was not kept", None
        partial.replace(out)
        return None, difference
    except UnsupportedError as failure:
        return str(failure), None
    except Exception as failure:  # whatever the network and the runtime raise
        log.debug("no ONNX file of %s", weights, exc_info=True)
        return f"its ONNX file cannot be run: {first_line(failure)}", None
    finally:
        partial.unlink(missing_ok=True)


def export_for_runtime(weights: Path, folder: Path, name: str, runtime: str, data: str | None) -> dict[str, Any]:
    """Write what a runtime reads of a point, with its description beside it.

    Args:
        folder: of the point.
        runtime: one that runs a file.
        data: what finds the data set of the search, as when the network was measured, so that what was prepared for
            that is what is written.

    Returns:
        `runtime_file`, the name of a file in the folder; else `runtime_file_reason`.
    """
    try:
        info = checkpoint.read_sidecar(weights)
        job = Job(
            model=dataclasses.replace(info.model, checkpoint=info.sha256),
            workload=rec.Workload(spatial=info.spatial, runtime=runtime),
            checkpoint_path=str(weights),
            data_where=data,
        )
        target = folder / f"{name}-{runtime}{get_runtime(runtime).ending}"
        prepared = runner_export.export_job(job, target).prepared
    except (OSError, BenchError) as error:
        return {"runtime_file_reason": _without_folders(error, folder, weights.parent)}
    return {"runtime_file": prepared.path.name}


def _without_folders(error: Exception, *folders: Path) -> str:
    """An error's text without the places of folders on this machine."""
    text = str(error)
    for folder in folders:
        text = text.replace(str(folder), folder.name)
    return text


def export_or_reason(weights: Path, folder: Path, name: str, *, onnx: bool = True) -> dict[str, Any]:
    """As `export_point`; if something cannot be written, the reason."""
    try:
        return export_point(weights, folder, name, onnx=onnx)
    except (OSError, BenchError) as error:
        why = _without_folders(error, folder, weights.parent)
        return {"onnx_reason": why, "weights_reason": why}
