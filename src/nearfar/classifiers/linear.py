"""A linear map of embeddings to classes, fitted by logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nearfar.classifiers.classifier import Classifier, examples
from nearfar.errors import UserError, need

CS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse strengths of the penalty that are tried."""


class LinearProbe(Classifier):
    """Multinomial logistic regression on unit embeddings (scikit-learn's, L-BFGS). The strength of the penalty is
    chosen on a part of the examples; then all are fitted.

    Args:
        cs: inverse strengths to choose from.
        validation: share of each class's examples held out to choose (classes with one example, or one group, keep it).
        inner_folds: choose by cross-validation in so many folds of the examples, in place of one part held out.
        max_iter: iterations of L-BFGS.
        seed: of the parts held out.

    Attributes:
        classes_: the labels; C_: the strength that was chosen.

    >>> two = LinearProbe(cs=[1.0]).fit([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.2, 1.0]], [0, 0, 1, 1])
    >>> two.predict([[0.9, 0.2], [0.1, 2.0]]).tolist()
    [0, 1]
    """

    def __init__(
        self,
        cs: Sequence[float] = CS,
        *,
        validation: float = 0.2,
        inner_folds: int | None = None,
        max_iter: int = 1000,
        seed: int = 0,
    ) -> None:
        self.cs, self.validation, self.inner_folds, self.max_iter, self.seed = (
            cs,
            validation,
            inner_folds,
            max_iter,
            seed,
        )

    def fit(
        self,
        embeddings: Tensor | ArrayLike,
        labels: ArrayLike,
        *,
        classes: ArrayLike | None = None,
        group: Tensor | None = None,
    ) -> Self:
        """Fit the examples, `embeddings` `[N, D]`, floating point, with their labels `[N]`, of any dtype. `classes` may
        name some that have no example: those are never predicted. Examples of one `group` `[N]` are held out together.

        Raises:
            UserError: scikit-learn is missing, or fewer than two classes have examples.
        """
        x, places, known = examples(embeddings, labels, classes)
        y = places.numpy()
        if len(np.unique(y)) < 2:
            raise UserError("a linear probe needs examples of two classes at least")
        self.C_ = self._chosen(x.numpy(), y, group)
        self.model_ = fit_logistic(x.numpy(), y, self.C_, self.max_iter)
        self.classes_, self.n_features_in_ = known, x.shape[1]
        return self

    def scores(self, embeddings: Tensor) -> Tensor:
        """Logits of `embeddings` `[N, D]`: `[N, C]` float32; of two classes the logit of the second, and its negative
        for the first."""
        logits = two_sided(self.model_.decision_function(embeddings.numpy()))
        # A class without examples stands behind all others.
        scores = torch.full((len(logits), len(self.classes_)), -torch.inf)
        scores[:, torch.from_numpy(self.model_.classes_)] = logits
        return scores

    def _chosen(self, x: NDArray[np.float32], y: NDArray[np.int64], group: Tensor | None) -> float:
        if len(self.cs) == 1:
            return self.cs[0]
        right, count = np.zeros(len(self.cs)), 0
        for fit, held in self._parts(torch.from_numpy(y), group):
            if len(held) and len(np.unique(y[fit])) > 1:
                models = (fit_logistic(x[fit], y[fit], c, self.max_iter) for c in self.cs)
                right += [(model.predict(x[held]) == y[held]).sum() for model in models]
                count += len(held)
        return self.cs[int(np.argmax(right))] if count else 1.0  # the strongest penalty among equals

    def _parts(self, label: Tensor, group: Tensor | None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to fit and rows to choose by."""
        if self.inner_folds is None:
            fit, held = split(label, self.validation, self.seed, group=group)
            yield fit.numpy(), held.numpy()
            return
        fold = folds(label, self.inner_folds, self.seed, group=group).numpy()
        for each in range(self.inner_folds):
            yield np.flatnonzero(fold != each), np.flatnonzero(fold == each)


def split(label: Tensor, share: float, seed: int, *, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Two sets of rows, drawn within each class: `share` of each class's groups (rounded, at least one of two or more)
    goes into the second, a class with one group into the first. Unlabelled rows are in neither.

    Args:
        label: `[N]` int64, -1 where unknown.
        share: of the second set.
        seed: of the draw.
        group: `[N]`: rows of one group stay together, so that no thing is on both sides; a group of several classes
            goes with its first row's. Default: each row is its own.

    >>> first, second = split(torch.tensor([0, 0, 1, 1, 2, -1]), 0.5, seed=0)
    >>> len(first), len(second)
    (3, 2)
    >>> first, second = split(torch.zeros(6), 0.5, seed=0, group=torch.tensor([7, 7, 7, 9, 9, 9]))
    >>> sorted([first.tolist(), second.tolist()])
    [[0, 1, 2], [3, 4, 5]]
    """
    known, owner, heads = _heads(label, group, seed)
    held_out = [rows[: min(max(1, round(share * len(rows))), len(rows) - 1)] for rows in heads]
    in_second = torch.isin(owner, torch.cat([known[:0], *held_out]))
    return known[~in_second], known[in_second]


def folds(label: Tensor, count: int, seed: int, *, group: Tensor | None = None) -> Tensor:
    """The fold of each row, `[N]` int64 from 0 to `count` - 1, dealt out within each class so that all folds have their
    share of it. Rows of a class with one group are in no fold, -1: no other could learn it. So are unlabelled rows.

    Args:
        label: `[N]` int64, -1 where unknown.
        count: how many folds.
        seed: of the draw.
        group: `[N]`: rows of one group are in one fold, by its first row's class. Default: each row is its own.

    >>> folds(torch.tensor([0, 0, 0, 1, 1, 2, -1]), 2, seed=0).sort().values.tolist()
    [-1, -1, 0, 0, 0, 1, 1]
    """
    known, owner, heads = _heads(label, group, seed)
    dealt = torch.cat([known[:0], *(rows for rows in heads if len(rows) > 1)])
    of_head = torch.full((len(label),), -1)
    of_head[dealt] = torch.arange(len(dealt)) % count
    fold = torch.full((len(label),), -1)
    fold[known] = of_head[owner]
    return fold


def _heads(label: Tensor, group: Tensor | None, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Labelled rows, the first row of the group of each, and of each class the first rows of its groups, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    known = (label >= 0).nonzero().flatten()
    thing = known if group is None else group[known]
    first_row: dict[int, int] = {}
    rows = [first_row.setdefault(g, r) for g, r in zip(thing.tolist(), known.tolist(), strict=True)]
    owner = torch.tensor(rows, dtype=torch.long)
    heads = owner.unique()
    of_class = [heads[label[heads] == one] for one in label[heads].unique()]
    return known, owner, [rows[torch.randperm(len(rows), generator=generator)] for rows in of_class]


def fit_logistic(x: NDArray[np.float32], y: NDArray[np.int64], c: float, max_iter: int) -> Any:
    """scikit-learn's multinomial logistic regression of `x` `[N, D]` on the labels `y` `[N]`, L2 by 1 / `c`."""
    linear = need("sklearn.linear_model", "probes")
    with warnings.catch_warnings():
        # A weak penalty on separable data has its optimum far away; where L-BFGS stops short of it is as good a probe.
        warnings.simplefilter("ignore", category=need("sklearn.exceptions", "probes").ConvergenceWarning)
        return linear.LogisticRegression(C=c, max_iter=max_iter).fit(x, y)


def two_sided(logits: ArrayLike) -> Tensor:
    """Logits `[N, C]` float32 of scikit-learn's: those of two classes are `[N]`, of the second alone."""
    each = torch.from_numpy(np.asarray(logits, dtype=np.float32))
    return torch.stack([-each, each], dim=1) if each.ndim == 1 else each
