"""Masking for masked language modelling, as BERT (arXiv 1810.04805) does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError

IGNORED = -100
"""The label of a token that was not masked: cross-entropy's own `ignore_index`."""


def mask_tokens(
    input_ids: Tensor,
    tokenizer: Any,
    *,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide a share of the tokens and keep them as labels; `input_ids` stays as it is.

    Of the chosen tokens 80 % become the mask token, 10 % a random one, and 10 % stay. Padding and the leading class
    token are never chosen; the closing separator may be, as in ALBEF.

    Args:
        input_ids: `[B, L]` long.
        tokenizer: gives the ids of mask, padding and class token, and the size of the vocabulary.
        probability: the share of tokens to choose.
        generator: for masks that can be repeated, on the device of `input_ids`.

    Returns:
        Masked ids `[B, L]`, and labels `[B, L]`: the hidden token where one was chosen, -100 elsewhere. A short batch
        may have no chosen token at all: sum the loss and divide by at least one.

    Raises:
        UserError: the tokenizer has no mask token.
    """
    if getattr(tokenizer, "mask_token_id", None) is None:
        raise UserError(
            "masked language modelling needs a mask token: tokenizer.add_special_tokens({'mask_token': '[MASK]'}), "
            "and a text tower with as many tokens as the tokenizer"
        )
    device = input_ids.device

    def uniform() -> Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=device)

    never = torch.zeros_like(input_ids, dtype=torch.bool)
    for token in (tokenizer.pad_token_id, tokenizer.cls_token_id):
        if token is not None:
            never |= input_ids == token
    chosen = (uniform() < probability) & ~never
    fate = uniform()
    words = torch.randint(len(tokenizer), input_ids.shape, generator=generator, device=device)
    masked = torch.where(chosen & (fate < 0.8), tokenizer.mask_token_id, input_ids)
    masked = torch.where(chosen & (fate >= 0.9), words, masked)
    return masked, torch.where(chosen, input_ids, IGNORED)
