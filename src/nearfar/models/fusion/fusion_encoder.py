"""The fusion encoder: a BERT-like text model whose last layers also attend to the picture (ALBEF, arXiv 2107.07651)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.fusion.bert_layers import LayerHalves, layer_halves
from nearfar.models.towers.tower import longest_text


class FusionEncoder(nn.Module):
    """One text model in three modes, as in ALBEF (arXiv 2107.07651).

    Layers `0 .. text_layers - 1` read the text alone: that is `forward`, a text tower. Each later layer attends to the
    picture too, by a cross-attention between its self-attention and its feed-forward part: `fuse` goes on from text
    states, `multimodal` runs all layers on tokens.

    Args:
        backbone: BERT, RoBERTa, ELECTRA, DistilBERT, ModernBERT or similar, with or without pretrained weights; the
            cross-attention is fresh, N(0, `initializer_range`), 0.02 in BERT's own config.
        spec: what rebuilds the backbone (see `nearfar.models.towers.backbones`).
        image_width: width of the image tokens.
        text_layers: by default half of the layers.

    Raises:
        UserError: no layer left for one of the modes, or a model that is not built like BERT.
    """

    def __init__(
        self, backbone: Any, spec: Mapping[str, Any], *, image_width: int, text_layers: int | None = None
    ) -> None:
        super().__init__()
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.backbone = backbone
        self.spec = dict(spec)
        config: Any = backbone.config
        depth = len(self.layer_halves.layers(backbone))
        self.text_layers = depth // 2 if text_layers is None else text_layers
        if not 0 < self.text_layers < depth:
            raise UserError(f"text_layers={self.text_layers} of {depth}: leave at least one layer to each side")
        self.width, self.image_width = int(config.hidden_size), image_width
        self.vocabulary = int(config.vocab_size)
        self.longest = longest_text(config)
        self.pooling = "cls"
        heads, dropout, spread = int(config.num_attention_heads), _dropout(config), _spread(config)
        # In a pre-norm model the stream is normed only at the end, and text states must leave half-way.
        norm = self.layer_halves.prenorm
        self.text_norm: nn.Module = nn.LayerNorm(self.width) if norm else nn.Identity()
        self.cross = nn.ModuleList(
            CrossAttention(self.width, image_width, heads, dropout=dropout, prenorm=norm, spread=spread)
            for _ in range(depth - self.text_layers)
        )

    @property
    def layer_halves(self) -> LayerHalves:
        """How the backbone's layers are run in halves."""
        return layer_halves(self.backbone)

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Text mode: states `[B, L, W]` of the text alone, the class token first."""
        ids = tokens["input_ids"]
        if ids.shape[1] > self.longest:
            raise UserError(
                f"texts of {ids.shape[1]} tokens are too long for this text tower: tokenize with max_length="
                f"{self.longest} or less"
            )
        return self.text_norm(self._text(ids, tokens.get("attention_mask")))

    def fuse(
        self,
        states: Tensor,
        mask: Tensor | None,
        image: Tensor,
        image_mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Fusion mode: fused states `[B, L, W]` of text states `[B, L, W]` and image tokens `[N, 1 + P, V]`.

        `mask` `[B, L]` and `image_mask` `[N, 1 + P]`, int64 or bool, are 1 where there is a token. `rows` `[B]` names
        the picture that each text attends to; without it N = B, row by row. A picture's keys and values are made once,
        for all its texts. A list given as `maps` receives the cross-attention `[B, heads, L, 1 + P]` of each fusion
        layer, with its gradient: what grounding reads."""
        run, layers = self.layer_halves, self.layer_halves.layers(self.backbone)
        context = run.context(self.backbone, states, mask)
        for layer, cross in zip(layers[self.text_layers :], self.cross, strict=True):
            states = run.attend(layer, states, context)
            states = run.feed(layer, cross(states, image, image_mask, rows=rows, maps=maps))
        return self.backbone.final_norm(states) if run.prenorm else states

    def multimodal(
        self,
        tokens: Mapping[str, Tensor],
        image: Tensor,
        image_mask: Tensor | None = None,
        *,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """All layers: fused states `[B, L, W]` of `tokens` `[B, L]` int64 and `image` tokens `[N, 1 + P, V]`, floating
        point; `image_mask` and `maps` as in `fuse`: `[N, 1 + P]`, and a list."""
        return self.fuse(self(tokens), tokens.get("attention_mask"), image, image_mask, maps=maps)

    def word_embeddings(self) -> Tensor:
        """`[V, E]`, the decoder of masked language modelling, in the weights' dtype."""
        return self.backbone.get_input_embeddings().weight

    def _text(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        run = self.layer_halves
        states = run.embed(self.backbone, ids)
        context = run.context(self.backbone, states, mask)
        for layer in run.layers(self.backbone)[: self.text_layers]:
            states = run.feed(layer, run.attend(layer, states, context))
        return states


class CrossAttention(nn.Module):
    """Text states attend to image tokens: `[B, L, W]` and `[N, 1 + P, V]` to `[B, L, W]`, residual and norm included.
    `rows` `[B]` names the picture of each text."""

    def __init__(
        self,
        width: int,
        image_width: int,
        heads: int,
        *,
        dropout: float = 0.1,
        prenorm: bool = False,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.prenorm = heads, dropout, prenorm
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(image_width, width)
        self.value = nn.Linear(image_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.normal_(linear.weight, std=spread)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        states: Tensor,
        image: Tensor,
        image_mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        q = self._split(self.query(self.norm(states) if self.prenorm else states))
        k, v = self._split(self.key(image)), self._split(self.value(image))
        allowed = None if image_mask is None else image_mask.bool()[:, None, None, :]  # (N, 1, 1, 1 + P)
        if rows is not None:
            k, v, allowed = k[rows], v[rows], None if allowed is None else allowed[rows]
        dropout = self.dropout if self.training else 0.0
        if maps is None:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        else:
            logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            weights = (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).softmax(-1)
            maps.append(weights)
            attended = F.dropout(weights, dropout) @ v
        change = F.dropout(self.out(attended.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return states + change if self.prenorm else self.norm(states + change)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, W / heads)


def _spread(config: Any) -> float:
    return float(getattr(config, "initializer_range", 0.02))


def _dropout(config: Any) -> float:
    for name in ("hidden_dropout_prob", "dropout", "mlp_dropout"):
        if isinstance(getattr(config, name, None), (int, float)):
            return float(getattr(config, name))
    return 0.0
