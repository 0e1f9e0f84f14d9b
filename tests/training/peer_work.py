"""What the ranks do in the tests of a rank that is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from rank_work import local_part
from toy import Pairs, batch

from nearfar import distributed as processes
from nearfar import train
from nearfar.errors import UserError
from nearfar.training.loop import peers

AT = 3


def train_and_lose(out: str, lost: int, how: str) -> None:
    """Train until rank `lost` ends in step `AT`, and write what the others say beside `out`."""
    if how == "is killed while another computes":
        peers.GRACE = 1.0

    class Lost(Pairs):
        def after_step(self, step):
            super().after_step(step)
            if step != AT:
                return
            if processes.rank() == lost:
                if how == "raises":
                    raise LookupError("a word\nand more")
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "is killed while another computes":
                time.sleep(100)

    world = processes.world_size()
    data = [local_part(batch(12, seed), 12) for seed in range(4)]
    try:
        train(Lost(), data, out=out, steps=8, save_every=2, progress=False, report=False)
    except (UserError, LookupError) as error:
        Path(f"{out}-{processes.rank()}-of-{world}").write_text(f"{type(error).__name__}: {error}")


def train_in_turn(out: str) -> str:
    """What a run of two ranks says of a folder that is taken."""
    try:
        train(Pairs(), [local_part(batch(12), 12)], out=out, steps=1, progress=False, report=False)
    except UserError as error:
        return str(error)
    return ""
