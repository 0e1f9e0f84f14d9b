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


def mask_of_leaves(model: Any, visible: Tensor) -> Tensor:
    """What the model's attention takes for `visible` `[B or 1, 1, k, length]`, true where a leaf sees a position; but
    for SDPA without groups, these are numbers that are added to the scores. It is made once a step, for all layers."""
    if model.config._attn_implementation == "sdpa":
        return visible
    added = torch.zeros_like(visible, dtype=model.dtype).masked_fill_(~visible, -torch.inf)
    if model.config._attn_implementation == "eager":
        return added
    heads, groups = _heads(model)
    return added.repeat(1, 1, heads // groups, 1)


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot product attention with the signature that transformers expects. With a `mask_of_leaves` the queries of
    all heads in a group become rows of one head: `[B, groups * share, q, d]` is read as `[B, groups, share * q, d]`."""
    batch, heads, queries, dim = query.shape
    share = heads // key.shape[1]
    plain = share == 1 or attention_mask is None or attention_mask.shape[-2] != share * queries
    if plain or kwargs.get("position_bias") is not None or kwargs.get("dropout"):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if attention_mask is not None:  # of leaves, in a layer that shares its keys among fewer heads than others
            attention_mask = attention_mask[..., :queries, :]
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    assert attention_mask is not None
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, heads // share, share * queries, dim),
        key,
        value,
        attn_mask=attention_mask.to(query.dtype),
        scale=kwargs.get("scaling"),
    )
    return out.reshape(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


@contextmanager
def grouped(model: Any) -> Iterator[None]:
    """Use `grouped_attention` inside the block, where the model would use SDPA and groups its heads."""
    heads, groups = _heads(model)
    if model.config._attn_implementation != "sdpa" or groups == heads:
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


def _heads(model: Any) -> tuple[int, int]:
    """How many heads of queries a layer has, and in how many groups they share keys."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 1)
    return heads, getattr(config, "num_key_value_heads", heads) or heads


def is_maskable(model: Any) -> bool:
    """Whether the model's attention takes a mask that says, key by key, what each query sees."""
    return model.config._attn_implementation in ("eager", "sdpa", _NAME)
