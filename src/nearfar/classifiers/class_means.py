"""Prototypes: an image belongs to the class whose examples' mean is nearest."""

from __future__ import annotations

from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.classifiers.classifier import Classifier, examples


class NearestMean(Classifier):
    """The nearest class mean by cosine, as prototypical networks classify (Snell and others, arXiv 1703.05175, there by
    squared distance; on unit vectors the order is the same but for the length of the mean, which is brought to 1).

    Attributes:
        classes_: the labels; prototypes_: `[C, D]`, the unit mean of each class's unit embeddings.

    >>> two = NearestMean().fit([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]], ["cat", "cat", "dog"])
    >>> two.predict([[0.9, 0.2], [0.1, 2.0]]).tolist()
    ['cat', 'dog']
    """

    def fit(self, embeddings: Tensor | ArrayLike, labels: ArrayLike) -> Self:
        """Take the mean of each class's embeddings `[N, D]`, floating point, by their labels `[N]`, of any dtype.

        Raises:
            UserError: no examples, or other numbers of them than of labels.
        """
        x, y, known = examples(embeddings, labels)
        sums = torch.zeros(len(known), x.shape[1]).index_add_(0, y, x)
        self.classes_, self.prototypes_ = known, normalize(sums, dim=1)
        self.n_features_in_ = x.shape[1]
        return self

    def scores(self, embeddings: Tensor) -> Tensor:
        """Cosine of each of the `embeddings` `[N, D]` with each class, `[N, C]` float32."""
        return embeddings @ self.prototypes_.T
