"""The order of a source whose batches hold several samples of each of their classes, for losses that compare samples of
a class: of many classes, a batch drawn over all data hardly ever holds one twice."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nearfar.data.batches.order import BatchRow, LocalBatch, OrderPlan, SourceOrder, State, mix
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError

_CLASS = 5  # its own stream of chance


class ClassOrder(SourceOrder):
    """A batch is made of `per_class` samples of each of its classes, next to one another. In an epoch, which is as long
    as one of the whole data, each class comes about as often as it has samples; its samples take turns, in an order
    drawn anew. One that has fewer than `per_class` shows some twice; samples of a negative label are left out.

    Args:
        labels: the class of each record of the source, in its order; or its domain, for batches that hold as much of
            each domain as of the others (`ClassOrder.of(source, 32, key="domain")`).
        per_class: samples of a class in a batch.
        called: what the labels are of, in messages.

    Raises:
        UserError: on reading a stream, a source of another size, no labelled record, a batch that `per_class` does not
            divide, or fewer classes than one batch needs.

    >>> from nearfar.data import Loader, Records
    >>> words = Records([{"text": word, "label": place // 2} for place, word in enumerate("aabbcc")])
    >>> batch = next(iter(Loader(words, order=ClassOrder.of(words, 2), batch_size=4)))
    >>> batch["label"].view(2, 2).diff(dim=1).flatten()  # two of one class, then two of another
    tensor([0, 0])
    """

    def __init__(self, labels: list[int], per_class: int, *, called: str = "classes") -> None:
        self.per_class, self.labels, self.called = per_class, labels, called
        self.members: dict[int, list[int]] = {}
        for place, label in enumerate(labels):
            if label >= 0:
                self.members.setdefault(label, []).append(place)

    @classmethod
    def of(cls, source: Any, per_class: int, *, key: str = "label") -> ClassOrder:
        """By the `label` (or another `key`, `domain` say) of the records of `source`; a record that cannot be read, or
        has none, has no class.

        Raises:
            UserError: a stream, or no record with a label.
        """
        called = {"label": "classes"}.get(key, f"{key}s")
        if not isinstance(source, Source):
            raise UserError(f"{source.name} is a stream: {called} are drawn from data that can be read by number")
        labels = [_label(source, place, key) for place in range(len(source))]
        if max(labels, default=-1) < 0:
            each = {"label": "class"}.get(key, key)
            raise UserError(f"{source.name} has no {key}s, by which to draw several samples of a {each}")
        return cls(labels, per_class, called=called)

    def check(self, plan: OrderPlan) -> None:
        if isinstance(plan.source, Stream):
            raise UserError(
                f"{plan.source.name} is a stream: {self.called} are drawn from data that can be read by number"
            )
        if len(self.labels) != len(plan.source):
            raise UserError(
                f"{len(self.labels)} labels do not fit {plan.source.name}, which has {len(plan.source)} records"
            )
        count = plan.split.global_batch_size
        if count % self.per_class:
            raise UserError(f"a batch of {count} samples does not divide into {self.per_class} of each class")
        if len(self.members) < (needed := count // self.per_class):
            raise UserError(
                f"{plan.source.name} has {len(self.members)} {self.called}, and a batch of {count} samples with "
                f"{self.per_class} of each needs {needed}: lower the batch size, or raise the samples of a class"
            )

    def length(self, plan: OrderPlan) -> int:
        """Whole batches alone."""
        return sum(map(len, self.members.values())) // plan.split.global_batch_size

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        places, count = self._places(plan, epoch), plan.split.global_batch_size
        for step in range(state.get("step", 0), self.length(plan)):
            start, stop = plan.split.local_rows(count)
            rows = [BatchRow(self._row(plan, places[step * count + i], epoch)) for i in range(start, stop)]
            yield LocalBatch(rows, start, {"step": step + 1})

    def _places(self, plan: OrderPlan, epoch: int) -> list[int]:
        """All places of an epoch: classes without one twice in a batch, `per_class` samples of each."""
        generator = torch.Generator().manual_seed(mix(plan.seed, epoch, _CLASS))
        a_batch = plan.split.global_batch_size // self.per_class
        turns = {label: _Turns(places, generator) for label, places in self.members.items()}
        share = torch.tensor([float(len(places)) for places in self.members.values()])
        labels, drawn = list(self.members), []
        for _ in range(self.length(plan)):
            for row in torch.multinomial(share, a_batch, generator=generator).tolist():
                drawn += [turns[labels[row]].take() for _ in range(self.per_class)]
        return drawn

    def _row(self, plan: OrderPlan, place: int, epoch: int) -> Callable[[int], tuple[int, Callable[[], Record]]]:
        """The record at a place, and those that may take its place: the others of its class, then any."""
        own = self.members[self.labels[place]]  # ascending, and perhaps long: never copied for a row

        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            if attempt == 0:
                at = place
            elif attempt < len(own):
                at = own[attempt - (attempt <= bisect_left(own, place))]
            else:
                at = mix(plan.seed, epoch, place, attempt) % len(self.labels)
            return at, lambda: plan.source[at]

        return candidate


def _label(source: Source, place: int, key: str) -> int:
    try:
        label = source[place].get(key)
    except BadRecord:
        return -1
    return label if isinstance(label, int) else -1


class _Turns:
    """The samples of a class in an order drawn anew each time all were taken."""

    def __init__(self, places: list[int], generator: torch.Generator) -> None:
        self.places, self.generator, self.left = places, generator, list[int]()

    def take(self) -> int:
        if not self.left:
            self.left = [self.places[i] for i in torch.randperm(len(self.places), generator=self.generator).tolist()]
        return self.left.pop()
