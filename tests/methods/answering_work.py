"""What one process does in the test of answering under two processes."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed as processes
from nearfar import train
from nearfar.data.batches.batch import rows
from nearfar.methods.image_text.answering import Answering
from nearfar.models import load

TEXTS = ["a red car", "two small dogs", "the old house", "a boat at sea"]
ANSWERS = ["red", "two dogs", "", "sea", "", "", "house", "tree", "a boat", "tall", "", ""]
WEIGHTS = [[0.75, 0.25, 0.0], [1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]


def trained(folder: str) -> dict:
    """Two steps on this process's half of global batches of 4, without dropout: the method's final state."""
    model = load(folder)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for cross in model.text.cross:
        cross.dropout = 0.0
    method = Answering(model, momentum=0.5, ramp_steps=2)
    share = 4 // processes.world_size()
    first = processes.rank() * share
    data = []
    for step in range(2):
        pictures = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        whole = {
            "index": torch.arange(4),
            "image": pictures,
            "text": model.tokenize(TEXTS),
            "answers": model.tokenize(ANSWERS),
            "answer_weight": torch.tensor(WEIGHTS).roll(step, 0),
        }
        data.append(rows(whole, first, first + share, 4))
    # With Adam's usual eps a gradient that is zero but for rounding still moves its weight.
    run = train(method, data, steps=2, lr=1e-2, eps=1e-3, warmup=0, progress=False, report=False)
    return {key: value.numpy() for key, value in run.method.state_dict().items()}
