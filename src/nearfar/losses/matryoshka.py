"""One loss at several widths of the same embeddings: Matryoshka representation learning (arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from nearfar.errors import UserError

KEPT = ("mask", "alpha")
"""Arguments of losses that are floating point and no embeddings."""


class Matryoshka(nn.Module):
    """A loss summed over cut embeddings, so that their first numbers alone are good embeddings, too (arXiv 2205.13147).

    `sum_d w_d loss(z[:, :d])` over the widths d of `dims`. One set of embeddings is trained; who searches chooses how
    many numbers of each to keep, and scales them to unit length again, as the losses do.

    Args:
        loss: any loss of `nearfar.losses`. Its temperature is one for all widths.
        dims: the widths, rising. `[D]` alone is the loss as it is; leave no doubt about the whole width by naming it.
        weights: w, one a width, from 0 on; None: 1 each, as in the paper.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `args`, `options` | as the loss takes them | embeddings `[..., D]`, floating point, are cut, all else is not |

    Returns:
        A scalar, of the loss's dtype.

    Raises:
        UserError: a loss that keeps something of each sample, or takes maps; widths that do not rise or are more than
            the embeddings have, weights that do not fit, or embeddings of several widths.

    Relations:
        - The method `matryoshka` does so around a method: `{name: matryoshka, of: {name: clip}, dims: [64, 256]}`.
        - `model.encode(..., dim=64)` and `nearfar index --dim 64` keep the first 64 numbers.

    Variants:
        - the plain loss: `Matryoshka(loss, [D])`
        - the paper's widths, halving: `Matryoshka(InfoNCE(), [8, 16, 32, 64, 128, 256])`

    Example:
        >>> import torch
        >>> from nearfar.losses import InfoNCE
        >>> Matryoshka(InfoNCE(), [2, 4, 8])(torch.randn(4, 8), torch.randn(4, 8)).shape
        torch.Size([])
    """

    def __init__(self, loss: nn.Module, dims: Sequence[int], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if getattr(loss, "by_sample", False):
            raise UserError(
                f"{type(loss).__name__} keeps something of each sample, which would be of several widths at once: take "
                "one loss a width"
            )
        if getattr(loss, "of_maps", False):
            raise UserError(
                f"{type(loss).__name__} takes maps, whose last dimension is a row of cells and no embedding: cut their "
                "channels yourself"
            )
        self.loss = loss
        self.dims, self.weights = checked_widths(dims, weights)
        self._names = list(signature(loss.forward).parameters)

    def forward(self, *args: Any, **options: Any) -> Tensor:
        inputs = dict(zip(self._names, args, strict=False)) | options
        widths = [pair for name, value in inputs.items() for pair in _widths(name, value)]
        check_widths(dict(widths), self.dims)
        cut = [{name: _cut(name, value, dim) for name, value in inputs.items()} for dim in self.dims]
        return sum(w * self.loss(**each) for w, each in zip(self.weights, cut, strict=True))


def checked_widths(dims: Sequence[int], weights: Sequence[float] | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Widths and their weights, as tuples.

    Raises:
        UserError: no widths, widths that do not rise, or weights of another number, below 0 or all 0.

    >>> checked_widths([64, 256], None)
    ((64, 256), (1.0, 1.0))
    """
    made = tuple(int(dim) for dim in dims)
    if not made or made[0] < 1 or any(a >= b for a, b in pairwise(made)):
        raise UserError(f"dims={list(dims)}: name widths from 1 on, each larger than the one before")
    shares = tuple(1.0 for _ in made) if weights is None else tuple(float(weight) for weight in weights)
    if len(shares) != len(made) or not all(share >= 0 for share in shares) or not any(shares):
        raise UserError(f"weights={list(weights or ())}: one a width ({len(made)}), from 0 on, not all 0")
    return made, shares


def check_widths(widths: dict[str, int], dims: Sequence[int]) -> None:
    """Raise a `UserError` unless all embeddings, named with their widths, have one width, of at least the last of
    `dims`."""
    if len(set(widths.values())) != 1:
        each = ", ".join(f"{name} {width}" for name, width in widths.items()) or "none"
        raise UserError(f"embeddings that are cut together must have one width, got {each}")
    name, width = next(iter(widths.items()))
    if dims[-1] > width:
        raise UserError(f"dims={list(dims)}, but the embeddings {name} have {width} numbers: name {width} at most")


def _cut(name: str, value: Any, dim: int) -> Any:
    """An argument of a loss, embeddings cut: a tensor, or a list of tensors, one a view."""
    if isinstance(value, (list, tuple)):
        return [_cut(name, each, dim) for each in value]
    return value[..., :dim] if _is_embedding(name, value) else value


def _widths(name: str, value: Any) -> list[tuple[str, int]]:
    """The widths of the embeddings in an argument, by name."""
    if isinstance(value, (list, tuple)):
        return [pair for i, each in enumerate(value) for pair in _widths(f"{name}[{i}]", each)]
    return [(name, value.shape[-1])] if _is_embedding(name.partition("[")[0], value) else []


def _is_embedding(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and name not in KEPT
