"""Two views of each text as a pair of texts: `text` and `text2` of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer, chosen_caption
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record
from nearfar.data.texts.text_views import TextView, TextViewPreset, preset_of
from nearfar.data.texts.token_cutoff import cut_off

STREAM = "text views"


@dataclass(frozen=True)
class Prepared:
    """The two views of a record's text, and the number that its chance goes on with."""

    views: tuple[TextView, TextView]
    number: int


class TextViewsField(Field):
    """`text` and `text2`: two views of one caption, each `input_ids` and `attention_mask` `[B, L]` long; where the
    preset deletes words, `negation_changed` `[B]` long: 1 where either view has other negations than the text.

    The same seed, epoch and record give the same views, on any number of processes, and after a resume.

    Args:
        tokens: how texts become tokens.
        preset: a name in `nearfar.data.texts.text_views.PRESETS`, or a preset.
        caption: which of a record's captions, as for a `TextField`.

    Raises:
        UserError: no such preset.
    """

    columns = ("text",)

    def __init__(self, tokens: FieldTokenizer, preset: str | TextViewPreset, *, caption: Caption = "random") -> None:
        self.tokens, self.preset, self.caption = tokens, preset_of(preset), check_caption(caption)
        self.keys = {"text": BatchKey(), "text2": BatchKey()}
        self.keys |= {"negation_changed": BatchKey(per_sample=True)} if self.preset.deletes else {}

    def prepare(self, record: Record, chance: RecordChance) -> Prepared:
        words = chosen_caption(record, self.caption, chance)[1].split()
        spans = self.preset.spans
        if not words or (spans is not None and len(words) < spans.shortest_document):
            least = 1 if spans is None else spans.shortest_document
            raise BadRecord(f"a text of {len(words)} words, and its views need {least}")
        return Prepared(self.preset.views(words, chance.number(STREAM)), chance.number(f"{STREAM}, cutoff"))

    def collate(self, parts: list[Prepared], chance: BatchChance) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for side, key in enumerate(("text", "text2")):
            tokens = self.tokens([" ".join(part.views[side].words) for part in parts])
            if share := self.preset.hides(side):
                numbers = [part.number + side for part in parts]
                tokens = cut_off(tokens, share, numbers, self.tokens.tokenizer)
            batch[key] = tokens
        if self.preset.deletes:
            changed = [any(view.negations_changed for view in part.views) for part in parts]
            batch["negation_changed"] = torch.tensor(changed).long()
        return batch
