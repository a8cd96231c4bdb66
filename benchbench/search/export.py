"""Export of a front's points: weights, a model card, a checked ONNX file, what the search's runtime reads, one table.

If a file cannot be written, the reason is stored instead. An ONNX file is kept only if its output is the network's.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import read_json
from benchbench.core.errors import BenchError, StoreError, UnsupportedError, first_line
from benchbench.core.results import write_whole
from benchbench.core.search_result import EAGER, ordered, runtime_of
from benchbench.core.units import format_shape, format_value
from benchbench.report import writers
from benchbench.runner import export as runner_export
from benchbench.runner.job import Job
from benchbench.runtimes import onnx_file
from benchbench.runtimes.catalogue import get_runtime
from benchbench.runtimes.prepared import INPUT, OUTPUT
from benchbench.search.space import from_json
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

ONNX_AGREEMENT = 1e-3  # most that an ONNX file may differ, of the output's largest magnitude
#: Of a point's files, the keys whose values are places.
FILES = ("weights", "onnx", "runtime_file")
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


COLUMNS = (
    "name",
    "published",
    "front",
    "keeps_budget",
    "dice_val",
    "dice_test",
    "dice_test_low",
    "dice_test_high",
    "seeds",
    "params",
    "macs",
    "latency_s",
    "latency_origin",
    "runtime",
    "memory_bytes",
    "energy_j",
    "scratch_dice_test",
    "random_dice_test",
    "weights",
    "onnx",
    "runtime_file",
    "config",
)


def write_table(points: Sequence[Mapping[str, Any]], out: Path, *, runtime: str = "eager") -> None:
    """`front.csv`: every finalist, those of the front first; `runtime` is what times and memory are of."""
    rows = []
    for point in ordered(points):
        low, high = point["dice_test"]["ci95"]
        costs, controls = point["costs"], point.get("controls", {})
        rows.append(
            {
                **{key: point[key] for key in ("name", "published", "front")},
                "keeps_budget": {True: "yes", False: "no", None: "not measured"}[point["keeps"]],
                "dice_val": point["dice_val"]["mean"],
                "dice_test": point["dice_test"]["mean"],
                "dice_test_low": low,
                "dice_test_high": high,
                "seeds": len(point["dice_val"]["values"]),
                **{key: costs.get(key) for key in ("params", "macs", "latency_s", "memory_bytes", "energy_j")},
                "latency_origin": point["origin"],
                "runtime": runtime,
                **{f"{kind}_dice_test": controls.get(kind, {}).get("dice_test") for kind in ("scratch", "random")},
                **{key: point["files"].get(key) for key in FILES},
                "config": point["config_text"],
            }
        )
    write_whole(out, writers.to_csv(COLUMNS, rows).encode())


def write_card(point: Mapping[str, Any], search: Mapping[str, Any], out: Path) -> None:
    """The model card of a point, as Markdown."""
    task, test, files = search["task"], point["dice_test"], point["files"]
    splits = search["data"]["splits"]
    channels = f"{task['in_channels']} channel{'s' * (task['in_channels'] != 1)}"
    low, high = test["ci95"]
    costs = point["costs"]
    rows = [
        ("Dice on val", f"{point['dice_val']['mean']:.3f}, mean of {len(point['dice_val']['values'])} seeds; watched"),
        ("Dice on test", f"{test['mean']:.3f} (95 % interval over {test['cases']} cases {low:.3f} to {high:.3f})"),
        ("of these weights", f"{test['best']:.3f} (the seed with the best Dice on val)"),
        ("parameters", format_value(costs["params"], "parameters")),
        ("MACs of one patch", format_value(costs["macs"], "MAC")),
        ("padding", f"{from_json(point['config']).padding(task['spatial']):.0%} of the voxels that it computes on"),
    ]
    for metric, title, unit in (
        ("latency_s", "latency of one patch" if task["phase"] == "infer" else "one training step", "s"),
        ("memory_bytes", "peak memory", "B"),
        ("energy_j", "energy of one patch", "J"),
    ):
        if costs.get(metric) is not None:
            where = f"{point['origins'][metric]} on {search['device']['name']} in {runtime_of(search)['title']}"
            rows.append((title, f"{format_value(costs[metric], unit)}, {where}"))
    for limit, share in point["use"].items():
        rows.append((f"of the budget {limit}", f"{share:.0%}"))
    onnx = (
        f"`{files['onnx']}`, which differs from the network by {files['onnx_error']:.0e} of the largest logit"
        if files.get("onnx")
        else f"none: {files.get('onnx_reason')}"
    )
    controls = [f"- {text}" for text in point.get("verdicts", [])] or [
        "- The controls (the same architecture from scratch, and from random channels) were not run."
    ]
    config = "\n".join(f"    {key}: {value}" for key, value in sorted(point["config"].items()))
    text = f"""# {point["name"]}

A Slim UNETR found by `bench search` under the budget {search["budget_text"]}.

## Use

```python
import benchbench

model = benchbench.build_model("{files["weights"]}").eval()  # {channels} of {format_shape(task["spatial"])}
```

ONNX: {onnx}.
{_runtime_lines(search, files)}
## Data

{search["data"]["title"]}. Trained on {splits["train"]} cases of {task["key"]}; {splits["val"]} were watched to choose,
{splits["test"]} were kept apart for the figures below. Licence of the data: {search["data"]["licence"]}.

## Figures

| what | value |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in rows)}

## Origin

Channels and weights come from a parent ({search["parent"]["model"]}, Dice {search["parent"]["dice_val"]:.3f} on val,
{search["parent"]["train_s"]:.0f} s of training); then {point["train_s"]:.0f} s of training per seed with
{task["distil"]:.0%} of the loss from the parent's output.

{chr(10).join(controls)}

Configuration:

{config}

## Limits

Not a medical device. Evaluated only on the data above, at one patch, spacing and protocol; other scanners, sites and
diseases were not evaluated. The costs are those of one machine.
"""
    write_whole(out, text.encode())


def _runtime_lines(search: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """What the runtime of a search reads, for a card; empty where it runs the network itself."""
    runtime = runtime_of(search)
    if runtime["name"] == EAGER["name"]:
        return ""
    what = f"\nThe costs below are of {runtime['title']}"
    made_by = ", ".join(f"{package} {version}" for package, version in runtime["versions"].items())
    if files.get("runtime_file"):
        what += f" ({made_by}), which reads `{files['runtime_file']}`; its description lies beside it"
    elif files.get("runtime_file_reason"):
        what += f" ({made_by}); its file is missing: {files['runtime_file_reason']}"
    return f"{what}.\n"


def export_or_reason(weights: Path, folder: Path, name: str, *, onnx: bool = True) -> dict[str, Any]:
    """As `export_point`; if something cannot be written, the reason."""
    try:
        return export_point(weights, folder, name, onnx=onnx)
    except (OSError, BenchError) as error:
        why = _without_folders(error, folder, weights.parent)
        return {"onnx_reason": why, "weights_reason": why}
