"""Any method's loss within clusters: negatives of a sample's own cluster alone, in batches of all clusters (MCL, arXiv
2402.11816)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.within_groups import groups_of
from nearfar.methods.base import Batch, EmbeddingMethod


class WithinClusters(EmbeddingMethod):
    """Trains by another method whose objective gets each cluster of the batch by itself; the mean over samples counts.

    It is the same loss as in batches of one cluster each (`data.clusters` of a recipe), which MCL's released code
    makes. Batches of all clusters have fewer negatives a sample, drop no sample of a small cluster, and leave the
    statistics of batch norm as they are; a sample that is alone in its cluster adds 0.

    Args:
        model: what to train.
        of: the method as a recipe names it, settings beside the name: one with embeddings, whose objective is a mean
            over samples and keeps nothing of them (`simclr`, `clip`, `align`, `siglip`, `supcon`).
        key: of the batch, that holds the number of each sample's cluster.

    Raises:
        UserError: a method without embeddings (MoCo has `within` of its own).

    Example:
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> method = WithinClusters(Identity(), of={"name": "simclr", "temperature": 1.0})
        >>> views = torch.eye(4).expand(2, 4, 4)
        >>> out = method({"views": views, "cluster": torch.tensor([0, 0, 1, 2])})
        >>> round(out["loss"].item(), 6)  # half of log(1 + 2 / e): two samples are alone
        0.275722
    """

    def __init__(self, model: Any, *, of: Mapping[str, Any], key: str = "cluster") -> None:
        from nearfar.methods import find

        super().__init__()
        if "name" not in of:
            raise UserError("within_clusters trains by some method: of={'name': 'simclr'}, say")
        kind = find(of["name"])
        if not issubclass(kind, EmbeddingMethod):
            raise UserError(f"within_clusters takes methods whose loss goes by embeddings: {kind.__name__} does not")
        self.model, self.key = model, key
        self.inner = kind(model, **{name: value for name, value in of.items() if name != "name"})
        self.reads, self.gather = tuple(dict.fromkeys((*self.inner.reads, key))), self.inner.gather
        self.views, self.n_views = self.inner.views, self.inner.n_views
        self.validation_views = self.inner.validation_views

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.inner.embed(batch)

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        cluster = batch[self.key]
        loss = torch.stack([each.sum() * 0 for each in embeddings.values()]).sum()
        counted, logs = 0, dict[str, Tensor]()
        for members in groups_of(cluster):
            part = {name: _rows_of(each, members, len(cluster)) for name, each in embeddings.items()}
            own = {name: batch[name][members] for name in self.inner.reads if name in batch}
            out = self.inner.objective(part, self.inner.for_objective(own))
            loss = loss + out.pop("loss") * (len(members) / len(cluster))
            logs = {name: logs.get(name, 0.0) + value * len(members) for name, value in out.items()}
            counted += len(members)
        return {"loss": loss} | {name: value / counted for name, value in logs.items()}

    def learned(self) -> dict[str, float]:
        return self.inner.learned()

    def before_step(self) -> None:
        self.inner.before_step()

    def after_step(self, step: int) -> None:
        self.inner.after_step(step)

    def begin(self, data: DataInfo) -> None:
        self.inner.begin(data)

    def after_epoch(self, epoch: int, refresh: Callable[[], dict[str, Tensor]]) -> None:
        self.inner.after_epoch(epoch, refresh)


def _rows_of(embeddings: Tensor, members: Tensor, samples: int) -> Tensor:
    """The rows of some samples, of `[B, D]` or, sample-major, `[B K, D]`."""
    return embeddings.unflatten(0, (samples, -1))[members].flatten(0, 1)
