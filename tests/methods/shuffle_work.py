"""What one process does in the tests of MoCo under two processes."""

from __future__ import annotations

import torch

from methods.image_batches import batch, encoder
from nearfar import distributed as processes
from nearfar import train
from nearfar.methods import MoCo
from nearfar.methods.parts.shuffled_keys import shuffled


def mine(rows: torch.Tensor, axis: int = 0) -> torch.Tensor:
    return rows.chunk(processes.world_size(), axis)[processes.rank()]


def shuffle(pixels, counts, seed):
    """Keys of this process's part by an encoder that changes nothing, and by one that takes off its batch's mean."""
    part = pixels.split(counts)[processes.rank()]
    return shuffled(lambda x: x, part, seed).numpy(), shuffled(lambda x: x - x.mean(0), part, seed).numpy()


class Stop(Exception):
    pass


def trained(out, stop):
    """Train four steps on global batches of 4; with `stop`, stop there and go on. The method's final state."""
    whole = [batch(4, seed=i, first=4 * i) for i in range(4)]
    data = [{"views": mine(each["views"], 1), "index": mine(each["index"])} for each in whole]
    common = {"steps": 4, "progress": False, "report": False, "lr": 1e-3, "save_every": 1, "warmup": 0}
    method = MoCo(encoder(), queue_size=12, momentum=0.9)
    if stop:
        original = type(method).after_step

        def after_step(step: int) -> None:
            original(method, step)
            if step == stop:
                raise Stop

        method.after_step = after_step
        try:
            train(method, data, out=out, **common)
        except Stop:
            method = MoCo(encoder(), queue_size=12, momentum=0.9)
    run = train(method, data, out=out, resume=bool(stop), **common)
    return {key: value.numpy() for key, value in run.method.state_dict().items()}
