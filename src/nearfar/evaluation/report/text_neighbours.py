"""Neighbours of texts: what stands in for the retrieval gallery where a model reads nothing else."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.report.blocks import Cell, Table, TableRow
from nearfar.nearest import nearest


def text_neighbours(data: Embeddings, *, count: int = 12, top: int = 3, seed: int = 0) -> list[Table]:
    """A table of `count` texts, drawn by `seed`, each with the `top` nearest other texts. Equal words count once.

    >>> data = Embeddings(text=torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0]]), captions=["a cat", "a kitten", "a bus"])
    >>> table = text_neighbours(data, count=3, top=1)[0]
    >>> {row.name: (row.cells[0].text, row.cells[0].remark) for row in table.rows}["a cat"]
    ('a kitten', '0.80')
    """
    first = {text: place for place, text in reversed(list(enumerate(data.captions)))}
    places = sorted(first.values())
    if len(places) < 2:
        return []
    texts = normalize(data.text[places], dim=1)
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    neighbours = nearest(texts[drawn], texts, min(top + 1, len(places)))
    rows = []
    for text, cosines, others in zip(drawn.tolist(), *(values.tolist() for values in neighbours), strict=True):
        pairs = [(cosine, other) for cosine, other in zip(cosines, others, strict=True) if other != text][:top]
        cells = [Cell(_short(data.captions[places[other]]), f"{cosine:.2f}") for cosine, other in pairs]
        rows.append(TableRow(_short(data.captions[places[text]]), cells))
    head = ["text", "nearest", *(f"{place}." for place in range(2, 1 + len(rows[0].cells)))]
    return [Table(f"{len(rows)} of {len(places):,} different texts", head, rows)]


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
