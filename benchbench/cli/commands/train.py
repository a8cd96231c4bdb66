"""`bench train`: one network trained on a data set."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.output import new_folder
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.core.errors import EXIT_OK, UsageError
from benchbench.core.units import format_duration, format_shape
from benchbench.training.recipe import TrainRecipe, TrainRequest
from benchbench.zoo import cards as zoo_cards

if TYPE_CHECKING:
    from benchbench.training.loop import TrainResult
    from benchbench.training.run import PreparedTraining


def add(sub: argparse.ArgumentParser) -> None:
    """The flags; where none is given, the recipe decides."""
    add_fields(sub, TrainRequest)
    add_fields(sub, TrainRecipe)
    add_shared(sub, "--out", "--fresh", "--progress", "--config")


def run(options: argparse.Namespace) -> int:
    """Train, or go on with what was begun in the folder."""
    from benchbench.training import processes
    from benchbench.training import run as training_run

    request = TrainRequest(**values_of(TrainRequest, options), more=values_of(TrainRecipe, options))
    training = training_run.prepare(request)
    if processes.is_distributed() and not options.out:
        raise UsageError("several processes train into one folder: name it with --out")
    out = options.out or new_folder("train")
    try:
        intro = _plan(training, out) if processes.is_main_process() else ""
        with progress_of.of_steps(options, intro) as progress:
            result = training.run(out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        again = f"the same command with --out {shlex.quote(str(out))} goes on from the last checkpoint"
        raise KeyboardInterrupt(again) from None
    if processes.is_main_process():
        print("\n".join(_summary(training, result, out)))
    return EXIT_OK


def _plan(training: PreparedTraining, out: Path) -> str:
    """What is trained, on what, for how long, and where it goes."""
    cases = training.plan.splits
    watched = f", {cases['val']} watched" if cases.get("val") else ""
    budget = training.recipe.budget
    length = str(budget) if budget.seconds is None else format_duration(budget.seconds)
    return (
        f"{training.spec.name} on {training.plan.name}: {cases.get('train', 0)} training cases{watched}, patch "
        f"{format_shape(training.recipe.patch)}, batch {training.recipe.batch}, {length}; "
        f"the checkpoint goes to {training.weights(out)}"
    )


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
    network = request.model or zoo_cards.name_for(result.checkpoint)
    place = more if network != str(weights) else more[:-2]
    lines.append(next_line("to measure it", "run", "--models", network, *place))
    return lines
