"""Which record comes when: one global order of each epoch, a function of seed and epoch alone, of which every process
takes its own rows of every batch. With one, two or four processes the batches are the same, and so is the place to go
on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch

from nearfar.data.sources.source import Record, Source, Stream

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


class Row(NamedTuple):
    """A place in a batch. `candidate(0)` is the record that belongs there, by its id and a function that reads it; the
    further ones, `candidate(1)` and so on, take its place if it cannot be used. They too depend on the seed alone."""

    candidate: Callable[[int], tuple[int, Callable[[], Record]]]


class Part(NamedTuple):
    """This process's part of a batch: its rows, where they lie in the whole batch, and the state that follows."""

    rows: list[Row]
    start: int
    state: State


@dataclass(frozen=True)
class Share:
    """How batches are made and divided: `batch_size` rows for each of `world_size` processes."""

    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def whole(self) -> int:
        """Rows of a whole batch, over all processes."""
        return self.batch_size * self.world_size

    def mine(self, count: int) -> tuple[int, int]:
        """This process's rows of a batch of `count`. A last batch that does not divide evenly loses the rest, so that
        all processes have equally many."""
        each = count // self.world_size
        return self.rank * each, (self.rank + 1) * each


class Order(Protocol):
    """An order of batches of known number."""

    def __len__(self) -> int: ...
    def batches(self, epoch: int, state: State) -> Iterator[Part]: ...


class SourceOrder:
    """The order of a source: a permutation of all of it for each epoch."""

    def __init__(self, source: Source, share: Share, *, seed: int, shuffle: bool) -> None:
        self.source, self.share, self.seed, self.shuffle = source, share, seed, shuffle

    def __len__(self) -> int:
        whole, rest = divmod(len(self.source), self.share.whole)
        return whole + (not self.share.drop_last and rest >= self.share.world_size)

    def batches(self, epoch: int, state: State) -> Iterator[Part]:
        """The batches of an epoch from a state on (`{}` is its beginning)."""
        places = self.places(epoch)
        for step in range(state.get("step", 0), len(self)):
            first = step * self.share.whole
            start, stop = self.share.mine(min(self.share.whole, len(places) - first))
            rows = [Row(self.candidates(places, epoch, first + i)) for i in range(start, stop)]
            yield Part(rows, start, {"step": step + 1})

    def places(self, epoch: int) -> list[int]:
        """All places of the source in the order of an epoch."""
        if not self.shuffle:
            return list(range(len(self.source)))
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return torch.randperm(len(self.source), generator=generator).tolist()

    def candidates(self, places: list[int], epoch: int, position: int) -> Callable[[int], Any]:
        """The record at a position of the order, and those that may take its place."""

        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            at = position if attempt == 0 else mix(self.seed, epoch, position, attempt) % len(places)
            return places[at], lambda: self.source[places[at]]

        return candidate


class StreamOrder:
    """The order of a stream: its parts are shuffled, then blocks of records among themselves. The state names the block
    by the part and place where it begins, so that going on reads no more than the parts' headers before it."""

    def __init__(self, stream: Stream, share: Share, *, seed: int, shuffle: bool, block: int = BLOCK) -> None:
        self.stream, self.share, self.seed, self.shuffle, self.block = stream, share, seed, shuffle, block

    def batches(self, epoch: int, state: State) -> Iterator[Part]:
        """The batches of an epoch from a state on (`{}` is its beginning)."""
        step, rows = state.get("step", 0), self._rows(epoch, state)
        while taken := list(islice(rows, self.share.whole)):
            if len(taken) < self.share.whole and (self.share.drop_last or len(taken) < self.share.world_size):
                return
            start, stop = self.share.mine(len(taken))
            step += 1
            yield Part([row for row, _ in taken[start:stop]], start, {"step": step, **taken[-1][1]})

    def _rows(self, epoch: int, state: State) -> Iterator[tuple[Row, State]]:
        parts = list(range(self.stream.parts))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            parts = torch.randperm(len(parts), generator=generator).tolist()
        part, skip, number, done = (state.get(key, 0) for key in ("part", "skip", "block", "done"))
        records = self._read(parts, part, skip)
        while block := list(islice(records, self.block)):
            order = list(range(len(block)))
            if self.shuffle:
                generator = torch.Generator().manual_seed(mix(self.seed, epoch, number))
                order = torch.randperm(len(block), generator=generator).tolist()
            for i in range(done, len(block)):
                after = {"part": part, "skip": skip, "block": number, "done": i + 1}
                yield Row(self._candidates(block, order, i, mix(self.seed, epoch, number))), after
            part, skip = block[-1][0], block[-1][1] + 1
            number, done = number + 1, 0

    def _read(self, parts: list[int], part: int, skip: int) -> Iterator[tuple[int, int, int, Record]]:
        """Records with the place of their part in the order, their place in it, and their id."""
        for place in range(part, len(parts)):
            begin = skip if place == part else 0
            for i, record in enumerate(self.stream.read(parts[place], begin), start=begin):
                yield place, i, (parts[place] << 32) + i, record

    def _candidates(self, block: list[Any], order: list[int], i: int, seed: int) -> Callable[[int], Any]:
        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            at = order[i] if attempt == 0 else mix(seed, i, attempt) % len(block)
            _, _, identity, record = block[at]
            return identity, lambda: record

        return candidate
