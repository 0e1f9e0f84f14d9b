"""BERT-like models of transformers, layer by layer, so that something can be put between attention and feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError

Context = Mapping[str, Any]
"""What a layer's self-attention needs beside the states: masks, rotary positions."""


@dataclass(frozen=True)
class LayerHalves:
    """How to run a family's layers in two halves. `attend` is self-attention with its residual and norm, `feed` the
    rest of the layer; `prenorm` says that norms stand before the halves, so that the stream itself is not normed."""

    layers: Callable[[Any], nn.ModuleList]
    embed: Callable[[Any, Tensor], Tensor]
    context: Callable[[Any, Tensor, Tensor | None], Context]
    attend: Callable[[Any, Tensor, Context], Tensor]
    feed: Callable[[Any, Tensor], Tensor]
    prenorm: bool = False


def layer_halves(backbone: Any) -> LayerHalves:
    """The anatomy of a BERT-like model, named by its parts.

    Raises:
        UserError: a model whose layers are not known here.
    """
    if hasattr(backbone, "transformer") and hasattr(backbone.transformer, "layer"):
        return _DISTILBERT
    if hasattr(backbone, "layers") and hasattr(backbone, "rotary_emb") and hasattr(backbone, "final_norm"):
        return _MODERNBERT
    layer = getattr(getattr(backbone, "encoder", None), "layer", [None])[0]
    if all(hasattr(layer, part) for part in ("attention", "intermediate", "output")):
        return _BERT
    raise UserError(
        f"{type(backbone).__name__} is not built like BERT: a fusion encoder takes BERT, RoBERTa, ELECTRA, DistilBERT, "
        "ModernBERT or a similar model"
    )


def _mask(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    from transformers.masking_utils import create_bidirectional_mask

    return {"mask": create_bidirectional_mask(config=backbone.config, inputs_embeds=states, attention_mask=mask)}


def _bert_embed(backbone: Any, ids: Tensor) -> Tensor:
    states = backbone.embeddings(input_ids=ids)
    return backbone.embeddings_project(states) if hasattr(backbone, "embeddings_project") else states


def _bert_attend(layer: Any, states: Tensor, context: Context) -> Tensor:
    return layer.attention(states, context["mask"])[0]


def _bert_feed(layer: Any, states: Tensor) -> Tensor:
    return layer.output(layer.intermediate(states), states)


def _distilbert_attend(layer: Any, states: Tensor, context: Context) -> Tensor:
    return layer.sa_layer_norm(layer.attention(states, attention_mask=context["mask"])[0] + states)


def _distilbert_feed(layer: Any, states: Tensor) -> Tensor:
    return layer.output_layer_norm(layer.ffn(states) + states)


def _modernbert_context(backbone: Any, states: Tensor, mask: Tensor | None) -> Context:
    from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

    where = torch.arange(states.shape[1], device=states.device)[None]
    mask_options = {"config": backbone.config, "inputs_embeds": states, "attention_mask": mask}
    return {
        "mask": {
            "full_attention": create_bidirectional_mask(**mask_options),
            "sliding_attention": create_bidirectional_sliding_window_mask(**mask_options),
        },
        "positions": {kind: backbone.rotary_emb(states, where, kind) for kind in set(backbone.config.layer_types)},
    }


def _modernbert_attend(layer: Any, states: Tensor, context: Context) -> Tensor:
    kind = layer.attention_type
    attended, _ = layer.attn(
        layer.attn_norm(states), position_embeddings=context["positions"][kind], attention_mask=context["mask"][kind]
    )
    return states + attended


def _modernbert_feed(layer: Any, states: Tensor) -> Tensor:
    return states + layer.mlp(layer.mlp_norm(states))


_BERT = LayerHalves(lambda b: b.encoder.layer, _bert_embed, _mask, _bert_attend, _bert_feed)
_DISTILBERT = LayerHalves(
    lambda b: b.transformer.layer, lambda b, ids: b.embeddings(ids), _mask, _distilbert_attend, _distilbert_feed
)
_MODERNBERT = LayerHalves(
    lambda b: b.layers,
    lambda b, ids: b.embeddings(input_ids=ids),
    _modernbert_context,
    _modernbert_attend,
    _modernbert_feed,
    prenorm=True,
)
