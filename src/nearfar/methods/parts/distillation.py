"""Momentum distillation (ALBEF, arXiv 2107.07651): a slow copy of the model has a share alpha of the targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.methods.parts.momentum_encoder import MomentumEncoder


class Distillation(nn.Module):
    """The teacher, and how much it is believed.

    Args:
        model: the student.
        momentum: m of `theta_m <- m theta_m + (1 - m) theta`.
        alpha: the teacher's share of the targets.
        ramp_steps: steps over which alpha grows linearly from 0 (paper: the first epoch).

    Raises UserError where alpha is no share.
    """

    steps: Tensor

    def __init__(self, model: Any, *, momentum: float = 0.995, alpha: float = 0.4, ramp_steps: int = 0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is a share in [0, 1], got {alpha}")
        self.teacher = MomentumEncoder(model, momentum)
        self.alpha, self.ramp_steps = alpha, ramp_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def alpha_now(self) -> float:
        """alpha at this step of the ramp."""
        return self.alpha * min(1.0, int(self.steps) / self.ramp_steps) if self.ramp_steps else self.alpha

    def after_step(self) -> None:
        """Move the teacher, count the step."""
        self.teacher.update()
        self.steps += 1
