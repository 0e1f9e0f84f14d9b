"""Hard negative captions: texts that nearly fit, but do not."""

from __future__ import annotations

from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import ReadTexts, chosen_caption
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.source import Record


class NegativesField(Field):
    """`negative_text`: `input_ids` and `attention_mask`, each `[B * K, L]` long, sample-major; `has_negative` `[B]`
    long, 0 for a sample without hard negatives, whose K texts are empty and are to be left out of a loss.

    Args:
        tokens: how texts become tokens, or what else a batch holds of them.
        count: K, hard negatives a sample. Those that falsify the chosen caption come first (`negative_of`).
        caption: as for the `TextField` beside this one, so that both choose the same caption.
        ragged: how a sample with fewer than K is filled up: False repeats them; True adds empty texts, and
            `negative_count` `[B]` long says how many are real.
    """

    columns = ("text", "negative_text")
    optional_columns = ("negative_of",)

    def __init__(self, tokens: ReadTexts, count: int, *, caption: Caption = "random", ragged: bool = False) -> None:
        self.tokens, self.count, self.caption, self.ragged = tokens, count, check_caption(caption), ragged
        self.keys = {"negative_text": BatchKey(many=True), "has_negative": BatchKey(per_sample=True)}
        self.keys |= {"negative_count": BatchKey(per_sample=True)} if ragged else {}

    def prepare(self, record: Record, chance: RecordChance) -> list[str]:
        wrong = false_captions(record, chosen_caption(record, self.caption, chance)[0])
        first = chance.number("negative_text")
        count = min(self.count, len(wrong)) if self.ragged else self.count
        return [wrong[(first + i) % len(wrong)] for i in range(count)]

    def collate(self, parts: list[list[str]], chance: BatchChance) -> dict[str, Any]:
        filled = [texts + [""] * (self.count - len(texts)) for texts in parts]
        batch = {
            "negative_text": self.tokens([text for texts in filled for text in texts]),
            "has_negative": torch.tensor([int(any(texts)) for texts in parts]),
        }
        if self.ragged:
            batch["negative_count"] = torch.tensor([sum(map(bool, texts)) for texts in parts])
        return batch


def false_captions(record: Record, chosen: int) -> list[str]:
    """The hard negatives of a record's caption number `chosen`; all of the record's where it has none of its own, and
    an empty one where the record has none at all.

    >>> record = {"negative_text": ["b a", "d c"], "negative_of": [0, 2]}
    >>> false_captions(record, 2), false_captions(record, 1), false_captions({}, 0)
    (['d c'], ['b a', 'd c'], [''])
    """
    wrong = captions(record.get("negative_text"))
    owners = record.get("negative_of") or []
    own = [text for text, of in zip(wrong, owners, strict=False) if of == chosen]
    return own or wrong or [""]
