"""Masked language modelling of any text encoder, alone or beside a contrast (BERT, arXiv 1810.04805; CLEAR, arXiv
2012.15466, and DeCLUTR, arXiv 2006.03659, add it to theirs)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.methods.parts.token_masking import IGNORED, mask_tokens
from nearfar.models.fusion.heads import MaskedLanguageHead


class MaskedWords(nn.Module):
    """How well an encoder tells hidden tokens, with BERT's head over its own input embeddings.

    Args:
        model: has `text`, a `TextTower`, `text_tokens` and `tokenizer`, as a `TextEncoder` has; or an `encoder` of that
            kind, as a `LabelMatcher`. It is not kept: a copy of the method stays tied to its own.
        probability: the share of tokens to hide.

    Raises:
        UserError: a model that gives no states of its tokens, or a tokenizer without a mask token.
    """

    def __init__(self, model: Any, *, probability: float = 0.15) -> None:
        super().__init__()
        encoder, self.probability = _states_of(model), probability
        words = encoder.text.backbone.get_input_embeddings().weight
        mask_tokens(torch.zeros(1, 1, dtype=torch.long), encoder.tokenizer)  # has it a mask token?
        self.head = MaskedLanguageHead(encoder.text.width, len(words), embedding_width=words.shape[1])
        nn.init.normal_(self.head.dense.weight, std=0.02)
        nn.init.zeros_(self.head.dense.bias)

    def forward(self, model: Any, tokens: Mapping[str, Tensor]) -> Tensor:
        """Of each text the sum of the losses of its hidden tokens and their number, `[B, 2]` float32, of tokens
        `[B, L]` int64: sums stay apart by text, so that chunks and processes may be put together. Outside training the
        same places are hidden each time."""
        encoder = _states_of(model)
        generator = None if self.training else torch.Generator(encoder.device).manual_seed(0)
        ids = tokens["input_ids"].to(encoder.device)
        masked, labels = mask_tokens(ids, encoder.tokenizer, probability=self.probability, generator=generator)
        states = encoder.text_tokens({**tokens, "input_ids": masked})
        row, place = (labels != IGNORED).nonzero(as_tuple=True)
        logits = self.head(states[row, place], encoder.text.backbone.get_input_embeddings().weight)
        lost = F.cross_entropy(logits.float(), labels[row, place], reduction="none")
        per_text = torch.stack([lost, torch.ones_like(lost)], 1)
        return per_text.new_zeros(len(ids), 2).index_add(0, row, per_text)


def masked_loss(sums: Tensor) -> Tensor:
    """The mean loss of a hidden token, a scalar, of the sums and numbers `[B, 2]` float32 of texts; 0 where none is
    hidden."""
    total, count = sums.sum(0)
    return total / count.detach().clamp(min=1)


def _states_of(model: Any) -> Any:
    encoder = getattr(model, "encoder", model)
    if not hasattr(encoder, "text_tokens") or not hasattr(encoder, "tokenizer"):
        raise UserError(
            f"masked language modelling needs the states of a text's tokens, and a {type(model).__name__} gives none: "
            "take a text_encoder or a label_matcher"
        )
    return encoder
