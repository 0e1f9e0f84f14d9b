"""Texts in the place of pictures: their vectors, and what a model is to write of them (CLOSE, arXiv 2211.09778)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.answers import vqa_targets
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer, chosen_caption
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

Targets = Literal["same", "others", "answers"]
CONTEXT = "context"
"""The key of the texts that stand for the picture of a question."""

Embed = Callable[[Sequence[Sequence[str]]], Tensor]
"""Texts of each sample to one unit vector a sample, `[B, D]`."""


class StandInField(Field):
    """`stand_in` `[B, D]` float32, the unit vectors of texts that stand for pictures; `targets`, what is to be written:
    tokens `[B * K, L]` long, sample-major, empty texts where a sample has fewer than K; `target_count` `[B]` long, how
    many it has. Of questions `question`, too, a list of B texts.

    Args:
        embed: how texts become vectors.
        tokens: how targets become tokens. They are in lower case, as in the paper.
        targets: "same", the very text that stands for the picture; "others", the other captions of its record;
            "answers", those of the record's `answers` that `vqa_targets` takes, to the question `text`, where the texts
            of `context` stand for the picture.
        caption: which of a record's captions stands for the picture.

    Raises:
        UserError: no such targets.
    """

    def __init__(
        self, embed: Embed, tokens: FieldTokenizer, *, targets: Targets = "same", caption: Caption = "random"
    ) -> None:
        if targets not in ("same", "others", "answers"):
            raise UserError(f"targets={targets!r}: choose 'same', 'others' or 'answers'")
        self.embed, self.tokens, self.targets, self.caption = embed, tokens, targets, check_caption(caption)
        asks = targets == "answers"
        self.columns = ("text", "answers", CONTEXT) if asks else ("text",)
        self.keys = {
            "stand_in": BatchKey(),
            "targets": BatchKey(many=True),
            "target_count": BatchKey(per_sample=True),
        } | ({"question": BatchKey()} if asks else {})

    def prepare(self, record: Record, chance: RecordChance) -> tuple[list[str], list[str], str]:
        """The texts that stand for the picture, the targets, and the question."""
        if self.targets == "answers":
            texts, answers = captions(record.get(CONTEXT)), vqa_targets(record.get("answers"))
            if not texts:
                raise BadRecord(f"no {CONTEXT}")
            if not answers:
                raise BadRecord("no answer")
            return texts, answers, chosen_caption(record, "first", chance)[1]
        number, text = chosen_caption(record, self.caption, chance)
        if self.targets == "same":
            return [text], [text], ""
        others = [other for place, other in enumerate(captions(record.get("text"))) if place != number]
        if not others:
            raise BadRecord("one caption alone: there is no other to write")
        return [text], others, ""

    def stand_ins(self, source: Source) -> Iterator[str]:
        """All texts of a source that may stand for a picture. Records that cannot be used have none."""
        column = CONTEXT if self.targets == "answers" else "text"
        for value in source.column(column) if column in source.columns else ():
            with suppress(BadRecord):
                texts = captions(value)
                yield from texts[:1] if self.caption == "first" and column == "text" else texts

    def collate(self, parts: list[tuple[list[str], list[str], str]], chance: BatchChance) -> dict[str, Any]:
        most = max(len(targets) for _, targets, _ in parts)
        written = [text.lower() for _, targets, _ in parts for text in [*targets, *[""] * (most - len(targets))]]
        batch = {
            "stand_in": self.embed([texts for texts, _, _ in parts]),
            "targets": self.tokens(written),
            "target_count": torch.tensor([len(targets) for _, targets, _ in parts]),
        }
        return batch | {"question": [question for *_, question in parts]} if "question" in self.keys else batch
