"""Probes: how much about the classes is in frozen image embeddings, by their neighbours and by a linear map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError, need
from nearfar.evaluation.measures.ranks import Ranks, nearest, rank_scores
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.protocols.zero_shot import accuracies, labelled

CS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse strengths of the penalty that the linear probe tries."""


def knn(
    data: Embeddings,
    train: Embeddings | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
) -> Result:
    """Weighted nearest neighbours, as in InstDisc and DINO: the `k` training images of highest cosine vote for their
    class with weight exp(cosine / temperature).

    Args:
        data: labelled images to classify.
        train: labelled images that vote. Default: half of `data`, drawn within each class by `seed`; the other half is
            classified then.
        k: neighbours; 1 gives the plain nearest-neighbour rule.
        temperature: smaller trusts the nearest more.
        ks: the k of the accuracies.
        seed: of the split and of the bootstrap.

    Returns:
        `top1`, `top5`, `mean_per_class`, and them `by["domain"]`.

    >>> eye = torch.eye(4).repeat(10, 1)
    >>> knn(Embeddings(eye, eye[:0], torch.arange(0), label=torch.arange(4).repeat(10)), k=3)["top1"]
    1.0
    """
    train, test, ids = _sides(data, train, seed)
    parts = []
    for rows in _blocks(len(test)):
        cosine, neighbour = nearest(normalize(test.image[rows], dim=1), normalize(train.image, dim=1), k)
        # Taking off the row's maximum changes no order and keeps exp in range at any temperature.
        weight = ((cosine - cosine[:, :1]) / temperature).exp()
        votes = torch.zeros(len(cosine), len(ids)).scatter_add_(1, _number(train, ids)[neighbour], weight)
        parts.append(rank_scores(votes, _number(test, ids)[rows], torch.arange(len(ids))))
    details = {"k": min(k, len(train)), "temperature": temperature, "train": len(train), "classes": len(ids)}
    return _result("knn", _join(parts), test, ks, seed, details)


def linear_probe(
    data: Embeddings,
    train: Embeddings | None = None,
    *,
    cs: Sequence[float] = CS,
    validation: float = 0.2,
    max_iter: int = 1000,
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
) -> Result:
    """Multinomial logistic regression on frozen unit embeddings (scikit-learn's, L-BFGS).

    The strength of the penalty is chosen on a part of the training images, never on the test images; then all training
    images are fitted.

    Args:
        data: labelled images to classify.
        train: labelled images to fit. Default: half of `data`, as for `knn`.
        cs: inverse strengths to choose from.
        validation: share of each class's training images held out to choose (classes with one image keep it).
        max_iter: iterations of L-BFGS.
        ks, seed: as for `knn`.

    Returns:
        `top1`, `top5`, `mean_per_class`, and them `by["domain"]`; the chosen C is in `details`.

    Raises:
        UserError: scikit-learn is missing, or fewer than two classes have training images.
    """
    train, test, ids = _sides(data, train, seed)
    known = train.label.unique() if train.label is not None else ids
    if len(known) < 2:
        raise UserError(
            f"a linear probe needs training images of two classes at least; {train.source} has {len(known)}"
        )
    x, y = normalize(train.image, dim=1).numpy(), _number(train, ids).numpy()
    c = _choose_c(x, y, cs, validation=validation, max_iter=max_iter, seed=seed)
    model = _fit(x, y, c, max_iter)
    parts = []
    for rows in _blocks(len(test)):
        # A class that has no training image is never predicted: it stands behind all others.
        scores = torch.full((len(test.image[rows]), len(ids)), -torch.inf)
        scores[:, torch.from_numpy(model.classes_)] = _scores(model, normalize(test.image[rows], dim=1).numpy())
        parts.append(rank_scores(scores, _number(test, ids)[rows], torch.arange(len(ids))))
    details = {"C": c, "train": len(train), "classes": len(ids), "validation": validation}
    return _result("linear_probe", _join(parts), test, ks, seed, details)


def split(label: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two sets of rows, drawn within each class: `share` of each class (rounded, at least one of two or more) goes into
    the second, a class with one image into the first. Unlabelled rows are in neither.

    >>> first, second = split(torch.tensor([0, 0, 1, 1, 2, -1]), 0.5, seed=0)
    >>> len(first), len(second)
    (3, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = [], []
    for one in label[label >= 0].unique():
        rows = (label == one).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held = min(max(1, round(share * len(rows))), len(rows) - 1)
        first.append(rows[held:])
        second.append(rows[:held])
    empty = torch.empty(0, dtype=torch.long)
    return torch.cat([empty, *first]).sort().values, torch.cat([empty, *second]).sort().values


def _sides(data: Embeddings, train: Embeddings | None, seed: int) -> tuple[Embeddings, Embeddings, Tensor]:
    """Training images, test images, and the labels that either has."""
    if train is None:
        first, second = split(labelled(data), 0.5, seed)
        if not len(second):
            raise UserError(f"no class of {data.source} has two images, so none can be held out: pass train=...")
        train, test = data.select(first), data.select(second)
    else:
        train = train.select((labelled(train) >= 0).nonzero().flatten())
        test = data.select((labelled(data) >= 0).nonzero().flatten())
    return train, test, torch.cat([labelled(train), labelled(test)]).unique()


def _choose_c(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    cs: Sequence[float],
    *,
    validation: float,
    max_iter: int,
    seed: int,
) -> float:
    if len(cs) == 1:
        return cs[0]
    fit, held = (rows.numpy() for rows in split(torch.from_numpy(y), validation, seed))
    if not len(held) or len(np.unique(y[fit])) < 2:
        return 1.0
    right = [(_fit(x[fit], y[fit], c, max_iter).predict(x[held]) == y[held]).mean() for c in cs]
    return cs[int(np.argmax(right))]  # the strongest penalty among equals


def _fit(x: NDArray[np.float32], y: NDArray[np.int64], c: float, max_iter: int) -> Any:
    linear = need("sklearn.linear_model", "probes")
    import warnings

    with warnings.catch_warnings():
        # A weak penalty on separable data has its optimum far away; where L-BFGS stops short of it is as good a probe.
        warnings.simplefilter("ignore", category=need("sklearn.exceptions", "probes").ConvergenceWarning)
        return linear.LogisticRegression(C=c, max_iter=max_iter).fit(x, y)


def _scores(model: Any, x: NDArray[np.float32]) -> Tensor:
    scores = torch.from_numpy(np.asarray(model.decision_function(x), dtype=np.float32))
    return torch.stack([-scores, scores], dim=1) if scores.ndim == 1 else scores


def _number(data: Embeddings, ids: Tensor) -> Tensor:
    """Labels as places in `ids`, which is sorted."""
    return torch.searchsorted(ids, labelled(data))


def _blocks(n: int, size: int = 1024) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _join(parts: Sequence[Ranks]) -> Ranks:
    names = ("better", "tied_wrong", "tied_right", "right", "candidates")
    return Ranks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _result(name: str, found: Ranks, test: Embeddings, ks: Sequence[int], seed: int, details: dict[str, Any]) -> Result:
    label, group = labelled(test), test.image_group
    by = {
        part: accuracies(found[rows.numpy()], label[rows], group[rows], ks=ks, seed=seed)
        for part, rows in test.parts().items()
    }
    return Result(name, accuracies(found, label, group, ks=ks, seed=seed), {"domain": by} if by else {}, details)
