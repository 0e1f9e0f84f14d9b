"""Few-shot episodes: a few classes, a few examples of each, and queries to sort into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.errors import UserError


class Episodes(NamedTuple):
    """E episodes of N classes, as rows of the data."""

    support: Tensor
    """`[E, N, K]` int64: K examples of each class."""
    query: Tensor
    """`[E, M]` int64, one class after the other."""
    target: Tensor
    """`[M]` int64, in 0 to N - 1: the class of each query, alike in all episodes."""
    classes: int
    """How many classes the data has enough different things of, so that episodes could draw them."""


def draw_episodes(
    label: Tensor,
    thing: Tensor | None = None,
    *,
    ways: int,
    shots: int,
    queries: Sequence[int],
    episodes: int,
    seed: int,
    name: str = "the data",
    classes: Sequence[str] | None = None,
) -> Episodes:
    """Draw `episodes` of `ways` classes each, every class as likely as any other. A thing is at most once in an
    episode, so that none is both an example and a query, and no two queries are of one.

    Args:
        label: `[n]` int64, -1 where unknown.
        thing: `[n]` int64, equal for pictures of one thing; None: each picture is its own. A thing that occurs in
            several classes counts for its first row's.
        ways: classes in an episode, N.
        shots: examples of each, K.
        queries: how many queries the first, second, ... class of an episode has, N numbers.
        episodes: how many.
        seed: of the draw.
        name: of the data, for messages.
        classes: what the labels' numbers stand for, for messages.

    Raises:
        UserError: settings out of range, or fewer than `ways` classes with enough different things.

    >>> drawn = draw_episodes(torch.arange(40) % 4, ways=2, shots=1, queries=[3, 3], episodes=5, seed=0)
    >>> drawn.support.shape, drawn.query.shape, drawn.target.tolist()
    (torch.Size([5, 2, 1]), torch.Size([5, 6]), [0, 0, 0, 1, 1, 1])
    """
    if min(ways, shots, episodes, *queries) < 1:
        raise UserError(
            f"ways={ways}, shots={shots}, episodes={episodes} and queries={list(queries)} must be at least 1"
        )
    if len(queries) != ways:
        raise UserError(f"queries={list(queries)} must be one number, or one for each of the {ways} ways")
    rows_of = _rows_of_things(label, thing)
    need = shots + max(queries)
    enough = [things for things in rows_of.values() if len(things) >= need]
    if len(enough) < ways:
        sizes = sorted(map(len, rows_of.values()), reverse=True)
        most = (
            f"shots and queries may add up to {sizes[ways - 1]}"
            if len(sizes) >= ways
            else f"it has {len(sizes)} classes"
        )
        small = [(c, len(things)) for c, things in rows_of.items() if len(things) < need]
        named = ", ".join(f"{classes[c] if classes else f'class {c}'} has {count}" for c, count in small[:3])
        raise UserError(
            f"{name}: {ways} ways of {shots} shots and {max(queries)} queries need {ways} classes of {need} different "
            f"things each, and there are {len(enough)}: {most}"
            + (f" ({named}{', ...' if len(small) > 3 else ''})" if small else "")
        )
    rng = np.random.default_rng(seed)
    support, query = [], []
    for _ in range(episodes):
        chosen = [enough[c] for c in rng.choice(len(enough), ways, replace=False)]
        drawn = [_one_each(things, shots + count, rng) for things, count in zip(chosen, queries, strict=True)]
        support.append([rows[:shots] for rows in drawn])
        query.append(np.concatenate([rows[shots:] for rows in drawn]))
    target = torch.arange(ways).repeat_interleave(torch.tensor(list(queries)))
    return Episodes(torch.tensor(np.array(support)), torch.tensor(np.array(query)), target, len(enough))


def _rows_of_things(label: Tensor, thing: Tensor | None) -> dict[int, list[list[int]]]:
    """The rows of each thing of each class."""
    owner: dict[int, int] = {}
    rows_of: dict[int, dict[int, list[int]]] = {}
    things = (torch.arange(len(label)) if thing is None else thing).tolist()
    for row, (one, its_class) in enumerate(zip(things, label.tolist(), strict=True)):
        if its_class >= 0 and owner.setdefault(one, its_class) == its_class:
            rows_of.setdefault(its_class, {}).setdefault(one, []).append(row)
    return {its_class: list(rows_of[its_class].values()) for its_class in sorted(rows_of)}


def _one_each(things: Sequence[Sequence[int]], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A row of each of so many things, all drawn."""
    drawn = rng.choice(len(things), count, replace=False)
    return np.array([things[t][int(rng.random() * len(things[t]))] for t in drawn], dtype=np.int64)
