"""Changes of a text's words: deletion of words and of spans, spans that change places, another order. Each says what it
may do to the meaning: one word fewer can turn a sentence into its opposite, and the pair is then a false positive that
nobody labelled (the reason why the survey arXiv 2102.12982 prefers labels to changed texts).

Words are what blanks separate. A text of one word, or of a language without blanks, stays as it is.
"""

from __future__ import annotations

from random import Random


def delete_words(words: list[str], share: float, chance: Random) -> list[str]:
    """Each word is left out with the probability `share`; one at least stays (CLEAR, arXiv 2012.15466, takes 0.7).

    Risk: high. "not", "no" and "never" are words like others, and so is the one that tells two sentences apart; the
    share of texts whose negations changed is logged in training.

    >>> delete_words("a red car beside no tree".split(), 0.5, Random(1))
    ['red', 'car']
    """
    kept = [word for word in words if chance.random() >= share]
    return kept or [chance.choice(words)]


def delete_spans(words: list[str], count: int, share: float, chance: Random) -> list[str]:
    """`count` spans, each of `share` of the words (one at least), are cut out; one word at least stays (CLEAR, arXiv
    2012.15466: five of 0.05).

    Risk: high, as of `delete_words`; a whole clause may go, with its negation.

    >>> delete_spans("a red car beside no tree".split(), 1, 0.3, Random(1))
    ['a', 'beside', 'no', 'tree']
    """
    size = _size(words, share)
    gone = set[int]()
    for _ in range(count):
        start = chance.randrange(len(words) - size + 1)
        gone.update(range(start, start + size))
    return [word for place, word in enumerate(words) if place not in gone] or [chance.choice(words)]


def swap_spans(words: list[str], count: int, share: float, chance: Random) -> list[str]:
    """`count` times, two spans of `share` of the words each (one at least) change places (CLEAR, arXiv 2012.15466: five
    of 0.05). A text too short for two spans stays as it is.

    Risk: moderate. All words stay, but who did what to whom may change, and what a negation belongs to.

    >>> swap_spans("a red car beside no tree".split(), 1, 0.3, Random(2))
    ['no', 'tree', 'car', 'beside', 'a', 'red']
    """
    words, size = list(words), _size(words, share)
    for _ in range(count if len(words) >= 2 * size else 0):
        first, second = sorted(chance.sample(range(len(words) - 2 * size + 2), 2))
        second += size - 1
        left, right = slice(first, first + size), slice(second, second + size)
        words[left], words[right] = words[right], words[left]
    return words


def shuffle_words(words: list[str], chance: Random) -> list[str]:
    """All words in another order. ConSERT (arXiv 2105.11741) shuffles tokens, see `nearfar.methods.ConSERT`.

    Risk: moderate to high. The bag of words stays; all that their order says is lost, so that "the dog bit the man"
    becomes near to "the man bit the dog".

    >>> shuffle_words("a red car".split(), Random(0))
    ['a', 'car', 'red']
    """
    words = list(words)
    chance.shuffle(words)
    return words


def _size(words: list[str], share: float) -> int:
    return min(max(1, round(share * len(words))), len(words))
