"""The latest embeddings of pictures of each class, and which classes are neighbours by them (OGEN, arXiv
2401.15914)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.errors import UserError

Draw = Literal["picture", "gaussian", "uniform"]


class FeatureBank(nn.Module):
    """A ring of M embeddings for each of C classes. It fills with the batches of training, so nothing is read
    beforehand, and where the embeddings change with training it holds those of late.

    Args:
        dim: D, the width of embeddings.
        classes: C; 0 until `size` is called.
        shots: M (paper: 16 pictures a class).

    All of it is buffers, so it resumes with the method. Write in `after_step`.

    >>> bank = FeatureBank(2, classes=3, shots=2)
    >>> bank.write(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 2, 2]))
    >>> bank.known.tolist(), bank.mean[2].tolist()
    ([True, False, True], [0.5, 0.5])
    """

    features: Tensor
    written: Tensor

    def __init__(self, dim: int, classes: int = 0, *, shots: int = 16) -> None:
        super().__init__()
        if shots < 1:
            raise UserError(f"shots is {shots}: keep at least one embedding of each class")
        self.dim, self.shots = dim, shots
        self.register_buffer("features", torch.zeros(0, shots, dim))
        self.register_buffer("written", torch.zeros(0, dtype=torch.long))
        self.size(classes)

    def size(self, classes: int) -> None:
        """Make room for so many classes; a bank of as many keeps what it holds."""
        if len(self.written) != classes:
            self.features = self.features.new_zeros(classes, self.shots, self.dim)
            self.written = self.written.new_zeros(classes)

    @property
    def known(self) -> Tensor:
        """`[C]` bool: which classes have an embedding."""
        return self.written > 0

    @property
    def held(self) -> Tensor:
        """`[C, M]` bool: which places hold one."""
        return torch.arange(self.shots, device=self.written.device) < self.written[:, None]

    @property
    def mean(self) -> Tensor:
        """`[C, D]`, floating point: the mean of each class, 0 where it has none; not of unit length."""
        return (self.features * self.held[..., None]).sum(1) / self.written.clamp(1, self.shots)[:, None]

    @property
    def std(self) -> Tensor:
        """`[C, D]`, floating point: the deviation of each class, number by number; 0 of a single one."""
        away = (self.features - self.mean[:, None]) * self.held[..., None]
        return (away.square().sum(1) / self.written.clamp(1, self.shots)[:, None]).sqrt()

    @torch.no_grad()
    def write(self, features: Tensor, label: Tensor) -> None:
        """Put unit `features` `[B, D]`, floating point, of classes `label` `[B]` int64 in the place of the oldest."""
        label, order = label.sort(stable=True)
        counts = label.bincount(minlength=len(self.written))
        rank = torch.arange(len(label), device=label.device) - (counts.cumsum(0) - counts)[label]
        last = rank >= counts[label] - self.shots  # of more than M, the last
        slots = (self.written[label] + rank) % self.shots
        self.features[label[last], slots[last]] = features[order][last].to(self.features)
        self.written += counts

    def neighbours(self, k: int) -> Tensor:
        """`[C, k]` int64: of each class the k others, among those that have embeddings, whose means have the largest
        product with its own."""
        return nearest_classes(self.mean, k, self.known)

    def draw(self, classes: Tensor, how: Draw) -> Tensor:
        """An embedding of each of `classes` `[...]` int64: `[..., D]`, in the bank's dtype.

        Args:
            classes: such as have embeddings.
            how: "picture": one of those that are held, at random (paper). "gaussian": the class's mean with normal
                noise of its deviation. "uniform": its mean and u times its deviation, u uniform from 0 to 1 and the
                same for all rows (code), which moves all in one direction.
        """
        if how == "picture":
            count = self.written.clamp(max=self.shots)[classes]
            place = (torch.rand(classes.shape, device=count.device) * count).long()
            return self.features[classes, place]
        mean, std = self.mean[classes], self.std[classes]
        if how == "gaussian":
            return mean + torch.randn_like(mean) * std
        return mean + torch.rand(self.dim, dtype=mean.dtype, device=mean.device) * std

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if not len(self.written) and f"{prefix}written" in state_dict:
            self.size(len(state_dict[f"{prefix}written"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def nearest_classes(features: Tensor, k: int, known: Tensor | None = None) -> Tensor:
    """Of each of C classes the k others of the largest product, `[C, k]` int64.

    Args:
        features: `[C, D]`, floating point, one row a class.
        k: how many.
        known: `[C]` bool: those that may be neighbours; by default all.

    Raises:
        UserError: there are no k others.

    >>> nearest_classes(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).flatten().tolist()
    [1, 0, 1]
    """
    count = len(features) if known is None else int(known.sum())
    if not 0 < k < count:
        raise UserError(
            f"each class is to have {k} neighbours among {count} classes with pictures: it is none of its own, so name "
            f"more classes, or set neighbours to at most {max(0, count - 1)}"
        )
    products = features @ features.T
    products.fill_diagonal_(-torch.inf)
    if known is not None:
        products = products.masked_fill(~known, -torch.inf)
    return products.topk(k, dim=1).indices


def nearest_names(texts: Tensor, others: Tensor, k: int, known: Tensor | None = None) -> Tensor:
    """Of each of `texts` the k of `others` with the largest cosine, `[..., N, k]` int64.

    Args:
        texts: `[..., N, D]`, floating point, of unit length.
        others: `[..., C, D]`, likewise.
        k: how many, at most C.
        known: `[C]` bool: those that may be taken.

    >>> nearest_names(torch.eye(2)[:1], torch.tensor([[0.0, 1.0], [0.8, 0.6]]), 1).tolist()
    [[1]]
    """
    cosines = texts @ others.transpose(-1, -2)
    if known is not None:
        cosines = cosines.masked_fill(~known, -torch.inf)
    return cosines.topk(k, dim=-1).indices
