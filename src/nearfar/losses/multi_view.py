"""Contrast of any number of views, or modalities, in one term a sample: MV-InfoNCE and MV-DHEL (arXiv 2507.06979).

With U[l, i] the unit row of sample i in view l, s = <., .> / tau, and the alignment of all views at once

    A_i = sum_{l != l'} exp s(l, i; l', i) ,

    MV-InfoNCE = mean_i [ log E_i - log A_i ] ,  E_i = sum_l sum_{m != l} sum_j exp s(l, i; m, j)
    MV-DHEL    = mean_i [ sum_l log D_il - log A_i ] ,  D_il = sum_{j != i} exp s(l, i; l, j) .

A_i is a part of E_i, so that log E_i - log A_i = softplus(log(E_i - A_i) - log A_i): nothing cancels near zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nearfar.errors import UserError
from nearfar.losses.temperature import Tau, as_temperature
from nearfar.losses.view_rows import Views, aligned, complete, mean_over, other_samples, view_rows


def mv_info_nce(
    views: Views,
    *,
    temperature: Tau = 0.5,
    same_view_negatives: bool = False,
    mask: Tensor | None = None,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """MV-InfoNCE of `views` `[V, N, D]`, floating point, as a scalar; see `nearfar.losses.MVInfoNCE`.

    Takes `mask` `[V, N]` (bool or numbers; 0 for a view that is missing) and `group` `[N]` int64.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, a temperature that is not one number, or
            `backend="ring"`.

    Example:
        >>> round(mv_info_nce(torch.eye(4).expand(3, 4, 4)).item(), 6)  # ln(1 + 3 exp(-1 / tau))
        0.340753
    """
    x = view_rows(views, temperature, mask, group, backend, "MVInfoNCE")
    negatives = torch.logsumexp(other_samples(x, within=same_view_negatives, across=True, backend=backend), 0)
    return mean_over(softplus(negatives - aligned(x)), complete(x), x.z)


def mv_dhel(
    views: Views,
    *,
    temperature: Tau = 0.5,
    as_printed: bool = False,
    uniformity_weight: float = 1.0,
    mask: Tensor | None = None,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """MV-DHEL of `views` `[V, N, D]`, floating point, as a scalar, which may be negative; see `nearfar.losses.MVDHEL`.

    Takes `mask` `[V, N]` (bool or numbers; 0 for a view that is missing) and `group` `[N]` int64.

    Raises:
        UserError: shapes that do not fit together, fewer than two views or two samples, a temperature that is not one
            number, or `backend="ring"`.

    Example:
        >>> round(mv_dhel(torch.eye(4).expand(3, 4, 4)).item(), 6)  # 3 ln 3 - 1 / tau - ln 3
        0.197225
    """
    x = view_rows(views, temperature, mask, group, backend, "MVDHEL")
    if x.z.shape[1] < 2:
        raise UserError("views must hold two samples at least: MVDHEL pushes different samples of one view apart")
    spread = other_samples(x, within=True, across=False, backend=backend)
    if as_printed:
        spread = torch.logaddexp(spread, (x.z * x.z).sum(-1) * x.scale)
    # A row without any other in its view (a missing one, or a group that is the whole batch) spreads from nothing.
    alone = spread.isneginf() | ~x.real
    spread = spread.masked_fill(alone, 0.0).sum(0)
    alignment = aligned(x) - (0.0 if as_printed else math.log(2))  # unordered pairs, as the authors' code counts
    return mean_over(uniformity_weight * spread - alignment, complete(x), x.z)


class MVInfoNCE(nn.Module):
    """MV-InfoNCE: all views of a sample are aligned in one term, against all pairs of views (arXiv 2507.06979).

    The views may be augmentations of a picture, or modalities of one thing. Normalises the embeddings itself.

    Args:
        temperature: 0.5 in the paper on CIFAR and ImageNet-100, 0.1 on ImageNet; a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained; the paper's is fixed.
        same_view_negatives: other samples of the anchor's own view are negatives, too, as in the authors' code; not in
            the paper's formula.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `views` | `[V, N, D]`, or V of `[N, D]`, floating point | V >= 2 views; row i of each is sample i |
        | `mask` | `[V, N]` | true for views that are there; a missing one changes neither loss nor gradient |
        | `group` | `[N]`, integers | samples of one group are no negatives of each other |

    Returns:
        A scalar, float32 (float64 from float64): the mean over samples with two views at least.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, or a backend that sees a part of the batch.

    Relations:
        - With two views it is at least the symmetric `InfoNCE`, and `NTXent` with `same_view_negatives`: equal where
          both anchors of a sample have the same denominator.
        - `MVDHEL` pushes apart within each view alone.

    Variants:
        - the paper: `MVInfoNCE(0.5, learnable=False)`
        - the authors' code: `MVInfoNCE(0.5, learnable=False, same_view_negatives=True)`
        - image, name and description of one thing: `MVInfoNCE(0.07)` on the three embeddings

    Example:
        >>> MVInfoNCE()([torch.randn(4, 8) for _ in range(3)]).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.5,
        *,
        learnable: bool = True,
        same_view_negatives: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.same_view_negatives, self.backend = same_view_negatives, backend

    def forward(self, views: Views, *, mask: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        return mv_info_nce(
            views,
            temperature=self.temperature,
            same_view_negatives=self.same_view_negatives,
            mask=mask,
            group=group,
            backend=self.backend,
        )


class MVDHEL(nn.Module):
    """MV-DHEL: all views of a sample are aligned in one term; each view is spread by itself (arXiv 2507.06979).

    Rows of different samples in different views never meet, so that alignment and uniformity do not pull at the same
    pair. Between modalities that means: retrieval is learned by alignment alone. The loss may be negative, and grows
    with V: do not compare it between numbers of views. Normalises the embeddings itself.

    Args:
        temperature: 0.5 in the paper on CIFAR and ImageNet-100, 0.1 on ImageNet; a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained; the paper's is fixed, and a learned one would grow without end:
            nothing in this loss holds it.
        as_printed: the formula as the paper prints it: a row is among the samples that it is pushed from (the constant
            `1 / tau`), and each pair of views counts twice (the constant ln 2).
        uniformity_weight: of the spread. A sample's V views are pushed V times and pulled once; 1 / V restores the
            balance of pairwise losses.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `views` | `[V, N, D]`, or V of `[N, D]`, floating point | V, N >= 2; row i of each view is sample i |
        | `mask` | `[V, N]` | true for views that are there; a missing one changes neither loss nor gradient |
        | `group` | `[N]`, integers | samples of one group (one caption twice, say) are not pushed apart |

    Returns:
        A scalar, float32 (float64 from float64): the mean over samples with two views at least.

    Raises:
        UserError: shapes that do not fit together, one view or one sample, or a backend that sees a part of the batch.

    Relations:
        - With two views it is DHEL (arXiv 2405.18045).
        - With `uniformity_weight=1 / V` its gradients are balanced as those of pairwise losses.

    Variants:
        - the paper, by its code: `MVDHEL(0.5, learnable=False)`
        - the paper, as printed: `MVDHEL(0.5, learnable=False, as_printed=True)`

    Example:
        >>> MVDHEL()(torch.randn(3, 4, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.5,
        *,
        learnable: bool = True,
        as_printed: bool = False,
        uniformity_weight: float = 1.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.as_printed, self.uniformity_weight, self.backend = as_printed, uniformity_weight, backend

    def forward(self, views: Views, *, mask: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        return mv_dhel(
            views,
            temperature=self.temperature,
            as_printed=self.as_printed,
            uniformity_weight=self.uniformity_weight,
            mask=mask,
            group=group,
            backend=self.backend,
        )
