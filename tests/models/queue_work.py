"""What one process does in the test of the queue's processes."""

from __future__ import annotations

import torch
from torch import distributed as dist

from nearfar.models import FeatureQueue


def push(features, ids, counts):
    torch.manual_seed(0)
    queue = FeatureQueue(dim=features.shape[1], size=8)
    first = sum(counts[: dist.get_rank()])
    mine = slice(first, first + counts[dist.get_rank()])
    queue.push(features[mine], ids[mine])
    return {name: value.numpy() for name, value in queue.state_dict().items()}
