"""Probes: how much about the classes is in frozen image embeddings, by their neighbours and by a linear map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.classifiers.classifier import Classifier, blocks
from nearfar.classifiers.k_nearest import KNearest
from nearfar.classifiers.linear import CS, LinearProbe, split
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank_scores
from nearfar.evaluation.protocols.zero_shot_accuracy import accuracies, labelled
from nearfar.nearest import nearest


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
        train: labelled images that vote. Default: half of `data`, drawn within each class by `seed`, pictures of one
            group on the same side (`things`); the other half is classified then.
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
    classifier = KNearest(k, temperature=temperature).fit(train.image, labelled(train), classes=ids)
    details = {"k": min(k, len(train)), "temperature": temperature, "train": len(train), "classes": len(ids)}
    details |= _alike(train, test)
    return _result("knn", _ranks(classifier, test, ids), test, ks, seed, details)


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
        validation: share of each class's training images held out to choose (classes with one image, or images
            of one group, keep them).
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
    probe = LinearProbe(cs, validation=validation, max_iter=max_iter, seed=seed)
    probe.fit(train.image, labelled(train), classes=ids, group=things(train))
    details = {"C": probe.C_, "train": len(train), "classes": len(ids), "validation": validation}
    details |= _alike(train, test)
    return _result("linear_probe", _ranks(probe, test, ids), test, ks, seed, details)


def _sides(data: Embeddings, train: Embeddings | None, seed: int) -> tuple[Embeddings, Embeddings, Tensor]:
    """Training images, test images, and the labels that either has."""
    if train is None:
        first, second = split(labelled(data), 0.5, seed, group=things(data))
        if not len(second):
            raise UserError(f"no class of {data.source} has two images, so none can be held out: pass train=...")
        train, test = data.select(first), data.select(second)
    else:
        train = train.select((labelled(train) >= 0).nonzero().flatten())
        test = data.select((labelled(data) >= 0).nonzero().flatten())
    return train, test, torch.cat([labelled(train), labelled(test)]).unique()


def things(data: Embeddings) -> Tensor | None:
    """`[N]`: what stays on one side of a split. The groups; but where each class is one group (an emoji in five styles)
    the class is the thing itself, and only rows of one and the same picture stay together."""
    label, group = labelled(data), data.image_group
    pairs = torch.stack([label, group])[:, label >= 0].unique(dim=1)
    return group if len(pairs[0].unique()) < pairs.shape[1] else data.picture


ALIKE, SOME = 0.95, 0.05
"""Cosine of two embeddings of one class, less the mean of the training images, from which on they may show one thing;
the share of test images with such a training image from which on a note says so."""


def _alike(train: Embeddings, test: Embeddings) -> dict[str, Any]:
    """How many test images have a training image that is nearly the same, and a note where they are many: a probe then
    recognises things, and says little of their classes. Nearly the same as one of another class is no sign of that, but
    of an encoder that tells little apart."""
    middle = train.image.mean(0, keepdim=True)
    fit, judged = (normalize(side.image - middle, dim=-1) for side in (train, test))
    cosine, row = (each.flatten() for each in nearest(judged, fit, 1))
    same = labelled(train)[row] == labelled(test)
    count = int(((cosine >= ALIKE) & same).sum())
    if count <= SOME * len(judged):
        return {"nearly_in_train": count}
    note = (
        f"{count:,} of the {len(judged):,} test images are nearly the same as a training image, so this may say that "
        "things are recognised, not classes: name a column that says which pictures show one thing, group=COLUMN"
    )
    return {"nearly_in_train": count, "note": note}


def _ranks(classifier: Classifier, test: Embeddings, ids: Tensor) -> Ranks:
    """The ranks of the true classes, a block of images at a time."""
    place, names = _number(test, ids), torch.arange(len(ids))
    return _join(
        [
            rank_scores(torch.from_numpy(classifier.decision_function(test.image[rows])), place[rows], names)
            for rows in blocks(len(test))
        ]
    )


def _number(data: Embeddings, ids: Tensor) -> Tensor:
    """Labels as places in `ids`, which is sorted."""
    return torch.searchsorted(ids, labelled(data))


def _join(parts: Sequence[Ranks]) -> Ranks:
    names = ("better", "tied_wrong", "tied_right", "right", "candidates")
    return Ranks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _result(name: str, ranks: Ranks, test: Embeddings, ks: Sequence[int], seed: int, details: dict[str, Any]) -> Result:
    label, group = labelled(test), test.image_group
    by = {
        part: accuracies(ranks[rows.numpy()], label[rows], group[rows], ks=ks, seed=seed)
        for part, rows in test.parts().items()
    }
    return Result(name, accuracies(ranks, label, group, ks=ks, seed=seed), {"domain": by} if by else {}, details)
