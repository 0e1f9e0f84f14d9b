"""Pictures beside the pictures nearest to them, for data or models without texts."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.report.blocks import Block, Example, Examples, Note, Picture
from nearfar.evaluation.report.retrieval_gallery import Thumbnails
from nearfar.nearest import nearest


def picture_neighbours(data: Embeddings, source: Any, *, count: int = 12, top: int = 5, seed: int = 0) -> list[Block]:
    """`count` pictures, drawn by `seed`, each with the `top` nearest other pictures and their cosine. Where the records
    have labels, a neighbour of the same label is framed. Equal pictures count once."""
    rows = data.distinct_images()
    if len(rows) < 2 or not hasattr(source, "__getitem__"):
        return []
    vectors, thumbnails = normalize(data.image[rows], dim=1), Thumbnails(data, source)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    neighbours = nearest(vectors[drawn], vectors, min(top + 1, len(rows)))
    examples = []
    for place, cosines, others in zip(drawn.tolist(), *(values.tolist() for values in neighbours), strict=True):
        own = int(rows[place])
        near = [(int(rows[other]), cosine) for cosine, other in zip(cosines, others, strict=True) if other != place]
        pictures = [_picture(data, thumbnails, own), *(_picture(data, thumbnails, *pair, own) for pair in near[:top])]
        examples.append(Example(_name(data, own), [], pictures))
    labels = " A neighbour of the same label is framed and ticked." if data.label is not None else ""
    note = Note(
        f"{data.medium.capitalize()}s, and the other {data.medium}s nearest to each, with their cosine.{labels}"
    )
    return [note, Examples(examples, remark=f"{len(examples)} of {len(rows):,} different {data.medium}s")]


def _picture(
    data: Embeddings, thumbnails: Thumbnails, row: int, cosine: float | None = None, of: int | None = None
) -> Picture:
    """A picture; as a neighbour of the row `of` with its cosine."""
    alike = of is not None and data.label is not None and 0 <= int(data.label[row]) == int(data.label[of])
    remark = "" if cosine is None else ("✓ " if alike else "") + f"{cosine:.2f}"
    name = _name(data, row)
    return Picture(
        thumbnails(row),
        alt=name,
        title=name,
        kind="right" if alike else "",
        remark=remark,
        film=data.picture_side == "video",
    )


def _name(data: Embeddings, row: int) -> str:
    return data.names[row] if data.names else f"{data.medium} {row}"
