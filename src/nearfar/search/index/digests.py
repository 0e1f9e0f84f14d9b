"""A table from texts to numbers in 24 bytes an entry, where a dict of Python's takes some two hundred.

A text is known by 16 bytes of its BLAKE2b, by which no two have ever met. Sorted arrays hold most entries; what is new
lies in a dict until it is an eighth of them.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

ENTRY = np.dtype([("high", "u8"), ("low", "u8"), ("number", "i8")])
FEW = 1 << 14
"""Entries that a dict holds in any case."""


class Digests:
    """A number, from 0 on, for each of some texts.

    >>> places = Digests()
    >>> places["a"] = 3
    >>> places.get("a"), places.get("b")
    (3, None)
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, ENTRY)
        self._new: dict[bytes, int] = {}

    def get(self, text: str) -> int | None:
        """The number of a text, None where it has none."""
        key = digest(text)
        number = self._new.get(key)
        if number is None:
            high, low = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
            place = int(np.searchsorted(self._sorted["high"], np.uint64(high)))
            while place < len(self._sorted) and self._sorted["high"][place] == high:
                if self._sorted["low"][place] == low:
                    return int(self._sorted["number"][place])
                place += 1
        return number

    def __setitem__(self, text: str, number: int) -> None:
        self._new[digest(text)] = number
        if len(self._new) > max(FEW, len(self._sorted) // 8):
            self._sort()

    def setdefault(self, text: str, number: int) -> int:
        """The number of a text, which is this one from now on where it had none."""
        known = self.get(text)
        if known is None:
            self[text] = number
            return number
        return known

    def renumbered(self, numbers: np.ndarray) -> Digests:
        """The same texts, each with the number that `numbers` `[n]` has at its own; those of -1 go."""
        self._sort()
        other = Digests()
        other._sorted = self._sorted.copy()
        other._sorted["number"] = numbers[other._sorted["number"]]
        other._sorted = other._sorted[other._sorted["number"] >= 0]
        return other

    def fill(self, keys: bytes) -> None:
        """Enter many texts at once by their digests, one after the other; their numbers are 0, 1, ..."""
        every = entries(keys, np.arange(len(keys) // 16))
        self._sorted = every[np.lexsort((every["low"], every["high"]))]

    def _sort(self) -> None:
        """Take what is new into the sorted arrays, in the place of older entries of the same text."""
        if not self._new:
            return
        fresh = entries(b"".join(self._new), np.fromiter(self._new.values(), np.int64))
        every = np.concatenate([fresh, self._sorted])
        order = np.lexsort((np.arange(len(every)), every["low"], every["high"]))  # of equal ones the new one first
        every = every[order]
        first = np.ones(len(every), bool)
        first[1:] = (every["high"][1:] != every["high"][:-1]) | (every["low"][1:] != every["low"][:-1])
        self._sorted, self._new = every[first], {}


def digest(text: str) -> bytes:
    """16 bytes that a text is known by."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def entries(keys: bytes, numbers: np.ndarray) -> np.ndarray:
    """Entries of digests, one after the other, and their numbers `[n]`."""
    made = np.empty(len(numbers), ENTRY)
    made["high"], made["low"] = np.frombuffer(keys, "<u8").reshape(-1, 2).T
    made["number"] = numbers
    return made
