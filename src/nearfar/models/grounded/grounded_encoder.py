"""VG-Bert's two streams (arXiv 2111.07180): a map of cells with attention over it, and the words of a text, in one
space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.dual.around_pair import open_pair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.grounded.spatial_attention import Position, SpatialSelfAttention
from nearfar.models.towers.tower import ImageTower, TextTower
from nearfar.ops import matchmap


class GroundedEncoder(DualEncoder):
    """A dual encoder whose pictures are maps of cells that attend to one another, and whose texts are words.
    `nearfar.models.grounded_encoder` makes one.

    Trained by `TwoStreamGrounding`, words find cells; afterwards the text tower works alone: `text_summary` is the
    language stream, whose space the paper looks at. As any dual encoder it gives one embedding a picture and a text,
    the means of their cells and words in the shared space.

    Args:
        image, text: the towers.
        position: what the attention knows of where a cell lies.
        attention_heads, attention_hidden, attention_dropout: of the block over cells, which is as wide as the text
            tower's states.
        settings: those of `DualEncoder`.

    Attributes:
        grid: rows and columns of the map.
    """

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        *,
        position: Position = "learned",
        attention_heads: int | None = None,
        attention_hidden: int | None = None,
        attention_dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        if image.patch_size is not None:
            raise UserError("a grounded encoder needs maps of one size: take an image tower of square pictures")
        super().__init__(image, text, **settings)
        self.attention_settings: dict[str, Any] = {
            "position": position,
            "attention_heads": attention_heads,
            "attention_hidden": attention_hidden,
            "attention_dropout": attention_dropout,
        }
        self.embedder = nn.Linear(image.width, text.width)
        self.spatial = SpatialSelfAttention(
            text.width,
            grid_of(image),
            heads=attention_heads,
            hidden=attention_hidden,
            dropout=attention_dropout,
            position=position,
        )
        self.image_projection = self._image_projection(text.width, self.embed_dim)

    @property
    def grid(self) -> tuple[int, int]:
        return self.spatial.grid

    def visual_stream(self, pixels: Tensor) -> Tensor:
        """Cells `[B, P, W]` of pixels `[B, 3, S, S]` float32, row by row, after the attention over them and before the
        projection, as wide as the text tower; or of the image tower's tokens `[B, 1 + P, C]`
        (`nearfar.training.precompute`). In the weights' dtype."""
        return self.spatial(self.embedder(self.image_tokens(pixels)[:, 1:]))

    def encode_cells(self, pixels: Tensor) -> Tensor:
        """Cells `[B, P, embed_dim]` of pixels `[B, 3, S, S]` float32 in the shared space, not normalised, in the
        weights' dtype."""
        return self.image_projection(self.visual_stream(pixels))

    def encode_words(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Words `[B, L, embed_dim]` of tokens `[B, L]` int64 in the shared space, not normalised, in the weights'
        dtype; which are real, `attention_mask` says."""
        return self.text_projection(self.word_states(tokens))

    def word_states(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The text tower's states `[B, L, W]` of tokens `[B, L]` int64, in the weights' dtype; the first is the first
        token's own, where a dual encoder's has the summary in its place."""
        return self.text.states({name: value.to(self.device) for name, value in tokens.items()})

    def encode_image_map(self, pixels: Tensor, normalize: bool = False, *, head: int | None = None) -> Tensor:
        """Cells `[B, embed_dim, H, W]` of pixels `[B, 3, S, S]` float32, in the weights' dtype; of unit length along
        dimension 1 with `normalize=True`."""
        cells = self._projected(self.visual_stream(pixels), head).mT.unflatten(2, self.grid)
        return F.normalize(cells, dim=1) if normalize else cells

    def encode_image(self, pixels: Tensor, normalize: bool = False, *, head: int | None = None) -> Tensor:
        """The mean `[B, embed_dim]` over the cells of pixels `[B, 3, S, S]` float32, in the weights' dtype; of unit
        length with `normalize=True`."""
        embedding = self._projected(self.visual_stream(pixels), head).mean(1)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def similarities(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """How well the words of each of K texts, tokens `[K, L]` int64, are found in each of B pictures, pixels
        `[B, 3, S, S]` float32: `[B, K]` float32, `nearfar.ops.matchmap`."""
        return matchmap(self.encode_cells(pixels), self.encode_words(tokens), tokens["attention_mask"].to(self.device))

    def _projected(self, cells: Tensor, head: int | None) -> Tensor:
        project: Any = self.image_projection if head is None else self.image_projection[head]  # type: ignore[index]
        return project(cells)

    def resize_images(self, image_size: int) -> Self:
        super().resize_images(image_size)
        self.spatial.resize(grid_of(self.image))
        return self

    def config(self) -> dict[str, Any]:
        return {**super().config(), **self.attention_settings}


def grid_of(image: ImageTower) -> tuple[int, int]:
    """Rows and columns of an image tower's map."""
    from nearfar.modes import evaluating

    like = next(image.parameters())
    with evaluating(image):
        blank = like.new_zeros(1, 3, image.image_size, image.image_size)
        rows, columns = image.encode_image_map(blank).shape[2:]
    return rows, columns


def grounded_encoder(
    pair: Any = "tiny",
    *,
    position: Position = "learned",
    heads: int | None = None,
    hidden: int | None = None,
    dropout: float = 0.1,
    tokenizer: Any = None,
    image_size: int | None = None,
) -> GroundedEncoder:
    """A grounded encoder of the towers of a dual encoder (VG-Bert, arXiv 2111.07180).

    The towers keep their weights; what stands between them and the shared space is new. A text's summary is the mean of
    its tokens.

    Args:
        pair: a dual encoder, a folder or a name that `nearfar.load` opens as one, or a preset or the arguments of
            `nearfar.models.create` by name, such as `{"image": "timm:vgg16", "text": "bert-base-uncased"}`, the
            paper's.
        position: what the attention over cells knows of where they lie: "learned", "sinusoid" or "none".
        heads, hidden, dropout: of that attention; by default one head for each 64 numbers, and 4 times the width.
        tokenizer: for a pair that is made from scratch.
        image_size: side of the pictures, where the pair's own is not to be taken.

    Raises:
        UserError: no such pair, or one that is no dual encoder; a setting that it cannot have.

    >>> import torch
    >>> from nearfar.data import train_tokenizer
    >>> model = grounded_encoder("tiny", tokenizer=train_tokenizer(["a red fox"], 300)).eval()
    >>> tokens = model.tokenize(["a red fox", "a fox"])
    >>> model.grid, model.similarities(torch.rand(3, 3, 64, 64), tokens).shape
    ((2, 2), torch.Size([3, 2]))
    """
    opened = open_pair(
        pair,
        "a grounded encoder is made of a DualEncoder",
        tokenizer=tokenizer,
        image_size=image_size,
        text_pooling="mean",
    )
    opened.text.pool_by("mean")
    config = opened.config()
    kept = {name: config[name] for name in ("embed_dim", "image_projection", "text_projection", "projection_dropout")}
    return GroundedEncoder(
        opened.image,
        opened.text,
        position=position,
        attention_heads=heads,
        attention_hidden=hidden,
        attention_dropout=dropout,
        tokenizer=opened.tokenizer,
        pixels=opened.pixels,
        max_length=opened.max_length,
        **kept,
    )
