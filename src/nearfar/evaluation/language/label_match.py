"""Labels that are texts, matched with texts by a model's own head, without a single example: one label a text, or any
number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.classifiers.label_matching import LabelMatchClassifier
from nearfar.data.sources.record_text import captions
from nearfar.errors import UserError
from nearfar.evaluation.language.labelled_texts import labelled_texts
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result

LABEL = "label"


def label_match(
    encoder: Any,
    source: Any,
    *,
    labels: str = "label",
    threshold: float = 0.5,
    tail: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """How well a model's head matches texts with labels that it was given no example of (CLESS, arXiv 2010.01061).

    Args:
        encoder: has `match_labels`, as a `nearfar.models.LabelMatcher`.
        source: records with `text` (of several the first) and labels; those without any are left out.
        labels: the records' key of their labels: `label`, one class each, by its name; or one that holds a text, or
            several, of which any number is right.
        threshold: the probability from which a label is predicted, where a text may have several.
        tail: the share of the labels that are the rarest, of which `tail_f1` is the mean.
        seed: of the bootstrap.
        batch_size: texts at a time.

    Returns:
        `macro_f1`, F1 averaged over the labels that occur, whatever their number of texts; `tail_f1`, over the rarest
        of them; `mean_ap`, the average precision of each label's ranking of texts, averaged, with the mean share of
        right pairs as chance; `accuracy`, the share of texts whose labels are all right and no other. Intervals are
        over labels, of the accuracy over texts. F1 by label is `by["label"]`.

    Raises:
        UserError: no text has a label, fewer than two labels, a share of rare labels outside 0 to 1.
    """
    if not 0 < tail <= 1:
        raise UserError(f"tail={tail}: a share of the labels is above 0 and at most 1")
    texts, own, cluster = _read(source, labels)
    names = sorted({label for each in own for label in each})
    if len(names) < 2:
        raise UserError(f"{getattr(source, 'name', 'the data')}: labels are told apart, and there is one: {names[0]}")
    place = {name: column for column, name in enumerate(names)}
    truth = np.zeros((len(texts), len(names)), dtype=bool)
    for row, each in enumerate(own):
        truth[row, [place[label] for label in each]] = True
    several = labels != LABEL
    classifier = LabelMatchClassifier(encoder, threshold=threshold, batch_size=batch_size).fit(names)
    logits = classifier.decision_function(texts)
    if several:
        predicted = 1 / (1 + np.exp(-logits)) >= threshold
    else:
        predicted = logits.argmax(axis=1)[:, None] == np.arange(len(names))
    f1, precision = f1_of(truth, predicted), average_precision(truth, logits)
    rare = rarest(truth.sum(axis=0), tail)
    hit = (truth == predicted).all(axis=1).astype(float)
    low, high = mean_interval(hit, cluster=cluster, seed=seed)
    metrics = {
        "macro_f1": _over_labels(f1, seed),
        "tail_f1": _over_labels(f1[rare], seed),
        "mean_ap": _over_labels(precision, seed, chance=float(truth.mean())),
        "accuracy": Metric(
            float(hit.mean()), float(low[0]), float(high[0]), None if several else 1 / len(names), len(hit), unit="%"
        ),
    }
    by = {
        name: {"f1": Metric(float(f1[column]), n=int(truth[:, column].sum()), unit="%")}
        for name, column in place.items()
    }
    details = {"texts": len(texts), "labels": names, "several": several, "threshold": threshold if several else None}
    return Result("label_match", metrics, {"label": by}, details)


def f1_of(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F1 of each label, `[C]` float64, of `truth` and `predicted`, `[N, C]` bool; 0 for one never predicted rightly.

    >>> truth = np.array([[1, 0], [1, 0], [0, 1]], dtype=bool)
    >>> f1_of(truth, np.array([[1, 0], [0, 1], [0, 1]], dtype=bool)).round(3).tolist()
    [0.667, 0.667]
    """
    both = (truth & predicted).sum(axis=0)
    return 2 * both / np.maximum(truth.sum(axis=0) + predicted.sum(axis=0), 1)


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Average precision of each label's ranking of the texts, `[C]` float64, of `truth` `[N, C]` bool and `scores`
    `[N, C]`; texts of equal score count as one step, as scikit-learn has it.

    >>> average_precision(np.array([[1], [0], [1]], dtype=bool), np.array([[3.0], [2.0], [1.0]])).round(4).tolist()
    [0.8333]
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    sorted_scores, right = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    hits = right.cumsum(axis=0)
    last = np.ones_like(right)
    last[:-1] = sorted_scores[1:] != sorted_scores[:-1]
    values = np.zeros(truth.shape[1])
    for column in range(truth.shape[1]):
        ends = last[:, column].nonzero()[0]
        reached = hits[ends, column]
        values[column] = (np.diff(reached, prepend=0) * reached / (ends + 1)).sum() / max(1, hits[-1, column])
    return values


def rarest(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The places of the rarest labels, `[R]` int64: `share` of all `[C]`, one at least, the first of equal ones."""
    return np.argsort(counts, kind="stable")[: max(1, round(share * len(counts)))]


def _over_labels(values: NDArray[np.float64], seed: int, chance: float | None = None) -> Metric:
    low, high = mean_interval(values, seed=seed)
    return Metric(float(values.mean()), float(low[0]), float(high[0]), chance, len(values), unit="%")


def _read(source: Any, labels: str) -> tuple[list[str], list[list[str]], NDArray[np.int64] | None]:
    """Texts, the labels of each, and which texts belong together."""
    if labels == LABEL:
        data = labelled_texts(source, pairs=False)
        return data.first, [[each] for each in data.label], data.group.numpy()
    rows = [(captions(record.get("text")), captions(record.get(labels))) for record in source]
    kept = [(texts[0], own) for texts, own in rows if texts and own]
    if not kept:
        raise UserError(f"{getattr(source, 'name', 'the data')} holds no texts with {labels!r}: label_match needs both")
    return [text for text, _ in kept], [own for _, own in kept], None
