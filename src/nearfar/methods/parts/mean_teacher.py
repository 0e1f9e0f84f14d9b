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
        self._sets: tuple[_Joined, _Joined] | None = None  # the running statistics, and those of this step
        self._begun = False
        norms = [part for part in self.module.modules() if isinstance(part, _BatchNorm)]
        # Looking for them takes long.
        self._places = [
            (norm._buffers, name) for norm in norms for name, each in norm._buffers.items() if each is not None
        ]
        for norm in norms:
            norm.train(normalise == "batch")
            if statistics == "copied":
                norm.track_running_stats = False  # those of its own batches would be thrown away

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
        if not self.training:
            kept = self._running()
            new = [each.clone() for each in kept]
        else:
            old, joined = self._joined_sets()
            if not self._begun:  # of several views each goes on where the last one ended
                joined.copy_(old)
            kept, new = old.parts, joined.parts
        self._put(new)  # batch norm writes here, so that nothing is to be put right afterwards
        try:
            with torch.no_grad():
                yield self.module
            self._begun = self._begun or self.training
        finally:
            self._put(kept)

    def forget(self) -> None:
        """Drop what forward passes computed for an update that never came."""
        self._begun = False

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy towards the module, and take up the statistics.

        Raises:
            UserError: a weight of the module is NaN or infinite. The teacher then stays as it was.
        """
        self.slow.update(self.momentum, buffers=self.statistics == "copied")
        if self._begun:
            old, joined = self._joined_sets()
            old.copy_(joined)
        self._begun = False
        self.updates.add_(1)
        _mean_over_processes(self.module)

    def train(self, mode: bool = True) -> Self:
        """In training, the statistics of batches are kept for `update`; what normalises them never changes."""
        self.training = mode
        return self

    def _running(self) -> list[Any]:
        return [buffers[name] for buffers, name in self._places]

    def _put(self, statistics: list[Any]) -> None:
        """Give batch norms these tensors for those of `_running`."""
        for (buffers, name), each in zip(self._places, statistics, strict=True):
            buffers[name] = each

    def _joined_sets(self) -> tuple[_Joined, _Joined]:
        """The running statistics and those of this step. Where the buffers are others than before, as after a move to
        a device, those of this step begin anew from them."""
        running = self._running()
        if self._sets is None or any(a is not b for a, b in zip(running, self._sets[0].parts, strict=True)):
            self._sets, self._begun = (_Joined(running), _Joined(running)), False
            self._put(self._sets[0].parts)
        return self._sets


class _Joined:
    """Values that are copied in one piece: a dozen norms have three tensors each, and one by one they take long.

    Attributes: `whole`, a tensor for each type; `parts`, the values in their shapes, views of it.
    """

    def __init__(self, values: list[Tensor]) -> None:
        self.whole: list[Tensor] = []
        self.parts = list(values)
        for kind in dict.fromkeys((each.dtype, each.device) for each in values):
            places = [place for place, each in enumerate(values) if (each.dtype, each.device) == kind]
            whole = torch.cat([values[place].flatten() for place in places])
            self.whole.append(whole)
            for place, part in zip(places, whole.split([values[place].numel() for place in places]), strict=True):
                self.parts[place] = part.view_as(values[place])

    def copy_(self, other: _Joined) -> None:
        for mine, others in zip(self.whole, other.whole, strict=True):
            mine.copy_(others)


def _mean_over_processes(module: nn.Module) -> None:
    if distributed.world_size() == 1:
        return
    buffers = [value for value in module.buffers() if value.is_floating_point()]
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        means = distributed.gather_rows(flat[None]).mean(0).split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(means, buffers, strict=True)])
