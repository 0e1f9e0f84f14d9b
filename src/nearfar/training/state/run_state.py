"""What changes in a run from step to step: what a checkpoint saves, and what comes back from it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from nearfar import distributed as processes
from nearfar.methods.base import Method
from nearfar.training.config import TrainConfig
from nearfar.training.state import random_state, run_checkpoint, sharding
from nearfar.training.state.dense_average import DenseAverage
from nearfar.training.state.endless_batches import EndlessBatches
from nearfar.training.state.frozen_weights import FrozenWeights
from nearfar.training.state.moving_average import MovingAverage
from nearfar.training.state.run_checkpoint import Checkpoints


@dataclass
class RunState:
    """A run between two steps."""

    config: TrainConfig
    method: Method
    batches: EndlessBatches
    optimizer: Optimizer
    scaler: torch.amp.GradScaler | None
    average: MovingAverage | None
    step: int = 0
    """Steps done."""
    ended: int = 0
    """Epochs whose end the method has been called for."""
    best: float | None = None
    """The best monitored figure so far; of a loss, its negative."""
    best_step: int | None = None
    dense: DenseAverage | None = None
    """The average of SWAD, where the run keeps one."""
    frozen: FrozenWeights | None = None
    """What the method does not train, as it was when the run began or went on."""
    seconds: float = 0.0
    """Time spent on steps and validation, also before a resume. The writing of checkpoints is not counted: none could
    hold the time of its own writing, so a resumed run would lose it."""

    def save(self, checkpoints: Checkpoints, *, best: bool) -> None:
        """Write a checkpoint; every process calls it."""
        progress = {
            "step": self.step,
            "ended": self.ended,
            "best": self.best,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "processes": processes.world_size(),
            "learned": self._learned(),
            "config": asdict(self.config),
        }
        state = {
            "step": self.step,
            "method": self.method.state_dict(),
            "average": self.average.average if self.average else None,
            "optimizer": {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "average_updates": self.average.updates if self.average else 0,
                "dense": self.dense.state_dict() if self.dense else None,
            },
            "process": {
                "batches": self.batches.state_dict(),
                "random": random_state.state_dict(),
                "statistics": running_statistics(self.method) if processes.world_size() > 1 else {},
            },
            "progress": progress,
            "frozen": self.frozen.unchanged(self.method) if self.frozen else {},
        }
        checkpoints.save(state, best=best)

    def _learned(self) -> dict[str, float]:
        with self.average.swapped_in(self.method) if self.average else nullcontext():
            return self.method.learned()

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        like = {
            "method": self.method.state_dict(),
            "average": self.average.average if self.average else {},
            "optimizer": sharding.numbered(self.optimizer),
        }
        state: dict[str, Any] = run_checkpoint.load(checkpoint, like)
        progress = state["progress"]
        self.step, self.best, self.seconds = progress["step"], progress["best"], progress["seconds"]
        self.best_step = progress.get("best_step")
        self.method.check_state(state["method"])
        sharding.load_tensors(self.method.state_dict(), state["method"])
        for name, value in running_statistics(self.method).items():  # of this process, which are no other's
            value.copy_(state["process"].get("statistics", {}).get(name, value))
        sharding.load_optimizer_state(self.optimizer, state["optimizer"]["optimizer"])
        if self.average and state["average"] is not None:
            sharding.load_tensors(self.average.average, state["average"])
            self.average.updates = state["optimizer"]["average_updates"]
        if self.dense and state["optimizer"].get("dense"):
            self.dense.load_state_dict(state["optimizer"]["dense"], next(self.method.parameters()).device)
        if self.scaler and state["optimizer"]["scaler"]:
            self.scaler.load_state_dict(state["optimizer"]["scaler"])
        self.batches.load_state_dict(state["process"]["batches"])
        self.ended = progress.get("ended", self.batches.epoch)
        if state["process"]["random"] is None:  # of another number of processes: new streams, that depend on the step
            random_state.seed_process(self.config.seed, self.step)
        else:
            random_state.load_state_dict(state["process"]["random"])


def running_statistics(method: Method) -> dict[str, Tensor]:
    """The buffers of batch norms by their names in the method: what each process counts of its own samples."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in method.named_modules()
        if isinstance(module, _BatchNorm)
        for name, value in module.named_buffers(recurse=False)
        if not processes.is_split(value)
    }
