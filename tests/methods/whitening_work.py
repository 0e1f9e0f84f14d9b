"""What one process does in the test of WhitenedCSE under two processes."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed
from nearfar.methods.text.whitened import WhitenedCSE
from nearfar.training.loop.gradients import backward


def steps_of_both():
    return {statistics: step_of_a_process(statistics) for statistics in ("all", "process")}


def step_of_a_process(statistics):
    """Loss, gradient of encoder and head of this process's rows, with groups as they stand; 2 processes share 16."""
    method = (
        WhitenedCSE(Fixed(), groups=3, shuffle="none", detach=False, statistics=statistics, copies=2).double().train()
    )
    method.head.load_state_dict({"0.weight": torch.eye(12) * 0.1, "0.bias": torch.zeros(12)})
    share = 16 // distributed.world_size()
    first = distributed.rank() * share
    rows = torch.randn(16, 12, generator=torch.Generator().manual_seed(0))[first : first + share].double()
    scalars = distributed.mean(backward(method, {"text": rows}, chunk=4))
    distributed.average_gradients(method.parameters())
    return {name: p.grad.tolist() for name, p in method.named_parameters() if p.grad is not None} | {
        "loss": scalars["loss"].item()
    }


class Fixed(nn.Module):
    """An encoder whose two passes differ by a fixed turn."""

    embed_dim = 12

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 12)

    def encode_text(self, rows):
        first, second = rows.chunk(2)
        return self.layer(torch.cat([first, second + 0.3 * second.roll(1, 1)]))
