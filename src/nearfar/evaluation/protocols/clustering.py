"""Clustering: do clusters of frozen image embeddings, made without labels, agree with the classes?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError, need
from nearfar.evaluation.measures.bootstrap import clusters as numbered
from nearfar.evaluation.measures.bootstrap import resample
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.probes import things
from nearfar.evaluation.protocols.zero_shot_accuracy import labelled

Table = NDArray[np.float64]
RESAMPLES, SHUFFLES = 200, 20


def clustering(
    data: Embeddings, *, clusters: int | None = None, restarts: int = 10, limit: int | None = 20_000, seed: int = 0
) -> Result:
    """k-means on unit embeddings, and how well its clusters agree with the labels.

    Args:
        data: labelled images.
        clusters: how many; None: as many as there are classes.
        restarts: k-means runs from so many starts and keeps the tightest.
        limit: images beyond this number are sampled; None takes all.
        seed: of the sample, the starts, the shuffles of chance and the bootstrap.

    Returns:
        - `nmi`: the mutual information of clusters and classes over the mean of their entropies, 0 to 1. With many
          small classes it is far above 0 for any clusters: chance is its mean where the labels are shuffled.
        - `ari`: the share of pairs of images on which both agree, adjusted so that chance is 0 and 1 the best (Hubert
          and Arabie, 1985).
        - `purity`: the share of images whose class is the commonest of their cluster. It grows with the number of
          clusters, so that chance stands beside it, too.

        Intervals resample images, those of one group together, with the clusters as they are.

    Raises:
        UserError: scikit-learn is missing, fewer than two classes, or fewer images than clusters.

    >>> eye = torch.eye(3).repeat(4, 1)
    >>> data = Embeddings(eye, eye[:0], torch.arange(0), label=torch.arange(3).repeat(4))
    >>> result = clustering(data)
    >>> round(result["nmi"], 6), round(result["ari"], 6)
    (1.0, 1.0)
    """
    data = data.select((labelled(data) >= 0).nonzero().flatten())
    if limit is not None and len(data) > limit:
        drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:limit]
        data = data.select(drawn.sort().values)
    label, classes = numbered(labelled(data).numpy(), len(data))
    count = classes if clusters is None else clusters
    if classes < 2:
        raise UserError(f"clustering needs images of two classes at least; {data.source} has {classes}")
    if not 2 <= count <= len(data):
        raise UserError(f"clusters={count}: {data.source} has {len(data)} labelled images, so name 2 to as many")
    kmeans = need("sklearn.cluster", "probes").KMeans(count, n_init=restarts, random_state=seed)
    cluster = kmeans.fit_predict(torch.nn.functional.normalize(data.image.float(), dim=1).numpy())

    metrics = agreement_metrics(label, cluster, things(data), seed=seed)
    details = {"clusters": count, "classes": classes, "restarts": restarts, "inertia": float(kmeans.inertia_)}
    return Result("clustering", metrics, details=details)


def agreement_metrics(
    label: NDArray[np.int64], cluster: NDArray[np.int64], group: torch.Tensor | None = None, *, seed: int = 0
) -> dict[str, Metric]:
    """`nmi`, `ari` and `purity` of classes and clusters, `label` and `cluster` `[N]` int64 from 0 on, each with its
    interval and with what it is where the labels are shuffled; `group` `[N]` int64 is what is resampled together."""
    classes, count = int(label.max()) + 1, int(cluster.max()) + 1

    def agreement(label: NDArray[np.int64], weights: Table | None = None) -> Table:
        cells = np.bincount(label * count + cluster, weights, classes * count).astype(np.float64)
        table = cells.reshape(classes, count)
        return np.array([nmi(table), ari(table), purity(table)])

    values, rng = agreement(label), np.random.default_rng(seed)
    chance = np.mean([agreement(rng.permutation(label)) for _ in range(SHUFFLES)], axis=0)
    chance[1] = 0.0  # as it is adjusted
    low, high = _interval(values, group, agreement, label, seed)
    return {
        name: Metric(float(values[i]), float(low[i]), float(high[i]), float(chance[i]), len(label))
        for i, name in enumerate(("nmi", "ari", "purity"))
    }


def nmi(table: Table) -> float:
    """Normalised mutual information (over the arithmetic mean of both entropies) of a table `[classes, clusters]` of
    counts; 1 where both have one part.

    >>> nmi(np.eye(2)), nmi(np.ones((2, 2)))
    (1.0, 0.0)
    """
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    there = joint > 0
    shared = float((joint[there] * np.log(joint[there] / np.outer(rows, columns)[there])).sum())
    entropies = [-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (rows, columns)]
    return max(0.0, shared) / (sum(entropies) / 2) if sum(entropies) > 0 else 1.0


def ari(table: Table) -> float:
    """Adjusted Rand index of a table `[classes, clusters]` of counts; 1 where both have one part.

    >>> ari(np.array([[2.0, 0.0], [0.0, 2.0]])), round(ari(np.ones((2, 2))), 6)
    (1.0, -0.5)
    """

    def pairs(counts: Table) -> float:
        return float((counts * (counts - 1) / 2).sum())

    n = table.sum()
    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected, most = rows * columns / (n * (n - 1) / 2), (rows + columns) / 2
    return float((both - expected) / (most - expected)) if most != expected else 1.0


def purity(table: Table) -> float:
    """The share of a table `[classes, clusters]` of counts that is of its cluster's commonest class.

    >>> purity(np.array([[3.0, 1.0], [0.0, 4.0]]))
    0.875
    """
    return float(table.max(0).sum() / table.sum())


def _interval(
    values: Table, group: torch.Tensor | None, agreement: Callable[..., Table], label: NDArray[np.int64], seed: int
) -> tuple[Table, Table]:
    """The 95 % bootstrap interval. Images that are drawn twice agree with themselves, which lifts both figures; so the
    resamples are moved to have the figures as their mean."""
    member, count = numbered(None if group is None else group.numpy(), len(label))
    drawn = [weights[member] for block in resample(count, RESAMPLES, seed, width=len(label)) for weights in block]
    samples = np.stack([agreement(label, weights) for weights in drawn])
    low, high = np.percentile(samples - samples.mean(0) + values, [2.5, 97.5], axis=0)
    return np.minimum(low, values), np.maximum(high, values).clip(max=1.0)
