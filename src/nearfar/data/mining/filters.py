"""ALIGN's filter for raw alt-texts (arXiv 2102.05918): plain counting rules that need no model.

Two passes: the first counts over all pairs (`PairCounts`), the second judges each record by the counts. Both may be
made part by part, as counts can be added: `nearfar curate` has workers make them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from nearfar import console
from nearfar.data.pictures.images import image_size
from nearfar.data.sources.record_numbers import with_id
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record, Source


@dataclass
class FilterReport:
    """What a filter kept, and how many pairs of image and text each rule dropped, in the order of the rules."""

    pairs: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [f"{self.kept} of {self.pairs} pairs kept"]
        return "\n".join(rows + [f"  {count:>8}  {rule}" for rule, count in self.dropped.items() if count])


@dataclass
class PairCounts:
    """Texts of each image, images of each text, and how often each word and pair of words occurs."""

    texts: Counter[str] = field(default_factory=Counter)
    images: dict[str, set[str]] = field(default_factory=dict)
    grams: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        identity = _identity(record.get("image"))
        for text in captions(record.get("text")):
            self.texts[identity] += 1
            self.images.setdefault(_folded(text), set()).add(identity)
            self.grams.update(_grams(text))

    def merge(self, other: PairCounts) -> None:
        """Add what was counted over the records that come next."""
        self.texts.update(other.texts)
        self.grams.update(other.grams)
        for text, identities in other.images.items():
            self.images.setdefault(text, set()).update(identities)


@dataclass(frozen=True)
class Outliers:
    """What the counts say against: images of too many texts, texts of too many images, and the words and pairs of words
    that are frequent enough (None: all are)."""

    images: frozenset[str]
    texts: frozenset[str]
    frequent: frozenset[str] | None


@dataclass(frozen=True)
class AltTextFilter:
    """Keeps the pairs of a source that pass ALIGN's rules; a record whose texts all fail goes too.

    Attributes:
        min_side: the shorter side of the picture has more pixels than this.
        max_aspect: longer over shorter side is below this.
        max_texts: an image with more texts than this goes (the same picture in several records counts together).
        max_images: a text shared by more images than this goes ("1080x1920", "alt_img").
        min_words, max_words: bounds of a text's length in words.
        vocabulary: a text with a word or a pair of words outside the most frequent ones of the source, this many in
            all, goes; None leaves the rule out.

    >>> from PIL import Image
    >>> from nearfar.data import Records
    >>> pairs = [{"image": Image.new("RGB", (300, 300 + i)), "text": ["a cat on a mat", "cat"]} for i in range(2)]
    >>> kept, report = AltTextFilter()(Records(pairs))
    >>> kept[0]["text"], report.dropped["fewer than 3 words"]
    (['a cat on a mat'], 2)
    """

    min_side: int = 200
    max_aspect: float = 3.0
    max_texts: int = 1000
    max_images: int = 10
    min_words: int = 3
    max_words: int = 20
    vocabulary: int | None = 100_000_000

    def __call__(self, source: Source) -> tuple[Source, FilterReport]:
        """The pairs that pass, as a source, and the report. Reads every record twice and every picture's header."""
        counts = PairCounts()
        for record in console.track(source, f"counting the words of {source.name}"):
            counts.add(record)
        outliers = self.outliers(counts)
        report, kept = FilterReport(dropped=dict.fromkeys(self.rules(), 0)), dict[int, list[str]]()
        for index, record in enumerate(console.track(source, f"filtering {source.name}")):
            judged = self.judge(record, outliers)
            if passed := [text for text, why in judged if why is None]:
                kept[index] = passed
            report.pairs += len(judged)
            report.kept += len(passed)
            for why in filter(None, (why for _, why in judged)):
                report.dropped[why] += 1
        return FilteredPairs(source, kept), report

    def outliers(self, counts: PairCounts) -> Outliers:
        """What the counts over all pairs say against."""
        frequent = None
        if self.vocabulary is not None and len(counts.grams) > self.vocabulary:
            frequent = frozenset(gram for gram, _ in counts.grams.most_common(self.vocabulary))
        images = frozenset(image for image, count in counts.texts.items() if count > self.max_texts)
        texts = frozenset(text for text, images in counts.images.items() if len(images) > self.max_images)
        return Outliers(images, texts, frequent)

    def judge(self, record: Record, outliers: Outliers) -> list[tuple[str, str | None]]:
        """The texts of a record, each with the rule that drops it, None where it passes."""
        reason = self._image_fault(record, outliers)
        return [(text, reason or self._text_fault(text, outliers)) for text in captions(record.get("text"))]

    def rules(self) -> list[str]:
        """The rules in words, as the report has them."""
        return [
            "image cannot be read",
            f"shorter side of {self.min_side} pixels or less",
            f"aspect of {self.max_aspect:g} or more",
            f"image with more than {self.max_texts} texts",
            f"text shared by more than {self.max_images} images",
            f"fewer than {self.min_words} words",
            f"more than {self.max_words} words",
            "rare word or pair of words",
        ]

    def _image_fault(self, record: Record, outliers: Outliers) -> str | None:
        unreadable, small, thin, many, *_ = self.rules()
        try:
            short, long = sorted(image_size(record.get("image")))
        except BadRecord:
            return unreadable
        if short <= self.min_side:
            return small
        if long / short >= self.max_aspect:
            return thin
        return many if _identity(record.get("image")) in outliers.images else None

    def _text_fault(self, text: str, outliers: Outliers) -> str | None:
        *_, shared, short, long, rare = self.rules()
        words = len(_words(text))
        if _folded(text) in outliers.texts:
            return shared
        if words < self.min_words:
            return short
        if words > self.max_words:
            return long
        known = outliers.frequent
        return rare if known is not None and any(gram not in known for gram in _grams(text)) else None


class FilteredPairs(Source):
    """Some records of a source, each with the texts that were chosen for it."""

    def __init__(self, source: Source, texts: dict[int, list[str]]) -> None:
        self.source, self._texts, self._places = source, texts, list(texts)
        self.name, self.columns = f"{source.name}, filtered", source.columns
        self.classes, self.domains, self._skipped = source.classes, source.domains, source.skipped

    def __len__(self) -> int:
        return len(self._places)

    def record(self, index: int) -> Record:
        place = self._places[index]
        return {**with_id(self.source.record(place), place), "text": self._texts[place]}


def _identity(image: Any) -> str:
    """What identifies a record's picture: the file, or a digest of the bytes."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, dict):
        return _identity(image.get("bytes") or image.get("path"))
    if isinstance(image, bytes | bytearray | memoryview):
        return f"bytes {blake2b(image, digest_size=16).hexdigest()}"
    if hasattr(image, "tobytes"):
        return f"bytes {blake2b(image.tobytes(), digest_size=16).hexdigest()}"
    if hasattr(image, "offset"):
        return f"{image.path} {image.offset}"
    return f"object {id(image)}"


def _folded(text: str) -> str:
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text.lower())


def _grams(text: str) -> Iterator[str]:
    """Words and pairs of neighbouring words."""
    words: Iterable[str] = _words(text)
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))
