"""STS benchmarks of sentence embeddings as papers report them (SentEval, arXiv 1803.05449; SimCSE, arXiv 2104.08821):
one Spearman correlation for each set, their average, and the shape of the space that gave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.sources.open_source import open_source
from nearfar.data.tables.sts_files import is_sts
from nearfar.data.tables.table_files import READERS
from nearfar.embedding.embed_source import embed_texts
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.geometry import mean_cosine, uniformity
from nearfar.evaluation.protocols.similarity import ScoredPairs, correlations, cosines, left_out, scored_pairs


def sts(
    encoder: Any,
    source: Any = None,
    *,
    sets: Sequence[str] | None = None,
    alike: float = 0.8,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Measure an encoder of texts on STS sets.

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        source: one set: records with `text`, `text2` and `score`, and a `domain` where it has subsets.
        sets: several sets in its place: each a folder or file as published, a table with two sentences and a score, or
            a folder that holds such.
        alike: pairs with a score in the upper part of a set's range, from this share on, are alignment's positives
            (SimCSE takes scores above 4 of 5).
        resamples: samples of the bootstrap.
        seed: of the bootstrap.
        batch_size: sentences at a time.

    Returns:
        `spearman` of cosine and score in percent, over all pairs of a set together ("all", as in SimCSE's tables), the
        average of the sets where there are several, each in `by["set"]`. Where sets have subsets, `spearman_mean` and
        `spearman_wmean`: the mean over subsets, evenly and by their pairs ("mean" and "wmean" in SentEval, which differ
        by points). `alignment`: mean squared distance of the pairs that are alike; `uniformity` of all sentences, lower
        where they spread; `isotropy`: 1 minus their mean cosine.

    Raises:
        UserError: no set, a set without sentence pairs or scores, or a share outside 0 to 1.

    >>> from nearfar.data.sources.source import Records
    >>> class Lengths:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[len(text), 5.0] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> pairs = [("a cat", "a car", 5), ("a cat", "the dogs", 3), ("a cat", "a herd of elephants", 1)]
    >>> round(sts(Lengths(), Records([{"text": a, "text2": b, "score": s} for a, b, s in pairs]))["spearman"], 4)
    1.0
    """
    if not 0 <= alike <= 1:
        raise UserError(f"sts.alike is a share from 0 to 1, not {alike}")
    figures: dict[str, dict[str, Metric]] = {}
    subsets: dict[str, dict[str, Metric]] = {}
    count = blank = halves = 0
    for each in _sources(source, sets):
        pairs = scored_pairs(each)
        embedded = embed_texts(encoder, [*pairs.first, *pairs.second], batch_size=batch_size)
        first, second = embedded[: len(pairs)], embedded[len(pairs) :]
        cosine = cosines(first, second)
        subsets = {
            name: correlations(cosine[rows], pairs.score[rows], pairs.group[rows], resamples=resamples, seed=seed)
            for name, rows in pairs.by_domain().items()
        }
        name = str(getattr(each, "name", "the data"))
        figures[name if name not in figures else f"{name} ({len(figures) + 1})"] = {
            **correlations(cosine, pairs.score, pairs.group, resamples=resamples, seed=seed),
            **_averages(subsets),
            **_shape(first, second, pairs, alike),
        }
        count, blank, halves = count + len(pairs), blank + pairs.blank, halves + pairs.halves
    details: dict[str, Any] = {"pairs": count, "alike": alike, **left_out(blank, halves)}
    if len(figures) == 1:
        return Result("sts", figures.popitem()[1], {"domain": subsets} if len(subsets) > 1 else {}, details)
    shared = [name for name in next(iter(figures.values())) if all(name in each for each in figures.values())]
    average = {name: _mean([each[name] for each in figures.values()]) for name in shared}
    return Result("sts", average, {"set": figures}, details)


def _sources(source: Any, sets: Sequence[str] | None) -> list[Any]:
    if sets is None:
        if source is None:
            raise UserError("sts needs a source of sentence pairs, or sets=[...]")
        return [source]
    return [open_source(each) for name in ([sets] if isinstance(sets, str) else sets) for each in _places(name)]


def _places(name: str) -> list[str]:
    """The sets in a folder that holds several; else the place itself."""
    folder = Path(name)
    if not folder.is_dir() or is_sts(folder):
        return [name]
    inside = sorted(each for each in folder.iterdir() if is_sts(each) or each.suffix.lower() in READERS)
    if not inside:
        raise UserError(f"{name} holds no STS set: folders of STS.input.*.txt, sts-*.csv, or tables of sentence pairs")
    return [str(each) for each in inside]


def _averages(subsets: Mapping[str, Mapping[str, Metric]]) -> dict[str, Metric]:
    """The mean of the subsets' correlations, where there are several: evenly, and by their pairs."""
    each = [metrics["spearman"] for metrics in subsets.values()]
    if len(each) < 2:
        return {}
    values, sizes = [metric.value for metric in each], [metric.n for metric in each]
    weighted = float(np.average(values, weights=sizes))
    return {
        "spearman_mean": Metric(float(np.mean(values)), chance=0.0, n=sum(sizes), unit="%"),
        "spearman_wmean": Metric(weighted, chance=0.0, n=sum(sizes), unit="%"),
    }


def _shape(first: Tensor, second: Tensor, pairs: ScoredPairs, alike: float) -> dict[str, Metric]:
    """Alignment of the pairs that are alike, uniformity and isotropy of all different sentences."""
    low, high = pairs.score.min(), pairs.score.max()
    positive = torch.from_numpy(pairs.score >= low + alike * (high - low))
    distance = (first - second).double().square().sum(1)[positive].mean()
    # Once each: a sentence that stands in many pairs would draw the space together.
    once = list({text: place for place, text in enumerate([*pairs.first, *pairs.second])}.values())
    sentences = torch.cat([first, second])[once]
    return {
        "alignment": Metric(float(distance), n=int(positive.sum())),
        "uniformity": Metric(uniformity(sentences), n=len(sentences)),
        "isotropy": Metric(1 - mean_cosine(sentences), n=len(sentences)),
    }


def _mean(metrics: Sequence[Metric]) -> Metric:
    value = float(np.mean([metric.value for metric in metrics]))
    return Metric(value, chance=metrics[0].chance, n=sum(metric.n for metric in metrics), unit=metrics[0].unit)
