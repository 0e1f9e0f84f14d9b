"""The momentum encoder: a slow copy of a module that gives stable keys and soft targets."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.methods.base import all_parameters


class MomentumEncoder(nn.Module):
    """An exponential moving average of `module`: `theta_m <- m theta_m + (1 - m) theta` at each `update()`.

    The copy takes no gradient and is always in evaluation mode, whatever `train()` says: its targets carry no dropout
    noise. (ALBEF's released code leaves the copy's dropout on.) Call `update()` once a step, from a method's
    `after_step`, never inside `forward`: an evaluation or a second forward must not move the teacher.

    Args:
        module: what to follow. It is not made part of this module: its state is saved where it lives.
        momentum: the old share kept at each update, in [0, 1]; 0.995 in ALBEF, 0.999 in MoCo. 1 keeps the copy as it
            is, 0 copies.

    Buffers that hold floating-point numbers (batch-norm statistics) are copied, not averaged: they are averages
    already. The state dict holds the copy, so that training resumes with the same teacher.

    >>> student = nn.Linear(1, 1, bias=False)
    >>> teacher = MomentumEncoder(student, momentum=0.75)
    >>> with torch.no_grad():
    ...     _ = student.weight.fill_(1.0), teacher.module.weight.fill_(0.0)
    >>> teacher.update()
    >>> teacher(torch.ones(1, 1)).item()
    0.25
    """

    def __init__(self, module: nn.Module, momentum: float = 0.995) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise UserError(f"momentum={momentum}: a share in [0, 1], such as 0.995")
        self.momentum = momentum
        self._online = (module,)  # in a tuple, so that it does not become a child
        self.module: Any = deepcopy(module).requires_grad_(False)
        self.eval()

    @property
    def followed(self) -> nn.Module:
        """The module that the copy follows."""
        return self._online[0]

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the slow copy makes of the input. For its other methods, use `.module` under `torch.no_grad()`."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, momentum: float | None = None, *, buffers: bool = True) -> None:
        """Move the copy towards the module; `momentum` goes before the one set, for schedules. `buffers=False` leaves
        the copy's buffers to itself.

        Raises:
            UserError: a weight of the module is NaN or infinite, or there are more or fewer than in the copy. The copy
                then stays as it was.
        """
        online, share = self.followed, self.momentum if momentum is None else momentum
        slow: list[Tensor] = list(all_parameters(self.module))
        fast: list[Tensor] = list(all_parameters(online))
        if len(slow) != len(fast):
            raise UserError(
                f"the module has {len(fast)} parameters and its momentum copy {len(slow)}: add adapters or heads "
                "first, then make the MomentumEncoder"
            )
        _require_finite(fast, online)
        if slow:
            torch._foreach_lerp_(slow, fast, 1.0 - share)
        if buffers:
            copies, originals = list(self.module.buffers()), list(online.buffers())
            if copies:
                torch._foreach_copy_(copies, originals)

    def reset(self) -> None:
        """Make the copy equal to the module again."""
        self.update(momentum=0.0)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def _require_finite(weights: list[Tensor], module: nn.Module) -> None:
    # A norm shows every NaN and infinity, in a tenth of the time of isfinite; finite weights may overflow it, so it
    # only says whether to look. Vectors are many and short: together they take as long as one.
    vectors = [weight for weight in weights if weight.ndim == 1]
    large = [weight for weight in weights if weight.ndim != 1]
    if vectors:
        large.append(torch.cat(vectors))
    if not large or math.isfinite(torch.stack(torch._foreach_norm(large)).sum()):
        return
    for name, weight in module.named_parameters():
        if not bool(weight.isfinite().all()):
            raise UserError(
                f"the weight {name} is NaN or infinite, and would stay in the teacher: lower the learning rate, or go "
                "back to an earlier checkpoint"
            )
