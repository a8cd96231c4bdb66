"""`bench train`: one network trained on a data set."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli.output import new_folder
from benchbench.cli.parser import add_shared, values_of
from benchbench.cli.progress import TrainingProgress, is_shown
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK, UsageError, command
from benchbench.training.recipe import TrainRecipe, parse_budget

if TYPE_CHECKING:
    from benchbench.training.loop import TrainResult
    from benchbench.training.run import PreparedTraining


def _patch_schedule(text: str) -> tuple[tuple[tuple[int, ...], float], ...]:
    """`64x64x64:0.9,128x128x128:0.1`."""
    try:
        parts = [part.split(":") for part in text.split(",")]
        schedule = tuple((tuple(int(side) for side in patch.split("x")), float(share)) for patch, share in parts)
        if all(len(patch) == 3 for patch, _ in schedule):
            return schedule
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not like 64x64x64:0.9,128x128x128:0.1")


def add(sub: argparse.ArgumentParser) -> None:
    """The flags; where none is given, the recipe decides."""
    sub.add_argument("model", metavar="MODEL", help="a name from 'bench list models', a card, or pkg.module:Class")
    add_shared(sub, "--in-channels", "--out-channels", "--data")
    add_shared(sub, "--spatial", dest="patch", help="size of the patch in voxels (default: the data set's)")
    add_shared(sub, "--fold")
    sub.add_argument(
        "--budget",
        type=parse_budget,
        default="20min",
        metavar="BUDGET",
        help="length of the training: 20min, 1000steps or 300epochs; the schedules follow the share of it that is "
        "used up (default: 20min)",
    )
    sub.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate (default: 0.001)")
    sub.add_argument("--optimizer", choices=("adamw", "sgd"), help="optimiser (default: adamw)")
    sub.add_argument("--weight-decay", type=float, metavar="W", help="weight decay (default: 0.01)")
    sub.add_argument(
        "--schedule", choices=("cosine", "poly"), help="decay of the learning rate after the warm-up (default: cosine)"
    )
    sub.add_argument(
        "--warmup",
        type=to.share,
        metavar="SHARE",
        help="share of the budget in which the learning rate rises (default: 0.04)",
    )
    sub.add_argument("--loss", choices=("dice_ce", "dice_focal"), help="loss function (default: dice_ce)")
    sub.add_argument("--clip", type=float, metavar="NORM", help="norm that gradients are clipped to (default: 5)")
    sub.add_argument(
        "--ema",
        type=to.share,
        metavar="DECAY",
        help="decay per step of the moving average of the weights (default: 0.99)",
    )
    sub.add_argument(
        "--augment",
        default="full",
        choices=("full", "light"),
        help="data augmentation; light: flips and contrast only (default: full)",
    )
    sub.add_argument(
        "--keep-every",
        dest="checkpoint_every_s",
        type=to.seconds,
        metavar="TIME",
        help="time between checkpoints, the most that a killed training loses, such as 30s (default: 60s)",
    )
    sub.add_argument(
        "--validations", type=int, metavar="N", help="evaluations of the validation cases on the way (default: 10)"
    )
    add_shared(sub, "--batch-size")
    sub.add_argument(
        "--patch-schedule",
        type=_patch_schedule,
        metavar="DxHxW:SHARE,...",
        help="patches of growing size, each for a share of the steps; the last one is --spatial",
    )
    add_shared(sub, "--dtype", "--device", "--threads", "--seed", "--out", "--fresh", "--config")


def run(options: argparse.Namespace) -> int:
    """Train, or go on with what was begun in the folder."""
    from benchbench.training import processes
    from benchbench.training import run as training_run

    request = values_of(training_run.TrainRequest, options)
    recipe = {name: value for name, value in values_of(TrainRecipe, options).items() if name not in request}
    recipe |= {"augment": options.augment == "full", "bf16": {"auto": None, "fp32": False, "bf16": True}[options.dtype]}
    training = training_run.prepare(training_run.TrainRequest(**request, more=recipe))
    if processes.is_distributed() and not options.out:
        raise UsageError("several processes train into one folder: name it with --out")
    out = options.out or new_folder("train")
    try:
        with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
            result = training.run(out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        again = f"the same command with --out {shlex.quote(str(out))} goes on from the last checkpoint"
        raise KeyboardInterrupt(again) from None
    if processes.is_main_process():
        print("\n".join(_summary(training, result, out)))
    return EXIT_OK


def _summary(training: PreparedTraining, result: TrainResult, out: Path) -> list[str]:
    """What came of it, and how to evaluate it."""
    lines = ["finished before: the same was asked for, so nothing was trained"] if result.earlier else []
    loss = f", last mean loss {result.curve[-1][1]:.3f}" if result.curve else ""
    lines.append(f"{result.steps} steps in {result.seconds:.0f} s{loss}")
    if result.validation:
        cases = training.plan.splits["val"]
        lines.append(f"Dice on val {result.validation[-1][1]:.3f} ({cases} cases, watched while it trained)")
    weights, request = training.weights(out), training.request
    lines.append(f"checkpoint: {weights}")
    fold = [] if request.fold in (None, 0) else ["--fold", request.fold]
    more = ["--data", request.data, *fold, "--checkpoint", weights]
    lines.append(f"evaluate it: {command('run', '--models', request.model, *more)}")
    return lines
