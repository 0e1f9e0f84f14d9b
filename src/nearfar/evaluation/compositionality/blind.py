"""Baselines that never see the image. Tasks of this kind can be solved by taste in sentences alone, so a score means
something only beside theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from nearfar.data.mining.grammar import words
from nearfar.evaluation.compositionality.choice import ChoiceQuestion

_START, _END = "<s>", "</s>"


class NgramBaseline:
    """Scores a caption by how plausible it is as a sentence: an interpolated n-gram model of training captions.

    p(w | h) = (c(h w) + kappa p(w | h')) / (c(h) + kappa) with h' one word shorter (Witten-Bell's form with a fixed
    pseudo-count; MacKay and Peto's Dirichlet prior), down to a uniform share for words not in training.

    Args:
        order: longest n-gram.
        kappa: pseudo-count of the shorter history.

    Example:
        >>> blind = NgramBaseline().fit(["a red dog runs", "a red cat runs"])
        >>> blind("a red dog") > blind("dog red a")
        True
    """

    def __init__(self, order: int = 3, kappa: float = 1.0) -> None:
        if order < 1 or kappa <= 0:
            raise ValueError(f"order must be at least 1 and kappa positive, got {order} and {kappa}")
        self.order = order
        self.kappa = kappa
        self.counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order + 1)]
        self.histories: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order + 1)]

    def fit(self, captions: Iterable[str]) -> NgramBaseline:
        """Count the n-grams of `captions`."""
        for caption in captions:
            tokens = self._tokens(caption)
            for n in range(1, self.order + 1):
                for i in range(self.order - 1, len(tokens)):
                    self.counts[n][tuple(tokens[i - n + 1 : i + 1])] += 1
                    self.histories[n][tuple(tokens[i - n + 1 : i])] += 1
        if not self.counts[1]:
            raise ValueError("no caption to fit the text-only baseline on")
        return self

    def __call__(self, caption: str) -> float:
        """Mean log-probability of the caption's words, its end included."""
        tokens = self._tokens(caption)
        logs = [
            math.log(self._share(tuple(tokens[i - self.order + 1 : i]), tokens[i]))
            for i in range(self.order - 1, len(tokens))
        ]
        return sum(logs) / len(logs)

    def _share(self, history: tuple[str, ...], word: str) -> float:
        share = 1 / (len(self.counts[1]) + 1)  # one more for all unseen words
        for n in range(1, self.order + 1):
            context = history[len(history) - n + 1 :]
            total = self.histories[n][context]
            share = (self.counts[n][(*context, word)] + self.kappa * share) / (total + self.kappa)
        return share

    def _tokens(self, caption: str) -> Sequence[str]:
        return [_START] * (self.order - 1) + words(caption.lower()) + [_END]


def cross_fitted(cases: Sequence[ChoiceQuestion], images: Sequence[int]) -> list[list[float]]:
    """Text-only scores of the cases' options where there are no training captions: those of half of the images are
    scored by a baseline fitted on the true captions of the other half.

    Args:
        cases: the questions.
        images: for each the number of its image; at least two differ.
    """
    order = {image: place for place, image in enumerate(dict.fromkeys(images))}
    halves = [order[image] % 2 for image in images]
    blind = [
        NgramBaseline().fit(case.captions[0] for case, half in zip(cases, halves, strict=True) if half != fold)
        for fold in (0, 1)
    ]
    return [[blind[half](caption) for caption in case.captions] for case, half in zip(cases, halves, strict=True)]
