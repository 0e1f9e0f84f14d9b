"""The order of a source whose batches are half drawn, half neighbours of what was drawn (NegCLIP's hard images)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from nearfar.data.batches.order import Part, Row, Share, SourceOrder, State, mix
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

_NEIGHBOUR = 3  # its own stream of chance


class PairedOrder:
    """Each epoch draws every record once; a batch of 2b rows is b of them, then one neighbour of each, drawn afresh
    each epoch: `[x_1..x_b, x_j1..x_jb]`. A neighbour that cannot be used gives way to the next one.

    Args:
        source: the records.
        share: how batches are divided; a whole batch must be even.
        neighbours: `[N, K]` places in the source.
        seed, shuffle: as for `SourceOrder`.

    Raises:
        UserError: a table of another shape, a place that is not there, an odd batch.
    """

    def __init__(self, source: Source, share: Share, neighbours: Tensor, *, seed: int, shuffle: bool) -> None:
        if share.whole % 2:
            raise UserError(f"half of a batch are neighbours of the other half: {share.whole} samples do not divide")
        if neighbours.ndim != 2 or len(neighbours) != len(source) or not neighbours.shape[1]:
            raise UserError(
                f"neighbours {tuple(neighbours.shape)} do not fit {source.name}: expected [{len(source)}, K], a row "
                "for each record in the source's order"
            )
        if neighbours.numel() and not 0 <= int(neighbours.min()) <= int(neighbours.max()) < len(source):
            raise UserError(f"neighbours name places outside of {source.name}, which has {len(source)} records")
        self.source, self.share, self.neighbours, self.seed = source, share, neighbours, seed
        self.drawn = SourceOrder(source, share, seed=seed, shuffle=shuffle)

    def __len__(self) -> int:
        whole, rest = divmod(2 * len(self.source), self.share.whole)
        return whole + (not self.share.drop_last and rest >= self.share.world_size)

    def batches(self, epoch: int, state: State) -> Iterator[Part]:
        """The batches of an epoch from a state on (`{}` is its beginning)."""
        places, half = self.drawn.places(epoch), self.share.whole // 2
        for step in range(state.get("step", 0), len(self)):
            first = step * half
            drawn = min(half, len(places) - first)
            start, stop = self.share.mine(2 * drawn)
            rows = [
                Row(
                    self.drawn.candidates(places, epoch, first + i)
                    if i < drawn
                    else self._neighbour(places, epoch, first + i - drawn)
                )
                for i in range(start, stop)
            ]
            yield Part(rows, start, {"step": step + 1})

    def _neighbour(self, places: list[int], epoch: int, position: int) -> Callable[[int], Any]:
        row = self.neighbours[places[position]].tolist()
        first = mix(self.seed, epoch, position, _NEIGHBOUR)

        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            if attempt < len(row):
                place = row[(first + attempt) % len(row)]
            else:
                place = places[mix(self.seed, epoch, position, _NEIGHBOUR, attempt) % len(places)]
            return place, lambda: self.source[place]

        return candidate
