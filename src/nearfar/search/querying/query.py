"""Asking an index: by text, by picture or sound, or by both, added and subtracted as in ALIGN (arXiv 2102.05918)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.embedding.embed_source import embed_images, embed_media, embed_texts, embeds
from nearfar.errors import UserError
from nearfar.search.index.items import Hit
from nearfar.search.index.stored_index import Index
from nearfar.search.querying.matching_items import matching_rows

if TYPE_CHECKING:
    from PIL.Image import Image

WAYS = {"text": "text", "image": "a picture", "audio": "a sound"}
"""What an index is searched by, of each side that its model embeds."""

Rerank = Callable[["Query", list[Hit]], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Query:
    """The query vector: q = l2norm(text + image + audio + weight * sum(plus) - weight * sum(minus)), every term of unit
    length. Any of the terms may be left out, but not all."""

    text: str | None = None
    image: Any = None
    audio: Any = None
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    weight: float = 1.0

    def embed(self, encoder: Any) -> np.ndarray:
        """The query's unit vector `[D]`. Raises UserError when the query is empty, or the terms cancel out."""
        return embed_queries([self], encoder)[0]

    def terms(self) -> list[tuple[str, float]]:
        """Its texts, each with its sign and weight; those that are blank are none."""
        signed = [(self.text, 1.0)] if self.text else []
        signed += [(text, self.weight) for text in self.plus] + [(text, -self.weight) for text in self.minus]
        return [(text.strip(), weight) for text, weight in signed if text.strip()]

    def picture(self) -> Image:
        """The query's image, decoded."""
        from nearfar.data.pictures.images import load_image

        return load_image(self.image)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The hits of a query, best first, and what they cost: `seconds` by step (`embed`, `search`, `rerank`) and
    `reranked`, the number of candidates the re-ranker scored; `matching` is the number of items that the filter lets
    through, None without one; `number` is the query's place among many (`nearfar.search.search_many`)."""

    query: Query
    hits: list[Hit]
    seconds: dict[str, float] = field(default_factory=dict)
    reranked: int = 0
    matching: int | None = None
    number: int = 0

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __getitem__(self, place: int) -> Hit:
        return self.hits[place]

    @property
    def cost(self) -> str:
        """The cost in one line."""
        steps = ", ".join(f"{step} {1000 * seconds:.1f} ms" for step, seconds in self.seconds.items())
        matching = "" if self.matching is None else f"; {self.matching:,} match the filter"
        return steps + (f" ({self.reranked} candidates re-ranked)" if self.reranked else "") + matching


def query(
    index: Index,
    encoder: Any,
    *,
    text: str | None = None,
    image: Path | str | bytes | Image | None = None,
    audio: Any = None,
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
    weight: float = 1.0,
    top: int = 10,
    where: str | None = None,
    rerank: Rerank | None = None,
    depth: int = 100,
) -> Results:
    """Search an index by text, by image or sound, or by both.

    Args:
        index: an opened index, made by this encoder.
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`; a model of sounds has
            `encode_audio` and `preprocess_audio`.
        text: what to search for.
        image: a picture to start from: path, bytes or PIL.
        audio: a sound to start from, as `nearfar.data.read_sound` takes it.
        plus: texts to add to the query.
        minus: texts to take from it.
        weight: how much each text of `plus` and `minus` counts beside the others.
        top: how many hits.
        where: a filter over the index's columns, such as `price < 20 and colour in ["red", "blue"]`; the hits are the
            best of the items that it lets through (`nearfar.search.matching_rows`).
        rerank: scores candidates anew, `rerank(query, hits) -> scores`, greater is better; for instance a fusion
            encoder, too slow to meet every picture.
        depth: how many candidates the re-ranker gets (at least `top`).

    Raises:
        UserError: the query is empty, the index is empty or of another width, the image or sound is broken, the
            filter cannot be read.
    """
    among = None if where is None else matching_rows(index.table, where)
    full = Query(text=text, image=image, audio=audio, plus=tuple(plus), minus=tuple(minus), weight=weight)
    clock = Stopwatch()
    vector = full.embed(encoder)
    clock.lap("embed")
    scores, rows = index.search(vector, max(top, depth) if rerank else top, among=among)
    hits, matching = index.hits(scores[0], rows[0]), None if among is None else len(among)
    clock.lap("search")
    if rerank is None:
        return Results(query=full, hits=hits, seconds=clock.seconds, matching=matching)
    candidates = len(hits)
    hits = reorder(hits, rerank(full, hits))[:top]
    clock.lap("rerank")
    return Results(query=full, hits=hits, seconds=clock.seconds, reranked=candidates, matching=matching)


def embed_queries(queries: Sequence[Query], encoder: Any, *, batch_size: int = 64) -> np.ndarray:
    """The unit vectors `[Q, D]` of queries; their texts meet the encoder together, and so do their pictures and their
    sounds.

    Raises UserError when a query is empty, its picture or sound is broken, its terms cancel out, or the encoder takes
    no texts, no pictures, or no sounds.
    """
    sides, terms = embeds(encoder), [each.terms() for each in queries]
    pictures = [each.image for each in queries if each.image is not None]
    heard = [each.audio for each in queries if each.audio is not None]
    for media, side, called in ((pictures, "image", "pictures"), (heard, "audio", "sounds")):
        if media and side not in sides:
            raise UserError(f"a {type(encoder).__name__} takes no {called}: search by {_ways(sides)}")
    if any(terms) and "text" not in sides:
        raise UserError(f"a {type(encoder).__name__} takes no texts: search by {_ways(sides)}")
    if any(
        each.image is None and each.audio is None and not signed for each, signed in zip(queries, terms, strict=True)
    ):
        medium = "a sound" if "audio" in sides and "image" not in sides else "an image"
        raise UserError(f"nothing to look for: give a text, {medium}, or both")
    options: dict[str, Any] = {"batch_size": batch_size, "progress": False}
    images = iter(embed_images(encoder, pictures, **options).numpy() if pictures else ())
    sounds = iter(embed_media(encoder, "audio", heard, batch_size=batch_size).numpy() if heard else ())
    texts = list(dict.fromkeys(text for signed in terms for text, _ in signed))
    of_text = dict(zip(texts, embed_texts(encoder, texts, **options).numpy(), strict=True)) if texts else {}
    sums = []
    for each, signed in zip(queries, terms, strict=True):
        vectors = [next(images)] if each.image is not None else []
        vectors += [next(sounds)] if each.audio is not None else []
        weights = [1.0] * len(vectors) + [weight for _, weight in signed]
        vectors += [of_text[text] for text, _ in signed]
        sums.append(unit_sum(np.stack(vectors), np.array(weights)))
    return np.stack(sums)


def _ways(sides: Sequence[str]) -> str:
    """What a model can be asked by."""
    return " or ".join(way for side, way in WAYS.items() if side in sides) or "another model"


def compose_query(image: np.ndarray, text: np.ndarray, *, sign: int = 1, weight: float = 1.0) -> np.ndarray:
    """ALIGN's composed query: q = l2norm(x ± w y), with both embeddings brought to unit length first.

    Args:
        image: `[D]` or `[B, D]`.
        text: of the same shape.
        sign: +1 adds the text, -1 takes it away.
        weight: the text's weight w.

    Raises UserError when the two cancel out, so that no direction is left.

    >>> print(compose_query(np.array([2.0, 0.0]), np.array([0.0, 5.0])).round(2))
    [0.71 0.71]
    >>> print(compose_query(np.array([1.0, 0.0]), np.array([0.6, 0.8]), sign=-1).round(2))
    [ 0.45 -0.89]
    """
    if sign not in (1, -1):
        raise ValueError(f"sign is +1 or -1, not {sign}")
    return unit_sum(np.stack([image, text]), np.array([1.0, sign * weight]))


def unit_sum(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The unit vector(s) along the weighted sum over the first axis of `[T, ..., D]`, each term of unit length."""
    if not np.isfinite(weights).all():
        raise UserError(f"a weight of the query is no number to reckon with: {', '.join(map(str, weights))}")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    total = np.tensordot(weights, units, axes=1)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    if (length < 1e-6).any():
        raise UserError("the parts of the query cancel out: change a text or a weight")
    return (total / length).astype(np.float32)


def reorder(hits: list[Hit], scores: Sequence[float]) -> list[Hit]:
    """The hits by new scores, greatest first; equal ones keep their order."""
    if len(scores) != len(hits):
        raise ValueError(f"the re-ranker gave {len(scores)} scores for {len(hits)} candidates")
    ranked = sorted(zip(map(float, scores), hits, strict=True), key=lambda pair: -pair[0])
    return [replace(hit, rank=rank, score=score) for rank, (score, hit) in enumerate(ranked, 1)]


class Stopwatch:
    """Seconds by step, each from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds[step], self._last = now - self._last, now
