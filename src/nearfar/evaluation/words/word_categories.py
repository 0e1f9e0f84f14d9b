"""Do clusters of words, made without labels, agree with the categories that people put the words into? VG-Bert's look
at a space of words (arXiv 2111.07180). Categories are the user's own file: none ships here."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearfar.data.sources.record_text import captions
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.clustering import agreement_metrics
from nearfar.evaluation.words.semantic_space import ClusteredBy, SemanticSpace

WAYS: tuple[ClusteredBy, ...] = ("kmeans", "hierarchy")


def word_categories(
    encoder: Any,
    source: Any,
    *,
    clusters: int | None = None,
    space: str = "language",
    restarts: int = 10,
    limit: int | None = 5000,
    seed: int = 0,
    batch_size: int = 256,
) -> Result:
    """Clusters of words by the angles between centred vectors, against categories: by k-means, and by a hierarchy (the
    two clusters that are nearest on average become one).

    Args:
        encoder: anything with `encode_text` and `tokenize`; a model that reads nothing but text will do.
        source: records with `text`, the word, and `label`, its category.
        clusters: how many; None: as many as there are categories.
        space: "language", what the text tower says before any projection, where there is one, or "shared".
        restarts: k-means runs from so many starts and keeps the tightest.
        limit: words beyond this number are sampled, as a hierarchy holds the distances of all to all; None takes all.
        seed: of the sample, the starts, the shuffles of chance and the bootstrap.
        batch_size: words at a time.

    Returns:
        `kmeans_nmi`, `kmeans_ari` and `kmeans_purity`, and the same of the `hierarchy`, each with its interval over
        words and with chance, as `clustering` has them for pictures. A word that comes twice counts once, by its first
        row; a category of one word counts, too.

    Raises:
        UserError: scikit-learn is missing, fewer than two categories, or fewer words than clusters.

    >>> import torch
    >>> from nearfar.data.sources.source import Records
    >>> class FirstLetters:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[float(text[0] == "a"), float(text[0] == "b"), len(text) / 99] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> words = [first + "x" * n for first in "ab" for n in range(4)]
    >>> result = word_categories(FirstLetters(), Records([{"text": word, "label": word[0]} for word in words]))
    >>> result["kmeans_nmi"], result["hierarchy_purity"]
    (1.0, 1.0)
    """
    category, left_out = _categories(source)
    words = list(category)
    if limit is not None and len(words) > limit:
        drawn = np.random.default_rng(seed).permutation(len(words))[:limit]
        words = [words[place] for place in sorted(drawn.tolist())]
    names = sorted({category[word] for word in words})
    count = len(names) if clusters is None else clusters
    called = getattr(source, "name", "the data")
    if len(names) < 2:
        raise UserError(f"{called} has {len(words)} words of {len(names)} categories: two categories are needed")
    if not 2 <= count <= len(words):
        raise UserError(f"clusters={count}: {called} has {len(words)} words with a category, so name 2 to as many")
    label = np.array([names.index(category[word]) for word in words])
    made = SemanticSpace.of(encoder, words, space=space, batch_size=batch_size)
    metrics, tables = dict[str, Metric](), {}
    for way in WAYS:
        cluster = made.clusters(count, by=way, restarts=restarts, seed=seed)
        metrics |= {f"{way}_{name}": each for name, each in agreement_metrics(label, cluster, seed=seed).items()}
        tables[way] = np.bincount(label * count + cluster, minlength=len(names) * count).reshape(-1, count).tolist()
    details = {"words": len(words), "clusters": count, "categories": names, "tables": tables, "space": space}
    return Result("word_categories", metrics, {}, details | ({"left_out": left_out} if left_out else {}))


def _categories(source: Any) -> tuple[dict[str, str], dict[str, int]]:
    """The category of each word, and how many records were left out, by why."""
    classes, category, left_out = getattr(source, "classes", None), dict[str, str](), dict[str, int]()
    for record in source:
        texts, label = captions(record.get("text")), record.get("label")
        why = None if texts else "no word"
        if texts and texts[0] in category:
            why = "a word that was there before"
        elif texts and (label is None or label in (-1, "")):
            why = "without a category"
        if why is None:
            category[texts[0]] = str(classes[int(label)] if classes else label)
        else:
            left_out[why] = left_out.get(why, 0) + 1
    return category, left_out
