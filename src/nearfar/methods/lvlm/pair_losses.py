"""Losses over likelihoods of two texts, each with its own picture, with the other's, and without one: S-VCO (arXiv
2502.13928), and the preferences that it is compared with (DPO, arXiv 2305.18290; image DPO, arXiv 2406.11839)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError

Reduction = Literal["mean", "sum", "none"]


class PairLikelihoods(NamedTuple):
    """Log-likelihoods `[B, 2]` of the two texts of B pairs, floating point, each the sum over the text's tokens.

    Attributes:
        own: of each text with its own picture.
        other: with the pair's other picture.
        alone: without a picture; None where a loss does not read it.
    """

    own: Tensor
    other: Tensor
    alone: Tensor | None = None


def svco_margins(policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
    """S-VCO's four margins `[B, 4]`, in the likelihoods' dtype: how much more than the reference the policy

        attends, text 1:  own over alone      rejects, text 1:  alone over other      and the same two of text 2

    Args:
        policy, reference: all three likelihoods, `[B, 2]`, floating point.

    Raises:
        UserError: likelihoods without a picture are missing.
    """
    if policy.alone is None or reference.alone is None:
        raise UserError("S-VCO compares with the likelihood without a picture: give 'alone' of policy and reference")
    own, other, alone = policy.own - reference.own, policy.other - reference.other, policy.alone - reference.alone
    return torch.stack([own - alone, alone - other], 2).flatten(1)


def svco(
    policy: PairLikelihoods,
    reference: PairLikelihoods,
    *,
    betas: Sequence[float] = (0.1, 0.1, 0.1, 0.1),
    reduction: Reduction = "mean",
) -> Tensor:
    """Symmetrical visual contrastive optimization: each text is likelier with its own picture than without one, and
    likelier without one than with the other picture of its pair,

        L = - sum over k of log sigmoid(betas[k] * margin_k)        the margins of `svco_margins`

    Where policy and reference are one it is 4 ln 2. Likelihoods under different conditions are compared: this is a
    contrast, and no preference that a reward would explain, as DPO's is.

    Args:
        policy, reference: likelihoods `[B, 2]`, floating point; the reference's without gradient.
        betas: attend and reject of text 1, of text 2 (paper: 0.1 each). 0 leaves a term out: with the last two 0 the
            contrast is one-sided.
        reduction: "mean" over the pairs, "sum", or "none" for `[B]`.

    Raises:
        UserError: another number of betas, one below 0, none above it, or no such reduction.

    >>> zero = PairLikelihoods(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    >>> svco(zero, zero)
    tensor(2.7726)
    """
    check_betas(betas)
    margins = svco_margins(policy, reference)
    terms = [F.softplus(-beta * margins[:, place]) for place, beta in enumerate(betas) if beta]
    return _reduced(torch.stack(terms).sum(0), reduction)


def dpo_margins(policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
    """How much more than the reference the policy prefers each picture's own text to the other one, `[B, 2]` by
    picture, in the likelihoods' dtype.

    Args:
        policy, reference: `own` and `other`, `[B, 2]`, floating point.
    """
    return (policy.own - reference.own) - (policy.other - reference.other).flip(1)


def image_dpo_margins(policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
    """How much more than the reference the policy prefers each text with its own picture to the same text with the
    other one, `[B, 2]` by text, in the likelihoods' dtype.

    Args:
        policy, reference: `own` and `other`, `[B, 2]`, floating point.
    """
    return (policy.own - reference.own) - (policy.other - reference.other)


def dpo(
    policy: PairLikelihoods, reference: PairLikelihoods, *, beta: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    """Direct preference optimization between texts: of each picture its own text is preferred to the other's.

        L = - mean over the two pictures of log sigmoid(beta * margin)          the margins of `dpo_margins`

    Args:
        policy, reference: `own` and `other`, `[B, 2]`, floating point.
        beta: how far the policy may go from the reference: the less, the farther (paper: 0.1).
        reduction: "mean" over the pairs, "sum", or "none" for `[B]`.

    Raises:
        UserError: `beta` not above 0, or no such reduction.

    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> dpo(PairLikelihoods(one, zero), PairLikelihoods(zero, zero), beta=1.0)
    tensor(0.3133)
    """
    return _preference(dpo_margins(policy, reference), beta, reduction)


def image_dpo(
    policy: PairLikelihoods, reference: PairLikelihoods, *, beta: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    """Preference between pictures (the conditional part of mDPO): a text with its own picture is preferred to the same
    text with another one.

        L = - mean over the two texts of log sigmoid(beta * margin)       the margins of `image_dpo_margins`

    The two arguments of S-VCO's terms of a text sum to this one's.

    Args:
        policy, reference: `own` and `other`, `[B, 2]`, floating point.
        beta: the less, the farther the policy may go from the reference.
        reduction: "mean" over the pairs, "sum", or "none" for `[B]`.

    Raises:
        UserError: `beta` not above 0, or no such reduction.

    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> image_dpo(PairLikelihoods(one, one), PairLikelihoods(zero, zero))
    tensor(0.6931)
    """
    return _preference(image_dpo_margins(policy, reference), beta, reduction)


def check_betas(betas: Sequence[float]) -> None:
    """Refuse what cannot be S-VCO's four betas.

    Raises:
        UserError: another number of them, one below 0 or no number, or none above 0.
    """
    if len(betas) != 4:
        raise UserError(f"betas={list(betas)}: four are needed: attend and reject of text 1, and of text 2")
    if not all(0 <= beta < float("inf") for beta in betas) or not any(betas):
        raise UserError(f"betas={list(betas)}: numbers of at least 0, one of them above; the paper's are 0.1")


def check_beta(beta: float) -> None:
    """Refuse what cannot be the beta of a preference.

    Raises:
        UserError: it is not above 0.
    """
    if not 0 < beta < float("inf"):
        raise UserError(f"beta={beta}: a number above 0, such as 0.1")


def _preference(margins: Tensor, beta: float, reduction: Reduction) -> Tensor:
    check_beta(beta)
    return _reduced(F.softplus(-beta * margins).mean(1), reduction)


def _reduced(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise UserError(f"reduction={reduction!r}: choose 'mean', 'sum' or 'none'")
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss
