"""Passes of real sentences through the first layers of an encoder with its own dropout, read once; a small map is
trained on them. Tested by whether the name of an emoji finds its keywords, among emojis that training never shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.reproductions.shared.per_query import PerQuery

DATA: dict[str, Any] = {
    "encoder": "minilm",
    "layers": 2,
    "passes": 4,
    "words": [3, 16],
    "most": 1500,
    "max_length": 32,
    "texts": ["text:python, sentences", "world/emoji", "world/clipart"],
}
HIDDEN = 256


@cache
def _encoder() -> Any:
    """The first layers of the encoder, its tokens averaged: not yet what was trained to compare sentences."""
    from nearfar.models.language.text_model import text_encoder

    model = text_encoder(DATA["encoder"], max_length=DATA["max_length"])
    layers = model.text.backbone.encoder.layer
    model.text.backbone.encoder.layer = layers[: DATA["layers"]]
    return model


@torch.no_grad()
def read(texts: list[str]) -> Tensor:
    """`[N, W]`: of each text the mean of its tokens' states, with dropout where the encoder is in training mode."""
    model, rows = _encoder(), []
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(texts), 128):
        rows.append(model.encode_text(model.tokenize([texts[place] for place in order[start : start + 128]])))
    return torch.cat(rows)[torch.tensor(order).argsort()]


@cache
def trained_on() -> Tensor:
    """`[P, N, W]`: passes of the training sentences, each with other dropout."""
    from nearfar.data import world
    from nearfar.data.sources.text_corpus import corpus

    low, high = DATA["words"]
    sources = (corpus("python", unit="sentences", split="train"), world.clipart("train"), world.words("train"))
    texts = sorted({text for source in sources for text in source.texts() if low <= len(text.split()) <= high})
    torch.manual_seed(0)
    texts = [texts[place] for place in torch.randperm(len(texts))[: DATA["most"]].tolist()]
    model = _encoder().train()
    passes = torch.stack([read(texts) for _ in range(DATA["passes"])])
    model.eval()
    return passes


@cache
def pairs(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Names `[N, W]` and keywords `[N, W]` of the emojis of a split, as they are, and the emojis' numbers `[N]`."""
    from nearfar.data import world

    source = world.words(split)
    _encoder().eval()
    names, keywords = read(source.column("text")), read(source.column("text2"))
    return names, keywords, torch.tensor(source.column("index"))


class Map(nn.Module):
    """What is trained: two layers beside the identity, so that training starts from what the encoder gives."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = pairs("val")[0].shape[1]
        self.first, self.second = nn.Linear(self.embed_dim, HIDDEN), nn.Linear(HIDDEN, self.embed_dim)
        nn.init.zeros_(self.second.weight)

    def encode_text(self, features: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, W]` of features `[B, W]`; of `[B, W, P]`, P passes each, one pass after the other."""
        if features.ndim == 3:
            return self.encode_text(torch.cat(_passes(features)))
        z = features + self.second(F.gelu(self.first(features)))
        return F.normalize(z, dim=-1) if normalize else z


def _passes(features: Tensor) -> list[Tensor]:
    """A method repeats its texts: of the k-th copy the k-th pass is taken."""
    copies = features.shape[2]
    return [part[..., place] for place, part in enumerate(features.chunk(copies))]


class PassBatches:
    """Shuffled batches of sentences in `copies` of their passes, drawn anew for each batch; one pass an iteration."""

    def __init__(self, rows: Tensor, *, batch_size: int, copies: int) -> None:
        self.passes, self.rows, self.size, self.copies = trained_on(), rows, batch_size, copies

    def __len__(self) -> int:
        return len(self.rows) // self.size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for places in torch.randperm(len(self.rows)).split(self.size)[: len(self)]:
            drawn = torch.randperm(len(self.passes))[: self.copies]
            chosen = self.passes[drawn[:, None], self.rows[places]]
            yield {"text": chosen.permute(1, 2, 0), "index": places}


def trained(make: Callable[[Map], Any], batches: Any, seed: int, **training: Any) -> Map:
    """A fresh map after training by the method that `make` makes of it."""
    import nearfar

    torch.manual_seed(seed)
    mapped = Map()
    nearfar.train(make(mapped), batches, seed=seed, progress=False, report=False, **training)
    return mapped.eval()


@torch.no_grad()
def measured(mapped: Map, split: str) -> dict[str, Any]:
    """Whether each name's keywords are its nearest, and the shape of the space: `alignment` of name and keywords,
    `uniformity` and `isotropy` (1 minus the mean cosine) of all names and keywords."""
    from nearfar.evaluation.protocols.geometry import mean_cosine, uniformity

    names, keywords, number = pairs(split)
    a, b = mapped.encode_text(names, normalize=True), mapped.encode_text(keywords, normalize=True)
    rank = (a @ b.T > (a * b).sum(1, keepdim=True)).sum(1)
    rows = torch.cat([a, b])
    return {
        "MRR": PerQuery((1 / (1 + rank.double())).numpy(), number.numpy()),
        "alignment": float((a - b).square().sum(1).mean()),
        "uniformity": uniformity(rows),
        "isotropy": 1 - mean_cosine(rows),
    }
