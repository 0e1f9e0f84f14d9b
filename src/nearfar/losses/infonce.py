"""InfoNCE between two sets of embeddings whose rows belong together: the loss of CPC, CLIP, ALIGN, MoCo.

With unit rows a_i, b_j and s_ij = <a_i, b_j> / tau,

    L_a = mean_i ( log sum_j exp(s_ij) - s_ii ),   L_b the same over columns.

CLIP (arXiv 2103.00020) is the mean of both directions with a learned log-scale temperature, ALIGN (arXiv 2102.05918)
their sum with label smoothing and a plain temperature, MoCo (arXiv 1911.05722) one direction with a queue of negatives.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_pair, check_rows, group_sum, refuse_ring, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs


def info_nce(
    a: Tensor,
    b: Tensor,
    *,
    temperature: Tau = 0.07,
    symmetric: bool = True,
    directions: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
    group: Tensor | None = None,
    negatives_a: Tensor | None = None,
    negatives_b: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE of `a` against `b`; see :class:`InfoNCE`.

    Takes `a`, `b` `[N, D]`, floating point, `group` `[N]` int64, and further negatives `negatives_a` `[M, D]` of `a`
    and `negatives_b` `[K, D]` of `b`. The temperature may also be one a row of `a`, `[N]`. Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together.

    Example:
        >>> eye = torch.eye(2)
        >>> round(info_nce(eye, eye, temperature=1.0).item(), 6)
        0.313262
    """
    check_options(directions, label_smoothing)
    check_pair(a, b)
    if negatives_a is not None and not symmetric:
        raise UserError("negatives_a are negatives of b: without symmetric=True they have no effect")
    for name, extra in (("negatives_a", negatives_a), ("negatives_b", negatives_b)):
        if extra is not None:
            check_rows(**{name: extra})
            if extra.shape[1] != a.shape[1]:
                raise UserError(f"{name} must be as wide as a and b: [K, {a.shape[1]}], got {tuple(extra.shape)}")
    if group is not None:
        group = inputs.group_ids(group, len(a), "group")
    if label_smoothing:
        refuse_ring(backend, "label smoothing")
    a, b, scale = unit(a), unit(b), as_scale(temperature, len(a))
    extra_a, extra_b = (None if x is None else unit(x) for x in (negatives_a, negatives_b))
    if extra_a is not None and isinstance(scale, Tensor) and scale.numel() > 1:
        raise UserError("one temperature a row of a says nothing of negatives_a: pass a single one")
    loss = _contrast(a, b, scale, symmetric, group, extra_a, extra_b, backend)
    if label_smoothing:
        loss = loss + label_smoothing * _smoothing(a, b, scale, symmetric, group, extra_a, extra_b)
    return 2 * loss if symmetric and directions == "sum" else loss


def check_options(directions: str, label_smoothing: float) -> None:
    """Raise a UserError for a value that is none of the choices."""
    if not 0 <= label_smoothing < 1:
        raise UserError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    if directions not in ("mean", "sum"):
        raise UserError(f"directions must be 'mean' or 'sum', got {directions!r}")


def _contrast(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    symmetric: bool,
    group: Tensor | None,
    extra_a: Tensor | None,
    extra_b: Tensor | None,
    backend: str,
) -> Tensor:
    """The mean loss without smoothing. Extra negatives are keys beyond the first N; where both sides have some, each
    direction has keys of its own."""

    def toward(q: Tensor, k: Tensor, extra: Tensor | None, both: bool) -> Tensor:
        keys, key_group = k, group
        if extra is not None:
            keys = torch.cat([k, extra])
            key_group = None if group is None else torch.cat([group.long(), nobody(len(extra))])
        return ops.info_nce(q, keys, scale, symmetric=both, group=key_group, backend=backend)

    def nobody(n: int) -> Tensor:
        return torch.full((n,), torch.iinfo(torch.int64).max, device=a.device)

    if extra_a is None:
        return toward(a, b, extra_b, symmetric)
    if extra_b is None:
        return toward(b, a, extra_a, True)
    return (toward(a, b, extra_b, False) + toward(b, a, extra_a, False)) / 2


def _smoothing(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    symmetric: bool,
    group: Tensor | None,
    extra_a: Tensor | None,
    extra_b: Tensor | None,
) -> Tensor:
    """What label smoothing adds per unit of eps: the positive's logit less the mean logit of the admitted columns. The
    mean of logits is the logit of a mean, so this costs O(N D). A row's scale belongs to its a, in both directions."""

    def direction(x: Tensor, y: Tensor, extra: Tensor | None) -> Tensor:
        total, count = y.sum(0).expand_as(x), torch.full_like(x[:, 0], len(y))
        if group is not None:
            same, number = group_sum(y, group, group)
            total, count = total - same + y, count - number + 1
        if extra is not None:
            total, count = total + extra.sum(0), count + len(extra)
        return (x * (y - total / count[:, None])).sum(1).mean()

    scaled = a * (scale[:, None] if isinstance(scale, Tensor) and scale.ndim else scale)
    term = direction(scaled, b, extra_b)
    return (term + direction(b, scaled, None if extra_a is None else extra_a * scale)) / 2 if symmetric else term


class InfoNCE(nn.Module):
    """InfoNCE of two sets of embeddings; row i of one is the positive of row i of the other (CPC, arXiv 1807.03748).

    Normalises the embeddings itself. Memory is linear in the batch: the matrix of similarities is never held.

    Args:
        temperature: initial temperature: a number, a tensor of one element, or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained ("log" parametrisation; `temperature.clamp_()` after a step keeps
            tau >= 0.01, as in CLIP, and methods call it).
        symmetric: both directions (CLIP, ALIGN), or only that from `a` to `b` (CPC, MoCo).
        directions: "mean" of the two directions (CLIP) or their "sum" (ALIGN).
        label_smoothing: eps; the target gives 1 - eps to the positive and eps evenly to all admitted columns.
        backend: handed to :mod:`nearfar.ops`; "ring" takes local embeddings and other processes' keys in turn, their
            extra negatives among them. It has no label smoothing.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[N, D]`, floating point | the two sides; any length |
        | `group` | `[N]`, integers | samples of one group are never negatives of each other |
        | `negatives_a`, `negatives_b` | `[K, D]`, floating point | more negatives for `b`, and for `a` |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes or options that do not fit together.

    Relations:
        - `NTXent` draws negatives from both sets at once.
        - `SupCon` has several positives; `SoftTargetInfoNCE` a teacher's.
        - `SoftTargetInfoNCE` with `alpha=0`, and `GlobalLocalInfoNCE` with one local, are its one direction.
        - `SigmoidLoss` judges each pair alone, without the sum over the batch.

    Variants:
        - CLIP: `InfoNCE(0.07)`
        - ALIGN: `InfoNCE(Temperature(1.0, parametrisation="divisor"), directions="sum", label_smoothing=0.1)`
        - MoCo: `InfoNCE(0.07, learnable=False, symmetric=False)` with `negatives_b=queue`
        - NegCLIP: `InfoNCE(0.01)` with `negatives_b=hard_captions`
        - in-batch negatives for retrieval: `InfoNCE(0.05, learnable=False, symmetric=False)`

    Example:
        >>> loss = InfoNCE(temperature=1.0, learnable=False, label_smoothing=0.1, directions="sum")
        >>> round(loss(torch.eye(2), torch.eye(2)).item(), 6)
        0.726523
    """

    def __init__(
        self,
        temperature: Tau = 0.07,
        *,
        learnable: bool = True,
        symmetric: bool = True,
        directions: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_options(directions, label_smoothing)
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.symmetric = symmetric
        self.directions: Literal["mean", "sum"] = directions
        self.label_smoothing = label_smoothing
        self.backend = backend

    @property
    def goes_round(self) -> bool:
        """Whether it takes `backend="ring"`."""
        return not self.label_smoothing

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
            temperature=self.temperature,
            symmetric=self.symmetric,
            directions=self.directions,
            label_smoothing=self.label_smoothing,
            group=group,
            negatives_a=negatives_a,
            negatives_b=negatives_b,
            backend=self.backend,
        )
