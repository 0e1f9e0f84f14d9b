"""Validation in the middle of training, which leaves training as it found it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from nearfar import console
from nearfar import distributed as processes
from nearfar.data.batches.batch import size
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.modes import to_device
from nearfar.training.state.moving_average import MovingAverage
from nearfar.training.state.random_state import untouched

Validation = Callable[[Method], dict[str, float]] | Iterable[Batch]
"""A function of the method that returns figures, or batches to take the loss of."""


def validate(method: Method, validation: Validation, average: MovingAverage | None) -> dict[str, float]:
    """Figures of the method as it is now (with its averaged weights, if any), their names beginning with `val_`.

    Random streams, buffers (queues, statistics), the mode of each module and the weights are the same afterwards.
    """
    with at_rest(method), average.swapped_in(method) if average else nullcontext():
        figures = validation(method) if callable(validation) else mean_loss(method, validation)
    return {name if name.startswith("val_") else f"val_{name}": float(value) for name, value in figures.items()}


@torch.no_grad()
def mean_loss(method: Method, batches: Iterable[Batch]) -> dict[str, float]:
    """The mean over samples of what the method returns for each batch, over all processes."""
    device = next(method.parameters()).device
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(0)  # the same draws each time
    sums: dict[str, Any] = {}
    count = 0
    for batch in console.track(batches, "validation"):
        batch = to_device(batch, device)
        samples = size(batch)
        for name, value in method(batch).items():
            sums[name] = sums.get(name, 0) + value.detach().double() * samples
        count += samples
    # A process may have had no batch at all, and then knows no names.
    parts = processes.gather_objects(({name: float(value) for name, value in sums.items()}, count))
    total = sum(part[1] for part in parts)
    if not total:
        raise UserError("the validation data gives no batch.")
    return {name: sum(part[0].get(name, 0.0) for part in parts) / total for name in next(p[0] for p in parts if p[1])}


@contextmanager
def at_rest(method: Method) -> Iterator[None]:
    """The method in evaluation mode; its mode, its buffers and all random streams come back afterwards."""
    modes = {module: module.training for module in method.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in method.buffers()]
    with untouched():
        method.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for module, mode in modes.items():
                module.training = mode
