"""How good class texts are on a few labelled images: accuracy, and the likelihood of the labels (ProAPO, arXiv
2502.19844). Nothing is encoded here, and nothing is differentiated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import UserError

TIE = 1e-6
"""Cosines that differ by less are equal: two classes of the same texts share a hit, whatever order products have."""


@dataclass(frozen=True)
class Measured:
    """What class vectors do on labelled images: shares of hits among the first 1 and 5, the mean cross-entropy, and the
    Frobenius norm of the cosines between different classes, each pair once."""

    top1: float
    top5: float
    cross_entropy: float
    redundancy: float = 0.0


@dataclass(frozen=True)
class Fitness:
    """What a search maximises: a weighted sum.

    The paper's is accuracy + likelihood, the mean log-probability of the true classes: of few images many candidates
    are right on equally many, and the likelihood tells them apart.

    Args:
        accuracy, top5: weights of the shares of hits.
        likelihood: of the mean log-probability, minus the cross-entropy.
        redundancy: of the norm of the cosines between classes. The released code adds it, so that above 0 it rewards
            classes that are alike.

    >>> Fitness()(Measured(top1=0.5, top5=1.0, cross_entropy=1.25))
    -0.75
    """

    accuracy: float = 1.0
    likelihood: float = 1.0
    top5: float = 0.0
    redundancy: float = 0.0

    def __call__(self, measured: Measured) -> float:
        return (
            self.accuracy * measured.top1
            + self.top5 * measured.top5
            + self.redundancy * measured.redundancy
            - self.likelihood * measured.cross_entropy
        )


FITNESS: Mapping[str, Fitness] = MappingProxyType(
    {"paper": Fitness(), "released": Fitness(10.0, 10.0, 10.0, 0.05), "accuracy": Fitness(1.0, 0.0)}
)
"""`paper`: accuracy + likelihood. `released`: the released code's defaults. `accuracy`: for models that give
labels and no probabilities."""


def text_redundancy(class_vectors: Tensor) -> float:
    """The Frobenius norm of the cosines between different classes, each pair once.

    Args:
        class_vectors: `[C, D]`, floating point, unit rows.

    >>> text_redundancy(torch.eye(3)), round(text_redundancy(torch.ones(3, 1)), 6)
    (0.0, 1.732051)
    """
    w = class_vectors.double()
    return float((w @ w.T).triu(1).norm())


class ShotScorer:
    """Labelled images that class texts are scored on.

    Args:
        features: `[N, D]`, floating point; normalised here.
        labels: `[N]` int64, from 0 to C - 1.
        classes: C.
        temperature: what cosines are divided by.
        fitness: what is maximised.

    Raises:
        UserError: no images, shapes that do not fit, features that are not finite, or a label out of range.

    >>> scorer = ShotScorer(torch.eye(5), torch.arange(5), classes=5, temperature=1.0, fitness=FITNESS["released"])
    >>> round(scorer.score(torch.eye(5)), 6)
    10.951676
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        classes: int,
        temperature: float = 0.01,
        fitness: Fitness | None = None,
    ) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
            raise UserError(
                f"labelled images: features {list(features.shape)} and labels {list(labels.shape)} must be [N, D] and "
                "[N], of one image at least"
            )
        if not bool(features.isfinite().all()):
            raise UserError("labelled images: some features are NaN or infinite")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise UserError(f"labelled images: labels must lie from 0 to {classes - 1}, one for each class")
        if not temperature > 0:
            raise UserError(f"temperature={temperature}: what cosines are divided by must be above 0")
        # Double precision: what is scored in another order, or a few classes at a time, gives the same figures.
        self.features, self.labels = normalize(features.double(), dim=1), labels.long()
        self.classes, self.temperature = classes, temperature
        self.fitness = Fitness() if fitness is None else fitness

    def measure(self, class_vectors: Tensor) -> Measured:
        """What unit class vectors `[C, D]`, floating point, do on all images."""
        w = class_vectors.double()
        cosines = self.features @ w.T
        own = cosines.gather(1, self.labels[:, None])
        above = (cosines > own + TIE).sum(1)
        equal = ((cosines - own).abs() <= TIE).sum(1)
        nll = torch.logsumexp(cosines / self.temperature, 1) - own[:, 0] / self.temperature
        redundancy = text_redundancy(w) if self.fitness.redundancy else 0.0
        return self._measured(above, equal, nll, redundancy)

    def score(self, class_vectors: Tensor) -> float:
        """The fitness of unit class vectors `[C, D]`, floating point."""
        return self.fitness(self.measure(class_vectors))

    def cross_entropies(self, class_vectors: Tensor) -> Tensor:
        """The mean cross-entropy of each class's images under class vectors `[C, D]`, floating point: `[C]` float64,
        -infinity for a class without images."""
        nll = -(self.features @ class_vectors.double().T / self.temperature).log_softmax(1)
        own = nll.gather(1, self.labels[:, None])[:, 0]
        count = self.labels.bincount(minlength=self.classes)
        sums = torch.zeros(self.classes, dtype=torch.float64).index_add_(0, self.labels, own)
        return torch.where(count > 0, sums / count.clamp_min(1), -torch.inf)

    def within(self, class_vectors: Tensor, group: Sequence[int]) -> GroupScorer:
        """A scorer of other vectors for the classes of a `group`, beside those of all others in `class_vectors` `[C,
        D]`, floating point."""
        return GroupScorer(self, class_vectors, group)

    def _measured(self, above: Tensor, equal: Tensor, nll: Tensor, redundancy: float) -> Measured:
        # Classes that tie share the hit.
        first, five = (((k - above).double() / equal).clamp(0, 1).mean() for k in (1, min(5, self.classes)))
        return Measured(float(first), float(five), float(nll.mean()), redundancy)


class GroupScorer:
    """Scores vectors of a few classes: what the other classes' columns give is computed once, so that a candidate costs
    a product of N images and the group's G classes, not of all C. Gives what `ShotScorer` gives.

    Args:
        scorer: the images.
        class_vectors: `[C, D]` floating point, unit rows; those of the group are replaced by what is scored.
        group: numbers of the G classes.
    """

    def __init__(self, scorer: ShotScorer, class_vectors: Tensor, group: Sequence[int]) -> None:
        self.scorer, self.group = scorer, tuple(group)
        w, labels = class_vectors.double(), scorer.labels
        inside = torch.zeros(scorer.classes, dtype=torch.bool)
        inside[list(self.group)] = True
        self._others = w[~inside]
        rest = scorer.features @ self._others.T
        self._rest_log_sum = (
            torch.logsumexp(rest / scorer.temperature, 1)
            if rest.shape[1]
            else torch.full((len(labels),), -torch.inf, dtype=torch.float64)
        )
        position = torch.full((scorer.classes,), -1)
        position[list(self.group)] = torch.arange(len(self.group))
        self._is_inside = inside[labels]
        self._column = position[labels].clamp_min(0)
        self._own = (scorer.features * w[labels]).sum(1)
        # Images of other classes: their own column stays, so how many of the rest are above it does, too.
        self._above = (rest > self._own[:, None] + TIE).sum(1)
        self._equal = ((rest - self._own[:, None]).abs() <= TIE).sum(1)
        # Images of the group's classes: few rows, to be compared anew.
        self._rest_of_inside = rest[self._is_inside]
        self._redundancy = text_redundancy(self._others) if scorer.fitness.redundancy else 0.0

    def measure(self, vectors: Tensor) -> Measured:
        """What unit vectors `[G, D]`, floating point, of the group's classes do on all images."""
        scorer, v = self.scorer, vectors.double()
        columns = scorer.features @ v.T
        own = torch.where(self._is_inside, columns.gather(1, self._column[:, None])[:, 0], self._own)
        above = (columns > own[:, None] + TIE).sum(1)
        equal = ((columns - own[:, None]).abs() <= TIE).sum(1)
        of_inside = own[self._is_inside][:, None]
        rest_above, rest_equal = self._above.clone(), self._equal.clone()
        rest_above[self._is_inside] = (self._rest_of_inside > of_inside + TIE).sum(1)
        rest_equal[self._is_inside] = ((self._rest_of_inside - of_inside).abs() <= TIE).sum(1)
        log_sum = torch.logaddexp(self._rest_log_sum, torch.logsumexp(columns / scorer.temperature, 1))
        redundancy = 0.0
        if scorer.fitness.redundancy:
            between = float((v @ self._others.T).norm())
            redundancy = (self._redundancy**2 + between**2 + text_redundancy(v) ** 2) ** 0.5
        return scorer._measured(above + rest_above, equal + rest_equal, log_sum - own / scorer.temperature, redundancy)

    def score(self, vectors: Tensor) -> float:
        """The fitness of unit vectors `[G, D]`, floating point, of the group's classes."""
        return self.scorer.fitness(self.measure(vectors))


def prompt_fitness(
    features: Tensor,
    labels: Tensor,
    class_vectors: Tensor,
    *,
    temperature: float = 0.01,
    fitness: Fitness | None = None,
) -> float:
    """The fitness of class vectors on labelled images (arXiv 2502.19844).

    Args:
        features: `[N, D]`, floating point, of any lengths.
        labels: `[N]` int64.
        class_vectors: `[C, D]`, floating point, unit rows.
        temperature: what cosines are divided by.
        fitness: accuracy + likelihood where none is named.

    Raises:
        UserError: as `ShotScorer`.

    >>> round(prompt_fitness(torch.eye(2), torch.arange(2), torch.eye(2), temperature=1.0), 6)
    0.686738
    """
    scorer = ShotScorer(features, labels, classes=len(class_vectors), temperature=temperature, fitness=fitness)
    return scorer.score(class_vectors)
