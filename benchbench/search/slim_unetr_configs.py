"""Configurations of Slim UNETR: widths, depths, heads, attention, sampling, expansion, stem, and pruning.

No width, depth or expansion is larger than the published network's, whose weights others inherit by slicing. That
bounds parameters, not MACs: a stem of half the stride has maps of eight times the voxels. So with a fine stem the
attention samples as coarsely, counted in voxels of the input, as with a coarse one, and with a stem of 1 the first
three stages are about half as wide at most.

The published network takes patches whose sides are multiples of every stride. Corrected ones take any, and are built
with `padding="stages"`, by which they compute on hardly more voxels than the patch has; but for the corrected network
as it ships.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from benchbench.core import records as rec
from benchbench.search.search_space import Chooser

Variant = Literal["slim_unetr", "slim_unetr_fixed"]
VARIANTS: tuple[Variant, ...] = ("slim_unetr", "slim_unetr_fixed")

#: Choices for each stage; the last one is that of the published network.
WIDTHS = ((4, 8, 12, 16, 20, 24), (8, 12, 16, 24, 32, 40, 48), (16, 24, 32, 40, 48, 60), (24, 32, 48, 64, 80, 96))
DEPTHS = ((1,), (1, 2), (1, 2, 3), (1, 2))
ATTENTION = ((8, 16, 24), (16, 24, 32, 48), (20, 32, 40, 60), (24, 48, 72, 96))
HEADS = ((1, 2), (1, 2, 4), (1, 2, 4), (1, 2, 4))
EXPANSION = (1, 2, 3, 4)
STEMS = (1, 2, 4, 8)
#: Sides of the cells that the attention of the first three stages samples, in voxels of the input.
CELLS = (8, 16, 32, 64)
#: Strides of the sampling in each stage; a stem has those by which a cell has a side of `CELLS` (see `samplings`).
SAMPLING = ((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), (1,))
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
CRITERIA = ("magnitude", "taylor")
SCOPES = ("layer", "global")

#: Tokens of an attention, whose scores are as many squared: 64 MB a head. A patch of 128^3 has as many cells of 8.
MOST_TOKENS = 4096
#: Stem -> widest first stages. With all of the published widths, a stem of 1 would have 64 times their MACs.
WIDEST: Mapping[int, tuple[int, int, int]] = {1: (12, 24, 32)}

STRIDES = (1, 2, 4, 8)  # of the stages, against the stem's


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Config:
    """One network of the space."""

    variant: str = "slim_unetr"
    widths: tuple[int, int, int, int] = (24, 48, 60, 96)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)
    attention: tuple[int, int, int, int] = (24, 48, 60, 96)
    heads: tuple[int, int, int, int] = (1, 2, 4, 4)
    sampling: tuple[int, int, int, int] = (4, 2, 2, 1)
    expansion: tuple[int, int, int, int] = (4, 4, 4, 4)
    stem: int = 4
    prune: float = 0.0
    scope: str = "layer"
    criterion: str = "magnitude"

    def kwargs(self) -> dict[str, Any]:
        """The keywords of its class; those of the card for the published network, in both variants."""
        return {
            "channels": list(self.widths[:3]),
            "embed_dim": self.widths[3],
            "blocks": list(self.depths),
            "heads": list(self.heads),
            "r": list(self.sampling),
            "attention": list(self.attention),
            "expansion": list(self.expansion),
            "stem": self.stem,
        } | ({"padding": "stages"} if self.pads and not self._pads_whole else {})

    @property
    def pads(self) -> bool:
        """Whether it takes any patch."""
        return self.variant == "slim_unetr_fixed"

    @property
    def _pads_whole(self) -> bool:
        """Whether it is the corrected network as it ships, which pads the input to a multiple of all its strides."""
        return self.pads and self.canonical() == CORRECTED

    def canonical(self) -> Config:
        """The same for all configurations that build one network: without pruning, its scope and criterion vanish."""
        return self if self.prune else dataclasses.replace(self, scope="layer", criterion="magnitude")

    @property
    def key(self) -> str:
        """Hash of the canonical configuration."""
        return rec.content_hash(rec.to_json(self.canonical()))

    @property
    def name(self) -> str:
        """Of the network."""
        return f"{self.variant}-{self.key[:6]}"

    def patch(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The smallest patch that it takes of at least these sides (D, H, W)."""
        return tuple(spatial) if self.pads else self._round_up(spatial, whole=True)

    def computed(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Sides of what it computes on for a patch (D, H, W), padding included."""
        return self._round_up(spatial, whole=self._pads_whole or not self.pads)

    def _round_up(self, spatial: Sequence[int], *, whole: bool) -> tuple[int, ...]:
        """Sides as multiples of the stem, or of the strides of all stages and samplings."""
        strides = [self.stem * stride for stride in STRIDES]
        every = math.lcm(*strides, *(stride * r for stride, r in zip(strides, self.sampling, strict=True)))
        multiple = every if whole else self.stem
        return tuple(-(-side // multiple) * multiple for side in spatial)

    def maps(self, spatial: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Sides of each stage's map for a patch (D, H, W), or the next that it takes."""
        sides = self.computed(spatial)
        return tuple(tuple(-(-side // (self.stem * stride)) for side in sides) for stride in STRIDES)

    def tokens(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Cells of each stage's attention."""
        return tuple(
            math.prod(-(-side // r) for side in sides)
            for sides, r in zip(self.maps(spatial), self.sampling, strict=True)
        )

    def padding(self, spatial: Sequence[int]) -> float:
        """The share of padding among the voxels that it computes on for a patch (D, H, W)."""
        return 1 - math.prod(spatial) / math.prod(self.computed(spatial))

    def fits(self, spatial: Sequence[int]) -> bool:
        """Whether heads divide the attention, which has few enough tokens; and whether it takes the patch."""
        if any(width % heads for width, heads in zip(self.attention, self.heads, strict=True)):
            return False
        if any(r not in of for r, of in zip(self.sampling, samplings(self.stem), strict=True)):
            return False
        return max(self.tokens(spatial)) <= MOST_TOKENS and self.patch(spatial) == tuple(spatial)


PUBLISHED = Config()
CORRECTED = Config(variant="slim_unetr_fixed")


def published(variant: str) -> Config:
    """The published network in one of its variants."""
    return dataclasses.replace(PUBLISHED, variant=variant)


def samplings(stem: int) -> tuple[tuple[int, ...], ...]:
    """Strides of the sampling in each stage that a stem has: those of cells with a side of `CELLS`."""
    first = [tuple(dict.fromkeys(_sampling(stem, stage, cell) for cell in CELLS)) for stage in range(3)]
    return (*first, SAMPLING[3])


def _sampling(stem: int, stage: int, cell: int) -> int:
    """The stride that comes nearest to a cell's side, in voxels of the input."""
    choices = SAMPLING[stage]
    return min(max(choices), max(min(choices), cell // (stem * STRIDES[stage])))


def suggest(trial: Chooser) -> Config:
    """A configuration from the choices of a trial.

    Heads are reduced to divide the attention's width, and the widths of a stem to its widest. Cells are of a size in
    voxels of the input, so that a choice means as many tokens with every stem.
    """

    def each(name: str, choices: Sequence[Sequence[int]]) -> list[int]:
        return [trial.suggest_categorical(f"{name}{stage}", list(of)) for stage, of in enumerate(choices, 1)]

    attention = each("attention", ATTENTION)
    heads = each("heads", HEADS)
    stem = trial.suggest_categorical("stem", list(STEMS))
    widths, cells = each("width", WIDTHS), each("cell", (CELLS,) * 3)
    return Config(
        variant=trial.suggest_categorical("variant", list(VARIANTS)),
        widths=_four(_within(stem, widths)),
        depths=_four(each("depth", DEPTHS)),
        attention=_four(attention),
        heads=_four([math.gcd(width, n) for width, n in zip(attention, heads, strict=True)]),
        sampling=_four([*(_sampling(stem, stage, cell) for stage, cell in enumerate(cells)), SAMPLING[3][0]]),
        expansion=_four(each("expansion", (EXPANSION,) * 4)),
        stem=stem,
        prune=trial.suggest_categorical("prune", list(RATIOS)),
        scope=trial.suggest_categorical("scope", list(SCOPES)),
        criterion=trial.suggest_categorical("criterion", list(CRITERIA)),
    ).canonical()


def _within(stem: int, widths: Sequence[int]) -> list[int]:
    """Widths that a stem may have."""
    widest = (*WIDEST.get(stem, (max(WIDTHS[0]), max(WIDTHS[1]), max(WIDTHS[2]))), max(WIDTHS[3]))
    return [min(width, most) for width, most in zip(widths, widest, strict=True)]


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    return values[0], values[1], values[2], values[3]


def parameters(config: Config) -> dict[str, Any]:
    """The choices that give a configuration, to enqueue it; the reverse of `suggest`."""
    cells = [r * stride * config.stem for r, stride in zip(config.sampling[:3], STRIDES, strict=False)]
    choices: dict[str, Any] = {}
    for name, values in (
        ("attention", config.attention),
        ("heads", config.heads),
        ("width", config.widths),
        ("depth", config.depths),
        ("cell", cells),
        ("expansion", config.expansion),
    ):
        choices |= {f"{name}{stage}": value for stage, value in enumerate(values, 1)}
    plain = {key: getattr(config, key) for key in ("variant", "stem", "prune", "scope", "criterion")}
    return choices | plain


def from_json(plain: Mapping[str, Any]) -> Config:
    """A configuration from the JSON values of its fields."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return Config(**values)


#: Corrected, with a stem of 2: 304 k parameters. Its Dice on the hippocampus is 0.866 after 8 minutes of a core; that
#: of the published widths with a stem of 4 is 0.839 after 40.
FINE = Config(
    variant="slim_unetr_fixed",
    widths=(16, 24, 32, 48),
    depths=(1, 1, 2, 1),
    attention=(16, 24, 32, 48),
    stem=2,
)


def starting_points() -> Iterator[Config]:
    """First proposals: what is known to be good, its neighbours, and the published network with a uniform scaling.

    Of those that do not take a patch, others of the list remain.
    """
    yield FINE
    yield dataclasses.replace(FINE, widths=(12, 16, 24, 32), attention=(8, 16, 20, 24), depths=(1, 1, 1, 1))
    yield dataclasses.replace(
        FINE, widths=(24, 32, 48, 64), attention=(16, 32, 40, 48), depths=(1, 1, 2, 1), sampling=(4, 2, 1, 1), stem=4
    )
    yield dataclasses.replace(
        FINE, widths=(20, 32, 48, 64), attention=(8, 32, 40, 48), sampling=(8, 4, 2, 1), expansion=(2, 4, 4, 4)
    )
    yield dataclasses.replace(
        FINE,
        widths=(8, 12, 24, 32),
        attention=(8, 16, 20, 24),
        depths=(1, 1, 1, 1),
        sampling=(8, 4, 2, 1),
        expansion=(1, 1, 2, 2),
        stem=1,
    )
    yield PUBLISHED
    yield scaled(0.5)
    yield scaled(0.5, "slim_unetr_fixed")


def scaled(share: float, variant: str = "slim_unetr") -> Config:
    """The published network with a share of its widths, rounded to the choices of the space."""

    def near(choices: Sequence[Sequence[int]], whole: Sequence[int]) -> tuple[int, int, int, int]:
        return _four(
            [min(of, key=lambda n: abs(n - share * all_of)) for of, all_of in zip(choices, whole, strict=True)]
        )

    attention = near(ATTENTION, PUBLISHED.attention)
    return Config(
        variant=variant,
        widths=near(WIDTHS, PUBLISHED.widths),
        attention=attention,
        heads=_four([math.gcd(width, n) for width, n in zip(attention, PUBLISHED.heads, strict=True)]),
    )


def text_of(config: Config) -> str:
    """`widths 12-24-32-48, depths 1-1-2-1, ...`: only what differs from the published network."""
    plain = published(config.variant)
    parts = []
    for name in ("widths", "depths", "attention", "heads", "sampling", "expansion"):
        value = getattr(config, name)
        if value != getattr(plain, name):
            parts.append(f"{name} {'-'.join(map(str, value))}")
    if config.stem != plain.stem:
        parts.append(f"stem {config.stem}")
    if config.prune:
        parts.append(f"{config.prune:.0%} pruned by {config.criterion}, {config.scope}")
    return ", ".join(parts) or "as published"


def description() -> dict[str, Any]:
    """The space as JSON values, by which trials of another space are refused."""
    return {
        "widths": WIDTHS,
        "depths": DEPTHS,
        "attention": ATTENTION,
        "heads": HEADS,
        "expansion": EXPANSION,
        "cells": CELLS,
        "sampling": SAMPLING,
        "stems": STEMS,
        "widest": {str(stem): widths for stem, widths in WIDEST.items()},
        "most_tokens": MOST_TOKENS,
        "prune": RATIOS,
        "criteria": CRITERIA,
        "scopes": SCOPES,
        "variants": VARIANTS,
    }
