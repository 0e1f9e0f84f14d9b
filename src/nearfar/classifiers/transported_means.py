"""OpTA: the class means of a few examples are moved onto the queries by optimal transport before they classify them
(BECLR, arXiv 2402.02444, section 3.2)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nearfar.classifiers.classifier import Classifier, examples
from nearfar.classifiers.linear import fit_logistic, two_sided
from nearfar.errors import UserError
from nearfar.ops.transport import masses, transport_plan

Prior = Literal["uniform", "relaxed"] | Tensor | ArrayLike
Rule = Literal["logistic", "nearest"]
MIX = 0.7
"""Share of the transported mean, where a class has several examples."""


def opta(
    prototypes: Tensor,
    queries: Tensor,
    *,
    epsilon: float = 0.05,
    passes: int = 5,
    mix: float = 1.0,
    prior: Prior = "uniform",
) -> Tensor:
    """The prototypes, moved onto the queries (arXiv 2402.02444): in each pass a transport plan between the two, by
    squared distance over the greatest of them, then each prototype becomes the mean of its share of the queries.

    Args:
        prototypes: `[..., N, D]`, floating point; leading dimensions are episodes of their own.
        queries: `[..., M, D]`, all that are to be classified.
        epsilon: how soft the plan is.
        passes: how often; 0 leaves the prototypes as they are.
        mix: share of the moved prototype in the result; the rest is the given one.
        prior: the share of the queries that each class has: "uniform", `[..., N]` numbers, or "relaxed", no share at
            all: each query is spread over the classes by its own distances. "uniform" is the paper's; where classes
            have unequal numbers of queries it forces wrong ones onto the small, and "relaxed" does not.

    Returns:
        `[..., N, D]`, in the dtype of the prototypes. Two same episodes give the same; with one class the mean of the
        queries.

    Raises:
        UserError: shapes that do not fit, no prototypes or queries, values that are not finite, settings out of their
            range, or a prior of other numbers.

    >>> near = torch.tensor([[0.0, 1.0], [0.2, 1.0], [2.0, 1.0], [2.2, 1.0]])
    >>> opta(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), near, passes=2).round(decimals=4)
    tensor([[0.1000, 1.0000],
            [2.1000, 1.0000]])
    """
    if prototypes.ndim < 2 or queries.shape[:-2] != prototypes.shape[:-2] or queries.shape[-1] != prototypes.shape[-1]:
        raise UserError(
            f"prototypes {list(prototypes.shape)} and queries {list(queries.shape)} must be [..., N, D] and [..., M, D]"
        )
    if not prototypes.shape[-2] or not queries.shape[-2]:
        raise UserError(
            f"OpTA moves {prototypes.shape[-2]} prototypes onto {queries.shape[-2]} queries: give one of each"
        )
    if passes < 0 or not 0 <= mix <= 1:
        raise UserError(f"OpTA: passes={passes} must be 0 or more, and mix={mix} a share in [0, 1]")
    if not (bool(prototypes.isfinite().all()) and bool(queries.isfinite().all())):
        raise UserError("OpTA needs finite features: some are NaN or infinite")
    start, query = prototypes.double(), queries.double()
    moved = start
    for _ in range(passes):
        cost = torch.cdist(moved, query, compute_mode="donot_use_mm_for_euclid_dist").square()
        # Where all points are one, every cost is 0, and the plan is even.
        cost = cost / cost.amax((-2, -1), keepdim=True).clamp_min(1e-300)
        plan = _plan(cost, prior, epsilon)
        mass = plan.sum(-1, keepdim=True)
        # A class that no query belongs to stays where it is.
        moved = ((plan @ query) / mass.clamp_min(1e-300)).where(mass > 0, moved)
    return (mix * moved + (1 - mix) * start).to(prototypes.dtype)


def standardised(features: Tensor) -> Tensor:
    """Each vector of `features` `[..., D]`, floating point, less the mean of its own entries, over their deviation
    (unbiased), as BECLR does before OpTA; zeros where all entries are the same.

    >>> standardised(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    tensor([[-1.,  0.,  1.],
            [ 0.,  0.,  0.]])
    """
    centred = features - features.mean(-1, keepdim=True)
    deviation = centred.square().sum(-1, keepdim=True) / max(1, features.shape[-1] - 1)
    return centred / deviation.sqrt().clamp_min(1e-12)


class OpTA(Classifier):
    """Class means that follow the queries. Transductive: `predict` looks at all its queries at once, and one query gets
    other scores in other company.

    It helps where features are good and the classes have about as many queries each; with `prior="uniform"` it hurts
    where they have not, and on poor features it does nothing.

    Args:
        passes: of transport; None: 5 with one example a class, 1 with more.
        mix: share of the moved mean; None: 1 with one example a class, 0.7 with more.
        epsilon: how soft the plans are.
        prior: as for `opta`; numbers in the order of `classes_`.
        rule: "logistic" fits a multinomial logistic regression on the moved means alone, a point a class (the paper's;
            needs scikit-learn), "nearest" takes the nearest by squared distance.

    Attributes:
        classes_: the labels; prototypes_: `[C, D]`, the means of each class's standardised examples, before transport.

    >>> classifier = OpTA().fit([[1.0, 0.1, 0.0], [0.0, 1.0, 0.2]], ["cat", "dog"])
    >>> classifier.predict([[0.9, 0.3, 0.1], [0.1, 2.0, 0.1], [3.0, 0.1, 0.2], [0.2, 1.0, 0.0]]).tolist()
    ['cat', 'dog', 'cat', 'dog']
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        passes: int | None = None,
        mix: float | None = None,
        epsilon: float = 0.05,
        prior: Any = "uniform",
        rule: Rule = "logistic",
    ) -> None:
        if rule not in ("logistic", "nearest"):
            raise UserError(f"rule={rule!r}: choose logistic or nearest")
        self.passes, self.mix, self.epsilon, self.prior, self.rule = passes, mix, epsilon, prior, rule

    def fit(self, embeddings: Tensor | ArrayLike, labels: ArrayLike) -> Self:
        """Take the mean of each class's embeddings `[N, D]`, floating point, each standardised, by their labels `[N]`,
        of any dtype.

        Raises:
            UserError: no examples, or other numbers of them than of labels.
        """
        x, y, known = examples(embeddings, labels)
        count = y.bincount(minlength=len(known))
        sums = torch.zeros(len(known), x.shape[1]).index_add_(0, y, standardised(x))
        self.classes_, self.prototypes_ = known, sums / count[:, None]
        self.shots_, self.n_features_in_ = int(count.min()), x.shape[1]
        return self

    def scores(self, embeddings: Tensor) -> Tensor:
        """Logits, or with the rule "nearest" squared distances with a minus, of all queries, `embeddings` `[M, D]`:
        `[M, C]` float32.

        Raises:
            UserError: fewer queries than classes: their means would all lie on the same few.
        """
        if len(embeddings) < len(self.classes_):
            raise UserError(
                f"OpTA moves {len(self.classes_)} classes onto the queries: give all queries at once, at least one a "
                f"class and not {len(embeddings)}, or use NearestMean"
            )
        query = standardised(embeddings)
        settings = few_shot_settings(self.shots_, passes=self.passes, mix=self.mix)
        moved = opta(self.prototypes_, query, epsilon=self.epsilon, prior=self.prior, **settings)
        return class_scores(moved, query, self.rule)

    def softmax_temperature(self) -> float:
        """1: the scores are logits."""
        return 1.0


def few_shot_settings(shots: int, *, passes: int | None = None, mix: float | None = None) -> dict[str, Any]:
    """The paper's `passes` and `mix` for a number of examples a class, where they are not stated."""
    one = shots == 1
    return {
        "passes": (5 if one else 1) if passes is None else passes,
        "mix": (1.0 if one else MIX) if mix is None else mix,
    }


def class_scores(prototypes: Tensor, queries: Tensor, rule: Rule) -> Tensor:
    """Scores `[..., M, N]` of queries `[..., M, D]`, floating point, for the classes of prototypes `[..., N, D]`: those
    of a logistic regression fitted on the prototypes, or squared distances with a minus."""
    if rule == "nearest" or prototypes.shape[-2] == 1:
        return -torch.cdist(queries, prototypes, compute_mode="donot_use_mm_for_euclid_dist").square()
    if prototypes.ndim > 2:
        return torch.stack([class_scores(p, q, rule) for p, q in zip(prototypes, queries, strict=True)])
    model = fit_logistic(prototypes.numpy(), np.arange(len(prototypes)), 1.0, 1000)
    return two_sided(model.decision_function(queries.numpy()))


def _plan(cost: Tensor, prior: Prior, epsilon: float) -> Tensor:
    """The plan of a cost `[..., N, M]` under what is known of the classes' shares."""
    if isinstance(prior, str):
        if prior not in ("uniform", "relaxed"):
            raise UserError(f"prior={prior!r}: choose uniform, relaxed, or a share for each class")
        return transport_plan(cost, epsilon=epsilon) if prior == "uniform" else (-cost / epsilon).softmax(-2)
    shares = torch.as_tensor(prior)
    return transport_plan(cost, rows=masses(shares, cost.shape[:-1], cost, "classes"), epsilon=epsilon)
