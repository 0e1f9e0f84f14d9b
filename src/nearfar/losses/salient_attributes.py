"""SepCLR's salient term where the target's attributes are known (arXiv 2402.11928, released code for dSprites): each
dimension k of the salient space is tied to attribute k.

Of N samples, s are salient rows `[N, K]`, a their attributes, and t = s with the rows of background set to 0:

    align_k = mean over pairs i < j of the target of kappa(a_ik - a_jk) (s_ik - s_jk)^2
    zero_k  = mean over the background of s_ik^2 / 2 tau_k
    L       = mean over k of { [align_k + zero_k] / 2 + unif(t_k) }

where kappa(d) = exp(-d^2 / 2 tau_y) and tau_k = tau_y, or for a discrete attribute kappa is 1 where both are equal and
else 0, and tau_k = tau. `unif` is that of `nearfar.losses.common_salient`, by tau. tau is the argument `variance`,
tau_y is `width`. The code weighs it by 100 and adds 10 times k-JEM, and a common term of two views whose uniformity it
weighs by 1.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nearfar.errors import UserError
from nearfar.losses.common_salient import gaussian_uniformity
from nearfar.losses.groups import check_rows, lifted, refuse_ring

BLOCK = 1 << 20
"""Pairs of samples that are held at a time."""


def salient_attributes(
    salient: Tensor,
    attributes: Tensor,
    target: Tensor,
    *,
    discrete: Collection[int] = (),
    variance: float = 0.5,
    width: float = 0.025,
    backend: str = "auto",
) -> Tensor:
    """The salient term of samples whose attributes are known; see above. It takes the place of `sepclr_terms`' salient
    and infoless ones. Memory is linear in N.

    Args:
        salient: `[N, K]`, floating point, N >= 2: salient rows of one view; not normalised.
        attributes: `[N, K]`, numbers, best between 0 and 1 where they are continuous; those of background are not read.
        target: `[N]`, bool or integers: true for samples of the target set.
        discrete: which attributes are names rather than measures: only equal ones are alike.
        variance: tau (code: 0.5).
        width: tau_y, how far apart continuous attributes are still alike (code: 0.025).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Returns:
        A scalar, float32 (float64 from float64). A set that a batch has nothing of adds nothing.

    Raises:
        UserError: shapes that do not fit together, a discrete attribute that is not there, a variance or width that is
            not positive, or `backend="ring"`.

    Example:
        >>> s, a = torch.tensor([[0.0], [0.0], [1.0], [-1.0]]), torch.tensor([[0.0], [0.0], [0.5], [0.5]])
        >>> alike = salient_attributes(s, a, torch.tensor([0, 0, 1, 1]))
        >>> a[3] = 0.0  # far from that of its neighbour: nothing draws them together
        >>> round((alike - salient_attributes(s, a, torch.tensor([0, 0, 1, 1]))).item(), 2)  # half of 2^2
        1.99
    """
    check_rows(salient=salient)
    refuse_ring(backend, "salient_attributes")
    s, known = lifted(salient), set(discrete)
    n, k = s.shape
    if n < 2 or attributes.shape != s.shape or target.shape != (n,) or target.is_floating_point():
        raise UserError(
            "salient and attributes must be [N, K] with N >= 2, and target [N], bool or integers: got "
            f"{tuple(salient.shape)}, {tuple(attributes.shape)} and {tuple(target.shape)} of {target.dtype}"
        )
    if not (variance > 0 and width > 0):
        raise UserError(f"variance and width must be positive, got {variance} and {width}")
    if unknown := sorted(each for each in known if each not in range(k)):
        raise UserError(f"discrete names attributes from 0 to {k - 1}, not {unknown}")
    target = target.bool()
    t, of_target = torch.where(target[:, None], s, 0.0), target.nonzero().squeeze(1)
    count, background = len(of_target), (~target).sum().clamp_min(1)
    terms = []
    for place in range(k):
        is_name = place in known
        near = _Nearness.apply(s[of_target, place], attributes[of_target, place].to(s), None if is_name else width)
        align = near / max(count * (count - 1), 1)
        zero = (
            torch.where(target, 0.0, s[:, place]).square().sum() / background / (2 * (variance if is_name else width))
        )
        spread = gaussian_uniformity(t[:, place : place + 1], variance=variance, backend=backend)
        terms.append((align + zero) / 2 + spread)
    return torch.stack(terms).mean()


class _Nearness(torch.autograd.Function):
    """Of `s` and `a` `[n]` the sum over i and j of kappa(a_i - a_j) (s_i - s_j)^2, by blocks of rows; kappa is of
    `width`, or of names where that is None."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, a: Tensor, width: float | None) -> Tensor:
        total, gradient = s.new_zeros(()), torch.zeros_like(s)
        for rows in torch.arange(len(s), device=s.device).split(max(1, BLOCK // max(len(s), 1))):
            apart, gap = s[rows, None] - s, a[rows, None] - a
            kappa = (gap == 0).to(s) if width is None else gap.square_().div_(-2 * width).exp_()
            pull = kappa.mul_(apart)
            gradient[rows] = 4 * pull.sum(1)  # each pair is met from both ends
            total += pull.mul_(apart).sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None
