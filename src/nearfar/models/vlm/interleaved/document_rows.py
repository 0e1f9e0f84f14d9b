"""Texts with pictures in them as rows of tokens: each picture's mark, what is said of it, and the mark that ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.models.vlm.interleaved.mark_tokens import Marks
from nearfar.models.vlm.word_sequences import IGNORED, WordSequences, ends_of, padded, words_of


def document_rows(
    tokenizer: Any, marks: Marks, tokens: Mapping[str, Tensor], prompts: list[list[int]], *, pictured: bool = True
) -> WordSequences:
    """Rows of texts, padded on the right:

        begin  <visual> words <|endofchunk|>  <visual> words <|endofchunk|>  ...

    A text without a mark is a caption: the mark and the prompt are put before it. A mark ends the chunk before it where
    that has words and no end. Targets are words behind a picture's mark, to the end of the chunk, and that end: not
    what stands before the first mark, between an end and the next mark, or in the prompt.

    Args:
        tokenizer: which has both marks.
        marks: their ids.
        tokens: of the texts, `[B, L]` int64.
        prompts: ids of each caption's prompt.
        pictured: False: captions alone, without a picture's mark; all words are targets.

    >>> from nearfar.data import train_tokenizer
    >>> texts = {"input_ids": torch.tensor([[1, 7, 8, 2]]), "attention_mask": torch.ones(1, 4)}
    >>> rows = document_rows(train_tokenizer(["a red car"], 300), Marks(300, 301), texts, [[5]])
    >>> rows.ids.tolist(), rows.targets.tolist()
    ([[1, 300, 5, 7, 8, 301]], [[-100, -100, -100, 7, 8, 301]])
    """
    begin, _ = ends_of(tokenizer)
    rows, targets = [], []
    for words, prompt in zip(words_of(tokenizer, tokens), prompts, strict=True):
        is_caption = marks.picture not in words
        front = [begin, *([marks.picture] if pictured else []), *prompt] if is_caption else [begin]
        row = [*front, *_ended(words, marks)]
        row += [] if row[-1] == marks.end else [marks.end]
        rows.append(row)
        targets.append(_targets(row, marks, len(front), begun=is_caption))
    ids, mask = padded(rows, tokenizer.pad_token_id, left=False)
    return WordSequences(ids, mask, padded(targets, IGNORED, left=False)[0])


def open_rows(tokenizer: Any, marks: Marks, texts: list[list[int]]) -> WordSequences:
    """Rows that writing goes on from, padded on the left. A chunk is ended where the next picture's mark stands, and
    the last is open.

    Args:
        tokenizer, marks: as for `document_rows`.
        texts: ids of each, with marks where pictures stand.
    """
    begin, _ = ends_of(tokenizer)
    ids, mask = padded([[begin, *_ended(words, marks)] for words in texts], tokenizer.pad_token_id, left=True)
    return WordSequences(ids, mask, torch.full_like(ids, IGNORED))


def _ended(words: list[int], marks: Marks) -> list[int]:
    """Words in which each chunk before a picture's mark has its end, where it has words."""
    row: list[int] = []
    chunk = 0  # words of the chunk that has no end yet
    behind = False  # whether they stand behind a picture
    for word in words:
        if word == marks.picture:
            row += [marks.end] if behind and chunk else []
            behind, chunk = True, 0
        elif word == marks.end:
            behind, chunk = False, 0
        else:
            chunk += 1
        row.append(word)
    return row


def _targets(row: list[int], marks: Marks, first: int, *, begun: bool) -> list[int]:
    """The row where it is to be written, else -100: from place `first` on, behind a picture's mark."""
    is_target, targets = begun, []
    for place, word in enumerate(row):
        if word == marks.picture:
            is_target = True
        targets.append(word if is_target and word != marks.picture and place >= first else IGNORED)
        is_target = is_target and word != marks.end
    return targets
