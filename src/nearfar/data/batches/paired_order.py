"""The order of a source whose batches are half drawn, half neighbours of what was drawn (NegCLIP's hard images)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from nearfar.data.batches.order import BatchRow, LocalBatch, OrderPlan, State, candidates, epoch_places, mix
from nearfar.data.sources.source import Record, Stream
from nearfar.errors import UserError

_NEIGHBOUR = 3  # its own stream of chance


class PairedOrder:
    """Each epoch draws every record once; a batch of 2b rows is b of them, then one neighbour of each, drawn afresh
    each epoch: `[x_1..x_b, x_j1..x_jb]`. A neighbour that cannot be used gives way to the next one.

    Args:
        neighbours: `[N, K]` places in a source of N records (`nearfar.data.mine_hard_images` finds them).

    Raises:
        UserError: on reading a stream, a source of another size, a place that is not there, an odd batch.

    >>> from nearfar.data import Loader, Records
    >>> import torch
    >>> names = Records([{"text": name} for name in "abcd"])
    >>> near = torch.tensor([[1], [0], [3], [2]])
    >>> loader = Loader(names, order=PairedOrder(near), batch_size=4, shuffle=False)
    >>> [batch["index"].tolist() for batch in loader]
    [[0, 1, 1, 0], [2, 3, 3, 2]]
    """

    def __init__(self, neighbours: Tensor) -> None:
        self.neighbours = neighbours

    def check(self, plan: OrderPlan) -> None:
        source, near = plan.source, self.neighbours
        if isinstance(source, Stream):
            raise UserError(f"{source.name} is a stream: neighbours are for data that can be read by number")
        if plan.split.global_batch_size % 2:
            count = plan.split.global_batch_size
            raise UserError(f"half of a batch are neighbours of the other half: {count} samples do not divide")
        if near.ndim != 2 or len(near) != len(source) or not near.shape[1]:
            raise UserError(
                f"neighbours {tuple(near.shape)} do not fit {source.name}: expected [{len(source)}, K], a row for each "
                "record in the source's order"
            )
        if near.numel() and not 0 <= int(near.min()) <= int(near.max()) < len(source):
            raise UserError(f"neighbours name places outside of {source.name}, which has {len(source)} records")

    def length(self, plan: OrderPlan) -> int:
        full_batches, rest = divmod(2 * len(plan.source), plan.split.global_batch_size)
        return full_batches + (not plan.split.drop_last and rest >= plan.split.world_size)

    def batches(self, plan: OrderPlan, epoch: int, state: State) -> Iterator[LocalBatch]:
        places, half = epoch_places(plan, epoch), plan.split.global_batch_size // 2
        for step in range(state.get("step", 0), self.length(plan)):
            first = step * half
            drawn = min(half, len(places) - first)
            start, stop = plan.split.local_rows(2 * drawn)
            rows = [
                BatchRow(
                    candidates(plan, places, epoch, first + i)
                    if i < drawn
                    else self._neighbour(plan, places, epoch, first + i - drawn)
                )
                for i in range(start, stop)
            ]
            yield LocalBatch(rows, start, {"step": step + 1})

    def _neighbour(self, plan: OrderPlan, places: Sequence[int], epoch: int, position: int) -> Callable[[int], Any]:
        row = self.neighbours[places[position]].tolist()
        first = mix(plan.seed, epoch, position, _NEIGHBOUR)

        def candidate(attempt: int) -> tuple[int, Callable[[], Record]]:
            if attempt < len(row):
                place = row[(first + attempt) % len(row)]
            else:
                place = places[mix(plan.seed, epoch, position, _NEIGHBOUR, attempt) % len(places)]
            return place, lambda: plan.source[place]

        return candidate
