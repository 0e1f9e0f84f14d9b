"""Figures of models that write, on pairs of pictures that hardly differ (S-VCO, arXiv 2502.13928; MMVP, arXiv
2401.06209)."""

from __future__ import annotations

from torch import Tensor

from nearfar.errors import UserError


def likelihood_ordering_rate(own: Tensor, alone: Tensor, other: Tensor) -> float:
    """How often a text is likeliest with its own picture, and least likely with one that contradicts it:

        log P(y | its picture)  >  log P(y | no picture)  >  log P(y | the other picture)

    Ties are no order. By chance it is a sixth.

    Args:
        own, alone, other: log-likelihoods of the same texts, of one shape, floating point.

    Raises:
        UserError: other shapes, or no text.

    >>> import torch
    >>> likelihood_ordering_rate(torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0]), torch.tensor([-3.0, -4.0]))
    0.5
    """
    if not own.shape == alone.shape == other.shape or not own.numel():
        raise UserError(
            f"likelihoods {list(own.shape)}, {list(alone.shape)} and {list(other.shape)}: three of one shape, not empty"
        )
    return float(((own > alone) & (alone > other)).double().mean())


def paired_accuracy(right: Tensor) -> float:
    """How often both pictures of a pair are right, the score of MMVP: who answers both alike gets none.

    Args:
        right: `[N, 2]` bool, whether each picture of N pairs was.

    Raises:
        UserError: another shape, or no pair.

    >>> import torch
    >>> paired_accuracy(torch.tensor([[True, True], [True, False]]))
    0.5
    """
    if right.ndim != 2 or right.shape[1] != 2 or not len(right):
        raise UserError(f"pairs of answers have the shape [N, 2], and not {list(right.shape)}")
    return float(right.bool().all(1).double().mean())


def visual_dependency(with_picture: Tensor, without: Tensor) -> float:
    """By how much the score of a model falls without the pictures: near 0 it was language alone that answered.

    Args:
        with_picture, without: scores of the same questions, the higher the better, of one shape, any dtype.

    Raises:
        UserError: other shapes, or no question.

    >>> import torch
    >>> visual_dependency(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.5
    """
    if with_picture.shape != without.shape or not with_picture.numel():
        raise UserError(f"scores {list(with_picture.shape)} and {list(without.shape)}: two of one shape, not empty")
    return float((with_picture.double() - without.double()).mean())
