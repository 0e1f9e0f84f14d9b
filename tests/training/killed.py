"""A run that the tests of resuming stop and kill."""

from __future__ import annotations

from pathlib import Path

import torch
from toy import Pairs, batch

from nearfar import train


class Shuffled:
    """Batches in an order that depends on the epoch, with a place that can be saved."""

    def __init__(self) -> None:
        self.epoch = self.place = 0

    def __len__(self) -> int:
        return 5

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.place = epoch, 0

    def __iter__(self):
        order = torch.randperm(5, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.place < 5:
            self.place += 1
            yield batch(12, order[self.place - 1])

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.place = state["epoch"], state["place"]


def go(out: str | Path, steps: int, **options):
    """Everything that has a state is on: dropout, EMA, chunks, validation, buffers, the order of the data."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    method = Pairs(dropout=0.3, width=int(options.pop("width", 6)))
    return train(
        method,
        Shuffled(),
        out=out,
        resume=True,
        steps=steps,
        validation=[batch(12, 9)],
        chunk=5,
        ema=0.9,
        lr=0.02,
        log_every=1,
        eval_every=3,
        save_every=2,
        report=False,
        **options,
    )
