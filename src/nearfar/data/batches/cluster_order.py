"""Batches of one cluster each: the negatives of a sample then come from its own cluster alone (MCL, arXiv
2402.11816)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from nearfar.data.batches.cluster_batches import BatchOrder, EpochBatches, SmallGroups, check_choices, cluster_batches
from nearfar.data.batches.order import BatchRow, LocalBatch, OrderPlan, State, mix
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError

REMEDY = {
    "drop": "lower batch_size, make fewer clusters, or let small ones be joined (small='merge'; in a recipe "
    "data.small_clusters: merge)",
    "merge": "all of them together are fewer: lower batch_size",
    "partial": "a batch needs two of one cluster: make fewer clusters",
}
"""What helps where clusters give no batch, with each `small`."""


class ClusterOrder:
    """An order whose batches are of one cluster each, over all processes. A record that cannot be used gives way to
    another one of its cluster. What small clusters leave over changes from epoch to epoch.

    Args:
        key: of the records, that holds the number of each one's cluster; `keep` of a stage computes it.
        small: what becomes of clusters that do not fill a batch, and of what is left of the others: "drop" leaves it
            out of the epoch (the released code); "merge" joins clusters that are smaller than a batch with their
            neighbours by number, which share the clusters of the earlier stages; "partial" makes smaller batches.
        order: of the batches: "shuffle", or "round_robin", one of each cluster in turn (the released code), which ends
            an epoch with the largest cluster alone.

    Raises:
        UserError: a choice that is none; on reading a stream, records without that key, clusters that give no batch.

    >>> from nearfar.data import Loader, Records
    >>> names = Records([{"text": name, "cluster": name.islower()} for name in "abcdABCDE"])
    >>> loader = Loader(names, order=ClusterOrder("cluster"), batch_size=2, shuffle=False)
    >>> [batch["index"].tolist() for batch in loader]
    [[4, 5], [6, 7], [0, 1], [2, 3]]
    """

    def __init__(self, key: str = "cluster", *, small: SmallGroups = "drop", order: BatchOrder = "shuffle") -> None:
        check_choices(small, order)
        self.key, self.small, self.order = key, small, order
        self._read: tuple[Any, Tensor] | None = None

    def check(self, plan: OrderPlan) -> None:
        if isinstance(plan.source, Stream):
            raise UserError(f"{plan.source.name} is a stream: clusters are of data that can be read by number")
        if not self.length(plan):
            sizes = self._labels(plan.source).unique(return_counts=True)[1].tolist()
            raise UserError(
                f"no cluster of {plan.source.name} fills a batch of {plan.split.global_batch_size}: the largest of "
                f"{len(sizes)} has {max(sizes, default=0)}: {REMEDY[self.small]}."
            )

    def length(self, plan: OrderPlan) -> int:
        return len(self._epoch(plan, 0))

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        made = self._epoch(plan, epoch)
        for step in range(state.get("step", 0), len(made)):
            places = made.batch(step)
            start, stop = plan.split.local_rows(len(places))
            rows = [BatchRow(self._candidates(plan, made, epoch, step, i)) for i in range(start, stop)]
            yield LocalBatch(rows, start, {"step": step + 1})

    def coverage(self, source: Source, batch_size: int) -> float:
        """The share of a source's records that an epoch of batches of `batch_size`, over all processes, reads."""
        labels = self._labels(source)
        return cluster_batches(labels, batch_size, small=self.small).covered / max(1, len(labels))

    def _epoch(self, plan: OrderPlan, epoch: int) -> EpochBatches:
        return cluster_batches(
            self._labels(plan.source),
            plan.split.global_batch_size,
            seed=mix(plan.seed, epoch) if plan.shuffle else None,
            small=self.small,
            order=self.order,
            multiple=plan.split.world_size,
        )

    def _labels(self, source: Any) -> Tensor:
        """`[N]` int64, read once of a source."""
        if self._read is None or self._read[0] is not source:
            values = source.column(self.key)
            if (without := [place for place, value in enumerate(values) if value is None]) and len(values):
                raise UserError(
                    f"{source.name}: {source.where(without[0])} has no {self.key!r}, the number of its cluster: keep "
                    "clusters of the stage before, and name them in data.columns."
                )
            self._read = (source, torch.tensor([int(value) for value in values], dtype=torch.long))
        return self._read[1]

    def _candidates(self, plan: OrderPlan, made: EpochBatches, epoch: int, step: int, row: int) -> Callable[[int], Any]:
        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            place = int(made.batch(step)[row])
            if attempt:
                others = made.group_of(step)
                place = int(others[mix(plan.seed, epoch, step, row, attempt) % len(others)])
            return place, lambda: plan.source[place]

        return candidate


@dataclass
class ClusterBatchSampler(Sampler[list[int]]):
    """Batches of one cluster each for a `torch.utils.data.DataLoader`, as `batch_sampler`. All processes draw by `seed`
    and epoch alone, so that a batch is of one cluster over all of them and no sample comes twice in an epoch.

    Args:
        labels: `[N]` the cluster of each sample.
        batch_size: samples of a batch of this process.
        num_replicas, rank: how many processes there are, and the number of this one.
        seed: all chance depends on it.
        small, order: as in `ClusterOrder`.

    Attributes:
        epoch: set by `set_epoch`, before each epoch.

    Raises:
        UserError: a choice that is none, a rank that is not there.

    >>> sampler = ClusterBatchSampler([0] * 25 + [1] * 10 + [2] * 7, batch_size=8)
    >>> len(sampler), sampler.coverage
    (4, 0.7619047619047619)
    """

    labels: Sequence[int] | Tensor
    batch_size: int
    num_replicas: int = 1
    rank: int = 0
    seed: int = 0
    small: SmallGroups = "drop"
    order: BatchOrder = "shuffle"

    def __post_init__(self) -> None:
        check_choices(self.small, self.order)
        if self.batch_size < 1 or not 0 <= self.rank < self.num_replicas:
            raise UserError(f"batch_size {self.batch_size} and rank {self.rank} of {self.num_replicas} do not fit")
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: another one has another order."""
        self.epoch = epoch

    @property
    def coverage(self) -> float:
        """The share of all samples that an epoch reads, on all processes together."""
        return self._made().covered / max(1, len(self.labels))

    def __len__(self) -> int:
        return len(self._made())

    def __iter__(self) -> Iterator[list[int]]:
        made = self._made()
        for step in range(len(made)):
            places = made.batch(step)
            each = len(places) // self.num_replicas
            yield places[self.rank * each : (self.rank + 1) * each].tolist()

    def _made(self) -> EpochBatches:
        return cluster_batches(
            torch.as_tensor(self.labels),
            self.batch_size * self.num_replicas,
            seed=mix(self.seed, self.epoch),
            small=self.small,
            order=self.order,
            multiple=self.num_replicas,
        )
