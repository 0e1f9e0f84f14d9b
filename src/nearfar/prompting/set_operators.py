"""How new sets come from old ones: add, remove, replace, mutate, cross (ProAPO, arXiv 2502.19844)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

Candidate = frozenset[int]
"""A set of numbers of items."""

ATTEMPTS = 64
"""Draws beyond the number that an operator should make, after which it makes no more: small libraries run out."""
SMALLEST = 2
"""A set of no more items loses none."""


def draw_probabilities(weights: Sequence[float], *, reverse: bool = False) -> list[float]:
    """Probabilities that go with weights; reversed, the heaviest is drawn least.

    >>> [round(p, 6) for p in draw_probabilities([1.0, 3.0])]
    [0.250012, 0.749988]
    >>> [round(p, 6) for p in draw_probabilities([1.0, 3.0], reverse=True)]
    [0.749938, 0.250062]
    """
    least = min(weights)
    raised = [weight - min(least, 0.0) + 1e-4 for weight in weights]
    p = [weight / sum(raised) for weight in raised]
    return draw_probabilities([1 - each for each in p]) if reverse else p


class Operators:
    """Draws from a library. The draws depend on the numbers of the items, not on the order in which sets hold them.

    Args:
        library: the numbers of the items that may be drawn.
        weights: of each item; heavy ones are added, and light ones removed, more often. None: all alike.
    """

    def __init__(self, library: Collection[int], weights: Mapping[int, float] | None = None) -> None:
        self.library = sorted(library)
        self.weights = weights

    def add(self, candidate: Candidate, draw: Random) -> Candidate | None:
        """With one more item; None where it holds all."""
        others = [item for item in self.library if item not in candidate]
        return candidate | {self._drawn(others, draw)} if others else None

    def remove(self, candidate: Candidate, draw: Random) -> Candidate | None:
        """Without one of its items; None where it has two or fewer."""
        if len(candidate) <= SMALLEST:
            return None
        return candidate - {self._drawn(sorted(candidate), draw, reverse=True)}

    def replace(self, candidate: Candidate, draw: Random) -> Candidate | None:
        """With another item in the place of one; None where it has none, or there is no other."""
        others = [item for item in self.library if item not in candidate]
        if not others or not candidate:
            return None
        out = self._drawn(sorted(candidate), draw, reverse=True)
        return candidate - {out} | {self._drawn(others, draw)}

    def mutate(self, size: int, draw: Random, *, onto: Candidate = frozenset()) -> Candidate | None:
        """So many items drawn afresh, beside those of `onto`."""
        others = [item for item in self.library if item not in onto]
        drawn = onto | frozenset(draw.sample(others, min(size, len(others))))
        return drawn or None

    def cross(self, parents: Sequence[Candidate], draw: Random) -> Candidate | None:
        """What all parents hold, and of the rest some, drawn by how many parents hold them."""
        shared = frozenset.intersection(*parents)
        rest = sorted(frozenset.union(*parents) - shared)
        if not rest:
            return shared or None
        votes = {item: sum(item in parent for parent in parents) for item in rest}
        chosen = set(shared)
        for _ in range(draw.randint(1, len(rest))):
            item = draw.choices(rest, [votes[each] for each in rest])[0]
            rest.remove(item)
            chosen.add(item)
        return frozenset(chosen)

    def _drawn(self, items: Sequence[int], draw: Random, *, reverse: bool = False) -> int:
        if self.weights is None:
            return draw.choice(items)
        weights = [self.weights.get(item, 0.0) for item in items]
        return draw.choices(items, draw_probabilities(weights, reverse=reverse))[0]


def drawn_new(
    make: Callable[[], Candidate | None], count: int, known: Collection[Candidate], drawn: dict[Candidate, None]
) -> None:
    """Put up to `count` sets that are new into `drawn`, by at most `count` + 64 draws."""
    full = len(drawn) + count
    for _ in range(count + ATTEMPTS if count else 0):
        candidate = make()
        if candidate is not None and candidate not in known:
            drawn[candidate] = None
        if len(drawn) >= full:
            break
