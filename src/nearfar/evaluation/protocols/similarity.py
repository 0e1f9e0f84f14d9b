"""Semantic textual similarity: do the cosines of two sentences rank pairs as people's scores do?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.embedding.embed_source import embed_texts
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import clusters, resample
from nearfar.evaluation.measures.result import Metric, Result

REMEDY = "similarity.second names the second sentence"
"""For pairs without one."""


def similarity(
    encoder: Any,
    source: Any,
    *,
    second: str = "text2",
    score: str = "score",
    limit: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Rank correlation of cosine and score over pairs of sentences, as STS benchmarks are reported (SentEval, arXiv
    1803.05449; "all": one correlation over all pairs).

    Args:
        encoder: anything with `encode_text` and `tokenize`; a model that reads nothing but text will do.
        source: records with `text` (of several the first), a second sentence and a score. A `domain` breaks the figures
            down by the names in `source.domains`; a `group` says which pairs are resampled together.
        second: the column of the second sentence.
        score: the column of the score: a number, greater for sentences that mean more nearly the same.
        limit: records that are used, from the first; None: all.
        resamples: samples of the bootstrap.
        seed: of the bootstrap.
        batch_size: sentences at a time.

    Returns:
        `spearman` and `pearson` of cosine and score, in percent, over all pairs and `by["domain"]`. Ties share their
        mean rank. Chance: 0. Pairs whose score or text is blank are left out, and counted in the details.

    Raises:
        UserError: a record without second sentence, a score that is no number, no scores at all, fewer than two pairs,
            or scores that are all the same.

    >>> from nearfar.data.sources.source import Records
    >>> class Lengths:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[len(text), 5.0] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> pairs = [("a cat", "a car", 5), ("a cat", "the dogs", 3), ("a cat", "a herd of elephants", 1)]
    >>> data = Records([{"text": a, "text2": b, "score": s} for a, b, s in pairs])
    >>> round(similarity(Lengths(), data)["spearman"], 4)
    1.0
    """
    pairs = scored_pairs(source, second, score, limit)
    embedded = embed_texts(encoder, [*pairs.first, *pairs.second], batch_size=batch_size)
    cosine = cosines(embedded[: len(pairs)], embedded[len(pairs) :])

    def figures(rows: NDArray[np.bool_]) -> dict[str, Metric]:
        return correlations(cosine[rows], pairs.score[rows], pairs.group[rows], resamples=resamples, seed=seed)

    parts = pairs.by_domain()
    by = {"domain": {name: figures(rows) for name, rows in parts.items()}} if len(parts) > 1 else {}
    return Result("similarity", figures(np.ones(len(pairs), bool)), by, {"pairs": len(pairs), **pairs.left_out()})


@dataclass(frozen=True)
class ScoredPairs:
    """Sentence pairs of N records: both texts, the scores `[N]` float64, groups and domains `[N]` int64."""

    first: list[str]
    second: list[str]
    score: NDArray[np.float64]
    group: NDArray[np.int64]
    domain: NDArray[np.int64]
    domains: list[str]
    blank: int = 0
    """Pairs beside these that have no score."""
    halves: int = 0
    """Pairs beside these in which a text is blank."""

    def left_out(self) -> dict[str, dict[str, int]]:
        """What is said of the others, in the details of a result."""
        return left_out(self.blank, self.halves)

    def __len__(self) -> int:
        return len(self.score)

    def by_domain(self) -> dict[str, NDArray[np.bool_]]:
        """The rows `[N]` of each domain in which scores differ."""
        parts = {name: self.domain == i for i, name in enumerate(self.domains)}
        return {name: rows for name, rows in parts.items() if len(np.unique(self.score[rows])) > 1}


def left_out(blank: int, halves: int) -> dict[str, dict[str, int]]:
    """What the details of a result say of pairs that are not in it.

    >>> left_out(2, 0), left_out(0, 0)
    ({'left_out': {'without a score': 2}}, {})
    """
    counts = {"without a score": blank, "without two texts": halves}
    return {"left_out": {why: count for why, count in counts.items() if count}} if blank or halves else {}


def cosines(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Cosines `[N]` of the rows of `a` and `b` `[N, D]`, unit and floating point. Those nearer than float32 can tell
    apart are tied, as in retrieval."""
    return np.round(torch.linalg.vecdot(a.double(), b.double()).numpy(), 6)


def correlations(
    cosine: NDArray[np.float64],
    scores: NDArray[np.float64],
    group: NDArray[np.int64],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Metric]:
    """`spearman` and `pearson` of `cosine` and `scores` `[N]` float64, with bootstrap intervals over `group` `[N]`
    int64."""
    member, count = clusters(group, len(cosine))
    drawn = [weights[:, member] for weights in resample(count, resamples, seed, width=len(cosine))]
    made = {}
    for name, values in (("spearman", _spearman), ("pearson", _pearson)):
        whole = float(values(cosine, scores, np.ones((1, len(cosine))))[0])
        samples = np.concatenate([values(cosine, scores, weights) for weights in drawn])
        low, high = np.nanpercentile(samples, [2.5, 97.5]) if np.isfinite(samples).any() else (np.nan, np.nan)
        made[name] = Metric(whole, float(low), float(high), 0.0, len(cosine), unit="%")
    return made


def weighted_ranks(x: ArrayLike, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[b, n]`: the rank of each of `x [n]` in samples that hold it `weights [b, n]` times; ties share their mean rank.

    >>> weighted_ranks([10.0, 30.0, 30.0], np.ones((1, 3)))
    array([[1. , 2.5, 2.5]])
    """
    _, place = np.unique(np.asarray(x), return_inverse=True)
    place = place.reshape(-1)
    # Sums over equal values, by sorting: [b, different values].
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(held, axis=1) - held + (held + 1) / 2
    return ranks[:, place]


def _spearman(x: NDArray[Any], y: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return _correlation(weighted_ranks(x, weights), weighted_ranks(y, weights), weights)


def _pearson(x: NDArray[Any], y: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return _correlation(np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape), weights)


def _correlation(x: NDArray[Any], y: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted correlation of each row; NaN where a side does not vary, so that a collapsed model scores nothing."""
    total = weights.sum(axis=1, keepdims=True)
    dx, dy = (v - (weights * v).sum(axis=1, keepdims=True) / total for v in (x, y))
    above = (weights * dx * dy).sum(axis=1)
    below = np.sqrt((weights * dx * dx).sum(axis=1) * (weights * dy * dy).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def scored_pairs(source: Any, second: str = "text2", score: str = "score", limit: int | None = None) -> ScoredPairs:
    """The sentence pairs of a source; `similarity` documents the arguments and errors."""
    first, other, scores, group, domain, blank, halves = [], [], [], [], [], 0, 0
    name = getattr(source, "name", "the data")
    group_of = Groups(source)
    for place, record in enumerate(source):
        if place == limit:
            break
        texts, others = captions(record.get("text")), captions(record.get(second))
        if not (texts and others):
            for key in ("text", second):
                if record.get(key) is None:
                    raise UserError(f"{name}, record {place} has no {key!r}: {REMEDY}")
            halves += 1
            continue
        if is_blank(record.get(score)):
            blank += 1
            continue
        first.append(texts[0])
        other.append(others[0])
        scores.append(_number(record.get(score), f"{name}, record {place}", score))
        group.append(int(group_of(record, place, place)))
        domain.append(-1 if record.get("domain") is None else int(record["domain"]))
    if not scores and blank:
        raise UserError(f"{name} has no {score!r}: {_remedy(source, score)}")
    if not scores and halves:
        raise UserError(f"{name} holds no pair of two texts, of which neither is blank: {REMEDY}")
    if len(set(scores)) < 2:
        raise UserError(f"{name} holds {len(scores)} pairs of one score: similarity needs pairs that differ in it")
    names = list(getattr(source, "domains", None) or [])
    return ScoredPairs(first, other, np.array(scores), np.array(group), np.array(domain), names, blank, halves)


def is_blank(value: Any) -> bool:
    """Whether a cell holds no score. NaN is none: it comes of a calculation that failed.

    >>> is_blank(" "), is_blank(None), is_blank(0), is_blank("n/a"), is_blank(float("nan"))
    (True, True, False, False, False)
    """
    return value is None or (isinstance(value, str) and not value.strip())


def _remedy(source: Any, score: str) -> str:
    """What to do where no pair has a score."""
    if score == "score" and "label" in getattr(source, "columns", ()):
        return (
            "the whole numbers of its column 'label' are taken for classes; if they are scores, call the column "
            "'score', or name it with similarity.score=label"
        )
    return "name the column of scores with similarity.score=NAME, or call it 'score'"


def _number(value: Any, where: str, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise UserError(
            f"{where}: {column} is {value!r}, not a number: write a number there, or leave the cell blank, and the "
            "pair is left out"
        )
    return number
