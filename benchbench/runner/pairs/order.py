"""Order of forwards: which process runs when, so that neither place nor a drift favours a side.

An interleaved block is a palindrome such as A B A' A' B A: each process has two places with one sum, so a drift that is
even over the block falls on all alike. In which order the first half comes is shuffled, and all six orders have come
before one comes again. A duet runs two processes at once, one core each; cores change hands after every second block,
and each set begins with the other cores than the one before, since a set may have few blocks.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Literal

Role = Literal["a", "control", "b"]
ROLES: tuple[Role, ...] = ("a", "control", "b")
Duet = tuple[Role, Role]  # both run at once
_SWAP_EVERY = 2  # blocks


def interleaved(chance: random.Random) -> Iterator[tuple[Role, ...]]:
    """Blocks of six forwards, without end."""
    while True:
        orders = list(itertools.permutations(ROLES))
        chance.shuffle(orders)
        for order in orders:
            yield (*order, *reversed(order))


def duets(chance: random.Random, *, swapped: bool = False) -> Iterator[tuple[tuple[Duet, ...], bool]]:
    """Blocks of two duets, A with B and A with its control, in random order; and whether cores are swapped.

    Args:
        chance: of the order.
        swapped: whether the first blocks are on swapped cores.
    """
    for number in itertools.count():
        pairs: list[Duet] = [("a", "b"), ("a", "control")]
        chance.shuffle(pairs)
        yield tuple(pairs), (number // _SWAP_EVERY % 2 == 1) != swapped
