"""What one process does in the test of the queue's processes."""

from __future__ import annotations

import torch
from torch import distributed as dist

from nearfar.models import FeatureQueue


def push(features, ids):
    torch.manual_seed(0)
    queue = FeatureQueue(dim=features.shape[1], size=8)
    rank, each = dist.get_rank(), len(features) // dist.get_world_size()
    mine = slice(rank * each, (rank + 1) * each)
    queue.push(features[mine], ids[mine])
    return {name: value.numpy() for name, value in queue.state_dict().items()}
