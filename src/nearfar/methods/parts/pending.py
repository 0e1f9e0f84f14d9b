"""What forward passes leave for after the step: only those that the step was made of."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Pending(Generic[T]):
    """Things that a step's forward passes hand to `after_step`, such as features for a queue.

    A forward pass under `no_grad`, or one whose loss is never sent back, leaves nothing: a thing is kept when the
    gradient of its loss arrives. With gradient accumulation each pass of the step leaves its own, once. A method clears
    what a step left that was not taken (the loss scaler skipped it) in `before_step`.

    >>> import torch
    >>> pending = Pending()
    >>> loss = torch.ones(1, requires_grad=True).sum()
    >>> pending.after_backward(loss, "features of the batch")
    >>> pending.take()
    []
    >>> loss.backward()
    >>> pending.take(), pending.take()
    (['features of the batch'], [])
    """

    def __init__(self) -> None:
        self._kept: list[T] = []

    def after_backward(self, loss: Tensor, thing: T) -> None:
        """Keep `thing` once `loss`, a scalar in floating point, is sent back; nothing where it has no gradient."""

        def arrived(_: Tensor) -> None:
            if not any(thing is kept for kept in self._kept):
                self._kept.append(thing)

        if loss.requires_grad:
            loss.register_hook(arrived)

    def take(self) -> list[T]:
        """What was kept, in the order of the backward passes; nothing is kept afterwards."""
        kept, self._kept = self._kept, []
        return kept
