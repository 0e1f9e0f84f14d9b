"""`group_whitening`: channels in groups, each made uncorrelated and of unit variance over the rows, as in decorrelated
batch norm (arXiv 1804.08450) and shuffled group whitening (arXiv 2305.17746)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.ops.tiling.inputs import describe

Kind = Literal["zca", "cholesky"]


def group_whitening(
    x: Tensor,
    groups: int,
    *,
    permutation: Tensor | None = None,
    eps: float = 0.0,
    kind: Kind = "zca",
    detach: bool = False,
) -> Tensor:
    """Rows whose channels are uncorrelated and of unit variance within each group: Y_g = (X_g - mean) C_g^(-1/2), with
    C_g = X_g^T X_g / N of the centred rows.

    Statistics are taken, and the roots of C, in float64 where the device has it, whatever the type of `x`. The gradient
    of "zca" is exact also where eigenvalues are equal, which that of an eigendecomposition is not.

    Args:
        x: `[N, D]`, floating point.
        groups: how many groups; they divide D, and the channels of one, D / groups, are fewer than N.
        permutation: `[D]` int64, which channels come together: those of the first group, of the second, ...; None takes
            them as they stand. The output is in the order of `x`.
        eps: added to the diagonal of C. With 0 the covariance of a group of the output is the
            identity, and its mean squared row norm D.
        kind: "zca", which stays nearest to `x` and does not depend on the order inside a group, or "cholesky", which
            does, and costs less.
        detach: take C as a constant in the gradient, as the released code of WhitenedCSE does; else the gradient is
            whole.

    Returns:
        `[N, D]` in the type of `x`.

    Raises:
        UserError: shapes or values that do not fit; with eps 0, a group whose channels vary in fewer directions than
            it has channels.

    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> group_whitening(x, 1).abs().amax().round(decimals=4)  # the root of 2, along both channels
    tensor(1.4142)
    """
    order = _checked(x, groups, permutation, eps, kind)
    z = x if order is None else x[:, order]
    z = z.to(torch.float32 if x.device.type == "mps" else torch.float64).unflatten(1, (groups, -1)).transpose(0, 1)
    z = z - z.mean(1, keepdim=True)
    covariance = z.mT @ z / len(x)
    if eps:
        covariance = covariance + eps * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    try:
        root = _InverseRoot.apply(covariance) if kind == "zca" else _cholesky(covariance)
    except _Flat as flat:
        order = torch.arange(x.shape[1], device=x.device) if order is None else order
        raise UserError(_why_flat(x, order.view(groups, -1)[flat.groups])) from None
    y = (z @ (root.detach() if detach else root)).transpose(0, 1).flatten(1).to(x.dtype)
    return y if order is None else y[:, order.argsort()]


def _checked(x: Tensor, groups: int, permutation: Tensor | None, eps: float, kind: str) -> Tensor | None:
    if x.ndim != 2 or not x.is_floating_point():
        raise UserError(f"x must be floating-point [N, D], got shape {describe(x)}")
    rows, width = x.shape
    if groups < 1 or width % groups:
        near = [str(g) for g in range(1, width + 1) if width % g == 0]
        raise UserError(f"groups={groups} do not divide {width} channels: choose one of {', '.join(near)}")
    if kind not in get_args(Kind):
        raise UserError(f"kind={kind!r}: choose zca or cholesky")
    if not 0 <= eps < float("inf"):
        raise UserError(f"eps={eps}: a number from 0 on")
    if not eps and rows - 1 < width // groups:
        raise UserError(
            f"{rows} rows cannot whiten groups of {width // groups} channels: take {width // groups + 1} rows at "
            "least, more groups, or eps above 0"
        )
    if permutation is None:
        return None
    permutation = permutation.to(x.device)
    if not torch.equal(permutation.sort().values, torch.arange(width, device=x.device)):
        raise UserError(f"permutation must hold each of 0 to {width - 1} once, got shape {describe(permutation)}")
    return permutation


NAMED = 12
"""Channels that a message names."""


class _Flat(Exception):
    """Some `groups` `[G]` bool cannot be whitened."""

    def __init__(self, groups: Tensor) -> None:
        super().__init__()
        self.groups = groups


def _why_flat(x: Tensor, flat: Tensor) -> str:
    """What is wrong with the groups whose channels are `flat` `[F, d]`."""
    channels = sorted(flat[0].tolist())
    still = [channel for channel in channels if bool((x[:, channel] == x[0, channel]).all())]
    return (
        "a group of channels varies in fewer directions than it has channels, and cannot be whitened (channels "
        f"{_listed(channels)}{f', of which {_listed(still)} not at all' if still else ''}; {len(flat)} such groups): "
        f"take more rows than {len(x)}, more groups, or eps above 0 (method.eps in a recipe)"
    )


def _listed(channels: list[int]) -> str:
    return ", ".join(map(str, channels[:NAMED])) + (" ..." if len(channels) > NAMED else "")


class _InverseRoot(torch.autograd.Function):
    """C^(-1/2) of symmetric matrices `[..., d, d]`. Its derivative in the eigenbasis is a product with the divided
    differences of x^(-1/2), -1 / (sqrt(a b) (sqrt a + sqrt b)), which have no pole where a = b."""

    @staticmethod
    def forward(ctx: Any, covariance: Tensor) -> Tensor:
        values, basis = torch.linalg.eigh(covariance)
        least = values.amax(-1, keepdim=True) * values.shape[-1] * torch.finfo(values.dtype).eps
        if bool((values <= least).any()):
            raise _Flat((values <= least).any(-1))
        ctx.save_for_backward(values.sqrt(), basis)
        return (basis * values.rsqrt()[..., None, :]) @ basis.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        root, basis = ctx.saved_tensors
        (gradient,) = gradients
        a, b = root[..., :, None], root[..., None, :]
        inner = basis.mT @ ((gradient + gradient.mT) / 2) @ basis
        return basis @ (inner * (-1 / (a * b * (a + b)))) @ basis.mT


def _cholesky(covariance: Tensor) -> Tensor:
    """W with C = L L^T and W = L^(-T), so that the covariance of Z W is the identity."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    least = covariance.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True) * torch.finfo(factor.dtype).eps
    flat = factor.diagonal(dim1=-2, dim2=-1).square() <= least * factor.shape[-1]
    flat = flat.any(-1) | (failed > 0)
    if bool(flat.any()):
        raise _Flat(flat)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    return torch.linalg.solve_triangular(factor, eye, upper=False).mT
