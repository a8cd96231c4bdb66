"""`bench compress`: a trained network with fewer channels, and what that did to it."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.output import new_folder
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.compress.request import CompressRequest, PruneRecipe
from benchbench.core.errors import EXIT_OK
from benchbench.core.units import format_value
from benchbench.report import writers
from benchbench.zoo import classes

if TYPE_CHECKING:
    from benchbench.compress.run import Compressed, Stage


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, CompressRequest)
    add_fields(sub, PruneRecipe)
    add_shared(sub, "--out", "--fresh", "--format", "--progress", "--config")


def run(options: argparse.Namespace) -> int:
    """Prune and fine-tune, or go on with what was begun in the folder."""
    from benchbench.compress import run as compress_run
    from benchbench.devices import cuda

    if options.device == "cuda":
        cuda.require()
    recipe = PruneRecipe(**values_of(PruneRecipe, options))
    request = CompressRequest(**values_of(CompressRequest, options), recipe=recipe)
    out = options.out or new_folder("compress")
    try:
        with progress_of.of_steps(options) as progress:
            result = compress_run.compress(request, out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --out {shlex.quote(str(out))} goes on") from None
    print(writers.write(rows(result, plain=options.format in ("json", "csv")), options.format))
    if options.format == "table":
        print("\n".join(summary(result, options.data)))
    return EXIT_OK


def rows(result: Compressed, *, plain: bool) -> list[dict[str, Any]]:
    """A row for each stage of the network; `plain`: unrounded numbers, with units in their names."""
    first = result.stages[0]
    if plain:
        return [
            {"network": s.title, "params": s.params, "macs": s.macs, "dice_val": s.dice, "file": _file(result, s)}
            for s in result.stages
        ]
    return [
        {
            "network": stage.title,
            "params": f"{format_value(stage.params, 'parameters')} ({stage.params / first.params:.0%})",
            "MACs": _share(stage, first),
            "Dice on val": "—" if stage.dice is None else f"{stage.dice:.3f}",
        }
        for stage in result.stages
    ]


def _share(stage: Stage, first: Stage) -> str:
    if stage.macs is None:
        return "—"
    least = "at least " if stage.at_least else ""
    return f"{least}{format_value(stage.macs, 'MAC')}" + (f" ({stage.macs / first.macs:.0%})" if first.macs else "")


def _file(result: Compressed, stage: Stage) -> str | None:
    return str(result.checkpoint.path) if stage is result.stages[-1] else None


def summary(result: Compressed, source: str | None) -> list[str]:
    """What else a person wants to know; `source` is the data set as it was asked for."""
    before, after = result.channels
    lines = ["finished before: the same was asked for, so nothing was trained"] if result.earlier else []
    lines += [f"removed {before - after} of {before} channels, in {result.layers} layers"]
    if result.unranked:
        lines.append(f"{result.unranked} layers keep all their channels, since no norm layer with scales follows them")
    if result.agreement is not None:
        lines.append(
            "checked: the original network with zeros in these channels has the same output"
            + (f", to {result.agreement:.0e} of its norm" if result.agreement else "")
            + " (where no norm layer combines channels)"
        )
    if result.val_cases and any(stage.dice is not None for stage in result.stages):
        lines.append(f"Dice is of the {result.val_cases} validation cases; 'bench run' measures it on the test cases")
    if result.val_trained_on:
        lines.append(
            f"nnU-Net trained on {result.val_trained_on} of these {result.val_cases}, so their Dice is too high before "
            "any fine-tuning, and says little of what is lost"
        )
    *_, cut, last = result.stages
    if len(result.stages) > 2 and cut.dice is not None and last.dice is not None and last.dice < cut.dice:
        lines.append(
            f"fine-tuning made it worse, from {cut.dice:.3f} to {last.dice:.3f}: let it train longer (--finetune), or "
            "at a lower rate (--lr)"
        )
    path = result.checkpoint.path
    flags: list[object] = ["--data", source] if source else []
    if source and (fold := result.checkpoint.train.get("fold")):
        flags += ["--fold", fold]
    if result.checkpoint.model.arch in classes.named():  # of the user's own, which weights alone may not have imported
        flags.append("--trust")
    step = next_line("to compare them", "run", "--models", f"{path},{result.parent_path}", *flags)
    return [*lines, f"checkpoint: {path}", step]
