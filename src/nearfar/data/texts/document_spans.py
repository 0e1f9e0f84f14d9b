"""Spans of a document that are near to one another, as DeCLUTR samples them (arXiv 2006.03659): long anchors that lie
apart, and shorter positives around each."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from nearfar.errors import UserError

Placing = Literal["any", "subsuming", "adjacent"]


@dataclass(frozen=True)
class Anchor:
    """The places of an anchor's words in the document, and those of its positives."""

    span: range
    positives: list[range]


@dataclass(frozen=True)
class DocumentSpans:
    """How spans of documents are sampled.

    An anchor's length is `least + Beta(4, 2) * (most - least)` words: long ones speak for their document. A positive's
    is the same with Beta(2, 4): short ones overlap less. Anchors lie in blocks of `most` words that are no neighbours.

    Risk: low in a document about one thing; parts of a long one may be about different things.

    Attributes:
        least, most: words of a span (paper: 32 and 512).
        anchors: of a document (paper: 2).
        positives: of an anchor (paper: 2).
        placing: of positives: "any" lets them lie before, over, in or after the anchor, adjacent to it at the farthest
            (paper); "subsuming" keeps them inside; "adjacent" puts them right before or after it.

    Raises:
        UserError: lengths or numbers that are none; "adjacent" with `least` above half of `most`: there might be no
            room on either side of an anchor.

    >>> spans = DocumentSpans(least=2, most=4, anchors=1, positives=1)
    >>> spans.sample(20, Random(0))
    [Anchor(span=range(13, 15), positives=[range(15, 17)])]
    """

    least: int = 32
    most: int = 512
    anchors: int = 2
    positives: int = 2
    placing: Placing = "any"

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or self.anchors < 1 or self.positives < 1:
            raise UserError(
                f"spans of {self.least} to {self.most} words, {self.anchors} anchors and {self.positives} positives: "
                "all must be at least 1, and least at most as large as most"
            )
        if self.placing not in get_args(Placing):
            raise UserError(f"placing={self.placing!r}: choose one of {', '.join(get_args(Placing))}")
        if self.placing == "adjacent" and 2 * self.least > self.most:
            raise UserError(
                f"adjacent spans of {self.least} to {self.most} words may have no room beside their anchor: "
                f"take most={2 * self.least} or more"
            )

    @property
    def shortest_document(self) -> int:
        """Words that a document must have."""
        return self.anchors * self.most * 2

    def sample(self, words: int, chance: Random) -> list[Anchor]:
        """Anchors and positives in a document of that many words.

        Raises:
            UserError: it is shorter than `anchors * most * 2`.
        """
        if words < self.shortest_document:
            raise UserError(
                f"a document of {words} words is too short for {self.anchors} anchors of up to {self.most}: it needs "
                f"{self.shortest_document}"
            )
        blocks = words // self.most
        first = chance.randint(0, words - blocks * self.most)
        # So many of these numbers, each moved up by how many stand before it, are no neighbours.
        places = sorted(chance.sample(range(blocks - self.anchors + 1), self.anchors))
        anchors = [self._anchor(first + (place + i) * self.most, chance) for i, place in enumerate(places)]
        return [Anchor(span, [self._positive(span, words, chance) for _ in range(self.positives)]) for span in anchors]

    def _anchor(self, block: int, chance: Random) -> range:
        size = self._length(chance.betavariate(4, 2), self.most)
        start = block + chance.randint(0, self.most - size)
        return range(start, start + size)

    def _positive(self, anchor: range, words: int, chance: Random) -> range:
        short = chance.betavariate(2, 4)
        if self.placing == "subsuming":
            size = self._length(short, len(anchor))
            start = chance.randint(anchor.start, anchor.stop - size)
        elif self.placing == "adjacent":
            size = self._length(short, min(self.most, max(anchor.start, words - anchor.stop)))
            starts = [start for start in (anchor.start - size, anchor.stop) if 0 <= start <= words - size]
            start = chance.choice(starts)
        else:
            size = self._length(short, self.most)
            start = chance.randint(max(0, anchor.start - size), min(anchor.stop, words - size))
        return range(start, start + size)

    def _length(self, share: float, most: int) -> int:
        return self.least + int(share * (most - self.least))
