"""Hard negative captions for any source of English captions, as a step between source and loader."""

from __future__ import annotations

from typing import Any

from nearfar import console
from nearfar.data.mining.swaps import CaptionSwapper
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.source import Mapped, Record, Source, Stream
from nearfar.errors import UserError

COLUMNS = ("negative_text", "negative_kind", "negative_of")


def with_hard_captions(source: Any, swapper: CaptionSwapper | None = None, *, drop: bool = False) -> Source:
    """The source with `negative_text` made by swapping (with `negative_kind`, what was swapped, and `negative_of`, the
    caption it falsifies), in place of any false captions it had.

    All captions are read and swapped now, once; how that went is in `swapper.report`.

    Args:
        source: records with English `text`.
        swapper: by default a `CaptionSwapper` as the paper has it.
        drop: leave out records none of whose captions has a negative, as the paper does. Otherwise such a record trains
            without a hard caption.

    Raises:
        UserError: a stream, or no caption in which two units may be swapped.

    >>> from nearfar.data import Records
    >>> pets = Records([{"text": ["a dog", "a small dog chases a black cat"]}, {"text": "a cat"}])
    >>> hard = with_hard_captions(pets, CaptionSwapper(("noun", "adjective")), drop=True)
    >>> len(hard), hard[0]["negative_text"]
    (1, ['a small cat chases a black dog', 'a black dog chases a small cat'])
    >>> hard[0]["negative_kind"], hard[0]["negative_of"]
    (['noun', 'adjective'], [1, 1])
    """
    if isinstance(source, Stream) or not hasattr(source, "select"):
        raise UserError(f"{source.name} is a stream: hard captions need records that can be read by number")
    swapper = swapper or CaptionSwapper()
    texts_of = console.track(source.column("text"), f"swapping words of {source.name}")
    made = [_negatives(texts, swapper) for texts in texts_of]
    if not any(negatives["negative_text"] for negatives in made):
        raise UserError(f"{source.name}: no caption has two units of one kind to swap; are they English sentences?")
    columns = [*dict.fromkeys([*source.columns, *COLUMNS])]
    whole = HardCaptions(source, made, columns)
    if not drop:
        return whole
    return whole.select([i for i, negatives in enumerate(made) if negatives["negative_text"]])


class HardCaptions(Mapped):
    """A source with the false captions of each record beside it."""

    def __init__(self, source: Source, made: list[Record], columns: list[str]) -> None:
        super().__init__(source, lambda record: record, columns=columns)
        self.made = made

    def record(self, index: int) -> Record:
        return {**self.source.record(index), **self.made[index]}


def _negatives(texts: Any, swapper: CaptionSwapper) -> Record:
    made = [
        (negative, kind, number)
        for number, caption in enumerate(captions(texts))
        for kind, negative in swapper(caption).items()
    ]
    return {key: [row[i] for row in made] for i, key in enumerate(COLUMNS)}
