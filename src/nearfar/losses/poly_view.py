"""What multi-view losses are compared with: the poly-view loss (PVC, arXiv 2403.05490), and two-view losses summed over
pairs of views, or taken against the mean of the other views (the baselines of arXiv 2507.06979)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nearfar.errors import UserError
from nearfar.losses.groups import unit
from nearfar.losses.nt_xent import NTXent, nt_xent
from nearfar.losses.temperature import Tau, as_temperature
from nearfar.losses.view_rows import Views, mean_over, other_samples, similarities, stack_views, view_pairs, view_rows

TwoViews = Callable[[Tensor, Tensor], Tensor]
"""A loss of two views `[N, D]`, a scalar."""


def poly_view(
    views: Views,
    *,
    temperature: Tau = 0.5,
    average: str = "geometric",
    mask: Tensor | None = None,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The poly-view loss of `views` `[V, N, D]`, floating point, as a scalar; see `nearfar.losses.PolyView`.

    Takes `mask` `[V, N]` (bool or numbers; 0 for a view that is missing) and `group` `[N]` int64.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, another `average`, a temperature that is not
            one number, or `backend="ring"`.

    Example:
        >>> round(poly_view(torch.eye(2).expand(2, 2, 2), temperature=1.0).item(), 6)  # NT-Xent
        0.551445
    """
    if average not in ("geometric", "arithmetic"):
        raise UserError(f"average must be 'geometric' or 'arithmetic', not {average!r}")
    x = view_rows(views, temperature, mask, group, backend, "PolyView")
    negatives = other_samples(x, within=True, across=True, backend=backend)
    gram, pairs = similarities(x), view_pairs(x)
    loss = softplus(negatives.t()[:, :, None] - gram).masked_fill(~pairs, 0.0)  # [N, V, V]: anchor, its partner
    partners = pairs.sum(2)
    if average == "geometric":
        each = loss.sum(2) / partners.clamp(min=1)
    else:
        likelihood = torch.logsumexp((-loss).masked_fill(~pairs, -math.inf).masked_fill(partners[..., None] == 0, 0), 2)
        each = partners.clamp(min=1).log() - likelihood
    return mean_over(each, partners > 0, x.z)


class PolyView(nn.Module):
    """The poly-view loss: each view must find each other view of its sample among all rows of other samples
    (arXiv 2403.05490). Normalises the embeddings itself.

    Args:
        temperature: a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether the temperature is trained.
        average: over a sample's partners: "geometric", the mean of the losses, or "arithmetic", the mean of the
            likelihoods, `-log mean exp(-loss)`.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `views` | `[V, N, D]`, or V of `[N, D]`, floating point | V >= 2 views; row i of each is sample i |
        | `mask` | `[V, N]` | true for views that are there |
        | `group` | `[N]`, integers | samples of one group are no negatives of each other |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit together, fewer than two views, or a backend that sees a part of the batch.

    Relations:
        - With two views it is `NTXent`.
        - A sample's other views are no negatives of each other; in `NTXent` over each pair the third view is not there.

    Variants:
        - geometric PVC: `PolyView(0.5, learnable=False)`; arithmetic: `PolyView(0.5, average="arithmetic")`

    Example:
        >>> PolyView()(torch.randn(3, 4, 8)).shape
        torch.Size([])
    """

    def __init__(
        self, temperature: Tau = 0.5, *, learnable: bool = True, average: str = "geometric", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.average, self.backend = average, backend

    def forward(self, views: Views, *, mask: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        return poly_view(
            views, temperature=self.temperature, average=self.average, mask=mask, group=group, backend=self.backend
        )


def pairwise_views(views: Views, *, loss: TwoViews = nt_xent, against: str = "each") -> Tensor:
    """A loss of two views over all pairs of `views` `[V, N, D]`, floating point, as a scalar; see
    `nearfar.losses.PairwiseViews`.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, or another `against`.

    Example:
        >>> round(pairwise_views(torch.eye(2).expand(3, 2, 2)).item(), 6)  # NT-Xent of each pair: ln(1 + 2 exp(-2))
        0.239545
    """
    if against not in ("each", "mean"):
        raise UserError(f"against must be 'each' or 'mean', not {against!r}")
    z = stack_views(views)
    if against == "each":
        terms = [loss(z[a], z[b]) for a in range(len(z)) for b in range(a + 1, len(z))]
    else:
        # Of unit rows, so that each of the others weighs the same.
        unit_rows = unit(z)
        terms = [loss(z[a], (unit_rows.sum(0) - unit_rows[a]) / (len(z) - 1)) for a in range(len(z))]
    return torch.stack(terms).mean()


class PairwiseViews(nn.Module):
    """A two-view loss for any number of views: its mean over all pairs, or each view against the mean of the others
    (PWE and AVG, the usual baselines; arXiv 2507.06979).

    Args:
        loss: a module that takes two views `[N, D]`; its temperature and other state are trained with it. By default
            `NTXent(0.5, learnable=False)`.
        against: "each": all V (V - 1) / 2 pairs; "mean": V pairs of a view and the mean of the other V - 1. The
            losses here normalise that mean; in the authors' code it stays shorter than 1, which acts as a higher
            temperature.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `views` | `[V, N, D]`, or V of `[N, D]`, floating point | V >= 2 views; row i of each is sample i |

    Returns:
        A scalar, in the type that `loss` gives.

    Raises:
        UserError: shapes that do not fit together, fewer than two views, or another `against`.

    Relations:
        - With two views it is `loss` itself.
        - `MVInfoNCE` and `MVDHEL` have one term a sample in place of one a pair (arXiv 2507.06979).

    Variants:
        - CLIP over three modalities: `PairwiseViews(InfoNCE(0.07))`
        - each view against the mean of the others: `PairwiseViews(NTXent(0.5), against="mean")`

    Example:
        >>> PairwiseViews()(torch.randn(3, 4, 8)).shape
        torch.Size([])
    """

    def __init__(self, loss: nn.Module | None = None, *, against: str = "each") -> None:
        super().__init__()
        self.loss = NTXent(learnable=False) if loss is None else loss
        self.against = against

    def forward(self, views: Views) -> Tensor:
        return pairwise_views(views, loss=self.loss, against=self.against)
