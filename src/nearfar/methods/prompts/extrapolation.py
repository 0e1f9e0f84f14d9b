"""From which classes which picture embeddings are generated (OGEN, arXiv 2401.15914, section 3.2)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nearfar.methods.prompts.feature_bank import Draw, FeatureBank, nearest_names

Extrapolation = Literal["joint", "per_class", "released"]


class Branch(NamedTuple):
    """What the generator is to make for each of B pictures, R embeddings each."""

    query: Tensor
    """Names of the classes, `[N, Q, D]`; N times Q is B times R."""
    key: Tensor
    """Names of their neighbours `[N, K, D]`."""
    value: Tensor
    """The neighbours' pictures `[N, K, D]`."""
    label: Tensor
    """The classes `[B, R]`."""
    target: Tensor | None
    """What should come out `[B, R, D]`; None of classes without pictures."""


def branches(
    bank: FeatureBank,
    base: Tensor,
    unknown: Tensor | None,
    images: Tensor,
    label: Tensor,
    *,
    k: int,
    how: Extrapolation = "joint",
    draw: Draw = "picture",
) -> dict[str, Branch]:
    """What to generate for a batch, by name:

        held_out     the picture's own class, as if it had no pictures, from its K neighbours
        neighbours   ("released") the K neighbours, from the picture
        unknown      the K classes without pictures that are most like the picture's own

    "joint" takes the K neighbours of each class at once, "per_class" one at a time, which gives K embeddings a class.
    "released" is what the released code does: `held_out` jointly, the others from the picture alone.

    Args:
        bank: embeddings of pictures by class; more than K classes have some.
        base: unit texts of the classes with pictures, `[C, D]`, or of each picture's own `[B, C, D]`. They are
            constants here.
        unknown: those of other classes, likewise; None for none. As queries they have a gradient.
        images: unit embeddings of the pictures `[B, D]`.
        label: their classes `[B]` int64.
        k: K.
        how, draw: which neighbours, and what stands for them (`FeatureBank.draw`).
    """
    base, images = base.detach(), images.detach()
    near = bank.neighbours(k)[label]  # [B, K]
    pictures = bank.draw(near, draw).to(images)
    own, others = of(base, label[:, None]), of(base, near)
    count = k if how == "per_class" else 1
    made = {
        "held_out": _from_neighbours(
            own, others[:, None], pictures[:, None], label[:, None], images[:, None], apart=how == "per_class"
        )
    }
    if how == "released":
        made["neighbours"] = Branch(others, own, images[:, None], near, pictures)
    if unknown is None:
        return made
    of_each = nearest_names(own, unknown.detach(), min(k, unknown.shape[-2])).squeeze(1)  # [B, K']
    query = of(unknown, of_each)
    if how == "released":
        made["unknown"] = Branch(query, own, images[:, None], of_each, None)
        return made
    of_new = nearest_names(query.detach(), base, k, bank.known)  # [B, K', K]
    drawn = bank.draw(of_new, draw).to(images)
    made["unknown"] = _from_neighbours(query, of(base, of_new), drawn, of_each, None, apart=count > 1)
    return made


def _from_neighbours(
    query: Tensor, key: Tensor, value: Tensor, label: Tensor, target: Tensor | None, *, apart: bool
) -> Branch:
    """Classes `[B, R, D]` from their neighbours `[B, R, K, D]`, at once or one at a time."""
    k = key.shape[2]
    if not apart:
        return Branch(query.flatten(0, 1)[:, None], key.flatten(0, 1), value.flatten(0, 1), label, target)
    return Branch(
        query.repeat_interleave(k, dim=1).flatten(0, 1)[:, None],
        key.flatten(0, 2)[:, None],
        value.flatten(0, 2)[:, None],
        label.repeat_interleave(k, dim=1),
        None if target is None else target.repeat_interleave(k, dim=1),
    )


def of(texts: Tensor, numbers: Tensor) -> Tensor:
    """Texts `[B, ..., D]` of the classes `numbers` `[B, ...]` int64: of `texts` `[C, D]`, floating point, or
    `[B, C, D]` where each picture has its own."""
    if texts.ndim == 2:
        return texts[numbers]
    rows = torch.arange(len(texts), device=texts.device).view(-1, *[1] * (numbers.ndim - 1))
    return texts[rows, numbers]


def cosines(features: Tensor, texts: Tensor) -> Tensor:
    """`[B, R, C]` of unit features `[B, R, D]` with unit texts `[C, D]` or `[B, C, D]`, floating point."""
    return features @ texts.transpose(-1, -2)


def squared_distance(features: Tensor, target: Tensor) -> Tensor:
    """The mean over rows of the squared distance of `features` and `target` `[..., D]`, floating point: of unit vectors
    `2 - 2 cos`, and D times the mean squared error.

    >>> squared_distance(torch.eye(2), -torch.eye(2)).item()
    4.0
    """
    return (features - target).square().sum(-1).mean()
