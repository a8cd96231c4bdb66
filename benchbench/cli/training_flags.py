"""Flags of `bench train`, `compress` and `predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchbench.cli import types as to
from benchbench.cli.types import FORMATS


def add_channels(sub: argparse.ArgumentParser) -> None:
    """How many channels a network has."""
    sub.add_argument(
        "--in-channels", type=to.positive, metavar="N", help="of the image (default: the data set's, or the card's: 4)"
    )
    sub.add_argument(
        "--out-channels",
        type=to.positive,
        metavar="N",
        help="of the output (default: the data set's, or the card's: 3)",
    )


def add_trust(sub: argparse.ArgumentParser) -> None:
    """Whether the code that weights name may run."""
    sub.add_argument(
        "--trust",
        action="store_true",
        help="import the class that weights name even if it is not of benchbench: its code then runs here",
    )


def add_train(command: Any) -> None:
    """`bench train`."""
    sub = command("train", "train one network on a data set, by the one recipe")
    sub.add_argument("model", metavar="MODEL", help="a name from 'bench list models', a card, or pkg.module:Class")
    add_channels(sub)
    sub.add_argument(
        "--data", default="phantom", metavar="NAME|DIR", help="a data set, or its folder (default: phantom)"
    )
    sub.add_argument(
        "--spatial",
        nargs=3,
        type=to.positive,
        metavar=("D", "H", "W"),
        help="patch in voxels (default: the data set's)",
    )
    sub.add_argument("--fold", type=to.fold, metavar="N", help="of five, kept apart as the test cases (default: 0)")
    sub.add_argument(
        "--budget",
        type=to.budget,
        default="20min",
        metavar="BUDGET",
        help="20min, 1000steps or 300epochs; the schedules follow the share that is used up (default: 20min)",
    )
    sub.add_argument("--lr", type=float, metavar="RATE", help="highest learning rate (default: the recipe's, 0.001)")
    sub.add_argument("--optimizer", choices=("adamw", "sgd"), help="(default: adamw)")
    sub.add_argument("--weight-decay", type=float, metavar="W", help="(default: 0.01)")
    sub.add_argument("--schedule", choices=("cosine", "poly"), help="of the rate, after the warm-up (default: cosine)")
    sub.add_argument(
        "--warmup", type=to.share, metavar="SHARE", help="of the budget with a rising rate (default: 0.04)"
    )
    sub.add_argument("--loss", choices=("dice_ce", "dice_focal"), help="(default: dice_ce)")
    sub.add_argument("--clip", type=float, metavar="NORM", help="largest norm of the gradient (default: 5)")
    sub.add_argument("--ema", type=to.share, metavar="DECAY", help="of the average of the weights (default: 0.99)")
    sub.add_argument(
        "--augment", default="full", choices=("full", "light"), help="light: flips and contrast only (default: full)"
    )
    sub.add_argument(
        "--keep-every",
        type=to.seconds,
        metavar="TIME",
        help="how much of a killed training may be lost, such as 30s (default: 60s)",
    )
    sub.add_argument(
        "--validations", type=int, metavar="N", help="times that the validation cases are looked at (default: 10)"
    )
    sub.add_argument(
        "--batch-size",
        type=to.positive,
        metavar="N",
        help="patches in one step (default: 2, or 1 of large ones)",
    )
    sub.add_argument(
        "--patch-schedule",
        type=to.patch_schedule,
        metavar="DxHxW:SHARE,...",
        help="patches of growing size, each for a share of the steps; the last one is --spatial",
    )
    sub.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="auto: bf16 autocast where it is the faster one (default)",
    )
    sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    sub.add_argument("--threads", type=to.positive, metavar="N", help="CPU threads (default: PyTorch's)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="the same one again goes on (default: a new one under results/local)"
    )
    sub.add_argument("--fresh", action="store_true", help="start over in --out: what is there is set aside, as .old")
    sub.add_argument("--config", metavar="FILE.toml", help="these flags from a file; flags on the command line win")


def add_compress(command: Any) -> None:
    """`bench compress`."""
    sub = command("compress", "a smaller network from a trained one: channels cut, then trained on")
    sub.add_argument(
        "model", metavar="MODEL", help="the network that the checkpoint is of: a name, a card, or pkg.module:Class"
    )
    add_trust(sub)
    sub.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="its weights (.safetensors)")
    sub.add_argument(
        "--prune",
        type=to.share,
        required=True,
        metavar="SHARE",
        help="of the channels that goes, such as 0.5; more of the weights and MACs does: a layer shrinks on both sides",
    )
    sub.add_argument(
        "--criterion",
        default="magnitude",
        choices=("magnitude", "taylor", "batchnorm", "random"),
        help="which channels matter: the norm of their weights (default), what the loss would lose in first order "
        "(needs data), the scale that their norm gives them, or chance, the control",
    )
    sub.add_argument(
        "--scope",
        default="layer",
        choices=("layer", "global"),
        help="the share of each layer, or of all together, those that matter least (default: layer)",
    )
    sub.add_argument(
        "--multiple-of", type=to.positive, default=1, metavar="N", help="what stays of a layer, rounded up (default: 1)"
    )
    sub.add_argument(
        "--finetune", type=to.budget, metavar="BUDGET", help="train on: 5min, 500steps, 20epochs (default: not at all)"
    )
    sub.add_argument(
        "--distil",
        type=to.share,
        default=0.5,
        metavar="SHARE",
        help="of that training's loss: the distance from the whole network's answers (default: 0.5)",
    )
    sub.add_argument(
        "--lr", type=float, default=1e-3, metavar="RATE", help="its highest learning rate (default: 0.001)"
    )
    sub.add_argument("--batch-size", type=to.positive, metavar="N", help="patches in a step (default: as for train)")
    sub.add_argument(
        "--data", metavar="NAME|DIR", help="the data that the weights were trained on (default: what comes along)"
    )
    sub.add_argument("--name", metavar="NAME", help="of the new network (default: such as slim_unetr-taylor50)")
    sub.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="auto: bf16 autocast where it is the faster one (default)",
    )
    sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="that it is trained on (default: cpu)")
    sub.add_argument("--threads", type=to.positive, metavar="N", help="CPU threads (default: PyTorch's)")
    sub.add_argument(
        "--seed", type=to.natural, default=0, metavar="N", help="of the training, and of chance (default: 0)"
    )
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="the same one again goes on (default: a new one under results/local)"
    )
    sub.add_argument("--fresh", action="store_true", help="start over in --out: what is there is set aside, as .old")
    sub.add_argument("--format", default="table", choices=FORMATS)
    sub.add_argument("--config", metavar="FILE.toml", help="these flags from a file; flags on the command line win")


def add_predict(command: Any) -> None:
    """`bench predict`."""
    sub = command("predict", "segment images with trained weights; the result lies exactly over its image")
    sub.add_argument(
        "model", metavar="MODEL", help="the network that the checkpoint is of: a name, a card, or pkg.module:Class"
    )
    add_trust(sub)
    sub.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="weights (.safetensors)")
    sub.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="a case's folder, or a file; of several channels one file each, named by the channel or numbered",
    )
    sub.add_argument("--output", type=Path, required=True, metavar="FILE", help="the label map, .nii.gz")
    sub.add_argument(
        "--overlap",
        type=to.share,
        default=0.5,
        metavar="SHARE",
        help="of neighbouring windows (default: 0.5)",
    )
    sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    sub.add_argument("--force", action="store_true", help="replace an --output that 'bench predict' did not write")
