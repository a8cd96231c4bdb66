"""`bench predict`: segmentations of images with trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchbench.cli.parser import add_shared
from benchbench.core.errors import EXIT_OK


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_shared(sub, "model", "--trust")
    add_shared(sub, "--checkpoint", required=True)
    sub.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of a case, or its file; of several channels one file each, named by the channel or numbered",
    )
    sub.add_argument("--output", type=Path, required=True, metavar="FILE", help="label map to write (.nii.gz or .nii)")
    add_shared(sub, "--overlap", "--device")
    add_shared(sub, "--force", help="replace the file at --output even if 'bench predict' did not write it")


def run(options: argparse.Namespace) -> int:
    """Segment, and print the files that were written."""
    from benchbench.training import predict

    written = predict.predict_files(
        options.model,
        options.checkpoint,
        options.input,
        options.output,
        overlap=options.overlap,
        device=options.device,
        force=options.force,
        trust=options.trust,
    )
    for path in written:
        print(path)
    return EXIT_OK
