"""Retrieval in two stages: the dual encoder keeps the best candidates, a slower model puts those in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.measures.retrieval_ranks import Ranks, rank_scores
from nearfar.evaluation.protocols.retrieval import rank_metrics

Rerank = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""`(similarity [q, c], query rows [q], candidate rows [c], direction) -> scores [q, c]` to rank by; rows are those of
`Embeddings.image` and `Embeddings.text`, and the direction is "text_to_image" or "image_to_text"."""


def reranked_retrieval(
    data: Embeddings, rerank: Rerank, *, ks: Sequence[int] = (1, 5, 10), seed: int = 0, batch_size: int = 256
) -> Result:
    """Retrieval as `nearfar.evaluation.retrieval` measures it, by the scores that a second stage makes of the cosines.

    Args:
        data: the embedded data.
        second_look: what re-orders the first candidates of each query, such as a `nearfar.models.Reranker`; those it
            does not score should stay behind those it does.
        ks: the k of R@k.
        seed: of the bootstrap.
        batch_size: queries whose scores are held at a time.

    Returns:
        The figures of `retrieval`, over all data and `by["domain"]`, each domain among its own candidates.

    Raises:
        UserError: the data has no captions.

    >>> eye = torch.eye(4)
    >>> backwards = lambda similarity, query, candidate, direction: -similarity
    >>> reranked_retrieval(Embeddings(eye, eye, torch.arange(4)), backwards)["text_to_image_R@1"]
    0.0
    """
    data.require("image", "text", by="retrieval")

    def measured(rows: Tensor) -> dict[str, Metric]:
        part = data.select(rows)
        images = rows[part.distinct_images()]
        texts = torch.isin(data.image_of_text, rows).nonzero().flatten()[part.distinct_texts()]
        sides = {
            "image": (images, normalize(data.image[images], dim=1), data.match_group[images]),
            "text": (texts, normalize(data.text[texts], dim=1), data.text_group[texts]),
        }
        metrics: dict[str, Metric] = {}
        for direction in ("text_to_image", "image_to_text"):
            (query, q, q_group), (candidate, c, c_group) = (sides[side] for side in direction.split("_to_"))
            ranks = [
                rank_scores(rerank(q[block] @ c.T, query[block], candidate, direction), q_group[block], c_group)
                for block in console.track(torch.arange(len(q)).split(batch_size), f"re-ranking {direction}, by block")
            ]
            metrics |= rank_metrics(_joined(ranks), q_group, ks=ks, prefix=f"{direction}_", seed=seed)
        return metrics

    domains = {
        name: measured(rows) for name, rows in data.parts().items() if torch.isin(data.image_of_text, rows).any()
    }
    return Result(
        "reranked_retrieval",
        measured(torch.arange(len(data))),
        {"domain": domains} if domains else {},
        {"images": len(data.distinct_images()), "distinct_captions": len(data.distinct_texts())},
    )


def _joined(parts: Sequence[Ranks]) -> Ranks:
    return Ranks(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Ranks)))
