"""Neighbours: the examples nearest to an image vote for their classes."""

from __future__ import annotations

from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nearfar.classifiers.classifier import Classifier, examples
from nearfar.nearest import nearest


class KNearest(Classifier):
    """Weighted nearest neighbours, as in InstDisc (arXiv 1805.01978) and DINO: the `k` examples of highest cosine vote
    for their class with weight exp(cosine / temperature).

    Args:
        k: neighbours; 1 gives the plain nearest-neighbour rule.
        temperature: smaller trusts the nearest more.

    >>> two = KNearest(k=1).fit([[1.0, 0.1], [0.0, 1.0]], ["cat", "dog"])
    >>> two.predict([[0.9, 0.2], [0.1, 2.0]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, k: int = 20, *, temperature: float = 0.07) -> None:
        self.k, self.temperature = k, temperature

    def fit(self, embeddings: Tensor | ArrayLike, labels: ArrayLike, *, classes: ArrayLike | None = None) -> Self:
        """Keep the examples, `embeddings` `[N, D]`, floating point, with their labels `[N]`, of any dtype. `classes`
        may name some that have no example.

        Raises:
            UserError: no examples, other numbers of them than of labels, or a label that is none of `classes`.
        """
        self.examples_, self.places_, self.classes_ = examples(embeddings, labels, classes)
        self.n_features_in_ = self.examples_.shape[1]
        return self

    def scores(self, embeddings: Tensor) -> Tensor:
        """Votes for `embeddings` `[N, D]`: `[N, C]` float32; those of the nearest neighbour count 1."""
        cosine, neighbour = nearest(embeddings, self.examples_, self.k)
        # Taking off the row's maximum changes no order and keeps exp in range at any temperature.
        weight = ((cosine - cosine[:, :1]) / self.temperature).exp()
        votes = torch.zeros(len(cosine), len(self.classes_))
        return votes.scatter_add_(1, self.places_[neighbour], weight)
