"""Size-bounded in-memory cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Values by key up to a number of bytes; those beyond are made anew each time."""

    def __init__(self, *, most_bytes: float, size: Callable[[V], int]) -> None:
        """Nothing is kept yet.

        Args:
            most_bytes: of all values together.
            size: bytes of a value.
        """
        self.most_bytes, self.size = most_bytes, size
        self.bytes = 0
        self._known: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not kept."""
        if key in self._known:
            return self._known[key]
        value = make()
        if self.bytes + self.size(value) <= self.most_bytes:
            self._known[key] = value
            self.bytes += self.size(value)
        return value

    def clear(self) -> None:
        """Forget them."""
        self._known.clear()
        self.bytes = 0
