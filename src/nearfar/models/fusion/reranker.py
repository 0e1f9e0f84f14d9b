"""Re-ranking: a fast first stage keeps k candidates a query, a slow second stage puts them in order, as
ALBEF (arXiv 2107.07651) retrieves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.fusion.fusion_model import FusionModel
from nearfar.models.shorter import Shortened
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from PIL.Image import Image

PairScores = Callable[[Tensor, Tensor], Tensor]
"""Scores `[n]` of pairs, given their query rows `[n]` and gallery rows `[n]`, long."""


@dataclass(frozen=True)
class Reranked:
    """For N queries the k kept gallery items, best first: `index` `[N, k]` long and `score` `[N, k]`. `pairs` is how
    many pairs the second stage scored: what it cost."""

    index: Tensor
    score: Tensor
    pairs: int

    def matrix(self, similarity: Tensor) -> Tensor:
        """Scores `[N, M]` to rank by: the kept items by the second stage, then all others by the first, whose
        `similarity` is `[N, M]`, floating point."""
        lowest = self.score.min() if self.score.numel() else similarity.new_zeros(())
        below = similarity - similarity.max() + lowest.to(similarity.dtype) - 1
        return below.scatter(1, self.index, self.score.to(similarity.dtype))


@torch.no_grad()
def rerank(similarity: Tensor, pair_scores: PairScores, *, k: int = 128, batch_size: int = 256) -> Reranked:
    """Keep the k most similar gallery items of each query and put them in the order of `pair_scores`.

    Args:
        similarity: `[N, M]` of the first stage.
        pair_scores: the second stage, called with at most `batch_size` pairs at a time.
        k: candidates a query; more than M means all.

    Raises:
        UserError: `k` or `batch_size` below 1.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.1]])
    >>> rerank(similarity, lambda query, item: item.float(), k=2).index
    tensor([[1, 0]])
    """
    if k < 1 or batch_size < 1:
        raise UserError(f"k={k}, batch_size={batch_size}: both are at least 1")
    queries, gallery = similarity.shape
    kept = similarity.topk(min(k, gallery), dim=1).indices  # (N, k), the first stage's order
    rows = torch.arange(queries, device=similarity.device).repeat_interleave(kept.shape[1])
    pairs = zip(rows.split(batch_size), kept.flatten().split(batch_size), strict=True)
    scores = [pair_scores(query, item).float().to(similarity.device) for query, item in pairs]
    score = (torch.cat(scores) if scores else similarity.new_zeros(0)).view_as(kept)
    # Stable, so that pairs the second stage scores alike keep the first stage's order.
    order = score.argsort(dim=1, descending=True, stable=True)
    return Reranked(kept.gather(1, order), score.gather(1, order), kept.numel())


class MatchScorer:
    """The second stage of a `FusionModel`, over pictures and texts that went through the towers once. It holds the
    tokens of all of them, in memory; the model runs in evaluation mode, whatever its mode.

    Args:
        model: the fusion model.
        pixels: `[N, 3, H, W]`, or batches of them.
        tokens: of M texts, as the model's `tokenize` gives them.
        batch_size: pictures, and texts, that go through a tower at a time.

    >>> scorer = MatchScorer(model, pixels, tokens)                                     # doctest: +SKIP
    >>> rerank(similarity, scorer.image_to_text, k=64).index                            # doctest: +SKIP
    """

    def __init__(
        self,
        model: FusionModel,
        pixels: Tensor | Iterable[Tensor],
        tokens: Mapping[str, Tensor],
        *,
        batch_size: int = 64,
    ) -> None:
        self.model = model
        with evaluating(model):
            parts = pixels.split(batch_size) if isinstance(pixels, Tensor) else pixels
            self.images = torch.cat([model.image_tokens(part) for part in parts])
            ids, mask = tokens["input_ids"].split(batch_size), tokens["attention_mask"].split(batch_size)
            texts = [model.text_tokens({"input_ids": i, "attention_mask": m}) for i, m in zip(ids, mask, strict=True)]
        self.texts, self.mask = torch.cat(texts), tokens["attention_mask"].to(self.images.device)

    @classmethod
    def of(cls, model: Any, pictures: Iterable[Image], texts: Sequence[str], *, batch_size: int = 64) -> Self:
        """The second stage for pictures and texts as they are.

        Raises:
            UserError: the model is no `FusionModel`.
        """
        pixels = (model.preprocess(part) for part in _parts(pictures, batch_size))
        return cls(as_fusion(model), pixels, model.tokenize(list(texts)), batch_size=batch_size)

    def image_to_text(self, image: Tensor, text: Tensor) -> Tensor:
        """Matching logits `[n]` of pairs of rows `image`, `text` `[n]` int64: queries are pictures."""
        image, text = image.to(self.images.device), text.to(self.images.device)
        with evaluating(self.model):
            pictures, rows = image.unique(return_inverse=True)
            return self.model.match(self.images[pictures], self.texts[text], self.mask[text], rows)[:, 1]

    def text_to_image(self, text: Tensor, image: Tensor) -> Tensor:
        """Matching logits `[n]` of pairs of rows `text`, `image` `[n]` int64: queries are texts."""
        return self.image_to_text(image, text)


class Reranker:
    """Re-ranks by a `MatchScorer`, a block of queries at a time, and counts what that costs.

    Args:
        scorer: gives `image_to_text` and `text_to_image`.
        k: candidates a query that the second stage scores.
        batch_size: pairs at a time.

    Attributes:
        pairs: scored so far.
        seconds: spent on them.

    `nearfar.evaluation.reranked_retrieval` takes it as its `rerank`.
    """

    def __init__(self, scorer: MatchScorer, *, k: int = 128, batch_size: int = 256) -> None:
        if k < 1:
            raise UserError(f"re-ranking the first {k} of each query: give at least 1")
        self.scorer, self.k, self.batch_size = scorer, k, batch_size
        self.pairs, self.seconds = 0, 0.0

    def __call__(self, similarity: Tensor, query: Tensor, candidate: Tensor, direction: str) -> Tensor:
        """Scores `[N, M]` to rank by, for queries and candidates that are rows `[N]` and `[M]` of the scorer.

        Args:
            similarity: `[N, M]` of the first stage.
            direction: "text_to_image" or "image_to_text".
        """
        score, began = getattr(self.scorer, direction), time.perf_counter()
        reranked = rerank(similarity, lambda q, c: score(query[q], candidate[c]), k=self.k, batch_size=self.batch_size)
        self.pairs += reranked.pairs
        self.seconds += time.perf_counter() - began
        return reranked.matrix(similarity)

    @property
    def cost(self) -> str:
        """The cost in one line."""
        each = 1000 * self.seconds / max(self.pairs, 1)
        return (
            f"the first {self.k} of each query scored again: {self.pairs:,} pairs scored in {self.seconds:.1f} s "
            f"({each:.2f} ms a pair)"
        )


def as_fusion(model: Any) -> FusionModel:
    """The model, if it can re-rank.

    Raises:
        UserError: it is no `FusionModel`.
    """
    model = model.encoder if isinstance(model, Shortened) else model
    if not isinstance(model, FusionModel):
        raise UserError(
            f"re-ranking needs a fusion model, and this is a {type(model).__name__}: train one with the method albef "
            "or tcl"
        )
    return model


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
