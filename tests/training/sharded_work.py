"""What the processes do in the tests of sharded checkpoints."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import torch
from rank_work import local_part
from toy import Deep, batch

from nearfar import distributed as processes
from nearfar import train
from nearfar.training.config import TrainConfig
from nearfar.training.loop.training_loop import TrainingLoop
from nearfar.training.state import sharded_checkpoint, sharding

SETTINGS = {"ema": 0.9, "lr": 0.02, "save_every": 3, "steps": 8, "progress": False, "report": False}


class Tied(Deep):
    """With a weight that two modules share, and one that the optimiser does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.image[0]
        self.text[0].weight.requires_grad_(False)


class Stop(Exception):
    pass


class Stopped(Tied):
    def after_step(self, step):
        super().after_step(step)
        if step == 5:
            raise Stop


def data() -> list[dict]:
    return [local_part(batch(12, seed), 12) for seed in range(4)]


def begin(out: str) -> None:
    """A run that stops after its 5th step, its checkpoint being of the 3rd."""
    with contextlib.suppress(Stop):
        train(Stopped(), data(), out=out, **SETTINGS)


def killed_while_saving(out: str, when: str) -> None:
    """Rank 1 is killed in the second checkpoint, before or after it has written its parts."""
    save, calls = sharded_checkpoint.save, []

    def saving(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2 and when == "before" and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*args)
        if len(calls) == 2 and when == "after" and processes.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    sharded_checkpoint.save = saving
    train(Tied(), data(), out=out, **SETTINGS)


def go_on(out: str) -> dict[str, Any]:
    """What a resumed run begins with, and what it ends with, as whole tensors."""
    loop = TrainingLoop(Tied(), data(), Path(out), None, True, TrainConfig().with_overrides(SETTINGS))
    assert loop.state.average
    moments = loop.state.optimizer.state_dict()["state"]
    actual = {
        "split": sum(map(processes.is_split, loop.method.parameters())),
        "step": loop.state.step,
        "drawn": torch.rand(1).item(),
        "method": whole(loop.method.state_dict()),
        "average": whole(loop.state.average.average),
        "optimizer": {number: whole(values) for number, values in moments.items()},
    }
    method = loop.run().method
    return actual | {"end": whole(method.state_dict())}


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy().copy() for name, tensor in sharding.full_tensors(tensors).items()}
