"""A dual encoder that can also re-rank: its text tower goes on into the picture, and scores the match
(ALBEF, arXiv 2107.07651)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.fusion.attention_maps import ground
from nearfar.models.fusion.fusion_encoder import FusionEncoder
from nearfar.models.fusion.heads import MaskedLanguageHead, MatchingHead
from nearfar.models.towers.backbones import rebuild
from nearfar.models.towers.pixels import rgb
from nearfar.models.towers.tower import ImageTower


class FusionModel(DualEncoder):
    """A `DualEncoder` whose `text` is a `FusionEncoder`, with a matching head and a masked language head.

    Everything a dual encoder does it does too: search by embeddings, freezing, adapters, saving. `match` is the slow,
    sharper score that re-ranking uses. `nearfar.models.create("tiny-fusion", ...)`, or `create(..., text_layers=n)`
    makes one.

    Args:
        bridge: a linear layer and a norm on the image tower's tokens, trained also where the tower is frozen: both the
            embedding and the cross-attention read what comes out. Without it, the contrast cannot align a frozen
            tower's tokens before they are fused.

    Attributes:
        text: the `FusionEncoder`; `text.fuse` and `text.multimodal` give fused states.
        matching: fused states to the two matching logits.
        language: masked states to the logits of words.
    """

    text: FusionEncoder  # type: ignore[assignment]

    def __init__(self, image: ImageTower, text: FusionEncoder, *, bridge: bool = False, **settings: Any) -> None:
        super().__init__(image, text, **settings)  # type: ignore[arg-type]
        self.bridge: nn.Module = nn.Identity()
        if bridge:
            self.bridge = nn.Sequential(nn.Linear(image.width, text.width), nn.LayerNorm(text.width))
            self.image_projection = self._image_projection(text.width, self.embed_dim)
        words = text.word_embeddings()
        self.matching = MatchingHead(text.width)
        self.language = MaskedLanguageHead(text.width, len(words), embedding_width=words.shape[1])

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Image tokens `[B, 1 + P, W]` of `pixels` `[B, 3, H, W]`, floating point, in the width of the fusion
        layers."""
        return self.bridge(super().image_tokens(pixels))

    def match(
        self, image_tokens: Tensor, states: Tensor, mask: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Matching logits `[B, 2]` (no match, match) of pairs: `image_tokens` `[B, 1 + P, W]` and the text's `states`
        `[B, L, W]`, floating point, row by row, with its `mask` `[B, L]` int64. `rows` `[B]`, where given, names each
        text's row of `image_tokens`: what a picture costs is then spent once, however many texts are held against
        it."""
        return self.matching(self.text.fuse(states, mask, image_tokens, rows=rows))

    def masked_language_logits(self, tokens: Mapping[str, Tensor], image_tokens: Tensor, where: Tensor) -> Tensor:
        """Word logits `[K, V]` at the K positions that the bool mask `where` `[B, L]` chooses, `tokens` `[B, L]` int64
        and `image_tokens` `[B, 1 + P, W]` read together."""
        states = self.text.multimodal(tokens, image_tokens)
        return self.language(states[where], self.text.word_embeddings())

    def locate(
        self, pictures: Sequence[Any], texts: Sequence[str], *, layer: int | None = None, batch_size: int = 64
    ) -> tuple[Tensor, Tensor]:
        """Where in N pictures (PIL) their N texts are: maps `[N, H, W]` float32, the mean of `nearfar.models.ground`
        over the words, and windows `[N, 4]` float32, the left, top, right and bottom of what each map covers, in pixels
        of its picture.

        Raises:
            UserError: not one picture a text, or what `ground` refuses.
        """
        if isinstance(texts, str) or not texts or len(pictures) != len(texts):
            raise UserError(f"{len(pictures)} pictures, {len(texts)} texts: give lists, with one picture a text")
        pictures = [rgb(picture) for picture in pictures]  # upright, as windows are given
        maps = []
        for start in range(0, len(texts), batch_size):
            part = slice(start, start + batch_size)
            tokens = self.tokenize(texts[part])
            token_maps = ground(self, self.preprocess(pictures[part]), tokens, layer=layer).cpu()
            maps.append(token_maps.sum(1) / tokens["attention_mask"].sum(1)[:, None, None])
        windows = [self.pixels.window(*picture.size) for picture in pictures]
        return torch.cat(maps), torch.tensor(windows)

    def config(self) -> dict[str, Any]:
        text = {"spec": self.text.spec, "text_layers": self.text.text_layers, "image_width": self.text.image_width}
        return {**super().config(), "text": text, "bridge": not isinstance(self.bridge, nn.Identity)}

    @classmethod
    def _grown(cls, model: FusionModel, **settings: Any) -> Self:
        """A model of this class with a copy of another's weights, adapters and frozen parts; its own heads fresh."""
        made = cls.from_config({**FusionModel.config(model), **settings}, model.tokenizer)
        own, old = made.state_dict(), model.state_dict()
        made.load_state_dict({name: old.get(name, value) for name, value in own.items()})
        return made.to(model.device).train(model.training)

    @classmethod
    def _text_tower(cls, text: Mapping[str, Any], image: ImageTower) -> Any:
        width = text.get("image_width", image.width)
        return FusionEncoder(rebuild(text["spec"]), text["spec"], image_width=width, text_layers=text["text_layers"])
