"""`bench compress`: a trained network with fewer channels, and what that did to it."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from benchbench.cli.output import new_folder
from benchbench.cli.parser import add_shared, values_of
from benchbench.cli.progress import TrainingProgress, is_shown
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK, command
from benchbench.core.units import format_value
from benchbench.report import writers
from benchbench.training.recipe import parse_budget
from benchbench.zoo import classes

if TYPE_CHECKING:
    from benchbench.compress.run import Compressed, Stage


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "model", metavar="MODEL", help="network that the checkpoint is of: a name, a card, or pkg.module:Class"
    )
    add_shared(sub, "--trust")
    add_shared(sub, "--checkpoint", dest="weights", required=True, help="weights (.safetensors) of the whole network")
    sub.add_argument(
        "--prune",
        dest="ratio",
        type=to.share,
        required=True,
        metavar="SHARE",
        help="share of the channels to remove, such as 0.5; more of the weights and MACs goes, since a layer shrinks "
        "on both sides",
    )
    sub.add_argument(
        "--criterion",
        default="magnitude",
        choices=("magnitude", "taylor", "batchnorm", "random"),
        help="how channels are ranked: by the norm of their weights (default), by what the loss would lose in first "
        "order (needs data), by the scale that their norm gives them, or by chance, as a control",
    )
    sub.add_argument(
        "--scope",
        default="layer",
        choices=("layer", "global"),
        help="remove the share from each layer, or the least important channels of all layers (default: layer)",
    )
    sub.add_argument(
        "--multiple-of",
        type=to.positive,
        default=1,
        metavar="N",
        help="round the channels that stay in a layer up to a multiple of N (default: 1)",
    )
    sub.add_argument(
        "--finetune",
        type=parse_budget,
        metavar="BUDGET",
        help="length of the fine-tuning: 5min, 500steps or 20epochs (default: none)",
    )
    sub.add_argument(
        "--distil",
        type=to.share,
        default=0.5,
        metavar="SHARE",
        help="share of the fine-tuning's loss that is the distance from the whole network's answers (default: 0.5)",
    )
    sub.add_argument(
        "--lr", type=float, default=1e-3, metavar="RATE", help="peak learning rate of the fine-tuning (default: 0.001)"
    )
    add_shared(sub, "--batch-size")
    add_shared(
        sub,
        "--data",
        default=None,
        help="data set that the weights were trained on, or its folder (default: the one that comes with benchbench)",
    )
    sub.add_argument("--name", metavar="NAME", help="name of the new network (default: such as slim_unetr-taylor50)")
    add_shared(sub, "--dtype", "--device", "--threads", "--seed", "--out", "--fresh", "--format", "--config")


def run(options: argparse.Namespace) -> int:
    """Prune and fine-tune, or go on with what was begun in the folder."""
    from benchbench.compress import run as compress_run
    from benchbench.compress.prune import PruneRecipe
    from benchbench.devices import cuda

    if options.device == "cuda":
        cuda.require()
    recipe = PruneRecipe(**values_of(PruneRecipe, options))
    request = compress_run.CompressRequest(**values_of(compress_run.CompressRequest, options), recipe=recipe)
    out = options.out or new_folder("compress")
    try:
        with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
            result = compress_run.compress(request, out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --out {shlex.quote(str(out))} goes on") from None
    print(writers.write(rows(result, plain=options.format in ("json", "csv")), options.format))
    if options.format == "table":
        print("\n".join(summary(result, options.data)))
    return EXIT_OK


def rows(result: Compressed, *, plain: bool) -> list[dict[str, Any]]:
    """A row for each stage of the network.

    Args:
        result: of the compression.
        plain: numbers as they are, with their units in the names; else for a person.
    """
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
    lines += [f"{before - after} of {before} channels went, in {result.layers} layers"]
    if result.unranked:
        lines.append(f"{result.unranked} layers keep all their channels: no norm with scales stands behind them")
    if result.agreement is not None:
        lines.append(
            "with zeros in their place the whole network answers the same"
            + (f", to {result.agreement:.0e} of the output's norm" if result.agreement else "")
            + " (of layers that no norm takes together)"
        )
    if result.val_cases and any(stage.dice is not None for stage in result.stages):
        lines.append(
            f"Dice on the {result.val_cases} cases that training watches; 'bench run' has that of the test cases"
        )
    path = result.checkpoint.path
    flags: list[object] = ["--data", source] if source else []
    if source and (fold := result.checkpoint.train.get("fold")):
        flags += ["--fold", fold]
    if result.checkpoint.model.arch in classes.named():  # of the user's own, which weights alone may not have imported
        flags.append("--trust")
    both = command("run", "--models", f"{path},{result.parent_path}", *flags)
    return [*lines, f"checkpoint: {path}", f"compare them: {both}"]
