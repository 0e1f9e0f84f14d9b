"""The first stage of ProAPO (arXiv 2502.19844), by itself ATO: which templates, averaged, suit a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar import console
from nearfar.prompting.prompt_fitness import Measured, ShotScorer
from nearfar.prompting.score_log import ScoreLog
from nearfar.prompting.set_operators import Candidate
from nearfar.prompting.set_search import Generation, SearchSize, best_of, evolve

Draws = Literal["uniform", "linear", "exp"]
"""How the operators draw items: all alike, or by how much better an item is alone than the plain one."""
LEEWAY = 3
"""A text is left out where it makes so many errors more than the plain one on one image a class."""


@dataclass(frozen=True)
class TemplatesFound:
    """What a search of templates gives.

    Args:
        templates: the best set, in the library's order.
        scores: the fitness of every set that was scored, by the templates' places.
        plain, all_templates, best: what the first template, the average of all, and the best set do on the images.
        kept: how many templates passed the screen.
    """

    templates: tuple[str, ...]
    scores: dict[Candidate, float]
    plain: Measured
    all_templates: Measured
    best: Measured
    kept: int


def search_templates(
    embed: Callable[[Sequence[str]], Tensor],
    scorer: ShotScorer,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    size: SearchSize | None = None,
    draws: Draws = "uniform",
    seed: int = 0,
    log: ScoreLog | None = None,
    after: Callable[[Generation], None] = lambda generation: None,
) -> TemplatesFound:
    """The set of templates whose averaged texts score best on labelled images.

    Args:
        embed: unit embeddings `[n, D]` of texts, as a `TextBank`.
        scorer: the labelled images.
        names: of the classes.
        templates: to choose from, the plain one first. Those that make three errors more than it on one image a class
            are left out.
        size: how much is searched; the paper's where none is named.
        draws: how the operators draw.
        seed: of all draws.
        log: keeps scores for a run that goes on.
        after: is called after each generation.
    """
    size, log = size or SearchSize(), ScoreLog() if log is None else log
    texts = [template.replace("{}", name) for template in templates for name in names]
    memory = embed(texts).unflatten(0, (len(templates), len(names)))
    singles = [scorer.measure(memory[i]) for i in range(len(templates))]
    kept = screened([each.top1 for each in singles], singles[0].top1, len(names))
    library = [i for i in range(len(templates)) if kept[i]]

    def score(items: Candidate) -> float:
        return scorer.score(averaged(memory, items))

    starts = first_draws(library, size.parents, seed)
    alone = {i: scorer.fitness(singles[i]) for i in library}
    with console.bar("searching templates", size.generations) as line:

        def note(generation: Generation) -> None:
            line.move(generation.number, f"{generation.score:.4f} after {generation.scored:,}")
            after(generation)

        scores = evolve(
            starts,
            library,
            score,
            size,
            step="templates",
            seed=seed,
            weights=draw_weights(alone, scorer.fitness(singles[0]), draws),
            log=log,
            after=note,
        )
    # The plain template is what a user has without a search: no result is worse on these images.
    scores.setdefault(frozenset({0}), scorer.fitness(singles[0]))
    best = best_of(scores, 1)[0]
    return TemplatesFound(
        tuple(templates[i] for i in sorted(best)),
        scores,
        singles[0],
        scorer.measure(averaged(memory, range(len(templates)))),
        scorer.measure(averaged(memory, best)),
        len(library),
    )


def averaged(memory: Tensor, items: Any) -> Tensor:
    """Class vectors `[C, D]` float64, unit rows: the mean of unit embeddings `memory` `[L, C, D]` over some of the L
    templates, at unit length. It depends on the set alone, not on the order it is named in."""
    return normalize(memory[sorted(set(items))].double().sum(0), dim=1)


def screened(top1: Sequence[float], plain: float, classes: int) -> list[bool]:
    """Which texts, each alone with this share of hits, are not much worse than the plain one: less than three images of
    one a class. The plain one stays.

    >>> screened([0.5, 0.48, 0.47, 0.9], 0.5, 100)
    [True, True, False, True]
    """
    least = (LEEWAY - 1) / classes + 0.001
    return [plain - share < least for share in top1]


def first_draws(library: Sequence[int], count: int, seed: int) -> list[Candidate]:
    """Single items, drawn from a library."""
    from random import Random

    return [frozenset({i}) for i in Random(f"{seed}, first").sample(list(library), min(count, len(library)))]


def draw_weights(alone: dict[int, float], plain: float, draws: Draws) -> dict[int, float] | None:
    """Weights of items by their fitness alone, beside that of the plain one; None for even draws.

    >>> draw_weights({0: 1.0, 1: 1.5}, 1.0, "linear")
    {0: 1.0, 1: 1.5}
    """
    if draws == "uniform":
        return None
    gains = {item: value - plain for item, value in alone.items()}
    if draws == "linear":
        return {item: gain + 1 for item, gain in gains.items()}
    return {item: float(torch.tensor(gain, dtype=torch.float64).exp()) for item, gain in gains.items()}
