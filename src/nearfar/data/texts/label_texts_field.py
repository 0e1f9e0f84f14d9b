"""Texts with texts that are their labels: words of the text itself, the name of its class, or what a column holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import ReadTexts, chosen_caption
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.source import Record
from nearfar.errors import UserError

WORDS, CLASSES = "words", "classes"
KEYS = 64
"""How many labels of a text are known apart: those beyond may be drawn as its negatives."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


@dataclass(frozen=True)
class LabelTexts:
    """Which texts are labels, and how many of them a batch holds of each sample.

    Attributes:
        of: "words" of the text itself, which need no labels (CLESS, arXiv 2010.01061); "classes", the name of the
            record's class; or the record's key that holds a text, or several.
        count: at most so many of each, drawn anew each epoch.

    Raises:
        UserError: a count outside 1 to 64.
    """

    of: str = WORDS
    count: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.count <= KEYS:
            raise UserError(f"{self.count} labels of each text: choose 1 to {KEYS}")


class LabelTextsField(Field):
    """`label_text`: `input_ids` and `attention_mask`, each `[B * K, L]` long, sample-major, empty texts where a sample
    has fewer than K labels; `label_key` `[B, 64]` long: a number for each of the sample's labels, equal for equal ones
    in any case of letters, first those of its `label_text`; 0 where there are no more.

    Args:
        tokens: how texts become tokens.
        labels: which texts, and how many.
        caption: as for the `TextField` beside this one, so that both choose the same caption.
        classes: names of the classes.

    Raises:
        UserError: names of classes are to be taken, and there are none.
    """

    def __init__(
        self,
        tokens: ReadTexts,
        labels: LabelTexts,
        *,
        caption: Caption = "random",
        classes: Sequence[str] | None = None,
    ) -> None:
        if labels.of == CLASSES and not classes:
            raise UserError(
                "labels=classes needs data with named classes: name the column of the labels' texts instead"
            )
        self.tokens, self.labels, self.caption, self.classes = tokens, labels, check_caption(caption), classes
        self.columns = {WORDS: ("text",), CLASSES: ("label",)}.get(labels.of, (labels.of,))
        self.keys = {"label_text": BatchKey(many=True), "label_key": BatchKey()}

    def prepare(self, record: Record, chance: RecordChance) -> list[str]:
        own = list(distinct(self._labels(record, chance)).values())
        Random(chance.number("label texts")).shuffle(own)
        return own[:KEYS]

    def _labels(self, record: Record, chance: RecordChance) -> list[str]:
        if self.labels.of == WORDS:
            return words_of(chosen_caption(record, self.caption, chance)[1])
        if self.labels.of == CLASSES:
            assert self.classes is not None
            label = record.get("label")
            return [] if label is None or int(label) < 0 else [self.classes[int(label)]]
        return captions(record.get(self.labels.of))

    def collate(self, parts: list[list[str]], chance: BatchChance) -> dict[str, Any]:
        count = self.labels.count
        drawn = [texts[:count] + [""] * (count - len(texts)) for texts in parts]
        keys = [[*map(label_key, texts), *[0] * (KEYS - len(texts))] for texts in parts]
        return {
            "label_text": self.tokens([within(text) for texts in drawn for text in texts]),
            "label_key": torch.tensor(keys, dtype=torch.long),
        }


def words_of(text: str) -> list[str]:
    """The words of a text, without the marks around them.

    >>> words_of("Don't pay: a T-shirt, red!")
    ["Don't", 'pay', 'a', 'T-shirt', 'red']
    """
    return _WORD.findall(text)


def distinct(labels: Sequence[str]) -> dict[int, str]:
    """Labels by their key, each once.

    >>> list(distinct(["Red", "car", "red"]).values())
    ['Red', 'car']
    """
    by_key: dict[int, str] = {}
    for label in labels:
        by_key.setdefault(label_key(label), label)
    return by_key


def label_key(label: str) -> int:
    """A number from 1 to 2**63 - 1 for a label, in any case of letters; other labels have others, but for a chance of
    one in 2**62 or so."""
    digest = blake2b(" ".join(label.casefold().split()).encode(), digest_size=8).digest()
    return max(1, int.from_bytes(digest, "little") >> 1)


def within(label: str) -> str:
    """A label as it stands within a text, behind a blank: tokenizers of bytes have other tokens at the start of one."""
    return f" {label}" if label else ""
