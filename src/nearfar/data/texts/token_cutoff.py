"""Hidden tokens: some of a text's tokens give way to the tokenizer's mask token."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError


def cut_off(tokens: dict[str, Tensor], share: float, numbers: Sequence[int], tokenizer: Any) -> dict[str, Tensor]:
    """`tokens` with `share` of each text's tokens hidden: their ids become those of the mask token. Special tokens and
    padding stay, and so do places and lengths. CAPT (arXiv 2010.06351) masks tokens; ConSERT (arXiv
    2105.11741) sets what the encoder reads of them to zero, see `nearfar.methods.ConSERT`.

    Risk: high, as of `nearfar.data.texts.word_changes.delete_words`: the hidden token may be the "not". Which words it
    hid is not logged.

    Args:
        tokens: `input_ids` and `attention_mask`, each `[N, L]` int64.
        share: of the tokens, from 0 to 1, rounded to whole ones.
        numbers: N seeds, one a text: the same seed hides the same places of the same text.
        tokenizer: says which ids are special, and which is the mask's (its padding's, its unknown's where it has none).

    Returns:
        the same keys, each `[N, L]` int64; the mask as it was.

    Raises:
        UserError: the tokenizer has none of these tokens.

    >>> from nearfar.data.fields.text import tokenize, train_tokenizer
    >>> tokenizer = train_tokenizer(["a red car"] * 9, 300)
    >>> hidden = cut_off(tokenize(tokenizer, ["a red car"]), 0.34, [3], tokenizer)
    >>> tokenizer.decode(hidden["input_ids"][0])
    '[CLS][MASK] red car[SEP]'
    """
    marks = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    mark = next((each for each in marks if each is not None), None)
    if mark is None:
        raise UserError(
            f"cutoff needs a token to put in the place of others, and this {type(tokenizer).__name__} has no mask, "
            "padding or unknown token: leave cutoff out"
        )
    ids = tokens["input_ids"].clone()
    plain = (tokens["attention_mask"] > 0) & ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    for row, places, number in zip(ids, plain, numbers, strict=True):
        of_text = places.nonzero().flatten().tolist()
        hidden = Random(number).sample(of_text, round(share * len(of_text)))
        row[hidden] = mark
    return {**tokens, "input_ids": ids}
