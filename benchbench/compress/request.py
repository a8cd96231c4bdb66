"""Request of `bench compress`: what to remove from which network, and how to fine-tune the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from benchbench.core.arguments import REQUIRED, flag, share
from benchbench.training.recipe import TrainingBudget, parse_budget

FINE_TUNING_RATE = 1e-3  # highest learning rate
Criterion = Literal["magnitude", "taylor", "batchnorm", "random"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PruneRecipe:
    """What to remove."""

    ratio: float = flag(
        "--prune",
        REQUIRED,
        type=share,
        metavar="SHARE",
        help="share of the channels to remove, such as 0.5; the weights and MACs shrink by more, since a layer loses "
        "inputs and outputs",
    )
    criterion: Criterion = flag(
        "--criterion",
        "taylor",
        default="magnitude",
        help="how channels are ranked: by the norm of their weights (magnitude, the default), by the estimated change "
        "of the loss without them (taylor, which needs data), by the scale in their norm layer (batchnorm), or by "
        "chance, as a control (random)",
    )
    scope: Literal["layer", "global"] = flag(
        "--scope",
        "layer",
        help="remove that share from each layer, or the least important channels of all layers together (default: "
        "layer)",
    )
    multiple_of: int = flag(
        "--multiple-of", 1, help="round the number of channels that a layer keeps up to a multiple of N (default: 1)"
    )
    seed: int = flag("--seed", 0)  # of the criterion `random`, and of what gradients are of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompressRequest:
    """What `bench compress` was asked for."""

    model: str = flag("model", REQUIRED)
    trust: bool = flag("--trust", False)  # also where `model` is the path of the weights
    weights: Path | None = flag("--checkpoint")  # None: `model` is their path
    recipe: PruneRecipe
    finetune: TrainingBudget | None = flag(
        "--finetune",
        type=parse_budget,
        metavar="BUDGET",
        help="length of the fine-tuning: 5min, 500steps or 20epochs (default: none)",
    )
    distil: float = flag(
        "--distil",
        0.5,
        type=share,
        metavar="SHARE",
        help="share of the fine-tuning loss that measures the distance from the original network's output "
        "(default: 0.5)",
    )
    lr: float = flag(
        "--lr", FINE_TUNING_RATE, metavar="RATE", help="highest learning rate of the fine-tuning (default: 0.001)"
    )
    batch: int | None = flag("--batch-size")
    data: str | None = flag(
        "--data",
        help="data set that the weights were trained on, by its name or its folder (default: the one that comes with "
        "benchbench)",
    )
    name: str | None = flag(
        "--name", metavar="NAME", help="name of the new network (default: such as slim_unetr-taylor50)"
    )
    dtype: Literal["auto", "fp32", "bf16"] = flag("--dtype", "auto")
    device: str = flag("--device", "cpu")
    threads: int | None = flag("--threads")
