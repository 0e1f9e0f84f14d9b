"""What fields prepared, kept from epoch to epoch as far as the memory allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from torch import Tensor


class PartCache:
    """Values by key, until the bytes that they may take are full. Numbers do not count.

    Args:
        budget: bytes; 0 keeps nothing.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._left, self._kept = budget, budget, dict[Hashable, Any]()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value kept under `key`, or what `make` returns, which is kept if there is room."""
        if not self._budget:
            return make()
        if key in self._kept:
            return self._kept[key]
        value = make()
        size = _bytes(value)
        with self._lock:
            if size <= self._left and key not in self._kept:
                self._kept[key] = value
                self._left -= size
        return value


def _bytes(value: Any) -> int:
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, str | bytes):
        return len(value)
    return value.nbytes if isinstance(value, Tensor | np.ndarray) else 0
