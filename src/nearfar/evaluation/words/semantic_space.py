"""What a space of word vectors knows (VG-Bert, arXiv 2111.07180): its principal axes against people's ratings, norms
told from the vectors, how well categories are apart, and similarities of words against those that people gave."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.errors import UserError, need

ClusteredBy = Literal["kmeans", "hierarchy"]
LEAST = 8
"""Words below which a correlation says nothing."""


class AxisCorrelation(NamedTuple):
    """How principal axes go with a rating. All without sign, since that of an axis is arbitrary.

    `first`: |r| of the first component, over all words. `best`: of the component that goes best with the rating on
    one half of the words (its number, from 1, is `component`), |r| on the other half. `probe`: r of a ridge regression
    from all numbers of the vectors, cross-validated: what is linearly there, in whatever direction. `words`: how many
    are rated.
    """

    first: float
    best: float
    component: int
    probe: float
    words: int


class CategorySeparation(NamedTuple):
    """How far categories are apart. `silhouette`: by cosine distance, from -1 to 1. `neighbours`: the share of a word's
    nearest words that are of its category, the mean over words. `by_chance`: the same of words drawn at random.
    `clusters`: V-measure of as many k-means clusters as there are categories. `words`: how many have a category that
    another word has, too."""

    silhouette: float
    neighbours: float
    by_chance: float
    clusters: float
    words: int


class SemanticSpace:
    """Words and their vectors.

    Args:
        words: each once.
        vectors: `[N, D]`, floating point, finite.

    Raises:
        UserError: fewer than two words, words twice, or vectors of another number.

    >>> words = ["red", "green", "idea", "truth", "blue", "hope", "pink", "doubt"]
    >>> sight = [4.0, 4.1, 0.5, 0.4, 3.9, 0.6, 4.2, 0.5]
    >>> vectors = torch.tensor(sight)[:, None] * torch.tensor([[3.0, 0, 0]]) + torch.eye(8)[:, :3]
    >>> space = SemanticSpace(words, vectors)
    >>> round(space.axis_correlation(dict(zip(words, sight))).first, 2)
    1.0
    """

    def __init__(self, words: Sequence[str], vectors: Tensor) -> None:
        if vectors.ndim != 2 or len(vectors) != len(words) or len(words) < 2:
            raise UserError(f"{len(words)} words need vectors [{len(words)}, D], of two words at least")
        if len(set(words)) < len(words):
            twice = next(word for word in words if list(words).count(word) > 1)
            raise UserError(f"the word {twice!r} is there twice: a space has each word once")
        if not bool(vectors.isfinite().all()):
            raise UserError("the vectors of words are not all finite")
        self.words = list(words)
        self.vectors = vectors.detach().cpu().double().numpy()
        self._row = {word: row for row, word in enumerate(self.words)}

    @classmethod
    def of(cls, model: Any, words: Sequence[str], *, space: str = "language", batch_size: int = 256) -> Self:
        """The space of a model's words, each as a text of its own; a word that comes twice is taken once.

        Args:
            model: anything that encodes texts.
            space: "language", what its text tower says before any projection, where it has `text_summary` (the
                paper's), else its embedding of texts; "shared", that embedding, of unit length, wherever.
            words: at least two.
            batch_size: words at a time.

        Raises:
            UserError: no such space, or a model that reads no texts.
        """
        from nearfar.embedding.embed_source import embed_texts
        from nearfar.modes import evaluating, to_device

        if space not in ("language", "shared"):
            raise UserError(f"space={space!r}: choose language or shared")
        words = list(dict.fromkeys(words))
        if space == "shared" or not hasattr(model, "text_summary"):
            return cls(words, embed_texts(model, words, batch_size=batch_size))
        parts = [words[start : start + batch_size] for start in range(0, len(words), batch_size)]
        with evaluating(model), torch.no_grad():
            made = [model.text_summary(to_device(model.tokenize(part), model.device)).float().cpu() for part in parts]
        return cls(words, torch.cat(made))

    @cached_property
    def components(self) -> NDArray[np.float64]:
        """Scores `[N, K]` of the words on the principal axes, from the one of largest variance on; K is the rank."""
        centred = self.vectors - self.vectors.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        return (u * s)[:, : max(1, int((s > s[0] * 1e-10).sum()))]

    def axis_correlation(self, ratings: Mapping[str, float], *, components: int = 20, seed: int = 0) -> AxisCorrelation:
        """How principal axes go with a rating of words, such as concreteness.

        Args:
            ratings: of some of the words; others are left out. The axes are those of all words.
            components: among how many of the first ones the best is chosen.
            seed: of the halves and folds.

        Raises:
            UserError: too few rated words, or ratings that are all the same.
        """
        rows, values = self._rated(ratings)
        scores = self.components[rows][:, :components]
        order = np.random.default_rng(seed).permutation(len(rows))
        half, other = order[::2], order[1::2]
        chosen = int(np.argmax([abs(pearson(scores[half, c], values[half])) for c in range(scores.shape[1])]))
        predicted = ridge_predictions(self.vectors[rows], values, seed=seed)
        return AxisCorrelation(
            abs(pearson(scores[:, 0], values)),
            abs(pearson(scores[other, chosen], values[other])),
            chosen + 1,
            pearson(predicted, values),
            len(rows),
        )

    def predict_norms(
        self, norms: Mapping[str, Mapping[str, float]], *, folds: int = 5, seed: int = 0
    ) -> dict[str, float]:
        """Of each norm, by name, r between its values and those that a ridge regression tells of words that it was not
        fitted on.

        Args:
            norms: values of words by the norm's name: {"visual": {"apple": 4.06, ...}, ...}.
            folds: of the cross-validation.
            seed: of the folds.

        Raises:
            UserError: too few words of a norm, or values that are all the same.
        """
        figures = {}
        for name, ratings in norms.items():
            rows, values = self._rated(ratings, what=name)
            figures[name] = pearson(ridge_predictions(self.vectors[rows], values, folds=folds, seed=seed), values)
        return figures

    def category_separation(
        self, categories: Mapping[str, Hashable], *, neighbours: int = 5, seed: int = 0
    ) -> CategorySeparation:
        """How far categories of words are apart, by the angles between centred vectors.

        Args:
            categories: of some of the words; those that no other word shares are left out.
            neighbours: how many of a word's nearest are looked at, fewer where its category is smaller.
            seed: of k-means.

        Raises:
            UserError: fewer than two categories of two words.
        """
        names = [categories.get(word) for word in self.words]
        count = {name: names.count(name) for name in set(names) if name is not None}
        rows = [row for row, name in enumerate(names) if count.get(name, 0) > 1]
        kept = sorted({str(names[row]) for row in rows})
        if len(kept) < 2:
            raise UserError("categories are compared: at least two of them must have two words each")
        label = np.array([kept.index(str(names[row])) for row in rows])
        unit = self._unit()[rows]
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        size = np.bincount(label)[label] - 1
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
        same = label[nearest] == label[:, None]
        within = np.minimum(size, nearest.shape[1])
        share = [row[:k].mean() for row, k in zip(same, within, strict=True)]
        metrics = need("sklearn.metrics", "probes")
        predicted = clustered(unit, len(kept), seed=seed)
        return CategorySeparation(
            float(metrics.silhouette_score(unit, label, metric="cosine")),
            float(np.mean(share)),
            float((size / (len(rows) - 1)).mean()),
            float(metrics.v_measure_score(label, predicted)),
            len(rows),
        )

    def similarity_correlation(self, pairs: Sequence[tuple[str, str, float]]) -> tuple[float, int]:
        """Spearman's correlation of the words' cosines with what people gave, and of how many pairs: those whose words
        are both here.

        Raises:
            UserError: too few pairs, or scores that are all the same.
        """
        kept = [(self._row[a], self._row[b], score) for a, b, score in pairs if a in self._row and b in self._row]
        if len(kept) < LEAST or len({score for *_, score in kept}) < 2:
            raise UserError(f"{len(kept)} pairs of these words have a similarity: {LEAST} are needed, not all the same")
        unit = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)
        cosines = [float(unit[a] @ unit[b]) for a, b, _ in kept]
        rank = need("scipy.stats", "probes").rankdata
        return pearson(rank(cosines), rank([score for *_, score in kept])), len(kept)

    def clusters(self, count: int, *, by: ClusteredBy = "kmeans", restarts: int = 10, seed: int = 0) -> NDArray[Any]:
        """The number of each word's cluster `[N]`, of `count`, by the angles between centred vectors; see
        `clustered`."""
        return clustered(self._unit(), count, by=by, restarts=restarts, seed=seed)

    def _unit(self) -> NDArray[np.float64]:
        centred = self.vectors - self.vectors.mean(0)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    def _rated(self, ratings: Mapping[str, float], what: str = "a rating") -> tuple[NDArray[Any], NDArray[Any]]:
        rows = [row for row, word in enumerate(self.words) if word in ratings and np.isfinite(ratings[word])]
        values = np.array([float(ratings[self.words[row]]) for row in rows])
        if len(rows) < LEAST or np.ptp(values) == 0:
            raise UserError(f"{what}: {len(rows)} of these words have one; {LEAST} are needed, not all the same")
        return np.array(rows), values


def pearson(a: Any, b: Any) -> float:
    """The correlation of two rows of numbers `[N]`; 0 where one does not vary.

    >>> round(pearson([1, 2, 3], [2, 4, 7]), 3)
    0.993
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else 0.0


def clustered(
    unit: NDArray[np.float64], count: int, *, by: ClusteredBy = "kmeans", restarts: int = 4, seed: int = 0
) -> NDArray[Any]:
    """The number of each row's cluster `[N]` of unit rows `[N, D]`.

    Args:
        unit: the rows.
        count: how many clusters.
        by: "kmeans", the tightest of `restarts` runs; "hierarchy", the two clusters whose rows are nearest on average
            by cosine become one until `count` are left, which holds the distances of all rows to all.
        restarts, seed: of k-means.

    >>> clustered(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 2, by="hierarchy").tolist()
    [0, 1, 0]
    """
    cluster = need("sklearn.cluster", "probes")
    if by == "hierarchy":
        made = cluster.AgglomerativeClustering(count, metric="cosine", linkage="average")
    else:
        made = cluster.KMeans(count, n_init=restarts, random_state=seed)
    return made.fit_predict(unit)


def ridge_predictions(
    vectors: NDArray[np.float64], values: NDArray[np.float64], *, folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Values `[N]` or `[N, T]` as ridge regressions tell them of `vectors` `[N, D]`, each by one that was fitted
    without it. Vectors are standardised, and the penalty is chosen within what is fitted."""
    linear, pipeline = need("sklearn.linear_model", "probes"), need("sklearn.pipeline", "probes")
    selection, scaling = need("sklearn.model_selection", "probes"), need("sklearn.preprocessing", "probes")
    made = pipeline.make_pipeline(scaling.StandardScaler(), linear.RidgeCV(np.logspace(-1, 5, 13)))
    parts = selection.KFold(min(folds, len(values)), shuffle=True, random_state=seed)
    return selection.cross_val_predict(made, vectors, values, cv=parts)
