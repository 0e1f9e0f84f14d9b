"""The reference: the whole matrix of logits, differentiated by autograd; for tests and second derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.ops.tiling.products import product
from nearfar.ops.tiling.tiles import Pairs


def dense_partition(pairs: Pairs, *, both: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Row log-partitions [N], column log-partitions ([M] with `both`, else [0]) and own logits ([N], or [0])."""
    q, k = pairs.q, pairs.k
    z = product(q * pairs.scale[:, None], k)
    hidden = left_out(pairs)
    rows = logsumexp(z, hidden, dim=1)
    cols = logsumexp(z, hidden, dim=0) if both and not pairs.one_set else z.new_zeros(0)
    own = z.new_zeros(0) if pairs.own is None else (q * k[pairs.own]).sum(1) * pairs.scale
    return rows, cols, own


def left_out(pairs: Pairs) -> Tensor:
    """Which pairs do not count, [N, M]."""
    n, m = len(pairs.q), len(pairs.k)
    admitted = pairs.admitted(pairs.whole)
    hidden = pairs.q.new_zeros(n, m, dtype=torch.bool) if admitted is None else ~admitted
    if pairs.one_set:
        hidden = hidden | torch.eye(n, dtype=torch.bool, device=hidden.device)
    if pairs.own is not None:
        hidden = hidden | (pairs.own[:, None] == torch.arange(m, device=hidden.device))
    return hidden


def logsumexp(z: Tensor, hidden: Tensor, *, dim: int) -> Tensor:
    # A row with nothing left is computed over all its keys and then overwritten: its gradient is 0 instead of NaN.
    empty = hidden.all(dim)
    return z.masked_fill(hidden & ~empty.unsqueeze(dim), -math.inf).logsumexp(dim).masked_fill(empty, -math.inf)


def dense_softplus(pairs: Pairs, bias: Tensor) -> Tensor:
    """Row sums [N] of softplus(logit + bias), own pairs left out."""
    z = product(pairs.q * pairs.scale[:, None], pairs.k) + bias[:, None]
    signs = pairs.signs(pairs.whole)
    z = z if signs is None else z * signs
    return torch.nn.functional.softplus(z, threshold=40.0).masked_fill(left_out(pairs), 0.0).sum(1)
