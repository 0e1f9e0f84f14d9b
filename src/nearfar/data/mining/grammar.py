"""Just enough English grammar for captions: words, parts of speech, noun phrases, verb phrases.

Tags come from HanTa, whose English model (trained on the British National Corpus) comes inside its package: no
download. Its C5 tags are folded into the few that matter here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from nearfar.errors import need

Tag = Literal["noun", "adjective", "adverb", "verb", "determiner", "number", "other"]
Span = tuple[int, int]
"""Words `start:stop` of a sentence."""

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-'\u2019][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
_C5: tuple[tuple[str, Tag], ...] = (
    ("NN", "noun"),
    ("NP", "noun"),
    ("AJ", "adjective"),
    ("AV", "adverb"),
    ("V", "verb"),
    ("AT", "determiner"),
    ("DT", "determiner"),
    ("DP", "determiner"),
    ("CRD", "number"),
    ("ORD", "number"),
)


def words(caption: str) -> list[str]:
    """The caption's words and punctuation marks; "t-shirt" and "man's" stay whole.

    >>> words("A man's t-shirt, red.")
    ['A', "man's", 't-shirt', ',', 'red', '.']
    """
    return _WORD.findall(caption)


def sentence(tokens: Sequence[str]) -> str:
    """Words joined by spaces, closing punctuation set close. True and perturbed captions both go through it, so that
    spacing cannot give them away.

    >>> sentence(["A", "dog", ",", "and", "a", "cat", "."])
    'A dog, and a cat.'
    """
    return re.sub(r"\s+([,.;:!?)])", r"\1", " ".join(tokens))


def tags(tokens: Sequence[str]) -> list[Tag]:
    """The part of speech of each word.

    >>> tags(["two", "red", "dogs", "quickly", "chase", "the", "cat"])
    ['number', 'adjective', 'noun', 'adverb', 'verb', 'determiner', 'noun']
    """
    return [_fold(tag) for _, _, tag in _tagger().tag_sent(list(tokens), taglevel=1)] if tokens else []


def noun_phrases(tagged: Sequence[Tag]) -> list[Span]:
    """Spans `determiner? (adverb? adjective | number | noun)* noun`.

    >>> noun_phrases(tags(words("the small blue house near a tree")))
    [(0, 4), (5, 7)]
    """
    spans = []
    start = 0
    while start < len(tagged):
        stop = start + (tagged[start] == "determiner")
        last = None
        while stop < len(tagged) and tagged[stop] in ("adjective", "number", "noun", "adverb"):
            if tagged[stop] == "adverb" and (stop + 1 == len(tagged) or tagged[stop + 1] != "adjective"):
                break
            stop += 1
            if tagged[stop - 1] == "noun":
                last = stop
        if last is None:
            start += 1
        else:
            spans.append((start, last))
            start = last
    return spans


def verb_phrases(tagged: Sequence[Tag]) -> list[Span]:
    """Spans `verb? adverb* verb+`.

    >>> verb_phrases(tags(words("a dog is slowly chasing a cat and a bird sings")))
    [(2, 5), (10, 11)]
    """
    spans = []
    start = 0
    while start < len(tagged):
        if tagged[start] != "verb":
            start += 1
            continue
        stop = start + 1
        while stop < len(tagged) and tagged[stop] in ("verb", "adverb"):
            stop += 1
        while tagged[stop - 1] != "verb":
            stop -= 1
        spans.append((start, stop))
        start = stop
    return spans


def units(tagged: Sequence[Tag], kind: str) -> list[Span]:
    """The units of one kind: "noun", "adjective", "adverb", "verb_phrase", "noun_phrase".

    >>> units(tags(words("a red car and a blue house")), "adjective")
    [(1, 2), (5, 6)]
    """
    if kind == "noun_phrase":
        return noun_phrases(tagged)
    if kind == "verb_phrase":
        return verb_phrases(tagged)
    return [(i, i + 1) for i, tag in enumerate(tagged) if tag == kind]


def _fold(c5: str) -> Tag:
    return next((tag for prefix, tag in _C5 if c5.startswith(prefix)), "other")


@lru_cache(1)
def _tagger() -> Any:
    return need("HanTa.HanoverTagger", "grammar").HanoverTagger("morphmodel_en.pgz")
