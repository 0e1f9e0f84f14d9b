"""Texts to tokens, the same for a text whatever stands beside it in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.data.sources.record_text import readable
from nearfar.errors import UserError
from nearfar.models.towers.tower import is_causal
from nearfar.modes import evaluating


def with_padding(tokenizer: Any) -> Any:
    """The tokenizer; one that has nothing to pad with (GPT-2's) pads with its end token, or that for unknown words."""
    if tokenizer is not None and tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no padding token: set tokenizer.pad_token")
    return tokenizer


class Tokens(dict[str, Tensor]):
    """A dict of tokens that goes to a device as a tensor does.

    >>> Tokens(input_ids=torch.zeros(1, 2)).to("cpu")["input_ids"].shape
    torch.Size([1, 2])
    """

    def to(self, *args: Any, **options: Any) -> Tokens:
        """`Tensor.to` of each."""
        return Tokens({name: value.to(*args, **options) for name, value in self.items()})


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tokens:
    """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded on the right to the longest text:
    on the left, as some tokenizers of language models would have it, the first token were padding and positions
    shifted. Some (SigLIP's) give no mask of their own accord."""
    if isinstance(texts, str):
        raise UserError("tokenize takes a list of texts, not one text: write [text]")
    # Half a surrogate pair, which JSON may hold, stops tokenizers with a TypeError.
    tokens = tokenizer(
        [readable(text) if isinstance(text, str) else text for text in texts],
        padding=True,
        truncation=True,
        max_length=max_length,
        padding_side="right",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return Tokens(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])


PROBE = ("a dog", "two red birds sit on a long wire in the rain")
"""Two texts of unequal length, to try a model on."""


def read_at_the_end(text: Any, tokenizer: Any) -> bool:
    """Make a causal text tower that pools by itself take the last token as the summary, if it would take another: CLIP
    looks for the id that its own tokenizer ends a text with, and another tokenizer's texts have not that id, or have it
    elsewhere. Whether it had to be done."""
    if text.pooling != "tower" or text.fixed_length is not None or not is_causal(text.backbone):
        return False
    device = next(text.parameters()).device
    tokens = {name: value.to(device) for name, value in tokenize(tokenizer, PROBE, text.longest).items()}
    with evaluating(text):
        own = text(tokens)[:, 0]
        text.pooling = "eos"
        same = torch.allclose(text(tokens)[:, 0], own, rtol=1e-5, atol=1e-5)
    text.pool_by("tower" if same else "eos")
    return not same


def check_tokenizer(tokenizer: Any, text: Any) -> None:
    """Raise a `UserError` where a text tower has no tokenizer, one without words, or one of more tokens than it has."""
    if tokenizer is None:
        raise UserError(
            "this text tower brings no tokenizer: pass tokenizer=..., a transformers tokenizer, or train one on your "
            "captions with nearfar.data.train_tokenizer(texts, vocab_size)"
        )
    check_words(tokenizer)
    if len(tokenizer) > text.vocabulary:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the text tower {text.vocabulary}: set the text config's "
            f"vocab_size={len(tokenizer)}, or use the tower's own tokenizer"
        )


def check_words(tokenizer: Any) -> None:
    """Raise a `UserError` where a tokenizer knows no word, so that all texts of as many words would be the same.
    transformers 5 makes one from the keywords of version 4, without complaint (findings/tokenizer_keywords.sh)."""
    words = set(tokenizer.get_vocab())
    if words <= set(tokenizer.all_special_tokens):
        raise UserError(
            f"{type(tokenizer).__name__} holds {len(words)} special tokens and no word: read its folder with "
            "AutoTokenizer.from_pretrained, or pass its files as vocab= and merges= (vocab_file= is not read by "
            "transformers 5)"
        )


def fitted(config: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The text config with the tokenizer's vocabulary and special tokens, where it does not state its own."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    stated = {"vocab_size": len(tokenizer), **{name: value for name, value in ids.items() if value is not None}}
    return {**stated, **config}
