"""The contestants: one table of functions for each form of loss, and the formula that all of them must equal.

Every function takes unit vectors q and k [N, D], a scale and a bias tensor, and returns the loss. In `NT-Xent` N
counts all rows, the two views together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from torch.utils.checkpoint import checkpoint

from _shim import import_torchvision
from nearfar import ops

Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
CHUNK = 1024
EVERYTHING = 1 << 40  # a budget that keeps all tiles
PAIRS_OF_PAIRS = 256  # pytorch-metric-learning compares every positive with every negative: cubic, so only small N


def both_directions(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits, labels = scale * q @ k.T, torch.arange(len(q))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def one_direction(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return cross_entropy(scale * q @ k.T, torch.arange(len(q)))


def nt_xent(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = torch.cat([q[: len(q) // 2], k[: len(q) // 2]])
    itself = torch.eye(len(z), dtype=torch.bool)
    return cross_entropy((scale * z @ z.T).masked_fill(itself, -torch.inf), torch.arange(len(z)).roll(len(z) // 2))


def sigmoid(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return -logsigmoid((scale * q @ k.T + bias) * (2 * torch.eye(len(q), dtype=q.dtype) - 1)).sum() / len(q)


def both_directions_in_chunks(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GradCache's way of living without the matrix: a chunk of rows at a time, computed again in the backward pass."""

    def chunk(rows: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        logits = scale * rows @ k.T
        return logits.logsumexp(1), logits.logsumexp(0)

    parts = [checkpoint(chunk, rows, scale, use_reentrant=False) for rows in q.split(CHUNK)]
    across, down = (torch.stack(side) if i else torch.cat(side) for i, side in enumerate(zip(*parts, strict=True)))
    return ((across + down.logsumexp(0)) / 2 - scale * (q * k).sum(1)).mean()


def one_direction_in_chunks(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    def chunk(rows: Tensor, start: int, scale: Tensor) -> Tensor:
        return cross_entropy(scale * rows @ k.T, torch.arange(start, start + len(rows)), reduction="sum")

    starts = range(0, len(q), CHUNK)
    return sum(checkpoint(chunk, q[s : s + CHUNK], s, scale, use_reentrant=False) for s in starts) / len(q)


def sigmoid_in_chunks(q: Tensor, k: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    def chunk(rows: Tensor, start: int, scale: Tensor, bias: Tensor) -> Tensor:
        near = torch.zeros(len(rows), len(k))
        near[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = 1
        return -logsigmoid((scale * rows @ k.T + bias) * (2 * near - 1)).sum()

    starts = range(0, len(q), CHUNK)
    return sum(checkpoint(chunk, q[s : s + CHUNK], s, scale, bias, use_reentrant=False) for s in starts) / len(q)


FORMULA: dict[str, Objective] = {
    "InfoNCE, both directions": both_directions,
    "InfoNCE, one direction": one_direction,
    "NT-Xent": nt_xent,
    "sigmoid": sigmoid,
}

"""Products of N x N x D that the form needs, forward and backward, when no tile is kept."""


def ours(form: str) -> dict[str, Objective]:
    def two_views(q: Tensor, k: Tensor) -> Tensor:
        return torch.cat([q[: len(q) // 2], k[: len(q) // 2]])

    return {
        "InfoNCE, both directions": {
            "nearfar": lambda q, k, s, b: ops.info_nce(q, k, s),
            "nearfar, no tiles kept": lambda q, k, s, b: ops.info_nce(q, k, s, budget=0),
            "nearfar, all tiles kept": lambda q, k, s, b: ops.info_nce(q, k, s, budget=EVERYTHING),
        },
        "InfoNCE, one direction": {"nearfar": lambda q, k, s, b: ops.info_nce(q, k, s, symmetric=False)},
        "NT-Xent": {
            "nearfar": lambda q, k, s, b: ops.nt_xent(two_views(q, k), s),
            "nearfar, no tiles kept": lambda q, k, s, b: ops.nt_xent(two_views(q, k), s, budget=0),
            "nearfar, all tiles kept": lambda q, k, s, b: ops.nt_xent(two_views(q, k), s, budget=EVERYTHING),
        },
        "sigmoid": {"nearfar": ops.sigmoid},
    }[form]


def peers(form: str, n: int) -> dict[str, Objective]:
    """The other libraries' losses for a form, at N rows."""
    if form == "InfoNCE, both directions":
        from open_clip.loss import ClipLoss

        return {
            "open_clip ClipLoss": lambda q, k, s, b: ClipLoss()(q, k, s),
            "dense autograd": both_directions,
            "chunk and checkpoint": both_directions_in_chunks,
        }
    if form == "InfoNCE, one direction":
        return {"dense autograd": one_direction, "chunk and checkpoint": one_direction_in_chunks}
    if form == "sigmoid":
        from open_clip.loss import SigLipLoss

        return {
            "open_clip SigLipLoss": lambda q, k, s, b: SigLipLoss()(q, k, s, b),
            "chunk and checkpoint": sigmoid_in_chunks,
        }
    return two_view_peers(n)


def two_view_peers(n: int) -> dict[str, Objective]:
    from lightly.loss import NTXentLoss
    from pytorch_metric_learning.losses import NTXentLoss as MetricNTXent

    def lightly(q: Tensor, k: Tensor, s: Tensor, b: Tensor) -> Tensor:
        return NTXentLoss(temperature=1 / s.item())(q[: n // 2], k[: n // 2])

    def metric_learning(q: Tensor, k: Tensor, s: Tensor, b: Tensor) -> Tensor:
        views = torch.cat([q[: n // 2], k[: n // 2]])
        return MetricNTXent(temperature=1 / s.item())(views, torch.arange(n // 2).repeat(2))

    cubic = {"pytorch-metric-learning NTXentLoss": metric_learning} if n <= PAIRS_OF_PAIRS else {}
    return {"lightly NTXentLoss": lightly, "dense autograd": nt_xent, **cubic}


def objectives(form: str, n: int) -> dict[str, Objective]:
    import_torchvision()
    return ours(form) | peers(form, n)


def objective(form: str, variant: str, n: int) -> Objective:
    """One of them, without importing the libraries of the others."""
    return ours(form)[variant] if variant in ours(form) else objectives(form, n)[variant]
