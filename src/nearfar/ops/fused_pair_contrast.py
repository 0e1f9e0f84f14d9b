"""`pair_contrast`: several positives a row, each with a denominator of its own, and two groups of keys that are no
negatives: contrast of pairs of classes (Hydra, arXiv 2410.18200).

With P_i the keys of the row's partner group and N_i those of neither its own nor its partner group,

    l_ij = log(exp s_ij + sum_{n in N_i} exp s_in) - s_ij = softplus(log sum_{n in N_i} exp s_in - s_ij) ,  j in P_i .

In strips of whole rows both are there at once. Where keys are gated by the row, the key's own length in the row's
subspace is a second product: |g_i * k_j|^2 = <g_i^2, k_j^2>, so that nothing of N x M x D is ever held.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nearfar.errors import UserError
from nearfar.ops.fused_soft_target import exponentials_, parts, strip_rows
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.dense import logsumexp
from nearfar.ops.tiling.float_products import add_mm, mm
from nearfar.ops.tiling.kernels import finish_gradients
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.operators import operator
from nearfar.ops.tiling.products import product
from nearfar.ops.tiling.tiles import LN2, Pairs, Tile, wide

EPS = 1e-24
"""The least squared length that a gated key counts with: behind a closed gate all keys are at 0, and not at 0 / 0."""


class PairSum(NamedTuple):
    """`total / number` is the mean; several processes add either first. Scalars, the number without gradient."""

    total: Tensor
    number: Tensor


def pair_contrast(
    q: Tensor,
    k: Tensor,
    scale: float | Tensor,
    *,
    q_group: Tensor,
    partner: Tensor,
    k_group: Tensor,
    key_gate: Tensor | None = None,
    own: Tensor | None = None,
    each_row: bool = True,
    backend: str = "auto",
    tile: int | None = None,
) -> PairSum:
    """The sum over rows of `softplus(log sum_{n in N_i} exp s_in - s_ij)`, averaged or summed over the positives j.

    `s_ij = scale_i * <q_i, k_j>`, and with `key_gate` divided by `sqrt(sum_d key_gate_id k_jd^2)`. Exact and
    differentiable in q, k, scale and `key_gate`; the [N, M] matrix never exists. Second derivatives go through it.

    Args:
        q: queries [N, D]; float32 or float64, half precision is computed in float32.
        k: keys [M, D].
        scale: inverse temperature, a number, a scalar tensor or one number a row [N].
        q_group: integers [N], the row's own group: its keys are no negatives.
        partner: integers [N], the row's partner group: its keys are the positives.
        k_group: integers [M].
        key_gate: squared gates [N, D], at least 0: each row measures the keys in its own subspace.
        own: integers [N], the key that is the row itself: no positive, unless it is the only one.
        each_row: count rows, each by the mean over its positives; else count the positives of all rows alike.
        backend: "auto", "tiled" or "dense" (a reference).
        tile: rows of a strip. By default some 64 MiB are not exceeded below 260,000 keys.

    Returns:
        The sum in the type of q, and how many rows (or pairs) it holds, as a number of the same type: 0 and 0 where no
        row has a positive. A row without negatives adds 0.

    Raises:
        UserError: shapes or options that do not fit together.

    >>> import torch
    >>> ids = torch.tensor([0, 0, 1, 1, 2, 2])
    >>> x = torch.ones(6, 2)  # all alike: each positive among itself and two negatives
    >>> total, number = pair_contrast(x, x, 1.0, q_group=ids, partner=ids.roll(2), k_group=ids)
    >>> round((total / number).item(), 4)  # log 3
    1.0986
    """
    if backend == "ring":
        raise UserError("positives may lie on any rank: gather the keys, and use backend='auto'")
    pairs = inputs.pairs(q, k, scale, backend=backend, tile=tile)
    q, k, scale = pairs.q, pairs.k, pairs.scale
    n, m = len(q), len(k)
    q_group, partner = inputs.group_ids(q_group, n, "q_group").long(), inputs.group_ids(partner, n, "partner").long()
    k_group = inputs.group_ids(k_group, m, "k_group").long()
    if key_gate is not None and key_gate.shape != q.shape:
        raise UserError(f"key_gate must be as q: {inputs.describe(key_gate)} and {inputs.describe(q)}")
    gate = q.new_empty(0) if key_gate is None else key_gate.to(q.dtype).contiguous()
    positives = _counted(partner, k_group)
    if own is not None:
        own = inputs.group_ids(own, n, "own").long()
        # A row that is its only positive keeps it.
        own = own.masked_fill((k_group[own] != partner) | (positives < 2), -1)
        positives = positives - (own >= 0).long()
    has = (positives > 0).to(wide(q))
    weight = has / positives.clamp(min=1) if each_row else has
    # Views: torch.compile wants several arguments where one tensor serves several.
    groups = (q_group, partner.view_as(partner), k_group.view_as(k_group))
    rows = tile or strip_rows(m, 2 if len(gate) else 1)
    tensors = (q, k, scale, gate, *groups, own, weight)
    run = _reference if backend == "dense" else _pair_contrast
    total = run(*tensors, rows, k.requires_grad)
    return PairSum(total.to(q.dtype), (has if each_row else positives).sum().to(q.dtype))


def _counted(partner: Tensor, k_group: Tensor) -> Tensor:
    """How many keys of each row's partner group there are, [N]."""
    in_order = k_group.sort().values
    return torch.searchsorted(in_order, partner, right=True) - torch.searchsorted(in_order, partner)


SCHEMA = (
    "Tensor q, Tensor k, Tensor scale, Tensor gate, Tensor q_group, Tensor partner, Tensor k_group, Tensor? own, "
    "Tensor weight, int rows, bool want_k, bool gradients"
)


def _shapes(*args: Any) -> tuple[Tensor, ...]:
    q, k, gate, want_k, gradients = args[0], args[1], args[3], args[-2], args[-1]
    shapes = (q.shape, k.shape if want_k else (0,), q.shape[:1], gate.shape) if gradients else ((0,),) * 4
    return q.new_empty((), dtype=wide(q)), *(q.new_empty(shape) for shape in shapes)


@operator(f"pair_contrast({SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _shapes)
def _kernel(*args: Any) -> tuple[Tensor, ...]:
    """The weighted sum and its gradients to q, k, scale and gate, strip by strip."""
    q, k, scale, gate, q_group, partner, k_group, own, weight, rows, want_k, gradients = args
    pairs, gated = Pairs(q, k, scale, tile=(rows, max(len(k), 1))), bool(len(gate))
    squared = k * k if gated else k
    shares = deal(pairs)
    scratches = [(pairs.scratch(), pairs.scratch() if gated else q.new_empty(0)) for _ in shares]
    totals = [q.new_zeros((), dtype=wide(q)) for _ in shares]
    dq = torch.zeros_like(q) if gradients else q.new_empty(0)
    dks = [torch.zeros_like(k) if gradients and want_k else q.new_empty(0) for _ in shares]
    dgate = torch.zeros_like(gate) if gradients else q.new_empty(0)
    dsquareds = [torch.zeros_like(dk) if gated else dk for dk in dks]

    def compute(index: int, pairs: Pairs, tiles: list[Tile]) -> None:
        (scratch, lengths), dk, dsquared = scratches[index], dks[index], dsquareds[index]
        for strip, queries in pairs.walk(tiles):
            z = mm(queries, k.t(), out=strip.view(scratch))
            length = mm(gate[strip.rows], squared.t(), out=strip.view(lengths)) if gated else None
            for part in parts(z):
                at = slice(strip.rows.start + part.start, strip.rows.start + part.stop)
                x, inverse = z[part], None
                if length is not None:
                    inverse = length[part].clamp(min=EPS).rsqrt_()
                    x.mul_(inverse)
                positive, near = _masks(q_group[at], partner[at], k_group, None if own is None else own[at])
                negatives = x.masked_fill(near, -torch.inf)
                of_negatives, log_negatives = exponentials_(negatives, False)
                gap = log_negatives.to(x.dtype)[:, None] - x * LN2
                totals[index] += (softplus(gap, threshold=40.0).masked_fill(~positive, 0.0).sum(1) * weight[at]).sum()
                if not gradients:
                    continue
                pull = gap.sigmoid_().masked_fill_(~positive, 0.0)
                row = weight[at, None].to(x.dtype)
                g = negatives.mul_((pull.sum(1) / of_negatives).to(x.dtype)[:, None]).sub_(pull).mul_(row)
                if length is None or inverse is None:
                    x.copy_(g)
                else:
                    # d(s n / sqrt r) / dr = -s n / (2 r sqrt r); at the floor the length is a constant.
                    slope = (x * g).mul_(inverse * inverse).mul_(-0.5 * LN2)
                    x.copy_(g.mul_(inverse))
                    length[part] = slope.masked_fill_(length[part] <= EPS, 0.0)
            if gradients:
                mm(z, k, out=dq[strip.rows])
                if len(dk):
                    add_mm(dk, z.t(), queries, alpha=LN2)
                if length is not None:
                    mm(length, squared, out=dgate[strip.rows])
                    if len(dk):
                        add_mm(dsquared, length.t(), gate[strip.rows])

    each(pairs, shares, compute)
    total, dk = (reduce(Tensor.add_, sums) for sums in (totals, dks))
    dsquared = reduce(Tensor.add_, dsquareds) if gated else dk
    if not gradients:
        return total, dq, dk, q.new_empty(0), dgate
    if gated and len(dk):
        dk.addcmul_(dsquared, k, value=2.0)
    dq, dk, dscale = finish_gradients(pairs, dq, dk, q.new_empty(0))
    return total, dq, dk, dscale, dgate


def _masks(q_group: Tensor, partner: Tensor, k_group: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which keys are a row's positives, and which are no negatives, [N, M] bool each."""
    of_partner = partner[:, None] == k_group
    near = of_partner | (q_group[:, None] == k_group)
    if own is None:
        return of_partner, near
    return of_partner & (own[:, None] != torch.arange(len(k_group), device=own.device)), near


def _reference(*args: Any) -> Tensor:
    """The same by autograd."""
    q, k, scale, gate, q_group, partner, k_group, own, weight, *_ = args
    z = product(q * scale[:, None], k)
    if len(gate):
        z = z * product(gate, k * k).clamp(min=EPS).rsqrt()
    positive, near = _masks(q_group, partner, k_group, own)
    gap = (logsumexp(z, near, dim=1)[:, None] - z).masked_fill(~positive, -torch.inf)
    return (softplus(gap, threshold=40.0).sum(1).to(weight) * weight).sum()


_pair_contrast = one_pass(_kernel, _reference)
