"""What the architectures truly share: the checks of sides, inputs and widths.

A wrong size must be refused in words, not by a mismatch of tensors twenty layers down.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any


def check_sides(
    network: str, sides: Sequence[int], multiple_of: int | Sequence[int], *, least_voxels: int = 1
) -> tuple[int, ...]:
    """Refuse an input size that a network cannot take.

    Args:
        network: the name that the message uses.
        sides: (D, H, W) in voxels.
        multiple_of: what each side must be a multiple of: one number, or one per side.
        least_voxels: how many the deepest stage must hold; two where a norm takes its statistics over them.

    Returns:
        The sides as a tuple.

    Raises:
        ValueError: naming the rule, the size, and the nearest sizes that can be taken.
    """
    rule = (multiple_of,) * 3 if isinstance(multiple_of, int) else tuple(multiple_of)
    given = tuple(map(_plain, sides))
    if len(given) != 3 or any(not isinstance(side, int) or isinstance(side, bool) for side in given):
        raise ValueError(f"{network} takes three whole sides (D, H, W), not {given}")
    if all(side > 0 and side % m == 0 for side, m in zip(given, rule, strict=True)):
        if (deepest := math.prod(side // m for side, m in zip(given, rule, strict=True))) >= least_voxels:
            return given
        raise ValueError(
            f"{network} cannot take {'x'.join(map(str, given))}: its deepest stage would hold {deepest} of the "
            f"{least_voxels} voxels that its norm needs; nearest: {given[0]}x{given[1]}x{least_voxels * rule[2]}"
        )
    lower = tuple(max(m, side // m * m) for side, m in zip(given, rule, strict=True))
    upper = tuple(max(m, -(-side // m) * m) for side, m in zip(given, rule, strict=True))
    near = " or ".join(dict.fromkeys("x".join(map(str, size)) for size in (lower, upper)))
    needed = str(rule[0]) if len(set(rule)) == 1 else "x".join(map(str, rule))
    raise ValueError(
        f"{network} cannot take {'x'.join(map(str, given))}: every side must be a multiple of {needed}; nearest: {near}"
    )


def _plain(side: Any) -> Any:
    """A side as an int where it can be one: while a graph is traced, the sides of a tensor are tensors."""
    try:
        return side if isinstance(side, bool) else operator.index(side)
    except TypeError:
        return side


def check_input(network: str, shape: Sequence[int], in_channels: int, spatial: Sequence[int]) -> None:
    """Refuse an input other than the one a network was built for; the right number of voxels is not enough.

    Args:
        network: the name that the message uses.
        shape: of the input, (B, C, D, H, W).
        in_channels: that the network was built with.
        spatial: (D, H, W) that it was built for.

    Raises:
        ValueError: naming both shapes.
    """
    if len(shape) != 5 or tuple(shape[1:]) != (in_channels, *spatial):
        raise ValueError(
            f"this {network} takes (B, {in_channels}, {', '.join(map(str, spatial))}), not {tuple(shape)}; "
            "build it with the size and channels of the input"
        )


def check_positive(network: str, **values: int) -> None:
    """Refuse a number of channels, layers or the like that is not a whole number from 1.

    Raises:
        ValueError: naming each argument that is not, with its value.
    """
    bad = [f"{name}={value!r}" for name, value in values.items() if not isinstance(value, int) or value < 1]
    if bad:
        raise ValueError(f"{network} needs whole numbers from 1, not {', '.join(bad)}")


def check_widths_per_head(network: str, **values: int) -> None:
    """Refuse a width that its attention heads do not divide.

    Args:
        network: the name that the message uses.
        values: the width, then the number of heads, under their arguments' names.

    Raises:
        ValueError: naming both.
    """
    check_positive(network, **values)
    (width_name, width), (heads_name, heads) = values.items()
    if width % heads:
        raise ValueError(f"{network}: {heads_name} must divide {width_name}, but {heads} does not divide {width}")
