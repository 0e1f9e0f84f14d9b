"""A moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """Keeps `average = decay * average + (1 - decay) * weight` of each trainable parameter of a module.

    The decay starts low, `(1 + n) / (10 + n)` after n updates, so that the first, random weights are soon forgotten.

    >>> module = nn.Linear(1, 1)
    >>> average = MovingAverage(module, 0.9)
    >>> average.update(module)
    >>> with average.swapped_in(module):
    ...     pass
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in _trainable(module)}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, p in _trainable(module):
            self.average[name].lerp_(p.detach(), weight)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights; its own come back afterwards."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def put_in(self, module: nn.Module) -> None:
        """Replace the module's weights by the averaged ones."""
        for name, p in _trainable(module):
            p.copy_(self.average[name])

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        for name, p in _trainable(module):
            own = p.detach().clone()
            p.copy_(self.average[name])
            self.average[name].copy_(own)


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)
