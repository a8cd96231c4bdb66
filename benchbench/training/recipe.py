"""Training recipe: one for every network of the zoo, its budget, and its learning rate over it.

The budget is minutes, steps or epochs, and every schedule is over the share of it that is used. So a training of twenty
minutes and one of a thousand steps follow the same curve, whatever a step costs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from benchbench.core.errors import UsageError
from benchbench.core.units import parse_seconds

Patch = tuple[int, int, int]
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
        seconds = parse_seconds(text)
    except UsageError as error:
        raise UsageError(f"{text!r} is no budget: write 20min, 1000steps or 300epochs") from error
    return TrainingBudget(seconds=seconds)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """How to train; the same for every network unless said otherwise."""

    data: str  # as `benchbench.data.get_plan` finds it
    patch: Patch  # (D, H, W) voxels that the network is used with
    budget: TrainingBudget
    batch: int = 1  # patches in a step of one process
    seed: int = 0
    loss: Literal["dice_ce", "dice_focal"] = "dice_ce"  # of regions the cross-entropy is binary
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.99  # of SGD, Nesterov's
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup: float = 0.04  # share of the budget with a rising rate
    lr_floor: float = 0.05  # the schedule ends at this share of `lr`
    prior: float = 0.01  # probability of each region at the start; see `losses.set_prior`
    foreground: float = 0.67  # share of patches that are cut near a labelled voxel
    augment: bool = True  # rotation, scale, noise, blur, contrast, gamma, low resolution; else flips and contrast
    mirror: tuple[int, ...] = (0,)  # axes along which patches are flipped; 0 is left-right
    patch_schedule: tuple[tuple[Patch, float], ...] = ()  # (patch, share of the budget), in order; empty: `patch`
    ema: float = 0.99  # decay of the average of the weights, per step
    clip: float = 5.0  # largest norm of the gradient
    distil: float = 0.0  # share of the loss that is the distance from a teacher's outputs, if there is a teacher
    threads: int | None = None  # None: torch's default
    bf16: bool | None = None  # autocast; None: if the device is faster with it
    checkpoint_every_s: float = 60.0
    validations: int = 10  # evaluations of the split `val`, the one at the end included

    def __post_init__(self) -> None:
        schedule = self.patches
        if abs(sum(share for _, share in schedule) - 1) > 1e-6 or schedule[-1][0] != self.patch:
            raise UsageError(
                f"patch_schedule must end on the patch {self.patch} with shares that sum to 1, not {schedule}"
            )
        if not 0 <= self.distil <= 1:
            raise UsageError(f"the share of the loss that comes from a teacher must be from 0 to 1, not {self.distil}")
        if self.batch < 1 or not 0 <= self.warmup < 1 or not 0 <= self.ema < 1 or self.lr <= 0:
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
        for patch, share in self.patches:
            end += share
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
