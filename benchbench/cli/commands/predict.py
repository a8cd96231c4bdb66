"""`bench predict`: segmentations of images with trained weights, or with an exported network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli.parser import add_shared
from benchbench.core.errors import EXIT_OK, CheckpointError, UsageError

if TYPE_CHECKING:
    from benchbench.training.predict import Segmenter


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_shared(sub, "model", nargs="?")
    sub.add_argument(
        "--model",
        dest="exported",
        type=Path,
        metavar="FILE",
        help="network that 'bench export' wrote, in the place of MODEL and --checkpoint",
    )
    add_shared(sub, "--trust")
    add_shared(sub, "--checkpoint")
    sub.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of a case, or its file; of several channels one file each, named by the channel or numbered; or a "
        "folder of cases named as nnU-Net has them (CASE_0000.nii.gz), if --output is a folder",
    )
    sub.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE|DIR",
        help="label map to write (.nii.gz or .nii), or a folder for one of each case (CASE.nii.gz)",
    )
    add_shared(
        sub,
        "--overlap",
        default=None,
        help="overlap of neighbouring windows, as a share of their sides (default: 0.5, or that of its MONAI bundle)",
    )
    add_shared(sub, "--test-time-mirroring", "--device")
    add_shared(sub, "--threads", help="CPU threads of an exported network (default: its runtime's own choice)")
    add_shared(sub, "--force", help="replace the file at --output even if 'bench predict' did not write it")


def run(options: argparse.Namespace) -> int:
    """Segment, and print the files that were written."""
    from benchbench.training import predict
    from benchbench.zoo import cards as zoo_cards
    from benchbench.zoo import checkpoint

    names = ("overlap", "test_time_mirroring", "device", "force")
    given = {name: getattr(options, name) for name in names}
    if options.exported:
        if options.model or options.checkpoint:
            raise UsageError("--model FILE is a network with its weights: leave MODEL and --checkpoint out")
        predict.check_name(options.output)
        segmenter = _exported(options.exported, options.threads)
        written = predict.segment_files(segmenter, options.input, options.output, **given)
    else:
        weights = options.checkpoint
        if options.model and not weights and zoo_cards.names_weights(options.model):
            weights = checkpoint.located(Path(options.model))
        if not (options.model and weights):
            raise UsageError(
                "name a MODEL and its --checkpoint, weights (.safetensors) or their folder, or an exported network "
                "with --model FILE"
            )
        written = predict.predict_files(
            options.model, weights, options.input, options.output, trust=options.trust, **given
        )
    for path in written:
        print(path)
    return EXIT_OK


def _exported(path: Path, threads: int | None) -> Segmenter:
    """An exported network as one that segments."""
    from benchbench.data.plan import plan_from_json
    from benchbench.runner.prepare import as_module
    from benchbench.runtimes.prepared import description_of, read_prepared
    from benchbench.training.predict import Segmenter

    prepared = read_prepared(path)
    batch, channels, *spatial = prepared.input_shape
    if batch != 1:
        raise UsageError(f"{path} takes {batch} patches at a time: export it again with --batch-size 1")
    try:
        plan = plan_from_json(prepared.plan) if prepared.plan else None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{description_of(path)} has no plan that can be read: {error}") from error
    if plan and plan.in_channels != channels:
        raise CheckpointError(f"{path} takes {channels} channels and its plan has {plan.in_channels}: export it again")
    return Segmenter(
        load=lambda: as_module(prepared.load(threads=threads)),
        plan=plan,
        spatial=tuple(spatial),
        files=(path, description_of(path), *(path.parent / name for name in prepared.files)),
        mirror=prepared.mirror,
    )
