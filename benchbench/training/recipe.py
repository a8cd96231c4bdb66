"""Request and recipe of a training: one recipe for every network of the zoo, its budget, its learning rate over it.

The budget is minutes, steps or epochs, and every schedule is over the share of it that is used. So a training of twenty
minutes and one of a thousand steps follow the same curve, whatever a step costs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from benchbench.core.arguments import flag, natural, one_of, seconds, share
from benchbench.core.errors import UsageError
from benchbench.core.units import AXES, parse_seconds

Patch = tuple[int, int, int]
AUTO: Literal["auto"] = "auto"
_BATCH_VOXELS = 96**3  # for which a step of a plain U-Net takes about 4 GB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBudget:
    """When a training ends: exactly one of seconds, steps and epochs."""

    seconds: float | None = None
    steps: int | None = None
    epochs: int | None = None  # each of as many patches as there are training cases
    most_s: float | None = None  # time limit of a budget in steps or epochs

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.steps, self.epochs) if value is not None]
        if len(given) != 1 or not given[0] > 0 or (self.most_s is not None and not self.most_s > 0):
            raise UsageError(f"a budget is one of seconds, steps or epochs, above 0; not {self}")

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return f"{self.steps} steps" if self.steps is not None else f"{self.epochs} epochs"

    def in_steps(self, cases: int, batch: int) -> int | None:
        """The budget in optimizer steps; None if it is in seconds.

        Args:
            batch: patches in one step, of all processes together.
        """
        if self.epochs is not None:
            return self.epochs * max(1, math.ceil(cases / batch))
        return self.steps


def parse_budget(text: str) -> TrainingBudget:
    """`20min`, `90s`, `1h`, `1000steps`, `300epochs`.

    Raises:
        UsageError: it cannot be read.
    """
    match = re.fullmatch(r"(\d+) ?(steps?|epochs?)", text.strip())
    if match:
        number, what = int(match[1]), match[2].removesuffix("s")
        return TrainingBudget(steps=number) if what == "step" else TrainingBudget(epochs=number)
    try:
        return TrainingBudget(seconds=parse_seconds(text))
    except UsageError as error:
        raise UsageError(f"{text!r} is no budget: write 20min, 1000steps or 300epochs") from error


def _patch_schedule(text: str) -> tuple[tuple[tuple[int, ...], float], ...]:
    """`64x64x64:0.9,128x128x128:0.1`."""
    try:
        parts = [step.split(":") for step in text.split(",")]
        schedule = tuple((tuple(int(side) for side in patch.split("x")), float(part)) for patch, part in parts)
        if all(len(patch) == 3 for patch, _ in schedule):
            return schedule
    except ValueError:
        pass
    raise UsageError(f"{text!r} is not like 64x64x64:0.9,128x128x128:0.1")


def _mirror(text: str) -> tuple[int, ...] | Literal["auto"]:
    """`auto`, `none`, or axes as `D,H`."""
    if text == AUTO:
        return AUTO
    names = [] if text == "none" else text.upper().split(",")
    if len(set(names)) < len(names) or not set(names) <= set(AXES):
        raise UsageError(f"{text!r} is none of auto, none, and axes out of D,H,W, such as D or D,H")
    return tuple(sorted(map(AXES.index, names)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A training, as it is asked for."""

    model: str | None = flag(
        "model",
        nargs="?",
        help="network: a name of 'bench list models', a card, or pkg.module:Class (default: that of --init)",
    )
    init: Path | None = flag(
        "--init",
        metavar="FILE",
        help="weights to begin with (.safetensors, or a folder of 'bench import'; default: random ones)",
    )
    in_channels: int | None = flag("--in-channels")  # None, or those of the data
    out_channels: int | None = flag("--out-channels")
    data: str = flag("--data", "phantom")
    patch: Patch | None = flag("--spatial", help="size of the patch in voxels (default: that of the data set)")
    fold: int | None = flag("--fold")  # None: the data set's own
    budget: TrainingBudget = flag(
        "--budget",
        TrainingBudget(seconds=1200.0),
        type=parse_budget,
        metavar="BUDGET",
        help="length of the training: 20min, 1000steps or 300epochs; learning rate and patch sizes follow the share of "
        "it that is used up (default: 20min)",
    )
    batch: int | None = flag("--batch-size")  # patches in a step; None: by the patch
    device: str = flag("--device", "cpu")
    seed: int = flag("--seed", 0)
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the recipe


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """How to train; the same for every network unless said otherwise."""

    data: str  # as `benchbench.data.get_plan` finds it
    patch: Patch  # (D, H, W) voxels that the network is used with
    budget: TrainingBudget
    batch: int = 1  # patches in a step of one process
    seed: int = 0
    loss: Literal["dice_ce", "dice_focal"] = flag(  # of regions the cross-entropy is binary
        "--loss", "dice_ce", help="loss function (default: dice_ce)"
    )
    optimizer: Literal["adamw", "sgd"] = flag("--optimizer", "adamw", help="optimiser (default: adamw)")
    lr: float = flag(
        "--lr", 1e-3, metavar="RATE", help="highest learning rate (default: that of the network's card, else 0.001)"
    )
    weight_decay: float = flag("--weight-decay", 1e-2, metavar="W", help="weight decay (default: 0.01)")
    momentum: float = 0.99  # of SGD, Nesterov's
    schedule: Literal["cosine", "poly"] = flag(
        "--schedule", "cosine", help="how the learning rate falls after the warm-up (default: cosine)"
    )
    warmup: float = flag(
        "--warmup",
        0.04,
        type=share,
        metavar="SHARE",
        help="share of the budget over which the learning rate rises (default: 0.04)",
    )
    lr_floor: float = 0.05  # the schedule ends at this share of `lr`
    prior: float = 0.01  # probability of each region at the start; see `losses.set_prior`
    foreground: float = 0.67  # share of patches that are cut near a labelled voxel
    augment: bool = flag(  # rotation, scale, noise, blur, contrast, gamma, low resolution; else flips and contrast
        "--augment",
        True,
        action="store",
        type=one_of(full=True, light=False),
        metavar="{full,light}",
        help="data augmentation; light: flips and contrast only (default: full)",
    )
    mirror: tuple[int, ...] | Literal["auto"] = flag(  # axes along which patches are flipped, 0 to 2 for D, H and W
        "--mirror",
        AUTO,
        type=_mirror,
        metavar="auto|none|AXES",
        help="axes along which patches are mirrored at random: D (left to right), H (back to front), W (feet to head), "
        "or several, such as D,H; none; auto: those along which the labels of the training cases have no fixed "
        "arrangement (default: auto)",
    )
    patch_schedule: tuple[tuple[Patch, float], ...] = flag(  # in order; empty: `patch`
        "--patch-schedule",
        (),
        type=_patch_schedule,
        metavar="DxHxW:SHARE,...",
        help="sizes of the patch in turn, each with its share of the budget; the last is that of --spatial",
    )
    average: float = flag(
        "--average",
        0.1,
        type=share,
        metavar="SHARE",
        help="share of the steps so far that the moving average of the weights covers (default: 0.1)",
    )
    clip: float = flag("--clip", 5.0, metavar="NORM", help="largest norm of the gradient (default: 5)")
    distil: float = 0.0  # share of the loss that is the distance from a teacher's outputs, if there is a teacher
    threads: int | None = flag("--threads")  # None: torch's default
    bf16: bool | None = flag(  # autocast; None: where the network's first steps are faster with it
        "--dtype", action="store", type=one_of(auto=None, fp32=False, bf16=True), metavar="{auto,fp32,bf16}"
    )
    checkpoint_every_s: float = flag(
        "--keep-every",
        60.0,
        type=seconds,
        metavar="TIME",
        help="time between checkpoints, which is the most that a killed training loses, such as 30s (default: 60s)",
    )
    validations: int = flag(  # of the split `val`, the end included; 0: never
        "--validations",
        10,
        type=natural,
        help="how many times the validation cases are evaluated during the training (default: 10)",
    )

    def __post_init__(self) -> None:
        schedule = self.patches
        if abs(sum(part for _, part in schedule) - 1) > 1e-6 or schedule[-1][0] != self.patch:
            raise UsageError(
                f"patch_schedule must end on the patch {self.patch} with shares that sum to 1, not {schedule}"
            )
        if not 0 <= self.distil <= 1:
            raise UsageError(f"the share of the loss that comes from a teacher must be from 0 to 1, not {self.distil}")
        if self.mirror != AUTO and (len(set(self.mirror)) < len(self.mirror) or not set(self.mirror) <= {0, 1, 2}):
            raise UsageError(
                f"patches are mirrored along different axes out of 0, 1 and 2, or {AUTO!r}, not {self.mirror}"
            )
        if self.batch < 1 or not 0 <= self.warmup < 1 or not 0 <= self.average < 1 or self.lr <= 0:
            raise UsageError(
                f"a batch from 1, a warm-up and an average from 0 to below 1, and a rate above 0 are needed; not {self}"
            )

    @property
    def patches(self) -> tuple[tuple[Patch, float], ...]:
        """(patch, share of the budget), in order."""
        return self.patch_schedule or ((self.patch, 1.0),)

    def patch_at(self, used: float) -> Patch:
        """The patch after a share of the budget."""
        end = 0.0
        for patch, part in self.patches:
            end += part
            if used < end - 1e-9:
                return patch
        return self.patches[-1][0]

    def rate_at(self, used: float) -> float:
        """The learning rate after a share of the budget."""
        return self.lr * rate(used, self.warmup, self.lr_floor, self.schedule)


def rate(used: float, warmup: float, floor: float, schedule: str = "cosine") -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine or a polynomial down to `floor`.

    Args:
        used: share of the budget that is used, 0 to 1.
        warmup: share of the budget at which the peak is reached.
        schedule: `cosine`, or `poly`, (1 - x)^0.9 as in nnU-Net.
    """
    if used < warmup:
        return 0.02 + 0.98 * used / warmup
    left = 1 - (used - warmup) / (1 - warmup)
    shape = 0.5 * (1 - math.cos(math.pi * left)) if schedule == "cosine" else max(left, 0.0) ** 0.9
    return floor + (1 - floor) * shape


def default_batch(patch: Patch | tuple[int, ...]) -> int:
    """Default patches in a step: two, as in nnU-Net, or one if two have more voxels than 96^3."""
    return max(1, min(2, _BATCH_VOXELS // math.prod(patch)))
