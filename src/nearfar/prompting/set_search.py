"""Evolution of sets without gradients: the best parents, changed and crossed, until the generations are over (ProAPO,
arXiv 2502.19844). Knows nothing of texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random

from nearfar.errors import at_least
from nearfar.prompting.score_log import ScoreLog
from nearfar.prompting.set_operators import Candidate, Operators, drawn_new


@dataclass(frozen=True)
class SearchSize:
    """How much is searched. A generation scores at most `parents * (adds + removes + replaces) + mutations +
    crossovers` sets.

    Args:
        generations: how many; 0 takes the best start.
        parents: the best sets so far, which a generation starts from.
        adds, removes, replaces: sets that each parent gives by one change.
        mutations: sets drawn afresh, of 2 items in the first generation and one more in each that follows.
        crossovers: sets made of all parents.

    Raises:
        UserError: a number below 0, or no parents.
    """

    generations: int = 8
    parents: int = 4
    adds: int = 8
    removes: int = 8
    replaces: int = 8
    mutations: int = 8
    crossovers: int = 16

    def __post_init__(self) -> None:
        at_least(1, parents=self.parents)
        at_least(0, **{name: value for name, value in vars(self).items() if name != "parents"})

    @property
    def most(self) -> int:
        """Sets that a generation scores at most."""
        return self.parents * (self.adds + self.removes + self.replaces) + self.mutations + self.crossovers


@dataclass(frozen=True)
class Generation:
    """How a search stands after a generation; number 0 is its start."""

    number: int
    best: Candidate
    score: float
    scored: int


def evolve(
    starts: Iterable[Candidate],
    library: Collection[int],
    score: Callable[[Candidate], float],
    size: SearchSize,
    *,
    step: str,
    seed: int = 0,
    onto: Candidate = frozenset(),
    weights: Mapping[int, float] | None = None,
    log: ScoreLog | None = None,
    after: Callable[[Generation], None] = lambda generation: None,
) -> dict[Candidate, float]:
    """Search sets of items for the highest score.

    Args:
        starts: sets to begin with.
        library: numbers of the items that may be drawn.
        score: what is maximised; each set is scored once.
        size: how much is searched.
        step: the search's name: its chance, and its lines of the log, hang on it.
        seed: of all draws.
        onto: items that mutations keep.
        weights: of the items, for draws that are not even.
        log: takes the scores, and gives those that an earlier run left.
        after: is called after the start and each generation.

    Returns:
        The score of every set that was scored. `best_of` gives the best.

    >>> scores = evolve([frozenset({0})], range(6), lambda items: -abs(sum(items) - 9), SearchSize(4), step="sum")
    >>> sum(best_of(scores, 1)[0])
    9
    """
    log = ScoreLog() if log is None else log
    population = log.scores(f"{step}, start", dict.fromkeys(starts), score)
    operators = Operators(library, weights)
    after(_standing(0, population))
    for number in range(1, size.generations + 1):
        draw = Random(f"{seed}, {step}, {number}")
        parents = best_of(population, size.parents)
        drawn: dict[Candidate, None] = {}
        for parent in parents:
            for change, count in (
                (operators.add, size.adds),
                (operators.remove, size.removes),
                (operators.replace, size.replaces),
            ):
                drawn_new(partial(change, parent, draw), count, population, drawn)
        drawn_new(partial(operators.mutate, 1 + number, draw, onto=onto), size.mutations, population, drawn)
        drawn_new(partial(operators.cross, parents, draw), size.crossovers, population, drawn)
        population |= log.scores(f"{step}, {number}", drawn, score)
        after(_standing(number, population))
    return population


def best_of(population: Mapping[Candidate, float], count: int) -> list[Candidate]:
    """The sets of the highest scores; of equal ones the smaller set, then the one of lower numbers."""
    return sorted(population, key=lambda items: (-population[items], len(items), sorted(items)))[:count]


def _standing(number: int, population: Mapping[Candidate, float]) -> Generation:
    best = best_of(population, 1)[0]
    return Generation(number, best, population[best], len(population))
