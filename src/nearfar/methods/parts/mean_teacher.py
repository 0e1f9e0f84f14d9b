"""The mean teacher: a slow copy of a network with batch norm, as BYOL (arXiv 2006.07733), PixPro (arXiv 2011.10043) and
BECLR (arXiv 2402.02444) keep it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import distributed
from nearfar.errors import UserError
from nearfar.methods.parts.momentum_encoder import MomentumEncoder

Normalise = Literal["batch", "running"]
Statistics = Literal["own", "copied"]


def cosine_momentum(step: int, total: int, base: float) -> float:
    """The old share that rises from `base` to 1 along half a cosine: 1 - (1 - base) (cos(pi step / total) + 1) / 2.

    >>> [round(cosine_momentum(step, 4, 0.99), 6) for step in range(6)]
    [0.99, 0.991464, 0.995, 0.998536, 1.0, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * min(step, total) / total) + 1) / 2


class MeanTeacher(nn.Module):
    """A `MomentumEncoder` for networks with batch norm, whose momentum may rise to 1.

    Its dropout is off. What batch norm does is named, since methods differ in it, and `train()` of the method around
    it does not change it. Views go through it one by one, each normalised by its own batch: concatenated, they would
    share statistics, and the result is another.

    Args:
        module: what to follow; its state is saved where it lives.
        momentum: the old share at the first update, in [0, 1]; 0.99 in PixPro, 0.995 in BECLR.
        total_steps: where given, the share rises to 1 in so many updates, by `cosine_momentum`. The count of updates
            is a buffer, so that it goes on after a resume.
        normalise: "batch" normalises keys by the statistics of their own batch, as BYOL, MoCo and PixPro do;
            "running" by the running ones.
        statistics: the running statistics are the teacher's "own", of its batches (PixPro and BECLR), or "copied" from
            the module at each update. Only with normalise="batch" has it some of its own.

    Call `update()` once a step, in `after_step`, and `forget()` in `before_step`: what a forward pass finds of the
    batch's statistics waits until then, and a pass in evaluation leaves nothing. With several processes, running
    statistics are the mean over all of them, so that every process has the same teacher.

    >>> network = nn.BatchNorm1d(1, affine=False)
    >>> teacher = MeanTeacher(network, statistics="own")
    >>> teacher(torch.tensor([[10.0], [14.0]])).flatten().round(decimals=4)
    tensor([-1.,  1.])
    >>> teacher.module.running_mean.item()
    0.0
    >>> teacher.update()
    >>> round(teacher.module.running_mean.item(), 4)
    1.2
    """

    updates: Tensor

    def __init__(
        self,
        module: nn.Module,
        momentum: float = 0.99,
        *,
        total_steps: int | None = None,
        normalise: Normalise = "batch",
        statistics: Statistics = "own",
    ) -> None:
        super().__init__()
        if normalise not in ("batch", "running") or statistics not in ("own", "copied"):
            raise UserError(
                f"normalise={normalise!r}, statistics={statistics!r}: choose batch or running, own or copied"
            )
        if normalise == "running" and statistics == "own":
            raise UserError("normalise='running' sees no statistics of its own: say statistics='copied'")
        if total_steps is not None and total_steps < 1:
            raise UserError(f"total_steps={total_steps}: at least 1, or None for a momentum that stays")
        self.slow = MomentumEncoder(module, momentum)
        self.total_steps, self.normalise, self.statistics = total_steps, normalise, statistics
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._new_statistics: list[Tensor] | None = None
        norms = [part for part in self.module.modules() if isinstance(part, _BatchNorm)]
        for norm in norms:
            norm.train(normalise == "batch")
            if statistics == "copied":
                norm.track_running_stats = False  # those of its own batches would be thrown away
        self._norms = (norms,)  # in a tuple, so that they do not become children: looking for them takes long

    @property
    def module(self) -> Any:
        """The slow copy."""
        return self.slow.module

    @property
    def momentum(self) -> float:
        """The old share at the next update."""
        if self.total_steps is None:
            return self.slow.momentum
        return cosine_momentum(int(self.updates), self.total_steps, self.slow.momentum)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the slow copy makes of one view, without gradient."""
        with self.teaching() as module:
            return module(*args, **kwargs)

    @contextmanager
    def teaching(self) -> Iterator[Any]:
        """The slow copy, for its other methods than `forward`; its running statistics are as before afterwards."""
        if self.statistics == "copied":
            with torch.no_grad():
                yield self.module
            return
        kept, begun = self._running(), self._new_statistics if self.training else None
        new = [value.clone() for value in (begun or kept)]  # of several views each goes on where the last one ended
        self._put(new)  # batch norm writes here, so that nothing is to be put right afterwards
        try:
            with torch.no_grad():
                yield self.module
            if self.training:
                self._new_statistics = new
        finally:
            self._put(kept)

    def forget(self) -> None:
        """Drop what forward passes computed for an update that never came."""
        self._new_statistics = None

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy towards the module, and take up the statistics.

        Raises:
            UserError: a weight of the module is NaN or infinite. The teacher then stays as it was.
        """
        self.slow.update(self.momentum, buffers=self.statistics == "copied")
        if self._new_statistics is not None:
            self._put(self._new_statistics)
        self._new_statistics = None
        self.updates.add_(1)
        _mean_over_processes(self.module)

    def train(self, mode: bool = True) -> Self:
        """In training, the statistics of batches are kept for `update`; what normalises them never changes."""
        self.training = mode
        return self

    def _running(self) -> list[Tensor]:
        return [buffer for norm in self._norms[0] for buffer in norm._buffers.values() if buffer is not None]

    def _put(self, statistics: list[Tensor]) -> None:
        """Give batch norms these tensors for those of `_running`."""
        left = iter(statistics)
        for norm in self._norms[0]:
            norm._buffers.update({name: next(left) for name, each in norm._buffers.items() if each is not None})


def _mean_over_processes(module: nn.Module) -> None:
    if distributed.world_size() == 1:
        return
    buffers = [value for value in module.buffers() if value.is_floating_point()]
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        means = distributed.gather_rows(flat[None]).mean(0).split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(means, buffers, strict=True)])
