"""Few-shot classification in episodes: prototypes as they are, and moved onto the queries (OpTA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar import console
from nearfar.classifiers.classifier import blocks
from nearfar.classifiers.transported_means import Rule, class_scores, few_shot_settings, opta, standardised
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.episodes import Episodes, draw_episodes
from nearfar.evaluation.protocols.probes import things
from nearfar.evaluation.protocols.zero_shot_accuracy import labelled

KINDS: dict[str, dict[str, Any]] = {
    "prototypes": {"passes": 0},
    "opta": {"prior": "uniform"},
    "relaxed_opta": {"prior": "relaxed"},
}
"""What is measured on the same episodes."""
STUDENT = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
    *(2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963),
    *(2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407),
)
"""Quantiles of Student's t for 95 %, of 1 to 28 degrees of freedom."""


def few_shot(
    data: Embeddings,
    *,
    ways: int = 5,
    shots: Sequence[int] = (1, 5),
    queries: int | Sequence[int] = 15,
    episodes: int = 600,
    rule: Rule = "nearest",
    epsilon: float = 0.05,
    seed: int = 0,
) -> Result:
    """Accuracy in episodes of `ways` classes with a few labelled images each, as papers on few-shot learning report it:
    the mean over episodes, with 1.96 standard errors to both sides, or Student's t below 30 episodes.

    A thing (the pictures of one group) is at most once in an episode. Smaller numbers of shots take the first of the
    same examples, and have the same queries.

    Args:
        data: labelled images.
        ways: classes in an episode.
        shots: examples of each class; every number is measured.
        queries: images of each class to classify; a number for each way, [35, 20, 10, 5, 5], makes them imbalanced.
        episodes: how many; papers take 600 to 10,000.
        rule: how prototypes classify: the nearest, or "logistic", a regression fitted on the prototypes, as in BECLR
            (slow: a regression an episode).
        epsilon: softness of OpTA's plans.
        seed: of the episodes.

    Returns:
        For K shots `prototypes_K_shot` (class means of standardised vectors, inductive), `opta_K_shot` (moved onto the
        queries, which are presumed balanced, as in BECLR, arXiv 2402.02444) and `relaxed_opta_K_shot` (nothing is
        presumed of the classes' shares). The intervals are over episodes of these images and classes: of other classes
        they say nothing.

    Raises:
        UserError: no labels, or too few classes with enough images.

    >>> eye = torch.eye(8).repeat(20, 1)
    >>> result = few_shot(Embeddings(eye, label=torch.arange(8).repeat(20)), episodes=10)
    >>> result["prototypes_1_shot"], result["opta_5_shot"]
    (1.0, 1.0)
    """
    numbers = sorted({shots} if isinstance(shots, int) else set(shots))
    if not numbers or rule not in ("nearest", "logistic"):
        raise UserError(f"few_shot: shots={shots!r} must name numbers, and rule={rule!r} be nearest or logistic")
    each = [queries] * ways if isinstance(queries, int) else list(queries)
    drawn = draw_episodes(
        labelled(data),
        things(data),
        ways=ways,
        shots=numbers[-1],
        queries=each,
        episodes=episodes,
        seed=seed,
        name=data.source,
        classes=data.classes,
    )
    features = standardised(data.image.float())
    metrics = {
        f"{kind}_{count}_shot": over_episodes(right, ways)
        for count in numbers
        for kind, right in _right(features, drawn, count, epsilon, rule).items()
    }
    details = {"ways": ways, "shots": numbers, "queries": each, "episodes": episodes}
    details |= {"classes": drawn.classes, "rule": rule, "epsilon": epsilon}
    return Result("few_shot", metrics, details=details)


def over_episodes(accuracy: NDArray[np.float64], ways: int) -> Metric:
    """The mean of episodes' accuracies `[E]`, with its 95 % interval (the sample's deviation; Student's t below 30
    episodes, 1.96 from there on), and chance.

    >>> print(over_episodes(np.array([0.4, 0.6, 0.5, 0.5]), 5))
    50.0 (37.0 to 63.0)
    """
    mean, n = float(accuracy.mean()), len(accuracy)
    quantile = STUDENT[n - 2] if 1 < n < 30 else 1.96
    error = quantile * float(accuracy.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    return Metric(mean, max(0.0, mean - error), min(1.0, mean + error), 1 / ways, n, unit="%")


def _right(features: Tensor, drawn: Episodes, shots: int, epsilon: float, rule: Rule) -> dict[str, NDArray[np.float64]]:
    """The accuracy of each kind in each episode, `[E]`."""
    parts = list(_blocks(features, drawn, shots, epsilon, rule))
    return {kind: torch.cat([part[kind] for part in parts]).numpy() for kind in KINDS}


def _blocks(features: Tensor, drawn: Episodes, shots: int, epsilon: float, rule: Rule) -> Iterator[dict[str, Tensor]]:
    """The same, some episodes at a time."""
    usual = few_shot_settings(shots)
    for rows in console.track(list(blocks(len(drawn.query), 64)), f"{shots} shot"):
        prototypes = features[drawn.support[rows, :, :shots]].mean(2)
        query = features[drawn.query[rows]]
        yield {
            kind: _accuracy(opta(prototypes, query, epsilon=epsilon, **(usual | own)), query, drawn.target, rule)
            for kind, own in KINDS.items()
        }


def _accuracy(prototypes: Tensor, query: Tensor, target: Tensor, rule: Rule) -> Tensor:
    """`[E]` float64; classes that tie for the best share the hit."""
    scores = class_scores(prototypes, query, rule)
    best = scores == scores.amax(-1, keepdim=True)
    hit = best.gather(-1, target.expand(len(scores), -1)[..., None])[..., 0]
    return (hit / best.sum(-1)).double().mean(-1)
