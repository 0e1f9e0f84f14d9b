"""The retrieval gallery: texts and the images they find, images and the texts they find, failures beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn.functional import normalize

from nearfar.data.video.still import film_of, picture_of
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.protocols.retrieval import ranks
from nearfar.evaluation.report.blocks import (
    Block,
    Example,
    Examples,
    FoundText,
    Note,
    Picture,
    PictureExample,
    PictureExamples,
)
from nearfar.nearest import nearest

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL = 112
"""Pixels of the longer side."""

MOST_LETTERS = 160
"""Letters of a caption that the gallery shows."""


def both_ways(data: Embeddings, source: Any, *, seed: int = 0) -> list[Block]:
    """The galleries of both directions, with a word on how to read each."""
    texts = gallery(data, source, seed=seed)
    pictures = picture_gallery(data, source, seed=seed)
    shown = data.medium
    drawn = {"video": " Each is shown by three of its frames.", "sound": " Each is shown by its spectrogram."}
    note = Note(
        f"Texts, and the {shown}s nearest to each, with their cosine. A right {shown} is framed and ticked; where none "
        f"of them is right, the best right one stands at the end with its rank.{drawn.get(shown, '')}"
    )
    other = Note(
        f"The other way: {shown}s, and the captions nearest to each, with their cosine. A right caption is ticked; "
        "where none of them is right, the best right one stands at the end with its rank."
    )
    blocks: list[Block] = []
    for intro, examples in ((note, texts), (other, pictures)):
        blocks += [intro, *examples] if examples else []
    return blocks


def gallery(data: Embeddings, source: Any, *, each: int = 6, top: int = 5, seed: int = 0) -> list[Examples]:
    """Text queries with the `top` images that each finds: `each` that succeed, as many near misses (a right image among
    the first ten, but not the first) and as many failures, drawn by `seed`."""
    if not len(data.text) or not data.captions or not hasattr(source, "__getitem__"):
        return []
    query_ranks, _ = ranks(data, "text_to_image")
    place, texts, thumbnails = query_ranks.rank(), data.distinct_texts(), Thumbnails(data, source)
    return [
        Examples([_query(data, thumbnails, int(texts[row]), place[row], top) for row in rows], title, share)
        for title, rows, share in _drawn(query_ranks, each, seed, "queries")
    ]


def picture_gallery(
    data: Embeddings, source: Any, *, each: int = 4, top: int = 5, seed: int = 0
) -> list[PictureExamples]:
    """The other direction: pictures with the `top` captions that each finds, `each` of every kind."""
    if not len(data.text) or not data.captions or not hasattr(source, "__getitem__"):
        return []
    query_ranks, _ = ranks(data, "image_to_text")
    place, images, thumbnails = query_ranks.rank(), data.distinct_images(), Thumbnails(data, source)
    return [
        PictureExamples([_picture(data, thumbnails, int(images[row]), place[row], top) for row in rows], title, share)
        for title, rows, share in _drawn(query_ranks, each, seed, f"{data.medium}s")
    ]


def _drawn(query_ranks: Any, each: int, seed: int, called: str) -> Iterator[tuple[str, Any, str]]:
    """Successes, near misses and failures: their title, `each` of their rows, and their share in words."""
    place, rng = query_ranks.rank(), np.random.default_rng(seed)
    answerable = query_ranks.answerable()
    for title, chosen in (
        ("Found at once", place == 1),
        ("Near misses", (place > 1) & (place <= 10)),
        ("Failures", place > 10),
    ):
        rows = np.flatnonzero(chosen & answerable)
        if len(drawn := rng.permutation(rows)[:each]):
            yield title, drawn, f"{len(rows) / max(1, int(answerable.sum())):.0%} of {int(answerable.sum()):,} {called}"


def _picture(data: Embeddings, thumbnails: Thumbnails, image: int, place: float, top: int) -> PictureExample:
    different = data.distinct_texts()
    texts = normalize(data.text, dim=1)
    query = normalize(data.image[image : image + 1], dim=1)
    cosines, places = nearest(query, texts[different], min(top, len(different)))
    rows = different[places[0]].tolist()
    right = data.text_group == data.match_group[image]
    texts_near = [
        FoundText(
            shown_text(data.captions[row]),
            "right" if right[row] else "",
            ("✓ " if right[row] else "") + f"{cosine:.2f}",
        )
        for cosine, row in zip(cosines[0].tolist(), rows, strict=True)
    ]
    if not right[rows].any():
        candidates = right.nonzero().flatten()
        best = int(candidates[(texts[candidates] @ query[0]).argmax()])
        texts_near.append(FoundText(shown_text(data.captions[best]), "missed", f"✗ rank {place:.0f}"))
    rank = "rank 1" if place == 1 else f"right one at rank {place:.0f} of {len(different):,}"
    name, film = data.names[image] if data.names else f"{data.medium} {image}", data.picture_side == "video"
    return PictureExample(Picture(thumbnails(image), alt=name, film=film), [rank], texts_near)


def _query(data: Embeddings, thumbnails: Thumbnails, text: int, place: float, top: int) -> Example:
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
    return Example(shown_text(data.captions[text]), [rank], hits)


def shown_text(caption: str) -> str:
    """A caption as a gallery has room for it: long ones end between two words.

    >>> shown_text("a red car"), len(shown_text("word " * 100)) <= MOST_LETTERS
    ('a red car', True)
    """
    return shorten(caption, MOST_LETTERS, placeholder=" ...") if len(caption) > MOST_LETTERS else caption


def _hit(data: Embeddings, thumbnails: Thumbnails, row: int, remark: str, kind: str) -> Picture:
    name = data.names[row] if data.names else f"{data.medium} {row}"
    verdict = {"right": "right: ", "missed": "right one, missed: "}.get(kind, "")
    mark = {"right": "✓ ", "missed": "✗ "}.get(kind, "")
    film = data.picture_side == "video"
    return Picture(thumbnails(row), alt=verdict + name, title=name, kind=kind, remark=mark + remark, film=film)


class Thumbnails:
    """Images as data URLs, each made once; of a video its frames in a row, or with `still` the one in its middle; of a
    sound its spectrogram."""

    def __init__(self, data: Embeddings, source: Any, side: int = THUMBNAIL, *, still: bool = False) -> None:
        self.data, self.source, self.side, self.still = data, source, side, still
        self.made: dict[int, str] = {}

    def __call__(self, row: int) -> str:
        if row not in self.made:
            self.made[row] = self._make(int(self.data.row[row]))
        return self.made[row]

    def _make(self, place: int) -> str:
        try:
            record = self.source[place]
            pictures = [picture_of(record)] if self.still else film_of(record)
            return thumbnail(pictures[0], side=self.side) if len(pictures) == 1 else film(pictures, side=self.side)
        except (UserError, OSError):
            return "data:,"  # gone since it was embedded; its name still stands beside it


def thumbnail(picture: Any, box: Sequence[int] | None = None, *, side: int = THUMBNAIL) -> str:
    """A picture, or the part of it in `box` (left, top, right, bottom), as a small data URL."""
    from nearfar.data.pictures.images import load_image

    image = load_image(picture) if box else load_image(picture, near=side)
    if box:
        left, top, right, bottom = box
        image = image.crop((left, top, right, bottom))
    image.thumbnail((side, side))
    return data_url(image)


def film(pictures: Sequence[Image.Image], *, side: int = THUMBNAIL, gap: int = 3) -> str:
    """Pictures in a row, each of this longer side, as one data URL."""
    from PIL import Image

    small = []
    for picture in pictures:
        small.append(picture.convert("RGB"))
        small[-1].thumbnail((side, side))
    width, height = sum(each.width + gap for each in small) - gap, max(each.height for each in small)
    row, left = Image.new("RGB", (width, height), "white"), 0
    for each in small:
        row.paste(each, (left, (height - each.height) // 2))
        left += each.width + gap
    return data_url(row)


def data_url(image: Any) -> str:
    """A picture as a WebP in a URL."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
