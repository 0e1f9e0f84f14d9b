"""Hard negative captions (NegCLIP, arXiv 2210.01936, section 4): two units of one kind trade places.

"a red car left of a blue house" becomes "a blue car left of a red house" (adjectives), "a red house left of a blue car"
(nouns), ...: the same words, another meaning.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from nearfar import lookup
from nearfar.data.mining.grammar import Span, sentence, tags, units, words

KINDS = ("noun", "adjective", "adverb", "verb_phrase", "noun_phrase")
_LINKS = {"and", "or", ",", "&"}


@dataclass
class SwapReport:
    """What a swapper made of a corpus."""

    captions: int = 0
    with_negatives: int = 0
    made: Counter[str] = field(default_factory=Counter)
    """Negatives by kind."""
    without: Counter[str] = field(default_factory=Counter)
    """Captions without a negative of that kind, for want of two different units that may be swapped."""
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """A few (caption, negative) pairs by kind."""

    def __str__(self) -> str:
        share = self.with_negatives / max(self.captions, 1)
        lines = [f"{self.captions} captions, {self.with_negatives} ({share:.0%}) with at least one negative"]
        for kind in self.made:
            lines.append(f"  {kind}: {self.made[kind]} negatives, {self.without[kind]} captions without")
            lines += [f"    {caption}  ->  {negative}" for caption, negative in self.examples[kind]]
        return "\n".join(lines)


class CaptionSwapper:
    """Makes hard negatives of English captions by swapping two units of one kind.

    Args:
        kinds: which of `KINDS` to try; each gives at most one negative a caption.
        seed: the choice of the two units depends on the seed and the caption alone.
        keep_symmetric: also swap two units that only "and", "or" or a comma joins ("a cat and a dog"), although the
            meaning stays. The paper does; by default we do not, as such a negative is a true caption.
        fix_articles: let "a" and "an" agree with the word that now follows, so that grammar alone does not reveal the
            negative from the original.

    Example:
        >>> swapper = CaptionSwapper(kinds=("adjective",))
        >>> swapper("a red car is left of an orange house")
        {'adjective': 'an orange car is left of a red house'}
        >>> swapper("a red car")
        {}
    """

    def __init__(
        self,
        kinds: Sequence[str] = KINDS,
        *,
        seed: int = 0,
        keep_symmetric: bool = False,
        fix_articles: bool = True,
        examples: int = 3,
    ) -> None:
        lookup.check("kind of units", kinds, KINDS)
        self.kinds = tuple(kinds)
        self.seed = seed
        self.keep_symmetric = keep_symmetric
        self.fix_articles = fix_articles
        self.report = SwapReport()
        self._examples = examples

    def __call__(self, caption: str) -> dict[str, str]:
        """The caption's negatives by kind; counted in `self.report`."""
        tokens = words(caption)
        tagged = tags(tokens)
        original = sentence(tokens)
        rng = random.Random(f"{self.seed}:{caption}")
        negatives = {}
        for kind in self.kinds:
            pairs = [p for p in combinations(units(tagged, kind), 2) if self._may_swap(tokens, *p)]
            negative = sentence(self._articles(swap(tokens, *rng.choice(pairs)))) if pairs else original
            if negative.lower() == original.lower():
                self.report.without[kind] += 1
                continue
            negatives[kind] = negative
            self.report.made[kind] += 1
            examples = self.report.examples.setdefault(kind, [])
            if len(examples) < self._examples:
                examples.append((caption, negative))
        self.report.captions += 1
        self.report.with_negatives += bool(negatives)
        return negatives

    def corpus(self, captions: Iterable[str]) -> list[list[str]]:
        """The negatives of each caption of a corpus, kinds in order."""
        return [list(self(caption).values()) for caption in captions]

    def _may_swap(self, tokens: Sequence[str], first: Span, second: Span) -> bool:
        one, two = ([t.lower() for t in tokens[start:stop]] for start, stop in (first, second))
        if one == two:
            return False
        between = [t.lower() for t in tokens[first[1] : second[0]]]
        joined = bool(between) and between[0] in _LINKS and set(between) <= _LINKS | {"a", "an", "the"}
        return self.keep_symmetric or not joined

    def _articles(self, tokens: list[str]) -> list[str]:
        if not self.fix_articles:
            return tokens
        out = list(tokens)
        for i, token in enumerate(tokens[:-1]):
            if token.lower() in ("a", "an"):
                article = "an" if re.match("[aeiou]", tokens[i + 1].lower()) else "a"
                out[i] = article.capitalize() if token[0].isupper() else article
        return out


def swap(tokens: Sequence[str], first: Span, second: Span) -> list[str]:
    """Words with two spans exchanged; the same words, so the swap of the swapped spans restores the caption.

    >>> swap("the dog chases a small cat".split(), (0, 2), (3, 6))
    ['a', 'small', 'cat', 'chases', 'the', 'dog']
    """
    (a, b), (c, d) = sorted((first, second))
    if b > c:
        raise ValueError(f"the spans {first} and {second} overlap")
    return [*tokens[:a], *tokens[c:d], *tokens[b:c], *tokens[a:b], *tokens[d:]]
