"""`bench export`: a network as the file that goes to a device, or as a MONAI bundle."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli.next_step import next_line
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.core.errors import EXIT_OK, command
from benchbench.core.units import format_duration, format_shape, format_value
from benchbench.runner.export import BUNDLE, Exported, ExportRequest

if TYPE_CHECKING:
    from benchbench.zoo.write_bundle import WrittenBundle


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, ExportRequest)
    add_shared(sub, "--out", default=Path("exported"), help="folder for the file (default: exported)")
    add_shared(sub, "--force", help="replace a file of that name in --out")
    add_shared(sub, "--config")


def run(options: argparse.Namespace) -> int:
    """Convert, compare with the network, and print what was written."""
    from benchbench.runner.export import export_bundle, export_network

    request = ExportRequest(**values_of(ExportRequest, options))
    if request.to == BUNDLE:
        print("\n".join(bundle_summary(export_bundle(request, options.out, force=options.force))))
        return EXIT_OK
    print("\n".join(summary(export_network(request, options.out, force=options.force), request)))
    return EXIT_OK


def bundle_summary(bundle: WrittenBundle) -> list[str]:
    """What was written, what it needs, and how it is run."""
    config = bundle.folder / "configs" / "inference.json"
    words = ["python", "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", bundle.folder]
    lines = [f"{bundle.folder}: a MONAI bundle ({', '.join(str(p.relative_to(bundle.folder)) for p in bundle.files)})"]
    if bundle.needs:
        lines.append(f"note: the class of its network is of the package {bundle.needs}, which it needs beside MONAI")
    lines.append(f"run it: {' '.join(shlex.quote(str(word)) for word in words)} --dataset_dir DIR")
    return lines


def summary(exported: Exported, request: ExportRequest) -> list[str]:
    """What was written, how far it is from the network, and what to do with it."""
    prepared = exported.prepared
    lines = [
        f"{prepared.path}: {prepared.how}, {format_value(prepared.bytes, 'B')}, "
        f"input {format_shape(prepared.input_shape)}, made in {format_duration(prepared.seconds)}"
    ]
    by_name = {m.metric: m for m in exported.comparison}
    error, changed = by_name["output_max_error"], by_name.get("mask_changed_share")
    lines.append(
        f"output: differs from eager PyTorch in fp32 by {error.value:.1e} of its range"
        + (f", {changed.value:.3%} of the voxels get another label" if changed and changed.value is not None else "")
        + f" ({error.method.rpartition(', ')[2]})"
        if error.value is not None
        else f"output: {error.reason}"
    )
    lines += [f"warning: {warning}" for warning in prepared.warnings]
    if exported.is_random:
        lines.append("its weights are random: nobody has trained it")
    if request.dtype != "fp32" and not exported.is_random:
        flags = ["--runtime", prepared.runtime, "--dtype", request.dtype]
        flags += ["--int8-accuracy", f"{request.int8_accuracy:g}"] if request.int8_accuracy else []
        lines.append(
            "what that costs in Dice: "
            + command("run", "--models", request.network, *flags, "--data", request.data or "DIR")
        )
    if prepared.plan:
        words = ("predict", "--model", prepared.path, "--input", "CASE", "--output", "seg.nii.gz")
        lines.append(next_line("to segment with it", *words))
    return lines
