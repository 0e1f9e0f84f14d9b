"""A mean teacher that averages a window of the student's latest checkpoints, which grows with training (OGEN, arXiv
2401.15914)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nearfar.errors import UserError
from nearfar.modes import evaluating


def almt_window(progress: float, m_min: int = 2, m_max: int = 9) -> int:
    """How many checkpoints before the latest one are averaged (arXiv 2401.15914):

        m_t = floor( (1 + cos(pi (1 + t))) (m_max - m_min) / 2 + m_min )

    so that a teacher of little training does not remember its beginning.

    Args:
        progress: t, the share of training that is done, from 0 to 1.
        m_min, m_max: the window at the beginning and at the end (paper: 2 and 9).

    >>> [almt_window(epoch / 10) for epoch in range(11)]
    [2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9]
    """
    t = min(max(progress, 0.0), 1.0)
    # Half a unit of rounding below a whole number is that number: cos(2 pi) is 1, and floor must say so.
    return math.floor((1 + math.cos(math.pi * (1 + t))) * (m_max - m_min) / 2 + m_min + 1e-9)


class AdaptiveLocalMeanTeacher(nn.Module):
    """The teacher T of a module: an exponential average over its last m + 1 checkpoints and no others,

        T = theta_{i-m} ;   T <- alpha T + (1 - alpha) theta_j   for j = i-m+1 ... i .

    Args:
        module: what to follow; its state is saved where it lives.
        m_min, m_max: the window at the beginning and at the end of training (paper: 2 and 9). With both alike it stays;
            with both 0 the teacher is the latest checkpoint.
        decay: alpha (not stated in the paper: 0.9 here).

    Checkpoints are a buffer, m_max + 1 copies of the module's parameters, so that training resumes with the same
    teacher. Call `push` in a method's `after_step`.

    Raises:
        UserError: a window or decay out of its range.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = AdaptiveLocalMeanTeacher(student, 3, 3, decay=0.9)
    >>> for value in range(4):
    ...     _ = nn.init.constant_(student.weight, value)
    ...     teacher.push(1.0)
    >>> round(teacher(torch.ones(1, 1)).item(), 3)
    0.561
    """

    checkpoints: Tensor
    average: Tensor
    pushed: Tensor

    def __init__(self, module: nn.Module, m_min: int = 2, m_max: int = 9, *, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 <= m_min <= m_max:
            raise UserError(f"m_min is {m_min} and m_max {m_max}: windows from 0 on, the first no larger")
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}: a share from 0 to below 1")
        self._followed = (module,)  # in a tuple, so that it does not become a child
        self.m_min, self.m_max, self.decay = m_min, m_max, decay
        flat = _flat(module)
        self.register_buffer("checkpoints", flat.new_zeros(m_max + 1, len(flat)))
        self.register_buffer("average", torch.zeros_like(flat))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def ready(self) -> bool:
        """Whether it has a checkpoint."""
        return bool(self.pushed > 0)

    @torch.no_grad()
    def push(self, progress: float) -> None:
        """Keep the module as it is now, and average anew; `progress` is the share of training that is done."""
        count, places = int(self.pushed), len(self.checkpoints)
        self.checkpoints[count % places] = _flat(self._followed[0])
        window = min(count, almt_window(progress, self.m_min, self.m_max))
        average = self.checkpoints[(count - window) % places].clone()
        for number in range(count - window + 1, count + 1):
            average.lerp_(self.checkpoints[number % places], 1 - self.decay)
        self.average.copy_(average)
        self.pushed += 1

    def forward(self, *args: Any) -> Any:
        """What the module makes of the inputs with the averaged parameters, without gradient and dropout."""
        module = self._followed[0]
        names = dict(module.named_parameters())
        parts = self.average.split([each.numel() for each in names.values()])
        own = {name: part.view_as(each) for (name, each), part in zip(names.items(), parts, strict=True)}
        with evaluating(module):
            return functional_call(module, own, args)


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in module.parameters()])
