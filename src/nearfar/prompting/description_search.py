"""The second stage of ProAPO (arXiv 2502.19844): names and descriptions of each class, through fixed templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console
from nearfar.errors import at_least
from nearfar.prompting.class_groups import confused_groups, group_size, hopeless, salient_groups
from nearfar.prompting.class_texts import ClassTexts
from nearfar.prompting.prompt_fitness import GroupScorer, ShotScorer
from nearfar.prompting.prompt_library import PromptLibrary
from nearfar.prompting.score_log import ScoreLog
from nearfar.prompting.set_operators import Candidate
from nearfar.prompting.set_search import Generation, SearchSize, best_of, evolve
from nearfar.prompting.template_search import Draws, draw_weights, screened

State = tuple[tuple[int, ...], ...]
"""The numbers of the items of each class, sorted."""
SMALLEST_GAIN = 0.01
"""Of the fitness, in the unit of its larger weight: a class that profits less starts no group."""


@dataclass(frozen=True)
class GroupSearch:
    """How many groups of classes are searched, and how much each.

    Args:
        rounds: how often groups are made, from the texts as they are then; 0 changes no description.
        groups: of a round.
        starts: assignments of descriptions to all classes that are tried before, half of them with a number of
            descriptions of each class's own, half with one for all; 0 starts from names alone.
        size: of the search within a group.

    Raises:
        UserError: a number below 0.
    """

    rounds: int = 3
    groups: int = 4
    starts: int = 32
    size: SearchSize = field(default_factory=lambda: SearchSize(generations=4, mutations=4))

    def __post_init__(self) -> None:
        at_least(0, rounds=self.rounds, groups=self.groups, starts=self.starts)


class ClassItems:
    """The items of all classes as vectors: of each item the mean of its unit embeddings through all templates.

    Args:
        library: the classes and what may be said of them.
        templates: what every item is put into.
        embed: unit embeddings `[n, D]` of texts, as a `TextBank`.
    """

    def __init__(
        self, library: PromptLibrary, templates: Sequence[str], embed: Callable[[Sequence[str]], Tensor]
    ) -> None:
        self.library, self.templates = library, tuple(templates)
        listed = [library.items(name) for name in library.names]
        self.items = [item for own in listed for item in own]
        self.owner = [c for c, own in enumerate(listed) for _ in own]
        ends = torch.tensor([len(own) for own in listed]).cumsum(0).tolist()
        self.of_class = [range(end - len(own), end) for end, own in zip(ends, listed, strict=True)]
        texts = [library.sentence(template, item) for item in self.items for template in self.templates]
        self.vectors = embed(texts).double().unflatten(0, (-1, len(self.templates))).mean(1)

    def vector(self, items: Sequence[int]) -> Tensor:
        """The class vector `[D]` float64 of a class with these items: normalise, average, normalise."""
        return normalize(self.vectors[list(items)].sum(0), dim=0)

    def class_vectors(self, state: State) -> Tensor:
        """The vectors `[C, D]` float64 of all classes."""
        return torch.stack([self.vector(items) for items in state])

    def named(self) -> State:
        """Every class by its name alone."""
        return tuple((own[0],) for own in self.of_class)

    def described(self, c: int) -> list[int]:
        """The items of a class that hold a description with its own name; its name where it has none."""
        own, name = self.of_class[c], self.library.names[c]
        with_text = [i for i in own if self.items[i].description and self.items[i].label == name]
        return with_text or [own[0]]

    def all_described(self) -> State:
        """Every class by all its descriptions."""
        return tuple(tuple(self.described(c)) for c in range(len(self.of_class)))

    def texts(self, state: State) -> ClassTexts:
        """The sentences of a state."""
        sentences = {
            name: list(dict.fromkeys(self.library.sentence(t, self.items[i]) for i in own for t in self.templates))
            for name, own in zip(self.library.names, state, strict=True)
        }
        return ClassTexts.from_sentences(sentences)


@dataclass(frozen=True)
class GroupStanding:
    """Where the search of descriptions stands: the round, the group in it (numbers from 1), its classes, and its
    generation."""

    round: int
    group: int
    classes: tuple[str, ...]
    generation: Generation


def search_descriptions(
    items: ClassItems,
    scorer: ShotScorer,
    *,
    search: GroupSearch | None = None,
    draws: Draws = "uniform",
    seed: int = 0,
    log: ScoreLog | None = None,
    after: Callable[[GroupStanding], None] = lambda standing: None,
) -> State:
    """The items of each class that score best on labelled images, by evolution within groups of classes.

    Args:
        items: what may be chosen.
        scorer: the labelled images.
        search: how much is searched; the paper's where none is named.
        draws: how the operators draw.
        seed: of all draws.
        log: keeps scores for a run that goes on.
        after: is called after each generation.

    Returns:
        The items of each class. The fitness is never below that of the best start.
    """
    search, log = search or GroupSearch(), ScoreLog() if log is None else log
    state = best_start(items, scorer, search.starts, seed)
    with console.bar("searching descriptions", search.rounds * search.groups * search.size.generations) as line:
        for turn in range(1, search.rounds + 1):
            for place, group in enumerate(groups_of(items, scorer, state)[: search.groups], 1):
                before = ((turn - 1) * search.groups + place - 1) * search.size.generations
                classes = tuple(items.library.names[c] for c in group)

                def note(
                    generation: Generation,
                    turn: int = turn,
                    place: int = place,
                    before: int = before,
                    classes: tuple[str, ...] = classes,
                ) -> None:
                    line.move(before + generation.number, f"{generation.score:.4f}")
                    after(GroupStanding(turn, place, classes, generation))

                state = search_group(
                    items,
                    scorer,
                    state,
                    group,
                    size=search.size,
                    draws=draws,
                    step=f"round {turn}, group {place}",
                    seed=seed,
                    log=log,
                    after=note,
                )
    return state


def search_group(
    items: ClassItems,
    scorer: ShotScorer,
    state: State,
    group: Sequence[int],
    *,
    size: SearchSize,
    draws: Draws = "uniform",
    step: str = "group",
    seed: int = 0,
    log: ScoreLog | None = None,
    after: Callable[[Generation], None] = lambda generation: None,
) -> State:
    """The state after a search of the items of one group's classes. A class that a candidate leaves without items keeps
    what it has. Arguments as of `search_descriptions`."""
    vectors = items.class_vectors(state)
    scoring = _GroupState(items, scorer.within(vectors, group), state, group)
    current = scoring.current
    plain = scorer.measure(vectors)
    pool = [i for c in group for i in items.of_class[c]]
    alone = {i: scoring.scorer.measure(scoring.vectors(current | {i})) for i in pool}
    kept = screened([alone[i].top1 for i in pool], plain.top1, scorer.classes)
    library = [i for i, stays in zip(pool, kept, strict=True) if stays]
    draw = Random(f"{seed}, {step}, starts")
    new = [i for i in library if i not in current]
    starts = [current, *(current | {i} for i in draw.sample(new, min(size.parents, len(new))))]
    scores = evolve(
        starts,
        library,
        lambda candidate: scoring.scorer.score(scoring.vectors(candidate)),
        size,
        step=step,
        seed=seed,
        onto=current,
        weights=draw_weights({i: scorer.fitness(alone[i]) for i in {*library, *current}}, scorer.fitness(plain), draws),
        log=log,
        after=after,
    )
    return scoring.state(best_of(scores, 1)[0])


class _GroupState:
    """Candidates of a group, flat sets of items, as vectors and as states."""

    def __init__(self, items: ClassItems, scorer: GroupScorer, state: State, group: Sequence[int]) -> None:
        self.items, self.scorer, self.before, self.group = items, scorer, state, tuple(group)
        self.current: Candidate = frozenset(i for c in group for i in state[c])
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def split(self, candidate: Iterable[int]) -> list[tuple[int, ...]]:
        own: dict[int, list[int]] = {c: [] for c in self.group}
        for i in sorted(candidate):
            own[self.items.owner[i]].append(i)
        return [tuple(own[c]) or self.before[c] for c in self.group]

    def vectors(self, candidate: Iterable[int]) -> Tensor:
        return torch.stack([self._vector(own) for own in self.split(candidate)])

    def state(self, candidate: Candidate) -> State:
        new: Mapping[int, tuple[int, ...]] = dict(zip(self.group, self.split(candidate), strict=True))
        return tuple(new.get(c, own) for c, own in enumerate(self.before))

    def _vector(self, own: tuple[int, ...]) -> Tensor:
        # One text changes in most candidates: the other classes' vectors are at hand.
        if own not in self._kept:
            self._kept[own] = self.items.vector(own)
        return self._kept[own]


def groups_of(items: ClassItems, scorer: ShotScorer, state: State) -> list[list[int]]:
    """The groups of a round, first the classes that all their items help, then those that are confused."""
    vectors = items.class_vectors(state)
    plain = scorer.score(vectors)
    has_images = scorer.labels.bincount(minlength=scorer.classes) > 0
    # A class with nothing but its name has nothing to search. Of one without images, texts that fit nothing would win.
    fixed = [c for c, own in enumerate(items.of_class) if len(own) == 1 or not has_images[c]]
    gains = {
        c: scorer.within(vectors, [c]).score(items.vector(own)[None]) - plain
        for c, own in enumerate(items.of_class)
        if c not in set(fixed)
    }
    size, unit = group_size(scorer.classes), max(scorer.fitness.accuracy, scorer.fitness.likelihood)
    confused = confused_groups(scorer, vectors, banned=[*hopeless(gains), *fixed], size=size)
    return [*salient_groups(gains, size, least=SMALLEST_GAIN * unit), *confused]


def best_start(items: ClassItems, scorer: ShotScorer, starts: int, seed: int) -> State:
    """The best of some assignments of descriptions to all classes: names alone, all descriptions, and random numbers of
    them, a third of a class's at least (ProAPO's prompt sampling). With `starts` 0 names alone."""
    tried = [items.named()]
    if starts:
        tried.append(items.all_described())
        draw = Random(f"{seed}, assignments")
        own = [items.described(c) for c in range(scorer.classes)]
        most = max(map(len, own))
        for turn in range(starts):
            common = draw.randint(max(1, most // 3), most)
            counts = [common if turn % 2 else draw.randint(max(1, len(each) // 3), len(each)) for each in own]
            tried.append(
                tuple(
                    tuple(sorted(draw.sample(each, min(count, len(each)))))
                    for each, count in zip(own, counts, strict=True)
                )
            )
    return max(tried, key=lambda state: scorer.score(items.class_vectors(state)))
