"""The retrieval gallery: texts and the images they find, right ones framed, failures beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.protocols.retrieval import ranks
from nearfar.evaluation.report.blocks import Example, Examples, Picture
from nearfar.ops.top_k import nearest

THUMBNAIL = 112
"""Pixels of the longer side."""


def gallery(data: Embeddings, source: Any, *, each: int = 6, top: int = 5, seed: int = 0) -> list[Examples]:
    """Text queries with the `top` images that each finds: `each` that succeed, as many near misses (a right image among
    the first ten, but not the first) and as many failures, drawn by `seed`."""
    if not len(data.text) or not data.captions or not hasattr(source, "__getitem__"):
        return []
    query_ranks, _ = ranks(data, "text_to_image")
    place, texts = query_ranks.rank(), data.distinct_texts()
    rng = np.random.default_rng(seed)
    thumbnails = _Thumbnails(data, source)
    parts = []
    for title, chosen in (
        ("Found at once", place == 1),
        ("Near misses", (place > 1) & (place <= 10)),
        ("Failures", place > 10),
    ):
        rows = np.flatnonzero(chosen & query_ranks.answerable())
        share = len(rows) / max(1, int(query_ranks.answerable().sum()))
        drawn = rng.permutation(rows)[:each]
        if len(drawn):
            queries = [_query(data, thumbnails, int(texts[row]), place[row], top) for row in drawn]
            parts.append(Examples(queries, title, f"{share:.0%} of queries"))
    return parts


def _query(data: Embeddings, thumbnails: _Thumbnails, text: int, place: float, top: int) -> Example:
    different = data.distinct_images()
    images = normalize(data.image, dim=1)
    query = normalize(data.text[text : text + 1], dim=1)
    cosines, places = nearest(query, images[different], top)
    cosine, rows = cosines[0].tolist(), different[places[0]].tolist()
    right = data.match_group == data.text_group[text]
    hits = [
        _hit(data, thumbnails, row, f"{c:.2f}", "right" if right[row] else "")
        for c, row in zip(cosine, rows, strict=True)
    ]
    if not right[rows].any():
        candidates = right.nonzero().flatten()
        best = int(candidates[(images[candidates] @ query[0]).argmax()])
        hits.append(_hit(data, thumbnails, best, f"rank {place:.0f}", "missed"))
    rank = "rank 1" if place == 1 else f"right one at rank {place:.0f} of {len(different):,}"
    return Example(data.captions[text], [rank], hits)


def _hit(data: Embeddings, thumbnails: _Thumbnails, row: int, remark: str, kind: str) -> Picture:
    name = data.names[row] if data.names else f"image {row}"
    verdict = {"right": "right: ", "missed": "right one, missed: "}.get(kind, "")
    mark = {"right": "✓ ", "missed": "✗ "}.get(kind, "")
    return Picture(thumbnails(row), alt=verdict + name, title=name, kind=kind, remark=mark + remark)


class _Thumbnails:
    """Images as data URLs, each made once."""

    def __init__(self, data: Embeddings, source: Any) -> None:
        self.data, self.source = data, source
        self.made: dict[int, str] = {}

    def __call__(self, row: int) -> str:
        if row not in self.made:
            self.made[row] = self._make(int(self.data.row[row]))
        return self.made[row]

    def _make(self, place: int) -> str:
        try:
            return thumbnail(self.source[place]["image"])
        except (UserError, OSError):
            return "data:,"  # gone since it was embedded; its name still stands beside it


def thumbnail(picture: Any, box: Sequence[int] | None = None) -> str:
    """A picture, or the part of it in `box` (left, top, right, bottom), as a small data URL."""
    from nearfar.data.fields.images import load_image

    image = load_image(picture) if box else load_image(picture, near=THUMBNAIL)
    if box:
        left, top, right, bottom = box
        image = image.crop((left, top, right, bottom))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(image)


def data_url(image: Any) -> str:
    """A picture as a WebP in a URL."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
