"""Products of up to eight rows with a matrix, in little more time than it takes to read the matrix once.

With so few rows nearly all time goes into fetching the matrix from memory, and four rows need not cost more than one.
By MKL and oneDNN they do. numba compiles the plain loops below for the processor at hand: each row of
the matrix is read once, and multiplied by all rows while it is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.machine import once

MOST = 8
"""Rows that are multiplied at once."""
A_THREAD = 1 << 20
"""Numbers of the matrix below which another thread does not pay."""
Kernel = Callable[[Any, Any, Any], None]


class RowProduct:
    """`states @ matrix.T` for a matrix `[M, D]`, contiguous and float32. The rows of a large one are shared out among
    `threads`, as many as torch takes."""

    def __init__(self, matrix: Tensor, threads: Executor) -> None:
        parts = max(1, min(torch.get_num_threads(), matrix.numel() // A_THREAD))
        self.parts = [part.numpy() for part in matrix.detach().split(-(-len(matrix) // parts))]
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.threads = threads

    def __call__(self, states: Tensor) -> Tensor:
        """Of `[..., D]`, float32, at most `MOST` rows: `[..., M]`, without gradients. numpy's views cost a tenth of
        torch's, which would show beside products as short as these."""
        rows = states.contiguous().numpy().reshape(-1, states.shape[-1])
        count = len(rows)
        few, kernel = (4, by_four()) if count <= 4 else (8, by_eight())
        if count < few:
            rows = np.concatenate([rows, np.zeros((few - count, rows.shape[1]), np.float32)])
        out = np.empty((few, self.ends[-1]), dtype=np.float32)
        if len(self.parts) == 1:
            kernel(self.parts[0], rows, out)
        else:
            shares = zip(self.parts, np.split(out, self.ends[:-1], axis=1), strict=True)
            for done in [self.threads.submit(kernel, part, rows, share) for part, share in shares]:
                done.result()
        return torch.from_numpy(out[:count].reshape(*states.shape[:-1], -1))


@once
def has_numba() -> bool:
    """Whether numba can be imported. One that cannot, as beside a newer numpy than it knows, is warned of."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        if error.name != "numba":
            warnings.warn(
                "numba is installed, but cannot be imported, so that contrastive search takes longer: "
                "python -c 'import numba' says why",
                stacklevel=2,
            )
        return False
    return True


@once
def by_four() -> Kernel:
    return _compiled(four_rows)


@once
def by_eight() -> Kernel:
    return _compiled(eight_rows)


def _compiled(loops: Kernel) -> Kernel:
    """Sums may be taken in any order, as libraries of products do too. The code is kept on disk, beside this file or
    among the user's caches, if either can be written to."""
    from numba import njit

    options: dict[str, Any] = {"fastmath": {"reassoc", "contract"}, "nogil": True}
    signature = "void(float32[:, ::1], float32[:, ::1], float32[:, :])"
    try:
        kernel: Kernel = njit(signature, cache=True, **options)(loops)
    except (RuntimeError, OSError):  # nowhere to write to; no room there
        kernel = njit(signature, **options)(loops)
    return kernel


def four_rows(matrix: Any, rows: Any, out: Any) -> None:
    """`rows` `[4, D]` with the `matrix` `[M, D]`, in `out` `[4, M]`, float32. One name a row keeps its sum out of
    memory."""
    for m in range(matrix.shape[0]):
        a = b = c = d = matrix.dtype.type(0)
        for i in range(matrix.shape[1]):
            x = matrix[m, i]
            a += x * rows[0, i]
            b += x * rows[1, i]
            c += x * rows[2, i]
            d += x * rows[3, i]
        out[0, m], out[1, m], out[2, m], out[3, m] = a, b, c, d


def eight_rows(matrix: Any, rows: Any, out: Any) -> None:
    """The same for `rows` `[8, D]`."""
    for m in range(matrix.shape[0]):
        a = b = c = d = e = f = g = h = matrix.dtype.type(0)
        for i in range(matrix.shape[1]):
            x = matrix[m, i]
            a += x * rows[0, i]
            b += x * rows[1, i]
            c += x * rows[2, i]
            d += x * rows[3, i]
            e += x * rows[4, i]
            f += x * rows[5, i]
            g += x * rows[6, i]
            h += x * rows[7, i]
        out[0, m], out[1, m], out[2, m], out[3, m] = a, b, c, d
        out[4, m], out[5, m], out[6, m], out[7, m] = e, f, g, h
