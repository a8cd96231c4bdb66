"""Search space: Slim UNETR's widths, depths, heads, attention, sampling, expansion and stem, and pruning.

Nothing is larger than the published network, since smaller networks inherit its weights by slicing. Heads have to
divide the attention's width, and every stride the sides of the patch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from benchbench.core import records as rec

Variant = Literal["slim_unetr", "slim_unetr_fixed"]
VARIANTS: tuple[Variant, ...] = ("slim_unetr", "slim_unetr_fixed")

#: Choices for each stage; the last one is that of the published network.
WIDTHS = ((8, 12, 16, 20, 24), (12, 16, 24, 32, 40, 48), (16, 24, 32, 40, 48, 60), (24, 32, 48, 64, 80, 96))
DEPTHS = ((1,), (1, 2), (1, 2, 3), (1, 2))
ATTENTION = ((8, 16, 24), (16, 32, 48), (20, 40, 60), (24, 48, 72, 96))
HEADS = ((1, 2), (1, 2, 4), (1, 2, 4), (1, 2, 4))
EXPANSION = (1, 2, 3, 4)
SAMPLING = ((4, 8), (2, 4), (1, 2), (1,))
STEMS = (4, 8)
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
CRITERIA = ("magnitude", "taylor")
SCOPES = ("layer", "global")

_STRIDES = (1, 2, 4, 8)  # of the stages, against the stem's


class Chooser(Protocol):
    """An Optuna trial, or `RandomChooser`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


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
        """The keywords of its class; those of the card for the published network."""
        return {
            "channels": list(self.widths[:3]),
            "embed_dim": self.widths[3],
            "blocks": list(self.depths),
            "heads": list(self.heads),
            "r": list(self.sampling),
            "attention": list(self.attention),
            "expansion": list(self.expansion),
            "stem": self.stem,
        }

    def canonical(self) -> Config:
        """The same for all configurations that build one network: without pruning, its scope and criterion vanish."""
        return self if self.prune else dataclasses.replace(self, scope="layer", criterion="magnitude")

    @property
    def key(self) -> str:
        """Hash of the canonical configuration."""
        return rec.content_hash(rec.to_json(self.canonical()))

    def fits(self, spatial: Sequence[int]) -> bool:
        """Whether heads divide the attention, and the patch's sides are multiples of every stride."""
        if any(width % heads for width, heads in zip(self.attention, self.heads, strict=True)):
            return False
        if self.variant == "slim_unetr_fixed":  # it pads
            return True
        strides = [self.stem * stride * r for stride, r in zip(_STRIDES, self.sampling, strict=True)]
        return not any(side % math.lcm(*strides, self.stem * _STRIDES[-1]) for side in spatial)


PUBLISHED = Config()


def suggest(trial: Chooser) -> Config:
    """A configuration from the choices of a trial; its heads are reduced to divide the attention's width."""

    def each(name: str, choices: Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
        values = [trial.suggest_categorical(f"{name}{stage}", list(of)) for stage, of in enumerate(choices, 1)]
        return (values[0], values[1], values[2], values[3])

    attention = each("attention", ATTENTION)
    heads = each("heads", HEADS)
    fitting = tuple(math.gcd(width, n) for width, n in zip(attention, heads, strict=True))
    prune = trial.suggest_categorical("prune", list(RATIOS))
    return Config(
        variant=trial.suggest_categorical("variant", list(VARIANTS)),
        widths=each("width", WIDTHS),
        depths=each("depth", DEPTHS),
        attention=attention,
        heads=(fitting[0], fitting[1], fitting[2], fitting[3]),
        sampling=each("sampling", SAMPLING),
        expansion=each("expansion", (EXPANSION,) * 4),
        stem=trial.suggest_categorical("stem", list(STEMS)),
        prune=prune,
        scope=trial.suggest_categorical("scope", list(SCOPES)),
        criterion=trial.suggest_categorical("criterion", list(CRITERIA)),
    ).canonical()


def parameters(config: Config) -> dict[str, Any]:
    """The choices that give a configuration, to enqueue it; the reverse of `suggest`."""
    choices: dict[str, Any] = {}
    for name, values in (
        ("attention", config.attention),
        ("heads", config.heads),
        ("width", config.widths),
        ("depth", config.depths),
        ("sampling", config.sampling),
        ("expansion", config.expansion),
    ):
        choices |= {f"{name}{stage}": value for stage, value in enumerate(values, 1)}
    plain = {key: getattr(config, key) for key in ("variant", "stem", "prune", "scope", "criterion")}
    return choices | plain


class RandomChooser:
    """A trial that chooses at random."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._rng.choice(list(choices))


def from_json(plain: Mapping[str, Any]) -> Config:
    """A configuration from the JSON values of its fields."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return Config(**values)


def starting_points() -> Iterator[Config]:
    """First proposals: the published network, uniform scalings of it, and one width for all stages."""
    for variant, share in itertools.product(VARIANTS, (1.0, 0.75, 0.5, 0.35)):
        yield scaled(share, variant)
    for variant in VARIANTS:
        flat = (24, 24, 24, 24)
        yield Config(variant=variant, widths=flat, attention=(24, 16, 20, 24), heads=(1, 2, 4, 4))


def scaled(share: float, variant: str = "slim_unetr") -> Config:
    """The published network with a share of its widths, rounded to the choices of the space."""

    def near(choices: Sequence[Sequence[int]], whole: Sequence[int]) -> tuple[int, int, int, int]:
        nearest = [min(of, key=lambda n: abs(n - share * all_of)) for of, all_of in zip(choices, whole, strict=True)]
        return (nearest[0], nearest[1], nearest[2], nearest[3])

    attention = near(ATTENTION, PUBLISHED.attention)
    heads = [math.gcd(width, n) for width, n in zip(attention, PUBLISHED.heads, strict=True)]
    return Config(
        variant=variant,
        widths=near(WIDTHS, PUBLISHED.widths),
        attention=attention,
        heads=(heads[0], heads[1], heads[2], heads[3]),
    )


def description() -> dict[str, Any]:
    """The space as JSON values, by which trials of another space are refused."""
    return {
        "widths": WIDTHS,
        "depths": DEPTHS,
        "attention": ATTENTION,
        "heads": HEADS,
        "expansion": EXPANSION,
        "sampling": SAMPLING,
        "stems": STEMS,
        "prune": RATIOS,
        "criteria": CRITERIA,
        "scopes": SCOPES,
        "variants": VARIANTS,
    }
