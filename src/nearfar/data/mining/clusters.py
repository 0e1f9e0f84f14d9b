"""Clusters of features, and how those of several stages become one number a sample: MCL (arXiv 2402.11816)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import UserError, need

Accumulate = Literal["all", "last"]


def cluster_codes(
    features: Any, clusters: int, *, seed: int = 0, starts: int = 1, batch: int | None = None
) -> np.ndarray:
    """The cluster of each sample: k-means of the features at unit length.

    Args:
        features: `[N, D]` in floating point, a tensor or an array; of any lengths, which do not count.
        clusters: K.
        seed, starts, batch: as in `fit_clusters`.

    Returns:
        `[N]` int64, from 0 to K - 1.

    Raises:
        UserError: fewer samples than clusters.

    >>> cluster_codes([[1.0, 0.1], [9.0, 0.8], [0.1, 1.0], [0.0, 5.0]], 2)[[0, 2]].tolist() in ([0, 1], [1, 0])
    True
    """
    rows = unit_rows(features)
    return nearest_centres(fit_clusters(rows, clusters, seed=seed, starts=starts, batch=batch), rows)


def fit_clusters(features: Any, clusters: int, *, seed: int = 0, starts: int = 1, batch: int | None = None) -> Any:
    """The k-means of scikit-learn, fitted to `features` `[N, D]` of unit length, on one thread: its sums are then taken
    in one order, and the same features give the same bits.

    Args:
        features: `[N, D]` float32.
        clusters: K.
        seed: of the first centres.
        starts: so many sets of first centres are tried, and the best kept.
        batch: fit by batches of so many samples (`MiniBatchKMeans`), for millions of them; None: all at once.

    Raises:
        UserError: fewer samples than clusters.
    """
    if len(features) < clusters:
        raise UserError(f"{len(features)} records cannot be put into {clusters} clusters: set fewer.")
    kinds = need("sklearn.cluster", "probes")
    if batch is None:
        kmeans = kinds.KMeans(clusters, n_init=starts, random_state=seed)
    else:
        # The released code's settings.
        kmeans = kinds.MiniBatchKMeans(
            clusters, batch_size=batch, max_iter=100, tol=1e-5, n_init=starts, random_state=seed
        )
    with need("threadpoolctl", "probes").threadpool_limits(1):
        return kmeans.fit(features)


def nearest_centres(kmeans: Any, features: np.ndarray) -> np.ndarray:
    """The cluster `[N]` int64 of each row of `features` `[N, D]` float32."""
    with need("threadpoolctl", "probes").threadpool_limits(1):
        return kmeans.predict(features).astype(np.int64)


def unit_rows(features: Any) -> np.ndarray:
    """`features` `[N, D]`, a tensor or what NumPy takes, as float32 rows of unit length."""
    array = features.detach().cpu().float().numpy() if isinstance(features, Tensor) else features
    rows = np.asarray(array, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def combine_codes(
    codes: Sequence[Any], clusters: Sequence[int], *, accumulate: Accumulate = "all", compact: bool = False
) -> Tensor:
    """One number a sample of its clusters in all stages, in mixed radix: y = 0, then y = y K_s + c_s for each stage s.
    Two samples have the same one exactly if they shared a cluster in every stage.

    Args:
        codes: of each stage, the first one first, the cluster of each sample: `[N]` integers from 0 to K_s - 1.
        clusters: K_s of each stage.
        accumulate: "all" stages; "last" as MCL's released code has it, whose loop reads the last stage's clusters each
            time: c_n (1 + K + ... + K^n), which tells no more than c_n.
        compact: number the values that occur from 0 on, in their order.

    Returns:
        `[N]` int64.

    Raises:
        UserError: numbers of stages or samples that differ, a cluster that is not one of K.

    >>> combine_codes([[3], [7], [2]], [10, 10, 10]), combine_codes([[3], [7]], [10, 10], accumulate="last")
    (tensor([372]), tensor([77]))
    """
    if len(codes) != len(clusters) or not codes:
        raise UserError(
            f"{len(codes)} stages' clusters and {len(clusters)} numbers of clusters: give one of each a stage"
        )
    stages = [torch.as_tensor(np.asarray(each), dtype=torch.long) for each in codes]
    y = torch.zeros_like(stages[0])
    for stage, (own, k) in enumerate(zip(stages, clusters, strict=True)):
        if own.shape != y.shape or own.ndim != 1:
            raise UserError(
                f"stage {stage} has clusters {tuple(own.shape)}: one a sample, [{len(y)}], as the first has"
            )
        if len(own) and not 0 <= int(own.min()) <= int(own.max()) < k:
            raise UserError(f"stage {stage} has a cluster outside of 0 to {k - 1}")
        y = y * k + (stages[-1] if accumulate == "last" else own)
    return y.unique(return_inverse=True)[1] if compact else y
