"""Texts with pictures in them: records of one picture and a caption, and documents of several pictures and texts in
turn (COSMO, arXiv 2401.00849)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer, chosen_caption
from nearfar.data.pictures.image_field import ImageField
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record
from nearfar.errors import at_least

PICTURE, END_OF_CHUNK = "<visual>", "<|endofchunk|>"
"""What stands in a text where a picture does, and where what is said of it ends."""

Prepared = tuple[list[Any], str, bool]
"""The pictures' canvases, the text with a mark for each, and whether it is one picture with its caption."""


class DocumentsField(Field):
    """`images` `[B, T, 3, S, S]` float32, the pictures of each text in their order, 0 where it has fewer than T;
    `image_count` `[B]` int64, how many it has; `text`, tokens with a mark for each; `paired` `[B]` int64, 1 where it is
    one picture with its caption.

    A record has `image` and `text`, of which a caption is taken, or `images`, a list, and `text`: one with the mark
    `<visual>` where each picture stands, or a list of as many texts, each behind its picture. Text before the first
    mark, or behind an `<|endofchunk|>`, is read, and not learnt to be written.

    Args:
        pictures: how pictures become pixels; its views are those of one picture by itself.
        tokens: how texts become tokens, by a tokenizer that knows the marks.
        caption: which of several captions of a picture is taken: as for `TextField`.
        most: pictures of a document; it is cut before the next one (COSMO: 3).
    """

    columns = ("text",)
    optional_columns = ("image", "images")

    def __init__(
        self, pictures: ImageField, tokens: FieldTokenizer, *, caption: Caption = "random", most: int = 3
    ) -> None:
        at_least(1, most=most)
        self.pictures, self.tokens, self.caption, self.most = pictures, tokens, check_caption(caption), most
        self.keys = {"images": BatchKey(), "text": BatchKey()}
        self.keys |= dict.fromkeys(("image_count", "paired"), BatchKey(per_sample=True))

    def prepare(self, record: Record, chance: RecordChance) -> Prepared:
        held, texts = record.get("images"), captions(record.get("text"))
        if held is not None and not isinstance(held, list | tuple):
            raise BadRecord(f"its images are a {type(held).__name__}, and no list of pictures")
        marks = sum(text.count(PICTURE) for text in texts)
        if held is None or (len(held) == 1 and not marks):
            picture = record.get("image") if held is None else held[0]
            text = chosen_caption(record, self.caption, chance)[1].replace(PICTURE, " ")
            return [self._canvas(picture, chance)], PICTURE + text, True
        if not marks:
            texts = [PICTURE + text for text in texts]
            marks = len(texts)
        if marks != len(held) or not marks:
            raise BadRecord(
                f"{len(held)} pictures, and {marks} places for them in its text: write <visual> where each stands"
            )
        parts = "".join(texts).split(PICTURE)[: 1 + self.most]
        return [self._canvas(each, chance) for each in held[: self.most]], PICTURE.join(parts), False

    def _canvas(self, picture: Any, chance: RecordChance) -> Any:
        return self.pictures.prepare({"image": picture}, chance)

    def collate(self, parts: list[Prepared], chance: BatchChance) -> dict[str, Any]:
        counts = torch.tensor([len(canvases) for canvases, _, _ in parts])
        flat = [canvas for canvases, _, _ in parts for canvas in canvases]
        alone = replace(chance, whole=len(flat), rows=list(range(len(flat))))
        pixels = self.pictures.collate(flat, alone)["image"]
        there = torch.arange(int(counts.max())) < counts[:, None]
        images = pixels.new_zeros(*there.shape, *pixels.shape[1:])
        images[there.to(images.device)] = pixels
        return {
            "images": images,
            "image_count": counts,
            "text": self.tokens([text for _, text, _ in parts]),
            "paired": torch.tensor([int(paired) for _, _, paired in parts]),
        }
