"""Retrieval: does a text find its image, and an image its text?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.median_rank import median_rank, median_rank_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.measures.retrieval_ranks import TILE, Ranks, rank


def retrieval(
    encoder: Any,
    source: Any = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    tile: int = TILE,
    batch_size: int = 64,
) -> Result:
    """Recall at k, median rank and mean reciprocal rank, text to image and image to text.

    A candidate is right when it belongs to the query's group: for an image any of its captions, and where the data has
    groups (one thing drawn in five styles) any caption of the group. Without groups, images with the very same captions
    are one: a caption cannot say which of them was meant. The same words for the same group count once, and so does
    the same picture: the rows of a table with one caption each and five a picture are one image with five captions.
    Ties count at their expectation, so a collapsed model scores at chance. Intervals resample whole groups.

    Args:
        encoder: `Embeddings`, or an encoder to embed `source` with.
        source: the data, when `encoder` is an encoder.
        ks: the k of R@k.
        seed: of the bootstrap.
        tile: queries and candidates whose scores are held at a time; memory does not depend on the size of the data.
        batch_size: for embedding.

    Returns:
        `text_to_image_R@k`, `text_to_image_median_rank`, `text_to_image_MRR`, the same for `image_to_text`, and all of
        them `by["domain"]`, each domain among its own candidates. Chance is the exact expectation of a random order.

    Raises:
        UserError: the data has no captions.

    >>> import torch
    >>> eye = torch.eye(20)
    >>> result = retrieval(Embeddings(eye, eye, torch.arange(20)))
    >>> result["text_to_image_R@1"], round(result.metrics["text_to_image_R@1"].chance, 6)
    (1.0, 0.05)
    """
    data = embed(encoder, source, batch_size=batch_size) if not isinstance(encoder, Embeddings) else encoder
    data.require("image", "text", by="retrieval")
    metrics = _both_ways(data, ks, seed=seed, tile=tile)
    domains = {
        name: _both_ways(part, ks, seed=seed, tile=tile)
        for name, rows in data.parts().items()
        if len((part := data.select(rows)).text)
    }
    details = {
        "images": len(data.distinct_images()),
        "captions": len(data.text),
        "distinct_captions": len(data.distinct_texts()),
        "groups": len(data.match_group.unique()),
        "skipped": data.skipped.count,
    }
    return Result("retrieval", metrics, {"domain": domains} if domains else {}, details)


def ranks(data: Embeddings, direction: str, *, tile: int = TILE) -> tuple[Ranks, Tensor]:
    """The ranks of one direction, "text_to_image" or "image_to_text", and which queries belong together: captions that
    have the same right images, images of one group. Queries are the distinct captions (`data.distinct_texts()`), or the
    distinct images (`data.distinct_images()`)."""
    images, texts = data.distinct_images(), data.distinct_texts()
    image, text = normalize(data.image[images], dim=1), normalize(data.text[texts], dim=1)
    image_group, text_group = data.match_group[images], data.text_group[texts]
    if direction == "text_to_image":
        return rank(text, image, text_group, image_group, tile=tile), text_group
    if direction == "image_to_text":
        return rank(image, text, image_group, text_group, tile=tile), data.image_group[images]
    raise ValueError(f"direction is 'text_to_image' or 'image_to_text', not {direction!r}")


def rank_metrics(
    query_ranks: Ranks,
    group: Tensor | NDArray[np.int64],
    *,
    ks: Sequence[int] = (1, 5, 10),
    prefix: str = "",
    seed: int = 0,
) -> dict[str, Metric]:
    """The figures of a set of ranks. Queries without a right candidate are left out.

    Args:
        query_ranks: ranks of Q queries.
        group: `[Q]`; queries of one group are resampled together.
        ks: the k of R@k.
        prefix: goes before each name.
        seed: of the bootstrap.
    """
    answerable = query_ranks.answerable()
    query_ranks, cluster = query_ranks[answerable], np.asarray(group)[answerable]
    chance, n = query_ranks.chance(), len(query_ranks)
    columns = {f"R@{k}": (query_ranks.hit(k), chance.hit(k)) for k in ks}
    columns["MRR"] = (query_ranks.reciprocal(), chance.reciprocal())
    low, high = mean_interval(np.stack([value for value, _ in columns.values()], axis=1), cluster=cluster, seed=seed)
    metrics = {
        prefix + name: Metric(_mean(value), float(low[i]), float(high[i]), _mean(random), n, _unit(name))
        for i, (name, (value, random)) in enumerate(columns.items())
    }
    interval = median_rank_interval(query_ranks, cluster=cluster, seed=seed)
    metrics[prefix + "median_rank"] = Metric(median_rank(query_ranks), *interval, chance=median_rank(chance), n=n)
    return metrics


def _both_ways(data: Embeddings, ks: Sequence[int], *, seed: int, tile: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for direction in ("text_to_image", "image_to_text"):
        query_ranks, group = ranks(data, direction, tile=tile)
        metrics |= rank_metrics(query_ranks, group, ks=ks, prefix=f"{direction}_", seed=seed)
    return metrics


def _unit(name: str) -> str:
    return "%" if name.startswith("R@") else ""


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
