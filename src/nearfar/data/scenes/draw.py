"""Draws of chance that are the same on every machine: whole numbers out of a seeded Mersenne Twister."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class SeededDraw:
    """A stream of draws that depends on the parts of its seed alone.

    >>> SeededDraw(0, "train", 7).below(100) == SeededDraw(0, "train", 7).below(100)
    True
    """

    def __init__(self, *seed: object) -> None:
        self._bits = random.Random(digest(*seed)).getrandbits

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return self._bits(32) * n >> 32

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible; low where high is less."""
        return low + self.below(high - low + 1) if high > low else low

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in an order of chance."""
        pool = list(items)
        for i in range(count):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]


def digest(*parts: object) -> int:
    """A number below 2^62 out of anything that prints the same everywhere."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 2


def share(*parts: object) -> int:
    """A number from 0 to 99 that the parts decide."""
    return digest("share", *parts) % 100
