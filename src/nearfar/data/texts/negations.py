"""Negations of English texts, and whether a change of the text changed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

WORDS = {"no", "not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without", "cannot"}
WORDS |= {"hardly", "barely", "scarcely", "unless", "except"}


def negations(words: Iterable[str]) -> Counter[str]:
    """The negating words among these, with how often each stands there; "don't", "isn't" and the like among them.

    >>> negations("No dog is here, and it isn't barking.".split())
    Counter({'no': 1, "isn't": 1})
    """
    plain = (word.strip(".,;:!?\"'()[]").lower().replace("\u2019", "'") for word in words)
    return Counter(word for word in plain if word in WORDS or word.endswith("n't"))


def negations_changed(before: Iterable[str], after: Iterable[str]) -> bool:
    """Whether a text has other negations after a change, or fewer.

    >>> negations_changed("it is not here".split(), "it is here".split())
    True
    """
    return negations(before) != negations(after)
