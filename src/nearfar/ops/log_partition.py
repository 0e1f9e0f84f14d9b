"""`log_partition`: the log of a sum of exponentials over admitted keys, in memory linear in the rows. The sum is
taken tile by tile as in the online softmax (arXiv 1805.02867)."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.partition import partition

Admit = Literal["all", "same", "different", "others"]
Backend = Literal["auto", "dense", "tiled", "ring"]


@overload
def log_partition(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    admit: str = "all",
    both: Literal[False] = False,
    backend: str = "auto",
    budget: int | None = None,
    tile: int | tuple[int, int] | None = None,
) -> Tensor: ...
@overload
def log_partition(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    admit: str = "all",
    both: Literal[True],
    backend: str = "auto",
    budget: int | None = None,
    tile: int | tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]: ...
def log_partition(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor | None = None,
    k_group: Tensor | None = None,
    admit: str = "all",
    both: bool = False,
    backend: str = "auto",
    budget: int | None = None,
    tile: int | tuple[int, int] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`out[i] = log sum_j exp(scale_i * <q_i, k_j>)` over the keys j that row i admits.

    Exact, differentiable in q, k and scale, and computed tile by tile: the [N, M] matrix never exists. Any vectors
    and scales are safe from overflow and underflow. Second derivatives are right too, through the dense matrix.

    Args:
        q: queries [N, D]; float32 or float64, half precision is computed in float32.
        k: keys [M, D].
        scale: inverse temperature, a number, a scalar tensor or one number a row [N].
        q_group, k_group: integer ids [N] and [M] that `admit` compares.
        admit: "all"; "different" leaves out keys of the row's own group (itself, its other views, its class);
            "same" keeps only those; "others" is as "different" and leaves out keys of a negative id for every row:
            padding.
        both: also return the key side, `[M]`: the same logits summed over the rows, from the same tiles.
        backend: "auto" and "tiled"; "dense" builds the matrix (a reference); "ring" passes key blocks round the
            ranks of the default process group, so that the keys are all ranks' keys.
        budget: bytes of tiles kept for the backward pass. With a fraction f kept, forward and backward cost 4 - f
            products of size N x M x D. By default 128 MiB are, which is everything up to some 5,000 x 5,000 pairs in
            float32.
        tile: rows, or (rows, columns), of a tile; about 1,024 by default.

    Returns:
        [N] in the type of q (float32 for half precision); minus infinity, with gradient 0, for a row that admits no
        key. With `both` a pair ([N], [M]).

    Raises:
        UserError: shapes, types or options that do not fit together.

    >>> import torch
    >>> q, k = torch.eye(2), torch.eye(2)
    >>> log_partition(q, k, 1.0)  # log(e + 1)
    tensor([1.3133, 1.3133])
    >>> ids = torch.tensor([0, 1])
    >>> log_partition(q, k, 1.0, q_group=ids, k_group=ids, admit="different")  # log(exp 0)
    tensor([0., 0.])
    """
    pairs = inputs.pairs(q, k, scale, q_group=q_group, k_group=k_group, admit=admit, backend=backend, tile=tile)
    rows, cols, _ = partition(pairs, both=both, backend=backend, budget=budget)
    rows, cols = rows.to(pairs.q.dtype), cols.to(pairs.q.dtype)
    return (rows, cols) if both else rows
