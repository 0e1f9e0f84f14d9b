"""Short and long captions apart: a record's captions by their number of tokens (VladVA, arXiv 2412.04378)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption, choose_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record
from nearfar.errors import UserError


@dataclass(frozen=True)
class CaptionLengths:
    """Which captions are short, and where long ones are cut, in tokens without those that begin and end a text.

    Args:
        short: captions of fewer tokens are short, all others long.
        longest: a long caption is cut to so many.

    Raises:
        UserError: no caption could be short, or long.

    >>> CaptionLengths().apart([29, 30, 501])
    ([0], [1, 2])
    """

    short: int = 30
    longest: int = 500

    def __post_init__(self) -> None:
        if not 1 <= self.short <= self.longest:
            raise UserError(
                f"short={self.short} and longest={self.longest}: captions below {self.short} tokens are short, and "
                "others are cut to the longest, which must be at least as many, and both at least 1"
            )

    def apart(self, counts: Sequence[int]) -> tuple[list[int], list[int]]:
        """The places of the short and of the long ones among captions of so many tokens."""
        short = [place for place, count in enumerate(counts) if count < self.short]
        return short, [place for place, count in enumerate(counts) if count >= self.short]


class CaptionLengthsField(Field):
    """`text`, a short caption of each record, and `long_text`, a long one: `input_ids` and `attention_mask`, each
    `[B, L]` long. `has_text` and `has_long_text`, `[B]` long, are 0 where a record has none of that kind, and an empty
    text stands there.

    Args:
        tokens: how texts become tokens.
        lengths: which captions are short.
        caption: which of several of one kind is taken: as for `TextField`.
    """

    columns = ("text",)

    def __init__(self, tokens: FieldTokenizer, lengths: CaptionLengths, *, caption: Caption = "random") -> None:
        self.tokens, self.lengths, self.caption = tokens, lengths, check_caption(caption)
        self.keys = {"text": BatchKey(), "long_text": BatchKey()}
        self.keys |= dict.fromkeys(("has_text", "has_long_text"), BatchKey(per_sample=True))
        # What the tokenizer puts around a text is not counted.
        most = lengths.longest + tokens.tokenizer.num_special_tokens_to_add()
        self.long_tokens = FieldTokenizer(tokens.tokenizer, min(most, tokens.max_length or most), tokens.pad_to)

    def prepare(self, record: Record, chance: RecordChance) -> tuple[list[str], tuple[int, ...]]:
        texts = captions(record.get("text"))
        if not texts:
            raise BadRecord("no caption")
        return texts, chance.numbers("caption")

    def collate(self, parts: list[tuple[list[str], tuple[int, ...]]], chance: BatchChance) -> dict[str, Any]:
        # All in one call, and not in `prepare`, whose threads must not share a tokenizer that pads.
        plain = {"add_special_tokens": False, "verbose": False}
        written = self.tokens.tokenizer([text for texts, _ in parts for text in texts], **plain)
        counts = iter(map(len, written["input_ids"]))
        chosen: tuple[list[str], list[str]] = ([], [])
        for texts, numbers in parts:
            kinds = self.lengths.apart([next(counts) for _ in texts])
            for own, places in zip(chosen, kinds, strict=True):
                own.append(texts[places[choose_caption(self.caption, len(places), *numbers)]] if places else "")
        short, long = chosen
        return {
            "text": self.tokens(short),
            "long_text": self.long_tokens(long),
            "has_text": torch.tensor([int(bool(text)) for text in short]),
            "has_long_text": torch.tensor([int(bool(text)) for text in long]),
        }
