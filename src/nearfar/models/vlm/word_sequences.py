"""Texts as a model of pictures reads and writes them: begin, prompt, caption, end, and which of these are targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar.errors import UserError

IGNORED = -100
"""The target where nothing is to be written, as in PyTorch's cross-entropy."""


class WordSequences(NamedTuple):
    """Rows of tokens, padded on one side.

    Attributes:
        ids: `[B, L]` int64.
        mask: which of them are no padding, `[B, L]` int64.
        targets: `ids` where they are to be written, which is in the caption and at its end, else -100: `[B, L]` int64.
    """

    ids: Tensor
    mask: Tensor
    targets: Tensor


def ends_of(tokenizer: Any) -> tuple[int, int]:
    """The ids of the tokens that begin and end a text. A tokenizer that has none to begin with, as GPT-2's, begins with
    its end token.

    Raises:
        UserError: nothing ends a text.

    >>> from nearfar.data import train_tokenizer
    >>> ends_of(train_tokenizer(["a red car"], 300))
    (1, 2)
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise UserError("the tokenizer has no token that ends a text: set tokenizer.eos_token")
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    return int(end if begin is None else begin), int(end)


def words_of(tokenizer: Any, tokens: Mapping[str, Tensor]) -> list[list[int]]:
    """The ids of each text of tokens `[B, L]` int64, without those that begin and end it."""
    begin, end = ends_of(tokenizer)
    rows = []
    for ids, mask in zip(tokens["input_ids"].tolist(), tokens["attention_mask"].tolist(), strict=True):
        row = [token for token, real in zip(ids, mask, strict=True) if real]
        row = row[1:] if row[:1] == [begin] else row
        rows.append(row[:-1] if row[-1:] == [end] else row)
    return rows


def prompts_of(tokenizer: Any, prompt: str | Sequence[str] | Mapping[str, Tensor], count: int) -> list[list[int]]:
    """The ids of one prompt for all `count` texts, or of one for each, as texts or as tokens `[B, L]` int64.

    Raises:
        UserError: another number of prompts than texts.
    """
    if isinstance(prompt, Mapping):
        prompts: list[Any] = words_of(tokenizer, prompt)
    else:
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count:
        raise UserError(f"there are {len(prompts)} prompts for {count} pictures: give one for all, or one for each")
    if isinstance(prompt, Mapping):
        return prompts
    return [tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in prompts]


def with_captions(tokenizer: Any, prompts: list[list[int]], captions: list[list[int]]) -> WordSequences:
    """Begin, prompt, caption and end of each row, padded on the right.

    >>> from nearfar.data import train_tokenizer
    >>> words = with_captions(train_tokenizer(["a red car"], 300), [[7, 8], [7]], [[9], []])
    >>> words.ids.tolist(), words.targets.tolist()
    ([[1, 7, 8, 9, 2], [1, 7, 2, 0, 0]], [[-100, -100, -100, 9, 2], [-100, -100, 2, -100, -100]])
    """
    begin, end = ends_of(tokenizer)
    rows = [[begin, *prompt, *caption, end] for prompt, caption in zip(prompts, captions, strict=True)]
    ids, mask = padded(rows, tokenizer.pad_token_id, left=False)
    place, first = torch.arange(ids.shape[1]), torch.tensor([[1 + len(prompt)] for prompt in prompts])
    written = (place >= first) & (mask > 0) if len(rows) else mask > 0
    return WordSequences(ids, mask, ids.where(written, IGNORED))


def to_continue(tokenizer: Any, prompts: list[list[int]]) -> WordSequences:
    """Begin and prompt of each row, padded on the left, so that all end where writing begins; nothing is a target.

    >>> from nearfar.data import train_tokenizer
    >>> to_continue(train_tokenizer(["a red car"], 300), [[7, 8], []]).ids.tolist()
    [[1, 7, 8], [0, 0, 1]]
    """
    begin, _ = ends_of(tokenizer)
    ids, mask = padded([[begin, *prompt] for prompt in prompts], tokenizer.pad_token_id, left=True)
    return WordSequences(ids, mask, torch.full_like(ids, IGNORED))


def padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor `[B, L]` int64, and its mask, padded on the left or on the right."""
    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        own = slice(width - len(row), width) if left else slice(len(row))
        ids[place, own], mask[place, own] = torch.tensor(row), 1
    return ids, mask
