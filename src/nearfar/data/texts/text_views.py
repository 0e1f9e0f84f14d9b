"""Two views of each text by named presets: what the input-input methods of the survey arXiv 2102.12982 contrast.

All chance of a record comes from one number, which depends on the seed, the epoch and the record alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from nearfar import lookup
from nearfar.data.texts import word_changes
from nearfar.data.texts.document_spans import DocumentSpans
from nearfar.data.texts.negations import negations_changed
from nearfar.errors import UserError

Changed = Literal["both", "second"]


@dataclass(frozen=True)
class TextView:
    """A view of a text: its words, and whether its negations are other than those of the words it was made of."""

    words: list[str]
    negations_changed: bool


@dataclass(frozen=True)
class TextViewPreset:
    """How two views of a text are made, in this order. `dataclasses.replace` changes one.

    Each change may change the meaning; how likely it does, its own page says.

    Attributes:
        spans: the views are an anchor and a positive of `nearfar.data.texts.document_spans`; None takes the whole text
            for both.
        delete: chance of each word to be left out.
        delete_spans: how many spans are cut out, and the share of the words that each has.
        swap_spans: how many pairs of spans change places, and the share of the words that each span has.
        shuffle: whether the words come in another order.
        cutoff: share of the tokens that the mask token hides.
        changed: whether "both" views are changed, each in its own way, or the "second" alone. Spans are always two.

    Raises:
        UserError: shares that are none, or nothing that would make two views differ.
    """

    spans: DocumentSpans | None = None
    delete: float = 0.0
    delete_spans: tuple[int, float] | None = None
    swap_spans: tuple[int, float] | None = None
    shuffle: bool = False
    cutoff: float = 0.0
    changed: Changed = "both"

    def __post_init__(self) -> None:
        parts = {"delete_spans": self.delete_spans, "swap_spans": self.swap_spans}
        shares = {"delete": self.delete, "cutoff": self.cutoff} | {n: part[1] for n, part in parts.items() if part}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise UserError(f"{name}: a share of a text is at least 0 and below 1, not {share}")
        if self.changed not in get_args(Changed):
            raise UserError(f"changed={self.changed!r}: choose both or second")
        if not (self.spans or self.delete or any(parts.values()) or self.shuffle or self.cutoff):
            raise UserError("a preset of text views that changes nothing gives the same text twice: leave it out")

    @property
    def deletes(self) -> bool:
        """Whether words are left out, so that it is worth to know how often a negation was among them."""
        return bool(self.delete or self.delete_spans)

    def views(self, words: list[str], number: int) -> tuple[TextView, TextView]:
        """Two views of a text of one word at least, by the chance of this number.

        Raises:
            UserError: spans are to be taken of a text that is too short for them.
        """
        chance = Random(number)
        first = second = words
        if self.spans is not None:
            anchor = self.spans.sample(len(words), chance)[0]
            first, second = (words[part.start : part.stop] for part in (anchor.span, anchor.positives[0]))
        return self._view(first, chance, self.changed == "both"), self._view(second, chance, True)

    def _view(self, words: list[str], chance: Random, changes: bool) -> TextView:
        after = words
        if changes and self.delete:
            after = word_changes.delete_words(after, self.delete, chance)
        if changes and self.delete_spans:
            after = word_changes.delete_spans(after, *self.delete_spans, chance)
        changed = negations_changed(words, after)
        if changes and self.swap_spans:
            after = word_changes.swap_spans(after, *self.swap_spans, chance)
        if changes and self.shuffle:
            after = word_changes.shuffle_words(after, chance)
        return TextView(after, changed)

    def hides(self, view: int) -> float:
        """The share of tokens that is hidden in the first (0) or the second (1) view."""
        return self.cutoff if self.changed == "both" or view else 0.0


PRESETS = {
    "deletion": TextViewPreset(delete=0.1),
    "span-deletion": TextViewPreset(delete_spans=(1, 0.2)),
    "reorder": TextViewPreset(swap_spans=(1, 0.2)),
    "shuffle": TextViewPreset(shuffle=True, changed="second"),
    "cutoff": TextViewPreset(cutoff=0.15),
    "shuffle-cutoff": TextViewPreset(shuffle=True, cutoff=0.15),
    "clear-words": TextViewPreset(delete=0.7),
    "clear-spans": TextViewPreset(delete_spans=(5, 0.05)),
    "clear-reorder": TextViewPreset(swap_spans=(5, 0.05)),
    "spans": TextViewPreset(spans=DocumentSpans(4, 24, anchors=1, positives=1)),
    "spans-subsuming": TextViewPreset(spans=DocumentSpans(4, 24, anchors=1, positives=1, placing="subsuming")),
    "spans-adjacent": TextViewPreset(spans=DocumentSpans(4, 24, anchors=1, positives=1, placing="adjacent")),
    "declutr": TextViewPreset(spans=DocumentSpans(32, 512, anchors=1, positives=1)),
}
"""`clear-words`, `clear-spans` and `clear-reorder` have CLEAR's strengths (arXiv 2012.15466), `cutoff` the share of
ConSERT's token cutoff (arXiv 2105.11741), `declutr` DeCLUTR's lengths (arXiv 2006.03659), for documents of 1,024 words
at least; the `spans` do with 48. The others are mild."""


def preset_of(preset: str | TextViewPreset) -> TextViewPreset:
    """The preset of this name, or the preset itself.

    Raises:
        UserError: no preset has the name; the nearest is named.

    >>> preset_of("deletion").delete
    0.1
    """
    return lookup.find("text views", preset, PRESETS) if isinstance(preset, str) else preset
