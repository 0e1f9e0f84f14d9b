"""The first view of each sample must find its other views, one direction only: the loss of SimCSE (arXiv 2104.08821),
of WhitenedCSE (arXiv 2305.17746) and, with hard negatives, of sentence encoders in general.

With unit rows z_r[i] of view r, s the cosine over tau, and n_k the hard negatives, of which row i owns some,

    L = sum_r mean_i ( log( sum_j exp s_r(i, j) + sum_k exp( s(z_1[i], n_k) + w [i owns k] ) ) - s_r(i, i) )

with s_r(i, j) = s(z_1[i], z_r[j]), over the views r = 2..V. No first view is a negative of another.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, refuse_ring, unit
from nearfar.losses.infonce import info_nce
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.losses.view_rows import Views, stack_views
from nearfar.ops.tiling import inputs

Reduction = Literal["sum", "mean"]
NegativesOf = Literal["all", "own"]


def first_view_info_nce(
    views: Views,
    *,
    temperature: Tau = 0.05,
    reduction: Reduction = "sum",
    group: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_of: Tensor | None = None,
    negative_weight: float = 0.0,
    negatives_for: NegativesOf = "all",
    backend: str = "auto",
) -> Tensor:
    """InfoNCE of the first view against each other; see :class:`FirstViewInfoNCE`.

    Takes `views` `[V, N, D]` or V tensors `[N, D]`, floating point, `group` `[N]` int64, `negatives` `[K, D]`, floating
    point, and `negative_of` `[K]` int64, the row that each of them belongs to. Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together.

    Example:
        >>> z1, z2 = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> round(first_view_info_nce([z1, z2], temperature=1.0).item(), 6)
        0.442058
        >>> round(first_view_info_nce([z2, z1], temperature=1.0).item(), 6)
        0.4557
    """
    check_options(reduction, negatives_for, negative_weight)
    views = stack_views(views)
    if group is not None:
        group = inputs.group_ids(group, views.shape[1], "group")
    if negatives is not None:
        check_rows(negatives=negatives)
        if negatives.shape[1] != views.shape[2]:
            raise UserError(
                f"negatives must be as wide as the views: [K, {views.shape[2]}], got {tuple(negatives.shape)}"
            )
        negatives = negatives if len(negatives) else None
    if negative_of is not None and negatives is not None:
        negative_of = _owners(negative_of, len(negatives), views.shape[1])
    if negatives is not None and (negative_weight != 0 or negatives_for == "own"):
        if negative_of is None:
            raise UserError("negatives of one row each need negative_of, the row that each of them belongs to")
        refuse_ring(backend, "a weight of hard negatives")
        losses = _weighted(views, as_scale(temperature), group, negatives, negative_of, negative_weight, negatives_for)
    else:
        as_scale(temperature)  # one for all rows
        losses = [
            info_nce(
                views[0],
                other,
                temperature=temperature,
                symmetric=False,
                group=group,
                negatives_b=negatives,
                backend=backend,
            )
            for other in views[1:]
        ]
    total = torch.stack(losses).sum()
    return total if reduction == "sum" else total / len(losses)


def check_options(reduction: str, negatives_for: str, negative_weight: float) -> None:
    """Raise a UserError for a value that is none of the choices."""
    for name, value, known in (("reduction", reduction, Reduction), ("negatives_for", negatives_for, NegativesOf)):
        if value not in get_args(known):
            raise UserError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if math.isnan(negative_weight) or negative_weight == math.inf:
        raise UserError(f"negative_weight is a number, or minus infinity to leave them out, not {negative_weight}")


def _owners(negative_of: Tensor, count: int, rows: int) -> Tensor:
    """`negative_of` `[count]` as int64, each below `rows`."""
    negative_of = inputs.group_ids(negative_of, count, "negative_of")
    if not torch.compiler.is_compiling() and bool(((negative_of < 0) | (negative_of >= rows)).any()):
        raise UserError(f"negative_of must number rows from 0 to {rows - 1}, one for each hard negative")
    return negative_of


def _weighted(
    views: Tensor,
    scale: float | Tensor,
    group: Tensor | None,
    negatives: Tensor,
    negative_of: Tensor,
    weight: float,
    negatives_for: NegativesOf,
) -> list[Tensor]:
    """The loss of each further view where a row's own hard negatives count otherwise than those of other rows. All but
    the row's own keys come from one sum over groups; its own are added with their weight."""
    rows = unit(views)
    hard, first = unit(negatives), rows[0]
    ids = torch.arange(len(first), device=first.device) if group is None else group
    own = (first[negative_of] * hard).sum(1) * scale
    own_sum = sums_of_rows(own, negative_of, len(first)) + weight
    shared = negatives_for == "all"
    keys_group = torch.cat([ids, ids[negative_of]]) if shared else ids
    losses = []
    for other in rows[1:]:
        keys = torch.cat([other, hard]) if shared else other
        others = ops.log_partition(first, keys, scale, q_group=ids, k_group=keys_group, admit="different")
        positive = (first * other).sum(1) * scale
        wrong = torch.logaddexp(others, own_sum.to(others.dtype))
        losses.append(nn.functional.softplus(wrong - positive).mean().to(first.dtype))
    return losses


def sums_of_rows(logits: Tensor, row: Tensor, count: int) -> Tensor:
    """`[count]`: log of the sum of exp over the `logits` `[K]`, floating point, of each `row` `[K]` int64; very low,
    with no gradient, for a row that has none."""
    low = torch.finfo(logits.dtype).min / 4
    top = torch.full((count,), low, dtype=logits.dtype, device=logits.device)
    top = top.scatter_reduce(0, row, logits.detach(), "amax")
    total = torch.zeros_like(top).scatter_add(0, row, (logits - top[row]).exp())
    return torch.where(total > 0, total, 1.0).log() + top


class FirstViewInfoNCE(nn.Module):
    """InfoNCE of the first view of each sample against each of its other views (SimCSE, arXiv 2104.08821).

    Normalises the embeddings itself. Memory is linear in the batch: the matrix of similarities is never held.

    Args:
        temperature: tau (SimCSE: 0.05); a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained; SimCSE's is fixed.
        reduction: "sum" of the terms of the further views (WhitenedCSE's code), or their "mean". Of two views they are
            one.
        negative_weight: w, added to the logit of a hard negative in the row that it belongs to (SimCSE: 0; ln 2 makes
            it count twice; minus infinity leaves it out there).
        negatives_for: whether a hard negative is one of "all" rows (SimCSE), or of its "own" alone.
        backend: handed to :mod:`nearfar.ops`; "ring" takes no weight.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `views` | `[V, N, D]`, or V tensors `[N, D]`, floating point | the views of each sample, the first the query |
        | `group` | `[N]`, integers | samples of one group are never negatives of each other |
        | `negatives` | `[K, D]`, floating point | hard negatives, as many of each row as there are |
        | `negative_of` | `[K]`, integers | the row that each of them belongs to |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes or options that do not fit together.

    Relations:
        - Of two views it is `InfoNCE(symmetric=False)`; with hard negatives, its `negatives_b`.
        - `NTXent` and `PairwiseViews` make each view the query, and its own side a negative, too.
        - `MVInfoNCE` has all views in one term; with one hard negative a row, this is sentence-transformers'
          `MultipleNegativesRankingLoss`.

    Variants:
        - SimCSE, two passes with dropout: `FirstViewInfoNCE(0.05, learnable=False)`
        - SimCSE, supervised: the same with `negatives=contradictions`
        - WhitenedCSE: `FirstViewInfoNCE(0.05, learnable=False)` of three whitened views

    Example:
        >>> loss = FirstViewInfoNCE(0.05, learnable=False)
        >>> same = torch.ones(3, 128, 8)
        >>> round(loss(same).item(), 4)  # 2 log 128
        9.7041
    """

    def __init__(
        self,
        temperature: Tau = 0.05,
        *,
        learnable: bool = True,
        reduction: Reduction = "sum",
        negative_weight: float = 0.0,
        negatives_for: NegativesOf = "all",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_options(reduction, negatives_for, negative_weight)
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.reduction: Reduction = reduction
        self.negative_weight = negative_weight
        self.negatives_for: NegativesOf = negatives_for
        self.backend = backend

    def forward(
        self,
        views: Views,
        *,
        group: Tensor | None = None,
        negatives: Tensor | None = None,
        negative_of: Tensor | None = None,
    ) -> Tensor:
        return first_view_info_nce(
            views,
            temperature=self.temperature,
            reduction=self.reduction,
            group=group,
            negatives=negatives,
            negative_of=negative_of,
            negative_weight=self.negative_weight,
            negatives_for=self.negatives_for,
            backend=self.backend,
        )
