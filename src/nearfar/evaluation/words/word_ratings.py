"""Words that people rated (concreteness, how much a thing is seen or heard ...) against a model's space of them, as
VG-Bert looks at it (arXiv 2111.07180). Ratings are the user's own file, read when it is needed: none ships here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nearfar.data.sources.record_text import captions
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.words.semantic_space import LEAST, AxisCorrelation, SemanticSpace

DRAWN = 400
"""Words in the map of the report."""


def word_ratings(
    encoder: Any,
    source: Any,
    *,
    rating: str = "score",
    norms: str | Sequence[str] = (),
    space: str = "language",
    components: int = 20,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Result:
    """How a model's space of words goes with ratings.

    Args:
        encoder: anything with `encode_text` and `tokenize`; a model that reads nothing but text will do.
        source: records with `text`, the word, and `rating`. Where they have a `label`, categories are compared, too.
        rating: the column of the rating: a number. Words whose rating is blank are left out, and counted.
        norms: more columns of numbers, each told of the vectors: a list, or names with commas between.
        space: "language", what the text tower says before any projection, where there is one, or "shared".
        components: among how many of the first axes the best is chosen.
        limit: records that are used, from the first; None: all.
        seed: of halves and folds.
        batch_size: words at a time.

    Returns:
        `first_axis`: |r| of rating and first principal component; `best_axis`: of the component that goes best with
        it on one half of the words, |r| on the other half; `probe`: r of a cross-validated ridge regression;
        `probe_NAME` of each norm. With labels `neighbours`, the share of a word's nearest that are of its category, and
        `silhouette`. A word that comes twice counts once, by its first row.

    Raises:
        UserError: a rating that is no number, fewer than eight rated words, or ratings that are all the same.

    >>> import torch
    >>> from nearfar.data.sources.source import Records
    >>> class Lengths:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[len(text), 5.0] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> data = Records([{"text": "a" * n, "score": math.atan(n / 5)} for n in range(1, 20)])
    >>> round(word_ratings(Lengths(), data)["first_axis"], 2)
    1.0
    """
    names = [each.strip() for each in norms.split(",") if each.strip()] if isinstance(norms, str) else list(norms)
    read = _Read(source, [rating, *names], limit)
    made = SemanticSpace.of(encoder, read.words, space=space, batch_size=batch_size)
    axis = made.axis_correlation(read.values[rating], components=components, seed=seed)
    predicted = made.predict_norms({name: read.values[name] for name in names}, seed=seed)
    metrics = {
        name: Metric(value, n=axis.words, chance=0.0)
        for name, value in (("first_axis", axis.first), ("best_axis", axis.best), ("probe", axis.probe))
    }
    for name, value in predicted.items():
        metrics[f"probe_{name}"] = Metric(value, n=len(read.values[name]), chance=0.0)
    if sum(count > 1 for count in Counter(read.category.values()).values()) > 1:
        apart = made.category_separation(read.category, seed=seed)
        metrics["neighbours"] = Metric(apart.neighbours, n=apart.words, chance=apart.by_chance, unit="%")
        metrics["silhouette"] = Metric(apart.silhouette, n=apart.words)
    details = {"rating": rating, "words": len(made.words), "component": axis.component, "space": space}
    details |= {"left_out": read.left_out} if read.left_out else {}
    return Result("word_ratings", metrics, {}, details | {"map": _map(made, read, rating, axis)})


class _Read:
    """Words, their values by column, and their categories."""

    def __init__(self, source: Any, columns: list[str], limit: int | None) -> None:
        self.words: list[str] = []
        self.values: dict[str, dict[str, float]] = {column: {} for column in columns}
        self.category: dict[str, Any] = {}
        self.left_out: dict[str, int] = {}
        name, classes = getattr(source, "name", "the data"), getattr(source, "classes", None)
        known = set[str]()
        for number, record in enumerate(source):
            if limit is not None and number >= limit:
                break
            texts = captions(record.get("text"))
            if not texts or texts[0] in known:
                why = "a word that was there before" if texts else "no word"
                self.left_out[why] = self.left_out.get(why, 0) + 1
                continue
            known.add(texts[0])
            values = {column: _number(record.get(column), column, name, number) for column in columns}
            if values[columns[0]] is None:
                self.left_out["without a rating"] = self.left_out.get("without a rating", 0) + 1
                continue
            self.words.append(texts[0])
            for column, value in values.items():
                if value is not None:
                    self.values[column][texts[0]] = value
            label = record.get("label")
            if label is not None and label != -1:
                self.category[texts[0]] = classes[int(label)] if classes else label
        if len(self.words) < LEAST:
            raise UserError(f"{name} has {len(self.words)} words with {columns[0]!r}: {LEAST} are needed")


def _number(value: Any, column: str, name: str, number: int) -> float | None:
    if value is None or value == "":
        return None
    try:
        made = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}, row {number}: its {column} is {str(value)[:40]!r}, not a number") from None
    return made if math.isfinite(made) else None


def _map(space: SemanticSpace, read: _Read, rating: str, axis: AxisCorrelation) -> dict[str, Any]:
    """Of some words, evenly over the ratings, their places on the first two axes, and the rating."""
    ranked = sorted(range(len(space.words)), key=lambda row: read.values[rating][space.words[row]])
    step = max(1, math.ceil(len(ranked) / DRAWN))
    chosen = ranked[::step]
    scores = space.components[:, :2]
    return {
        "words": [space.words[row] for row in chosen],
        "x": [round(float(scores[row, 0]), 4) for row in chosen],
        "y": [round(float(scores[row, 1]) if scores.shape[1] > 1 else 0.0, 4) for row in chosen],
        "rating": [round(read.values[rating][space.words[row]], 4) for row in chosen],
    }
