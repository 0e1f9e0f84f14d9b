"""What is tried, and how the best is found: by folds of the pairs that are adapted on, never on those held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.maps import GAMMAS, Pairs, PictureMap, Setting, kernel_path, linear_path
from nearfar.adaptation.training_plan import TrainSetting
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.protocols.retrieval import ranks
from nearfar.models.dual.blended import about

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Of the similarity, what the model as it was has in a blend."""

FOLDS, FEW = 4, 2000
"""Each of so many folds is held out once; of more than `FEW` records the first alone, and `FEW` of it at most: to rank
a million pictures for each setting would take days, and tell no more."""

START = "the model as it is"
LINEAR = "linear ridge map"
KERNEL = "kernel ridge map"
BLEND = "the model and a map"


TEMPERATURES = torch.logspace(-2.5, -0.3, 45)

Vectors = tuple[Tensor, Tensor]
"""Pictures `[N, D]` and captions `[M, D]` in one space, unit rows."""

Path = Callable[[Pairs], Iterator[tuple[Setting, PictureMap]]]
"""From pairs to the maps of several settings that are worked out together."""


@dataclass(frozen=True)
class Trial:
    """One candidate at its best settings.

    Attributes:
        name: what it is.
        score: mean reciprocal rank, mean of both directions and of the folds.
        setting: of its map, or of its training; None for the model as it is.
        start: the share of the similarity that the model as it was has.
        temperature: the divisor of similarities under which the captions of the first fold are likeliest; of what was
            trained, the learnt one.
        first: the score on the first fold alone, the only one that what trains is measured on.
    """

    name: str
    score: float
    setting: Setting | TrainSetting | None = None
    start: float = 0.0
    temperature: float | None = None
    first: float = 0.0


Candidate = tuple[Trial, list[Vectors]]
"""A trial, and the vectors that it gives on each fold."""


@dataclass(frozen=True)
class Fold:
    """What is fitted on, and what it is measured on."""

    fit: FrozenFeatures
    held: FrozenFeatures

    def score(self, vectors: Vectors) -> float:
        return score(self.held.embedded(*vectors))

    @cached_property
    def pairs(self) -> Pairs:
        """What maps are fitted on."""
        return Pairs.of(self.fit)

    @cached_property
    def captions(self) -> Tensor:
        """The held-out captions `[M, T]` about the centre of those that are fitted on."""
        return about(self.held.text, self.pairs.centre)

    def mapped(self, picture_map: PictureMap) -> Vectors:
        """The held-out pairs in the captions' space, pictures as a map brings them there."""
        return normalize(picture_map(self.held.image[0]), dim=1), self.captions

    def start(self) -> Vectors:
        """The held-out pairs by the model as it is, about the centres of those that are fitted on."""
        image, text = centres(self.fit)
        return about(self.held.data.image, image), about(self.held.data.text, text)

    def temperature(self, vectors: Vectors) -> float:
        """The one of `TEMPERATURES` under which the held-out captions' own pictures are likeliest."""
        image, text = vectors
        similarity, owner = text @ image.T, self.held.data.image_of_text
        losses = [cross_entropy(similarity / temperature, owner).item() for temperature in TEMPERATURES]
        return TEMPERATURES[losses.index(min(losses))].item()


def score(data: Embeddings) -> float:
    """Mean reciprocal rank of retrieval, mean of both directions."""
    both = []
    for direction in ("text_to_image", "image_to_text"):
        ranked, _ = ranks(data, direction)
        both.append(float(ranked[ranked.answerable()].reciprocal().mean()))
    return sum(both) / 2


def centres(features: FrozenFeatures) -> Vectors:
    """Where the model as it is puts the mean picture and the mean caption, `[D]` each."""
    return features.data.image.mean(0), features.data.text.mean(0)


def try_all(features: FrozenFeatures, fold: Tensor, *, seed: int = 0) -> list[Trial]:
    """Every candidate, on folds of the same features: the model as it is, the linear and the kernel ridge map at their
    best settings, and the model beside the better map at the best share. `fold` `[N]` int64 numbers each record's."""
    parts = list(_folds(features, fold))
    kernels = [partial(kernel_path, gamma=gamma, seed=seed) for gamma in GAMMAS]
    maps = [_best(_maps(name, parts, paths)) for name, paths in ((LINEAR, [linear_path]), (KERNEL, kernels))]
    better, vectors = max(maps, key=_score)
    assert isinstance(better.setting, Setting)
    by_fold = [score(part.held.data) for part in parts]
    as_it_is = Trial(START, _mean(by_fold), first=by_fold[0])
    best = [*maps, _best(_blends(parts, better.setting, vectors))]
    # Of the best alone: a temperature takes longer than a score.
    return [as_it_is, *(replace(trial, temperature=parts[0].temperature(each[0])) for trial, each in best)]


def _maps(name: str, parts: list[Fold], paths: Sequence[Path]) -> Iterator[Candidate]:
    """The maps of all settings. One path's vectors are held at a time: those of all would be most of the memory."""
    for path in paths:
        vectors: dict[Setting, list[Vectors]] = {}
        for part in parts:
            for setting, picture_map in path(part.pairs):
                vectors.setdefault(setting, []).append(part.mapped(picture_map))
        for setting, each in vectors.items():
            yield _trial(name, parts, each, setting)


def _blends(parts: list[Fold], setting: Setting, mapped: list[Vectors]) -> Iterator[Candidate]:
    """The model beside a map, at all shares."""
    starts = [part.start() for part in parts]
    for share in SHARES:
        vectors = [blend(share, *both) for both in zip(starts, mapped, strict=True)]
        yield _trial(BLEND, parts, vectors, setting, share)


def _best(candidates: Iterator[Candidate]) -> Candidate:
    return max(candidates, key=_score)


def ranked(trials: list[Trial]) -> list[Trial]:
    """The best of what is worked out by the mean over its folds, and all that was trained, the best of the first fold
    first; among equals the first, which is the plainest."""
    trained = [trial for trial in trials if isinstance(trial.setting, TrainSetting)]
    best = max((trial for trial in trials if trial not in trained), key=lambda trial: trial.score)
    return sorted([best, *trained], key=lambda trial: trial.first, reverse=True)


def blend(share: float, start: Vectors, mapped: Vectors) -> Vectors:
    """Both spaces' vectors side by side, so that similarities add up in these shares."""
    image, text = (torch.cat([share**0.5 * a, (1 - share) ** 0.5 * b], 1) for a, b in zip(start, mapped, strict=True))
    return image, text


def _trial(name: str, parts: list[Fold], vectors: list[Vectors], setting: Setting, share: float = 0.0) -> Candidate:
    by_fold = [part.score(each) for part, each in zip(parts, vectors, strict=True)]
    return Trial(name, _mean(by_fold), setting, share, first=by_fold[0]), vectors


def _folds(features: FrozenFeatures, fold: Tensor) -> Iterator[Fold]:
    for number in range(FOLDS if len(features) <= FEW else 1):
        held = (fold == number).nonzero()[:FEW, 0]
        yield Fold(features.select((fold != number).nonzero()[:, 0]), features.select(held))


def _score(candidate: Candidate) -> float:
    return candidate[0].score


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
