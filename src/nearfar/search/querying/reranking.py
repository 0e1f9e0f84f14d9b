"""Re-ranking the hits of a search by a fusion model's matching score."""

from __future__ import annotations

from typing import Any

import torch

from nearfar.errors import UserError
from nearfar.models.fusion.reranker import MatchScorer, as_fusion
from nearfar.search.index.items import Hit
from nearfar.search.querying.query import Query, Rerank


def match_reranker(model: Any, *, batch_size: int = 64) -> Rerank:
    """What `query(..., rerank=...)` takes, out of a `nearfar.models.FusionModel`.

    The model reads each text of the query together with each hit's picture. A hit's score is the matching logit of the
    query's text, plus `weight` times those of `plus`, minus `weight` times those of `minus`. A picture in the query
    helps to find the candidates and has no say in their order.

    Args:
        model: the fusion model.
        batch_size: pictures that go through the image tower at a time.

    Raises:
        UserError: the model is no `FusionModel`; on a query that has no text.
    """
    as_fusion(model)

    def rerank(query: Query, hits: list[Hit]) -> list[float]:
        terms = [(query.text or "", 1.0)]
        terms += [(text, query.weight) for text in query.plus] + [(text, -query.weight) for text in query.minus]
        terms = [(text.strip(), weight) for text, weight in terms if text.strip()]
        if not terms:
            raise UserError(
                "re-ranking reads a text and a picture together: add a text to the query, or do not re-rank"
            )
        scorer = MatchScorer.of(
            model, (hit.image() for hit in hits), [text for text, _ in terms], batch_size=batch_size
        )
        each, total = torch.arange(len(hits)), torch.zeros(len(hits))
        for row, (_, weight) in enumerate(terms):
            parts = [scorer.text_to_image(torch.full_like(part, row), part) for part in each.split(batch_size)]
            total += weight * torch.cat(parts).cpu()
        return total.tolist()

    return rerank
