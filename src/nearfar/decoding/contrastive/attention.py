"""Attention of a few queries over a long cache with grouped heads, without repeating the cache once a query head.

transformers packs the heads of a group together only for a single query; for k leaves it would copy every key and
value `heads / key_value_heads` times a layer and a token, which on a long context costs more than the leaves do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_NAME = "nearfar_grouped"
_FEW = 64  # above this many queries the repeated mask would outgrow what is saved


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot product attention with the signature that transformers expects. The queries of all heads in a group
    become rows of one head: `[B, groups * share, q, d]` is read as `[B, groups, share * q, d]`."""
    batch, heads, queries, dim = query.shape
    share = heads // key.shape[1]
    plain = attention_mask is None or attention_mask.shape[1] != 1 or kwargs.get("position_bias") is not None
    if share == 1 or plain or queries > _FEW or kwargs.get("dropout"):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    assert attention_mask is not None
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, heads // share, share * queries, dim),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, share, 1),
        scale=kwargs.get("scaling"),
    )
    return out.reshape(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


@contextmanager
def grouped(model: Any) -> Iterator[None]:
    """Use `grouped_attention` inside the block, where the model would use SDPA and groups its heads."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 1)
    if model.config._attn_implementation != "sdpa" or (getattr(config, "num_key_value_heads", heads) or heads) == heads:
        yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, grouped_attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def is_maskable(model: Any) -> bool:
    """Whether the model's attention takes a mask that says, key by key, what each query sees."""
    return model.config._attn_implementation in ("eager", "sdpa", _NAME)
