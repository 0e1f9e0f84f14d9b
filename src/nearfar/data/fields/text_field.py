"""Captions, and the second text of a pair: one of a record's, as tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption, choose_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text import tokenize
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record

ReadTexts = Callable[[list[str]], Any]
"""Texts to what a batch holds of them: tokens by a `FieldTokenizer`, or what a frozen tower gave for them before."""


class FieldTokenizer:
    """Texts to tokens, in one way for all fields of a model.

    Args:
        tokenizer: any tokenizer of `transformers`.
        max_length: tokens a text is cut to, by default what the tokenizer says.
        pad_to: pad to this length, by default to the longest text of a batch.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None, pad_to: int | None = None) -> None:
        self.tokenizer, self.max_length, self.pad_to = tokenizer, max_length, pad_to

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, each `[N, L]` long."""
        return tokenize(self.tokenizer, texts, self.max_length, pad_to=self.pad_to)


class TextField(Field):
    """`text`: `input_ids` and `attention_mask`, each `[B, L]` long.

    Args:
        tokens: how texts become tokens, or what else a batch holds of them.
        caption: take one of a record's captions at `random`, another each epoch, always its `first`, or each in `turn`,
            epoch after epoch; a number such as 0.5 takes the first so often, and else one at random.
        key: of the record and of the batch: "text", or "text2" for the second text of a pair.
    """

    def __init__(self, tokens: ReadTexts, *, caption: Caption = "random", key: str = "text") -> None:
        self.tokens, self.caption, self.key, self.columns = tokens, check_caption(caption), key, (key,)
        self.keys = {key: BatchKey()}

    def prepare(self, record: Record, chance: RecordChance) -> str:
        return chosen_caption(record, self.caption, chance, self.key)[1]

    def collate(self, parts: list[str], chance: BatchChance) -> dict[str, Any]:
        return {self.key: self.tokens(parts)}


def chosen_caption(record: Record, caption: Caption, chance: RecordChance, key: str = "text") -> tuple[int, str]:
    """The number of the caption that a batch takes of a record in this epoch, and the caption.

    Raises:
        BadRecord: it has none.
    """
    texts = captions(record.get(key))
    if not texts:
        raise BadRecord("no caption" if key == "text" else f"no {key}")
    chosen = choose_caption(caption, len(texts), *chance.numbers("caption" if key == "text" else key))
    return chosen, texts[chosen]
