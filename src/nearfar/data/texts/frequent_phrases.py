"""Captions without those that repeat set phrases, as language models write them by the thousand (CLOSE, arXiv
2211.09778)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from nearfar.errors import at_least

LENGTHS = (4, 9)
"""Words of the shortest and of the longest phrase."""
COMMON, DIVISOR = 50, 800
"""How often a phrase occurs before it counts, and what its count is divided by."""


def drop_probabilities(texts: Sequence[str], *, common: int = COMMON, divisor: int = DIVISOR) -> list[float]:
    """With what probability each text is to be left out: for each of its phrases of 4 to 9 words that occurs `least`
    times or more in all texts, count / `divisor`, summed; 1 at most.

    Args:
        texts: all of them; case does not count.
        common: phrases below this are no set phrases.
        divisor: the count at which a phrase alone leaves its text out for certain.

    Raises:
        UserError: a number below 1.

    >>> texts = ["a photo of a cat"] * 2 + ["one dog"]
    >>> drop_probabilities(texts, common=2, divisor=16)
    [0.375, 0.375, 0.0]
    """
    at_least(1, common=common, divisor=divisor)
    counts = Counter(phrase for text in texts for phrase in _phrases(text))
    often = {phrase: count / divisor for phrase, count in counts.items() if count >= common}
    return [min(1.0, sum((often.get(phrase, 0.0) for phrase in _phrases(text)), 0.0)) for text in texts]


def without_set_phrases(
    texts: Sequence[str], *, common: int = COMMON, divisor: int = DIVISOR, seed: int = 0
) -> list[str]:
    """The texts that are left when each is left out by its `drop_probabilities`, in their order.

    Args:
        texts: all of them.
        common, divisor: as there.
        seed: of the draws.

    Raises:
        UserError: a number below 1.

    >>> without_set_phrases(["one dog", "a cat"])
    ['one dog', 'a cat']
    """
    draw = Random(seed)
    return [
        text
        for text, probability in zip(texts, drop_probabilities(texts, common=common, divisor=divisor), strict=True)
        if draw.random() >= probability
    ]


def _phrases(text: str) -> Iterator[tuple[str, ...]]:
    """Each of its phrases once for each place."""
    words, (shortest, longest) = text.lower().split(), LENGTHS
    for length in range(shortest, longest + 1):
        for start in range(len(words) - length + 1):
            yield tuple(words[start : start + length])
