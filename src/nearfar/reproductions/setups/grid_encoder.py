"""A small dual encoder on grids of features: a frozen image tower reads each scene once, and a small transformer reads
what it gave, place by place, as another reads the caption.

A pretrained tower knows things and colours, and each place of its grid sees one thing with its colour. So all that is
left to learn is to keep together what is seen in one place, and to find it in the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit


class GridEncoder(nn.Module):
    """A dual encoder of grids `[B, cells * channels]` and texts.

    Args:
        tokenizer: a transformers tokenizer.
        cells, channels: places of a grid, and numbers in each.
        width, heads: of both transformers.
        image_layers, text_layers: how many each has.
        embed_dim: of the space.
        max_length: tokens a text is cut to.

    >>> from nearfar.data import train_tokenizer
    >>> encoder = GridEncoder(train_tokenizer(["a red cat"] * 9, 300), cells=4, channels=3, width=8, heads=2)
    >>> encoder.encode_image(torch.zeros(5, 12)).shape, encoder.encode_text(encoder.tokenize(["a cat"])).shape
    (torch.Size([5, 64]), torch.Size([1, 64]))
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        cells: int,
        channels: int,
        width: int = 64,
        heads: int = 4,
        image_layers: int = 1,
        text_layers: int = 2,
        embed_dim: int = 64,
        max_length: int = 24,
    ) -> None:
        super().__init__()
        self.tokenizer, self.max_length, self.cells = tokenizer, max_length, cells
        self.looks, self.words = nn.Linear(channels, width), nn.Embedding(len(tokenizer), width)
        # As large as what stands in them: weights of 0.02 keep such small towers bags of words for thousands of steps.
        nn.init.normal_(self.words.weight, std=0.5)
        self.places = nn.Parameter(torch.randn(cells, width) / 2)
        self.positions = nn.Parameter(torch.randn(max_length, width) / 2)
        self.image = _Reader(width, heads, image_layers, embed_dim)
        self.text = _Reader(width, heads, text_layers, embed_dim)

    def encode_image(self, grids: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of grids `[B, cells * channels]`."""
        states = self.looks(grids.unflatten(1, (self.cells, -1))) + self.places
        embedding = self.image(states, torch.ones(states.shape[:2], dtype=torch.bool))
        return unit(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of tokens."""
        ids = tokens["input_ids"]
        embedding = self.text(self.words(ids) + self.positions[: ids.shape[1]], tokens["attention_mask"].bool())
        return unit(embedding, dim=-1) if normalize else embedding

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[B, L]`."""
        from nearfar.data.fields.text import tokenize

        return tokenize(self.tokenizer, texts, self.max_length)


class _Reader(nn.Module):
    """A transformer, and the mean of what it makes of all places."""

    def __init__(self, width: int, heads: int, layers: int, embed_dim: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.projection = nn.LayerNorm(width), nn.Linear(width, embed_dim)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.norm(self.layers(states, src_key_padding_mask=~mask))
        weight = mask[..., None].to(states.dtype)
        return self.projection((states * weight).sum(1) / weight.sum(1))


@torch.no_grad()
def read_grids(tower: str, pictures: Sequence[Any], *, image_size: int, batch_size: int = 64) -> Tensor:
    """What a pretrained tower makes of each place of N pictures: `[N, cells, channels]`."""
    from nearfar.models.towers.backbones import image_tower

    backbone, pixels = image_tower(tower, image_size=image_size)
    backbone = backbone.for_inference()
    parts = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    return torch.cat([backbone(pixels(part))[:, 1:] for part in parts])


class Reduction:
    """Grids `[N, cells, channels]` to their first principal components, each of unit spread, `[N, cells * kept]`; made
    from the training grids.

    >>> grids = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0))
    >>> reduced = Reduction(grids, kept=2)(grids)
    >>> reduced.shape, [round(value, 2) for value in reduced.unflatten(1, (4, 2)).flatten(0, 1).std(0).tolist()]
    (torch.Size([50, 8]), [1.0, 1.0])
    """

    def __init__(self, grids: Tensor, *, kept: int) -> None:
        rows = grids.flatten(0, 1).double()
        self.mean = rows.mean(0)
        spread, directions = torch.linalg.eigh(torch.cov((rows - self.mean).T))
        self.map = directions[:, -kept:].flip(1) / spread[-kept:].flip(0).sqrt()

    def __call__(self, grids: Tensor) -> Tensor:
        return ((grids.double() - self.mean) @ self.map).float().flatten(1)
