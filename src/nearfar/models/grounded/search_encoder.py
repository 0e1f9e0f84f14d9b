"""VG-Bert's transfer to image search (arXiv 2111.07180): small heads over what a model of relations has learnt, its
queries of words and its keys of cells, put pictures and texts into one space. The heads alone are trained."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import AroundPair
from nearfar.models.grounded.relation_encoder import RelationEncoder
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.tokens import Tokens


class SearchEncoder(AroundPair):
    """Pictures and texts as one vector each: the mean over cells, and over words, of what a head of two layers makes of
    them. `nearfar.models.search_encoder` makes one.

    Args:
        pair: the model of relations, which becomes part of this model, frozen and in evaluation mode.
        embed_dim: width of the space; by default that of the text tower.
        hidden: width between the layers of a head; by default as wide.
        dropout: between them (released code: 0.5).

    Raises:
        UserError: a width below 1, or a dropout that is no share.
    """

    encode = encode
    push_to_hub = push_to_hub

    pair: RelationEncoder  # type: ignore[assignment]

    NEEDED: ClassVar[tuple[str, ...]] = ("pair", "search")
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"pair": RelationEncoder}
    """Which of these are models themselves."""

    def __init__(
        self, pair: RelationEncoder, *, embed_dim: int | None = None, hidden: int | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__()
        width = pair.pair.text.width
        made_of = {"embed_dim": embed_dim or width, "hidden": hidden or width}
        if min(made_of.values()) < 1 or not 0 <= dropout < 1:
            raise UserError(f"embed_dim={embed_dim}, hidden={hidden}, dropout={dropout}: widths from 1 on, and a share")
        self.made_of: dict[str, Any] = {**made_of, "dropout": dropout}
        self.pair = pair.requires_grad_(False).eval()
        self.image_head, self.text_head = (_head(width, **self.made_of) for _ in range(2))

    def train(self, mode: bool = True) -> Self:
        """The heads' mode; the model of relations stays in evaluation mode."""
        super().train(mode)
        self.pair.eval()
        return self

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""
        return int(self.made_of["embed_dim"])

    def tokenize(self, texts: list[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long."""
        return self.pair.tokenize(texts)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of pixels `[B, 3, S, S]` float32, in the weights' dtype; of unit length with
        `normalize=True`."""
        with torch.no_grad():
            keys = self.pair.attention.key(self.pair.pair.visual_stream(pixels))
        embedding = self.image_head(keys).mean(1)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of tokens `[B, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`. The first and the last token count, padding does not."""
        with torch.no_grad():
            queries = self.pair.attention.query(self.pair.pair.word_states(tokens))
        weight = tokens["attention_mask"].to(queries)[..., None]
        embedding = (self.text_head(queries) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The embeddings of both, unit length."""
        return self.encode_image(pixels, normalize=True), self.encode_text(tokens, normalize=True)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {"pair": self.pair.config(), "search": self.made_of}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        return cls(RelationEncoder.from_config(config["pair"], tokenizer), **config["search"])

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def search_encoder(
    pair: Any, *, embed_dim: int | None = None, hidden: int | None = None, dropout: float = 0.5
) -> SearchEncoder:
    """A search encoder over a copy of a model of relations (VG-Bert's transfer, arXiv 2111.07180). Train its heads with
    `clip`, at the fixed temperature 0.1.

    Args:
        pair: a relation encoder, such as the third stage trained, or a folder that `nearfar.load` opens as one.
        embed_dim: width of the space; by default that of the text tower.
        hidden: width between the layers of a head; by default as wide.
        dropout: between them (released code: 0.5).

    Raises:
        UserError: no such model, or one of another kind; a setting that it cannot have.

    >>> import torch
    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import relation_encoder
    >>> names = {"relations": ["on"], "objects": ["cat", "mat"]}
    >>> third = relation_encoder("tiny", **names, tokenizer=train_tokenizer(["a red cat"], 300))
    >>> model = search_encoder(third, embed_dim=16).eval()
    >>> [each.shape for each in model(torch.rand(2, 3, 64, 64), model.tokenize(["a red cat"]))]
    [torch.Size([2, 16]), torch.Size([1, 16])]
    """
    from nearfar import models

    opened = deepcopy(pair) if isinstance(pair, nn.Module) else models.load(pair)
    if not isinstance(opened, RelationEncoder):
        raise UserError(
            f"pair is a {type(opened).__name__}: a search encoder is made of a RelationEncoder, such as the recipe "
            "relations trains"
        )
    return SearchEncoder(opened, embed_dim=embed_dim, hidden=hidden, dropout=dropout)


def _head(width: int, *, embed_dim: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dim))
