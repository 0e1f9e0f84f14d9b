"""Which record comes when: one global order of each epoch, a function of seed and epoch alone, of which every process
takes its own rows of every batch. With one, two or four processes the batches are the same, and so is the place to go
on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch

from nearfar.data.sources.record_numbers import stream_place
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError

BLOCK = 2048
"""Records of a stream that are shuffled among themselves. They wait in memory, undecoded."""

State = dict[str, int]


def mix(*numbers: int) -> int:
    """A number below 2**63 that depends on all the given ones and looks random (the SplitMix64 finaliser).

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    mask, state = (1 << 64) - 1, 0
    for number in numbers:
        state = (state + (number & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


class BatchRow(NamedTuple):
    """A row of a batch. `candidate(0)` is the record that belongs there: its place in the source and a function that
    reads it. The further ones, `candidate(1)` and so on, stand in if it cannot be used; they too depend on the seed
    alone."""

    candidate: Callable[[int], tuple[int, Callable[[], Record]]]


class LocalBatch(NamedTuple):
    """This process's part of a batch: its rows, where they lie in the whole batch, and the state that follows."""

    rows: list[BatchRow]
    start: int
    state: State


@dataclass(frozen=True)
class BatchSplit:
    """How batches are made and divided: `batch_size` rows for each of `world_size` processes."""

    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def global_batch_size(self) -> int:
        """Rows of a whole batch, over all processes."""
        return self.batch_size * self.world_size

    def local_rows(self, count: int) -> tuple[int, int]:
        """This process's rows of a batch of `count`. A last batch that does not divide evenly loses the rest, so that
        all processes have equally many."""
        each = count // self.world_size
        return self.rank * each, (self.rank + 1) * each


@dataclass(frozen=True)
class OrderPlan:
    """What is put in order: a source, how its batches are divided, the seed, and whether each epoch is shuffled."""

    source: Any
    split: BatchSplit
    seed: int
    shuffle: bool


class Order(Protocol):
    """Which record comes when. A `Loader` takes any object of this form; it holds its own settings, and no place in
    the data, so that a batch follows from plan, epoch and state alone."""

    def check(self, plan: OrderPlan) -> None:
        """Refuse, by a `UserError`, a plan that this order cannot follow."""

    def length(self, plan: OrderPlan) -> int | None:
        """Batches an epoch; None where nobody knows."""

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        """This process's parts of the batches of an epoch, from a state on (`{}` is its beginning)."""


def usual_order(source: Source | Stream, block: int = BLOCK) -> Order:
    """`StreamOrder` for a stream, `SourceOrder` for what can be read by number."""
    return StreamOrder(block) if isinstance(source, Stream) else SourceOrder()


class SourceOrder:
    """The order of a source: a permutation of all of it for each epoch."""

    def check(self, plan: OrderPlan) -> None:
        if isinstance(plan.source, Stream):
            raise UserError(f"{plan.source.name} is a stream: it has no records by number; use order=StreamOrder()")

    def length(self, plan: OrderPlan) -> int:
        full_batches, rest = divmod(len(plan.source), plan.split.global_batch_size)
        return full_batches + (not plan.split.drop_last and rest >= plan.split.world_size)

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        places, global_batch_size = epoch_places(plan, epoch), plan.split.global_batch_size
        for step in range(state.get("step", 0), self.length(plan)):
            first = step * global_batch_size
            start, stop = plan.split.local_rows(min(global_batch_size, len(places) - first))
            rows = [BatchRow(candidates(plan, places, epoch, first + i)) for i in range(start, stop)]
            yield LocalBatch(rows, start, {"step": step + 1})


def epoch_places(plan: OrderPlan, epoch: int) -> Sequence[int]:
    """All places of a source in the order of an epoch: 8 bytes a record where they are shuffled, else none."""
    if not plan.shuffle:
        return range(len(plan.source))
    generator = torch.Generator().manual_seed(mix(plan.seed, epoch))
    places = torch.randperm(len(plan.source), generator=generator)
    view: Any = places.numpy().data  # whose items are ints, as a list's are
    return view


def candidates(plan: OrderPlan, places: Sequence[int], epoch: int, position: int) -> Callable[[int], Any]:
    """The record at a position of the order, and those that may take its place."""

    def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
        at = position if attempt == 0 else mix(plan.seed, epoch, position, attempt) % len(places)
        return places[at], lambda: plan.source[places[at]]

    return candidate


class StreamOrder:
    """The order of a stream: its parts are shuffled, then blocks of records among themselves. The state names the block
    by the part and place where it begins, so that going on reads no more than the parts' headers before it.

    Args:
        block: records that are shuffled among themselves.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block

    def check(self, plan: OrderPlan) -> None:
        if not isinstance(plan.source, Stream):
            raise UserError(f"{plan.source.name} is no stream: use order=SourceOrder(), which shuffles all of it")

    def length(self, plan: OrderPlan) -> None:
        return None

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        step, rows, split = state.get("step", 0), self._rows(plan, epoch, state), plan.split
        while taken := list(islice(rows, split.global_batch_size)):
            if len(taken) < split.global_batch_size and (split.drop_last or len(taken) < split.world_size):
                return
            start, stop = split.local_rows(len(taken))
            step += 1
            yield LocalBatch([row for row, _ in taken[start:stop]], start, {"step": step, **taken[-1][1]})

    def _rows(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[tuple[BatchRow, State]]:
        seed, parts = plan.seed, list(range(plan.source.parts))
        if plan.shuffle:
            generator = torch.Generator().manual_seed(mix(seed, epoch))
            parts = torch.randperm(len(parts), generator=generator).tolist()
        part, skip, number, done = (state.get(key, 0) for key in ("part", "skip", "block", "done"))
        records = _read(plan.source, parts, part, skip)
        while block := list(islice(records, self.block)):
            order = list(range(len(block)))
            if plan.shuffle:
                generator = torch.Generator().manual_seed(mix(seed, epoch, number))
                order = torch.randperm(len(block), generator=generator).tolist()
            for i in range(done, len(block)):
                after = {"part": part, "skip": skip, "block": number, "done": i + 1}
                yield BatchRow(_in_block(block, order, i, mix(seed, epoch, number))), after
            part, skip = block[-1][0], block[-1][1] + 1
            number, done = number + 1, 0


def _read(stream: Stream, parts: list[int], part: int, skip: int) -> Iterator[tuple[int, int, int, Record]]:
    """Records with the place of their part in the order, their number in it, and their place in the stream."""
    for at in range(part, len(parts)):
        begin = skip if at == part else 0
        for i, record in enumerate(stream.read(parts[at], begin), start=begin):
            yield at, i, stream_place(parts[at], i), record


def _in_block(block: list[Any], order: list[int], i: int, seed: int) -> Callable[[int], Any]:
    def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
        at = order[i] if attempt == 0 else mix(seed, i, attempt) % len(block)
        _, _, place, record = block[at]
        return place, lambda: record

    return candidate
