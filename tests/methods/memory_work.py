"""What one process does in the tests of the clustered memory and the mean teacher."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed
from nearfar.errors import UserError
from nearfar.methods.parts.clustered_memory import ClusteredMemory
from nearfar.methods.parts.mean_teacher import MeanTeacher


def mine(rows):
    each = len(rows) // distributed.world_size()
    return rows[distributed.rank() * each :][:each]


def fill(batches):
    """A memory of 12 in 3 clusters after these batches `[n, B, 4]`, and what it finds for the first samples."""
    memory = ClusteredMemory(4, 12, 3)
    ids = torch.arange(batches.shape[0] * batches.shape[1]).view(batches.shape[:2])
    for batch, index in zip(batches, ids, strict=True):
        memory.push(mine(batch), mine(index))
    spoilt = batches[0].clone()
    spoilt[-1, 2] = torch.inf
    try:
        memory.push(mine(spoilt), mine(ids[0]))
        said = ""
    except UserError as error:
        said = str(error)
    neighbours = memory.neighbours(batches[-1], 2, ids[-1])
    return {name: value.numpy() for name, value in memory.state_dict().items()}, neighbours.ids.numpy(), said


def teach(views):
    """A teacher after two updates, each process with its own part of the views `[n, B, 3]`."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = MeanTeacher(student, 0.5, total_steps=4)
    for view in views:
        teacher(mine(view))
        with torch.no_grad():
            student[0].weight.add_(0.5)
        teacher.update()
    return {name: value.numpy() for name, value in teacher.state_dict().items()}
