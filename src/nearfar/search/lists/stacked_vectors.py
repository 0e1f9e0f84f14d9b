"""Several arrays of vectors, each where it lies, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearfar.errors import UserError


class StackedVectors:
    """Arrays `[n_i, D]` one below the other, as `[N, D]` float32. Nothing is read but the rows that are taken.

    Args:
        arrays: of numbers in floating point, memory-mapped or not: one, or a sequence.

    Raises:
        UserError: there is none, they are of several widths, or no numbers in floating point.

    >>> stacked = StackedVectors([np.zeros((2, 3), "f2"), np.ones((4, 3), "f4")])
    >>> stacked.shape, stacked[1:3].tolist(), stacked[np.array([5, 0])].dtype
    ((6, 3), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype('float32'))
    """

    def __init__(self, arrays: np.ndarray | Sequence[np.ndarray]) -> None:
        self._arrays = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
        shapes = [array.shape for array in self._arrays]
        if len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 2:
            raise UserError(f"vectors are arrays [N, D] of one D, not of the shapes {shapes[:5]}")
        if not all(np.issubdtype(array.dtype, np.floating) for array in self._arrays):
            raise UserError(f"vectors are numbers in floating point, not {self._arrays[0].dtype}")
        self._ends = np.cumsum([0, *(len(array) for array in self._arrays)])
        self.shape = (int(self._ends[-1]), int(shapes[0][1]))
        if not self.shape[0]:
            raise UserError("there are no vectors to search")

    ndim = 2
    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def place_of(self, row: int) -> str:
        """Where a row lies, in words: its file and its row there, and its row among all."""
        number = int(np.searchsorted(self._ends, row, side="right")) - 1
        array, own = self._arrays[number], row - int(self._ends[number])
        name = array.filename if isinstance(array, np.memmap) else f"array {number}"
        return f"{name}, row {own:,}" + (f" (row {row:,} of all)" if number else "")

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """`[n, D]` float32 of a slice without a step, or of row numbers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            parts = [
                array[max(0, start - first) : max(0, stop - first)]
                for first, last, array in zip(self._ends, self._ends[1:], self._arrays, strict=False)
                if first < stop and last > start
            ]
            one = parts[0] if len(parts) == 1 else np.concatenate(parts or [self._arrays[0][:0]])
            return np.asarray(one, np.float32)
        rows = np.asarray(rows)
        taken = np.empty((len(rows), self.shape[1]), np.float32)
        which = np.searchsorted(self._ends, rows, side="right") - 1
        for number in np.unique(which):
            here = which == number
            taken[here] = self._arrays[number][rows[here] - self._ends[number]]
        return taken
