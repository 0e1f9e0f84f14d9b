"""What a classifier is: scikit-learn's verbs on embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import UserError

ROWS = 1024
"""Embeddings classified at a time."""


class Classifier(ABC):
    """`fit`, then `decision_function`, `predict`, `predict_proba` and `score`, as in scikit-learn.

    A subclass gives `fit`, which sets `classes_` (C of them), and `scores`. Where it is `transductive`, `scores` gets
    all embeddings of a call at once, and those of one depend on the others.
    """

    classes_: NDArray[Any]
    transductive: ClassVar[bool] = False

    @abstractmethod
    def fit(self, *args: Any, **options: Any) -> Self:
        """Learn the classes; sets `classes_`, and returns the classifier."""

    @abstractmethod
    def scores(self, embeddings: Tensor) -> Tensor:
        """Scores `[N, C]` float32 of unit embeddings `[N, D]`; the greatest wins."""

    def decision_function(self, embeddings: Tensor | ArrayLike) -> NDArray[np.float32]:
        """The score `[N, C]` float32 of each class for each of the `embeddings` `[N, D]`, floating point and of any
        length.

        Raises:
            UserError: it was not fitted yet, or the embeddings have another width than those it was fitted on.
        """
        self.check_fitted()
        x = normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=-1)
        width = getattr(self, "n_features_in_", None)
        if x.ndim != 2 or width not in (None, x.shape[1]):
            raise UserError(f"{type(self).__name__}: embeddings must be [N, {width or 'D'}], not {list(x.shape)}")
        parts = [self.scores(x[rows]) for rows in blocks(len(x), max(1, len(x)) if self.transductive else ROWS)]
        return torch.cat(parts).numpy() if parts else np.zeros((0, len(self.classes_)), np.float32)

    def predict(self, embeddings: Tensor | ArrayLike) -> NDArray[Any]:
        """The class of the greatest score for each of the `embeddings` `[N, D]`: `[N]`, of the dtype of `classes_`.
        Raises as `decision_function`."""
        best = self.decision_function(embeddings).argmax(axis=1)
        return self.classes_[best]

    def softmax_temperature(self) -> float:
        """What `predict_proba` divides scores by where nothing is stated: 0.01, where CLIP models end."""
        return 0.01

    def predict_proba(self, embeddings: Tensor | ArrayLike, *, temperature: float | None = None) -> NDArray[np.float32]:
        """Softmax of the scores over `temperature` (None: `softmax_temperature`): `[N, C]` float32 of embeddings
        `[N, D]`. Raises as `decision_function`."""
        temperature = self.softmax_temperature() if temperature is None else temperature
        return torch.from_numpy(self.decision_function(embeddings) / temperature).softmax(dim=1).numpy()

    def score(self, embeddings: Tensor | ArrayLike, labels: ArrayLike) -> float:
        """Accuracy: the share of `embeddings` `[N, D]`, floating point, whose predicted class is the one of `labels`
        `[N]`. Raises as `decision_function`."""
        return float((self.predict(embeddings) == np.asarray(labels)).mean())

    def check_fitted(self) -> None:
        """Raise a `UserError` before `fit`."""
        if not hasattr(self, "classes_"):
            raise UserError(f"this {type(self).__name__} has no classes yet: call fit(...) first")


def blocks(n: int, size: int = ROWS) -> Iterator[slice]:
    """Slices of `size` that cover n rows."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def examples(
    embeddings: Tensor | ArrayLike, labels: ArrayLike, classes: ArrayLike | None = None
) -> tuple[Tensor, Tensor, NDArray[Any]]:
    """Unit `embeddings` `[N, D]` float32, their places in the classes `[N]` int64, and the sorted classes `[C]`: those
    of the labels, or of `classes`, which may name more.

    Raises:
        UserError: no examples, other numbers of them than of labels, or a label that is none of `classes`.
    """
    x = normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=-1)
    y = np.asarray(labels)
    if x.ndim != 2 or len(x) != len(y):
        raise UserError(f"embeddings {list(x.shape)} and labels {list(y.shape)} must be [N, D] and [N] of one N")
    if not len(x):
        raise UserError("there are no examples to learn from: give at least one a class")
    known = np.unique(y if classes is None else np.asarray(classes))
    if strange := sorted({str(label) for label in np.setdiff1d(y, known)}):
        raise UserError(f"label {strange[0]} is none of the classes")
    return x, torch.from_numpy(np.searchsorted(known, y)), known
