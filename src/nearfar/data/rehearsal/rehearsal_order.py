"""The order of a task's records: new ones once an epoch, and with each batch a quota of those that are rehearsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from nearfar.data.batches.order import BatchRow, LocalBatch, OrderPlan, SourceOrder, State, epoch_places, mix
from nearfar.data.rehearsal.task_source import TaskSource
from nearfar.data.sources.source import Record
from nearfar.errors import UserError, at_least

_REHEARSED = 7  # its own stream of chance


class RehearsalOrder(SourceOrder):
    """Batches of a `TaskSource`: `batch_size - quota` new samples, then `quota` rehearsed ones. An epoch is over when
    the new ones are. Where nothing is rehearsed it is the usual order of a source.

    Args:
        quota: rehearsed samples of each batch, over all processes; those of a small memory come again.

    Raises:
        UserError: on reading, a quota that leaves no place for new samples, or data that are no task.
    """

    def __init__(self, quota: int) -> None:
        at_least(0, quota=quota)
        self.quota = quota

    def check(self, plan: OrderPlan) -> None:
        if not isinstance(plan.source, TaskSource):
            raise UserError(f"{plan.source.name} is no task of several: make one with nearfar.data.task_source")
        whole = plan.split.global_batch_size
        if plan.source.kept and self.quota >= whole:
            raise UserError(f"quota={self.quota} of a batch of {whole}: new samples need a place in each")

    def length(self, plan: OrderPlan) -> int:
        if not plan.source.kept:
            return super().length(plan)
        full, rest = divmod(plan.source.new, plan.split.global_batch_size - self.quota)
        return full + (rest > 0 and (not plan.split.drop_last or full == 0))

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        if not plan.source.kept:
            yield from super().batches(plan, epoch, state)
            return
        each, first = plan.split.global_batch_size - self.quota, plan.source.new
        new = [place for place in epoch_places(plan, epoch) if place < first]
        generator = torch.Generator().manual_seed(mix(plan.seed, epoch, _REHEARSED))
        kept: list[int] = []
        while len(kept) < self.quota * self.length(plan):
            kept += (first + torch.randperm(plan.source.kept, generator=generator)).tolist()
        for step in range(state.get("step", 0), self.length(plan)):
            places = new[step * each : (step + 1) * each] + kept[step * self.quota : (step + 1) * self.quota]
            start, stop = plan.split.local_rows(len(places))
            rows = [BatchRow(_candidates(plan, place, epoch)) for place in places[start:stop]]
            yield LocalBatch(rows, start, {"step": step + 1})


def _candidates(plan: OrderPlan, place: int, epoch: int) -> Callable[[int], tuple[int, Callable[[], Record]]]:
    """The record at a place, and those that may stand in for it: others of its kind, new or rehearsed."""
    source = plan.source
    low, count = (0, source.new) if place < source.new else (source.new, source.kept)

    def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
        at = place if attempt == 0 else low + mix(plan.seed, epoch, place, attempt) % count
        return at, lambda: source[at]

    return candidate
