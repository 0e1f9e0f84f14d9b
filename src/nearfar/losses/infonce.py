"""InfoNCE between two sets of embeddings whose rows belong together: the loss of CPC, CLIP, ALIGN, MoCo.

With unit rows a_i, b_j and s_ij = <a_i, b_j> / tau,

    L_a = mean_i ( log sum_j exp(s_ij) - s_ii ),   L_b the same over columns.

CLIP (arXiv 2103.00020) is the mean of both directions with a learned log-scale temperature, ALIGN (arXiv 2102.05918)
their sum with label smoothing and a plain temperature, MoCo (arXiv 1911.05722) one direction with a queue of negatives.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nearfar import ops
from nearfar.losses.groups import check_pair, group_sum, unit
from nearfar.losses.temperature import Temperature, as_scale


def info_nce(
    a: Tensor,
    b: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    directions: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
    group: Tensor | None = None,
    negatives_a: Tensor | None = None,
    negatives_b: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE of `a` against `b`; see :class:`InfoNCE` for the arguments.

    Example:
        >>> eye = torch.eye(2)
        >>> round(info_nce(eye, eye, temperature=1.0).item(), 6)
        0.313262
    """
    check_pair(a, b)
    a, b, scale = unit(a), unit(b), as_scale(temperature)
    if negatives_a is None and negatives_b is None:
        loss = ops.info_nce(a, b, scale, symmetric=symmetric, ids=group, backend=backend)
    else:
        loss = _with_extra_negatives(a, b, scale, symmetric, group, negatives_a, negatives_b, backend)
    if label_smoothing:
        loss = loss + label_smoothing * _smoothing(a, b, scale, symmetric, group, negatives_a, negatives_b)
    return 2 * loss if symmetric and directions == "sum" else loss


def _with_extra_negatives(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    symmetric: bool,
    group: Tensor | None,
    negatives_a: Tensor | None,
    negatives_b: Tensor | None,
    backend: str,
) -> Tensor:
    """The mean loss, with columns (rows) added that are nobody's positive. log1p of the negatives' share, so that a
    loss near zero keeps its digits."""
    ids = torch.arange(len(a), device=a.device) if group is None else group
    positive = scale * (a * b).sum(1)
    others: Any = {"q_group": ids, "k_group": ids, "admit": "different", "backend": backend}
    if symmetric:
        rows, columns = ops.log_partition(a, b, scale, both=True, **others)
    else:
        rows, columns = ops.log_partition(a, b, scale, **others), None

    def direction(x: Tensor, lse: Tensor, extra: Tensor | None) -> Tensor:
        if extra is not None and len(extra):
            lse = torch.logaddexp(lse, ops.log_partition(x, unit(extra), scale, backend=backend))
        return softplus(lse - positive).mean()

    loss = direction(a, rows, negatives_b)
    return loss if columns is None else (loss + direction(b, columns, negatives_a)) / 2


def _smoothing(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    symmetric: bool,
    group: Tensor | None,
    negatives_a: Tensor | None,
    negatives_b: Tensor | None,
) -> Tensor:
    """What label smoothing adds per unit of eps: the positive's logit less the mean logit of the admitted columns. The
    mean of logits is the logit of a mean, so this costs O(N D)."""

    def direction(x: Tensor, y: Tensor, extra: Tensor | None) -> Tensor:
        total, count = y.sum(0).expand_as(x), torch.full_like(x[:, 0], len(y))
        if group is not None:
            same, number = group_sum(y, group, group)
            total, count = total - same + y, count - number + 1
        if extra is not None and len(extra):
            total, count = total + unit(extra).sum(0), count + len(extra)
        return (scale * (x * (y - total / count[:, None])).sum(1)).mean()

    term = direction(a, b, negatives_b)
    return (term + direction(b, a, negatives_a)) / 2 if symmetric else term


class InfoNCE(nn.Module):
    """InfoNCE of two sets of embeddings; row i of one is the positive of row i of the other.

    Normalises the embeddings itself. Memory is linear in the batch: the matrix of similarities is never held.

    Args:
        temperature: initial temperature; a :class:`~nearfar.losses.Temperature` is taken as it is.
        learnable: whether the temperature is trained ("log" parametrisation, tau >= 0.01, as in CLIP).
        symmetric: both directions (CLIP, ALIGN), or only that from `a` to `b` (CPC, MoCo).
        directions: "mean" of the two directions (CLIP) or their "sum" (ALIGN).
        label_smoothing: eps; the target gives 1 - eps to the positive and eps evenly to all admitted columns.
        backend: handed to :mod:`nearfar.ops`; "ring" takes local embeddings and other processes' keys in turn.

    Call with:
        a, b: `[N, D]` embeddings.
        group: `[N]` long; samples of one group are never negatives of each other (several captions of an image).
        negatives_a, negatives_b: `[K, D]` further negatives for `b` (extra a's) and for `a` (extra b's): queues, hard
            negative captions.

    Returns a scalar. Raises ValueError on shapes that do not pair up.

    Related: `NTXent` draws negatives from both sets at once, `SupCon` has several positives,
    `SigmoidLoss` no partition.

    Example:
        >>> loss = InfoNCE(temperature=1.0, learnable=False, label_smoothing=0.1, directions="sum")
        >>> round(loss(torch.eye(2), torch.eye(2)).item(), 6)
        0.726523
    """

    def __init__(
        self,
        temperature: float | Temperature = 0.07,
        *,
        learnable: bool = True,
        symmetric: bool = True,
        directions: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if directions not in ("mean", "sum"):
            raise ValueError(f"directions must be 'mean' or 'sum', got {directions!r}")
        if isinstance(temperature, Temperature):
            self.temperature = temperature
        else:
            self.temperature = Temperature(temperature, learnable=learnable)
        self.symmetric = symmetric
        self.directions: Literal["mean", "sum"] = directions
        self.label_smoothing = label_smoothing
        self.backend = backend

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        *,
        group: Tensor | None = None,
        negatives_a: Tensor | None = None,
        negatives_b: Tensor | None = None,
    ) -> Tensor:
        return info_nce(
            a,
            b,
            temperature=self.temperature(),
            symmetric=self.symmetric,
            directions=self.directions,
            label_smoothing=self.label_smoothing,
            group=group,
            negatives_a=negatives_a,
            negatives_b=negatives_b,
            backend=self.backend,
        )
