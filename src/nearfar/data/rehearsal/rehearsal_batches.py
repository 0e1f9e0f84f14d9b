"""Batches of a new task with a quota of rehearsed samples: with all shuffled together most batches would have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from nearfar.errors import UserError, at_least


class RehearsalBatchSampler:
    """Lists of numbers, each `batch_size - quota` of the task's samples, then `quota` of the memory's. An epoch is over
    when the task's samples are, however large the memory is. For `torch.utils.data.DataLoader(batch_sampler=...)`.

    Args:
        new: numbers of the task's samples.
        memory: numbers of the rehearsed ones; of an empty memory batches are of new samples alone.
        batch_size: samples of a batch; the last of an epoch may have fewer new ones.
        quota: rehearsed samples of each batch, drawn without repeats while the memory lasts.
        seed: of the orders, with the epoch.

    Raises:
        UserError: a quota that leaves no place for new samples.

    >>> [len(batch) for batch in RehearsalBatchSampler(range(10), range(100, 104), batch_size=6, quota=2)]
    [6, 6, 4]
    """

    def __init__(
        self, new: Sequence[int], memory: Sequence[int], *, batch_size: int, quota: int, seed: int = 0
    ) -> None:
        at_least(1, batch_size=batch_size)
        at_least(0, quota=quota)
        if quota >= batch_size:
            raise UserError(f"quota={quota} of batch_size={batch_size}: new samples need a place in each batch")
        self.new, self.memory = list(new), list(memory)
        self.quota = quota if self.memory else 0
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.new) // (self.batch_size - self.quota))

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Without it they follow one another."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.new), generator=generator).tolist()
        rehearsed: list[int] = []
        each = self.batch_size - self.quota
        for start in range(0, len(order), each):
            while len(rehearsed) < self.quota:
                rehearsed += torch.randperm(len(self.memory), generator=generator).tolist()
            drawn, rehearsed = rehearsed[: self.quota], rehearsed[self.quota :]
            yield [self.new[place] for place in order[start : start + each]] + [self.memory[place] for place in drawn]
