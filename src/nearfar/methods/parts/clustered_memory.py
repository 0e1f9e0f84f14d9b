"""The clustered memory: past embeddings in clusters, in which a sample's neighbours are searched, as BECLR (arXiv
2402.02444) keeps it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import distributed
from nearfar.errors import UserError, need
from nearfar.methods.parts.gathered_features import gather_unit
from nearfar.ops.transport import sinkhorn

TILE = 256
"""Queries at a time in a search."""
Score = Literal["distance", "cosine", "official"]


class Neighbours(NamedTuple):
    """The result of a search, nearest first. Where a sample has fewer than k neighbours, the rest is -1, 0 and -inf."""

    features: Tensor
    """`[B, k, dim]`, unit rows, without gradient."""
    ids: Tensor
    """`[B, k]` long: the samples' ids."""
    cosine: Tensor
    """`[B, k]`."""


class ClusteredMemory(nn.Module):
    """The last `size` embeddings, each in one of `clusters`. All of it is buffers, so it resumes and moves with the
    method, and it is the same on every process.

    Until it is full it has no clusters. Then k-means makes them; later batches are spread evenly over them (Sinkhorn),
    and each prototype follows the mean of its members. Search in `forward`, `push` in `after_step` (what is to be
    pushed waits in a `Pending`): a sample is then not its own neighbour, where the released code, which inserts first,
    finds a sample's own copies.

    Args:
        dim: width of the embeddings.
        size: how many are kept; above `clusters`. Any size of batch fits.
        clusters: how many.
        score: by what a batch is assigned: "distance" (less is nearer), "cosine", or "official", the released code's
            sign, which assigns samples to the clusters that are far from them (partitions fall apart within an epoch).
        epsilon: of Sinkhorn; the released code's 1e-5 runs as 0.1, as smaller values overflow there.
        iterations: of Sinkhorn.
        momentum: the old share of a prototype at each push; 0 (the paper's files) takes the members' mean.
        seed: of k-means.

    Attributes:
        features: `[size, dim]`, unit rows; zeros where nothing was pushed yet.
        index, label: `[size]` long, the samples' ids and clusters; -1 where unknown.
        prototypes: `[clusters, dim]`.

    >>> memory = ClusteredMemory(dim=2, size=4, clusters=2)
    >>> memory.push(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]), torch.tensor([5, 6, 7, 8]))
    >>> memory.clustered, memory.neighbours(torch.tensor([[2.0, 0.2]]), 1, torch.tensor([5])).ids
    (True, tensor([[6]]))
    """

    features: Tensor
    index: Tensor
    label: Tensor
    prototypes: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        clusters: int,
        *,
        score: Score = "distance",
        epsilon: float = 0.1,
        iterations: int = 10,
        momentum: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if clusters < 2 or size <= clusters:
            raise UserError(
                f"size={size} in clusters={clusters}: take 2 clusters at least, and more places than clusters"
            )
        if score not in ("distance", "cosine", "official"):
            raise UserError(f"score={score!r}: choose distance, cosine or official")
        if not 0.0 <= momentum <= 1.0:
            raise UserError(f"momentum={momentum}: a share in [0, 1]")
        need("sklearn.cluster", "probes")
        self.score, self.epsilon, self.iterations, self.momentum, self.seed = score, epsilon, iterations, momentum, seed
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("index", torch.full((size,), -1))
        self.register_buffer("label", torch.full((size,), -1))
        self.register_buffer("prototypes", torch.zeros(clusters, dim))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """How many places hold embeddings."""
        return int(self.filled)

    @property
    def clustered(self) -> bool:
        """Whether it has clusters, and neighbours can be searched."""
        return bool(self.label[0] >= 0)

    @torch.no_grad()
    def push(self, features: Tensor, index: Tensor) -> None:
        """Put embeddings `[B, dim]` of samples `[B]` in the places of the oldest; those of all processes, so that every
        process keeps the same memory. They are made unit length, and assigned to clusters together.

        Raises:
            UserError: another width, or an embedding that is NaN or infinite. The memory then stays as it was.
        """
        size, dim = self.features.shape
        if features.ndim != 2 or features.shape[1] != dim or index.shape != features.shape[:1]:
            raise UserError(
                f"the memory holds features [B, {dim}] with ids [B], not {list(features.shape)}, {list(index.shape)}"
            )
        unit = gather_unit(features.detach().to(self.features), index, where="memory")
        index = distributed.gather_rows(index.to(self.index))
        label = self.assign(unit) if self.clustered else torch.full_like(index, -1)
        unit, index, label = unit[-size:], index[-size:], label[-size:]
        places = (self.pointer + torch.arange(len(index), device=index.device)) % size
        self.features[places], self.index[places], self.label[places] = unit, index, label
        self.pointer.copy_((self.pointer + len(index)) % size)
        self.filled.fill_(min(size, len(self) + len(index)))
        if self.clustered:
            self._follow_members()
        elif len(self) == size:
            self.recluster()

    def assign(self, unit: Tensor) -> Tensor:
        """The clusters `[B]` of a whole batch of unit rows `[B, dim]`, about as many in each."""
        centres = F.normalize(self.prototypes, dim=1)
        if self.score == "cosine":
            scores = unit @ centres.T
        else:
            distance = torch.cdist(unit, centres)
            scores = distance if self.score == "official" else -distance
        return sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations).argmax(1)

    @torch.no_grad()
    def recluster(self) -> None:
        """Make the clusters anew by k-means, as BECLR does every 60 epochs. Call it in `after_epoch`, on all
        processes.

        Raises:
            UserError: it is not full yet.
        """
        if len(self) < len(self.features):
            raise UserError(
                f"the memory holds {len(self)} of {len(self.features)} embeddings: cluster it when it is full"
            )
        if distributed.is_main():
            kmeans = need("sklearn.cluster", "probes").KMeans(len(self.prototypes), n_init=10, random_state=self.seed)
            clusters = kmeans.fit(self.features.float().cpu().numpy())
            self.prototypes.copy_(torch.from_numpy(clusters.cluster_centers_))
            self.label.copy_(torch.from_numpy(clusters.labels_))
        distributed.share_state(self)

    @torch.no_grad()
    def neighbours(self, features: Tensor, k: int, index: Tensor | None = None) -> Neighbours:
        """The k nearest members, by cosine, of each embedding's own cluster, the one of the nearest prototype; of the
        whole memory where the cluster has fewer than k.

        Args:
            features: `[B, dim]`.
            k: how many.
            index: `[B]`, the samples' ids: other embeddings of the same sample are no neighbours.

        Raises:
            UserError: there are no clusters yet (see `clustered`).
        """
        if not self.clustered:
            raise UserError("the memory has no clusters before it is full: search for neighbours once 'clustered'")
        if not 1 <= k <= len(self.features):
            raise UserError(f"k={k}: a memory of {len(self.features)} has from 1 to as many neighbours")
        centres = F.normalize(self.prototypes, dim=1)
        nearest = []
        for start in range(0, len(features), TILE):
            unit = F.normalize(features[start : start + TILE].detach().to(self.features), dim=1)
            cosine = unit @ self.features.T
            if index is not None:
                own = index[start : start + TILE].to(self.index)[:, None] == self.index
                cosine = cosine.masked_fill(own, -torch.inf)
            inside = (unit @ centres.T).argmax(1)[:, None] == self.label
            few = (inside & cosine.isfinite()).sum(1, keepdim=True) < k
            nearest.append(cosine.masked_fill(~(inside | few), -torch.inf).topk(k))
        cosine = torch.cat([values for values, _ in nearest])
        rows = torch.cat([places for _, places in nearest])
        there = cosine.isfinite()
        return Neighbours(self.features[rows] * there[..., None], self.index[rows].where(there, -1), cosine)

    def _follow_members(self) -> None:
        """Move each prototype to the mean of its members; one without members stays."""
        sums = torch.zeros_like(self.prototypes).index_add_(0, self.label, self.features)
        count = self.label.bincount(minlength=len(sums))[:, None]
        moved = self.momentum * self.prototypes + (1 - self.momentum) * sums / count.clamp(min=1)
        self.prototypes.copy_(moved.where(count > 0, self.prototypes))
