"""Which classes a search changes together: those that descriptions help, and those that are confused (ProAPO's group
sampling, arXiv 2502.19844)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor

from nearfar.prompting.prompt_fitness import ShotScorer

CONFUSED = 0.04
"""A class is confused with another where it is among the first 5 of so large a share of the other's images."""
HOPELESS = 0.4
"""At most so large a share of the classes is left out because descriptions hurt them."""


def group_size(classes: int) -> int:
    """Classes of a group.

    >>> [group_size(classes) for classes in (2, 10, 47, 200, 1000)]
    [2, 5, 9, 13, 17]
    """
    return min(classes, max(2, int(2.5 * log(classes))))


def covered(classes: int) -> int:
    """Classes in groups of confused ones, in all.

    >>> [covered(classes) for classes in (2, 10, 47, 200, 1000)]
    [2, 10, 38, 52, 69]
    """
    return min(classes, max(2, int(10 * log(classes))))


def salient_groups(gains: Mapping[int, float], size: int, *, least: float) -> list[list[int]]:
    """The classes that profit from all their descriptions, the most first, in groups. Once there are two, the list ends
    at the first whose gain is below `least`.

    >>> salient_groups({0: 0.3, 1: -0.1, 2: 0.5, 3: 0.2, 4: 0.001}, 2, least=0.01)
    [[2, 0], [3]]
    """
    chosen: list[int] = []
    for number in sorted(gains, key=lambda c: (-gains[c], c)):
        if gains[number] <= 0 or (len(chosen) >= 2 and gains[number] < least):
            break
        chosen.append(number)
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def hopeless(gains: Mapping[int, float]) -> list[int]:
    """The classes that all their descriptions make worse, the worst first, two fifths of the classes at most.

    >>> hopeless({0: 0.3, 1: -0.1, 2: -0.5, 3: 0.0, 4: -0.2})
    [2, 4]
    """
    worse = sorted((c for c in gains if gains[c] < 0), key=lambda c: (gains[c], c))
    return worse[: int(HOPELESS * len(gains))]


def confused_groups(
    scorer: ShotScorer, class_vectors: Tensor, *, banned: Sequence[int] = (), size: int | None = None
) -> list[list[int]]:
    """Groups around the classes whose images fit their texts worst: with each those that are among the first 5 of its
    images, and where these are few its nearest neighbours among the class vectors.

    Args:
        scorer: the labelled images.
        class_vectors: `[C, D]`, floating point, unit rows.
        banned: numbers of classes that come into no group.
        size: of a group.
    """
    w, classes = class_vectors.double(), scorer.classes
    size = group_size(classes) if size is None else size
    entropy = scorer.cross_entropies(w)
    first = (scorer.features @ w.T).topk(min(5, classes), 1).indices
    alike = w @ w.T
    free = [c for c in range(classes) if c not in set(banned)]
    groups: list[list[int]] = []
    taken: set[int] = set()
    for anchor in sorted(free, key=lambda c: (-float(entropy[c]), c)):
        if len(taken) >= covered(classes) or not torch.isfinite(entropy[anchor]):
            break
        if anchor in taken:
            continue
        rows = first[scorer.labels == anchor]
        share = torch.bincount(rows.flatten(), minlength=classes) / len(rows)
        open_to = [c for c in free if c not in taken and c != anchor]
        often = sorted((c for c in open_to if share[c] >= CONFUSED), key=lambda c: (-float(share[c]), c))
        near = sorted((c for c in open_to if c not in set(often)), key=lambda c: (-float(alike[anchor, c]), c))
        group = [anchor, *often, *near][:size]
        taken |= set(group)
        groups.append(group)
    return groups
