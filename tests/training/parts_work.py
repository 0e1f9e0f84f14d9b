"""A run with a mean teacher and a clustered memory that a test stops and kills."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from killed import Shuffled
from torch import nn

from nearfar import train
from nearfar.methods.base import Method
from nearfar.methods.parts.clustered_memory import ClusteredMemory
from nearfar.methods.parts.mean_teacher import MeanTeacher
from nearfar.methods.parts.pending import Pending

STEPS = 16


class Remembering(Method):
    """A student follows its teacher, and keeps away from neighbours in the memory, as soon as that has clusters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        norm = nn.BatchNorm1d(16)
        self.student = nn.Sequential(nn.Linear(5, 16), norm, nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 6))
        self.teacher = MeanTeacher(self.student, 0.9, total_steps=STEPS)
        self.memory = ClusteredMemory(6, size=48, clusters=4)
        self.pending: Pending = Pending()

    def forward(self, batch):
        keys = self.teacher(batch["image"])
        q = F.normalize(self.student(batch["image"] + 0.1 * torch.randn_like(batch["image"])), dim=1)
        loss = (q - F.normalize(keys, dim=1)).square().sum(1).mean()
        if self.memory.clustered:
            near = self.memory.neighbours(q, 2, batch["index"])
            loss = loss + 0.1 * torch.einsum("bd,bkd->bk", q, near.features).mean()
        self.pending.after_backward(loss, (keys, batch["index"]))
        return {"loss": loss}

    def before_step(self) -> None:
        self.teacher.forget()
        self.pending.take()

    def after_step(self, step: int) -> None:
        self.teacher.update()
        for keys, index in self.pending.take():
            self.memory.push(keys, index)


def go(out: str | Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(5)
    options = {"ema": 0.9, "lr": 0.02, "save_every": 2, "progress": False, "report": False}
    train(Remembering(), Shuffled(), out=out, resume=True, steps=STEPS, **options)
