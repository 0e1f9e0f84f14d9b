"""The mean cross-entropy of own pairs where all pairs fit one tile, as those of a small batch do. There is no loop and
nothing to join: each row, and each column, ends in the tile in which it begins, and gradients are formed in the forward
pass, in few calls, which would take longer than the products of a small batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad, softplus

from nearfar.ops.tiling.float_products import mm
from nearfar.ops.tiling.half_products import half_pays
from nearfar.ops.tiling.kernels import limit
from nearfar.ops.tiling.one_pass import one_pass
from nearfar.ops.tiling.operators import PAIRS, flat, operator, pairs_of
from nearfar.ops.tiling.partition import partition
from nearfar.ops.tiling.tiles import LN2, LOG2E, STEP, Pairs, wide

CERTAIN = 40.0  # from here on log(1 + exp(x)) is x to the last digit of float64


def is_one_tile(pairs: Pairs) -> bool:
    """Whether the pairs are a single tile, and multiplied in their own type."""
    rows, columns = pairs.tile
    if pairs.one_set:
        rows = columns = min(rows, STEP)
    return 0 < len(pairs.q) <= rows and 0 < len(pairs.k) <= columns and not half_pays(pairs.q, pairs.k)


def cross_entropy(pairs: Pairs, apart: Tensor | None = None, *, both: bool = False) -> Tensor:
    """The mean over rows of `log sum_j exp(logit_ij) - own logit`, the own pair in the sum, a scalar, float64 where the
    device has it. Values and derivatives of any order are as exact as those of the tile loops.

    Args:
        pairs: one tile, in which each row has an own key.
        apart: own keys [N, D] that are not among the keys, and get no gradient.
        both: the mean of this and of the same for the first N columns, column i being row i's own.
    """
    if pairs.one_set:  # q carries the whole gradient
        pairs = replace(pairs, k=pairs.k.detach())
    tensors, rest = flat(pairs)[:6], flat(pairs)[6:]
    return _cross_entropy(*tensors, apart, *rest, both, pairs.k.requires_grad, pairs.scale.requires_grad)


def _shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, (want_k, want_scale, gradients) = args[0], args[1], args[-3:]
    dq = q.new_empty(q.shape if gradients else (0,))
    dk = q.new_empty(k.shape if gradients and want_k else (0,))
    dscale = q.new_empty(q.shape[:1] if gradients and want_scale else (0,))
    return q.new_empty((), dtype=wide(q)), dq, dk, dscale


SCHEMA = PAIRS.replace("str admit", "Tensor? apart, str admit")


@operator(
    f"one_tile({SCHEMA}, bool both, bool want_k, bool want_scale, bool gradients) -> (Tensor, Tensor, Tensor, Tensor)",
    _shapes,
)
def _kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and its gradients to q, k and scale, empty where they are not asked for."""
    *tensors, apart = args[:7]
    *rest, both, want_k, want_scale, gradients = args[7:]
    pairs = pairs_of(*tensors, *rest)
    q, k, scale = pairs.q, pairs.k, pairs.scale[:, None]
    queries = q * (scale * LOG2E)
    keys = k[pairs.own] if apart is None else apart
    own = (q * keys).sum(1, dtype=wide(q)) * pairs.scale  # in more digits, for small losses
    z, bounded = _logits(pairs, queries, apart)
    count = len(q) * (1 + both)
    loss, wrong, *rows = _side(z, own, count, bounded=bounded)
    columns: list[Tensor] = []
    if both:
        loss_of_columns, wrong_of_columns, *columns = _side(z.t(), own, count, bounded=bounded)
        loss, wrong = loss + loss_of_columns, wrong + wrong_of_columns
    dk, dscale = q.new_empty(0), q.new_empty(0)  # of their own each: what an operator returns must share nothing
    loss = loss / count
    if not gradients:
        return loss, q.new_empty(0), dk, dscale
    if pairs.one_set:  # a pair is met from both its ends, and gives both the same gradient
        columns, wrong = rows, wrong + wrong[pairs.own]
    weights = _weights(rows, columns, bounded=bounded)
    to_own = wrong.neg_().to(q.dtype)[:, None]
    if apart is None and pairs.own is not None:
        weights.scatter_(1, pairs.own[:, None], to_own)
    dq = mm(weights, k, out=torch.empty_like(q))
    if apart is not None:
        dq.addcmul_(apart, to_own)
    if want_k:
        dk = mm(weights.t(), queries, out=torch.empty_like(k)).mul_(LN2)
    if want_scale:
        dscale = (dq * q).sum(1).mul_(0.5 if pairs.one_set else 1.0)
    return loss, dq.mul_(scale), dk, dscale


def _logits(pairs: Pairs, queries: Tensor, apart: Tensor | None) -> tuple[Tensor, bool]:
    """The logits [N, M] in base 2, minus infinity where a pair does not count, or where none of them is large, and this
    is true, their exponentials."""
    z = mm(queries, pairs.k.t(), out=queries.new_empty(len(queries), len(pairs.k)))  # `out`: never autocast
    low, high = z.aminmax()
    bounded = max(-float(low), float(high)) <= limit(z.dtype)
    if pairs.admit != "all":
        admitted = pairs.admitted(pairs.whole)
        if admitted is not None:
            z.masked_fill_(admitted.logical_not_(), -math.inf)
    if pairs.one_set:
        z.fill_diagonal_(-math.inf)
    if apart is None and pairs.own is not None:
        z.scatter_(1, pairs.own[:, None], -math.inf)
    return z.exp2_() if bounded else z, bounded


def _side(z: Tensor, own: Tensor, count: int, *, bounded: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of rows [R, M] as `_logits` gives them, or of columns as rows, of which the first have own logits [N]: the sum of
    their losses; what is wrong with each in the gradient of that sum over `count`, [N]; exponentials [R, M], and
    factors [R] that make weights of them, a row of which adds up to what is wrong with it."""
    if bounded:
        total = z.sum(1).to(own.dtype)
        logs = total.log()
    else:
        top = z.amax(1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)
        z = (z - top).exp2_()
        total = z.sum(1).to(own.dtype)
        logs = total.log().add_(top.flatten(), alpha=LN2)
    beyond = len(z) - len(own)  # keys that are nobody's own: as columns they have no loss
    if beyond:
        logs, total = logs[: len(own)], total[: len(own)]
    gap = logs.sub_(own)  # log of (all the others / own)
    wrong = gap.sigmoid().div_(count)  # 1 - p of the own pair, without forming the difference
    factors = (wrong / total.clamp_(min=torch.finfo(z.dtype).tiny)).to(z.dtype)
    return softplus(gap, threshold=CERTAIN).sum(), wrong, z, pad(factors, (0, beyond)) if beyond else factors


def _weights(rows: list[Tensor], columns: list[Tensor], *, bounded: bool) -> Tensor:
    """What each pair weighs in the gradient, [N, M], from the exponentials and factors of rows and, if any, columns."""
    z, factors = rows[0], rows[1][:, None]
    if not columns:
        return z.mul_(factors)
    others, shares = columns[0], columns[1][None]
    if bounded:  # they have their exponentials in common
        return z.mul_(factors + shares)
    return (z * factors).addcmul_(others.t(), shares)


def _reference(*args: Any) -> Tensor:
    *tensors, apart = args[:7]
    *rest, both, _, _ = args[7:]
    pairs = pairs_of(*tensors, *rest)
    pairs = replace(pairs, k=pairs.q) if pairs.one_set else pairs
    rows, columns, own = partition(pairs, both=both, backend="dense")
    own = own if apart is None else (pairs.q * apart).sum(1) * pairs.scale
    return torch.stack([-logsigmoid(own - side).mean() for side in (rows, columns[: len(own)])[: 1 + both]]).mean()


_cross_entropy = one_pass(_kernel, _reference)
