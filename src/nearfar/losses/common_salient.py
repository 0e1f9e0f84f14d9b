"""Common and salient patterns apart, from a background and a target set: SepCLR (arXiv 2402.11928).

Of N samples with views 1 and 2, c are common rows on the unit sphere, s salient rows in the plane, and t = s with the
rows of background set to 0, the point without information. With d2 the squared distance:

    align(a, b) = mean_i d2(a_i, b_i) / 2 tau
    unif(a)     = log mean_{i != j} exp(-d2(a_i, a_j) / 2 tau)
    jem(c, t)   = mean_i log mean_j exp(-(d2(c_i, c_j) + d2(t_i, t_j)) / 2 tau) ,  j = i among them

    L = align(c1, c2) + w [unif(c1) + unif(c2)] / 2                                     common
      + beta_s { align(s1, s2) over the target + w [unif(t1) + unif(t2)] / 2 }          salient
      + beta_r [mean |s1|^2 + mean |s2|^2 over the background] / 4 tau                  background tells nothing
      + lambda [jem(c1, t1) + jem(c2, t2)] / 2                                          less shared information

jem is minus an estimate of the joint entropy (k-JEM). Both uniformities already raise the two entropies, so that
raising the joint one, too, lowers what c and s tell of each other. tau is the argument `variance`.

Where attributes a of the target are known (the released code for dSprites), each salient dimension k is tied to one:

    align_k = mean over pairs i < j of the target of kappa(a_ik - a_jk) (s_ik - s_jk)^2
    zero_k  = mean over the background of s_ik^2 / 2 tau_k
    mean over k of { [align_k + zero_k] / 2 + unif(t_k) }           in place of the salient and the background's term

where kappa(d) = exp(-d^2 / 2 tau_y) and tau_k = tau_y, the argument `width`; for a discrete attribute kappa is 1 where
both are equal and else 0, and tau_k = tau. That code weighs it by 100, k-JEM by 10, and both uniformities by w = 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, lifted, refuse_ring, unit

BLOCK = 1 << 20
"""Pairs of samples that are held at a time."""


def sepclr(
    common: Tensor | Sequence[Tensor],
    salient: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    variance: float = 0.5,
    beta_salient: float = 1000.0,
    beta_infoless: float = 1000.0,
    lambda_jem: float = 10.0,
    uniformity_weight: float = 2.0,
    backend: str = "auto",
) -> Tensor:
    """SepCLR's loss of `common` `[2, N, C]` and `salient` `[2, N, S]`, floating point, and `target` `[N]`, true for
    samples of the target set, as a scalar; see `nearfar.losses.SepCLRLoss`.

    Raises:
        UserError: shapes that do not fit together, a variance that is not positive, or `backend="ring"`.

    Example:
        >>> c, s = torch.eye(4).expand(2, 4, 4), torch.zeros(2, 4, 2)
        >>> round(sepclr(c, s, torch.tensor([0, 0, 1, 1]), lambda_jem=0.0).item(), 6)  # 2 unif of four corners
        -4.0
    """
    terms = sepclr_terms(
        common, salient, target, variance=variance, uniformity_weight=uniformity_weight, backend=backend
    )
    weights = {"common": 1.0, "salient": beta_salient, "infoless": beta_infoless, "jem": lambda_jem}
    return torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()


def sepclr_terms(
    common: Tensor | Sequence[Tensor],
    salient: Tensor | Sequence[Tensor],
    target: Tensor,
    *,
    variance: float = 0.5,
    uniformity_weight: float = 2.0,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """The four terms of `sepclr` before they are weighed, each a scalar: `common`, `salient`, `infoless`, `jem`.

    Takes `common` `[2, N, C]` and `salient` `[2, N, S]`, floating point, N >= 2, and `target` `[N]`, bool or integers.
    A set that a batch has nothing of adds nothing: no term is NaN.

    Raises:
        UserError: shapes that do not fit together, a variance that is not positive, or `backend="ring"`.

    Example:
        >>> terms = sepclr_terms(torch.randn(2, 6, 4), torch.randn(2, 6, 2), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> sorted(terms)
        ['common', 'infoless', 'jem', 'salient']
    """
    refuse_ring(backend, "SepCLR")
    c, s, target = _checked(common, salient, target, variance)
    t = torch.where(target[:, None], s, 0.0)  # no gradient reaches background from the terms that hold t
    options: Any = {"variance": variance, "backend": backend}
    spread_c, spread_t = (torch.stack([gaussian_uniformity(view, **options) for view in x]).mean() for x in (c, t))
    return {
        "common": (c[0] - c[1]).square().sum(1).mean() / (2 * variance) + uniformity_weight * spread_c,
        "salient": _mean_over(target, (s[0] - s[1]).square().sum(1)) / (2 * variance) + uniformity_weight * spread_t,
        "infoless": _mean_over(~target, s.square().sum((0, 2))) / (4 * variance),
        "jem": torch.stack([joint_entropy(*views, **options) for views in zip(c, t, strict=True)]).mean(),
    }


def gaussian_uniformity(a: Tensor, *, variance: float = 0.5, backend: str = "auto") -> Tensor:
    """Log of the mean of `exp(-|a_i - a_j|^2 / 2 variance)` over pairs i != j of rows, which are taken as they are: 0
    where all coincide, lower the farther they spread, without end.

    On unit rows it is `uniformity(a, t=1 / (2 * variance))`.

    Args:
        a: `[N, D]`, floating point, N >= 2; not normalised here.
        variance: of the Gaussian kernel (tau).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: another shape, a variance that is not positive, or `backend="ring"`.

    Example:
        >>> round(gaussian_uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item(), 6)
        -2.0
    """
    check_rows(a=a)
    _check_variance(variance)
    refuse_ring(backend, "gaussian_uniformity")
    if len(a) < 2:
        raise UserError(f"a must be [N, D] with N >= 2, got {tuple(a.shape)}")
    rows = _log_kernel_sums(lifted(a), variance, backend, itself=False)
    return torch.logsumexp(rows, 0) - math.log(len(a) * (len(a) - 1))


def joint_entropy(c: Tensor, s: Tensor, *, variance: float = 0.5, backend: str = "auto") -> Tensor:
    """Minus the joint entropy of paired rows, by a kernel density at each row, itself among them (k-JEM): between
    -log N, where all are far apart, and 0, where all coincide. Minimising it spreads the pairs (c, s).

    Args:
        c: `[N, C]`, floating point; not normalised here.
        s: `[N, S]`, floating point; row i of both is one sample.
        variance: of the Gaussian kernel (tau).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not pair up, a variance that is not positive, or `backend="ring"`.

    Example:
        >>> joint_entropy(torch.ones(4, 3), torch.zeros(4, 2)).item()
        0.0
    """
    check_rows(c=c, s=s)
    _check_variance(variance)
    refuse_ring(backend, "joint_entropy")
    if len(c) != len(s) or not len(c):
        raise UserError(f"c and s must have one row a sample each, got {tuple(c.shape)} and {tuple(s.shape)}")
    # A product of two Gaussians is the Gaussian of both rows laid one behind the other.
    both = torch.cat([lifted(c), lifted(s)], 1)
    return _log_kernel_sums(both, variance, backend, itself=True).mean() - math.log(len(c))


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
    """The salient term of samples whose attributes are known (top of this module). It takes the place of
    `sepclr_terms`' salient and infoless ones. Memory is linear in N.

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
    t, of_target = s.masked_fill(~target[:, None], 0.0), target.nonzero().squeeze(1)
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


class SepCLRLoss(nn.Module):
    """SepCLR: what a background and a target set share, and what only the target has, in two spaces
    (arXiv 2402.11928).

    Normalises the common rows itself, and never the salient ones: their distance from 0 is how salient a sample is.

    Args:
        variance: tau, of all kernels, and the measure of all alignments (code: 0.5).
        beta_salient: weight of the salient term (code: 1000 on CIFAR-MNIST and CelebA, 1 on medical pictures). The two
            encoders share nothing and Adam is blind to scale, so that only the ratio to `beta_infoless` and
            `lambda_jem` counts for the salient one.
        beta_infoless: weight of what draws background to 0 in the salient space (code: 1000; 10 and 100 on medical
            pictures).
        lambda_jem: weight of k-JEM (code: 10). Without it the common space keeps what is salient.
        uniformity_weight: of both uniformities (code: 2; 1 is the plain form).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `common` | `[2, N, C]`, or two of `[N, C]`, floating point | two views of N >= 2 samples in the common space |
        | `salient` | `[2, N, S]`, or two of `[N, S]`, floating point | the same in the salient space |
        | `target` | `[N]`, bool or integers | true for samples of the target set |

    Returns:
        A scalar, float32 (float64 from float64).

    Raises:
        UserError: shapes that do not fit together, a variance that is not positive, or a backend that sees a part of
            the batch.

    Relations:
        - Its common term is `AlignmentUniformity(t=1 / (2 * variance))` but for weights.
        - Where all samples are target it is that on both spaces, and k-JEM.

    Variants:
        - the code on CIFAR-MNIST: `SepCLRLoss()`
        - on medical pictures: `SepCLRLoss(beta_salient=1.0, beta_infoless=10.0)`
        - without k-JEM, for comparison: `SepCLRLoss(lambda_jem=0.0)`

    Example:
        >>> SepCLRLoss()(torch.randn(2, 6, 4), torch.randn(2, 6, 2), torch.tensor([0, 0, 0, 1, 1, 1])).shape
        torch.Size([])
    """

    def __init__(
        self,
        variance: float = 0.5,
        *,
        beta_salient: float = 1000.0,
        beta_infoless: float = 1000.0,
        lambda_jem: float = 10.0,
        uniformity_weight: float = 2.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_variance(variance)
        self.options: Any = {"variance": variance, "uniformity_weight": uniformity_weight, "backend": backend}
        self.weights = {"common": 1.0, "salient": beta_salient, "infoless": beta_infoless, "jem": lambda_jem}

    def forward(self, common: Tensor | Sequence[Tensor], salient: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        return self.weighed(sepclr_terms(common, salient, target, **self.options))

    def weighed(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of the four terms that `sepclr_terms` gives, scalars, each by its weight: a scalar."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()


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


def _log_kernel_sums(x: Tensor, variance: float, backend: str, *, itself: bool) -> Tensor:
    """`[N]`: log of the sum over j of `exp(-|x_i - x_j|^2 / 2 variance)`, with j = i or without it."""
    # Salient rows may lie far out, where |x|^2 + |y|^2 - 2 <x, y> cancels. They are short, so float64 costs little.
    dtype = x.dtype
    x = x if x.device.type == "mps" else x.double()
    half = x.square().sum(1, keepdim=True) / 2
    q, k = torch.cat([x, torch.ones_like(half)], 1), torch.cat([x, -half], 1)
    ids = None if itself else torch.arange(len(x), device=x.device)
    admit = "all" if itself else "different"
    sums = ops.log_partition(q, k, 1 / variance, q_group=ids, k_group=ids, admit=admit, backend=backend)
    return (sums - half[:, 0] / variance).to(dtype)


def _mean_over(chosen: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` `[N]` where `chosen`, 0 where nothing is."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp_min(1)


def _checked(
    common: Tensor | Sequence[Tensor], salient: Tensor | Sequence[Tensor], target: Tensor, variance: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check_variance(variance)
    for name, views in (("common", common), ("salient", salient)):
        if len(views) != 2 or views[0].shape != views[1].shape:
            raise UserError(f"{name} must be two views of one shape [N, D], got {[tuple(x.shape) for x in views]}")
        check_rows(**{name: views[0]})
    c, s = (torch.stack([lifted(x) for x in views]) for views in (common, salient))
    if target.shape != c.shape[1:2] or s.shape[1] != c.shape[1] or target.is_floating_point() or c.shape[1] < 2:
        raise UserError(
            "common, salient and target must have one row a sample, of two samples at least, and target be bool or "
            f"integers: got {tuple(c.shape)}, {tuple(s.shape)} and {tuple(target.shape)} of {target.dtype}"
        )
    return unit(c), s, target.bool()


def _check_variance(variance: float) -> None:
    if not variance > 0:
        raise UserError(f"variance must be positive, got {variance}")
